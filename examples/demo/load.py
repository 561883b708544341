"""Shell: callers in threads, and the count of what they got. Each answer is checked against the version that it names."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic

from hotpool import Client, HotpoolError, Prediction


@dataclass
class Tally:
    """What the callers saw. wrong: answers of a version that may not serve, or that this version does not give."""

    sent: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    by_version: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    slowest_s: float = 0.0

    @property
    def lost(self) -> int:
        return self.sent - self.answered - self.errors.total()


class Load:
    """Threads that classify one picture after another until told to stop.

    expected: for each version that may serve, the classes it may give each picture (`expected.expected_classes`).
    """

    def __init__(
        self, endpoint: str, pictures: list[Path], n_threads: int, expected: dict[str, dict[Path, frozenset[str]]]
    ) -> None:
        self._pictures, self._expected = pictures, expected
        self._client = Client(endpoint)
        self._numbers = count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.tally = Tally()
        self._threads = [threading.Thread(target=self._ask, name=f"caller-{i}") for i in range(n_threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def wait_for(self, n_answers: int) -> None:
        """Returns when so many more requests have been answered."""
        goal = self.tally.answered + n_answers
        while self.tally.answered < goal and not self.tally.errors:
            self._stop.wait(0.02)

    def _ask(self) -> None:
        while not self._stop.is_set():
            picture = self._pictures[next(self._numbers) % len(self._pictures)]
            with self._lock:
                self.tally.sent += 1
            begin = monotonic()
            try:
                prediction = self._client.classify(picture)
            except HotpoolError as error:
                with self._lock:
                    self.tally.errors[error.code] += 1
                continue
            with self._lock:
                self._count(picture, prediction, monotonic() - begin)

    def _count(self, picture: Path, prediction: Prediction, seconds: float) -> None:
        tally = self.tally
        tally.answered += 1
        tally.by_version[prediction.version] += 1
        tally.retried += prediction.attempt > 1
        tally.slowest_s = max(tally.slowest_s, seconds)
        if prediction.label not in self._expected.get(prediction.version, {}).get(picture, ()):
            tally.wrong[prediction.version] += 1
