"""Shell: whether a request costs the broker more when there is more of everything: CPU time from socket to socket through the
real core, with 64 workers and 10,000 queued requests, beside 2 workers and an empty queue, in turn, in one run.

    python -m bench scale
"""

import gc
from collections import deque
from itertools import count
from time import monotonic, process_time

import zmq

from broker.actions import Action, ToClient, ToWorker
from broker.core import Core, Settings
from broker.dispatch import Limits
from hotpool.frames import receive, receive_frames, send
from hotpool.messages import PROTOCOL, ClientHello, Done, Job, Reply, Request, Result, Work, WorkerHello
from hotpool.wire import encode, encode_body, from_client, from_worker, to_client, to_worker

from .figures import Bar, Figure, Findings, ratios

Context = zmq.Context[zmq.Socket[bytes]]

MODEL = "noop"
MOST = 1.3
ROUNDS, REQUESTS = 9, 4000
SMALL, LARGE, COLUMN = "2 workers, empty queue", "64 workers, 10,000 queued", "CPU time a request"
PAYLOAD_BYTES = 10_240
TURN = 2  # messages of each kind in one turn of the broker's loop; as many as the smaller side has workers
WORK = encode_body(Work("pixels", 3, (58, 59, 3)))
RESULT = encode_body(Result(tuple((index, f"class-{index}", 0.1) for index in range(3))))


class Wire:
    """What lies between the broker and all clients, or all workers: in memory, so that no other thread takes part."""

    def __init__(self, context: Context, name: str) -> None:
        self.broker_end, self.peer_end = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for end in (self.broker_end, self.peer_end):
            end.setsockopt(zmq.SNDHWM, 0)
            end.setsockopt(zmq.RCVHWM, 0)
        self.broker_end.bind(f"inproc://{name}")
        self.peer_end.connect(f"inproc://{name}")


class Side:
    """A core with so many workers and so many requests that wait while all are busy, between two wires."""

    def __init__(self, context: Context, n_workers: int, n_queued: int) -> None:
        limits = Limits(2 * n_queued + 1000, 1 << 40, max_batch=4, max_attempts=3, lease_s=3600.0)
        self._core = Core(Settings(1, MODEL, {}, 3600.0, 60.0, 1 << 24, limits), monotonic())
        self._clients, self._workers = (Wire(context, f"{kind}-{n_workers}") for kind in ("clients", "workers"))
        self._numbers = count(1)
        self._leased: deque[tuple[bytes, int]] = deque()  # connection and job, the oldest first
        self._answered = 0
        self._core.from_client(b"client", ClientHello(PROTOCOL, bytes(8)), None, monotonic())
        for number in range(n_workers):
            hello = WorkerHello(PROTOCOL, f"worker-{number}", 1, 1, MODEL, "v1", "d" * 64, 1, (number,), 1)
            self._core.from_worker(b"%d" % number, hello, None, monotonic())
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
        while (frames := receive_frames(self._workers.broker_end)) is not None:
            connection, header = frames
            done = from_worker.decode_header(header.bytes)
            self._do(core.from_worker(connection.bytes, done, None, monotonic()))
        while (frames := receive_frames(self._clients.broker_end)) is not None:
            connection, header, payload = frames
            request = from_client.decode_header(header.bytes)
            self._do(core.from_client(connection.bytes, request, payload, monotonic()))
        self._do(core.tick(monotonic()))
        core.take_changes(monotonic())

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToWorker(connection, message, zmq.Frame() as payload):
                    send(self._workers.broker_end, (connection, encode(message), payload))
                case ToClient(connection, message, None):
                    send(self._clients.broker_end, (connection, encode(message)))
                case _:
                    raise AssertionError(f"not expected here: {action}")

    # ---- the others, not measured

    def _ask(self, n: int) -> None:
        for number in (next(self._numbers) for _ in range(n)):
            request = Request(number.to_bytes(16, "big"), None, None, 1, 3_600_000_000, WORK)
            send(self._clients.peer_end, (b"client", encode(request), bytes(PAYLOAD_BYTES)))

    def _answer(self, n: int) -> None:
        for connection, job in [self._leased.popleft() for _ in range(n)]:
            send(self._workers.peer_end, (connection, encode(Done(job, 100, RESULT))))

    def _hear(self) -> None:
        while (frames := receive(self._workers.peer_end)) is not None:
            job, _ = to_worker.decode(frames[1:])
            assert isinstance(job, Job)
            self._leased.append((frames[0], job.job))
        while (frames := receive(self._clients.peer_end)) is not None:
            reply, _ = to_client.decode(frames[1:])
            assert isinstance(reply, Reply)
            self._answered += 1


def run(quick: bool = False) -> Findings:
    rounds, n_requests = (2, 400) if quick else (ROUNDS, REQUESTS)
    context: Context = zmq.Context()
    sides = {SMALL: Side(context, 2, 0), LARGE: Side(context, 64, 10_000)}
    gc.collect()
    gc.freeze()  # as the broker does
    for side in sides.values():
        side.cost_us(n_requests)
    costs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            costs[name].append(side.cost_us(n_requests))
    context.destroy(linger=0)
    small, large = (tuple(costs[name]) for name in (SMALL, LARGE))
    figures = (
        Figure(SMALL, COLUMN, small, "us"),
        Figure(LARGE, COLUMN, large, "us"),
        Figure(
            LARGE, f"/ {SMALL}", ratios(large, small), bar=Bar(f"the broker's cost of a request, {LARGE}", "≤", MOST)
        ),
    )
    return Findings(figures, (f"{n_requests} requests a round; without clients, workers and other threads",))
