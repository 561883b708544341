"""The client of the controller against a socket that answers as a test wants it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest
import zmq

from hotpool.control_client import ControlClient
from hotpool.errors import BadInput, Conflict, ControllerUnreachable, LocalProtocolError, RemoteProtocolError, TooLarge
from hotpool.messages import Answer, Ask
from hotpool.states import Executed
from hotpool.wire import decode_value, encode, encode_value, to_control
from tests.pool import eventually, short_home

# One Ask to the frames of its answers.
Respond = Callable[[Ask], list[bytes]]


@pytest.fixture
def endpoint() -> Iterator[str]:
    with short_home() as home:
        home.run.mkdir()
        yield home.endpoint("control")


@contextmanager
def controller(endpoint: str, respond: Respond) -> Iterator[None]:
    """Answers every Ask by `respond` until the block ends."""
    Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
    stopping = Event()

    def run() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.LINGER, 0)
            router.bind(endpoint)
            while not stopping.is_set():
                if router.poll(20):
                    connection, *frames = router.recv_multipart()
                    for answer in respond(to_control.decode(frames)[0]):
                        router.send_multipart([connection, answer])

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def echo(ask: Ask) -> list[bytes]:
    return [encode(Answer(ask.seq, encode_value([ask.verb, decode_value(ask.arguments)])))]


def test_a_call_carries_its_arguments_and_leaves_out_what_is_none(endpoint):
    with ControlClient(endpoint) as control, controller(endpoint, echo):
        assert control.call("start", version="v2", steps=None) == ["start", {"version": "v2"}]


def test_what_the_controller_reports_is_raised_as_what_it_was(endpoint):
    def refuse(ask: Ask) -> list[bytes]:
        return [encode(Answer(ask.seq, encode_value(None), "conflict", "one is under way"))]

    with (
        ControlClient(endpoint) as control,
        controller(endpoint, refuse),
        pytest.raises(Conflict, match="one is under way"),
    ):
        control.call("start")


def test_without_a_controller_a_call_ends_in_time_and_the_next_finds_one_that_came(endpoint):
    with ControlClient(endpoint) as control:
        begin = monotonic()
        with pytest.raises(ControllerUnreachable, match=r"control\.sock within 0\.05 s.*hotpool up") as raised:
            control.call("status", timeout_s=0.05)
        assert monotonic() - begin < 0.5
        assert raised.value.executed is Executed.MAYBE, "it may have been on its way"
        with controller(endpoint, echo):
            assert control.call("status") == ["status", {}]


def test_an_order_that_nobody_took_does_not_reach_a_later_controller(endpoint):
    heard: list[str] = []

    def note(ask: Ask) -> list[bytes]:
        heard.append(ask.verb)
        return echo(ask)

    with ControlClient(endpoint) as control:
        with pytest.raises(ControllerUnreachable):
            control.call("start", timeout_s=0.02)
        with controller(endpoint, note):
            control.call("status")
    assert heard == ["status"]


def test_a_late_answer_is_not_taken_for_that_of_another_call(endpoint):
    late: list[bytes] = []

    def slow_at_first(ask: Ask) -> list[bytes]:
        if not late:
            late.extend(echo(ask))
            return []
        return [*late, *echo(ask)]

    with ControlClient(endpoint) as control, controller(endpoint, slow_at_first):
        with pytest.raises(ControllerUnreachable):
            control.call("first", timeout_s=0.2)
        assert control.call("second") == ["second", {}]


def test_threads_share_a_client_and_each_gets_its_own_answer(endpoint):
    with ControlClient(endpoint) as control, controller(endpoint, echo), ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda number: control.call("look", number=number), range(200)))
    assert answers == [["look", {"number": number}] for number in range(200)]


def test_closing_ends_calls_that_are_open_and_refuses_others(endpoint):
    asked = Event()

    def silent(ask: Ask) -> list[bytes]:
        asked.set()
        return []

    with controller(endpoint, silent), ThreadPoolExecutor(1) as thread:
        control = ControlClient(endpoint)
        call = thread.submit(control.call, "status", timeout_s=20)
        eventually(asked.is_set, "the call has arrived")
        control.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            call.result(timeout=5)
        with pytest.raises(LocalProtocolError, match="closed"):
            control.call("status")


def test_who_answers_with_anything_else_is_told_from_a_controller(endpoint):
    with (
        ControlClient(endpoint) as control,
        controller(endpoint, lambda ask: [b"HTTP/1.1 400"]),
        pytest.raises(RemoteProtocolError),
    ):
        control.call("status")


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {1, 2, object()}])
def test_what_can_not_be_sent_is_told_before_anything_is_sent(value):
    with (
        ControlClient("ipc:///nowhere") as control,
        pytest.raises(BadInput, match="an argument of start can't be sent"),
    ):
        control.call("start", version=value)


def test_too_many_bytes_never_leave_the_client():
    with ControlClient("ipc:///nowhere") as control, pytest.raises(TooLarge, match="allowed are 8388608"):
        control.call("add", labels=["x" * 1000] * 9000)
