"""Shell: what the verbs of the controller's socket work with: the pool's home, its journal as read so far, the broker."""

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from hotpool.admin import Admin
from hotpool.config import Config
from hotpool.errors import BrokerUnreachable
from hotpool.evidence import Counts
from hotpool.home import Home
from hotpool.messages import Report

from .jobs import Jobs
from .journal import Journal
from .ledger import Ledger, replay
from .rollout_metrics import malformed_counter

BROKER_AGAIN_S = 0.5

T = TypeVar("T")


class Desk:
    """For one thread."""

    def __init__(self, home: Home, config: Config, jobs: Jobs) -> None:
        self.home, self.config, self.jobs = home, config, jobs
        self.malformed = malformed_counter()
        self._admin = Admin(home.endpoint("admin"))
        self._silence, self._ask_again_at = "", 0.0
        self._ledger = Ledger()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admin.close()

    @property
    def model(self) -> str:
        return self.config.pool.model

    def journal(self) -> Journal:
        """For one call, which closes it: what was wrong with the file once may be over."""
        return Journal(self.home.database)

    def ledger(self) -> Ledger:
        """As of now. Each event is read once."""
        with self.journal() as journal:
            self._ledger = replay(journal.events(after=self._ledger.seq), monotonic(), self._ledger)
        return self._ledger

    def report(self, timeout_s: float) -> Report:
        """Raises BrokerUnreachable: at once where the last question had no answer a moment ago, because callers are served one
        after the other."""
        return self._patiently(lambda: self._admin.report(timeout_s))

    def evidence(self, model: str, timeout_s: float) -> Counts | None:
        """Raises like `report`."""
        return self._patiently(lambda: self._admin.evidence(model, timeout_s))

    def _patiently(self, ask: Callable[[], T]) -> T:
        if monotonic() < self._ask_again_at:
            raise BrokerUnreachable(self._silence)
        try:
            return ask()
        except BrokerUnreachable as error:
            self._silence, self._ask_again_at = str(error), monotonic() + BROKER_AGAIN_S
            raise
