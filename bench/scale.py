"""Shell: whether a request costs the broker more when there is more of everything: CPU time from socket to socket through the
real core, with 64 workers and 10,000 queued requests, beside 2 workers and an empty queue, in turn, in one run.

    python -m bench scale
"""

import gc
import selectors
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from tempfile import TemporaryDirectory
from time import monotonic, process_time
from typing import cast

from broker.actions import Action, ToClient, ToWorker
from broker.core import Core, Settings
from broker.dispatch import Limits
from hotpool.dealer import Dealer
from hotpool.messages import PROTOCOL, ClientHello, Done, Job, Message, Reply, Request, Result, Work, WorkerHello
from hotpool.router import Router
from hotpool.wire import encode, encode_body, from_client, from_worker, to_client, to_worker

from .figures import Bar, Figure, Findings, ratios

MODEL = "noop"
MOST = 1.3
ROUNDS, REQUESTS = 7, 4000
SMALL, LARGE, COLUMN = "2 workers, empty queue", "64 workers, 10,000 queued", "CPU time a request"
PAYLOAD_BYTES = 10_240
TURN = 2  # messages of each kind in one turn of the broker's loop; as many as the smaller side has workers
READ = 64
WORK = encode_body(Work("pixels", 3, (58, 59, 3)))
RESULT = encode_body(Result(tuple((index, f"class-{index}", 0.1) for index in range(3))))


class Wire:
    """The broker's router for clients or for workers, and those."""

    def __init__(self, stack: ExitStack, path: str, n_peers: int) -> None:
        self.router = stack.enter_context(closing(Router(f"ipc://{path}", max_bytes=1 << 20, high_water=1 << 20)))
        self.peers = [stack.enter_context(closing(Dealer(f"ipc://{path}"))) for _ in range(n_peers)]
        self._selector = stack.enter_context(closing(selectors.DefaultSelector()))
        for peer in self.peers:
            self._selector.register(peer, selectors.EVENT_READ)

    def hear(self) -> Iterator[tuple[Dealer, list[bytes]]]:
        """What was sent to the peers. Only those are looked at who got something: real ones look on cores of their own, and to
        go through all 64 here would take the broker's caches from it."""
        for key, _ in self._selector.select(0):
            peer = cast(Dealer, key.fileobj)
            yield from ((peer, frames) for frames in peer.receive())
            while peer.has_input:
                yield from ((peer, frames) for frames in peer.receive())


class Side:
    """A core with so many workers and so many requests that wait while all are busy, and its two wires."""

    def __init__(self, stack: ExitStack, n_workers: int, n_queued: int) -> None:
        limits = Limits(2 * n_queued + 1000, 1 << 40, max_batch=4, max_attempts=3, lease_s=3600.0)
        self._core = Core(Settings(1, MODEL, {}, 3600.0, 60.0, 1 << 24, limits), monotonic())
        folder = stack.enter_context(TemporaryDirectory(prefix="hp"))
        self._clients, self._workers = Wire(stack, f"{folder}/clients", 1), Wire(stack, f"{folder}/workers", n_workers)
        self._numbers = count(1)
        self._leased: deque[tuple[Dealer, int]] = deque()  # worker and job, the oldest first
        self._answered = 0
        self._clients.peers[0].send([encode(ClientHello(PROTOCOL, bytes(8)))])
        for number, worker in enumerate(self._workers.peers):
            hello = WorkerHello(PROTOCOL, f"worker-{number}", 1, 1, MODEL, "v1", "d" * 64, 1, (number,), 1)
            worker.send([encode(hello)])
        while self._core.roster.ready(MODEL) < n_workers:
            self._turn()
            self._hear()
        for _ in range(n_workers + n_queued if n_queued else 0):
            self._ask(1)
            self._turn()
            self._hear()

    def cost_us(self, n_requests: int) -> float:
        """CPU time of the broker's part of one request. What clients and workers do is done between the measured parts."""
        spent, before = 0.0, self._answered
        while self._answered < before + n_requests:
            for peers in (self._ask, self._answer):
                peers(TURN)
                begin = process_time()
                self._turn()
                spent += process_time() - begin
                self._hear()
        return spent / (self._answered - before) * 1e6

    def _turn(self) -> None:
        """What `server.Server` does in one turn of its loop."""
        core = self._core
        for connection, frames in self._workers.router.receive(READ):
            self._do(core.from_worker(connection, *from_worker.decode(frames), monotonic()))
        for connection, frames in self._clients.router.receive(READ):
            self._do(core.from_client(connection, *from_client.decode(frames), monotonic()))
        self._do(core.tick(monotonic()))
        core.take_changes(monotonic())

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToWorker(connection, message, payload):
                    is_sent = _send(self._workers.router, connection, message, payload)
                case ToClient(connection, message, payload):
                    is_sent = _send(self._clients.router, connection, message, payload)
                case _:
                    continue  # a process to watch: there is none
            assert is_sent, action

    # ---- the others, not measured

    def _ask(self, n: int) -> None:
        for number in (next(self._numbers) for _ in range(n)):
            request = Request(number.to_bytes(16, "big"), None, None, 1, 3_600_000_000, WORK)
            self._clients.peers[0].send([encode(request), bytes(PAYLOAD_BYTES)])

    def _answer(self, n: int) -> None:
        for worker, job in [self._leased.popleft() for _ in range(n)]:
            worker.send([encode(Done(job, 100, RESULT))])

    def _hear(self) -> None:
        for worker, frames in self._workers.hear():
            job, _ = to_worker.decode(frames)
            if isinstance(job, Job):
                self._leased.append((worker, job.job))
        for _, frames in self._clients.hear():
            reply, _ = to_client.decode(frames)
            self._answered += isinstance(reply, Reply)


def _send(router: Router, connection: bytes, message: Message, payload: bytes | None) -> bool:
    return router.send(connection, [encode(message)] if payload is None else [encode(message), payload])


def run(quick: bool = False) -> Findings:
    rounds, n_requests = (2, 400) if quick else (ROUNDS, REQUESTS)
    with ExitStack() as stack:
        sides = {SMALL: Side(stack, 2, 0), LARGE: Side(stack, 64, 10_000)}
        gc.collect()
        gc.freeze()  # as the broker does
        for side in sides.values():
            side.cost_us(n_requests)
        costs: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                costs[name].append(side.cost_us(n_requests))
    small, large = (tuple(costs[name]) for name in (SMALL, LARGE))
    figures = (
        Figure(SMALL, COLUMN, small, "us"),
        Figure(LARGE, COLUMN, large, "us"),
        Figure(
            LARGE, f"/ {SMALL}", ratios(large, small), bar=Bar(f"the broker's cost of a request, {LARGE}", "≤", MOST)
        ),
    )
    return Findings(figures, (f"{n_requests} requests a round; without clients, workers and other threads",))
