"""A broker's workers' socket for tests: a real ROUTER that answers as a broker must and records what it hears."""

import contextlib
from time import monotonic
from typing import Any

import zmq

from hotpool.home import Home
from hotpool.messages import (
    PROTOCOL,
    FromWorker,
    Job,
    Leaving,
    LoadEnded,
    Ping,
    Pong,
    Pulse,
    Released,
    Seat,
    Seats,
    Serve,
    Welcome,
    Work,
    WorkerHello,
)
from hotpool.wire import encode, encode_body, from_worker

BOOT = 77


class Hub:
    """`heard` holds (message, payload) in order; `workers` the connection of each worker's last hello."""

    def __init__(self, home: Home, *, releases: bool = True, serves: bool = True, heartbeat_s: float = 0.05) -> None:
        """serves: what was loaded is to be served at once; False: the test says so itself.

        heartbeat_s: a worker that hears nothing for four of them connects anew, so a test that computes meanwhile needs more.
        """
        self._heartbeat_us = int(heartbeat_s * 1e6)
        home.run.mkdir(parents=True, exist_ok=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(home.endpoint("workers"))
        self._releases, self._serves = releases, serves
        self.heard: list[tuple[FromWorker, bytes | None]] = []
        self.workers: dict[str, bytes] = {}
        self.supervisor = b""
        self.seats: dict[str, Seat] = {}

    def close(self) -> None:
        self._context.destroy(linger=0)

    def send(self, connection: bytes, message, payload: bytes | None = None) -> None:
        self._socket.send_multipart([connection, encode(message), *([] if payload is None else [payload])], zmq.NOBLOCK)

    def job(
        self, worker: str, job: int, payload: bytes, work: Work, budget_s: float = 10.0, *, behind: int = 0
    ) -> None:
        self.send(self.workers[worker], Job(job, int(budget_s * 1e6), encode_body(work), behind), payload)

    def until(self, claim, within_s: float = 20.0) -> Any:
        """Serves until `claim()` is true and returns its value; fails after `within_s`."""
        ends_at = monotonic() + within_s
        while not (value := claim()):
            assert monotonic() < ends_at, f"not within {within_s} s; heard last: {self.heard[-5:]}; seats: {self.seats}"
            self.turn(20)
        return value

    def turn(self, wait_ms: int) -> None:
        if self._socket.poll(wait_ms):
            connection, *frames = self._socket.recv_multipart()
            message, payload = from_worker.decode(frames)
            self.heard.append((message, payload))
            with contextlib.suppress(zmq.ZMQError):  # gone since it spoke
                self._answer(connection, message)

    def next(self, kind, within_s: float = 20.0) -> Any:
        """The next message of this kind from now on, and its payload."""
        start = len(self.heard)
        return self.until(lambda: next((x for x in self.heard[start:] if isinstance(x[0], kind)), None), within_s)

    def hello(self, worker: str = "worker-0", after: int = 0) -> Any:
        """A hello of this worker with an incarnation above `after`."""
        return self.until(
            lambda: next(
                (
                    m
                    for m, _ in reversed(self.heard)
                    if isinstance(m, WorkerHello) and m.worker == worker and m.incarnation > after
                ),
                None,
            )
        )

    def _answer(self, connection: bytes, message) -> None:
        welcome = Welcome(PROTOCOL, BOOT, self._heartbeat_us, 1 << 24)
        match message:
            case WorkerHello():
                self.workers[message.worker] = connection
                self.send(connection, welcome)
            case Seats():
                is_new, self.supervisor = connection != self.supervisor, connection
                self.seats = {seat.worker: seat for seat in message.seats}
                self.send(connection, welcome if is_new else Pong(BOOT))
            case Ping() | Pulse():
                self.send(connection, Pong(BOOT))
            case LoadEnded() if self._serves and not message.reason:
                self.send(connection, Serve(message.token, message.digest))
            case Leaving() if self._releases:
                self.send(connection, Released())
