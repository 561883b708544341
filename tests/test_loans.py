"""A lone caller receives its own answer: who receives when, and what happens to everybody else."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import monotonic

import pytest

from bench.noop import noop_class
from hotpool import Client
from hotpool.errors import DeadlineExceeded, LocalProtocolError, QueueFull
from hotpool.inputs import picture_work
from tests.pool import eventually, running_pool
from tests.test_client import picture

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(autouse=True)
def only_woken(monkeypatch):
    """Nobody may need the borrower's own look, which ends a wait in the one case that can't be told otherwise."""
    monkeypatch.setattr("hotpool.courier.LOAN_LOOK_MS", 60_000)


@pytest.fixture(scope="module")
def pool():
    with running_pool(2, "[dispatch]\nheartbeat_s = 8.0\n") as running:
        yield running


@pytest.fixture
def client(pool):
    with pool.client() as connected:
        connected.classify(picture())
        yield connected
        for name in ("worker-0", "worker-1"):
            pool.kill(name, signal.SIGCONT)


def stop_workers(pool):
    for name in ("worker-0", "worker-1"):
        pool.kill(name, signal.SIGSTOP)


def go_on(pool):
    for name in ("worker-0", "worker-1"):
        pool.kill(name, signal.SIGCONT)


def ask(client: Client, n: int) -> int:
    return client.classify(picture(n), timeout_s=20).classes[0].index


def until_lent(client):
    eventually(lambda: client._courier._borrower is not None, "a caller receives")


def test_a_lone_caller_receives_its_answer_in_its_own_thread(client, monkeypatch):
    receivers = []
    receive = client._courier._exchange.receive

    def note(now):
        ended = receive(now)
        receivers.extend(threading.current_thread() for _ in ended.answered)
        return ended

    monkeypatch.setattr(client._courier._exchange, "receive", note)
    for n in range(200):
        assert ask(client, n % 8) == noop_class(n % 8, "v1")
    # The thread looks too at each of its timers, and until it has noticed that callers receive.
    assert receivers.count(threading.current_thread()) > 150


def test_a_call_that_comes_meanwhile_is_answered_although_the_first_waits_on(pool, client):
    stop_workers(pool)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, client, 1)
        until_lent(client)
        second = client.submit(picture(2), timeout_s=20)
        assert client._courier._borrower is None
        go_on(pool)
        assert first.result(10) == noop_class(1, "v1")
        assert second.result(10).classes[0].index == noop_class(2, "v1")


def test_a_caller_that_is_not_alone_leaves_the_receiving_to_the_thread(pool, client):
    stop_workers(pool)
    other = client.submit(picture(2), timeout_s=20)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, client, 1)
        eventually(lambda: len(client._courier._exchange.calls) == 2, "both calls are open")
        assert client._courier._borrower is None
        go_on(pool)
        assert waiting.result(10) == noop_class(1, "v1")
    assert other.result(10).classes[0].index == noop_class(2, "v1")


def test_a_deadline_ends_a_call_whose_caller_receives(pool, client):
    stop_workers(pool)
    begin = monotonic()
    with pytest.raises(DeadlineExceeded):
        client.classify(picture(), timeout_s=0.2)
    assert monotonic() - begin < 1.5, "not at the next heartbeat"


def test_a_future_after_lone_calls_does_not_wait_for_the_next_heartbeat(client):
    for n in range(20):
        ask(client, n % 8)
    assert client.submit(picture(3)).result(2.0).classes[0].index == noop_class(3, "v1")


def test_closing_ends_a_call_whose_caller_receives(pool, client):
    stop_workers(pool)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, client, 1)
        until_lent(client)
        client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            waiting.result(10)


@pytest.fixture
def heeded_ctrl_c():
    """Whoever starts the tests in the background of a shell starts them deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_ctrl_c_ends_only_the_call_of_the_caller_that_receives(pool, client):
    stop_workers(pool)
    later = []

    def interrupt():
        until_lent(client)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask(client, 1)
        interrupted.result(10)
        assert not len(client._courier._exchange.calls), (
            "it is called off: it would be sent again over the next session"
        )
        later = [client.submit(picture(n), timeout_s=20) for n in range(2, 5)]
        go_on(pool)
    assert [future.result(10).classes[0].index for future in later] == [noop_class(n, "v1") for n in range(2, 5)]
    assert ask(client, 5) == noop_class(5, "v1")


def test_a_loan_that_was_never_taken_up_holds_up_nobody(client):
    # As if a Ctrl-C had come between the post and the wait.
    _, given_up = client._post(*picture_work(picture(1), 3), lambda answer: answer, {}, waits=True)
    assert given_up.result(10)[0].version == "v1"
    assert ask(client, 2) == noop_class(2, "v1")


def test_threads_that_wait_and_futures_in_any_order_get_their_own_answers(client):
    print("seed 7")
    random = Random(7)
    turns = [[random.random() < 0.5 for _ in range(150)] for _ in range(5)]

    def run(n: int) -> set[int]:
        waits = (
            ask(client, n) if is_sync else client.submit(picture(n)).result(20).classes[0].index for is_sync in turns[n]
        )
        return set(waits)

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(run, range(5))) == [{noop_class(n, "v1")} for n in range(5)]


class HeldUp:
    """A poll whose caller gets on only when the gate is open."""

    def __init__(self, poller) -> None:
        self._poller, self.gate = poller, threading.Event()

    def poll(self, timeout_ms):
        ready = self._poller.poll(timeout_ms)
        self.gate.wait(30)
        return ready


def test_nobody_borrows_while_the_last_borrower_is_still_at_its_poll(pool, client):
    with client._courier._lock:
        held_up = client._courier._lent_poller = HeldUp(client._courier._lent_poller)
    stop_workers(pool)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, client, 1)
        eventually(lambda: client._courier._receiver is not None, "the first is in its loop")
        second = client.submit(picture(2), timeout_s=20)
        go_on(pool)
        assert second.result(10).classes[0].index == noop_class(2, "v1")
        eventually(lambda: not len(client._courier._exchange.calls), "both are answered")
        assert not first.done()
        assert threads.submit(ask, client, 3).result(10) == noop_class(3, "v1")
        held_up.gate.set()
        assert first.result(10) == noop_class(1, "v1")
    assert client._courier._receiver is None


class LateAt(HeldUp):
    """A poll that begins only when the gate is open."""

    def poll(self, timeout_ms):
        self.gate.wait(30)
        return self._poller.poll(timeout_ms)


def test_a_caller_whose_answer_the_thread_reads_before_its_poll_begins_is_told(pool, client):
    with client._courier._lock:
        late = client._courier._lent_poller = LateAt(client._courier._lent_poller)
    stop_workers(pool)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, client, 1)
        eventually(lambda: client._courier._receiver is not None, "it is in its loop")
        go_on(pool)

        def is_read():
            with client._courier._lock:
                client._courier._wake()
                return not len(client._courier._exchange.calls)

        eventually(is_read, "the thread has read the answer")
        eventually(lambda: not client._courier._is_woken, "and has turned")
        late.gate.set()
        assert waiting.result(4) == noop_class(1, "v1"), "not at the next heartbeat, after 8 s"


def test_a_lone_caller_is_answered_in_the_new_session_after_a_reopening(pool, client):
    ask(client, 0)
    with client._courier._lock:
        client._courier._begin_anew()
    eventually(lambda: client._courier._exchange.is_connected, "connected again")
    stop_workers(pool)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, client, 1)
        until_lent(client)
        go_on(pool)
        assert waiting.result(4) == noop_class(1, "v1"), "not at the next heartbeat, after 8 s"


def test_the_loss_of_the_broker_is_seen_at_once_and_a_lone_caller_does_not_spin_meanwhile():
    with running_pool(1, "[dispatch]\nheartbeat_s = 8.0\n") as pool, pool.client() as client:
        ask(client, 0)
        pool.kill("worker-0", signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, client, 3)
            until_lent(client)
            with client._courier._lock:
                client._courier._wake()  # it parks in its next turn, which would come with the next heartbeat
            eventually(lambda: client._courier._is_parked, "the thread waits for its timers")
            looks = 0
            receive_on_loan = client._courier._receive_on_loan

            def count():
                nonlocal looks
                looks += 1
                return receive_on_loan()

            client._courier._receive_on_loan = count
            pool.kill("broker")
            eventually(lambda: not client._courier._exchange.is_connected, "the loss is seen", patience_s=3)
            pool.start_broker()
            pool.kill("worker-0", signal.SIGCONT)
            assert waiting.result(15) == noop_class(3, "v1")
        assert looks < 200, "one for each session and each message"


def test_a_broker_that_is_killed_while_a_lone_caller_waits_loses_nothing():
    with running_pool(1) as pool, pool.client() as client:
        ask(client, 0)
        pool.kill("worker-0", signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, client, 3)
            until_lent(client)
            pool.kill("broker")
            pool.start_broker()
            pool.kill("worker-0", signal.SIGCONT)
            assert waiting.result(15) == noop_class(3, "v1")


def test_a_lone_caller_that_was_refused_tries_again_in_time():
    with running_pool(1, "[dispatch]\nqueue_max_requests = 1\nheartbeat_s = 8.0\n") as pool, pool.client() as other:
        other.classify(picture())
        pool.kill("worker-0", signal.SIGSTOP)
        held = [other.submit(picture(n), timeout_s=20) for n in range(2)]
        with pool.client() as client, ThreadPoolExecutor(1) as threads:
            eventually(lambda: client._courier._exchange.link.welcome is not None, "connected")
            with pytest.raises(QueueFull):
                client.classify(picture(), timeout_s=0.4)
            waiting = threads.submit(ask, client, 5)
            until_lent(client)
            pool.kill("worker-0", signal.SIGCONT)
            assert waiting.result(3) == noop_class(5, "v1")
        assert [future.result(5).classes[0].index for future in held] == [noop_class(n, "v1") for n in range(2)]
