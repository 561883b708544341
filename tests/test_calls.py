"""The client's side of "exactly one outcome": what it keeps, sends again, and when it gives up."""

import numpy as np
import pytest

from hotpool.asking import new_call
from hotpool.calls import LAST_WORD_S, Call, Calls
from hotpool.errors import BadImage, BadInput, BrokerUnreachable, DeadlineExceeded, QueueFull, TooLarge
from hotpool.messages import Request, Work
from hotpool.states import Executed
from hotpool.wire import encode_body

WORK = encode_body(Work("picture"))


def new_calls(random: float = 0.5) -> Calls[str]:
    return Calls("ipc://here", lambda: random)


def add(calls: Calls[str], number: int = 1, deadline: float = 10.0, payload: bytes = b"x") -> Call[str]:
    request = Request(number.to_bytes(16, "big"), None, None, 1, 0, WORK)
    call = Call(request, payload, f"ticket-{number}", 0.0, deadline)
    calls.add(call)
    return call


def test_a_new_session_gets_everything_that_is_unanswered_in_order():
    calls = new_calls()
    first, second, third = (add(calls, number) for number in (1, 2, 3))
    calls.take(second.request.id)
    assert calls.unanswered() == [first, third]


def test_the_first_answer_wins_and_later_ones_are_counted():
    calls = new_calls()
    call = add(calls)
    assert calls.take(call.request.id) is call
    assert calls.take(call.request.id) is None
    assert calls.late == 1


def test_a_full_queue_is_tried_again_after_the_time_the_broker_names():
    calls = new_calls(random=0.5)
    call = add(calls)
    assert calls.refused(call.request.id, QueueFull("full", retry_after_s=0.2), now=1.0) is None
    assert calls.unanswered() == []
    assert calls.due(1.19, connected=True) == ([], [])
    assert calls.due(1.21, connected=True) == ([call], [])


@pytest.mark.parametrize("random", [0.0, 0.999])
def test_jitter_spreads_those_who_were_refused_together(random):
    calls = new_calls(random)
    call = add(calls)
    calls.refused(call.request.id, QueueFull("full", retry_after_s=1.0), now=0.0)
    assert call.retry_at == pytest.approx(0.5 + random)


def test_without_a_named_time_the_back_off_doubles():
    calls, waits, now = new_calls(), [], 0.0
    call = add(calls, deadline=1000.0)
    for _ in range(8):
        calls.refused(call.request.id, QueueFull("full"), now)
        assert call.retry_at is not None
        waits.append(call.retry_at - now)
        now = call.retry_at
        calls.due(now, connected=True)
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_when_there_is_no_time_to_try_again_the_refusal_is_the_outcome():
    calls = new_calls()
    call = add(calls, deadline=1.0)
    outcome = calls.refused(call.request.id, QueueFull("full", retry_after_s=5.0), now=0.9)
    assert isinstance(outcome.error, QueueFull)
    assert len(calls) == 0


def test_who_can_come_back_by_itself_is_refused_at_once():
    calls = new_calls()
    call = add(calls)
    call.retries = False
    outcome = calls.refused(call.request.id, QueueFull("full", retry_after_s=0.2), now=1.0)
    assert (type(outcome.error), outcome.error.retry_after_s) == (QueueFull, 0.2)
    assert len(calls) == 0


def test_what_the_request_is_to_blame_for_is_not_tried_again():
    calls = new_calls()
    call = add(calls)
    assert isinstance(calls.refused(call.request.id, BadImage("no picture"), 0.0).error, BadImage)


@pytest.mark.parametrize(
    ("connected", "times_sent", "error", "executed", "text"),
    [
        (False, 0, BrokerUnreachable, Executed.NO, "no broker at ipc://here within 10 s; is the pool running"),
        (False, 1, BrokerUnreachable, Executed.MAYBE, "was lost and did not return"),
        (True, 1, DeadlineExceeded, Executed.MAYBE, "no answer within 10 s"),
    ],
)
def test_at_the_deadline_the_error_says_what_was_missing(connected, times_sent, error, executed, text):
    calls = new_calls()
    add(calls).times_sent = times_sent
    assert calls.due(10.0 + LAST_WORD_S - 0.001, connected=connected) == ([], [])
    again, (outcome,) = calls.due(10.0 + LAST_WORD_S, connected=connected)
    assert again == []
    assert type(outcome.error) is error
    assert outcome.error.executed is executed
    assert text in str(outcome.error)


def test_what_exceeds_the_brokers_limit_ends_before_it_is_sent():
    calls = new_calls()
    call = add(calls, payload=b"x" * 100)
    assert calls.too_large(call) is None
    calls.max_bytes = 99
    assert isinstance(calls.too_large(call).error, TooLarge)
    assert len(calls) == 0


def test_the_next_timer_skips_calls_that_are_answered():
    calls = new_calls()
    call = add(calls, 1, deadline=1.0)
    add(calls, 2, deadline=2.0)
    calls.take(call.request.id)
    assert calls.next_timer() == 2.0 + LAST_WORD_S


def test_at_the_end_nothing_stays_open():
    calls = new_calls()
    expected = [add(calls, number) for number in (1, 2)]
    assert calls.end_all() == expected
    assert len(calls) == 0


def test_answered_calls_with_long_timeouts_do_not_pile_up():
    calls = new_calls()
    for number in range(10_000):
        calls.take(add(calls, number, deadline=3600.0).request.id)
    assert len(calls._timers) < 2_000


def test_a_payload_that_is_a_view_of_numbers_goes_out_as_the_bytes_that_they_are():
    work, view = Work("tensor", 1, (1, 3, 2, 2)), np.arange(12, dtype=np.float32).data
    call = new_call(b"i" * 16, work, view, None, {}, 0.0)
    assert (len(call.payload), bytes(call.payload)) == (48, view.tobytes())
    with pytest.raises(BadInput, match="expected bytes that lie one after another"):
        new_call(b"i" * 16, work, view[::2], None, {}, 0.0)
