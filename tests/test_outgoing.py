"""gateway/connections.py: the header of an answer goes out with its body."""

import socket

import pytest

from gateway.connections import JOINED_BYTES, Outgoing
from tests.gateway_process import ANY_PORT, running_gateway
from tests.pool import short_home

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire:
    """What was written, and when it was closed."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.seen.append(bytes(data))

    def leave(self) -> None:
        self.seen.append(b"closed")


def outgoing() -> tuple[Outgoing, list[bytes]]:
    wire = Wire()
    return Outgoing(wire, wire), wire.seen  # type: ignore[arg-type]


def test_a_header_goes_out_with_its_body():
    transport, seen = outgoing()
    for body in (b"ok", b"", b"ok"):
        transport.write(HEAD)
        transport.write(body)
    assert seen == [HEAD + b"ok", HEAD, HEAD + b"ok"]


def test_a_header_does_not_wait_for_a_body_that_comes_when_it_comes():
    transport, seen = outgoing()
    transport.write(STREAM_HEAD)
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(seen) == 2


def test_without_a_body_it_goes_out_at_the_end_or_when_the_connection_closes():
    transport, seen = outgoing()
    transport.write(HEAD)
    transport.flush()
    transport.flush()
    assert seen == [HEAD]
    transport.write(HEAD)
    transport.close()
    assert seen == [HEAD, HEAD, b"closed"]


def test_a_large_body_is_not_copied_for_it():
    transport, seen = outgoing()
    transport.write(HEAD)
    transport.write(body := bytes(JOINED_BYTES + 1))
    assert seen == [HEAD, body]


@pytest.mark.slow
def test_an_answer_to_head_has_its_header_and_the_connection_goes_on():
    with short_home() as home:
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        with (
            running_gateway(home, config) as gateway,
            socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=20) as caller,
        ):
            for _ in range(3):
                caller.sendall(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert caller.recv(65536).startswith(b"HTTP/1.1 200 OK")
