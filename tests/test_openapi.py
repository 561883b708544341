"""The OpenAPI document is true: it names the routes there are, and what a running gateway answers to random requests."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator

import jsonschema_rs
import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from gateway.app import PARTS
from gateway.backend import connect
from gateway.failures import STATUS
from gateway.openapi import document
from gateway.openapi_paths import PATHS
from hotpool.config import Config
from hotpool.errors import BY_CODE
from tests.pool import short_home
from tests.test_api import Site, running
from tests.test_live import Listener

CHECKS = (
    status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
)  # fmt: skip
ENDLESS = "/api/events"
KNOWN = {"model": "noop", "version": "v1", "number": 1, "name": "main.js"}
SEED = int(os.environ.get("HOTPOOL_RANDOM_SEED", "1"))
MAX_GROWTH_BYTES = 32 * 1024 * 1024  # what 10,000 requests may leave behind
N_REQUESTS = int(os.environ.get("HOTPOOL_RANDOM_REQUESTS", "1500"))  # 10000 take four minutes


def routes() -> Iterator[tuple[str, str]]:
    """Path and method of all that the application answers, but for HEAD, which goes with GET."""
    with short_home() as home:
        backend = connect(home, Config())
        try:
            for route in (route for part in PARTS for route in part.routes(backend)):
                assert isinstance(route, Route), f"{route} is not looked into by this test"
                path = route.path.replace(":int}", "}").replace(":path}", "}")
                for method in route.methods or ():
                    yield path, method.lower()
        finally:
            asyncio.run(backend.client.close())
            backend.close()


def test_the_document_names_the_routes_there_are_and_no_others():
    documented = {(path, method) for path, methods in PATHS.items() for method in methods}
    assert documented == {one for one in routes() if one[1] != "head"}


def test_every_status_that_an_operation_may_have_is_explained_and_every_code_belongs_to_one():
    made = document(PATHS)
    explained = made["components"]["responses"]
    named = {
        answer["$ref"].rpartition("/")[2]
        for methods in PATHS.values()
        for one in methods.values()
        for answer in one["responses"].values()
        if "$ref" in answer
    }
    assert named <= set(explained)
    codes = {
        code
        for one in explained.values()
        for code in one["content"]["application/json"]["schema"]["properties"]["code"]["enum"]
    }
    assert codes == STATUS.keys() >= BY_CODE.keys()


def test_who_asks_the_controller_is_told_that_its_answer_is_too_large_or_its_disk_full():
    by_controller = ("/api/status", "/api/rollouts", "/api/versions", "/api/audit", "/update-model")
    for path in by_controller:
        for method, one in PATHS[path].items():
            assert {"413", "503", "507"} <= one["responses"].keys(), f"{method} {path}"


def test_what_changes_something_asks_for_the_token_and_what_looks_does_not():
    for path, methods in PATHS.items():
        for method, one in methods.items():
            is_change = (
                method in ("post", "delete") and path.startswith(("/api/", "/update")) and path != "/api/session"
            )
            assert ("security" in one) == is_change, f"{method} {path}"


@pytest.fixture
def site() -> Iterator[Site]:
    """For one test: random requests may remove any version."""
    with running() as one:
        yield one


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_requests_are_answered_as_the_document_says(site):
    """What the document allows and what it does not, mostly with the admin's token, seldom with a wrong one."""
    schema = schemathesis.openapi.from_url(f"{site.gateway.url}/api/openapi.json")
    operations = [one.ok() for one in schema.exclude(path=ENDLESS).get_all_operations()]
    cases = [one.as_strategy(generation_mode=mode) for one in operations for mode in modes_of(one)]
    seen: Counter[tuple[str, int]] = Counter()
    http = requests.Session()

    @seed(SEED)
    @settings(
        max_examples=N_REQUESTS, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(case=st.one_of(cases), who=st.integers(0, 99))
    def ask(case, who):
        if who < 98:  # the others keep what was drawn for them, and wait as long as a wrong token costs
            for name in [name for name in case.headers if name.lower() in ("authorization", "cookie")]:
                del case.headers[name]
        if who < 75:
            case.headers["Authorization"] = f"Bearer {site.token}"
        if who % 2 and case.meta.generation.mode is GenerationMode.POSITIVE:  # chance alone finds none that is there
            case.path_parameters |= {name: value for name, value in KNOWN.items() if name in case.path_parameters}
        answer = case.call(session=http)
        seen[case.operation.label, answer.status_code] += 1
        assert answer.status_code != 500, answer.text  # 504 is what a short deadline has deserved
        checks = CHECKS if answer.status_code == 431 else (*CHECKS, negative_data_rejection)  # refused is refused
        case.validate_response(answer, checks=checks)

    print(f"seed {SEED}")
    before = memory(site)
    ask()
    print(f"memory {before >> 20} to {memory(site) >> 20} MiB")
    assert memory(site) - before < MAX_GROWTH_BYTES
    for (label, status), n in sorted(seen.items()):
        print(f"{n:6} {status} {label}")
    assert sum(seen.values()) >= N_REQUESTS
    assert {label for label, _ in seen} == {one.label for one in operations}
    assert "Traceback" not in (site.pool.home.root / "gateway.log").read_text()


def memory(site: Site) -> int:
    """Bytes of the gateway that are in memory."""
    return int(psutil.Process(site.gateway.process.pid).memory_info().rss)


def modes_of(operation) -> list[GenerationMode]:
    """Where nothing can be given, nothing can be given wrongly."""
    has_input = operation.body or operation.path_parameters or operation.query
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if has_input else [GenerationMode.POSITIVE]


@pytest.mark.slow
def test_the_events_are_as_the_document_says(site):
    made = document(PATHS)
    page = Listener(site.gateway)
    with site.admin() as admin:
        answer = admin.post("/api/rollouts", json={"version": "v2", "steps": "none", "bake_s": 0.1})
        assert "rollout" in answer.json(), answer.text
        number = answer.json()["rollout"]["number"]
        site.ended(number)
        page.wait("rollout")
        page.wait("traffic")
    of_kind = {"status": "Status", "rollout": "RolloutNow", "traffic": "Traffic"}
    for _, kind, data in page.events:
        if kind in of_kind:
            one = {"$ref": f"#/components/schemas/{of_kind[kind]}", "components": made["components"]}
            jsonschema_rs.validate(one, data)
    assert {kind for _, kind, _ in page.events} >= {"history", *of_kind}
    site.gateway.kill()
    page.join()
