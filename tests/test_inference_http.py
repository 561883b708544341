"""Inference over HTTP: a real gateway, a real broker and real worker processes around a model that does nothing."""

import io
import json
import re
import signal
import socket
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bench.noop import MODEL, N_CLASSES, noop_class, noop_manifest
from hotpool.admin import Admin
from hotpool.messages import Policy, SetVersions
from tests.gateway_process import ANY_PORT, Gateway, add_noop_versions, running_gateway, running_site
from tests.odd_workers import ERRS_OFTEN
from tests.pool import Pool, eventually, running_pool, short_home

pytestmark = pytest.mark.slow

V1 = noop_manifest("v1").digest
IMAGE = {"content-type": "image/png"}
Site = tuple[Pool, Gateway]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(2, "[pictures]\nmax_bytes = 60_000\n") as (pool, gateway):
        add_noop_versions(pool.home, "v1", "v2")
        yield pool, gateway


@pytest.fixture
def http(site: Site) -> Iterator[httpx.Client]:
    with site[1].client() as http:
        yield http


@cache
def picture(first: int, second: int = 0) -> bytes:
    """Its class follows from the first pixel (`noop_class`)."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, :2] = first, second
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def set_versions(pool: Pool, *names: str, policy: Policy | None = None) -> None:
    """As a controller does: which versions there are; the first is stable, the second, if any, a rollout's target."""
    stable, target = (noop_manifest(names[0]).digest, noop_manifest(names[1]).digest if names[1:] else None)
    known = {f"v{number}": noop_manifest(f"v{number}").digest for number in (1, 2)}
    with Admin(pool.home.endpoint("admin")) as admin:
        admin.request(lambda seq: SetVersions(seq, 1, MODEL, stable, target, known, policy))


def outcomes(pool: Pool) -> dict[str, float]:
    requests = next(family for family in pool.report().metrics if family.name == "hotpool_requests_total")
    return {sample.labels["outcome"]: sample.value for sample in requests.samples}


def batch(*firsts: int, **more) -> dict[str, object]:
    """The protocol's JSON for pictures of one pixel."""
    data = [value for first in firsts for value in (first, 0, 0)]
    return {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [len(firsts), 1, 1, 3], "data": data}], **more}


# ---- answers


@pytest.mark.parametrize("n", range(4))
def test_a_picture_is_answered_with_its_classes_and_with_who_answered(http, n):
    forms: list[dict[str, Any]] = [
        {"content": picture(n), "headers": IMAGE},
        {"files": {"file": ("cat.png", picture(n))}},
    ]
    for form in forms:
        got = http.post("/predict", **form)
        assert got.status_code == 200
        told = got.json()
        first = told["predictions"][0]
        assert (first["index"], first["label"]) == (noop_class(n, "v1"), f"class-{noop_class(n, 'v1')}")
        assert [type(one["probability"]) for one in told["predictions"]] == [float] * 3
        assert first["probability"] > 0.9
        assert (told["model"], told["version"], told["digest"]) == (MODEL, "v1", V1)
        named = [got.headers[f"x-hotpool-{what}"] for what in ("model", "version", "digest", "worker")]
        assert named == [told[what] for what in ("model", "version", "digest", "worker")]
        assert told["worker"] in ("worker-0", "worker-1")
        timing = f"queue;dur={told['queue_ms']:.3f}, service;dur={told['service_ms']:.3f}"
        assert got.headers["server-timing"] == timing
        assert told["service_ms"] > 0


def test_top_and_version_may_be_asked_for(http):
    assert len(http.post("/predict?top=7&version=v1", content=picture(0), headers=IMAGE).json()["predictions"]) == 7
    assert http.post(f"/predict?version={V1}", content=picture(0), headers=IMAGE).json()["version"] == "v1"
    assert len(http.post("/predict?top=1000", content=picture(0), headers=IMAGE).json()["predictions"]) == N_CLASSES


def test_a_browser_gets_a_page(http):
    browser = {"accept": "text/html,*/*;q=0.8"}
    got = http.post("/predict", files={"file": ("cat.png", picture(3))}, headers=browser)
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<h1>class-{noop_class(3, 'v1')}</h1>" in got.text
    assert "script" not in got.headers["content-security-policy"]
    refused = http.post("/predict", files={"file": ("cat.png", b"no picture")}, headers=browser)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "this is no picture" in refused.text


def test_a_request_id_comes_back_and_without_one_each_has_its_own(http):
    given = http.post("/predict", content=picture(0), headers={**IMAGE, "x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = {http.post("/predict", content=picture(0), headers=IMAGE).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3


def test_many_requests_on_one_connection_get_their_own_answers(http):
    for n in range(200):
        got = http.post("/predict", content=picture(n % 10), headers=IMAGE)
        assert got.json()["predictions"][0]["index"] == noop_class(n % 10, "v1")


def test_the_pool_has_each_picture_of_a_batch_as_a_request_of_its_own(site, http):
    before = outcomes(site[0])["ok"]
    got = http.post(f"/v2/models/{MODEL}/infer", json=batch(*range(10)))
    indices = next(one for one in got.json()["outputs"] if one["name"] == "top_indices")
    assert indices["shape"] == [10, 3]
    assert indices["data"][::3] == [noop_class(n, "v1") for n in range(10)]
    assert outcomes(site[0])["ok"] == before + 10
    workers = got.headers["x-hotpool-worker"].split(", ")
    assert sorted(set(workers)) == sorted(workers)


# ---- errors


def infer(http: httpx.Client, model: str = MODEL, version: str = "", **request) -> httpx.Response:
    path = f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"
    if not request:
        request = {"json": batch(0)}
    return http.post(path, **request)


def form_without_file(http: httpx.Client) -> httpx.Response:
    return http.post("/predict", files={"picture": ("cat.png", picture(0))})


REFUSALS = {
    "no form": lambda http: http.post("/predict", content=b"x", headers={"content-type": "multipart/form-data"}),
    "no file": form_without_file,
    "wrong query": lambda http: http.post("/predict?top=none", content=picture(0), headers=IMAGE),
    "wrong deadline": lambda http: http.post(
        "/predict", content=picture(0), headers={**IMAGE, "x-request-timeout-seconds": "soon"}
    ),
    "endless deadline": lambda http: infer(http, json=batch(0), headers={"x-request-timeout-seconds": "inf"}),
    "wrong route key": lambda http: infer(http, json=batch(0), headers={"x-hotpool-route-key": "x" * 129}),
    "no JSON": lambda http: infer(http, content=b"{"),
    "wrong length of JSON": lambda http: infer(http, content=b"{}", headers={"inference-header-content-length": "two"}),
    "unknown model": lambda http: infer(http, "cats"),
    "unknown version": lambda http: infer(http, version="v9"),
    "version that does not serve": lambda http: http.post("/predict?version=v2", content=picture(0), headers=IMAGE),
    "wrong method": lambda http: http.get("/predict"),
    "no such path": lambda http: http.post("/predict/", content=picture(0), headers=IMAGE),
    "too large": lambda http: http.post("/predict", content=bytes(60_001), headers=IMAGE),
    "much too large": lambda http: http.post("/predict", content=bytes(1_000_000), headers=IMAGE),
    "wrong type": lambda http: http.post("/predict", data={"file": "x"}),
    "wrong type of tensors": lambda http: infer(http, content=b"{}", headers={"content-type": "text/plain"}),
    "compressed": lambda http: infer(http, content=b"{}", headers={"content-encoding": "gzip"}),
    "no picture": lambda http: http.post("/predict", content=b"GIF8 it is not", headers=IMAGE),
}
EXPECTED = {
    "no form": (400, "bad_request", "boundary"),
    "no file": (400, "bad_request", "no field named file"),
    "wrong query": (400, "bad_request", "top is 'none'"),
    "wrong deadline": (400, "bad_request", "X-Request-Timeout-Seconds is 'soon'"),
    "endless deadline": (400, "bad_request", "X-Request-Timeout-Seconds is 'inf'"),
    "wrong route key": (400, "bad_request", "X-Hotpool-Route-Key"),
    "no JSON": (400, "bad_request", "not as it should be"),
    "wrong length of JSON": (400, "bad_request", "Inference-Header-Content-Length is 'two'"),
    "unknown model": (404, "unknown_model", "'cats'"),
    "unknown version": (404, "unknown_version", "'v9'"),
    "version that does not serve": (404, "unknown_version", "not served now; served: v1"),
    "wrong method": (405, "method_not_allowed", "does not know the method GET"),
    "no such path": (404, "not_found", "nothing at /predict/"),
    "too large": (413, "too_large", "at most 60000"),
    "much too large": (413, "too_large", "the body has 1000000 bytes"),
    "wrong type": (415, "unsupported_type", "curl -F file=@cat.jpg"),
    "wrong type of tensors": (415, "unsupported_type", "expected application/json"),
    "compressed": (415, "unsupported_type", "Content-Encoding is 'gzip'"),
    "no picture": (422, "bad_image", "the GIF is damaged"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_wrong_is_told_in_words_and_by_a_code(site, http, what):
    set_versions(site[0], "v1")
    got = REFUSALS[what](http)
    status, code, text = EXPECTED[what]
    assert got.status_code == status, got.text
    assert got.headers["content-type"] == "application/json"
    assert set(got.json()) == {"error", "code"}
    assert got.json()["code"] == code
    assert text in got.json()["error"]
    assert got.headers["x-request-id"]
    again = http.post("/predict", content=picture(1), headers=IMAGE)
    assert again.status_code == 200, "one that went wrong must not spoil the next"


def test_a_worker_that_refuses_is_named(http):
    got = http.post("/predict", content=b"GIF8 it is not", headers=IMAGE)
    assert (got.headers["x-hotpool-version"], got.headers["x-hotpool-digest"]) == ("v1", V1)
    assert got.headers["x-hotpool-worker"].startswith("worker-")
    unserved = infer(http, "cats")
    assert unserved.headers["x-hotpool-model"] == "cats"
    assert "x-hotpool-version" not in unserved.headers


def test_what_waits_too_long_ends_at_its_own_deadline_and_a_full_queue_is_told_at_once():
    config = f"[dispatch]\nqueue_max_requests = 1\nheartbeat_s = 8.0\n{ANY_PORT}"
    with running_site(1, config) as (pool, gateway), gateway.client() as http:
        http.post("/predict", content=picture(0), headers=IMAGE)
        pool.kill("worker-0", signal.SIGSTOP)
        late = http.post("/predict", content=picture(0), headers={**IMAGE, "x-request-timeout-seconds": "0.2"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        assert 0.2 <= late.elapsed.total_seconds() < 2.0
        # The worker still holds that one. The next waits, the one after finds the queue full.
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as waiting:
            waiting.sendall(raw_request(picture(0)))
            eventually(lambda: pool.report().queue.requests == 1, "one waits")
            full = http.post("/predict", content=picture(0), headers=IMAGE)
            assert (full.status_code, full.json()["code"]) == (429, "queue_full")
            assert re.fullmatch("[1-9]", full.headers["retry-after"])
            assert full.elapsed.total_seconds() < 2.0
            many = http.post(f"/v2/models/{MODEL}/infer", json=batch(1, 2, 3))
            assert (many.status_code, many.json()["code"]) == (429, "queue_full")
            pool.kill("worker-0", signal.SIGCONT)
            assert b"200 OK" in waiting.recv(65536)


def test_without_a_ready_worker_or_a_broker_it_is_unavailable_for_now():
    with running_site(0) as (pool, gateway), gateway.client() as http:
        soon = {**IMAGE, "x-request-timeout-seconds": "0.2"}
        idle = http.post("/predict", content=picture(0), headers=soon)
        assert (idle.status_code, idle.json()["code"], idle.headers["retry-after"]) == (503, "no_ready_worker", "1")
        pool.kill("broker")
        gone = http.post("/predict", content=picture(0), headers=soon)
        assert (gone.status_code, gone.json()["code"], gone.headers["retry-after"]) == (503, "broker_unreachable", "1")
        pool.start_broker()
        pool.start_worker("worker-0")
        back = http.post("/predict", content=picture(0), headers={**IMAGE, "x-request-timeout-seconds": "20"})
        assert back.status_code == 200


def test_a_model_that_fails_is_the_servers_fault_and_is_named():
    version = f"v{ERRS_OFTEN}"
    with running_pool(0, ANY_PORT, module="tests.odd_workers") as pool:
        pool.home.stable_pointer(MODEL).write_text(noop_manifest(version).digest)
        with running_gateway(pool.home, pool.config) as gateway, gateway.client() as http:
            pool.start_worker("worker-0")
            got = http.post("/predict", content=picture(0, second=1), headers=IMAGE)
    assert (got.status_code, got.json()["code"]) == (500, "model_error")
    assert "this picture fails" in got.json()["error"]
    assert got.headers["x-hotpool-version"] == version


def test_a_request_whose_workers_die_is_unavailable_for_now():
    with running_site(1, f"[dispatch]\nmax_attempts = 1\nheartbeat_s = 5.0\n{ANY_PORT}") as (pool, gateway):
        address = ("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        pool.kill("worker-0", signal.SIGSTOP)
        with socket.create_connection(address) as held:
            held.sendall(raw_request(picture(0)))
            eventually(lambda: any(worker.in_flight for worker in pool.report().workers), "leased")
            pool.kill("worker-0")
            got = held.recv(65536)
    assert got.startswith(b"HTTP/1.1 503")
    assert b'"code":"worker_lost"' in got


# ---- versions


def share_of_v2(http: httpx.Client, keys: list[str]) -> list[bool]:
    answers = [
        http.post("/predict", content=picture(0), headers={**IMAGE, "x-hotpool-route-key": key}).json() for key in keys
    ]
    for answer in answers:
        assert answer["predictions"][0]["index"] == noop_class(0, answer["version"])
    return [answer["version"] == "v2" for answer in answers]


def test_who_has_a_route_key_stays_on_one_version_and_batches_are_of_one():
    with running_pool(1, ANY_PORT) as pool:
        pool.home.stable_pointer(MODEL).write_text(noop_manifest("v2").digest)
        pool.start_worker("worker-1")
        eventually(lambda: pool.ready() == 2, "a worker on each version")
        set_versions(pool, "v1", "v2", policy=Policy(1, 7, 50.0, 0.0))
        with running_gateway(pool.home, pool.config) as gateway, gateway.client() as http:
            keys = [f"user-{n}" for n in range(24)]
            first, second = share_of_v2(http, keys), share_of_v2(http, keys)
            assert first == second
            assert 3 <= sum(first) <= 21
            versions = set()
            for _ in range(40):
                got = http.post(f"/v2/models/{MODEL}/infer", json=batch(*range(8)))
                assert got.status_code == 200, got.text
                versions.add(version := got.headers["x-hotpool-version"])
                indices = got.json()["outputs"][2]["data"][::3]
                assert indices == [noop_class(n, version) for n in range(8)]
            assert versions == {"v1", "v2"}
            # Without a policy any of the two answers each request, and still no batch is of both.
            set_versions(pool, "v1", "v2")
            for _ in range(40):
                got = http.post(f"/v2/models/{MODEL}/infer", json=batch(*range(8)))
                assert got.status_code == 200, got.text
                indices = got.json()["outputs"][2]["data"][::3]
                assert indices == [noop_class(n, got.headers["x-hotpool-version"]) for n in range(8)]


# ---- clients that hang up


def raw_request(body: bytes, path: str = "/predict", kind: str = "image/png") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_hangs_up_cancels_what_it_asked_for(n):
    with running_site(1, f"[dispatch]\nheartbeat_s = 8.0\n{ANY_PORT}") as (pool, gateway), gateway.client() as http:
        http.post("/predict", content=picture(0), headers=IMAGE)
        pool.kill("worker-0", signal.SIGSTOP)
        body = json.dumps(batch(*range(n))).encode()
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as caller:
            caller.sendall(raw_request(body, f"/v2/models/{MODEL}/infer", "application/json"))
            eventually(lambda: pool.report().queue.requests == n - 1, "all are at the broker")
            assert "cancelled" not in outcomes(pool)
        eventually(lambda: outcomes(pool).get("cancelled") == n, "the broker knows that nobody waits")
        assert pool.report().queue.requests == 0
        pool.kill("worker-0", signal.SIGCONT)
        assert http.post("/predict", content=picture(0), headers=IMAGE).status_code == 200
        counted = http.get("/metrics").text
        assert re.search(r'hotpool_http_requests_total\{method="POST",route="/v2/models/.*status="gone"\} 1.0', counted)


def test_a_large_body_that_came_whole_does_not_hide_that_its_client_has_gone():
    with running_site(1, f"[dispatch]\nheartbeat_s = 8.0\n{ANY_PORT}") as (pool, gateway), gateway.client() as http:
        http.post("/predict", content=picture(0), headers=IMAGE)
        pool.kill("worker-0", signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as caller:
            caller.sendall(raw_request(bytes(2_000_000)))
            eventually(lambda: any(worker.in_flight for worker in pool.report().workers), "leased")
        eventually(lambda: outcomes(pool).get("cancelled") == 1, "the broker knows that nobody waits")
        pool.kill("worker-0", signal.SIGCONT)


def test_two_requests_at_once_on_one_connection_are_answered_in_their_order(site):
    with socket.create_connection(("127.0.0.1", int(site[1].url.rpartition(":")[2]))) as caller:
        caller.sendall(b"".join(raw_request(picture(n)) for n in range(5)))
        got = b""
        while got.count(b'"predictions"') < 5:
            got += caller.recv(65536)
    indices = [int(found) for found in re.findall(rb'"predictions":\[\{"index":(\d+)', got)]
    assert indices == [noop_class(n, "v1") for n in range(5)]
    assert all(after > before for before, after in pairwise(indices))


def test_without_a_pool_the_gateway_lives_and_says_what_is_missing():
    with short_home() as home:
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        with running_gateway(home, config) as gateway, gateway.client() as http:
            assert http.get("/healthz").status_code == 200
            refused = http.get("/readyz")
    assert (refused.status_code, refused.json()["code"]) == (503, "broker_unreachable")
    assert "hotpool up" in refused.json()["error"]
