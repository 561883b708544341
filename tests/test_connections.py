"""gateway/connections.py with real sockets: what a connection may do, and what becomes of one that does more."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn

from gateway.connections import MAX_HEADER_BYTES, MAX_PIPELINED, Connection, allow_files, protocol_for
from hotpool.config import Gateway
from hotpool.errors import ConfigError
from hotpool.metrics import Counter
from tests.pool import PATIENCE_S, eventually

pytestmark = pytest.mark.slow
MAX_READ_BYTES = 3 * 256 * 1024  # more than the event loop reads at once
SOON_S = 0.2  # what the timeouts are set to where they are to run out


@dataclass
class Site:
    """A server in a thread. seen: how each request went in the application: bytes read, or what ended it."""

    port: int
    refused: Counter
    seen: list[tuple[str, int | str]] = field(default_factory=list)
    largest_piece: int = 0
    hold: threading.Event = field(default_factory=threading.Event)  # /held answers when it is set
    connections: set[Connection] = field(default_factory=set)

    async def app(self, scope, receive, send) -> None:
        path = scope["path"]
        if path == "/early":
            return await answer(send, 413, b"too much")
        if path == "/large":
            return await answer(send, 200, bytes(50_000_000))
        if path == "/headers":
            while (await receive()).get("more_body", False):
                pass
            return await answer(send, 200, b" ".join(name for name, _ in scope["headers"]))
        if path == "/held":
            while not self.hold.is_set():
                await asyncio.sleep(0.005)
        n, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.append((path, "hung up"))
                return None
            n, more = n + len(message["body"]), message.get("more_body", False)
            self.largest_piece = max(self.largest_piece, len(message["body"]))
        self.seen.append((path, n))
        if path == "/listening":  # as who wants to know when the client hangs up
            await receive()
        return await answer(send, 200, f"{path} {n}".encode())


async def answer(send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(keep_alive_s: int = 60, **settings) -> Iterator[Site]:
    listener = socket.create_server(("127.0.0.1", 0))
    site = Site(listener.getsockname()[1], Counter("refused", "", "reason"))
    config = uvicorn.Config(
        site.app, loop="uvloop", http=protocol_for(Gateway(**settings), site.refused), ws="none", lifespan="off",
        log_config=None, timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=1,
        interface="asgi3", proxy_headers=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    site.connections = server.server_state.connections
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        eventually(lambda: server.started, "the server runs")
        yield site
    finally:
        site.hold.set()
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Caller:
    """A client that may send what it likes, byte by byte."""

    def __init__(self, site: Site) -> None:
        self.socket = socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S)
        self.head = self.rest = b""  # of the last answer; what came after it

    def close(self) -> None:
        self.socket.close()

    def send(self, text: str | bytes) -> "Caller":
        self.socket.sendall(text.encode() if isinstance(text, str) else text)
        return self

    def get(self, path: str = "/", headers: str = "") -> tuple[int, bytes]:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").answer()

    def answer(self) -> tuple[int, bytes]:
        """The next one: status and body. Fails when the connection ends before it."""
        self.head = self._read_head()
        lines = self.head.decode().lower().split("\r\n")
        n = int(next(line for line in lines if line.startswith("content-length:")).partition(":")[2])
        while len(self.rest) < n:
            self._read()
        body, self.rest = self.rest[:n], self.rest[n:]
        return int(lines[0].split()[1]), body

    def wait_to_go_on(self) -> bytes:
        """What is said before the body is sent; it has a head and nothing else."""
        return self._read_head()

    def _read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            self._read()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def drip(self, piece: bytes, times: int, pause_s: float = 0.006) -> None:
        """Sends it again and again; the pauses are what is tested."""
        for _ in range(times):
            self.send(piece)
            time.sleep(pause_s)

    def is_closed(self) -> bool:
        """Waits for the end, and says whether nothing came before it."""
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def _read(self) -> None:
        got = self.socket.recv(65536)
        assert got, f"the connection ended after {self.rest!r}"
        self.rest += got


def post(path: str, length: int | None = None) -> str:
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{how}\r\n\r\n"


def code(body: bytes) -> str:
    return str(json.loads(body)["code"])


def test_requests_one_after_the_other_share_a_connection():
    with running() as site, closing(Caller(site)) as caller:
        assert caller.get("/a") == (200, b"/a 0")
        assert caller.send(post("/b", 3)).send("xyz").answer() == (200, b"/b 3")
        assert caller.send(post("/c")).send("2\r\nxy\r\n0\r\n\r\n").answer() == (200, b"/c 2")
        assert not site.refused


def test_requests_sent_at_once_are_answered_in_their_order():
    with running() as site, closing(Caller(site)) as caller:
        caller.send("".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(10)))
        assert [caller.answer() for _ in range(10)] == [(200, f"/{n} 0".encode()) for n in range(10)]


def test_of_too_many_requests_sent_at_once_the_first_is_answered():
    with running() as site, closing(Caller(site)) as caller:
        caller.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        caller.send("".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(MAX_PIPELINED + 5)))
        eventually(lambda: site.refused["bad_request",] == 1, "too many")
        site.hold.set()
        assert caller.answer() == (200, b"/held 0")
        assert caller.is_closed()


def test_while_one_request_is_answered_the_next_ones_body_waits_in_the_network():
    with running() as site, closing(Caller(site)) as caller:
        caller.send("GET /listening HTTP/1.1\r\nHost: x\r\n\r\n" + post("/next", 30_000_000))
        caller.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            caller.send(bytes(30_000_000))
        (connection,) = site.connections
        assert len(connection.cycle.body) < 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        f"GET /{'x' * MAX_HEADER_BYTES} HTTP/1.1\r\n\r\n",
        f"GET / HTTP/1.1\r\nA: {'x' * MAX_HEADER_BYTES}\r\n\r\n",
        f"GET / HTTP/1.1\r\nA: {'x' * MAX_HEADER_BYTES}",
        "GET / HTTP/1.1\r\n" + "A: b\r\n" * (MAX_HEADER_BYTES // 5),
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + "A: b\r\n" * (MAX_HEADER_BYTES // 5),
        f"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: {'x' * MAX_READ_BYTES}",
        f"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{'x' * MAX_READ_BYTES}",
    ],
    ids=["url", "one header", "one header without end", "many headers", "many trailers", "one trailer", "an extension"],
)
def test_a_header_that_is_too_large_is_refused_before_the_application_sees_it(text):
    with running() as site, closing(Caller(site)) as caller:
        status, body = caller.send(text).answer()
        assert (status, code(body)) == (431, "header_too_large")
        assert caller.is_closed()
        assert all(how == "hung up" for _, how in site.seen)


def test_a_header_of_just_the_allowed_size_is_served_byte_by_byte_and_whole():
    text = f"GET / HTTP/1.1\r\nHost: x\r\nA: {'x' * (MAX_HEADER_BYTES - 100)}\r\n\r\n"
    with running() as site, closing(Caller(site)) as caller:
        assert caller.send(text).answer() == (200, b"/ 0")
        for at in range(0, len(text), 5000):
            caller.send(text[at : at + 5000])
        assert caller.answer() == (200, b"/ 0")


@pytest.mark.parametrize(
    "text",
    [
        "HELLO\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01", "CONNECT x:1 HTTP/1.1\r\n\r\n",
        "GET http://[x HTTP/1.1\r\n\r\n", "GET /\xff HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_is_told_so_and_closed(text):
    with running() as site, closing(Caller(site)) as caller:
        status, body = caller.send(text).answer()
        assert (status, code(body)) == (400, "bad_request")
        assert caller.is_closed()


@pytest.mark.parametrize("begin", ["GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n", "\r\n"])
def test_a_header_that_does_not_end_in_time_is_cut(begin):
    with running(header_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        assert caller.get() == (200, b"/ 0")
        status, body = caller.send(begin).answer()
        assert (status, code(body)) == (408, "too_slow")
        assert caller.is_closed()


def request_ids(caller: Caller) -> list[str]:
    assert b"\r\nx-content-type-options: nosniff" in caller.head
    return re.findall(r"\r\nx-request-id: (\S+)", caller.head.decode())


def test_what_the_connection_itself_answers_has_the_requests_id_too_and_never_another_ones():
    with running(body_timeout_s=SOON_S, header_timeout_s=SOON_S) as site:
        with closing(Caller(site)) as caller:
            caller.send("POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\nContent-Length: 9\r\n\r\n")
            assert caller.answer()[0] == 408
            assert request_ids(caller) == ["mine-1"]
        made = set()
        for begin in ("\r\n", "GET / HTTP/1.1\r\n", "HELLO\r\n\r\n", "GET / HTTP/1.1\r\nX-Request-Id: a b\r\n"):
            with closing(Caller(site)) as caller:
                assert caller.get("/", "X-Request-Id: before\r\n")[0] == 200
                assert caller.send(begin).answer()[0] in (400, 408)
                made |= set(request_ids(caller))
        assert len(made) == 4
        assert not made & {"before", "mine-1", "a"}


def test_a_header_that_comes_byte_by_byte_is_cut_in_the_same_time():
    with running(header_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send("GET / HTTP/1.1\r\nA: ")
        with pytest.raises(ConnectionError):
            caller.drip(b"x", 1000)
        assert site.refused["too_slow",] == 1


@pytest.mark.parametrize("begin", [post("/", 100), post("/", 100) + "x", post("/"), post("/") + "1\r\nx\r\n"])
def test_a_body_that_does_not_come_in_time_is_cut_and_the_application_hears_of_it(begin):
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        status, body = caller.send(begin).answer()
        assert (status, code(body)) == (408, "too_slow")
        assert caller.is_closed()
        eventually(lambda: site.seen == [("/", "hung up")], "the application knows, before the client is gone", 1.0)


def test_a_body_that_comes_slower_than_allowed_is_cut_however_steadily_it_comes():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send(post("/", 1000))
        with pytest.raises(ConnectionError):
            caller.drip(b"x", 1000)
        assert site.refused["too_slow",] == 1


def test_a_body_that_takes_longer_than_the_time_but_comes_fast_enough_is_read_to_its_end():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send(post("/", 100_000))
        caller.drip(bytes(1000), 100)
        assert caller.answer() == (200, b"/ 100000")


def test_it_is_not_the_senders_fault_when_the_application_does_not_read():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        sender = threading.Thread(target=lambda: caller.send(post("/held", 20_000_000)).send(bytes(20_000_000)))
        sender.start()
        threading.Timer(4 * SOON_S, site.hold.set).start()
        assert caller.answer() == (200, b"/held 20000000")
        sender.join()


def test_who_waits_to_be_told_to_go_on_is_not_slow():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send("POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        threading.Timer(3 * SOON_S, site.hold.set).start()
        assert caller.wait_to_go_on().startswith(b"HTTP/1.1 100 ")
        assert caller.send("xy").answer() == (200, b"/held 2")


def test_a_large_body_is_read_in_pieces():
    with running() as site, closing(Caller(site)) as caller:
        assert caller.send(post("/", 50_000_000)).send(bytes(50_000_000)).answer() == (200, b"/ 50000000")
        assert site.largest_piece < 1_000_000


def test_the_rest_of_a_small_body_does_not_end_the_connection_when_the_answer_was_faster():
    with running() as site, closing(Caller(site)) as caller:
        assert caller.send(post("/early", 10)).answer() == (413, b"too much")
        caller.send("01234")
        assert caller.send("56789").get("/next") == (200, b"/next 0")


def test_a_body_that_does_not_come_is_not_told_so_after_the_answer():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        assert caller.send(post("/early", 10)).answer() == (413, b"too much")
        assert caller.is_closed()


@pytest.mark.parametrize("length", [1_000_000_000, None])
def test_an_answer_before_the_body_was_sent_can_be_read_and_ends_the_connection(length):
    with running() as site, closing(Caller(site)) as caller:
        caller.send(post("/early", length))
        assert caller.answer() == (413, b"too much")
        piece = b"10000\r\n" + bytes(65536) + b"\r\n" if length is None else bytes(65536)
        with pytest.raises(ConnectionError):
            caller.drip(piece, 1_000_000, 0)


def test_who_does_not_read_an_answer_is_cut():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: site.refused["slow_reader",] == 1, "cut")
        eventually(lambda: not site.connections, "closed")


def test_who_reads_an_answer_slowly_but_steadily_gets_all_of_it():
    with running(body_timeout_s=SOON_S) as site, closing(Caller(site)) as caller:
        caller.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        n_bytes, began = 0, time.monotonic()
        while n_bytes < 50_000_000:
            got = caller.socket.recv(1_000_000, socket.MSG_WAITALL)
            assert got, f"cut after {n_bytes} bytes"
            n_bytes += len(got)
            time.sleep(0.02)  # what is tested
        assert time.monotonic() - began > 3 * SOON_S
        assert site.refused["slow_reader",] == 0


def test_a_trailer_is_not_taken_for_a_header():
    with running() as site, closing(Caller(site)) as caller:
        caller.send(post("/headers") + "1\r\nx\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n")
        assert caller.answer() == (200, b"host transfer-encoding")


def test_a_connection_on_which_nothing_happens_is_closed_after_a_while_and_not_before():
    with running(keep_alive_s=1) as site, closing(Caller(site)) as fresh, closing(Caller(site)) as used:
        assert used.get() == (200, b"/ 0")
        began = time.monotonic()
        assert fresh.is_closed()
        assert used.is_closed()
        assert 0.5 < time.monotonic() - began < 5


def test_idle_connections_give_way_the_longest_idle_first():
    with running(max_connections=8) as site:
        callers = [Caller(site) for _ in range(8)]
        for caller in callers:
            assert caller.get()[0] == 200
        assert callers[0].get()[0] == 200
        newcomers = [Caller(site) for _ in range(3)]
        assert [caller.get()[0] for caller in newcomers] == [200] * 3
        assert all(caller.is_closed() for caller in callers[1:4])
        assert [caller.get()[0] for caller in (callers[0], *callers[4:])] == [200] * 5
        for caller in (*callers, *newcomers):
            caller.close()


def test_when_all_connections_are_busy_a_new_one_is_refused_with_503_and_none_is_hurt():
    with running(max_connections=8) as site:
        busy = [Caller(site).send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(8)]
        eventually(lambda: len(site.connections) == 8, "8 connections")
        for _ in range(200):
            with closing(Caller(site)) as caller:
                status, body = caller.answer()
                assert (status, code(body)) == (503, "too_many_connections")
                assert len(request_ids(caller)) == 1
        assert len(site.connections) == 8
        site.hold.set()
        assert [caller.answer() for caller in busy] == [(200, b"/held 0")] * 8
        with closing(Caller(site)) as caller:
            assert caller.get() == (200, b"/ 0")
        for caller in busy:
            caller.close()


def test_an_upgrade_is_not_taken_and_the_connection_goes_on():
    with running() as site, closing(Caller(site)) as caller:
        assert caller.get("/a", "Connection: Upgrade\r\nUpgrade: h2c\r\n") == (200, b"/a 0")
        assert caller.get("/b") == (200, b"/b 0")


def test_the_body_of_a_request_that_asks_for_an_upgrade_is_not_taken_for_the_next_request():
    with running() as site, closing(Caller(site)) as caller:
        caller.send("POST /a HTTP/1.1\r\nContent-Length: 19\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        status, body = caller.send("GET /b HTTP/1.1\r\n\r\n").answer()
        assert (status, code(body)) == (400, "bad_request")
        assert caller.is_closed()
        assert not site.seen


def test_a_client_that_hangs_up_is_noticed():
    with running() as site:
        Caller(site).send(post("/", 100)).close()
        eventually(lambda: site.seen == [("/", "hung up")], "noticed")
        eventually(lambda: not site.connections, "gone")


def test_more_connections_than_the_system_allows_are_refused_at_the_start():
    with pytest.raises(ConfigError, match=r"max_connections = 1000000000 needs \d+ open files"):
        allow_files(10**9)
