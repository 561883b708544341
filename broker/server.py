"""Shell: sockets, the poll loop, and doing what the core says.

One thread and a poll: asyncio doubles the cost of a request here, and a second thread would cost up to 5 ms each time it takes
the interpreter lock.
"""

import contextlib
import gc
import logging
import os
import secrets
import select
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from hotpool.config import Config
from hotpool.errors import RemoteProtocolError
from hotpool.home import Home
from hotpool.lookout import NEVER, wait
from hotpool.messages import Changed, Message, Watch
from hotpool.router import Connection, Router, raise_file_limit
from hotpool.stable import read_stable
from hotpool.wire import Decoder, encode, from_admin, from_client, from_worker

from .actions import Action, ExamineSilence, Payload, ToClient, ToWorker, WatchProcess
from .core import Core, Settings
from .dispatch import Limits
from .rehearsal import Rehearsal

log = logging.getLogger("hotpool.broker")

T = TypeVar("T")

# How many messages one socket may deliver before the others have their turn. Answers free workers, so they go first.
WORKER_BUDGET, CLIENT_BUDGET, ADMIN_BUDGET = 256, 64, 16
ADMIN_MAX_BYTES = 64 * 1024
RESULT_MAX_BYTES = 16 * 1024 * 1024  # logits of 256 inputs and 16,000 classes
HEADER_SLACK_BYTES = 64 * 1024
PIDFD_THREAD = os.O_EXCL  # Linux 6.9; Python has no name for it


def core_settings(home: Home, config: Config) -> Settings:
    """What the core needs of the configuration, what is stable now, and a random name for this process."""
    dispatch, pool = config.dispatch, config.pool
    limits = Limits(
        dispatch.queue_max_requests, dispatch.queue_max_bytes, pool.max_batch, dispatch.max_attempts, dispatch.lease_s
    )
    return Settings(
        secrets.randbits(48), pool.model, _stable_versions(home), dispatch.heartbeat_s, config.rollout.load_timeout_s,
        config.pictures.max_bytes, limits,
    )  # fmt: skip


def _stable_versions(home: Home) -> dict[str, str]:
    """By model, of all that have one. Read once: from the controller's first word on its table is the rule."""
    found = {}
    for model in [path.parent.name for path in home.root.glob("models/*/stable")]:
        try:
            found[model] = read_stable(home, model) or ""
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the stable version of model %s can't be read: %s", model, error)
            found[model] = ""
    return found


class Server:
    """The broker's process. `run` returns after `stop`."""

    def __init__(self, home: Home, config: Config) -> None:
        raise_file_limit()
        self._core = Core(core_settings(home, config), monotonic())
        self._rehearsal = Rehearsal(monotonic())
        max_bytes = config.pictures.max_bytes + HEADER_SLACK_BYTES
        self._clients = Router(home.endpoint("clients"), max_bytes=max_bytes, high_water=1000)
        self._workers = Router(
            home.endpoint("workers"), max_bytes=RESULT_MAX_BYTES, high_water=2 * config.pool.max_batch + 16
        )
        self._admin = Router(home.endpoint("admin"), max_bytes=ADMIN_MAX_BYTES, high_water=1000)
        self._watchers: set[bytes] = set()
        self._processes: dict[int, int] = {}  # pidfd of a process or of a thread of it -> pid
        self._wakeup, self._waker = socket.socketpair()
        self._ends: select.epoll | None = None  # macOS has none
        if hasattr(os, "pidfd_open"):  # Linux: one descriptor for all, or each turn would cost more with each worker
            self._ends = select.epoll()
        self._poller = select.poll()
        # In this order: what is said of workers, then whose process has ended, then what clients want of those that are left.
        self._readers: dict[int, Callable[[], None]] = {
            self._admin.fileno(): self._read_admin,
            self._workers.fileno(): self._read_workers,
        }
        if self._ends is not None:
            self._readers[self._ends.fileno()] = partial(self._reap, self._ends)
        self._readers[self._clients.fileno()] = self._read_clients
        for polled in (self._wakeup.fileno(), *self._readers):
            self._poller.register(polled, select.POLLIN)
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Safe in a signal handler: only sets a flag; the handler's wake-up byte ends the poll."""
        self._stopping = True

    def run(self) -> None:
        """Poll, decode, ask the core, do what it says."""
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        gc.freeze()  # what lives from here to the end need not be scanned again
        while not self._stopping:
            ready = self._wait()
            for readable, read in self._readers.items():
                if readable in ready:
                    read()
            self._do(self._core.tick(monotonic()))
            for changed in self._core.take_changes(monotonic()):
                self._announce(changed)

    def close(self) -> None:
        for pidfd in self._processes:
            os.close(pidfd)
        if self._ends is not None:
            self._ends.close()
        for router in (self._clients, self._workers, self._admin):
            router.close()
        signal.set_wakeup_fd(-1)
        for end in (self._wakeup, self._waker):
            end.close()

    # ---- reading

    def _wait(self) -> set[int]:
        """The descriptors of those that have something to read, as soon as there is one, or a timer is due."""
        if not (self._workers.has_input or self._clients.has_input or self._admin.has_input):
            awake = self._core.dispatch.next_answer() or NEVER
            return wait(self._poller, self._core.next_tick(), awake, self._rehearsal.run)
        left_over = {router.fileno() for router in (self._clients, self._workers, self._admin) if router.has_input}
        return left_over | wait(self._poller, monotonic())

    def _read_clients(self) -> None:
        for connection, message, payload in self._arrived("clients", self._clients, from_client, CLIENT_BUDGET):
            self._do(self._core.from_client(connection, message, payload, monotonic()))

    def _read_workers(self) -> None:
        for connection, message, payload in self._arrived("workers", self._workers, from_worker, WORKER_BUDGET):
            self._do(self._core.from_worker(connection, message, payload, monotonic()))

    def _read_admin(self) -> None:
        for connection, message, _payload in self._arrived("admin", self._admin, from_admin, ADMIN_BUDGET):
            if isinstance(message, Watch):
                self._watchers.add(connection)
            reply, actions = self._core.from_admin(message, monotonic())
            _send(self._admin, connection, reply, None)
            self._do(actions)

    def _arrived(
        self, name: str, router: Router, decoder: Decoder[T], most: int
    ) -> Iterator[tuple[Connection, T, bytes | None]]:
        """What is here: who sent it, the message and its payload."""
        for connection, frames in router.receive(most):
            try:
                message, payload = decoder.decode(frames)
            except RemoteProtocolError as error:
                # Any bytes may come: they are counted and dropped. Logged at debug, or a stranger could fill the disk.
                self._core.metrics.malformed[(name,)] += 1
                log.debug("dropped socket=%s reason=%s", name, error)
            else:
                yield connection, message, payload
        for reason in router.take_refusals():
            self._core.metrics.malformed[(name,)] += 1
            log.debug("hung_up socket=%s reason=%s", name, reason)

    def _reap(self, ends: "select.epoll") -> None:
        for pid in {self._processes[pidfd] for pidfd, _ in ends.poll(0)}:
            for pidfd in [pidfd for pidfd, of in self._processes.items() if of == pid]:
                os.close(pidfd)  # and it is watched no more
                del self._processes[pidfd]
            self._do(self._core.process_ended(pid, monotonic()))

    # ---- doing

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToWorker(connection, message, payload):
                    if not _send(self._workers, connection, message, payload):
                        self._do(self._core.worker_gone(connection, monotonic()))
                case ToClient(connection, message, payload):
                    if not _send(self._clients, connection, message, payload):
                        self._core.metrics.undeliverable[()] += 1
                        self._core.client_gone(connection)
                    elif not self._core.dispatch.n_pending:
                        os.sched_yield()  # to the caller, who may wait for this very core
                case WatchProcess(pid, pulse_thread):
                    self._watch(pid, pulse_thread)
                case ExamineSilence(worker, pid, pulse_thread):
                    self._core.examined(worker, is_runnable=can_run(pid, pulse_thread))

    def _watch(self, pid: int, pulse_thread: int) -> None:
        """A killed process is told of when its memory is taken down, 10 to 20 ms later where libraries are large. The last
        of its threads does that; the others are told of at once. So the main thread and one other are as good as all."""
        if self._ends is None or pid in self._processes.values():
            return  # macOS: the supervisor tells, a little later; or a new session of a process that is watched already
        for id, flags in [(pid, 0), (pid, PIDFD_THREAD), (pulse_thread, PIDFD_THREAD)]:
            # Gone already, not of this host, not told of, or a kernel that tells only of processes: silence will tell.
            with contextlib.suppress(OSError, OverflowError):
                pidfd = os.pidfd_open(id, flags)
                self._processes[pidfd] = pid
                self._ends.register(pidfd, select.EPOLLIN)

    def _announce(self, changed: Changed) -> None:
        log.info(
            "worker=%s state=%s before=%s cause=%s version=%s ready=%d",
            changed.worker, changed.after, changed.before, changed.cause.replace(" ", "_"), changed.version, changed.ready,
        )  # fmt: skip
        self._watchers = {watcher for watcher in self._watchers if _send(self._admin, watcher, changed, None)}


def can_run(pid: int, thread: int) -> bool:
    """Whether this thread of a local process could run now. One that has nearly nothing to do, and is found so again and again,
    waits for the processor (docs/performance.md, "Who gets no processor")."""
    try:
        stat = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes()
    except OSError:
        return False  # gone, not of this host, or not Linux
    return stat.rpartition(b")")[2].split()[0] == b"R"


def _send(router: Router, connection: Connection, message: Message, payload: Payload | None) -> bool:
    """False when the peer is gone or does not read."""
    header = encode(message)
    return router.send(connection, (header,) if payload is None else (header, payload))
