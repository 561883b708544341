"""Clients that are slow, large, broken or many, all at once: the others are served, and memory stays bounded."""

import io
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil
import pytest
from PIL import Image

from tests.gateway_process import Gateway, running_site
from tests.pool import PATIENCE_S, eventually

pytestmark = [pytest.mark.slow, pytest.mark.alone]
CONFIG = "[gateway]\nport = 0\nmax_connections = 400\nheader_timeout_s = 2.0\nbody_timeout_s = 2.0\n"
GIGABYTE = 10**9
LARGEST_BODY = 16 * 1024 * 1024  # of a picture, or of the JSON with tensors
# Four bodies of that size at once, each twice while it is put together, and what reading two of them takes besides.
MAX_GROWTH_BYTES = 12 * LARGEST_BODY


def address(gateway: Gateway) -> tuple[str, int]:
    host, _, port = gateway.url.partition("//")[2].partition(":")
    return host, int(port)


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(address(gateway), PATIENCE_S)


def rss(gateway: Gateway) -> int:
    return psutil.Process(gateway.process.pid).memory_info().rss


class Customer:
    """Asks one question after the other, in a thread, and notes each answer."""

    def __init__(self, gateway: Gateway) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), (7, 0, 0)).save(picture, "PNG")
        self.statuses: Counter[int | str] = Counter()
        self.longest_s = 0.0
        self._picture, self._gateway, self._is_done = picture.getvalue(), gateway, False
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> None:
        self._is_done = True
        self._thread.join(PATIENCE_S)

    def _ask(self) -> None:
        with self._gateway.client() as http:
            while not self._is_done:
                begin = time.monotonic()
                try:
                    self.statuses[http.post("/predict", content=self._picture).status_code] += 1
                except httpx.HTTPError as error:
                    self.statuses[repr(error)] += 1
                self.longest_s = max(self.longest_s, time.monotonic() - begin)


def send_all(caller: socket.socket, piece: bytes, n_bytes: int, pause_s: float = 0.0) -> None:
    """Until there is an answer, or nobody listens any more."""
    with suppress(OSError):
        for _ in range(0, n_bytes, len(piece)):
            caller.sendall(piece)
            if pause_s and select.select([caller], [], [], pause_s)[0]:
                return


def status_of_answer(caller: socket.socket) -> int:
    """0: cut without a word."""
    caller.settimeout(PATIENCE_S)
    with suppress(OSError):
        if (got := caller.recv(65536)).startswith(b"HTTP/1.1 "):
            return int(got[9:12])
    return 0


def send_slowly(gateway: Gateway, number: int) -> None:
    """A byte now and then: of a header, of a body with a length, of one without."""
    begin = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nA: ",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        b"POST /v2/models/noop/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n",
    )[number % 3]
    with connect(gateway) as caller:
        caller.sendall(begin)
        send_all(caller, b"x", 1000, 0.05)
        assert status_of_answer(caller) == 408


GIGABYTES = (
    (b"/predict", 413), (b"/v2/models/noop/infer", 413), (b"/api/versions", 401), (b"/api/rollouts", 401), (b"/healthz", 405),
    (b"/nowhere", 404),
)  # fmt: skip


def send_a_gigabyte(gateway: Gateway, number: int) -> None:
    path, expected = GIGABYTES[number % len(GIGABYTES)]
    is_chunked = number % 2
    how = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % GIGABYTE
    piece = b"40000\r\n" + bytes(0x40000) + b"\r\n" if is_chunked else bytes(0x40000)
    with connect(gateway) as caller:
        caller.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (path, how))
        send_all(caller, piece, GIGABYTE)
        assert status_of_answer(caller) == expected, path


def send_a_broken_form(gateway: Gateway, number: int) -> None:
    forms = (
        b"", b"--x", b"no form at all", b"--x\r\n\r\n--x--", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
        b"--x\r\n" + b"A: b\r\n" * 10_000, b"--x\r\nContent-Disposition: " + b"y" * 100_000,
        b"\r\n--x" * 20_000, b"--x--" + b"z" * 100_000, bytes(range(256)) * 200,
    )  # fmt: skip
    with gateway.client() as http:
        for form in forms:
            got = http.post("/predict", content=form, headers={"Content-Type": "multipart/form-data; boundary=x"})
            assert got.status_code in (400, 413), (form[:50], got.text)


def send_bombs(gateway: Gateway, number: int) -> None:
    """As many bytes as are allowed, each two or three of which would be an object; in binary tensors each four."""
    shape = b"[1, 3, %d, 1]" % (LARGEST_BODY // 9)
    tensor = b'{"inputs": [{"name": "tensor", "datatype": "FP32", "shape": %b, "data": [%b]}]}'
    n = LARGEST_BODY // 9 * 3
    bombs = (
        tensor % (shape, (b"[]," * n)[:-1]),
        tensor % (shape, (b'"",' * n)[:-1]),
        tensor % (shape, (b"{}," * n)[:-1]),
        tensor % (b"[%b]" % (b"1," * n)[:-1], b"1"),
        b'{"parameters": {"a": [%b]}, "inputs": [%b]}' % ((b"[]," * (n // 2))[:-1], (b"{}," * (n // 2))[:-1]),
        b"[" * LARGEST_BODY,
    )
    with gateway.client() as http:
        for bomb in bombs:
            got = http.post("/v2/models/noop/infer", content=bomb)
            assert (got.status_code, got.json()["code"]) == (400, "bad_request"), bomb[:80]
        binary = LARGEST_BODY // 4 * 4
        header = (
            b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": %d}}]}'
            % binary
        )
        length = {"Inference-Header-Content-Length": str(len(header))}
        got = http.post("/v2/models/noop/infer", content=header + bytes(binary), headers=length)
        assert (got.status_code, got.json()["code"]) == (400, "bad_request")


def send_a_flood_of_headers(gateway: Gateway, number: int) -> None:
    with connect(gateway) as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\n")
        send_all(caller, b"X-%d: y\r\n" % number * 1000, 20_000_000)
        assert status_of_answer(caller) == 431


def send_many_requests_at_once(gateway: Gateway, number: int) -> None:
    """And read none of the answers until all are sent, or nobody listens any more."""
    with connect(gateway) as caller:
        send_all(caller, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100, 1_000_000)
        assert status_of_answer(caller) == 200


HOSTILE: list[tuple[int, Callable[[Gateway, int], None]]] = [
    (50, send_slowly), (6, send_a_gigabyte), (2, send_a_broken_form), (2, send_bombs), (5, send_a_flood_of_headers),
    (5, send_many_requests_at_once),
]  # fmt: skip


@pytest.mark.timeout(300)
def test_whatever_others_send_a_customer_is_served_and_memory_stays_bounded():
    with running_site(2, CONFIG) as (_, gateway):
        customer = Customer(gateway)
        eventually(lambda: customer.statuses[200] > 50, "the customer is served")
        before = rss(gateway)
        idle = [connect(gateway) for _ in range(200)]
        for caller in idle[:100]:
            caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        errors: list[str] = []

        def attack(send: Callable[[Gateway, int], None], number: int) -> None:
            try:
                send(gateway, number)
            except (AssertionError, httpx.HTTPError) as error:
                errors.append(f"{send.__name__}: {error!r}")

        threads = [threading.Thread(target=attack, args=(send, n)) for times, send in HOSTILE for n in range(times)]
        for thread in threads:
            thread.start()
        highest = before
        while any(thread.is_alive() for thread in threads):
            highest = max(highest, rss(gateway))
            time.sleep(0.05)
        served_before = customer.statuses[200]
        eventually(lambda: customer.statuses[200] > served_before + 50, "the customer is served still")
        for caller in idle[:100]:
            assert caller.recv(20).startswith(b"HTTP/1.1 200 OK"), "an idle connection was lost"
        for caller in idle:
            caller.close()
        customer.stop()
        print(
            f"{customer.statuses}, the longest {customer.longest_s:.2f} s, memory {before >> 20} to {highest >> 20} MiB"
        )
        assert errors == []
        assert set(customer.statuses) == {200}
        assert highest - before < MAX_GROWTH_BYTES
        with gateway.client() as http:
            assert 'status="500"' not in http.get("/metrics").text
        assert "Traceback" not in gateway.log.read_text()
        assert gateway.stop() == 0


def test_bodies_that_are_allowed_each_are_refused_when_together_they_are_too_much():
    with running_site(1, f"{CONFIG}[dispatch]\nqueue_max_bytes = 50000000\n") as (_, gateway):
        before, held = rss(gateway), []
        for _ in range(10):
            caller = connect(gateway)
            caller.settimeout(0.5)
            caller.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 16000000\r\n\r\n")
            with suppress(OSError):
                caller.sendall(bytes(15_000_000))
            held.append(caller)
        answers = []
        for caller in held:
            caller.settimeout(PATIENCE_S)
            with suppress(OSError):
                answers.append(caller.recv(1000).split(b" ")[1])
            caller.close()
        assert b"429" in answers
        assert rss(gateway) - before < 9 * LARGEST_BODY
        with gateway.client() as http:
            assert http.get("/healthz").status_code == 200
