"""Each verb of the controller's socket against a home without a broker, beside what the command line says of the same home."""

import json
from contextlib import closing
from threading import Event
from time import monotonic

import msgspec
import pytest

from control import verbs
from control.asks import Nothing
from control.desk import Desk
from control.events import EventKind
from control.jobs import Jobs
from control.journal import Journal
from control.verbs import VERBS, Verb, answer
from hotpool.config import Config
from hotpool.errors import (
    BadInput,
    BadLabels,
    BadVersion,
    BrokerUnreachable,
    Conflict,
    HotpoolError,
    JournalCorrupt,
    NothingToDo,
    TooLarge,
    UnknownVersion,
    error_from,
)
from hotpool.locks import hold
from hotpool.manifest import version_folder
from hotpool.messages import Ask, Family
from hotpool.states import Executed
from hotpool.wire import decode_value, encode, encode_value, to_control
from tests.test_cli import add, home, label_pictures, record, run, start  # noqa: F401  two of them are fixtures

WHO = {"reason": "because", "operator": "ann of the page"}


@pytest.fixture
def desk(home, monkeypatch):  # noqa: F811
    """The CLI beside it sees that a controller is there."""
    for timeout in ("control.verbs.BROKER_TIMEOUT_S", "control.watch._REPORT_TIMEOUT_S"):
        monkeypatch.setattr(timeout, 0.02)
    with (
        hold(home.lock("control"), ""),
        closing(Jobs(Event())) as jobs,
        Desk(home, Config(), jobs) as made,
    ):
        yield made


def call(desk, verb, **arguments):
    """As a caller has it: through the bytes of both messages."""
    ask, _ = to_control.decode([encode(Ask(7, verb, encode_value(arguments)))])
    told = answer(desk, ask)
    assert told.seq == 7
    if told.code:
        raise error_from(told.code, told.message, Executed.NO, None)
    return decode_value(told.result)


def by_cli(run, *words):  # noqa: F811
    return json.loads(run(*words, "-o", "json").stdout)


def two_versions(home):  # noqa: F811
    return add(home, "v1"), add(home, "v2", seed="2")


def rolling(home):  # noqa: F811
    """v1 -> v2, under way."""
    two_versions(home)
    start(home, "v2")
    record(home, EventKind.PREFLIGHT_STARTED)


# ---- looking


@pytest.mark.slow
def test_what_the_journal_and_the_store_hold_is_told_as_the_command_line_tells_it(desk, home, run):  # noqa: F811
    rolling(home)
    assert call(desk, "versions") == by_cli(run, "versions", "list")
    assert call(desk, "version", version="v2") == by_cli(run, "versions", "show", "v2")
    assert call(desk, "rollouts") == by_cli(run, "rollout", "history")
    assert call(desk, "rollout") == call(desk, "rollout", number=1) == by_cli(run, "rollout", "get")
    assert call(desk, "audit") == by_cli(run, "audit", "tail")
    assert call(desk, "audit", n=2) == by_cli(run, "audit", "tail", "-n", "2")
    assert [version["use"] for version in call(desk, "versions")] == ["stable", ""]


def test_what_is_written_down_later_is_seen_by_the_next_look(desk, home):  # noqa: F811
    assert (call(desk, "versions"), call(desk, "rollouts"), call(desk, "audit")) == ([], [], [])
    rolling(home)
    assert call(desk, "rollout")["rollout"]["phase"] == "preflight"
    record(home, EventKind.REJECTED, cause="preflight", reason="NaN in fc")
    assert call(desk, "rollout")["rollout"]["phase"] == "rejected"
    assert call(desk, "rollout")["message"].endswith("rejected v2: NaN in fc; the service was not touched")


def test_metrics_are_families_whose_bounds_are_numbers(desk, home):  # noqa: F811
    rolling(home)
    desk.malformed[()] += 2
    families = {family.name: family for family in msgspec.convert(call(desk, "metrics"), tuple[Family, ...])}
    assert families["hotpool_control_malformed_total"].samples[0].value == 2
    phases = {sample.labels["phase"]: sample.value for sample in families["hotpool_rollout_phase"].samples}
    assert phases["preflight"] == 1


def test_the_page_of_a_rollout_is_given_and_nothing_is_written(desk, home):  # noqa: F811
    rolling(home)
    page = call(desk, "report", number=1)["html"]
    assert page.lower().startswith("<!doctype html>")
    assert "v1" in page
    assert not (home.root / "rollouts").exists()


@pytest.mark.parametrize(
    ("verb", "arguments", "error", "said"),
    [
        ("rollout", {}, NothingToDo, "there is no rollout of model default"),
        ("rollout", {"number": 9}, NothingToDo, "there is no rollout 9"),
        ("report", {"number": 9}, NothingToDo, "there is no rollout 9"),
        ("version", {"version": "v9"}, UnknownVersion, "no version 'v9'"),
        ("job", {"job": 1}, NothingToDo, "there is no job 1"),
        ("reboot", {}, BadInput, "there is no verb 'reboot'; known are status, metrics"),
        ("status", {"model": "x"}, BadInput, "status: there is no argument 'model'"),
        ("start", {"version": "v9", **WHO}, UnknownVersion, "known are v1"),
        ("start", {"version": "v1", "eval_folder": "/nowhere", **WHO}, BadLabels, "/nowhere can't be read"),
        ("remove", {"version": "v9", **WHO}, UnknownVersion, "no version 'v9'"),
        ("remove", {"version": "v1", **WHO}, Conflict, "in use"),
        ("add", {"source": "/x.pth", "name": "v1", **WHO}, Conflict, "has a version v1 already"),
        ("add", {"source": "/x.pth", "name": "../v1", **WHO}, BadVersion, "'../v1' is not allowed"),
        ("pause", WHO, NothingToDo, "no rollout of model 'default' is under way"),
        ("resume", WHO, NothingToDo, "no rollout"),
        ("promote", WHO, NothingToDo, "no rollout"),
        ("abort", WHO, NothingToDo, "no rollout"),
    ],
)
def test_a_mistake_is_told_by_its_own_error(desk, home, verb, arguments, error, said):  # noqa: F811
    add(home, "v1")
    with pytest.raises(error) as raised:
        call(desk, verb, **arguments)
    assert type(raised.value) is error
    assert said in str(raised.value)


def test_a_folder_of_labelled_pictures_is_looked_at_before_anything_is_ordered(desk, home, tmp_path):  # noqa: F811
    two_versions(home)
    label_pictures(tmp_path / "pictures", 1, "zebra")
    with pytest.raises(BadLabels, match="version v1 has no such class"):
        call(desk, "start", version="v2", eval_folder=str(tmp_path / "pictures"), **WHO)


# ---- changing


def test_an_order_is_in_the_journal_with_who_and_why_before_the_answer_comes(desk, home):  # noqa: F811
    rolling(home)
    view = call(desk, "pause", **WHO)["rollout"]
    assert (view["number"], view["paused"]) == (1, True)
    assert call(desk, "resume", **WHO)["rollout"]["paused"] is False
    call(desk, "pause", **WHO)
    assert call(desk, "promote", full=True, **WHO)["rollout"]["paused"] is False
    assert call(desk, "abort", **WHO)["rollout"]["abort"]
    told = [(event["kind"], event["operator"], event["body"]["reason"]) for event in call(desk, "audit", n=5)]
    kinds = ["paused", "resumed", "paused", "promoted", "abort_requested"]
    assert told == [(kind, "ann of the page", "because") for kind in kinds]
    assert call(desk, "audit", n=2)[0]["body"]["full"] is True
    with pytest.raises(Conflict, match="can't be paused now"):
        call(desk, "pause", **WHO)


def test_a_version_is_removed_as_the_command_line_does_it(desk, home):  # noqa: F811
    _, gone = two_versions(home)
    assert call(desk, "remove", version="v2", **WHO) == {"removed": gone.digest}
    assert not version_folder(home, gone.digest).exists()
    assert [version["name"] for version in call(desk, "versions")] == ["v1"]
    last = call(desk, "audit", n=1)[0]
    assert (last["kind"], last["operator"]) == ("version_removed", "ann of the page")


# ---- when something is missing or broken


@pytest.mark.parametrize(
    ("verb", "arguments"), [("status", {}), ("start", {"version": "v2"}), ("undo", {}), ("retry", {})]
)
def test_without_a_broker_who_needs_one_is_told_and_nothing_is_ordered(desk, home, verb, arguments):  # noqa: F811
    two_versions(home)
    before = len(call(desk, "audit"))
    with pytest.raises(BrokerUnreachable, match="is the pool running"):
        call(desk, verb, **arguments, **(WHO if verb != "status" else {}))
    assert len(call(desk, "audit")) == before


def test_callers_do_not_wait_for_a_silent_broker_one_after_the_other(desk, monkeypatch):
    monkeypatch.setattr(verbs, "BROKER_TIMEOUT_S", 0.1)
    begin = monotonic()
    for _ in range(10):
        with pytest.raises(BrokerUnreachable):
            call(desk, "status")
    assert monotonic() - begin < 0.5, "one of them has waited, the others were told what it has found"


def test_a_broker_that_was_silent_is_asked_again_a_moment_later(desk, monkeypatch):
    monkeypatch.setattr("control.desk.BROKER_AGAIN_S", 0.0)
    monkeypatch.setattr(verbs, "BROKER_TIMEOUT_S", 0.04)
    begin = monotonic()
    for _ in range(3):
        with pytest.raises(BrokerUnreachable):
            call(desk, "status")
    assert monotonic() - begin > 0.1


def test_a_bug_in_a_verb_is_answered_and_logged_and_the_next_call_goes_on(desk, monkeypatch, caplog):
    def broken(desk, asked):
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(VERBS, "broken", Verb(Nothing, broken))
    with pytest.raises(HotpoolError, match="a bug in hotpool") as raised:
        call(desk, "broken")
    assert raised.value.code == "internal"
    assert "ZeroDivisionError" in caplog.text
    assert call(desk, "rollouts") == []


def test_a_journal_that_can_not_be_read_is_told_and_read_again_when_it_can(desk, home):  # noqa: F811
    add(home, "v1")
    with Journal(home.database):
        pass  # the last one to close it leaves one file
    whole = home.database.read_bytes()
    home.database.write_bytes(b"this is not SQLite at all, and long enough to be looked at" * 20)
    with pytest.raises(JournalCorrupt, match="restore it from a copy"):
        call(desk, "audit")
    home.database.write_bytes(whole)
    assert len(call(desk, "audit")) == 2


def test_a_home_that_has_gone_is_told_in_a_line(desk, home):  # noqa: F811
    home.root.rename(home.root.with_name("moved"))
    home.root.write_text("")
    with pytest.raises(HotpoolError, match=r"Not a directory|File exists"):
        call(desk, "audit")


def test_an_answer_that_does_not_fit_is_refused(desk, monkeypatch):
    monkeypatch.setitem(VERBS, "much", Verb(Nothing, lambda desk, asked: "x" * 17_000_000))
    with pytest.raises(TooLarge, match="the answer to much has more than 16777216 bytes"):
        call(desk, "much")
