"""The command line without a pool: help, mistakes, exit codes, the audit, the store's entries in the journal."""

import json
import shlex
import shutil
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from msgspec.structs import asdict

from control import orders, registry, terminal
from control.cli import cli
from control.cli_classify import _find
from control.events import EventKind
from control.exits import ERROR_EXITS, PHASE_EXITS, Exit, exit_for
from control.journal import Journal
from control.settings import Settings
from control.up import create_folders
from control.versions import Prepared, publish
from hotpool import errors
from hotpool.config import Config
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.manifest import GOLDEN, MANIFEST, WEIGHTS, Manifest, Preprocessing, manifest_json, version_folder
from hotpool.messages import WorkerReport
from hotpool.stable import read_stable
from hotpool.states import FINAL_PHASES, Phase, WorkerState
from tests.full_disk import full_disk, needs_limits


def all_commands(command=cli, path=("hotpool",)):
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from all_commands(sub, (*path, name))


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "var")
    create_folders(made)
    return made


@pytest.fixture
def run(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("HOTPOOL_CONFIG", "COLUMNS"):  # pytest's own processes beside set the second
        monkeypatch.delenv(variable, raising=False)

    def invoke(*arguments):
        return CliRunner().invoke(cli, ["--home", str(home.root), *arguments])

    return invoke


def prepared(home, name, seed="1", model="default"):
    """A version as `prepare` leaves it, without torch: the store never looks into its files."""
    folder = home.versions / f".adding-1-{name}"
    folder.mkdir()
    manifest = Manifest(
        model=model, name=name, arch="resnet18", classes=2, labels=("a", "b"), preprocessing=Preprocessing(),
        weights_sha256="0" * 64, tensors_sha256=seed * 64, golden_sha256="0" * 64, source=f"{name}.pth",
        added_by="ann@edge", added_ts=datetime(2026, 11, 23, 10, 0, int(seed), tzinfo=UTC),
    )  # fmt: skip
    for file in (WEIGHTS, GOLDEN):
        (folder / file).write_bytes(b"-")
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    return Prepared(home, folder, manifest)


def add(home, name, seed="1"):
    ready = prepared(home, name, seed)
    with Journal(home.database) as journal:
        registry.add(journal, ready, operator="ann@edge", reason="because")
    return ready.manifest


def start(home, version, reason="new"):
    settings = Settings(**asdict(Config().rollout) | {"steps": "none"})
    with Journal(home.database) as journal:
        stable = orders.read(journal).stable("default") or ""
        seats = [WorkerReport(f"worker-{n}", WorkerState.READY, "default", digest=stable) for n in range(2)]
        return orders.start(
            journal,
            model="default",
            version=version,
            workers=seats,
            settings=settings,
            operator="ann@edge",
            reason=reason,
        )


def record(home, kind, **body):
    with Journal(home.database) as journal:
        journal.append(kind, model="default", rollout=1, operator="controller", body=body)


# ---- help


@pytest.mark.parametrize(("path", "command"), [pytest.param(*pair, id=" ".join(pair[0])) for pair in all_commands()])
def test_every_command_says_what_it_does_with_an_example_that_parses(path, command):
    result = CliRunner().invoke(cli, [*path[1:], "--help"])
    assert result.exit_code == 0
    assert command.help.splitlines()[0].endswith(".")
    assert "Example:\n" in result.output
    lines = [line.strip() for line in result.output.split("Example:\n")[1].split("\n\n")[0].splitlines()]
    for line in lines:
        assert parses(line), line
    if not isinstance(command, click.Group):
        assert all(line.startswith(" ".join(path)) for line in lines)


def parses(line):
    """Whether click accepts the words of a shell line, without running the command."""
    words = shlex.split(line.split(" > ")[0])
    assert words.pop(0) == "hotpool"
    command: click.Command = cli
    context = click.Context(cli, info_name="hotpool")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
        context = click.Context(command, parent=context, info_name=command.name)
    if isinstance(command, click.Group):
        command.make_parser(context).parse_args(words)
    else:
        command.parse_args(context, words)
    return True


def test_the_list_of_commands_shows_whole_sentences():
    output = CliRunner().invoke(cli, ["--help"]).output
    assert "..." not in output.split("Commands:")[1]


# ---- exit codes


def test_every_error_has_an_exit_code_and_special_rows_win():
    for kind in errors.BY_CODE.values():
        assert exit_for(kind("x")) in set(Exit)
    assert exit_for(errors.BadImage("x")) is Exit.USAGE
    assert exit_for(errors.DeadlineExceeded("x")) is Exit.TIMEOUT
    assert exit_for(errors.QueueFull("x")) is Exit.UNEXPECTED
    assert exit_for(errors.BrokerUnreachable("x")) is Exit.UNREACHABLE
    assert exit_for(errors.Conflict("x")) is Exit.CONFLICT
    assert exit_for(errors.JournalCorrupt("x")) is exit_for(errors.Unwritable("x")) is Exit.DEGRADED
    assert errors.HotpoolError in ERROR_EXITS


def test_the_numbers_are_those_scripts_rely_on():
    assert {code.name: int(code) for code in Exit} == {
        "OK": 0, "UNEXPECTED": 1, "USAGE": 2, "ROLLED_BACK": 3, "PAUSED": 4, "TIMEOUT": 5, "CONFLICT": 6, "UNREACHABLE": 7,
        "DEGRADED": 8, "IN_PROGRESS": 9, "REJECTED": 10, "NOTHING_TO_DO": 11, "INTERRUPTED": 130,
    }  # fmt: skip


def test_every_phase_has_an_exit_code_and_only_final_ones_are_over():
    assert set(PHASE_EXITS) == set(Phase)
    assert {phase for phase, code in PHASE_EXITS.items() if code is not Exit.IN_PROGRESS} == FINAL_PHASES


# ---- mistakes


def refused(result, code, *texts):
    """One or more `error:` lines on stderr, nothing on stdout, no trace."""
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.stdout == ""
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    for text in texts:
        assert text in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[pool]\nworkrs = 2", "unknown key 'pool.workrs'; did you mean 'pool.workers'?"),
        ("[pool]\nworkers = 0", "pool.workers = 0"),
        ("[pool", "not TOML"),
    ],
)
def test_a_wrong_configuration_names_file_and_key(run, tmp_path, text, expected):
    (tmp_path / "pool.toml").write_text(text)
    for command in (["status"], ["up"], ["rollout", "abort"]):
        refused(run("--config", "pool.toml", *command), Exit.USAGE, "pool.toml", expected)


def test_without_a_broker_commands_that_need_one_end_with_7_and_say_where_they_looked(run, home, monkeypatch):
    monkeypatch.setattr("control.cli_pool.REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    add(home, "v2", seed="2")
    for command in (["status"], ["workers"], ["metrics"], ["rollout", "start", "--version", "v2"]):
        refused(run(*command), Exit.UNREACHABLE, str(home.run), "hotpool up")


def test_classify_without_a_pool_ends_with_7_after_its_timeout(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"-")
    (tmp_path / "b.png").write_bytes(b"-")
    refused(run("classify", "--timeout", "0.05", str(tmp_path)), Exit.UNREACHABLE, "clients.sock")


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (["rollout", "start", "--version", "v9"], Exit.USAGE, "known are v1"),
        (["rollout", "abort"], Exit.NOTHING_TO_DO, "no rollout of model 'default' is under way"),
        (["rollout", "pause"], Exit.NOTHING_TO_DO, "no rollout"),
        (["rollout", "resume"], Exit.NOTHING_TO_DO, "no rollout"),
        (["rollout", "status"], Exit.NOTHING_TO_DO, "hotpool rollout history"),
        (["rollout", "status", "--rollout", "7"], Exit.NOTHING_TO_DO, "rollout 7"),
        (["versions", "show", "v9"], Exit.USAGE, "there are: v1"),
        (["versions", "remove", "v1"], Exit.CONFLICT, "in use"),
        (["versions", "add", "x.pth", "--name", "v1"], Exit.CONFLICT, "a version v1 already"),
        (["down"], Exit.NOTHING_TO_DO, "no pool is running"),
    ],
)
def test_a_mistake_is_one_line_with_a_code(run, home, command, code, text):
    add(home, "v1")
    refused(run(*command), code, text)


@pytest.mark.parametrize(
    ("command", "code", "expected", "is_retryable"),
    [
        (["rollout", "start", "--version", "v9"], Exit.USAGE, errors.UnknownVersion, False),
        (["rollout", "abort"], Exit.NOTHING_TO_DO, errors.NothingToDo, False),
        (["versions", "remove", "v1"], Exit.CONFLICT, errors.Conflict, False),
        (["down"], Exit.NOTHING_TO_DO, errors.NothingToDo, False),
        (["status"], Exit.UNREACHABLE, errors.BrokerUnreachable, True),
        (["metrics"], Exit.UNREACHABLE, errors.BrokerUnreachable, True),
    ],
)
def test_a_mistake_is_json_for_who_asks_for_json(run, home, monkeypatch, command, code, expected, is_retryable):
    monkeypatch.setattr("control.cli_pool.REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    for_people = run(*command).stderr.removeprefix("error: ").rstrip("\n")
    assert told(run(*command, "-o", "json"), code) == [
        {"code": expected.code, "message": for_people, "retryable": is_retryable}
    ]


def told(result, code):
    """What is on stderr, each line an object."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return [json.loads(line) for line in result.stderr.splitlines()]


def test_a_mistake_of_several_lines_is_one_object(run, tmp_path):
    (tmp_path / "pool.toml").write_text("[pool]\nworkrs = 2\nworkers = 0")
    (one,) = told(run("--config", "pool.toml", "status", "-o", "json"), Exit.USAGE)
    assert one["code"] == "bad_config"
    assert "workrs" in one["message"]
    assert "pool.workers = 0" in one["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["--version", "v2", "--canary", "10", "--no-analysis", "-o", "json"],
        ["-o", "json"],
        ["--version", "v2", "--bake", "-1", "-o", "json"],
    ],
    ids=["two of which one is allowed", "a missing option", "a value out of range"],
)
def test_a_command_that_is_used_wrongly_is_told_as_json_too(run, home, words):
    add(home, "v1")
    add(home, "v2", seed="2")
    (one,) = told(run("rollout", "start", *words), Exit.USAGE)
    assert (one["code"], one["retryable"]) == ("usage", False)
    assert one["message"].endswith(("give one of them", "'--version'.", "x>=0."))


@pytest.mark.parametrize("words", [["nosuch"], ["rollout", "nosuch", "-o", "json"], ["--nosuch"]])
def test_a_command_that_there_is_not_is_told_in_words(run, words):
    done = run(*words)
    assert (done.exit_code, "nosuch" in done.stderr, "Usage:" in done.stderr) == (Exit.USAGE, True, True)


@needs_limits
def test_a_full_disk_is_told_as_json_with_the_code_of_its_error(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    with Journal(home.database), full_disk():
        (one,) = told(run("rollout", "report", "-o", "json"), Exit.DEGRADED)
    assert (one["code"], one["retryable"]) == ("unwritable", True)


def test_a_picture_that_fails_is_told_with_the_code_of_its_error(run, home, tmp_path, monkeypatch):
    failures = [(errors.BadImage("truncated"), "bad_image"), (errors.QueueFull("no room"), "queue_full")]
    monkeypatch.setattr("hotpool.Client.classify_many", lambda self, files, **options: [one for one, _ in failures])
    result = run("classify", "a.png", "b.png", "-o", "json")
    assert result.exit_code == Exit.UNEXPECTED
    assert [json.loads(line) for line in result.stderr.splitlines()] == [
        {"code": "bad_image", "message": "a.png: truncated", "retryable": False},
        {"code": "queue_full", "message": "b.png: no room", "retryable": True},
    ]
    assert [view["error"]["code"] for view in json.loads(result.stdout)] == ["bad_image", "queue_full"]


def test_calibration_pictures_for_float32_are_a_mistake(run):
    result = run("versions", "add", "x.pth", "--name", "v1", "--calibrate", ".")
    assert result.exit_code == Exit.USAGE
    assert "add --precision int8 or --precision auto" in result.stderr


def label_pictures(folder, n, name):
    (folder / name).mkdir(parents=True)
    for number in range(n):
        (folder / name / f"{number}.png").write_bytes(b"-")


def test_a_folder_of_labelled_pictures_that_can_not_be_used_is_told_before_anything_is_ordered(run, home, tmp_path):
    add(home, "v1")
    add(home, "v2", seed="2")
    label_pictures(tmp_path / "wrong", 1, "zebra")
    (tmp_path / "empty").mkdir()
    for folder, said in (
        ("none", "can't be read"),
        ("empty", "has no folders in it; expected is a folder for each class"),
        ("wrong", "folder 'zebra': version v1 has no such class"),
    ):
        refused(run("rollout", "start", "--version", "v2", "--eval", folder), Exit.USAGE, said)
    refused(run("versions", "evaluate", "v2", "--eval", "none"), Exit.USAGE, "can't be read")


@pytest.mark.parametrize(("n", "are_few"), [(326, True), (327, False)])
def test_too_few_labelled_pictures_are_told_at_once(run, home, tmp_path, monkeypatch, n, are_few):
    monkeypatch.setattr("control.cli_pool.REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    add(home, "v2", seed="2")
    label_pictures(tmp_path / "pictures", n, "b")
    result = run("rollout", "start", "--version", "v2", "--eval", "pictures")
    assert result.exit_code == Exit.UNREACHABLE, "there is no pool"
    assert (f"{n} pictures are too few to decide" in result.stderr) == are_few


def test_top_1_of_a_version_is_shown_and_how_sure_it_is(run, home, tmp_path, monkeypatch):
    add(home, "v1")
    label_pictures(tmp_path / "pictures", 5, "b")
    said = '{"pictures": 5}\n{"ok": true, "reason": "", "pictures": 4, "right": 3, "unreadable": 1}'
    process = (sys.executable, "-c", f"print({said!r})")
    monkeypatch.setattr("control.versions.module_command", lambda package, options: process)
    shown = run("versions", "evaluate", "v1", "--eval", "pictures")
    assert "75 %" in shown.stdout
    view = json.loads(run("versions", "evaluate", "v1", "--eval", "pictures", "-o", "json").stdout)
    assert (view["pictures"], view["right"], view["unreadable"], view["top1"]) == (4, 3, 1, 0.75)
    assert view["low"] < 0.75 < view["high"]


def test_a_name_that_can_not_be_one_is_refused_before_any_work(run):
    result = run("versions", "add", "x.pth", "--name", "../v1")
    assert result.exit_code == Exit.USAGE
    assert "'../v1'" in result.stderr


def test_a_journal_that_is_no_database_is_an_operators_case(run, home):
    home.database.write_bytes(b"this is not SQLite at all, and long enough to be looked at" * 20)
    refused(run("audit"), Exit.DEGRADED, "hotpool.db", "restore it from a copy")


def test_a_home_that_can_not_be_made_is_no_trace(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli, ["--home", str(tmp_path / "file" / "var"), "rollout", "abort"])
    refused(result, Exit.UNEXPECTED, "file")


@needs_limits
@pytest.mark.parametrize("order", ["abort", "pause"])
def test_an_order_that_finds_no_room_is_told_and_not_there(run, home, order):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    with Journal(home.database) as journal:
        before = journal.events()
        with full_disk():
            refused(run("rollout", order), Exit.DEGRADED, f"{home.database} can't be used", "the disk at ", " MB free")
        assert journal.events() == before


@needs_limits
def test_a_version_that_can_not_be_written_down_is_not_in_the_store_either(home):
    add(home, "v1")
    ready = prepared(home, "v2", seed="2")
    with Journal(home.database) as journal:
        with full_disk(), pytest.raises(errors.Unwritable):
            registry.add(journal, ready, operator="ann@edge", reason="")
        assert [folder.name for folder in home.versions.iterdir()] == [orders.read(journal).stable("default")]
        assert not registry.add(journal, prepared(home, "v2", seed="2"), operator="ann@edge", reason="")


@needs_limits
def test_a_report_that_finds_no_room_is_named_with_its_disk(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    with Journal(home.database), full_disk():
        refused(run("rollout", "report"), Exit.DEGRADED, "rollouts/1/report.html: ", "the disk at ", " MB free")
    assert list((home.root / "rollouts" / "1").iterdir()) == []


def test_waiting_says_when_the_disk_is_full(run, home, monkeypatch):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    monkeypatch.setattr("control.watch._REPORT_TIMEOUT_S", 0.02)
    monkeypatch.setattr("hotpool.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with hold(home.lock("control"), ""):
        assert (
            "0.0 MB free, nothing changes until there is room; waiting" in run("rollout", "status", "--no-wait").stdout
        )


def test_ctrl_c_ends_with_130_and_no_trace(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(terminal.Terminal, "ledger", interrupt)
    result = run("rollout", "history")
    assert result.exit_code == Exit.INTERRUPTED
    assert result.stderr.strip() == "interrupted"


def test_looking_creates_nothing(tmp_path):
    home = tmp_path / "nowhere"
    for command in (["audit"], ["rollout", "history"], ["versions", "list"], ["down"]):
        CliRunner().invoke(cli, ["--home", str(home), *command])
    assert not home.exists()


# ---- versions, rollouts and the audit, by the journal alone


def test_the_first_version_is_stable_at_once_and_the_next_is_not(run, home):
    first, second = add(home, "v1"), add(home, "v2", seed="2")
    assert read_stable(home, "default") == first.digest
    views = json.loads(run("versions", "list", "-o", "json").stdout)
    assert [(view["name"], view["use"]) for view in views] == [("v1", "stable"), ("v2", "")]
    assert second.digest[:12] in run("versions", "list").stdout


def test_a_taken_name_is_refused_before_the_file_is_looked_at(run, home):
    add(home, "v1")
    done = run("versions", "add", "none.pth", "--name", "v1")
    assert (done.exit_code, "has a version v1 already" in done.stderr) == (Exit.CONFLICT, True)


def test_a_version_is_found_by_name_and_by_digest(run, home):
    digest = add(home, "v1").digest
    for word in ("v1", digest, digest[:8]):
        assert json.loads(run("versions", "show", word, "-o", "json").stdout)["digest"] == digest
    assert "v1.pth" in run("versions", "show", "v1").stdout


def test_a_version_that_is_not_in_use_can_be_removed_and_the_audit_says_by_whom(run, home):
    add(home, "v1")
    gone = add(home, "v2", seed="2")
    result = run("versions", "remove", "v2", "--reason", "not needed")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not version_folder(home, gone.digest).exists()
    last = json.loads(run("audit", "-o", "json").stdout)[-1]
    assert (last["kind"], last["body"]["name"], last["body"]["reason"]) == ("version_removed", "v2", "not needed")
    assert "@" in last["operator"]


def test_the_target_of_a_rollout_can_not_be_removed(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    refused(run("versions", "remove", "v2"), Exit.CONFLICT, "in use")


def test_a_refused_removal_leaves_no_event(run, home):
    add(home, "v1")
    run("versions", "remove", "v1")
    kinds = [event["kind"] for event in json.loads(run("audit", "-o", "json").stdout)]
    assert kinds == ["version_added", "stable_set"]


class Killed(BaseException):
    """Ends a command where it stands."""


@pytest.mark.parametrize("at", ["publish", "write_stable", "COMMIT"])
def test_a_command_killed_at_any_point_is_completed_by_the_next(home, monkeypatch, at):
    ready = prepared(home, "v1")
    with monkeypatch.context() as patch, Journal(home.database) as journal:
        if at == "COMMIT":  # the version is in the store, the journal knows nothing of it
            patch.setattr(registry, "publish", lambda one: (publish(one), kill()))
        else:
            patch.setattr(registry, at, lambda *_: kill())
        with pytest.raises(Killed):
            registry.add(journal, ready, operator="ann@edge", reason="")
    if at == "publish":
        ready.folder.rename(home.versions / ".adding-1-again")
        ready = Prepared(home, home.versions / ".adding-1-again", ready.manifest)
        with Journal(home.database) as journal:
            assert registry.add(journal, ready, operator="ann@edge", reason="")
    else:
        add(home, "v2", seed="2")
    assert read_stable(home, "default") == ready.manifest.digest
    with Journal(home.database) as journal:
        ledger = orders.read(journal)
        registry.reconcile(journal, home, "ann@edge")
        assert orders.read(journal) == ledger, "what is complete is left alone"
    assert ledger.versions["default"]["v1"] == ledger.stable("default") == ready.manifest.digest


def kill():
    raise Killed


def test_a_version_whose_folder_was_lost_is_forgotten(home):
    add(home, "v1")
    lost = add(home, "v2", seed="2")
    shutil.rmtree(version_folder(home, lost.digest))
    with Journal(home.database) as journal:
        registry.reconcile(journal, home, "ann@edge")
        assert set(orders.read(journal).versions["default"]) == {"v1"}


def test_an_order_without_a_controller_is_written_down_and_says_so(run, home, monkeypatch):
    monkeypatch.setattr("control.cli_follow._CONTROLLER_WAIT_S", 0.0)
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    result = run("rollout", "pause", "-o", "json")
    assert json.loads(result.stdout)["rollout"]["paused"] is True
    assert "takes effect when it is back" in json.loads(result.stderr)["warning"]
    for order in ("resume", "pause", "promote", "abort"):
        result = run("rollout", order, "--reason", "oops")
        assert result.exit_code == Exit.UNREACHABLE
        assert "takes effect when it is back" in result.stderr
    last = json.loads(run("audit", "-o", "json").stdout)[-1]
    assert (last["kind"], last["body"]["reason"]) == ("abort_requested", "oops")


@pytest.mark.parametrize(
    ("events", "code", "text"),
    [
        ([], Exit.IN_PROGRESS, "waiting for the controller"),
        ([("paused", {"reason": ""})], Exit.PAUSED, "paused while pending"),
        ([("rejected", {"cause": "preflight", "reason": "NaN in fc"})], Exit.REJECTED, "rejected v2: NaN in fc"),
    ],
)
def test_status_without_waiting_tells_the_phase_by_its_exit_code(run, home, monkeypatch, events, code, text):
    monkeypatch.setattr("control.watch._REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    for kind, body in events:
        record(home, EventKind(kind), **body)
    result = run("rollout", "status", "--no-wait")
    assert result.exit_code == code
    assert text in result.stdout
    view = json.loads(run("rollout", "status", "--no-wait", "-o", "json").stdout)
    assert (view["exit"], view["rollout"]["number"]) == (code, 1)


def test_status_with_a_timeout_ends_with_5_and_the_rollout_goes_on(run, home, monkeypatch):
    monkeypatch.setattr("control.watch._REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    result = run("rollout", "status", "--timeout", "0")
    assert result.exit_code == Exit.TIMEOUT
    assert "the rollout goes on" in result.stderr


def test_a_paused_rollout_is_waited_for_until_its_open_steps_have_ended(run, home, monkeypatch):
    monkeypatch.setattr("control.watch._REPORT_TIMEOUT_S", 0.02)
    add(home, "v1")
    target = add(home, "v2", seed="2").digest
    start(home, "v2")
    record(home, EventKind.PREFLIGHT_STARTED)
    record(home, EventKind.PREFLIGHT_PASSED, seconds=1.0)
    record(home, EventKind.STEP_STARTED, worker="worker-0", incarnation=1, goal=target, attempt=1)
    record(home, EventKind.PAUSED, reason="")
    assert run("rollout", "status", "--timeout", "0").exit_code == Exit.TIMEOUT
    record(home, EventKind.STEP_WITHDRAWN, worker="worker-0")
    result = run("rollout", "status", "--timeout", "0")
    assert result.exit_code == Exit.PAUSED
    assert "hotpool rollout resume" in result.stderr


def test_the_history_lists_every_rollout(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    assert "v1" in run("rollout", "history").stdout
    assert [view["target_name"] for view in json.loads(run("rollout", "history", "-o", "json").stdout)] == ["v2"]


def test_the_audit_shows_operator_versions_and_reason_of_every_change(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2")
    line = run("audit").stdout.splitlines()[-1].rstrip()
    assert "ann@edge" in line
    assert "v1 -> v2" in line
    assert "new" in line
    assert run("audit", "verify").stdout.startswith("4 events")


def test_the_audit_leaves_out_the_parts_of_steps_unless_asked(run, home):
    add(home, "v1")
    target = add(home, "v2", seed="2").digest
    start(home, "v2")
    record(home, EventKind.STEP_STARTED, worker="worker-0", incarnation=1, goal=target, attempt=1)
    assert "step_started" not in run("audit").stdout
    assert f"goal={target[:12]}" in run("audit", "--all").stdout


def test_what_an_operator_wrote_is_shown_as_it_is(run, home):
    add(home, "v1")
    add(home, "v2", seed="2")
    start(home, "v2", reason="[red]why[/red] [/] :smile:")
    assert "[red]why[/red] [/] :smile:" in run("rollout", "history").stdout


def test_a_changed_journal_is_found_out(run, home):
    add(home, "v1")
    connection = sqlite3.connect(home.database)
    connection.executescript("DROP TRIGGER events_never_change; UPDATE events SET operator = 'eve' WHERE seq = 1")
    connection.close()
    refused(run("audit", "verify"), Exit.DEGRADED, "row 1")


def test_output_has_no_colours_where_there_is_no_terminal(run, home):
    add(home, "v1")
    for command in (["versions", "list"], ["audit"], ["down"]):
        assert "\x1b" not in run(*command).output


def test_json_is_json_also_when_there_is_nothing(run):
    for command in (["versions", "list"], ["audit"], ["rollout", "history"]):
        assert json.loads(run(*command, "-o", "json").stdout) == []


def test_a_folder_gives_its_pictures_and_a_file_itself(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "deep/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in _find([tmp_path])]
    assert found == ["a.jpg", "b.PNG", "deep/c.webp"]
    assert list(_find([Path("notes.txt")])) == [Path("notes.txt")]
