"""Shell: the controller's socket, in a thread of its own: however long a look takes, the controller's steps do not wait."""

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event

from hotpool.config import Config
from hotpool.errors import RemoteProtocolError
from hotpool.home import Home
from hotpool.router import Router, raise_file_limit
from hotpool.wire import MAX_ASK_BYTES, encode, to_control

from .desk import Desk
from .jobs import Jobs
from .verbs import answer

_LOOK_S = 0.1  # how often `stopping` is looked at
_HIGH_WATER = 100  # answers that wait for one caller
# After each of its many short waits the controller's thread gets the interpreter back within this. With the usual 5 ms a
# rollout of 0.1 s took up to 9 s beside a look that computed all the time; with this up to 2 s.
_SWITCH_S = 0.0005

log = logging.getLogger("hotpool.control")


@contextmanager
def open_desk(home: Home, config: Config, stopping: Event) -> Iterator[None]:
    """Answers until the block ends or `stopping` is set, and sets it then. Whoever opens one holds the home's control lock."""
    raise_file_limit()
    sys.setswitchinterval(_SWITCH_S)
    with (
        closing(Router(home.endpoint("control"), max_bytes=MAX_ASK_BYTES, high_water=_HIGH_WATER)) as router,
        closing(Jobs(stopping)) as jobs,
        ThreadPoolExecutor(1, "hotpool-desk") as thread,
    ):
        served = thread.submit(_serve, router, home, config, jobs, stopping)
        # A desk that has ended by a bug would be deaf for ever: the process ends with it and is started again.
        served.add_done_callback(lambda _: stopping.set())
        try:
            yield
        finally:
            stopping.set()
        served.result()


def _serve(router: Router, home: Home, config: Config, jobs: Jobs, stopping: Event) -> None:
    with Desk(home, config, jobs) as desk:
        while not stopping.is_set():
            router.wait(_LOOK_S)
            for connection, frames in router.receive(1):
                try:
                    ask, _ = to_control.decode(frames)
                except RemoteProtocolError as error:
                    desk.malformed[()] += 1
                    log.debug("dropped socket=control reason=%s", error)
                else:
                    router.send(connection, [encode(answer(desk, ask))])
            for reason in router.take_refusals():
                desk.malformed[()] += 1
                log.debug("hung_up socket=control reason=%s", reason)
