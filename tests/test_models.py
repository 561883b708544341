"""Which models and versions a gateway says that the pool serves."""

import pytest

from gateway import models
from hotpool.errors import NoReadyWorker, UnknownModel, UnknownVersion
from hotpool.messages import ModelReport, QueueReport, Report, WorkerReport
from hotpool.states import WorkerState


def report(*workers: WorkerReport, known: ModelReport | None = None) -> Report:
    return Report(1, 1, 1.0, 1, workers, QueueReport(0, 1, 0, 1), (known,) if known else (), ())


def worker(number: int, version: str = "v1", state: WorkerState = WorkerState.READY) -> WorkerReport:
    return WorkerReport(f"worker-{number}", state, "shapes", version, f"digest-{version}" if version else "")


TABLE = ModelReport("shapes", 1, "digest-v1", "digest-v2", {name: f"digest-{name}" for name in ("v1", "v2", "v3")})


def test_a_pool_without_workers_is_not_ready():
    with pytest.raises(NoReadyWorker, match="no worker is ready for model shapes"):
        models.require_ready(report(), "shapes")


@pytest.mark.parametrize("state", [state for state in WorkerState if state is not WorkerState.READY])
def test_only_ready_workers_count(state):
    with pytest.raises(NoReadyWorker, match=f"worker-0 {state.value}"):
        models.require_ready(report(worker(0, state=state)), "shapes")
    models.require_ready(report(worker(0, state=state), worker(1)), "shapes")


def test_one_ready_worker_is_enough_of_its_own_version_and_model():
    found = report(worker(0, "v1"), worker(1, "v2", WorkerState.DRAINING))
    models.require_ready(found, "shapes", "digest-v1", "v1")
    with pytest.raises(NoReadyWorker, match="version v2 of model shapes"):
        models.require_ready(found, "shapes", "digest-v2", "v2")
    with pytest.raises(NoReadyWorker):
        models.require_ready(found, "animals")


def test_a_model_is_known_by_its_workers_or_by_the_controller():
    models.check_model(report(worker(0)), "shapes")
    models.check_model(report(known=TABLE), "shapes")
    with pytest.raises(UnknownModel, match="no model 'cats' is served here; served: shapes"):
        models.check_model(report(worker(0)), "cats")


@pytest.mark.parametrize("version", ["v3", "digest-v3"])
def test_a_version_is_found_by_name_or_digest_also_when_it_does_not_serve(version):
    assert models.resolve(report(worker(0), known=TABLE), "shapes", version) == "digest-v3"


def test_a_version_that_is_none_is_told_which_there_are():
    with pytest.raises(UnknownVersion, match="model shapes has no version 'v9'; it has v1"):
        models.resolve(report(worker(0)), "shapes", "v9")


def test_without_a_version_the_stable_one_is_meant_and_without_a_controller_what_serves():
    assert models.main_digest(report(worker(0, "v2"), known=TABLE), "shapes") == "digest-v1"
    assert models.main_digest(report(worker(0, "v2")), "shapes") == "digest-v2"
    with pytest.raises(NoReadyWorker):
        models.main_digest(report(), "shapes")


def test_the_index_tells_what_serves_what_is_on_its_way_and_what_lies_there():
    found = report(worker(0), worker(1), known=TABLE)
    states = {name: models.index_state(found, "shapes", digest)[0] for name, digest in TABLE.names.items()}
    assert states == {"v1": "READY", "v2": "LOADING", "v3": "UNAVAILABLE"}
    assert models.served(report(worker(0), worker(1, "v2"), worker(2)), "shapes") == ["v1", "v2"]
