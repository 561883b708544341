"""`/api` and `/update-model` of a running gateway, with a real broker, controller and no-op workers."""

import io
import json
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from bench.noop import MODEL
from control.events import EventKind
from control.journal import Journal
from gateway.auth import COOKIE
from gateway.controller import STATUS_TIMEOUT_S
from tests.full_disk import full_disk, needs_limits
from tests.gateway_process import ANY_PORT, Gateway, add_noop_versions, running_gateway, start_controller
from tests.pool import ROOT, Pool, eventually, running_pool, short_home

pytestmark = pytest.mark.slow
QUICK = {"steps": "none", "bake_s": 0.1}
CHANGES = [
    ("POST", "/api/rollouts", {"version": "v2"}),
    ("POST", "/api/rollouts/undo", {}),
    ("POST", "/api/rollouts/1/pause", {}),
    ("POST", "/api/rollouts/1/resume", {}),
    ("POST", "/api/rollouts/1/promote", {}),
    ("POST", "/api/rollouts/1/abort", {}),
    ("POST", "/api/versions", {}),
    ("DELETE", "/api/versions/v1", None),
    ("POST", "/update-model", {"version": "v2"}),
]


@dataclass
class Site:
    pool: Pool
    gateway: Gateway
    models: Path

    @property
    def token(self) -> str:
        return (self.pool.home.root / "admin-token").read_text().strip()

    def admin(self, operator: str = "anna") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}", "X-Hotpool-Operator": operator}
        return self.gateway.client(headers=headers)

    def ended(self, number: int):
        """The rollout, when it is over."""
        with self.gateway.client() as http:
            phases = ("succeeded", "rejected", "rolled_back", "rollback_failed")
            view = lambda: http.get(f"/api/rollouts/{number}").json()["rollout"]  # noqa: E731
            eventually(lambda: view()["phase"] in phases, f"rollout {number} is over", 60)
            return view()


@contextmanager
def running(config: str = "", controller: bool = True) -> Iterator[Site]:
    with running_pool(2) as pool:
        models = pool.home.root / "models-allowed"
        models.mkdir()
        pool.config.write_text(f'[pool]\nmodel = "noop"\n{ANY_PORT}model_folders = ["{models}"]\n{config}')
        add_noop_versions(pool.home, "v1", "v2", "v3")
        if controller:
            start_controller(pool)
        with running_gateway(pool.home, pool.config) as gateway, gateway.client() as http:
            if controller:
                eventually(lambda: http.get("/api/rollouts").status_code == 200, "the controller answers")
            yield Site(pool, gateway, models)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running() as one:
        yield one


@pytest.fixture
def http(site: Site) -> Iterator[httpx.Client]:
    with site.gateway.client() as client:
        yield client


@pytest.fixture
def admin(site: Site) -> Iterator[httpx.Client]:
    with site.admin() as client:
        yield client


def log_in(site: Site, http: httpx.Client, **headers) -> httpx.Response:
    return http.post("/api/session", json={"token": site.token, "operator": "berta"}, headers=headers)


# ---- who may


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_nothing_is_changed_without_the_token_or_from_another_site(site, http, method, path, body):
    with site.admin() as admin:
        before = [admin.get(f"/api/{what}").json() for what in ("rollouts", "versions")]
    assert http.request(method, path, json=body).json()["code"] == "unauthorized"
    wrong = http.request(method, path, json=body, headers={"Authorization": "Bearer " + "x" * 43})
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["www-authenticate"]) == (
        401,
        "unauthorized",
        "Bearer",
    )
    assert log_in(site, http).status_code == 200
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        refused = http.request(method, path, json=body, headers=origin)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert [http.get(f"/api/{what}").json() for what in ("rollouts", "versions")] == before


def test_who_logs_in_gets_a_cookie_that_scripts_and_other_sites_do_not_get(site, http):
    assert http.get("/api/session").json() == {"is_admin": False, "operator": None, "inference_needs_token": False}
    got = log_in(site, http, Origin=site.gateway.url)
    assert got.json() == {"is_admin": True, "operator": "berta", "inference_needs_token": False}
    name, *flags = got.headers["set-cookie"].split("; ")
    assert name.startswith(f"{COOKIE}=")
    assert {flag.lower() for flag in flags} == {"httponly", "max-age=43200", "path=/", "samesite=strict"}
    assert site.token not in got.headers["set-cookie"]
    assert http.get("/api/session").json()["operator"] == "berta"
    assert http.delete("/api/session").json()["is_admin"] is False
    assert http.get("/api/session").json()["is_admin"] is False


def test_behind_tls_the_cookie_is_for_tls_alone(site, http):
    host = site.gateway.url.partition("//")[2]
    assert "Secure" in log_in(site, http, Origin=f"https://{host}").headers["set-cookie"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"token": "x" * 43, "operator": "anna"}, 401),
        ({"token": "x", "operator": "a\nb"}, 401),
        ({"token": "x" * 43}, 400),
        ({"token": 1, "operator": "anna"}, 400),
        ({"token": "x", "operator": "anna", "more": 1}, 400),
        ([], 400),
    ],
)
def test_who_logs_in_wrongly_gets_no_cookie(http, body, status):
    got = http.post("/api/session", json=body)
    assert got.status_code == status
    assert "set-cookie" not in got.headers


# ---- looking


def test_everybody_may_look(http):
    status = http.get("/api/status").json()
    assert status["health"] == "healthy"
    assert status["controller"]["is_running"] is True
    assert [worker["worker"] for worker in http.get("/api/workers").json()] == ["worker-0", "worker-1"]
    assert {version["name"] for version in http.get("/api/versions").json()} == {"v1", "v2", "v3"}
    assert len(http.get("/api/audit?n=3").json()) == 3


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/rollouts/99", 404, "not_found"), ("/api/rollouts/0", 404, "not_found"),
        ("/api/rollouts/99999999999999999999999", 404, "not_found"), ("/api/rollouts/99/report", 404, "not_found"),
        ("/api/jobs/1", 404, "not_found"), ("/api/rollouts/x", 404, "not_found"), ("/api/audit?n=0", 400, "bad_request"),
        ("/api/rollouts?n=0", 400, "bad_request"), ("/api/rollouts?n=1001", 400, "bad_request"),
        ("/api/audit?n=1001", 400, "bad_request"), ("/api/audit?n=%C2%B2", 400, "bad_request"),
        ("/api/audit?n=99999999999999999999", 400, "bad_request"), ("/api/audit?n=0000000019999", 400, "bad_request"),
        (f"/api/audit?n={'9' * 5000}", 400, "bad_request"), (f"/api/rollouts/{'9' * 5000}", 404, "not_found"),
        (f"/api/jobs/{'9' * 5000}", 404, "not_found"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_so(http, path, status, code):
    got = http.get(path)
    assert (got.status_code, got.json()["code"]) == (status, code)


def test_no_answer_is_kept_by_a_cache(http):
    for path in ("/api/status", "/api/session", "/api/versions"):
        assert http.get(path).headers["cache-control"] == "no-store"


def test_no_answer_is_taken_for_anything_but_what_its_type_says(http):
    paths = (
        "/",
        "/static/main.js",
        "/static/none",
        "/nowhere",
        "/api/status",
        "/metrics",
        "/healthz",
        "/v2",
        "/v2/models/x",
    )
    answers = [http.get(path) for path in paths]
    for content, accept in ((png(), "*/*"), (b"", "*/*"), (b"", "text/html")):
        answers.append(http.post("/predict", content=content, headers={"Accept": accept}))
    for got in answers:
        assert got.headers.get_list("x-content-type-options") == ["nosniff"], got.url


def test_a_host_that_is_none_does_no_harm(http):
    for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/predict", 405), ("GET", "/api/session", 200)):
        assert http.request(method, path, headers={"Host": "[x"}).status_code == status


@pytest.mark.parametrize("given", ["a\tb", "é", "x" * 200])
def test_an_id_that_does_not_belong_into_a_header_does_not_come_back(http, given):
    got = http.get("/api/session", headers={"X-Request-Id": given.encode("latin-1")})
    assert got.headers["x-request-id"] not in (given, "")
    assert http.get("/api/session", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"


def test_header_lines_can_not_be_smuggled_in_by_a_path_or_a_version(site, http):
    with site.admin() as admin:
        for path in ("/api/versions/v1%0d%0aSet-Cookie:%20a=b", "/%0d%0aSet-Cookie:%20a=b"):
            got = admin.delete(path)
            assert "set-cookie" not in got.headers
            assert got.status_code in (400, 404)


# ---- orders


def test_a_rollout_from_its_order_to_its_end_and_back_again(site, http, admin):
    got = admin.post("/api/rollouts", json={"version": "v2", "reason": "it is better", **QUICK})
    assert got.status_code == 202
    number = got.json()["rollout"]["number"]
    assert (got.json()["result"], got.json()["rollout"]["operator"]) == ("ordered", "anna")
    assert site.ended(number)["phase"] == "succeeded"
    assert http.get("/api/status").json()["stable"]["name"] == "v2"
    report = http.get(f"/api/rollouts/{number}/report")
    assert "it is better" in report.text
    assert "sandbox" in report.headers["content-security-policy"]
    again = admin.post("/api/rollouts", json={"version": "v2", **QUICK})
    assert (again.status_code, again.json()) == (200, {"result": "unchanged", "rollout": None})
    log_in(site, http)
    back = http.post("/api/rollouts/undo", json={"reason": "oh"}, headers={"Origin": site.gateway.url})
    assert (back.status_code, back.json()["rollout"]["operator"]) == (202, "berta")
    assert back.json()["result"] == "ordered"
    assert site.ended(back.json()["rollout"]["number"])["phase"] == "succeeded"
    assert [one["number"] for one in http.get("/api/rollouts").json()][-2:] == [number, number + 1]
    assert [one["number"] for one in http.get("/api/rollouts?n=1").json()] == [number + 1]
    assert {"anna", "berta"} <= {event["operator"] for event in http.get("/api/audit").json()}


def test_a_rollout_under_way_is_paused_promoted_and_aborted_by_its_number(site, http, admin):
    number = admin.post("/api/rollouts", json={"version": "v2", "steps": "25,50"}).json()["rollout"]["number"]
    order = lambda verb, n=number, **body: admin.post(f"/api/rollouts/{n}/{verb}", json=body)  # noqa: E731
    for verb in ("pause", "resume", "promote", "abort"):
        got = order(verb, number + 1)
        assert (got.status_code, got.json()["code"]) == (409, "conflict")
    view = lambda: http.get(f"/api/rollouts/{number}").json()["rollout"]  # noqa: E731
    step = lambda: view()["settings"]["steps"][view()["analysis"]["step"]]  # noqa: E731
    eventually(lambda: view()["phase"] == "analyzing", "the canary is looked at")
    assert order("pause", reason="wait").status_code == 202
    assert view()["paused"]
    assert order("resume").status_code == 202
    assert not view()["paused"]
    late = order("promote", step="shadow")
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert step() == "25"
    assert order("promote", step="25").status_code == 202
    eventually(lambda: step() == "50", "the next step")
    assert order("abort", reason="no").status_code == 202
    assert site.ended(number)["phase"] == "rolled_back"
    assert order("abort").status_code == 409


def test_a_rollout_that_is_promoted_in_full_goes_to_its_end_without_a_request(site, http, admin):
    started = admin.post("/api/rollouts", json={"version": "v2", "steps": "25,50", "bake_s": 0.1})
    number = started.json()["rollout"]["number"]
    eventually(
        lambda: http.get(f"/api/rollouts/{number}").json()["rollout"]["phase"] == "analyzing", "the canary is looked at"
    )
    assert admin.post(f"/api/rollouts/{number}/promote", json={"full": True, "step": "25"}).status_code == 202
    assert site.ended(number)["phase"] == "succeeded"
    site.ended(admin.post("/api/rollouts/undo", json={}).json()["rollout"]["number"])


def test_an_undo_of_a_rollout_under_way_says_that_it_aborts(site, admin):
    number = admin.post("/api/rollouts", json={"version": "v2", "steps": "50"}).json()["rollout"]["number"]
    for body, status, result in (({"dry_run": True}, 200, "planned"), ({"reason": "no"}, 202, "aborted")):
        got = admin.post("/api/rollouts/undo", json=body)
        assert (got.status_code, got.json()["result"], got.json()["rollout"]["number"]) == (status, result, number)
    assert site.ended(number)["ending"] == "aborted by anna: no"


def test_while_an_alarm_holds_a_rollout_needs_force(site, admin):
    with Journal(site.pool.home.database) as journal:
        journal.append(EventKind.ALARM_RAISED, model=MODEL, operator="test", body={"reason": "all are wrong"})
        refused = admin.post("/api/rollouts", json={"version": "v3"})
        planned = admin.post("/api/rollouts", json={"version": "v3", "force": True, "dry_run": True})
        journal.append(EventKind.ALARM_ENDED, model=MODEL, operator="test", body={"reason": "all are right"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "all are wrong" in refused.json()["error"]
    assert (planned.status_code, planned.json()["result"]) == (200, "planned")


def test_what_would_be_ordered_can_be_seen_before(http, admin):
    before = http.get("/api/rollouts").json()
    got = admin.post("/api/rollouts", json={"version": "v3", "dry_run": True, "strategy": "beside"})
    assert (got.status_code, got.json()["result"]) == (200, "planned")
    assert got.json()["rollout"]["settings"]["strategy"] == "beside"
    assert http.get("/api/rollouts").json() == before


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/rollouts", {"version": "v99"}, 404, "unknown_version"),
        ("/api/rollouts", {"version": "v2", "steps": "banana"}, 422, "bad_rollout"),
        ("/api/rollouts", {"version": "v2", "max_unavailable": 2}, 422, "bad_rollout"),
        ("/api/rollouts", {"version": "v2", "strategy": "magic"}, 400, "bad_request"),
        ("/api/rollouts", {"version": "v2", "eval_folder": "/etc"}, 400, "bad_request"),
        ("/api/rollouts", {"version": "v2", "operator": "somebody else"}, 400, "bad_request"),
        ("/api/rollouts", {"version": "v2", "reason": "a\nb"}, 400, "bad_input"),
        ("/api/rollouts", {}, 400, "bad_request"),
        ("/api/rollouts", [], 400, "bad_request"),
        ("/update-model", {}, 400, "bad_request"),
        ("/update-model", {"version": "v2", "model_path": "/x", "name": "v9"}, 400, "bad_request"),
        ("/update-model", {"name": "v9"}, 400, "bad_request"),
        ("/update-model", {"model_path": "/x", "name": "no name"}, 400, "bad_request"),
        ("/update-model", {"model_path": "/x"}, 403, "forbidden"),
        ("/update-model", {"version": "v2", "name": "v9"}, 400, "bad_request"),
        ("/update-model", {"version": "v99"}, 404, "unknown_version"),
        ("/update-model", {"model_path": "/etc/passwd", "name": "v9"}, 403, "forbidden"),
        ("/update-model", {"model_path": "/nowhere.pth", "name": "v9"}, 403, "forbidden"),
        ("/update-model", {"model_path": "torchvision:resnet18/DEFAULT", "name": "v9"}, 403, "forbidden"),
    ],
)
def test_an_order_that_can_not_be_is_told_why(admin, path, body, status, code):
    got = admin.post(path, json=body)
    assert (got.status_code, got.json()["code"]) == (status, code), got.text


def test_an_order_is_json(admin):
    got = admin.post("/api/rollouts", content=b'{"version": "v2"}')
    assert (got.status_code, got.json()["code"]) == (415, "unsupported_type")
    got = admin.post("/api/rollouts", content=b"{", headers={"Content-Type": "application/json"})
    assert (got.status_code, got.json()["code"]) == (400, "bad_request")
    got = admin.post("/api/rollouts", content=bytes(100_000), headers={"Content-Type": "application/json"})
    assert (got.status_code, got.json()["code"]) == (413, "too_large")


def test_a_link_out_of_an_allowed_folder_leads_nowhere(site, admin):
    (site.models / "link.pth").symlink_to("/etc/passwd")
    for path in (site.models / "link.pth", site.models / ".." / "admin-token"):
        got = admin.post("/update-model", json={"model_path": str(path), "name": "v9"})
        assert (got.status_code, got.json()["code"]) == (403, "forbidden")


# ---- versions


def small_weights(path: Path, seed: int):
    from tests.small_versions import make_tensors, save

    return save(make_tensors(seed), path)


def job(http: httpx.Client, number: int):
    eventually(lambda: http.get(f"/api/jobs/{number}").json()["state"] != "running", "the job ends", 250)
    return http.get(f"/api/jobs/{number}").json()


def uploads(site: Site) -> list[Path]:
    return list((site.pool.home.root / "uploads").rglob("*"))


@pytest.mark.timeout(300)  # torch is imported in a process that gives way to all others
def test_weights_are_uploaded_checked_and_added_and_their_file_is_gone(site, http, admin, tmp_path):
    weights = small_weights(tmp_path / "small.safetensors", 1).read_bytes()
    form = {
        "name": "up1",
        "arch": "shufflenet_v2_x0_5",
        "labels": "a\nb\nc\nd\né\n",
        "reason": "new",
        "precision": "fp32",
    }
    got = admin.post("/api/versions", files={"file": ("small.safetensors", weights)}, data=form)
    assert got.status_code == 202, got.text
    assert uploads(site)
    done = job(http, got.json()["job"])
    assert (done["state"], done["error"]) == ("done", "")
    assert done["version"]["labels"] == ["a", "b", "c", "d", "é"]
    assert done["version"]["source"].endswith("/small.safetensors")
    assert done["version"]["added_by"] == "anna"
    eventually(lambda: not uploads(site), "the upload is removed")
    assert "up1" in [version["name"] for version in http.get("/api/versions").json()]
    again = admin.post("/api/versions", files={"file": ("small.safetensors", weights)}, data=form)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert not uploads(site)
    assert admin.delete("/api/versions/up1?reason=test").json() == {"removed": done["version"]["digest"]}
    assert (admin.delete("/api/versions/up1").status_code, admin.delete("/api/versions/v1").status_code) == (404, 409)


@pytest.mark.timeout(300)  # torch is imported in a process that gives way to all others
def test_weights_that_are_none_are_refused_by_the_job_and_their_file_is_gone(site, http, admin):
    got = admin.post("/api/versions", files={"file": ("x.pth", b"nonsense")}, data={"name": "up2"})
    failed = job(http, got.json()["job"])
    assert (failed["state"], failed["code"]) == ("failed", "bad_version")
    assert "x.pth" in failed["error"]
    eventually(lambda: not uploads(site), "the upload is removed")


@pytest.mark.parametrize(
    ("files", "form", "status"),
    [
        ({"file": ("x.exe", b"1")}, {"name": "up3"}, 400),
        ({"other": ("x.pth", b"1")}, {"name": "up3"}, 400),
        ({"file": ("x.pth", b"1")}, {}, 400),
        ({"file": ("x.pth", b"1")}, {"name": "no name"}, 400),
        ({"file": ("x.pth", b"1")}, {"name": "up3", "reason": "a\nb"}, 400),
        ({"file": ("x.pth", b"1")}, {"name": "up3", "precision": "fp4"}, 400),
        ({"file": ("x.pth", b"1")}, {"name": "up3", "source": "/etc/passwd"}, 400),
        ({"file": ("x.pth", b"1")}, {"name": "v1"}, 409),
    ],
)
def test_a_form_that_is_wrong_is_refused_and_its_file_is_gone(site, admin, files, form, status):
    got = admin.post("/api/versions", files=files, data=form)
    assert got.status_code == status, got.text
    assert not uploads(site)


def test_an_upload_whose_client_hangs_up_leaves_nothing(site):
    host, _, port = site.gateway.url.partition("//")[2].partition(":")
    with closing(socket.create_connection((host, int(port)))) as caller:
        caller.sendall(
            f"POST /api/versions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {site.token}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="file"; filename="w.pth"\r\n\r\nsome weights'.encode()
        )
        eventually(lambda: len(uploads(site)) == 2, "the upload has begun")
    eventually(lambda: not uploads(site), "the upload is removed")


@pytest.mark.timeout(300)  # torch is imported in a process that gives way to all others
def test_a_model_by_its_path_is_added_and_rolled_out_though_the_gateway_that_took_the_order_is_killed(site, http):
    body = {"model_path": str(site.models / "new.pth"), "arch": "shufflenet_v2_x0_5", "reason": "nightly"}
    small_weights(site.models / "new.pth", 2)
    with running_gateway(site.pool.home, site.pool.config, "second") as second:
        headers = {"Authorization": f"Bearer {site.token}", "X-Hotpool-Operator": "anna"}
        got = httpx.post(f"{second.url}/update-model", json=body, headers=headers)
        second.kill()
    assert got.status_code == 202, got.text
    number = got.json()["job"]
    assert got.json() == {"rollout": None, "job": number, "watch": f"/api/jobs/{number}"}
    done = job(http, number)
    assert (done["state"], done["error"]) == ("done", "")
    assert done["version"]["name"] == "new", "as the file is called"
    assert done["rollout"] is not None, "it is not done before that"
    ordered = http.get(f"/api/rollouts/{done['rollout']}").json()["rollout"]
    assert ordered["target"] == done["version"]["digest"]
    assert (ordered["operator"], ordered["reason"]) == ("anna", "nightly")
    with site.admin() as admin:
        admin.post(f"/api/rollouts/{done['rollout']}/abort", json={})
    site.ended(done["rollout"])


def test_update_model_to_a_version_says_where_to_watch_it(site, http, admin):
    got = admin.post("/update-model", json={"version": "v3"})
    number = got.json()["rollout"]
    assert (got.status_code, got.json()["job"], got.json()["watch"]) == (202, None, f"/api/rollouts/{number}")
    second = admin.post("/update-model", json={"version": "v2"})
    assert (second.status_code, second.json()["code"]) == (409, "conflict")
    admin.post(f"/api/rollouts/{number}/abort", json={})
    site.ended(number)
    same = admin.post("/update-model", json={"version": "v1"})
    assert (same.status_code, same.json()) == (200, {"rollout": None, "job": None, "watch": "/api/status"})


# ---- what is down


@needs_limits
def test_an_order_that_can_not_be_written_down_is_told_so_and_counts_for_nothing(site, http, admin):
    before = http.get("/api/rollouts").json()
    with full_disk(site.pool.processes["control"].pid):
        got = admin.post("/api/rollouts", json={"version": "v2", **QUICK})
    assert (got.status_code, got.json()["code"]) == (507, "unwritable")
    eventually(lambda: http.get("/api/rollouts").json() == before, "nothing was ordered")
    number = admin.post("/api/rollouts", json={"version": "v2", **QUICK}).json()["rollout"]["number"]
    assert site.ended(number)["phase"] == "succeeded"
    site.ended(admin.post("/api/rollouts/undo", json={}).json()["rollout"]["number"])


def test_a_controller_that_hangs_keeps_nobody_waiting_who_looks_and_is_told_from_one_that_is_gone(site, http):
    def look(_: int) -> tuple[Any, float]:
        begin = time.monotonic()
        with site.gateway.client() as client:
            return client.get("/api/status").json(), time.monotonic() - begin

    site.pool.kill("control", signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(30) as threads:
            looks = list(threads.map(look, range(30)))
    finally:
        site.pool.kill("control", signal.SIGCONT)
    for status, seconds in looks:
        assert (status["health"], status["controller"]["is_running"]) == ("degraded", True)
        assert "does not answer" in status["reasons"][0]
        assert len(status["workers"]) == 2
        assert seconds < 5 * STATUS_TIMEOUT_S, "30 of them, 6 at once"
    eventually(lambda: http.get("/api/status").json()["health"] == "healthy", "it answers again")


def test_without_a_controller_one_sees_what_the_broker_knows_and_orders_fail_at_once():
    with running(controller=False) as site, site.admin() as admin:
        status = admin.get("/api/status").json()
        assert status["controller"]["is_running"] is False
        assert "no controller is running" in status["reasons"][0]
        assert (status["rollout"], len(status["workers"])) == (None, 2)
        assert set(status) >= {"health", "model", "stable", "broker", "queue", "alarm"}
        got = admin.post("/api/rollouts", json={"version": "v2"})
        assert (got.status_code, got.json()["code"]) == (503, "controller_unreachable")
        assert got.elapsed.total_seconds() < 1
        assert int(got.headers["retry-after"]) >= 1
        site.pool.kill("broker")
        eventually(lambda: admin.get("/api/status").status_code == 503, "it is noticed")
        assert admin.get("/api/status").json()["code"] == "broker_unreachable"
        assert admin.get("/api/session").status_code == 200


def test_inference_that_needs_a_token_is_for_who_has_one_and_for_our_own_page():
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/predict", {"content": png()}),
        ("/v2/models/noop/infer", {"json": {"inputs": [image()]}}),
        ("/v2/models/noop/versions/v1/infer", {"json": {"inputs": [image()]}}),
    ]
    with running("inference_token = true\n", controller=False) as site, site.gateway.client() as http:
        assert http.get("/api/session").json()["inference_needs_token"] is True
        path = site.pool.home.root / "inference-token"
        assert path.stat().st_mode & 0o777 == 0o600
        for route, body in asked:
            statuses = [
                http.post(route, **body, headers=headers).status_code
                for headers in (
                    {},
                    *({"Authorization": f"Bearer {one}"} for one in ("x" * 43, path.read_text().strip(), site.token)),
                )
            ]
            assert statuses == [401, 401, 200, 200], route
        log_in(site, http)
        for route, body in asked:
            ours, foreign = {"Origin": site.gateway.url}, {"Origin": "http://evil.example"}
            assert [http.post(route, **body, headers=one).status_code for one in (ours, foreign, {})] == [
                200,
                403,
                403,
            ], route
        http.cookies.clear()
        assert [
            http.get(one).status_code for one in ("/v2/models/noop/ready", "/readyz", "/metrics", "/api/status")
        ] == [200] * 4


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


def image() -> dict[str, object]:
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64encode(png()).decode()]}


def test_a_token_file_that_others_can_read_ends_the_gateway_at_its_start():
    with short_home() as home:
        home.root.joinpath("admin-token").write_text("x" * 43)
        home.root.joinpath("admin-token").chmod(0o644)
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        command = [sys.executable, "-m", "gateway", "--home", str(home.root), "--config", str(config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "can be read by others" in done.stderr
    assert "Traceback" not in done.stderr
    assert "x" * 43 not in json.dumps(done.stderr)
