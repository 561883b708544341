"""From bytes to messages and back, whatever the pieces they arrive in; and what is refused. Against libzmq: test_router.py."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpool.errors import RemoteProtocolError
from hotpool.zmtp import Incoming, opening, pack

GREETING, READY = opening(b"ROUTER")[:64], opening(b"ROUTER")[64:]
messages = st.lists(st.lists(st.binary(max_size=600), min_size=1, max_size=4), max_size=6)


def joined(frames) -> bytes:
    return b"".join(pack(frames))


def feed(incoming: Incoming, data: bytes | bytearray) -> list[list[bytes]]:
    return incoming.feed(memoryview(data))


def begun(max_bytes: int = 1000) -> Incoming:
    incoming = Incoming(max_bytes)
    assert feed(incoming, GREETING + READY) == []
    assert incoming.is_open
    return incoming


@given(messages, st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_messages_come_out_as_they_went_in_whatever_the_pieces_they_arrive_in(sent, sizes):
    data, incoming, found, i = GREETING + READY + b"".join(map(joined, sent)), Incoming(1000), [], 0
    while data:
        size, i = sizes[i % len(sizes)], i + 1
        found += feed(incoming, data[:size])
        assert not incoming.has_more
        data = data[size:]
    assert found == sent
    assert incoming.is_open


@pytest.mark.parametrize("n", [0, 255, 256, 70_000])
def test_a_frame_is_marked_as_long_from_256_bytes_on(n):
    frame = bytes(n)
    head = bytes((0, n)) if n < 256 else b"\x02" + n.to_bytes(8, "big")
    assert joined([frame]) == head + frame
    assert feed(begun(140_000), joined([frame, memoryview(frame)])) == [[frame, frame]]


def test_nothing_of_what_is_fed_is_kept():
    incoming, buffer = begun(), bytearray(joined([b"first"]) + joined([b"second"])[:4])
    found = feed(incoming, buffer)
    second = joined([b"second"])[4:]
    buffer[:] = bytes(len(buffer))
    assert found + feed(incoming, second) == [[b"first"], [b"second"]]


def test_of_very_many_messages_the_first_come_at_once_and_the_others_when_asked_for():
    incoming, sent = begun(), [[b"%d" % n] for n in range(300)]
    found = feed(incoming, b"".join(map(joined, sent)) + joined([b"last"])[:1])
    while incoming.has_more:
        more = feed(incoming, b"")
        assert 0 < len(more) <= 128
        found += more
    assert found == sent
    assert feed(incoming, joined([b"last"])[1:]) == [[b"last"]]


def test_the_other_end_takes_messages_once_it_has_said_ready():
    incoming = Incoming(1000)
    for byte in GREETING + READY:
        assert not incoming.is_open
        assert feed(incoming, bytes([byte])) == []
    assert incoming.is_open


def test_a_greeting_of_a_later_minor_version_with_commands_that_are_unknown_here_is_accepted():
    incoming = Incoming(1000)
    later = GREETING[:11] + b"\x01" + GREETING[12:]
    assert feed(incoming, later + READY + b"\x04\x0b\x04PING\x00\x0acont" + b"\x04\x00" + joined([b"x"])) == [[b"x"]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n".ljust(64, b" "), "does not speak ZMTP 3"),
        (b"\x01" + GREETING[1:], "does not speak ZMTP 3"),
        (GREETING[:10] + b"\x02" + GREETING[11:], "does not speak ZMTP 3"),
        (GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:], "wants the mechanism b'CURVE'"),
        (GREETING + b"\x04\x0d\x05ERROR\x06denied", "refuses us: denied"),
        (GREETING + READY + b"\x00\xff", None),
        (GREETING + READY + b"\x02" + (1001).to_bytes(8, "big"), "a frame of 1001 bytes, allowed are 1000"),
        (GREETING + READY + b"\x02" + b"\xff" * 8, "allowed are 1000"),
        (
            GREETING + READY + b"\x01\xc8" + bytes(200) + b"\x03" + (801).to_bytes(8, "big"),
            "801 bytes, allowed are 800",
        ),
        (GREETING + READY + b"\x06" + (4097).to_bytes(8, "big"), "a frame of 4097 bytes"),
        (GREETING + READY + b"\x01\x00" * 63, None),
        (GREETING + READY + b"\x01\x00" * 64, "more than 64 frames"),
    ],
)
def test_what_is_not_zmtp_is_refused_as_soon_as_it_shows_whatever_the_pieces(data, why):
    for size in (1, len(data)):
        incoming = Incoming(1000)
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        with pytest.raises(RemoteProtocolError, match=why) if why else contextlib.nullcontext():
            for piece in pieces:
                assert feed(incoming, piece) == []


def test_what_came_before_something_that_is_refused_is_heard_first():
    for bad, why in (
        (b"\x02" + (1001).to_bytes(8, "big"), "a frame of 1001 bytes"),
        (b"\x04\x0d\x05ERROR\x06denied", "denied"),
    ):
        incoming = begun()
        assert feed(incoming, joined([b"1"]) + joined([b"2"]) + bad) == [[b"1"], [b"2"]]
        assert incoming.has_more
        with pytest.raises(RemoteProtocolError, match=why):
            feed(incoming, b"")


@pytest.mark.parametrize("begin", [b"G", b"\x00", b"\xff" + bytes(8) + b"\x00", b"\xff" + bytes(8) + b"\x7f\x02"])
def test_what_is_not_zmtp_is_refused_at_its_first_wrong_byte(begin):
    with pytest.raises(RemoteProtocolError, match="does not speak ZMTP 3"):
        feed(Incoming(1000), begin)


@given(st.binary(max_size=300))
def test_any_bytes_give_messages_or_a_refusal(data):
    for start in (b"", GREETING, GREETING + READY):
        with contextlib.suppress(RemoteProtocolError):
            feed(Incoming(1000), start + data)
