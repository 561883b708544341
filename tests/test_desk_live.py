"""The controller's socket with real processes: a broker, no-op workers, a controller, callers, and who only wants to harm."""

import contextlib
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import zmq

from bench.noop import MODEL, noop_manifest
from control import orders
from control.events import EventKind
from control.journal import Journal
from control.verbs import VERBS
from hotpool import messages as m
from hotpool.control_client import ControlClient
from hotpool.errors import BadRollout, BrokerUnreachable, Conflict, ControllerUnreachable, HotpoolError, NothingToDo
from hotpool.messages import Family
from hotpool.states import Phase
from hotpool.wire import encode, encode_value
from tests.command_line import CommandLine
from tests.dawdling_control_process import VERB as DAWDLE
from tests.dawdling_control_process import begun, enough
from tests.pool import PATIENCE_S, Pool, eventually, running_pool
from tests.stage import SETTINGS, add_versions, last
from tests.test_live_fuzz import corpus, damage
from tests.test_wire import HOSTILE

pytestmark = pytest.mark.slow

SEED = 11
N_VERSIONS = 3
WHO: dict[str, Any] = {"reason": "because", "operator": "ann of the page"}
QUICK: dict[str, Any] = {"steps": "none", "bake_s": 0.0}
# What differs between two looks at a pool where nothing happens.
VOLATILE = {"uptime_s", "rss_bytes", "private_bytes"}


@pytest.fixture
def pool() -> Iterator[Pool]:
    with running_pool(n_workers=3, config="[probe]\ninterval_s = 0.0\n") as pool:
        yield pool


@pytest.fixture
def journal(pool: Pool) -> Iterator[Journal]:
    with Journal(pool.home.database) as journal:
        add_versions(pool.home, N_VERSIONS)
        pool.start_control()
        eventually(lambda: bool(pool.report().models), "the controller has spoken")
        yield journal


@pytest.fixture
def control(pool: Pool, journal: Journal) -> Iterator[ControlClient]:
    with ControlClient(pool.home.endpoint("control")) as control:
        yield control


@pytest.fixture
def cli(pool: Pool, control: ControlClient) -> CommandLine:
    return CommandLine(pool.home, pool.config)


def steady(view: Any) -> Any:
    if isinstance(view, dict):
        return {name: steady(value) for name, value in view.items() if name not in VOLATILE}
    return [steady(part) for part in view] if isinstance(view, list) else view


def phase(control: ControlClient) -> str:
    said: str = control.call("rollout")["rollout"]["phase"]
    return said


def roll(control: ControlClient, version: str) -> None:
    control.call("start", version=version, **QUICK, **WHO)
    eventually(lambda: phase(control) == Phase.SUCCEEDED, f"the pool is on {version}")


# ---- the same as the command line


def test_each_look_is_what_the_command_line_prints(cli, control):
    roll(control, "v2")
    status = control.call("status")
    assert status.pop("alarm") == ""
    assert steady(status) == steady(cli.json("status"))
    assert control.call("versions") == cli.json("versions", "list")
    assert control.call("version", version="v2") == cli.json("versions", "show", "v2")
    assert control.call("rollouts") == cli.json("rollout", "history")
    assert steady(control.call("rollout")) == steady(cli.json("rollout", "get"))
    assert control.call("audit", n=20) == cli.json("audit", "tail")
    page = Path(cli.json("rollout", "report")["report"]).read_text()
    assert control.call("report", number=1)["html"].splitlines()[0] == page.splitlines()[0]
    counted = {family["name"]: family for family in control.call("metrics")}
    shown = {family["name"]: family for family in cli.json("metrics")}
    assert counted.keys() <= shown.keys()
    of_both = [name for name in counted.keys() & shown.keys() if counted[name]["kind"] != "histogram"]
    assert len(of_both) >= 5
    for name in of_both:  # of a histogram JSON can't have the infinite bound
        assert counted[name] == shown[name]


def test_a_rollout_is_planned_ordered_and_undone_as_by_the_command_line(cli, control):
    plan = control.call("start", version="v2", dry_run=True, **QUICK, **WHO)
    assert plan["result"] == "planned"
    by_cli = cli.json("rollout", "start", "--version", "v2", "--dry-run", "--no-analysis", "--bake", 0)["rollout"]
    differs = {"created_ts", "operator", "reason"}
    assert {k: v for k, v in plan["rollout"].items() if k not in differs} == {
        k: v for k, v in by_cli.items() if k not in differs
    }
    assert control.call("rollouts") == [], "nothing of a plan remains"

    ordered = control.call("start", version="v2", **QUICK, **WHO)
    assert (ordered["result"], ordered["rollout"]["number"]) == ("ordered", 1)
    eventually(lambda: phase(control) == Phase.SUCCEEDED, "the rollout has ended")
    assert control.call("start", version="v2", **WHO) == {"result": "unchanged", "rollout": None}
    assert cli.json("rollout", "start", "--version", "v2") == {"result": "unchanged"}

    planned = control.call("undo", dry_run=True, **WHO)["rollout"]
    assert (planned["kind"], planned["target_name"]) == ("undo", "v1")
    undone = control.call("undo", strategy="beside", **WHO)
    assert undone["result"] == "ordered"
    assert (undone["rollout"]["target_name"], undone["rollout"]["settings"]["strategy"]) == ("v1", "beside")
    eventually(lambda: phase(control) == Phase.SUCCEEDED, "v1 is stable again")
    assert control.call("status")["stable"]["name"] == "v1"
    with pytest.raises(NothingToDo, match="no failed rollout"):
        control.call("retry", **WHO)


def test_a_rollout_under_way_is_paused_promoted_aborted_and_tried_again(control, journal):
    order = {"version": "v2", "steps": "shadow,5", **WHO}  # waits in its canary for requests that nobody sends
    control.call("start", **order)
    eventually(lambda: phase(control) == Phase.ANALYZING, "the canary is looked at")
    seen = control.call("rollout")
    assert seen["message"].startswith("analyzing: step 1/2, shadow")
    assert (len(seen["workers"]), len(seen["verdicts"]) > 0) == (3, True)
    with pytest.raises(Conflict, match=r"rollout 1 .* is analyzing"):
        control.call("start", **order)
    assert control.call("pause", **WHO)["rollout"]["paused"]
    assert control.call("resume", **WHO)["rollout"]["paused"] is False
    control.call("promote", **WHO)
    eventually(lambda: "step 2/2" in control.call("rollout")["message"], "the next step")
    assert control.call("abort", **WHO)["rollout"]["abort"]
    eventually(lambda: phase(control) == Phase.ROLLED_BACK, "it was rolled back")
    again = control.call("retry", **WHO)["rollout"]
    assert (again["number"], again["settings"]["steps"]) == (2, ["shadow", "5"])
    eventually(lambda: phase(control) == Phase.ANALYZING, "the canary is looked at again")
    control.call("promote", full=True, **WHO)
    eventually(lambda: phase(control) in (Phase.BAKING, Phase.COMMITTING, Phase.SUCCEEDED), "all workers are on v2")
    assert {event["operator"] for event in control.call("audit")} == {"test", "controller", "ann of the page"}
    assert journal.verify() == journal.last_seq()


def test_while_an_alarm_holds_only_force_starts_a_rollout_and_an_undo_aborts_it(cli, control, journal):
    journal.append(EventKind.ALARM_RAISED, model=MODEL, operator="controller", body={"reason": "all workers are wrong"})
    order = ("rollout", "start", "--version", "v2", "--steps", "shadow", "--detach")
    refused = cli(*order, code=6)
    assert refused.stderr.startswith("error: the stable version v1 is not healthy: all workers are wrong; ")
    assert refused.stderr.endswith("hotpool rollout start --force\n")
    with pytest.raises(Conflict, match="all workers are wrong"):
        control.call("start", version="v2", **WHO)
    assert control.call("start", version="v2", force=True, dry_run=True, **WHO)["result"] == "planned"
    cli(*order, "--force")
    (created,) = (event for event in journal.events() if event.kind is EventKind.ROLLOUT_CREATED)
    assert created.body["forced"] == "all workers are wrong"
    eventually(lambda: phase(control) == Phase.ANALYZING, "the canary is looked at")

    assert "would abort rollout 1 of noop (v1 -> v2), which is under way" in cli("rollout", "undo", "--dry-run").stdout
    assert control.call("undo", dry_run=True, **WHO)["result"] == "planned"
    undone = cli("rollout", "undo", "--reason", "enough")
    assert undone.stderr.startswith("rollout 1 of noop (v1 -> v2) is under way: to undo it is to abort it")
    assert "rolled back to v1: aborted by" in undone.stdout
    assert "enough" in undone.stdout
    with pytest.raises(NothingToDo, match="no earlier stable version"):
        control.call("undo", **WHO)


def test_a_rollback_that_failed_is_tried_again_by_the_command_line(cli, control, journal, pool):
    control.call("start", version="v2", steps="shadow", **WHO)
    eventually(lambda: phase(control) == Phase.ANALYZING, "the canary is looked at")
    pool.kill("control")
    journal.append(EventKind.ABORT_REQUESTED, model=MODEL, rollout=1, operator="test", body={"reason": ""})
    for kind, body in (
        (EventKind.ROLLBACK_STARTED, {"cause": "abort", "reason": "aborted by test"}),
        (EventKind.ROLLBACK_FAILED, {"cause": "worker", "reason": "worker-0 failed 3 times"}),
    ):
        journal.append(kind, model=MODEL, rollout=1, operator="controller", body=body)
    pool.start_control()
    eventually(lambda: control.call("rollout")["rollout"]["phase"] == Phase.ROLLBACK_FAILED, "the controller is back")
    done = cli("rollout", "retry", "--reason", "once more")
    assert "rolled back to v1: rollback retried by" in done.stdout
    assert control.call("status")["health"] == "healthy"
    assert len(control.call("rollouts")) == 1


def test_settings_that_can_not_be_are_refused_with_the_reason(control):
    for chosen, said in (
        ({"max_unavailable": 3}, "would leave none serving"),
        ({"max_unavailable": "x"}, "expected a number of workers, or a percentage"),
        ({"steps": "5,3"}, "each share must be larger"),
        ({"steps": "60"}, "1 of 3 workers carry 33.3 percent at most"),
        ({"canary_workers": 3, "steps": "5"}, "would leave none on the stable version"),
        ({"strategy": "surge", "max_surge": 4, "steps": "none"}, "allowed are 1 to 3"),
        ({"max_surge": "0%"}, "max_surge = 0% comes to no worker of 3"),
    ):
        with pytest.raises(BadRollout, match=said):
            control.call("start", version="v2", **chosen, **WHO)
    assert control.call("rollouts") == []


def test_a_version_is_added_in_a_job_while_other_calls_go_on_and_removed_again(cli, control, tmp_path):
    from tests.small_versions import ARCH, CROP, make_tensors, save

    source = save(make_tensors(), tmp_path / "weights.pth")
    size = {"arch": ARCH, "resize": CROP + 4, "crop": CROP}
    job = control.call("add", source=str(source), name="v77", labels=list("abcde"), **size, **WHO)
    with pytest.raises(Conflict, match="is under way"):
        control.call("add", source=str(source), name="v78", **WHO)
    assert control.call("job", **job)["state"] == "running"
    for _ in range(20):
        assert control.call("status")["health"] == "healthy"
    assert control.call("job", **job)["state"] == "running", "it takes seconds, and nobody waits for it"
    eventually(lambda: control.call("job", **job)["state"] != "running", "the job has ended", 5 * PATIENCE_S)
    view = control.call("job", **job)
    assert (view["state"], view["is_stable"], view["error"]) == ("done", False, "")
    shown = cli.json("versions", "show", "v77")
    assert {**view["version"], "use": ""} == shown
    assert (shown["labels"], shown["added_by"]) == (list("abcde"), "ann of the page")
    assert control.call("remove", version="v77", **WHO) == {"removed": shown["digest"]}
    assert {version["name"] for version in cli.json("versions", "list")} == {"v1", "v2", "v3"}


# ---- callers and controllers that come and go


def test_a_killed_controller_is_told_in_time_and_its_successor_answers_the_same_callers(pool, control):
    roll(control, "v2")
    pool.kill("control")
    begin = monotonic()
    with pytest.raises(ControllerUnreachable, match=r"control\.sock within 0\.5 s"):
        control.call("status", timeout_s=0.5)
    assert monotonic() - begin < 2
    pool.start_control()
    eventually(lambda: control.call("status", timeout_s=PATIENCE_S)["controller"]["epoch"] == 2, "it has taken over")
    assert phase(control) == Phase.SUCCEEDED
    roll(control, "v3")


def test_a_broker_that_is_gone_is_told_and_what_the_journal_knows_is_still_there(pool, control):
    roll(control, "v2")
    pool.kill("broker")
    with pytest.raises(HotpoolError, match="no broker answered") as raised:
        control.call("status")
    assert raised.value.code == "broker_unreachable"
    seen = control.call("rollout")
    assert (seen["rollout"]["phase"], seen["workers"]) == ("succeeded", [])
    pool.start_broker()
    eventually(lambda: pool.ready() == 3, "the workers are back")

    def is_healthy() -> bool:
        with contextlib.suppress(BrokerUnreachable):  # for a moment it does not ask again
            return bool(control.call("status")["health"] == "healthy")
        return False

    eventually(is_healthy, "it has asked the broker again")


def test_ten_callers_at_once_each_get_their_own_answers(pool, control):
    def ask(number: int) -> int:
        with ControlClient(pool.home.endpoint("control")) as own:
            for _ in range(20):
                assert own.call("version", version=f"v{number % 3 + 1}")["name"] == f"v{number % 3 + 1}"
                assert len(own.call("audit", n=number % 3 + 1)) == number % 3 + 1
                assert own.call("status")["health"] == "healthy"
        return number

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(ask, range(10))) == list(range(10))


def test_of_ten_callers_who_order_a_rollout_one_is_obeyed(pool, control, journal):
    def order(number: int) -> str:
        try:
            return str(control.call("start", version="v2", **QUICK, **WHO)["result"])
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(order, range(10)))
    assert results.count("ordered") == 1
    assert set(results) <= {"ordered", "conflict", "unchanged"}
    eventually(lambda: phase(control) == Phase.SUCCEEDED, "the rollout has ended")
    assert len(control.call("rollouts")) == 1
    assert journal.verify() == journal.last_seq()


def test_a_verb_that_takes_long_does_not_hold_up_a_rollout(pool):
    with Journal(pool.home.database) as journal, ControlClient(pool.home.endpoint("control")) as control:
        add_versions(pool.home, N_VERSIONS)
        pool.start_control("tests.dawdling_control_process")
        control.call("status", timeout_s=PATIENCE_S)
        with ThreadPoolExecutor(1) as thread:
            dawdling = thread.submit(control.call, DAWDLE, timeout_s=5 * PATIENCE_S)
            eventually(begun(pool.home).exists, "the verb is at work")
            workers = pool.report().workers
            orders.start(journal, model=MODEL, version="v2", workers=workers, settings=SETTINGS, operator="test")
            took = eventually(lambda: last(journal).phase is Phase.SUCCEEDED, "the rollout goes on", 4 * PATIENCE_S)
            assert not dawdling.done()
            enough(pool.home).touch()
            print(f"a rollout in {took:.2f} s beside {dawdling.result()} rounds of a slow verb")
        assert control.call("status")["stable"]["name"] == "v2"


def test_a_controller_that_is_stopped_during_a_job_leaves_nothing_half_written(pool, control, tmp_path):
    from tests.small_versions import ARCH, CROP, make_tensors, save

    source = save(make_tensors(), tmp_path / "weights.pth")
    job = control.call("add", source=str(source), name="v77", arch=ARCH, resize=CROP + 4, crop=CROP, **WHO)
    stored = {noop_manifest(f"v{number}").digest for number in (1, 2, 3)}

    def folders() -> set[str]:
        return {path.name for path in pool.home.versions.iterdir()} - stored

    eventually(lambda: any(name.startswith(".adding-") for name in folders()), "the job is at work")
    assert control.call("job", **job)["state"] == "running"
    pool.processes["control"].terminate()
    assert pool.processes["control"].wait(10) == 0
    assert folders() == set()
    assert not list(pool.home.run.glob("labels-*"))
    pool.start_control()
    names = {version["name"] for version in control.call("versions", timeout_s=PATIENCE_S)}
    assert names == {"v1", "v2", "v3"}
    with pytest.raises(NothingToDo, match="forgets its jobs"):
        control.call("job", **job)


# ---- any bytes


def n_malformed(control: ControlClient) -> float:
    families = msgspec.convert(control.call("metrics"), tuple[Family, ...])
    return next(one for one in families if one.name == "hotpool_control_malformed_total").samples[0].value


def test_hostile_messages_are_counted_and_dropped_and_the_controller_goes_on(pool, control, journal):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    asks = [encode(m.Ask(1, verb, encode_value({"reason": "x", "operator": "eve"}))) for verb in VERBS]
    damaged = [[damage(rng, rng.choice(asks))] for _ in range(300)]
    before = journal.last_seq()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(pool.home.endpoint("control"))
        for frames in [*corpus(SEED), *damaged]:
            dealer.send_multipart(frames)
        eventually(lambda: n_malformed(control) >= len(HOSTILE) - 1, "the count of what was dropped")
        roll(control, "v2")
    assert pool.processes["control"].poll() is None
    kinds = {event.kind for event in journal.events(after=before) if event.operator == "eve"}
    assert kinds == set(), "there was nothing that eve could order"
    assert journal.verify() == journal.last_seq()


def test_bytes_that_are_not_even_zeromq_do_no_harm(pool, control):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(pool.home.run / "control.sock"))
            raw.sendall(rng.randbytes(rng.randrange(1, 5000)))
    assert control.call("status")["health"] == "healthy"


def test_a_caller_who_never_reads_its_answers_holds_up_nobody(pool, control):
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1), (zmq.RCVBUF, 4096)):
            dealer.setsockopt(option, value)
        dealer.connect(pool.home.endpoint("control"))
        for seq in range(500):
            dealer.send(encode(m.Ask(seq, "versions", encode_value({}))))
        for _ in range(500):  # in turns with the others
            assert control.call("status", timeout_s=PATIENCE_S)["health"] == "healthy"
