"""Memory for a load: asked for before it begins, and told as such when it was missing."""

import hotpool.torchvision_ops  # noqa: F401, I001  must come before torchvision

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from hotpool.config import Config, Pool
from hotpool.errors import BadVersion
from hotpool.home import Home
from hotpool.manifest import WEIGHTS, version_folder
from hotpool.stable import write_stable
from workers.batch import ENGINE_ERRORS
from workers.orders import Settings, exit_file
from workers.pinning import Plan
from workers.room import MB, check_free, check_limit, explain_ran_out, free_bytes, ran_out
from workers.supervisor import Supervisor
from workers.worker import Worker


@pytest.fixture
def weights(tmp_path):
    """100 MB that take no room on the disk."""
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.truncate(100 * MB)
    return path


def test_a_load_takes_up_to_three_times_its_file(weights):
    check_limit(weights, 300)
    with pytest.raises(BadVersion) as caught:
        check_limit(weights, 299)
    assert str(caught.value) == (
        "weights.safetensors has 100 MB, and loading it takes up to 300 MB; allowed are 299 MB. Raise pool.load_memory_mb in "
        "the configuration and restart the pool, or add a smaller version, such as one in int8"
    )


def test_without_so_much_memory_free_it_does_not_begin(weights):
    check_free(weights, lambda: 200 * MB)
    check_free(weights, lambda: None)
    with pytest.raises(BadVersion, match=r"takes up to 200 MB beside the mapped file; 199 MB of memory are free here"):
        check_free(weights, lambda: 200 * MB - 1)


def test_a_file_that_is_missing_is_left_to_the_load(tmp_path):
    check_limit(tmp_path / "none", 1)
    check_free(tmp_path / "none", lambda: 0)


MEMORY = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory": MEMORY}, 2_048_000_000),
        ({"memory": MEMORY, "memory.max": "max\n", "memory.current": "5\n"}, 2_048_000_000),
        ({"memory": MEMORY, "memory.max": "1000\n", "memory.current": "700\n"}, 300),
        (
            {"memory": MEMORY, "memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50\n"},
            350,
        ),
        ({"memory.max": "1000\n", "memory.current": "700\n"}, 300),
        ({"slice/memory.max": "900", "slice/memory.current": "850", "memory.max": "1000", "memory.current": "990"}, 10),
        ({"slice/memory.max": "900", "slice/memory.current": "850"}, 50),
        ({"memory": "nothing of the kind"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_free_is_what_the_machine_and_the_control_group_leave(files, free, tmp_path):
    (tmp_path / "slice").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert free_bytes(tmp_path / "memory", [(2, tmp_path / "slice"), (2, tmp_path)]) == free


def test_control_groups_of_the_first_version_count_too(tmp_path):
    for name, text in {
        "limit_in_bytes": "1000",
        "usage_in_bytes": "700",
        "stat": "cache 9\ntotal_inactive_file 50\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_bytes(tmp_path / "none", [(1, tmp_path)]) == 350


@pytest.mark.skipif(sys.platform != "linux", reason="nobody tells elsewhere")
def test_this_machine_tells_how_much_is_free():
    assert (free_bytes() or 0) > 10 * MB


def test_an_allocator_without_memory_is_told_from_other_failures():
    with pytest.raises(ENGINE_ERRORS) as caught:
        torch.empty(2**52, dtype=torch.uint8)
    assert ran_out(caught.value)
    assert "not enough memory to load version abc (RuntimeError:" in str(explain_ran_out(caught.value, "abc"))
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("shapes do not fit"))


DIGEST = "d" * 64


@pytest.fixture
def worker(tmp_path):
    """Its load would succeed at once, if it were asked; the weights of the stable version have 100 MB."""
    home = Home(tmp_path)
    home.run.mkdir()
    write_stable(home, "m", DIGEST)
    weights = version_folder(home, DIGEST) / WEIGHTS
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.truncate(100 * MB)

    made = []

    def make(load_memory_mb):
        loaded = []

        def load(home, digest, *, on_state):
            loaded.append(digest)
            return SimpleNamespace(manifest=SimpleNamespace(model="m", name="v1", digest=digest))

        settings = Settings(str(tmp_path), "m", "worker-0", 1, (0,), 1, 4, MB, MB, load_memory_mb)
        made.append(Worker(settings, load, None, None, None))  # type: ignore[arg-type]
        return made[-1], loaded, exit_file(home, os.getpid())

    yield make
    for one in made:
        one._loader.close()


def test_a_worker_that_boots_asks_for_room_before_it_loads(worker, monkeypatch):
    within, loaded, _ = worker(300)
    assert within.boot()
    assert loaded == [DIGEST]
    beyond, loaded, note = worker(299)
    assert not beyond.boot()
    assert loaded == []
    assert "allowed are 299 MB" in note.read_text()
    monkeypatch.setattr("workers.room.free_bytes", lambda: 199 * MB)
    lacking, loaded, note = worker(300)
    assert not lacking.boot()
    assert loaded == []
    assert "199 MB of memory are free here" in note.read_text()


def test_the_limit_of_a_pool_s_configuration_reaches_its_workers(tmp_path):
    config, plan = Config(pool=Pool(load_memory_mb=777)), Plan(((0,),), 1)
    # Not a whole supervisor: that would adopt the orphans of the process that tests.
    supervisor = SimpleNamespace(_home=Home(tmp_path), _config=config, _plan=plan)
    settings = Supervisor._settings(supervisor, "worker-0", 0, 1)  # type: ignore[arg-type]
    assert settings.load_memory_mb == 777
