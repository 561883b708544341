"""Whether the gateway says that it is ready when it is, and what its metrics tell."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from bench.noop import MODEL
from gateway.app import make_app
from gateway.backend import connect
from hotpool.config import Config
from tests.gateway_process import ANY_PORT, add_noop_versions, running_gateway, running_site, start_controller
from tests.pool import eventually, running_pool, short_home
from tests.test_inference_http import IMAGE, picture

pytestmark = pytest.mark.slow

OTHER_UNITS = ("_ms", "_us", "_milliseconds", "_kb", "_mb", "_kilobytes", "_percent", "_minutes", "_hours")


def families(http: httpx.Client) -> dict[str, Metric]:
    got = http.get("/metrics")
    assert got.status_code == 200
    assert got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(got.text)}


def value(http: httpx.Client, name: str, **labels: str) -> float:
    samples = [one for family in families(http).values() for one in family.samples if one.name == name]
    assert samples, f"no {name}"
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def complaints(family: Metric, text: str) -> Iterator[str]:
    """What `promtool check metrics` and Prometheus' naming rules would say."""
    name = family.name + ("_total" if family.type == "counter" else "")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        yield "not in small letters"
    if not family.documentation.strip():
        yield "no help"
    if family.type != "counter" and name.endswith("_total"):
        yield "not a counter, but ends in _total"
    if family.type not in ("histogram", "summary") and name.endswith(("_count", "_sum", "_bucket")):
        yield "named as a part of a histogram"
    if name.endswith(OTHER_UNITS) or any(f"{unit}_" in name for unit in OTHER_UNITS):
        yield "not in a base unit"
    if re.search("_(counter|gauge|histogram|metric)s?(_|$)", name):
        yield "its type is in its name"
    if text.count(f"# TYPE {name} ") != 1 or text.count(f"# HELP {name} ") != 1:
        yield "told of more than once"
    yield from _complaints_of_samples(family)


def _complaints_of_samples(family: Metric) -> Iterator[str]:
    seen = [(one.name, tuple(sorted(one.labels.items()))) for one in family.samples]
    if len(set(seen)) < len(seen):
        yield "a sample twice"
    for sample in family.samples:
        if any(not re.fullmatch("[a-z][a-z0-9_]*", label) for label in sample.labels):
            yield f"labels {sorted(sample.labels)}"
        if family.type == "counter" and sample.value < 0:
            yield "a counter below zero"
    if family.type == "histogram":
        for sample in (one for one in family.samples if one.name.endswith("_count")):
            buckets = [
                (float(one.labels["le"]), one.value)
                for one in family.samples
                if one.name.endswith("_bucket") and sample.labels.items() <= one.labels.items()
            ]
            counts = [count for _, count in sorted(buckets)]
            if counts != sorted(counts) or counts[-1] != sample.value or max(buckets)[0] != float("inf"):
                yield f"buckets {buckets}"


def test_a_complaint_is_made_of_what_is_wrong():
    text = (
        '# HELP a_ms x\n# TYPE a_ms gauge\na_ms{Bad="1"} 2\na_ms{Bad="1"} 3\n'
        "# TYPE b_gauge gauge\nb_gauge 1\n# HELP c_total x\n# TYPE c_total gauge\nc_total 1\n"
    )
    found = {family.name: list(complaints(family, text)) for family in text_string_to_metric_families(text)}
    assert found["a_ms"] == ["not in a base unit", "a sample twice", "labels ['Bad']", "labels ['Bad']"]
    assert found["b_gauge"] == ["no help", "its type is in its name", "told of more than once"]
    assert "not a counter, but ends in _total" in found["c_total"]


def test_the_metrics_of_all_three_are_as_prometheus_wants_them():
    with running_site(2) as (pool, gateway), gateway.client() as http:
        add_noop_versions(pool.home, "v1", "v2")
        start_controller(pool)
        http.post("/predict", content=picture(0), headers=IMAGE)
        http.post("/predict", content=b"x", headers=IMAGE)
        http.get("/nowhere")
        eventually(lambda: value(http, "hotpool_controller_up") == 1, "the controller answers")
        text, found = http.get("/metrics").text, families(http)
    assert {name: said for name, family in found.items() if (said := list(complaints(family, text)))} == {}
    if promtool := shutil.which("promtool"):  # Prometheus' own, 50 MB: where it is installed anyway
        linted = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
        assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
    for name in ("hotpool_requests", "hotpool_rollout_phase", "hotpool_http_request_seconds", "hotpool_workers"):
        assert name in found
    assert not [name for name in found if not name.startswith("hotpool_")]


def test_the_gateway_counts_and_times_its_own_requests_by_route():
    with running_site(1) as (_, gateway), gateway.client() as http:
        for n in range(3):
            http.post("/predict", content=picture(n), headers=IMAGE)
        http.post("/predict", content=b"no", headers=IMAGE)
        http.get(f"/v2/models/{MODEL}/ready")
        for n in range(5):
            http.get(f"/nowhere/{n}")
        count = "hotpool_http_requests_total"
        assert value(http, count, method="POST", route="/predict", status="200") == 3
        assert value(http, count, method="POST", route="/predict", status="422") == 1
        assert value(http, count, route="/v2/models/{model}/ready") == 1
        assert value(http, count, route="none", status="404") == 5
        assert value(http, "hotpool_http_request_seconds_count", route="/predict") == 4
        assert value(http, "hotpool_http_requests_in_progress") == 1, "that of the metrics itself"


def test_a_scrape_tells_also_when_there_is_nothing_to_scrape():
    with running_site(0) as (pool, gateway), gateway.client() as http:
        assert (value(http, "hotpool_broker_up"), value(http, "hotpool_controller_up")) == (1, 0)
        pool.kill("broker")
        eventually(lambda: value(http, "hotpool_broker_up") == 0, "the broker is missed")
        assert "hotpool_http_requests" in families(http)
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503
        assert http.get("/v2/health/ready").status_code == 503
        assert http.get("/v2/health/live").json() == {"live": True}


def test_a_gateway_whose_own_connection_has_failed_says_that_it_must_be_started_again():
    """In this process: no fault from outside makes a client fail."""

    async def ask(*paths: str) -> list[httpx.Response]:
        with short_home() as home, closing(connect(home, Config())) as backend:
            transport = httpx.ASGITransport(make_app(backend))
            await backend.client.close()
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
                return [await http.get(path) for path in paths]

    for got in asyncio.run(ask("/healthz", "/v2/health/live")):
        assert (got.status_code, got.json()["code"]) == (503, "broker_unreachable")
        assert "start the gateway again" in got.json()["error"]
        assert got.json().get("live") in (None, False)


def test_it_is_ready_with_one_ready_worker_and_not_without():
    with (
        running_pool(0, ANY_PORT) as pool,
        running_gateway(pool.home, pool.config) as gateway,
        gateway.client() as http,
    ):
        refused = http.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "no_ready_worker")
        assert "there are none" in refused.json()["error"]
        told = http.get("/v2/health/ready")
        assert (told.status_code, told.json()["ready"]) == (503, False)
        pool.start_worker("worker-0")
        eventually(lambda: http.get("/readyz").status_code == 200, "ready")
        assert http.get("/v2/health/ready").json() == {"ready": True}
        assert http.get(f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}
        pool.kill("worker-0")
        eventually(lambda: http.get("/readyz").status_code == 503, "not ready any more")
