"""The prober: golden inputs through a real broker and real worker processes; and what the controller makes of it."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from msgspec import convert

from bench.callers import Callers
from control.controller import Controller
from control.events import EventKind
from control.journal import Journal
from control.prober import Golden, Prober, normalised, read_golden
from control.view import Finding
from hotpool.admin import Admin
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.manifest import GOLDEN, MANIFEST, WEIGHTS, Manifest, manifest_json, version_folder
from hotpool.messages import WorkerReport
from hotpool.stable import write_stable
from hotpool.states import WorkerState
from tests.command_line import CommandLine
from tests.pool import Pool, eventually, short_home
from workers.preprocess import Preprocessor

K = EventKind
MODEL, CROP, SEED = "default", 8, 44


def golden_inputs(n: int = 8, crop: int = CROP) -> Any:
    return np.random.default_rng(SEED).integers(0, 256, (n, 3, crop, crop), dtype=np.uint8)


def make_version(home: Home, name: str = "v1") -> str:
    """Of no-op workers: what they answer to a row is its sum, the number of rows computed with it, and 0."""
    inputs = golden_inputs()
    logits = np.zeros((len(inputs), 3), np.float32)
    manifest = make_manifest(b"", name)
    logits[:, 0], logits[:, 1] = normalised(inputs, manifest).sum(axis=(1, 2, 3)), 1.0
    golden = safetensors.numpy.save({"inputs": inputs, "logits": logits})
    manifest = make_manifest(golden, name)
    folder = version_folder(home, manifest.digest)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(manifest_json(manifest))
    (folder / GOLDEN).write_bytes(golden)
    (folder / WEIGHTS).write_bytes(name.encode())
    return manifest.digest


def make_manifest(golden: bytes, name: str = "v1") -> Manifest:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return convert(
        {
            "model": MODEL, "arch": "noop", "classes": 3, "labels": ("sum", "rows", "zero"),
            "preprocessing": {"resize": CROP, "crop": CROP}, "weights_sha256": sha256, "tensors_sha256": sha256,
            "golden_sha256": hashlib.sha256(golden).hexdigest(), "name": name, "source": "test", "added_by": "test",
            "added_ts": datetime(2026, 1, 1, tzinfo=UTC),
        },
        Manifest,
    )  # fmt: skip


def test_a_golden_input_is_normalised_to_the_very_bits_that_workers_make_of_it() -> None:
    inputs = golden_inputs(4, 32)
    manifest = make_manifest(b"")
    expected = Preprocessor(manifest.preprocessing).normalise(torch.from_numpy(inputs)).numpy()
    assert np.array_equal(normalised(inputs, manifest), expected)
    assert np.array_equal(np.concatenate(list(Golden(inputs, expected[:0], manifest).inputs())), expected)


@pytest.mark.parametrize("damage", ["changed", "not there", "no safetensors"])
def test_golden_inputs_that_are_not_those_of_the_manifest_are_not_asked(tmp_path: Path, damage: str) -> None:
    home = Home(tmp_path)
    digest = make_version(home)
    path = version_folder(home, digest) / GOLDEN
    assert len(list(read_golden(home, digest).inputs())) == 8
    if damage == "not there":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(b"x" * 99 if damage == "no safetensors" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadVersion, match=GOLDEN):
        read_golden(home, digest)


def test_an_interval_of_zero_means_never(tmp_path: Path) -> None:
    with closing(Prober(Home(tmp_path), 0)) as prober:
        assert not prober.is_due(monotonic())
        assert prober.poll() is None


class NoPreflight:
    """No-op workers have nothing to check."""

    def start(self, digest: str, settings: object, stable: str) -> None:
        pass

    def poll(self) -> Finding | None:
        return Finding(True)

    def stop(self) -> None:
        pass


class ProbedPool:
    """A broker, a supervisor with no-op workers, and whatever a test adds."""

    def __init__(self, home: Home, n_workers: int) -> None:
        self.home, self.digest = home, make_version(home)
        self.pool = Pool(home)
        self.pool.config.write_text(f'[pool]\nmodel = "{MODEL}"\n')
        write_stable(home, MODEL, self.digest)
        with Journal(home.database) as journal:
            journal.append(K.VERSION_ADDED, model=MODEL, operator="test", body={"name": "v1", "digest": self.digest})
            journal.append(K.STABLE_SET, model=MODEL, operator="test", body={"digest": self.digest})
        self.pool.start_broker()
        self.pool._start(
            "workers", "tests.noop_workers", "--home", str(home.root), "--workers", str(n_workers)
        )  # fmt: skip
        eventually(lambda: self.pool.ready() == n_workers, f"{n_workers} workers ready")

    def workers(self) -> dict[str, WorkerReport]:
        return {worker.worker: worker for worker in self.pool.report().workers}

    def go_wrong(self, *names: str) -> None:
        """One after the other, as `get_well`."""
        for name in names:
            (self.home.root / f"wrong-{self.workers()[name].pid}").touch()

    def get_well(self) -> None:
        """One after the other: a round between two finds one alone wrong, which is then killed."""
        for path in self.home.root.glob("wrong-*"):
            path.unlink()

    def n_probes(self) -> float:
        """How many golden inputs workers have answered, rightly or not."""
        (probes,) = (family for family in self.pool.report().metrics if family.name == "hotpool_probes_total")
        return sum(sample.value for sample in probes.samples if sample.labels["outcome"] == "answered")

    def probed(self, prober: Prober) -> dict[str, str]:
        """What is wrong with whom, by one round."""
        before = prober.poll()
        prober.start(tuple(self.workers().values()), monotonic())
        eventually(lambda: prober.poll() is not before, "the round ends")
        found = prober.poll()
        assert found is not None
        assert found.trouble == ""
        return {probed.worker: probed.reason for probed in found.probed}


@contextmanager
def probed_pool(n_workers: int) -> Iterator[ProbedPool]:
    with short_home() as home:
        made = ProbedPool(home, n_workers)
        try:
            yield made
        finally:
            made.pool.stop()


@contextmanager
def controlled(home: Home, interval_s: float) -> Iterator[Journal]:
    """A controller in a thread; gives a journal of the test's own."""
    stopping = threading.Event()

    def control() -> None:
        with (
            hold(home.lock("control"), "{pid}"),
            Admin(home.endpoint("admin"), watch=True) as broker,
            Journal(home.database) as journal,
            closing(Prober(home, interval_s)) as prober,
        ):
            Controller(home, MODEL, journal, broker, NoPreflight(), "controller", prober).run(stopping)

    with Journal(home.database) as journal:
        thread = threading.Thread(target=control)
        thread.start()
        try:
            yield journal
        finally:
            stopping.set()
            thread.join()


def of_kind(journal: Journal, kind: EventKind) -> list[dict[str, Any]]:
    return [event.body for event in journal.events() if event.kind is kind]


@pytest.mark.slow
@pytest.mark.alone
def test_a_round_asks_each_worker_itself_and_finds_the_one_that_is_wrong() -> None:
    with probed_pool(3) as made, closing(Prober(made.home, 60.0)) as prober:
        assert prober.is_due(monotonic())
        assert made.probed(prober) == {"worker-0": "", "worker-1": "", "worker-2": ""}
        assert not prober.is_due(monotonic())
        made.go_wrong("worker-1")
        reasons = made.probed(prober)
        assert reasons["worker-1"].startswith("golden logits differ by up to 5 ")
        assert [reasons["worker-0"], reasons["worker-2"]] == ["", ""]


@pytest.mark.slow
@pytest.mark.alone
def test_a_wrong_worker_is_taken_out_and_replaced_and_no_caller_sees_an_error() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with (
        probed_pool(3) as made,
        controlled(made.home, interval_s=0.2) as journal,
        made.pool.client() as client,
        Callers(client, 2, lambda n: (pixels, None), lambda n, remembered, prediction: None) as callers,
    ):
        callers.wait_for(200)
        made.go_wrong("worker-1")
        eventually(lambda: made.workers()["worker-1"].restarts == {"wrong": 1}, "it was ended for that")
        eventually(lambda: made.pool.ready() == 3, "another took its seat")
        callers.wait_for(200)
        (failed,) = of_kind(journal, K.PROBE_FAILED)
        assert (failed["worker"], failed["version"], failed["digest"]) == (
            "worker-1",
            f"v{made.digest[0]}",
            made.digest,
        )
        assert "golden logits differ" in failed["reason"]
        assert [made.workers()[f"worker-{n}"].restarts for n in (0, 2)] == [{}, {}]
        assert of_kind(journal, K.ALARM_RAISED) == []
    assert callers.history.errors == []
    assert callers.history.lost == 0


@pytest.mark.slow
@pytest.mark.alone
def test_when_all_are_wrong_they_stay_and_status_says_so_until_they_are_right() -> None:
    with probed_pool(2) as made:
        hotpool = CommandLine(made.home, made.pool.config)
        with controlled(made.home, interval_s=0.2):
            eventually(lambda: hotpool.json("status", code=0)["health"] == "healthy", "the controller runs")
        made.go_wrong("worker-0", "worker-1")
        with controlled(made.home, interval_s=0.2) as journal:
            eventually(lambda: bool(of_kind(journal, K.ALARM_RAISED)), "an alarm")
            n_before = made.n_probes()
            eventually(lambda: made.n_probes() >= n_before + 3 * 2 * len(golden_inputs()), "three more rounds")
            status = hotpool.json("status", code=8)
            assert status["health"] == "degraded"
            assert "alarm: all 2 workers of" in status["reasons"][0]
        made.get_well()
        with controlled(made.home, interval_s=0.2) as journal:
            eventually(lambda: bool(of_kind(journal, K.ALARM_ENDED)), "its end")
            assert hotpool.json("status", code=0)["reasons"] == []
        workers = made.workers().values()
        assert [(worker.state, worker.restarts) for worker in workers] == [(WorkerState.READY, {})] * 2
