"""The broker's rules one by one, on the core without sockets. Time is a number here."""

from typing import Any

import pytest

from broker.actions import Action, ExamineSilence, ToClient, ToWorker
from broker.core import FORGET_CLIENT_S, SWEEP_S, Core, Settings
from broker.dispatch import Limits
from hotpool import messages as m
from hotpool.states import Priority, WorkerState
from hotpool.wire import encode_body

WORK = encode_body(m.Work("picture"))
RESULT = encode_body(m.Result(((0, "cat", 1.0),)))
HEARTBEAT_S, LEASE_S, LOAD_S = 0.25, 10.0, 60.0
S = WorkerState


class Bench:
    """A core with one client and as many workers as asked for; remembers what was sent."""

    def __init__(
        self,
        workers: int = 1,
        *,
        max_batch: int = 1,
        max_requests: int = 100,
        max_bytes: int = 10_000,
        stable: str | None = "digest-v1",
    ) -> None:
        """stable: as the pointer said when the broker started; None: there was none yet."""
        pointers = {} if stable is None else {"shapes": stable}
        limits = Limits(max_requests, max_bytes, max_batch, max_attempts=3, lease_s=LEASE_S)
        self.core = Core(Settings(7, "shapes", pointers, HEARTBEAT_S, LOAD_S, 5_000, limits), now=0.0)
        self.now, self.n = 0.0, 0
        self.starves = False  # workers' processes wait for the processor, if anybody looks
        self.to_client: list[m.Message] = []
        self.to_worker: dict[str, list[m.Message]] = {}
        self.from_client(m.ClientHello(1, b"clientid"))
        for number in range(workers):
            self.hello(f"worker-{number}")
        self.to_client.clear()

    def do(self, actions: list[Action]) -> None:
        self.core.check()
        for action in actions:
            match action:
                case ToClient(_, message, _):
                    self.to_client.append(message)
                case ToWorker(connection, message, _):
                    self.to_worker.setdefault(connection.decode(), []).append(message)
                case ExamineSilence(worker, _, _):
                    self.core.examined(worker, is_runnable=self.starves)

    def from_client(self, message: m.FromClient, payload: bytes | None = None, connection: bytes = b"client") -> None:
        self.do(self.core.from_client(connection, message, payload, self.now))

    def from_worker(self, name: str, message: m.FromWorker) -> None:
        self.do(self.core.from_worker(name.encode(), message, None, self.now))

    def hello(self, name: str, version: str = "v1", incarnation: int = 1, *, cores: tuple[int, ...] = (0,)) -> None:
        pid, digest = 1000 + incarnation, f"digest-{version}"
        self.from_worker(
            name, m.WorkerHello(1, name, incarnation, pid, "shapes", version, digest, 0, cores, len(cores))
        )

    def submit(self, *, timeout_s: float = 5.0, payload: bytes = b"x" * 10, **fields: Any) -> bytes:
        self.n += 1
        request_id = b"clientid" + self.n.to_bytes(8, "big")
        request = {"model": None, "version": None, "priority": Priority.NORMAL, **fields}
        self.from_client(m.Request(request_id, budget_us=int(timeout_s * 1e6), work=WORK, **request), payload)
        return request_id

    def jobs(self, name: str = "worker-0") -> list[m.Job]:
        return [message for message in self.to_worker.get(name, []) if isinstance(message, m.Job)]

    def answer(self, name: str = "worker-0", index: int = -1) -> None:
        self.from_worker(name, m.Done(self.jobs(name)[index].job, 5_000, RESULT))

    def at(self, now: float) -> None:
        """Time passes in heartbeats, all living peers ping."""
        while self.now < now:
            self.now = min(now, self.now + SWEEP_S)
            for worker in list(self.core.roster):
                if worker.is_connected:
                    self.do(
                        self.core.from_worker(b"pulse", m.Pulse(worker.name, worker.incarnation, 1, 1), None, self.now)
                    )
            self.from_client(m.Ping())
            self.do(self.core.tick(self.now))
        self.to_client = [message for message in self.to_client if not isinstance(message, m.Pong)]

    def silence(self, until: float, every: float = SWEEP_S) -> float | None:
        """Time passes and nothing is heard from anybody; when worker-0 was lost. every: seconds between two ticks."""
        while self.now < until:
            self.now += every
            self.do(self.core.tick(self.now))
            if self.state() is S.DOWN:
                return self.now
        return None

    def order(self, make, *args, **fields) -> str:
        reply, actions = self.core.from_admin(make(1, *args, **fields), self.now)
        self.do(actions)
        assert isinstance(reply, m.Ack)
        return reply.code

    def state(self, name: str = "worker-0") -> WorkerState:
        return self.core.roster.workers[name].state

    @property
    def last(self) -> m.Message:
        return self.to_client[-1]


# ---- answers


def test_a_request_is_leased_at_once_and_its_answer_names_version_worker_and_times():
    bench = Bench()
    request_id = bench.submit()
    bench.now = 0.03
    bench.answer()
    reply = bench.last
    assert isinstance(reply, m.Reply)
    assert (reply.id, reply.version, reply.digest) == (request_id, "v1", "digest-v1")
    assert (reply.worker, reply.attempt, reply.queue_us, reply.service_us) == ("worker-0", 1, 0, 5_000)


def test_whoever_waits_for_one_request_is_not_woken_by_the_deadlines_of_answered_ones():
    bench = Bench()
    for _ in range(3):
        bench.submit(timeout_s=0.04)
        bench.answer()
        bench.now += 0.001
    bench.submit(timeout_s=5.0)
    assert bench.core.dispatch.next_deadline() == bench.now + 5.0
    bench.submit(timeout_s=0.5)
    assert bench.core.dispatch.next_deadline() == bench.now + 0.5


def answers_took(*seconds: float, cores: tuple[int, ...] = (0,), batch: int = 1) -> Bench:
    """Two workers, of which the second, on core 1, has answered after so long each time; at 1.0 it has the next request."""
    bench = Bench(workers=0)
    bench.hello("worker-0", cores=cores)
    bench.hello("worker-1", cores=(1,))
    for took_s in seconds:
        bench.submit()
        bench.now += took_s
        bench.from_worker("worker-1", m.Done(bench.jobs("worker-1")[-1].job, 5_000, RESULT, batch=batch))
    bench.now = 1.0
    bench.submit()
    assert len(bench.jobs("worker-1")) == 1 + len(seconds)
    return bench


def next_answer(bench: Bench) -> tuple[float, float] | None:
    return bench.core.dispatch.next_answer()


@pytest.mark.parametrize(("took_s", "margin_s"), [(0.002, 0.0001), (0.01, 0.0005), (0.2, 0.0005)])
def test_the_answer_to_a_lone_request_is_expected_when_the_last_one_of_its_worker_came(took_s, margin_s):
    window = pytest.approx((1.0 + took_s - margin_s, 1.0 + took_s + margin_s), abs=1e-9)
    assert next_answer(answers_took(0.05, took_s)) == window
    assert next_answer(answers_took(0.001, took_s)) == window


def test_no_answer_is_expected_when_no_request_is_under_way_or_more_than_one_are():
    bench = answers_took(0.01)
    bench.submit()
    assert next_answer(bench) is None
    bench.answer("worker-0")
    assert next_answer(bench) is not None
    bench.answer("worker-1")
    assert next_answer(bench) is None


@pytest.mark.parametrize("cores", [(1,), ()], ids=["the same core", "no core of its own"])
def test_no_answer_is_waited_for_awake_where_no_other_worker_leaves_its_core_idle(cores):
    assert next_answer(answers_took(0.01, cores=cores)) is None


def test_no_answer_is_waited_for_awake_while_the_other_worker_is_drained_or_loads_beside():
    bench = answers_took(0.01)
    assert bench.order(m.Drain, 1, "worker-0") == ""
    assert next_answer(bench) is None
    bench = answers_took(0.01)
    assert bench.order(m.LoadVersion, 1, "worker-0", digest="digest-v2", token="t1", beside=True) == ""
    assert next_answer(bench) is None


def test_no_answer_is_waited_for_awake_on_a_core_that_another_worker_needs():
    bench = answers_took(0.01)
    bench.hello("worker-2", cores=(0, 1))  # as a spare: it has them all
    assert next_answer(bench) is not None
    assert bench.order(m.LoadVersion, 1, "worker-0", digest="digest-v2", token="t1", beside=True) == ""
    assert next_answer(bench) is None


def test_no_answer_is_waited_for_awake_while_a_worker_computes_what_nobody_waits_for():
    bench = answers_took(0.01)
    bench.hello("worker-2", cores=(2,))
    bench.from_client(m.Cancel(b"clientid" + bench.n.to_bytes(8, "big")))
    assert next_answer(bench) is None, "none is under way"
    bench.submit()
    assert next_answer(bench) is None, "two workers compute"
    bench = answers_took(0.01)
    bench.order(m.Drain, 1, "worker-0")
    bench.from_client(m.Cancel(b"clientid" + bench.n.to_bytes(8, "big")))
    bench.submit(priority=Priority.LOW)
    bench.hello("worker-2", version="v2", cores=(2,))
    assert (bench.core.dispatch.queued, next_answer(bench)) == (1, None), "what is under way is not the request"


@pytest.mark.parametrize("after", ["batch", "new process"])
def test_what_a_batch_or_an_earlier_process_took_says_nothing_of_a_lone_request(after):
    bench = answers_took(0.01, batch=4 if after == "batch" else 1)
    if after == "new process":
        assert next_answer(bench) is not None
        bench.hello("worker-1", incarnation=2, cores=(1,))  # its request goes to worker-0
        bench.answer("worker-0")
        assert bench.order(m.Drain, 1, "worker-0") == ""
        bench.submit()
        assert bench.order(m.Undrain, 1, "worker-0") == ""
    assert next_answer(bench) is None


def test_without_a_hello_a_client_is_asked_who_it_is():
    bench = Bench()
    bench.from_client(m.Ping(), connection=b"stranger")
    assert isinstance(bench.last, m.Who)


def test_the_same_id_again_is_not_computed_again_and_the_answer_follows_the_new_connection():
    bench = Bench()
    request_id = bench.submit()
    bench.from_client(m.ClientHello(1, b"clientid"), connection=b"again")
    bench.from_client(m.Request(request_id, None, None, 1, 10**6, WORK, resend=1), b"x", connection=b"again")
    actions = bench.core.from_worker(b"worker-0", m.Done(bench.jobs()[0].job, 1, RESULT), None, 0.0)
    assert len(bench.jobs()) == 1
    assert [action.connection for action in actions if isinstance(action, ToClient)] == [b"again"]


def test_an_error_of_the_worker_reaches_the_caller():
    bench = Bench()
    bench.submit()
    bench.from_worker("worker-0", m.Failed(bench.jobs()[0].job, 1, "bad_image", "truncated", "no"))
    assert isinstance(bench.last, m.ErrorReply)
    assert (bench.last.code, bench.last.message) == ("bad_image", "truncated")


def test_an_answer_to_a_job_of_another_worker_is_dropped():
    bench = Bench(workers=2)
    bench.submit()
    holder, other = ("worker-0", "worker-1") if bench.jobs("worker-0") else ("worker-1", "worker-0")
    bench.from_worker(other, m.Done(bench.jobs(holder)[0].job, 1, RESULT))
    assert not bench.to_client
    assert bench.core.metrics.late[()] == 1


# ---- who gets it


def test_work_goes_to_the_free_worker_that_computed_last():
    bench = Bench(workers=3)
    for _ in range(3):
        bench.submit()
    for name in ("worker-2", "worker-0", "worker-1"):
        bench.answer(name)
    order = []
    for _ in range(3):
        before = {name: len(bench.jobs(name)) for name in ("worker-0", "worker-1", "worker-2")}
        bench.submit()
        order.append(next(name for name, n in before.items() if len(bench.jobs(name)) > n))
    assert order == ["worker-1", "worker-0", "worker-2"]


def test_a_free_worker_takes_what_is_queued_up_to_its_batch():
    bench = Bench(max_batch=4)
    for _ in range(7):
        bench.submit()
    assert len(bench.jobs()) == 1
    bench.answer()
    assert len(bench.jobs()) == 5
    assert bench.core.dispatch.queued == 2


def test_each_job_says_how_many_of_its_batch_come_behind_it():
    bench = Bench(max_batch=4)
    for _ in range(6):
        bench.submit()
    assert [job.behind for job in bench.jobs()] == [0], "a free worker has the first at once, with nothing behind it"
    bench.answer()
    assert [job.behind for job in bench.jobs()[1:]] == [3, 2, 1, 0]


def test_a_busy_worker_gets_nothing_more_until_its_whole_batch_is_answered():
    bench = Bench(max_batch=2)
    for _ in range(5):
        bench.submit()
    bench.answer()
    bench.answer(index=1)
    assert len(bench.jobs()) == 3
    bench.answer(index=2)
    assert len(bench.jobs()) == 5


def test_several_free_workers_share_what_comes_back():
    bench = Bench(workers=1, max_batch=4)
    for _ in range(5):
        bench.submit()
    bench.answer()
    assert len(bench.core.roster.workers["worker-0"].leases) == 4
    bench.hello("worker-1")
    bench.hello("worker-2")
    bench.do(bench.core.lose(bench.core.roster.workers["worker-0"], "new session", 0.0))
    assert [len(bench.core.roster.workers[name].leases) for name in ("worker-1", "worker-2")] == [2, 2]


def test_a_request_that_names_a_version_waits_for_a_worker_that_has_it():
    bench = Bench(workers=1)
    bench.submit(version="v2")
    assert not bench.jobs()
    bench.hello("worker-1", version="v2")
    assert len(bench.jobs("worker-1")) == 1


def test_high_goes_before_normal():
    bench = Bench()
    bench.submit()
    bench.submit(payload=b"normal")
    high = bench.submit(priority=Priority.HIGH)
    bench.answer()
    bench.answer()
    assert bench.last.id == high


# ---- limits and deadlines


def test_a_full_queue_refuses_with_a_time_to_come_back():
    bench = Bench(max_requests=2)
    for _ in range(4):
        bench.submit()
    assert (bench.last.code, bench.last.executed) == ("queue_full", "no")
    assert bench.last.retry_after_us > 0
    assert "2 requests of 2 requests" in bench.last.message
    assert bench.core.dispatch.n_pending == 3


def test_the_queue_is_also_bounded_by_bytes():
    bench = Bench(max_bytes=2_000)
    for _ in range(4):
        bench.submit(payload=b"x" * 900)
    assert bench.last.code == "queue_full"
    assert "1800 bytes of 2000 bytes" in bench.last.message


def test_a_free_worker_serves_even_when_one_payload_exceeds_the_queue():
    bench = Bench(max_bytes=100)
    bench.submit(payload=b"x" * 1_000)
    assert len(bench.jobs()) == 1


def test_a_payload_over_the_limit_is_refused_with_both_figures():
    bench = Bench()
    bench.submit(payload=b"x" * 5_001)
    assert bench.last.code == "too_large"
    assert "5001 bytes, at most 5000" in bench.last.message


def test_an_unknown_model_is_refused():
    bench = Bench()
    bench.submit(model="cats")
    assert bench.last.code == "unknown_model"


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_request_expires_at_its_deadline_and_the_error_says_where_it_was(n_workers):
    bench = Bench(workers=n_workers)
    bench.submit(timeout_s=1.0)
    bench.at(0.99)
    assert not bench.to_client
    bench.at(1.01)
    held = ("deadline_exceeded", "still computing", "maybe")
    code, text, executed = held if n_workers else ("no_ready_worker", "no worker of model 'shapes' became ready", "no")
    assert (bench.last.code, bench.last.executed) == (code, executed)
    assert text in bench.last.message


def test_the_worker_of_an_expired_request_stays_busy_until_it_answers():
    bench = Bench()
    bench.submit(timeout_s=1.0)
    bench.at(1.01)
    bench.submit()
    assert len(bench.jobs()) == 1
    bench.answer()
    assert len(bench.jobs()) == 2


def test_a_lease_carries_what_is_left_of_the_deadline():
    bench = Bench()
    bench.submit()
    bench.submit(timeout_s=5.0)
    bench.now = 2.0
    bench.answer()
    assert bench.jobs()[-1].budget_us == 3_000_000


def test_after_a_cancel_nothing_more_comes():
    bench = Bench()
    leased, queued = bench.submit(), bench.submit()
    for request_id in (leased, queued):
        bench.from_client(m.Cancel(request_id))
    bench.answer()
    assert not bench.to_client
    assert bench.core.dispatch.n_pending == 0
    assert len(bench.jobs()) == 1


def test_a_stranger_cannot_cancel():
    bench = Bench()
    request_id = bench.submit()
    bench.from_client(m.ClientHello(1, b"stranger"), connection=b"stranger")
    bench.from_client(m.Cancel(request_id), connection=b"stranger")
    bench.answer()
    assert isinstance(bench.last, m.Reply)


def test_the_requests_of_a_client_that_is_gone_are_dropped():
    bench = Bench(workers=0)
    bench.submit(timeout_s=1000)
    bench.now = FORGET_CLIENT_S / 2
    bench.do(bench.core.tick(bench.now))
    for _ in range(200):
        bench.now += 0.2
        bench.do(bench.core.tick(bench.now))
    assert bench.core.dispatch.n_pending == 0


# ---- lost workers


def test_the_leases_of_a_lost_worker_go_to_another_first_in_line():
    bench = Bench(workers=2)
    first = bench.submit()
    holder, other = ("worker-0", "worker-1") if bench.jobs("worker-0") else ("worker-1", "worker-0")
    bench.submit()
    bench.submit()
    bench.do(bench.core.lose(bench.core.roster.workers[holder], "exit", 0.0))
    bench.answer(other)
    bench.answer(other)
    assert bench.last.id == first
    assert bench.last.attempt == 2


def test_a_request_that_ended_two_workers_is_poison():
    bench = Bench(workers=3)
    bench.submit()
    for _ in range(2):
        holder = next(worker for worker in bench.core.roster if worker.leases)
        bench.do(bench.core.lose(holder, "exit", 0.0))
    assert bench.last.code == "poison_request"
    assert "ended 2 workers" in bench.last.message


def test_after_three_attempts_a_request_fails_even_if_it_was_never_to_blame():
    bench = Bench(workers=4)
    bench.submit()
    for _ in range(3):
        holder = next(worker for worker in bench.core.roster if worker.leases)
        bench.do(bench.core.lose(holder, "new session", 0.0))
    assert bench.last.code == "worker_lost"


def test_a_suspect_waits_when_another_goes_first():
    bench = Bench(max_batch=4)
    suspect = bench.submit(priority=Priority.LOW)
    bench.do(bench.core.lose(bench.core.roster.workers["worker-0"], "exit", 0.0))
    other = bench.submit(priority=Priority.HIGH)
    bench.to_worker.clear()
    bench.hello("worker-0", incarnation=2)
    assert len(bench.jobs()) == 1
    bench.answer()
    assert bench.last.id == other
    bench.answer()
    assert bench.last.id == suspect


def test_who_was_in_a_lost_batch_is_tried_alone():
    bench = Bench(workers=1, max_batch=4)
    for _ in range(4):
        bench.submit()
    bench.answer()
    assert len(bench.core.roster.workers["worker-0"].leases) == 3
    bench.hello("worker-1")
    bench.do(bench.core.lose(bench.core.roster.workers["worker-0"], "exit", 0.0))
    assert len(bench.core.roster.workers["worker-1"].leases) == 1
    assert bench.core.dispatch.queued == 2


def test_a_worker_that_stops_in_good_order_is_never_blamed():
    bench = Bench(workers=2)
    bench.submit()
    holder = next(worker for worker in bench.core.roster if worker.leases)
    bench.from_worker(holder.name, m.Leaving())
    bench.do(bench.core.lose(holder, "exit", 0.0))
    other = next(worker for worker in bench.core.roster if worker.leases)
    bench.do(bench.core.lose(other, "exit", 0.0))
    assert not bench.to_client


def test_a_silent_worker_is_lost_after_four_heartbeats_and_its_process_is_to_be_ended():
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.submit()
    assert bench.silence(until=2.0) == pytest.approx(4 * HEARTBEAT_S, abs=2 * SWEEP_S)
    assert m.Kill("worker-0", 1, "silent") in bench.to_worker["supervisor"]


def test_a_starved_worker_hands_its_request_on_unblamed_and_says_hello_again():
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.submit(timeout_s=100)
    bench.starves = True
    for times in range(1, 6):
        assert bench.silence(until=bench.now + 2.0) is not None
        assert bench.core.metrics.workers_lost == {("starved",): times}
        bench.from_worker("worker-0", m.Ping())
        assert bench.to_worker["worker-0"][-1] == m.Who()
        bench.hello("worker-0")
        assert len(bench.jobs()) == 1 + times, (
            "two deaths with it alone would make it a poison request, three losses an error"
        )
    bench.answer()
    assert isinstance(bench.last, m.Reply)
    assert not [message for message in bench.to_worker["supervisor"] if isinstance(message, m.Kill)]


def test_a_starved_worker_that_does_not_come_back_is_ended_as_one_that_hangs():
    bench = Bench()
    seats = m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),))
    bench.starves = True
    assert bench.silence(until=2.0) is not None
    bench.from_worker("supervisor", seats)
    assert bench.state() is S.STARTING
    bench.at(bench.now + LOAD_S - 1)
    assert m.Kill("worker-0", 1, "hung") not in bench.to_worker["supervisor"]
    bench.at(bench.now + 2)
    assert m.Kill("worker-0", 1, "hung") in bench.to_worker["supervisor"]


@pytest.mark.parametrize("found", [(True, False), (False, True)])
def test_a_worker_that_one_look_does_not_find_starved_is_silent(found):
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.starves = found[0]
    assert bench.silence(until=3.5 * HEARTBEAT_S) is None
    bench.starves = found[1]
    assert bench.silence(until=2.0) == pytest.approx(4 * HEARTBEAT_S, abs=2 * SWEEP_S)
    assert m.Kill("worker-0", 1, "silent") in bench.to_worker["supervisor"]


def test_a_pulse_that_comes_late_says_nothing_of_the_next_process():
    """Of a worker that was given up: the next one has as long to say hello as any."""
    bench = Bench()
    seats = m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),))
    bench.from_worker("supervisor", seats)
    assert bench.silence(until=2.0) is not None
    bench.from_worker("pulse", m.Pulse("worker-0", 1, 1, 1))
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 2, 1002, {}),)))
    bench.silence(until=bench.now + 5.0)
    assert bench.state() is S.STARTING


def test_one_look_alone_judges_nobody():
    """A broker that has no time for looks until the fourth heartbeat is over: it ticks just before the third is, and then so
    late that there is no time left, but not so late that it takes it for a pause of its own."""
    bench = Bench()
    bench.starves = True
    before_looks = 3 * HEARTBEAT_S - 0.01  # in ten ticks; a sum of ten may be a little less
    assert bench.silence(until=before_looks - 1e-6, every=before_looks / 10) is None
    assert bench.silence(until=4 * HEARTBEAT_S, every=HEARTBEAT_S + 0.02) is None
    bench.starves = False
    bench.silence(until=bench.now + 3 * SWEEP_S)
    assert bench.core.metrics.workers_lost == {("silent",): 1}


def test_what_looks_have_found_is_forgotten_when_the_worker_is_heard():
    bench = Bench()
    bench.starves = True
    assert bench.silence(until=3.8 * HEARTBEAT_S) is None
    bench.from_worker("worker-0", m.Ping())
    bench.starves = False
    bench.silence(until=10.0)
    assert bench.core.metrics.workers_lost == {("silent",): 1}


def test_a_worker_whose_lease_runs_out_hangs_and_is_ended_although_its_heart_beats():
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.submit(timeout_s=100)
    bench.at(LEASE_S - 0.1)
    assert bench.state() is S.READY
    bench.at(LEASE_S + 0.2)
    assert bench.state() is S.DOWN
    assert m.Kill("worker-0", 1, "hung") in bench.to_worker["supervisor"]


def test_a_process_that_was_given_up_does_not_come_back():
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.submit(timeout_s=100)
    bench.at(LEASE_S + 0.2)
    bench.hello("worker-0", incarnation=1)
    assert bench.state() is S.DOWN
    bench.hello("worker-0", incarnation=2)
    assert bench.state() is S.READY


def test_after_a_pause_of_its_own_the_broker_does_not_take_others_for_dead():
    bench = Bench(workers=2)
    bench.submit(timeout_s=100)
    bench.now = 60.0
    bench.do(bench.core.tick(bench.now))
    assert {worker.state for worker in bench.core.roster} == {S.READY}
    assert bench.silence(until=70.0) == pytest.approx(60.0 + 4 * HEARTBEAT_S, abs=2 * SWEEP_S)


# ---- drain, load, rejoin


def test_drain_waits_for_the_open_leases_and_gives_no_new_ones():
    bench = Bench(workers=2)
    bench.submit()
    holder = next(worker for worker in bench.core.roster if worker.leases)
    assert bench.order(m.Drain, 1, holder.name) == ""
    assert holder.state is S.DRAINING
    for _ in range(3):
        bench.submit()
    assert len(holder.leases) == 1
    bench.answer(holder.name)
    assert holder.state is S.DRAINED
    assert not holder.leases


def test_every_order_may_be_repeated():
    bench = Bench(workers=2)
    for _ in range(2):
        assert bench.order(m.Drain, 1, "worker-0") == ""
    for _ in range(2):
        assert bench.order(m.LoadVersion, 1, "worker-0", "digest-v2", "token-1") == ""
    assert len([x for x in bench.to_worker["worker-0"] if isinstance(x, m.Load)]) == 1
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    for _ in range(2):
        assert bench.order(m.Undrain, 1, "worker-0") == ""
    assert bench.state() is S.READY
    assert bench.core.roster.workers["worker-0"].version == "v2"


def test_a_drain_that_would_break_the_floor_is_refused():
    bench = Bench(workers=2)
    assert bench.order(m.Drain, 1, "worker-0", floor=1) == ""
    assert bench.order(m.Drain, 1, "worker-1", floor=1) == "conflict"
    assert bench.state("worker-1") is S.READY


def test_a_worker_that_is_not_drained_does_not_load():
    bench = Bench()
    assert bench.order(m.LoadVersion, 1, "worker-0", "digest-v2", "token-1") == "conflict"


def test_a_refused_load_keeps_the_old_version_and_says_why():
    bench = Bench(workers=2)
    bench.order(m.Drain, 1, "worker-0")
    bench.order(m.LoadVersion, 1, "worker-0", "digest-v2", "token-1")
    bench.from_worker("worker-0", m.LoadState("token-1", "verifying"))
    assert bench.state() is S.VERIFYING
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v1", "digest-v1", 10, 10, "golden outputs differ"))
    worker = bench.core.roster.workers["worker-0"]
    assert (worker.state, worker.version, worker.load_reason) == (S.DRAINED, "v1", "golden outputs differ")


def beside(bench: Bench, name: str = "worker-0", token: str = "token-1") -> str:
    return bench.order(m.LoadVersion, 1, name, "digest-v2", token, beside=True)


def admit(bench: Bench, target: str | None = "digest-v2") -> None:
    bench.order(m.SetVersions, 1, "shapes", "digest-v1", target, {"v1": "digest-v1", "v2": "digest-v2"})


def orders(bench: Bench, name: str = "worker-0") -> list[str]:
    """Kinds of messages that the worker got since its hello."""
    return [type(message).__name__ for message in bench.to_worker[name] if not isinstance(message, m.Welcome)]


def test_a_ready_worker_loads_beside_and_stays_ready():
    bench = Bench()
    admit(bench)
    bench.core.take_changes(bench.now)
    for _ in range(2):
        assert beside(bench) == ""
    worker = bench.core.roster.workers["worker-0"]
    assert (worker.state, worker.report().beside, orders(bench)) == (S.READY, "loading", ["Load"])
    assert bench.to_worker["worker-0"][-1] == m.Load("token-1", "digest-v2", 1, beside=True)
    bench.from_worker("worker-0", m.LoadState("token-1", "verifying"))
    assert worker.report().beside == "verifying"
    bench.submit()
    bench.answer()
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    assert (worker.state, worker.version, worker.report().beside) == (S.READY, "v2", "")
    assert orders(bench) == ["Load", "Job", "Serve"]
    changes = bench.core.take_changes(bench.now)
    assert {(change.before, change.after, change.ready) for change in changes} == {(S.READY, S.READY, 1)}
    assert [change.version for change in changes] == ["v1", "v1", "v2"]


def test_an_answer_names_what_served_when_its_job_was_sent():
    bench = Bench(max_batch=2)
    admit(bench)
    beside(bench)
    for version in ("v1", None):
        bench.submit(version=version)
    bench.submit(version="v1")
    bench.submit(version="v2")
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    assert orders(bench) == ["Load", "Job", "Serve"], "one batch at a time"
    bench.answer()
    assert orders(bench) == ["Load", "Job", "Serve", "Job", "Job"], "the rest that v2 may answer"
    bench.answer(index=1)
    bench.answer(index=2)
    versions = [(reply.version, reply.digest) for reply in bench.to_client if isinstance(reply, m.Reply)]
    assert versions == [("v1", "digest-v1"), ("v2", "digest-v2"), ("v2", "digest-v2")]
    assert bench.core.dispatch.queued == 1, "v1 is asked for, and nobody serves it any more"


def test_an_idle_worker_gets_what_waited_for_the_new_version_after_the_order_to_serve_it():
    bench = Bench()
    admit(bench)
    beside(bench)
    bench.submit(version="v2")
    assert orders(bench) == ["Load"]
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    assert orders(bench) == ["Load", "Serve", "Job"]


def test_only_a_ready_worker_loads_beside_and_only_what_may_serve():
    bench = Bench(workers=2)
    admit(bench, target=None)
    assert beside(bench) == "unknown_version"
    admit(bench)
    bench.order(m.Drain, 1, "worker-0")
    assert beside(bench) == "conflict"
    bench.order(m.Undrain, 1, "worker-0")
    assert beside(bench) == ""
    assert beside(bench, token="token-2") == "conflict", "one load at a time"
    assert bench.order(m.LoadVersion, 0, "worker-1", "digest-v2", "token-3", beside=True) == "stale_epoch"


def test_a_refused_load_beside_changes_nothing_but_the_report():
    bench = Bench()
    admit(bench)
    beside(bench)
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v1", "digest-v1", 0, 0, "golden outputs differ"))
    worker = bench.core.roster.workers["worker-0"].report()
    assert (worker.state, worker.version, worker.beside) == (S.READY, "v1", "")
    assert (worker.token, worker.load_reason) == ("token-1", "golden outputs differ")
    assert "Serve" not in orders(bench)


def test_what_may_not_serve_any_more_when_its_load_ends_is_not_swapped_in():
    bench = Bench()
    admit(bench)
    beside(bench)
    admit(bench, target=None)
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    worker = bench.core.roster.workers["worker-0"].report()
    assert (worker.state, worker.version, worker.load_reason) == (
        S.READY, "v1", "v2 may not serve any more; v1 was kept",
    )  # fmt: skip
    assert bench.to_worker["worker-0"][-1] == m.Serve("token-1", "digest-v1"), "or both would stay in memory"


@pytest.mark.parametrize("state", [S.READY, S.DRAINED])
def test_a_worker_that_comes_in_the_middle_of_a_load_is_known_to_load(state: WorkerState):
    """The broker was restarted. It learns what is under way, gives it the time of a load, and hears how it ends."""
    bench = Bench(workers=0)
    bench.order(m.SetVersions, 1, "shapes", "digest-v1" if state is S.READY else "digest-v0", "digest-v2", {})
    bench.from_worker(
        "worker-0",
        m.WorkerHello(1, "worker-0", 1, 1001, "shapes", "v1", "digest-v1", 1, (0,), 1, "token-0", "bad", "token-1"),
    )
    worker = bench.core.roster.workers["worker-0"]
    assert (worker.state, worker.report().beside, worker.token, worker.load_reason) == (state, "loading", "token-1", "")
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 10, 10))
    assert (worker.state, worker.version) == (state, "v2")
    assert orders(bench) == ["Serve"]


def test_a_load_beside_that_takes_too_long_has_failed_and_neither_worker_nor_request_is_the_worse_for_it():
    bench = Bench(workers=2)
    bench.from_worker("supervisor", m.Seats("shapes", tuple(m.Seat(f"worker-{n}", 1, 1001, {}) for n in range(2))))
    admit(bench)
    beside(bench)
    beside(bench, "worker-1")
    bench.at(LOAD_S - 1)
    asked = bench.submit(timeout_s=2 * LOAD_S)
    holder = next(worker.name for worker in bench.core.roster if worker.leases)
    bench.at(LOAD_S + 1)
    assert [bench.state(f"worker-{n}") for n in range(2)] == [S.READY, S.READY]
    report = next(worker for worker in bench.core.roster if worker.name == holder).report()
    assert (report.beside, report.load_reason, report.version) == ("", "", "v1")
    assert not any(isinstance(message, m.Kill) for message in bench.to_worker["supervisor"])
    bench.answer(holder)
    assert (bench.last.id, bench.last.version) == (asked, "v1")


def test_what_was_loaded_too_late_is_let_go_of():
    bench = Bench(workers=2)
    admit(bench)
    beside(bench)
    bench.at(LOAD_S + 1)
    bench.from_worker("worker-0", m.LoadEnded("token-1", "v2", "digest-v2", 1, 1))
    assert bench.to_worker["worker-0"][-1] == m.Serve("token-1", "digest-v1")
    assert bench.core.roster.workers["worker-0"].digest == "digest-v1"


def test_the_leases_of_a_worker_lost_in_a_load_beside_go_to_another():
    bench = Bench(workers=2)
    admit(bench)
    bench.submit()
    holder = next(worker for worker in bench.core.roster if worker.leases)
    beside(bench, holder.name)
    bench.do(bench.core.worker_gone(holder.name.encode(), bench.now))
    assert (holder.state, holder.report().beside) == (S.DOWN, "")
    other = next(worker for worker in bench.core.roster if worker is not holder)
    assert len(other.leases) == 1


def test_a_load_that_never_ends_is_ended():
    bench = Bench(workers=2)
    bench.order(m.Drain, 1, "worker-0")
    bench.order(m.LoadVersion, 1, "worker-0", "digest-v2", "token-1")
    bench.at(LOAD_S + 0.2)
    assert bench.state() is S.DOWN


def test_a_version_that_is_not_admitted_gets_no_request():
    bench = Bench(workers=1)
    bench.order(m.SetVersions, 1, "shapes", "digest-v1", None, {"v1": "digest-v1"})
    bench.hello("worker-1", version="v2")
    assert bench.state("worker-1") is S.DRAINED
    assert bench.order(m.Undrain, 1, "worker-1") == "unknown_version"


def test_when_a_version_is_withdrawn_its_workers_drain_and_its_requests_fail():
    bench = Bench(workers=1)
    bench.order(m.SetVersions, 1, "shapes", "digest-v1", "digest-v2", {"v1": "digest-v1", "v2": "digest-v2"})
    bench.hello("worker-1", version="v2")
    bench.submit(version="v2")
    waiting = bench.submit(version="v2")
    bench.order(m.SetVersions, 1, "shapes", "digest-v1", None, {"v1": "digest-v1", "v2": "digest-v2"})
    assert (bench.last.id, bench.last.code) == (waiting, "unknown_version")
    bench.answer("worker-1")
    assert bench.state("worker-1") is S.DRAINED


def test_a_lower_epoch_is_refused_everywhere():
    bench = Bench(workers=2)
    bench.order(m.SetVersions, 5, "shapes", "digest-v1", None, {})
    orders = [
        (m.Drain, 4, "worker-0"),
        (m.Undrain, 4, "worker-0"),
        (m.LoadVersion, 4, "worker-0", "digest-v2", "t"),
        (m.SetVersions, 4, "shapes", "digest-v2", None, {}),
    ]
    assert {bench.order(*order) for order in orders} == {"stale_epoch"}


def test_a_worker_that_leaves_is_released_when_its_last_lease_closes():
    bench = Bench()
    bench.submit()
    bench.from_worker("worker-0", m.Leaving())
    assert m.Released() not in bench.to_worker["worker-0"]
    bench.answer()
    assert bench.to_worker["worker-0"][-1] == m.Released()
    bench.submit()
    assert len(bench.jobs()) == 1


# ---- the report


def test_the_report_tells_states_queue_and_counts():
    bench = Bench(workers=2)
    for _ in range(5):
        bench.submit()
    bench.answer()
    report, _ = bench.core.from_admin(m.GetReport(9), 1.0)
    assert isinstance(report, m.Report)
    assert (report.seq, report.queue.requests, report.queue.bytes) == (9, 2, 20)
    assert [(w.worker, w.state, w.in_flight, w.served) for w in report.workers] == [
        ("worker-0", S.READY, 1, 1),
        ("worker-1", S.READY, 1, 0),
    ]
    by_name = {family.name: family for family in report.metrics}
    ok = by_name["hotpool_requests_total"].samples[0]
    assert (ok.labels, ok.value) == ({"model": "shapes", "version": "v1", "outcome": "ok"}, 1.0)
    assert by_name["hotpool_queue_requests"].samples[0].value == 2


def test_every_change_of_state_is_told_with_its_cause_and_how_many_are_ready():
    bench = Bench(workers=2)
    bench.core.take_changes(0.0)
    bench.order(m.Drain, 1, "worker-0")
    changes = bench.core.take_changes(2.0)
    assert [(c.worker, c.before, c.after, c.cause, c.ready, c.at_us) for c in changes] == [
        ("worker-0", "ready", "draining", "ordered", 1, 2_000_000),
        ("worker-0", "draining", "drained", "ordered", 1, 2_000_000),
    ]


def test_the_order_to_end_a_process_is_repeated_until_it_is_gone():
    bench = Bench()
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    bench.submit(timeout_s=100)
    bench.at(LEASE_S + 0.2)
    kill = m.Kill("worker-0", 1, "hung")
    before = bench.to_worker["supervisor"].count(kill)
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 1, 1001, {}),)))
    assert bench.to_worker["supervisor"].count(kill) == before + 1
    bench.from_worker("supervisor", m.Seats("shapes", (m.Seat("worker-0", 2, 1002, {}),)))
    assert bench.to_worker["supervisor"].count(kill) == before + 1


def test_answered_requests_with_long_timeouts_do_not_pile_up():
    bench = Bench()
    for _ in range(5_000):
        bench.submit(timeout_s=3600)
        bench.answer()
    assert len(bench.core.dispatch._deadlines) < 2_000


def test_a_report_of_seats_that_names_a_connected_worker_twice_is_no_harm():
    bench = Bench()
    newer = m.Seat("worker-0", 2, 0, {})
    bench.from_worker("supervisor", m.Seats("shapes", (newer, newer)))
    assert bench.state() is S.DOWN


def test_error_texts_fit_the_wire_however_many_workers_there_are():
    bench = Bench(workers=300)
    for worker in list(bench.core.roster):
        bench.do(bench.core.lose(worker, "exit", 0.0))
    bench.submit(timeout_s=0.5)
    bench.at(0.6)
    assert "300 down" in bench.last.message
    for number in range(40):
        model = f"{number:0100}"
        bench.from_worker(model, m.WorkerHello(1, model, 1, 1, model, "v1", "d" * 64, 0, (0,), 1))
    bench.submit(model="cats")  # the answer names all models that are served: 4,000 characters
    assert len(bench.last.message) == m.MAX_TEXT


def test_a_request_without_any_time_left_reaches_no_worker_though_one_is_free():
    bench = Bench()
    bench.submit(timeout_s=0.0)
    assert (bench.last.code, bench.jobs()) == ("deadline_exceeded", [])
    bench.submit()
    assert len(bench.jobs()) == 1


def test_versions_that_are_gone_leave_nothing_behind_among_the_free():
    bench = Bench()
    for number in range(2, 20):
        bench.do(bench.core.lose(bench.core.roster.workers["worker-0"], "exit", 0.0))
        bench.hello("worker-0", version=f"v{number}", incarnation=number)
    assert list(bench.core.roster._free["shapes"]) == ["digest-v19"]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_what_expired_is_counted_under_its_own_name(n_workers):
    bench = Bench(workers=n_workers)
    bench.submit(timeout_s=0.5)
    bench.at(0.6)
    report, _ = bench.core.from_admin(m.GetReport(9), 1.0)
    assert isinstance(report, m.Report)
    by_name = {family.name: family for family in report.metrics}
    assert by_name["hotpool_expired_total"].samples[0].value == 1
