"""Which process sits in which seat: forks, signals, restarts by cause, notes."""

import random
import signal

import pytest

from hotpool.wire import MAX_HEADER_BYTES, encode
from workers.orders import BOOT_FAILED, BROKER_GONE
from workers.seats import GRACE_S, Announce, Fork, Report, SeatTable, Signal

TERM, KILL = signal.SIGTERM, signal.SIGKILL


def doings(actions):
    """Without the lines for the log."""
    return [action for action in actions if not isinstance(action, Announce | Report)]


def running(n=1, last_incarnation=0):
    """A table whose seats are filled since 0: process 100 in the first, 101 in the next."""
    table = SeatTable("shapes", n, last_incarnation)
    for fork in doings(table.tick(0.0)):
        table.forked(fork.worker, fork.incarnation, 100 + fork.index, 0.0)
    return table


def seat(table, index=0):
    return table.message().seats[index]


def test_every_empty_seat_gets_a_process():
    table = SeatTable("shapes", 2)
    assert doings(table.tick(0.0)) == [Fork("worker-0", 0, 1), Fork("worker-1", 1, 1)]
    assert doings(table.tick(1.0)) == [], "ordered once is enough"


def test_a_process_is_reported_with_its_pid():
    table = running(2)
    assert [(s.worker, s.incarnation, s.pid) for s in table.message().seats] == [
        ("worker-0", 1, 100),
        ("worker-1", 1, 101),
    ]


def test_incarnations_go_on_where_an_earlier_supervisor_stopped():
    assert seat(running(last_incarnation=7)).incarnation == 8


def test_a_healthy_worker_that_was_killed_is_replaced_at_once():
    table = running()
    actions = table.exited(100, -9, "", 20.0)
    assert Report() in actions
    assert seat(table).restarts == {"killed": 1}
    assert seat(table).pid == 0
    assert doings(table.tick(20.0)) == [Fork("worker-0", 0, 2)]


def test_a_process_that_could_not_be_started_is_tried_again_later_and_the_note_says_why():
    table = SeatTable("shapes", 1)
    table.tick(0.0)
    assert Report() in table.not_forked("worker-0", 1, "[Errno 11] Resource temporarily unavailable", 0.5)
    assert seat(table).note.endswith("last: no process could be started ([Errno 11] Resource temporarily unavailable)")
    assert seat(table).restarts == {}, "none has ended"
    assert doings(table.tick(0.6)) == []
    for incarnation in range(2, 20):  # it is not given up: nothing is wrong with the worker
        now = table.next_at()
        assert doings(table.tick(now)) == [Fork("worker-0", 0, incarnation)]
        assert table.not_forked("worker-0", incarnation - 1, "late", now) == [], "of the order before"
        table.not_forked("worker-0", incarnation, "no memory", now)
        assert now < table.next_at() < now + 60


def test_a_worker_that_ends_at_once_waits_and_its_note_says_why():
    table = running()
    table.exited(100, 1, "RuntimeError: no memory", 0.5)
    assert seat(table).restarts == {"exit": 1}
    assert seat(table).note == "starts again in 1 s, last: exit code 1 (RuntimeError: no memory)"
    assert table.next_at() == 1.5
    assert doings(table.tick(1.4)) == []
    assert doings(table.tick(1.5)) == [Fork("worker-0", 0, 2)]
    assert seat(table).note == ""


@pytest.mark.parametrize(
    ("code", "cause", "text"),
    [
        (-9, "killed", "signal 9 (SIGKILL)"),
        (-11, "killed", "signal 11 (SIGSEGV)"),
        (-300, "killed", "signal 300 (unknown)"),
        (0, "exit", "exit code 0"),
        (1, "exit", "exit code 1"),
        (BOOT_FAILED, "boot_failed", "boot failed"),
        (BROKER_GONE, "broker_gone", "broker gone"),
        (None, "killed", "ended unseen while the template was down"),
    ],
)
def test_each_way_to_end_has_its_cause(code, cause, text):
    table = running()
    table.exited(100, code, "", 0.5)
    assert seat(table).restarts == {cause: 1}
    assert text in seat(table).note


@pytest.mark.parametrize("cause", ["hung", "silent", "wrong"])
def test_a_worker_is_killed_by_order_of_the_broker_and_the_cause_is_counted(cause):
    table = running()
    assert doings(table.kill("worker-0", 1, cause)) == [Signal(100, KILL)]
    table.exited(100, -9, "", 20.0)
    assert seat(table).restarts == {cause: 1}
    table.tick(20.0)
    table.forked("worker-0", 2, 102, 20.0)
    table.exited(102, -9, "", 40.0)
    assert seat(table).restarts == {cause: 1, "killed": 1}, "the order was for the first process only"


def test_an_order_to_kill_an_earlier_process_is_void():
    table = running()
    table.exited(100, -9, "", 20.0)
    table.tick(20.0)
    table.forked("worker-0", 2, 102, 20.0)
    assert doings(table.kill("worker-0", 1, "hung")) == []
    assert doings(table.kill("worker-9", 1, "hung")) == []


def crash(table, code, reason, n):
    """The first seat's process ends `n` times right after its start."""
    now, pid = 1000.0, 500
    for _ in range(n):
        now = max(now, table.next_at())
        (fork,) = doings(table.tick(now))
        table.forked(fork.worker, fork.incarnation, pid, now)
        table.exited(pid, code, reason, now + 0.1)
        now, pid = now + 0.1, pid + 1
    return now


def test_a_crash_loop_gives_up_with_a_note_and_tries_again_with_another_version():
    table = SeatTable("shapes", 1)
    now = crash(table, 1, "ImportError: no module", 8)
    assert seat(table).note == "crash loop: gave up after 8 exits, last: exit code 1 (ImportError: no module)"
    assert doings(table.tick(now + 1e6)) == []
    table.tick(now + 1e6, "something else")
    assert seat(table).note.startswith("crash loop"), "the reason stays readable"
    assert doings(table.retry(now + 1e6)) == [Fork("worker-0", 0, 9)]


def test_a_missing_broker_never_makes_a_crash_loop():
    table = SeatTable("shapes", 1)
    now = crash(table, BROKER_GONE, "no broker for 60 s", 200)
    assert table.next_at() < now + 22
    assert seat(table).restarts == {"broker_gone": 200}


def test_without_a_version_seats_wait_and_say_so():
    table = SeatTable("shapes", 2)
    actions = table.tick(0.0, "waits for the first version")
    assert doings(actions) == []
    assert Report() in actions
    assert {s.note for s in table.message().seats} == {"waits for the first version"}
    assert table.tick(1.0, "waits for the first version") == [], "said once"
    assert len(doings(table.tick(2.0))) == 2


def test_stop_drains_then_kills_after_the_grace():
    table = running(2)
    assert doings(table.stop(10.0)) == [Signal(100, TERM), Signal(101, TERM)]
    table.exited(100, 0, "", 11.0)
    assert doings(table.tick(12.0)) == [], "no seat is filled again"
    assert not table.is_over(12.0)
    assert table.next_at() == 10.0 + GRACE_S
    assert doings(table.tick(10.0 + GRACE_S)) == [Signal(101, KILL)]
    table.exited(101, -9, "", 20.5)
    assert table.is_over(20.5)
    assert seat(table, 1).restarts == {}


def test_a_second_wish_to_stop_kills_at_once_but_a_doubled_signal_does_not():
    table = running()
    table.stop(10.0)
    assert doings(table.stop(10.1)) == []
    assert doings(table.stop(12.0)) == [Signal(100, KILL)]
    assert not table.is_over(12.0)
    assert table.is_over(table.next_at()), "it does not wait for ever for a report"


def test_a_fork_reported_after_the_stop_is_stopped_too():
    table = SeatTable("shapes", 1)
    table.tick(0.0)
    table.stop(1.0)
    assert not table.is_over(1.0)
    assert doings(table.forked("worker-0", 1, 100, 1.1)) == [Signal(100, TERM)]


def test_workers_keep_their_seats_when_the_template_is_lost():
    table = running(3)
    table.exited(102, -9, "", 30.0)
    table.tick(30.0)  # a fork is ordered, and the template dies before it reports
    actions = table.template_lost(31.0, children={100, 555})
    assert doings(actions) == [Signal(555, KILL)], "a process that nobody knows may not sit anywhere"
    assert [s.pid for s in table.message().seats] == [100, 0, 0]
    assert seat(table, 1).restarts == {"killed": 1}, "it ended and nobody was there to report it"
    assert seat(table, 2).restarts == {"killed": 1}
    assert doings(table.tick(31.0)) == [Fork("worker-1", 1, 2), Fork("worker-2", 2, 3)]


def test_a_process_from_a_lost_template_is_killed_when_it_is_reported_late():
    table = running()
    assert table.forked("worker-0", 9, 777, 1.0) == [Signal(777, KILL)]
    assert seat(table).pid == 100


def test_the_report_of_a_thousand_seats_with_long_notes_fits_into_a_header():
    table = running(1024)
    for index in range(1024):
        table.exited(100 + index, 1, "x" * 1000, 0.5)
    assert len(encode(table.message())) < MAX_HEADER_BYTES


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_no_seat_holds_two_processes_and_every_seat_is_filled_in_the_end(seed):
    print(f"seed {seed}")
    rng, table, now, pid = random.Random(seed), SeatTable("shapes", 4), 0.0, 100
    alive: dict[int, str] = {}
    orders: list[Fork] = []
    for step in range(400):
        now += rng.expovariate(1.0)
        quiet = step >= 300  # the last part: nothing fails any more
        event = rng.choice(["tick", "tick", "report"] if quiet else ["tick", "report", "exit", "kill", "template"])
        actions = []
        if event == "tick":
            actions = table.tick(now)
        elif event == "report" and orders:
            fork = orders.pop(0)
            pid += 1
            alive[pid] = fork.worker
            actions = table.forked(fork.worker, fork.incarnation, pid, now)
        elif event == "exit" and alive:
            gone = rng.choice(sorted(alive))
            del alive[gone]
            actions = table.exited(gone, rng.choice([-9, BROKER_GONE]), "", now)
        elif event == "kill":
            actions = table.kill(f"worker-{rng.randrange(4)}", rng.randrange(40), "hung")
        elif event == "template":
            orders.clear()
            actions = table.template_lost(now, set(alive))
        actions += table.retry(now)
        orders += [action for action in actions if isinstance(action, Fork)]
        for action in actions:
            if isinstance(action, Signal):
                del alive[action.pid]
                table.exited(action.pid, -9, "", now)
        table.check()
        assert table.pids == set(alive)
        assert len(set(alive.values())) == len(alive), "two processes for one worker"
    assert len(alive) == 4


# ---- spare seats


def names(table):
    return [s.worker for s in table.message().seats]


def with_spare(n=1):
    """A running table of n workers with one spare, process 200."""
    table = running(n)
    (fork,) = doings(table.spares(1, 1.0))
    table.forked(fork.worker, fork.incarnation, 200, 1.0)
    return table


def test_a_spare_gets_a_seat_beside_the_others_and_the_same_order_again_changes_nothing():
    table = running(2)
    assert doings(table.spares(1, 1.0)) == [Fork("spare-0", 2, 1)]
    assert doings(table.spares(1, 1.1)) == []
    assert names(table) == ["worker-0", "worker-1", "spare-0"]


def test_a_spare_that_is_not_needed_any_more_is_asked_to_stop_and_its_seat_is_removed():
    table = with_spare()
    assert doings(table.spares(0, 2.0)) == [Signal(200, TERM)]
    assert doings(table.spares(0, 2.1)) == [], "asked once is enough"
    assert names(table) == ["worker-0", "spare-0"]
    assert Report() in table.exited(200, 0, "", 2.2)
    assert names(table) == ["worker-0"]
    assert doings(table.tick(60.0)) == []


def test_a_spare_that_does_not_stop_is_ended():
    table = with_spare()
    table.spares(0, 2.0)
    assert table.next_at() == 2.0 + GRACE_S
    assert doings(table.tick(2.0 + GRACE_S)) == [Signal(200, KILL)]


def test_a_spare_that_ends_by_itself_is_replaced_like_any_worker():
    table = with_spare()
    table.exited(200, -9, "", 20.0)
    assert doings(table.tick(20.0)) == [Fork("spare-0", 1, 2)]


def test_a_spare_that_goes_before_its_process_is_there_ends_when_it_comes():
    table = running()
    table.spares(1, 1.0)
    table.spares(0, 1.1)
    assert doings(table.forked("spare-0", 1, 200, 1.2)) == [Signal(200, TERM)]
    table.exited(200, 0, "", 1.3)
    assert names(table) == ["worker-0"]


def test_a_spare_that_waits_to_be_started_again_goes_at_once():
    table = with_spare()
    table.exited(200, 1, "RuntimeError", 1.5)
    assert doings(table.spares(0, 1.6)) == []
    assert names(table) == ["worker-0"]


def test_a_new_spare_comes_beside_one_that_still_goes_and_names_and_incarnations_do_not_come_together_again():
    table = with_spare()
    table.spares(0, 2.0)
    assert doings(table.spares(1, 2.1)) == [Fork("spare-1", 1, 2)]
    table.exited(200, 0, "", 2.2)
    table.forked("spare-1", 2, 201, 2.2)
    table.spares(0, 2.3)
    table.exited(201, 0, "", 2.4)
    assert doings(table.spares(1, 2.5)) == [Fork("spare-0", 1, 3)], "the broker refuses incarnations that it has seen"


def test_a_table_that_stops_takes_no_spares_and_stops_those_it_has():
    table = with_spare()
    assert doings(table.stop(3.0)) == [Signal(100, TERM), Signal(200, TERM)]
    assert doings(table.spares(2, 3.1)) == []
    table.exited(100, 0, "", 3.2)
    table.exited(200, 0, "", 3.2)
    assert table.is_over(3.2)


def test_spares_come_and_go_at_random_and_the_seats_stay_sound():
    rng = random.Random(7)
    for _ in range(30):
        table, pids, now = running(2), {100, 101}, 1.0
        for step in range(80):
            now += rng.uniform(0.0, 3.0)
            if rng.random() < 0.5:
                actions = table.spares(rng.randrange(4), now)
            elif pids and rng.random() < 0.6:
                actions = table.exited(pid := rng.choice(sorted(pids)), 0, "", now)
                pids.discard(pid)
            else:
                actions = table.tick(now)
            for fork in [action for action in actions if isinstance(action, Fork)]:
                if rng.random() < 0.8:
                    table.forked(fork.worker, fork.incarnation, 1000 + step * 10 + len(pids), now)
                    pids.add(1000 + step * 10 + len(pids))
            table.check()
        for pid in sorted(table.pids):
            table.exited(pid, 0, "", now)
        table.template_lost(now, set())
        table.spares(0, now + 100)
        for pid in sorted(table.pids):
            table.exited(pid, 0, "", now + 100)
        table.template_lost(now + 101, set())
        table.tick(now + 102)
        assert not [name for name in names(table) if name.startswith("spare")]
