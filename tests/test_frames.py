"""Whole messages through a socket, or nothing."""

import pytest
import zmq

from hotpool.frames import is_readable, receive, receive_frames, send


@pytest.fixture
def ends():
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    left, right = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    for end in (left, right):
        end.setsockopt(zmq.SNDHWM, 16)
        end.setsockopt(zmq.RCVHWM, 16)
    left.bind("inproc://frames")
    right.connect("inproc://frames")
    yield left, right
    context.destroy(linger=0)


def test_a_message_comes_as_it_was_sent(ends):
    left, right = ends
    messages: list[list[bytes | memoryview]] = [[b"one"], [b"", b"two", b"x" * 20_000], [memoryview(b"three"), b"4"]]
    for frames in messages:
        assert send(left, frames)
        assert is_readable(right)
        assert receive(right) == [bytes(frame) for frame in frames]


def test_nothing_here_is_none_and_no_error(ends):
    assert not is_readable(ends[1])
    assert receive(ends[1]) is None
    assert receive_frames(ends[1], is_polled=True) is None


def test_a_full_socket_takes_nothing_of_a_message(ends):
    left, right = ends
    n_sent = 0
    while send(left, [b"%d" % n_sent, b"payload"]):
        n_sent += 1
    assert n_sent > 0
    received = []
    while (frames := receive(right)) is not None:
        received.append(frames)
    assert received == [[b"%d" % n, b"payload"] for n in range(n_sent)]


def test_a_peer_that_is_not_there_takes_nothing_of_a_message():
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.bind("inproc://router")
    assert not send(router, [b"nobody", b"header", b"payload"])
    context.destroy(linger=0)


def test_other_errors_of_a_socket_are_not_hidden():
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    with pytest.raises(zmq.ZMQError):
        send(subscriber, [b"a subscriber can't send"])
    context.destroy(linger=0)
