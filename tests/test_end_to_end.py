"""The command line against a running pool: real processes, real weights, real pictures. The tests share one pool; each looks up
which version is stable and rolls to the other, so their order does not matter."""

from hotpool import torchvision_ops  # noqa: F401, I001  must come before torchvision

import os
import re
import signal
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from torchvision import transforms

from bench.callers import Callers
from control.journal import Journal
from hotpool import Client
from hotpool.admin import Admin
from hotpool.locks import holder
from hotpool.manifest import WEIGHTS, version_folder

from .command_line import SMALL_NETWORK, TWO_WORKERS, prepared_home
from .full_disk import full_disk, needs_limits, on_full_disk
from .pool import eventually
from .small_versions import ARCH, CLASSES, SMALL, make_tensors, save

pytestmark = pytest.mark.slow
OTHER = {"v1": "v2", "v2": "v1"}
SEEDS = {"v1": 1, "v2": 2}

# Each count or time that operators rely on, by the name a scraper sees, with its kind and labels.
PROMISED = {
    "hotpool_requests": ("counter", {"model", "version", "outcome"}),
    "hotpool_queue_seconds": ("histogram", {"model", "version"}),
    "hotpool_service_seconds": ("histogram", {"model", "version"}),
    "hotpool_total_seconds": ("histogram", {"model", "version"}),
    "hotpool_in_flight": ("gauge", {"worker", "model", "version"}),
    "hotpool_queue_requests": ("gauge", set()),
    "hotpool_queue_bytes": ("gauge", set()),
    "hotpool_workers": ("gauge", {"model", "state"}),
    "hotpool_worker_restarts": ("gauge", {"worker", "cause"}),
    "hotpool_worker_private_bytes": ("gauge", {"worker"}),
    "hotpool_redispatched": ("counter", {"cause"}),
    "hotpool_duplicates_dropped": ("counter", set()),
    "hotpool_malformed": ("counter", {"socket"}),
    "hotpool_rollout_phase": ("gauge", {"model", "version", "phase"}),
    "hotpool_rollbacks": ("counter", {"model", "version", "cause"}),
    "hotpool_step_seconds": ("histogram", {"model", "version", "part"}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights v1 and v2, and a picture."""
    folder = tmp_path_factory.mktemp("files")
    for name, seed in SEEDS.items():
        save(make_tensors(seed), folder / f"{name}.pth")
    pixels = np.random.default_rng(7).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def hotpool(files, tmp_path_factory):
    with prepared_home(tmp_path_factory.mktemp("pool")) as command_line:
        for name in SEEDS:
            command_line.add(files / f"{name}.pth", name)
        command_line("up", "--detach")
        try:
            yield command_line
        finally:
            command_line("down")


def stable(hotpool):
    return hotpool.json("status")["stable"]["name"]


def is_on(hotpool, version):
    """Every worker is ready with this version, which is the stable one. `status` ends with 8 while only one of two is ready."""
    workers = [(one["state"], one["version"], one["digest"]) for one in hotpool.json("workers")]
    if {state for state, _, _ in workers} != {"ready"}:
        return False
    stable = hotpool.json("status")["stable"]
    return stable["name"] == version and workers == [("ready", version, stable["digest"])] * 2


def events(hotpool):
    with Journal(hotpool.home.database) as journal:
        return journal.events()


def kill(hotpool, service):
    """Its process id, which is free now."""
    pid = holder(hotpool.home.lock(service))
    assert pid, f"no {service} is running"
    os.kill(pid, signal.SIGKILL)
    return pid


def await_another(hotpool, service, pid):
    eventually(lambda: holder(hotpool.home.lock(service)) not in (None, pid), f"another {service}")


def scratch_forked(hotpool):
    return (hotpool.home.logs / "workers.log").read_text().count("event=scratch_forked")


def await_bake(hotpool, after):
    """Until a rollout that was ordered since watches its target. Returns its number."""
    baking = []

    def has_begun():
        baking[:] = [event.rollout for event in events(hotpool)[after:] if event.kind == "bake_started"]
        return bool(baking)

    eventually(has_begun, "the rollout bakes")
    return baking[0]


def by_torchvision(version, path):
    """The probabilities, computed by nothing of ours."""
    network = torchvision.models.get_model(ARCH, weights=None, num_classes=CLASSES)
    network.load_state_dict(make_tensors(SEEDS[version]))
    steps = transforms.Compose(
        [
            transforms.Resize(SMALL.resize),
            transforms.CenterCrop(SMALL.crop),
            transforms.ToTensor(),
            transforms.Normalize(SMALL.mean, SMALL.std),
        ]
    )
    with torch.inference_mode(), Image.open(path) as image:
        return network.eval()(steps(image)[None]).softmax(1)[0].tolist()


# ---- looking


def test_status_says_that_all_is_well_and_on_what(hotpool):
    version = stable(hotpool)
    text = hotpool("status").stdout
    assert "healthy" in text
    assert f"stable {version}" in text
    rows = [line.split()[:4] for line in text.splitlines() if line.startswith("worker-")]
    assert [row[:3] for row in rows] == [[f"worker-{n}", "ready", version] for n in range(2)]
    view = hotpool.json("status")
    assert (view["health"], view["reasons"], view["rollout"]) == ("healthy", [], None)
    assert view["controller"]["pid"] == holder(hotpool.home.lock("control"))
    assert is_on(hotpool, version)


def test_workers_are_real_processes_on_cores_of_this_machine(hotpool):
    workers = hotpool.json("workers")
    assert [worker["worker"] for worker in workers] == ["worker-0", "worker-1"]
    text = hotpool("workers").stdout
    for worker in workers:
        assert str(worker["pid"]) in text
        assert set(worker["cores"]) <= os.sched_getaffinity(0)
        assert os.sched_getaffinity(worker["pid"]) == set(worker["cores"])  # an error where there is no such process


def test_an_answer_is_the_networks_own(hotpool, files):
    version = stable(hotpool)
    (view,) = hotpool.json("classify", files / "noise.png", "--top", CLASSES)
    expected = by_torchvision(version, files / "noise.png")
    assert view["prediction"]["version"] == version
    got = {score["index"]: score["probability"] for score in view["prediction"]["classes"]}
    assert [got[n] for n in range(CLASSES)] == pytest.approx(expected, abs=1e-4)
    assert (
        max(abs(a - b) for a, b in zip(expected, by_torchvision(OTHER[version], files / "noise.png"), strict=True))
        > 0.01
    )


def test_a_picture_that_fails_is_named_and_the_others_are_answered(hotpool, files, tmp_path):
    bad, missing = tmp_path / "bad.png", tmp_path / "missing.png"
    bad.write_bytes(b"this is no picture")
    done = hotpool("classify", bad, files / "noise.png", missing, code=1)
    assert str(files / "noise.png") in done.stdout
    assert "%" in done.stdout
    assert str(bad) not in done.stdout
    errors = done.stderr.splitlines()
    assert len(errors) == 3
    assert errors[0].startswith(f"error: {bad}: ")
    assert errors[1].startswith(f"error: {missing}: ")
    assert "No such file" in errors[1]
    assert errors[2] == "error: 2 of 3 pictures failed"


def test_a_folder_gives_all_its_pictures(hotpool, files, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    with Image.open(files / "noise.png") as image:
        image.save(tmp_path / "b.jpg")
        image.save(below / "a.webp")
    (tmp_path / "notes.txt").write_text("no picture, and not asked for")
    views = hotpool.json("classify", tmp_path)
    assert {view["path"] for view in views} == {str(tmp_path / "b.jpg"), str(below / "a.webp")}
    assert all("prediction" in view for view in views)


# ---- metrics


def scrape(hotpool):
    return {one.name: one for one in text_string_to_metric_families(hotpool("metrics", "-o", "prometheus").stdout)}


def answered(families, version):
    labels = {"model": "default", "version": version, "outcome": "ok"}
    return sum(sample.value for sample in families["hotpool_requests"].samples if sample.labels == labels)


def test_metrics_count_what_happened_and_name_all_that_is_promised(hotpool, files):
    version = stable(hotpool)
    before = answered(scrape(hotpool), version)
    hotpool("classify", files / "noise.png", files / "noise.png")
    families = scrape(hotpool)
    assert answered(families, version) == before + 2
    for name, (kind, labels) in PROMISED.items():
        assert families[name].type == kind, name
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == labels, name
    ready = [s.value for s in families["hotpool_workers"].samples if s.labels["state"] == "ready"]
    assert ready == [2]
    for name in ("hotpool_queue_requests", "hotpool_queue_bytes", "hotpool_duplicates_dropped"):
        assert [sample.value for sample in families[name].samples] == [0], name
    assert all(sample.value > 1e6 for sample in families["hotpool_worker_private_bytes"].samples)


def test_the_three_forms_of_metrics_agree(hotpool, files):
    hotpool("classify", files / "noise.png")
    families, view, table = scrape(hotpool), hotpool.json("metrics"), hotpool("metrics").stdout
    assert {family["name"].removesuffix("_total") for family in view} == families.keys()
    version = stable(hotpool)
    (requests,) = [family for family in view if family["name"] == "hotpool_requests_total"]
    labels = {"model": "default", "version": version, "outcome": "ok"}
    (value,) = [sample["value"] for sample in requests["samples"] if sample["labels"] == labels]
    assert value == answered(families, version) >= 1
    row = f"requests_total model=default version={version} outcome=ok {value:g}"
    assert row in [" ".join(line.split()) for line in table.splitlines()]


# ---- rolling


def test_a_rollout_moves_every_worker_and_undo_brings_them_back(hotpool, files):
    before, n_before = stable(hotpool), scratch_forked(hotpool)
    after = OTHER[before]
    done = hotpool(
        "rollout", "start", "--version", after, "--no-analysis", "--bake", "0", "--reason", "retrained in October"
    )
    assert f"succeeded: {after} is stable" in done.stdout
    assert is_on(hotpool, after)
    assert hotpool.json("classify", files / "noise.png")[0]["prediction"]["version"] == after
    steps = scrape(hotpool)["hotpool_step_seconds"].samples
    steps = [s for s in steps if s.name.endswith("_count") and s.labels["version"] == after]
    assert {sample.labels["part"] for sample in steps} >= {"drain", "load", "verify"}
    assert all(sample.value >= 2 for sample in steps)

    undone = hotpool.json("rollout", "undo", "--bake", "0", "--reason", "confuses cats with dogs")
    assert undone["exit"] == 0
    assert is_on(hotpool, before)
    assert scratch_forked(hotpool) == n_before + 2, "each was checked in a process that the template forked"

    made = [entry for entry in hotpool.json("audit") if entry["kind"] == "rollout_created"][-2:]
    assert [entry["body"]["reason"] for entry in made] == ["retrained in October", "confuses cats with dogs"]
    assert [(entry["body"]["stable_name"], entry["body"]["target_name"]) for entry in made] == [
        (before, after), (after, before),
    ]  # fmt: skip
    assert all("@" in entry["operator"] for entry in made)
    text = hotpool("audit").stdout
    assert "retrained in October" in text
    assert f"{before} -> {after}" in text
    assert f"{len(events(hotpool))} events" in hotpool("audit", "verify").stdout


def test_a_rollout_beside_leaves_every_worker_ready_and_undo_goes_the_same_way(hotpool, files):
    before = stable(hotpool)
    after = OTHER[before]
    with Admin(hotpool.home.endpoint("admin"), watch=True) as admin:
        done = hotpool("rollout", "start", "--version", after, "--no-analysis", "--strategy", "beside", "--bake", "0")
        assert f"({before} -> {after}, beside)" in done.stdout
        assert is_on(hotpool, after)
        assert hotpool.json("classify", files / "noise.png")[0]["prediction"]["version"] == after
        hotpool("rollout", "undo", "--bake", "0")
        assert is_on(hotpool, before)
        changes = admin.changes(0.5)
    assert {(change.after, change.ready) for change in changes} == {("ready", 2)}
    assert [change.version for change in changes if change.cause == "verified"] == [after, after, before, before]
    assert [one["settings"]["strategy"] for one in hotpool.json("rollout", "history")[-2:]] == ["beside"] * 2
    assert "beside" in hotpool("rollout", "history").stdout


@pytest.mark.parametrize("victim", ["worker", "broker"])
def test_a_kill_in_a_load_beside_does_not_stop_the_rollout(hotpool, victim):
    after = OTHER[stable(hotpool)]
    hotpool("rollout", "start", "--version", after, "--no-analysis", "--strategy", "beside", "--bake", "0", "--detach")
    with Admin(hotpool.home.endpoint("admin")) as admin:
        loading = []

        def has_begun():
            loading[:] = [worker for worker in admin.report().workers if worker.beside]
            return bool(loading)

        eventually(has_begun, "a worker loads beside")
    os.kill(loading[0].pid, signal.SIGKILL) if victim == "worker" else kill(hotpool, "broker")
    assert f"succeeded: {after} is stable" in hotpool("rollout", "status").stdout
    eventually(lambda: is_on(hotpool, after), "every worker serves it")


def test_a_pool_of_one_worker_is_rolled_beside_and_not_otherwise(files, tmp_path):
    with prepared_home(tmp_path) as hotpool:
        hotpool.config.write_text(TWO_WORKERS.replace("workers = 2", "workers = 1"))
        for name in SEEDS:
            hotpool.add(files / f"{name}.pth", name)
        try:
            hotpool("up", "--detach")
            assert "--strategy beside" in hotpool("rollout", "start", "--version", "v2", code=2).stderr
            with Admin(hotpool.home.endpoint("admin"), watch=True) as admin:
                hotpool("rollout", "start", "--version", "v2", "--no-analysis", "--strategy", "beside", "--bake", "0")
                changes = admin.changes(0.5)
            assert {(change.after, change.ready) for change in changes} == {("ready", 1)}
            assert hotpool.json("classify", files / "noise.png")[0]["prediction"]["version"] == "v2"
        finally:
            hotpool("down")


def test_the_stable_version_is_unchanged_and_an_unknown_one_a_mistake(hotpool):
    version, n = stable(hotpool), len(events(hotpool))
    assert hotpool("rollout", "start", "--version", version).stdout.startswith("unchanged: ")
    assert "known are v1, v2" in hotpool("rollout", "start", "--version", "v9", code=2).stderr
    assert len(events(hotpool)) == n


def test_a_damaged_version_is_rejected_with_the_reason_and_touches_no_worker(hotpool, tmp_path):
    before = hotpool.json("workers")
    digest = hotpool.add(save(make_tensors(3), tmp_path / "v3.pth"), "v3")
    try:
        weights = version_folder(hotpool.home, digest) / WEIGHTS
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.chmod(stat.S_IRUSR | stat.S_IWUSR)
        weights.write_bytes(content)
        done = hotpool("rollout", "start", "--version", "v3", "--no-analysis", "--bake", "0", code=10)
        assert "rejected v3" in done.stdout
        assert "changed" in done.stdout
        assert "the service was not touched" in done.stdout
        after = hotpool.json("workers")
        assert [worker["token"] for worker in after] == [worker["token"] for worker in before]
        assert is_on(hotpool, stable(hotpool))
    finally:
        hotpool("versions", "remove", "v3")


def test_ctrl_c_detaches_and_the_rollout_goes_on(hotpool):
    target, n = OTHER[stable(hotpool)], len(events(hotpool))
    waiting = hotpool.start("rollout", "start", "--version", target, "--no-analysis", "--bake", "2")
    number = await_bake(hotpool, n)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 9, out + err
    assert "hotpool rollout abort" in err
    assert "Traceback" not in err
    assert f"rollout {number} of default succeeded" in hotpool("rollout", "status").stdout
    assert is_on(hotpool, target)


# ---- faults


def test_a_second_up_is_refused(hotpool):
    for words in (("up", "--detach"), ("up",)):
        error = hotpool(*words, code=6).stderr
        assert f"process {holder(hotpool.home.lock('up'))}" in error
        assert "hotpool down" in error


def test_a_killed_broker_is_started_again_and_answers(hotpool, files):
    version, broker = stable(hotpool), kill(hotpool, "broker")
    (view,) = hotpool.json("classify", files / "noise.png", "--timeout", "30")
    assert view["prediction"]["version"] == version
    assert holder(hotpool.home.lock("broker")) not in (None, broker)
    eventually(lambda: is_on(hotpool, version), "both workers are back")
    assert "broker was ended by SIGKILL" in (hotpool.home.logs / "up.log").read_text()


def test_a_killed_controller_finishes_its_rollout(hotpool):
    target, n = OTHER[stable(hotpool)], len(events(hotpool))
    hotpool("rollout", "start", "--version", target, "--no-analysis", "--bake", "3", "--detach")
    number = await_bake(hotpool, n)
    epoch = hotpool.json("status")["controller"]["epoch"]
    controller = kill(hotpool, "control")
    done = hotpool("rollout", "status", "--rollout", number)
    assert "succeeded" in done.stdout
    assert is_on(hotpool, target)
    kinds = [event.kind for event in events(hotpool)[n:]]
    assert kinds.index("bake_started") < kinds.index("controller_started") < kinds.index("succeeded")
    status = hotpool.json("status")["controller"]
    assert status["pid"] not in (None, controller)
    assert status["epoch"] > epoch


# ---- a full disk


@needs_limits
def test_on_a_full_disk_orders_and_new_versions_are_refused_in_plain_words(hotpool, files):
    full, before = replace(hotpool, command=on_full_disk("control.cli")), events(hotpool)
    stored = sorted(hotpool.home.versions.iterdir())
    for words, where in (
        (("rollout", "start", "--version", OTHER[stable(hotpool)], "--detach"), hotpool.home.database),
        (("versions", "add", files / "v1.pth", "--name", "v9", *SMALL_NETWORK), hotpool.home.versions),
    ):
        done = full(*words, code=8)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert str(where) in line
        assert re.search(r"the disk at /\S* has [0-9.]+ MB free$", line)
    assert events(hotpool) == before
    assert sorted(hotpool.home.versions.iterdir()) == stored


@needs_limits
def test_a_pool_whose_disk_is_full_serves_on_whatever_is_killed_and_the_controller_waits_for_room(hotpool):
    pixels, n_events = np.zeros((40, 48, 3), np.uint8), len(events(hotpool))
    with (
        Client(hotpool.home.endpoint("clients")) as client,
        full_disk(holder(hotpool.home.lock("up")), limit=64),  # their locks, which are there already, find room
        Callers(client, 2, lambda n: (pixels, None), lambda *_: None) as callers,
    ):
        for service in ("broker", "control"):
            await_another(hotpool, service, kill(hotpool, service))
            callers.wait_for(50)
        os.kill(hotpool.json("workers")[0]["pid"], signal.SIGKILL)
        callers.wait_for(50)
        eventually(lambda: hotpool.json("workers")[0]["state"] == "ready", "the worker is back")
        assert len(events(hotpool)) == n_events
    assert (callers.history.lost, callers.history.errors) == (0, [])
    eventually(lambda: [event.kind for event in events(hotpool)][n_events:] == ["controller_started"], "it goes on")
    assert hotpool.json("status")["health"] == "healthy"


# ---- starting and stopping, each with a home of its own


def test_a_pool_without_a_version_says_what_to_add_and_down_ends_it(files, tmp_path):
    with prepared_home(tmp_path) as hotpool:
        try:
            assert "hotpool versions add" in hotpool("up", "--detach").stdout
            hotpool("status", code=8)
            hotpool.add(files / "v1.pth", "v1")
            eventually(lambda: is_on(hotpool, "v1"), "the first version is served")
        finally:
            pids = [holder(hotpool.home.lock(name)) for name in ("up", "broker", "workers", "control")]
            told = hotpool.json("down")
        assert all(pids)
        assert (told["home"], told["process"], told["has_ended"]) == (str(hotpool.home.root), pids[0], True)
        assert [holder(hotpool.home.lock(name)) for name in ("up", "broker", "workers", "control")] == [None] * 4
        assert "hotpool up" in hotpool("status", code=7).stderr
        hotpool("down", code=11)


@pytest.mark.parametrize("words", [("up",), ("up", "--detach"), ("status",)])
def test_a_home_whose_path_is_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path, words):
    root = tmp_path / ("x" * 100)
    with prepared_home(tmp_path) as hotpool:
        done = hotpool("--home", root, *words, code=2)
    assert "too long for a Unix socket" in done.stderr
    assert "set HOTPOOL_HOME to a shorter folder" in done.stderr
    assert not root.exists()


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path):
    with prepared_home(tmp_path) as hotpool:
        hotpool.config.write_text("[pool]\nworkrs = 2\n")
        error = hotpool("up", "--detach", code=2).stderr
    assert error == f"error: {hotpool.config}: unknown key 'pool.workrs'; did you mean 'pool.workers'?\n"


@pytest.mark.parametrize("words", [("up",), ("up", "--detach")])
def test_workers_that_do_not_fit_on_the_cores_are_refused_with_the_figures(tmp_path, words):
    n = len(os.sched_getaffinity(0))
    with prepared_home(tmp_path) as hotpool:
        hotpool.config.write_text(f"[pool]\nworkers = {n + 1}\nthreads = 2\n")
        said = hotpool(*words, code=2).stdout
        assert holder(hotpool.home.lock("up")) is None
    assert f"pool.workers = {n + 1} with pool.threads = 2 need {2 * n + 2} cores, usable are " in said
    assert "allow_oversubscription" in said
