"""Shell: the least that a broker can be: two ROUTERs and a list of idle workers, an echo behind them. No ids, no deadlines, no
retries: the yardstick for what hotpool's broker adds.

    python -m bench.bare broker CLIENTS WORKERS     python -m bench.bare worker WORKERS
"""

import sys
from collections import deque
from concurrent.futures import Future
from typing import Any

import zmq

Context = "zmq.Context[zmq.Socket[bytes]]"


def broker(clients_endpoint: str, workers_endpoint: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clients, workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    clients.bind(clients_endpoint)
    workers.bind(workers_endpoint)
    poller = zmq.Poller()
    poller.register(clients, zmq.POLLIN)
    poller.register(workers, zmq.POLLIN)
    idle: deque[bytes] = deque()
    waiting: deque[list[bytes]] = deque()
    while True:
        ready = dict(poller.poll())
        while workers in ready:
            try:
                frames = workers.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            idle.append(frames[0])
            if len(frames) > 2:
                clients.send_multipart(frames[1:])
        while clients in ready:
            try:
                waiting.append(clients.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
        while idle and waiting:
            workers.send_multipart([idle.popleft(), *waiting.popleft()])


def worker(workers_endpoint: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(workers_endpoint)
    dealer.send(b"ready")
    while True:
        dealer.send_multipart(dealer.recv_multipart())


class Echo:
    """A DEALER with the same `submit` as the client library: resolves futures in order of the answers."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.connect(endpoint)
        self._waiting: dict[bytes, Waiting] = {}
        self._n = 0

    def submit(self, payload: bytes) -> "Waiting":
        self._n += 1
        number = self._n.to_bytes(8, "big")
        self._dealer.send_multipart([number, payload])
        waiting = self._waiting[number] = Waiting(self)
        return waiting

    def receive(self) -> None:
        number, payload = self._dealer.recv_multipart()
        self._waiting.pop(number).set_result(payload)

    def close(self) -> None:
        self._context.destroy(linger=0)


class Waiting(Future[Any]):
    """Reads the socket itself until its own answer is there: one thread, as little as can be."""

    def __init__(self, echo: Echo) -> None:
        super().__init__()
        self._echo = echo

    def result(self, timeout: float | None = None) -> Any:
        while not self.done():
            self._echo.receive()
        return super().result(0)


if __name__ == "__main__":
    if sys.argv[1] == "broker":
        broker(*sys.argv[2:4])
    else:
        worker(sys.argv[2])
