"""What HTTP clients notice of rollouts, of a gateway that is killed, and of one that is asked to stop: nothing, or what they
can try again."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import monotonic

import httpx
import pytest

from bench.noop import MODEL, noop_class, noop_manifest
from hotpool.states import Phase
from tests.gateway_process import ANY_PORT, Gateway, running_gateway
from tests.pool import Pool, eventually, running_pool
from tests.test_inference_http import IMAGE, batch, picture
from tests.test_rollouts_under_load import BESIDE, SETTINGS, add_versions, roll_out

pytestmark = [pytest.mark.slow, pytest.mark.alone]

N_CALLERS, N_REQUESTS = 8, 3_000


class HttpCallers:
    """Ask one of the gateways, each on a connection of its own, until they are stopped. Use as a context manager.

    allowed: the lowest and the highest version that may answer now. urls: asked anew for each connection.
    """

    def __init__(self, urls: Callable[[], list[str]], allowed: list[int], n: int = N_CALLERS) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.broken = 0  # connections that ended before the answer
        self.wrong: list[str] = []
        self._urls, self._allowed = urls, allowed
        self._lock, self._stop, self._numbers = threading.Lock(), threading.Event(), count()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(n)]

    def __enter__(self) -> "HttpCallers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, n: int) -> None:
        goal = self.answered.total() + n
        eventually(lambda: self.answered.total() >= goal or bool(self.failed), f"{n} more answers", patience_s=60)

    def _run(self, caller: int) -> None:
        while not self._stop.is_set():
            urls = self._urls()
            try:
                with httpx.Client(base_url=urls[caller % len(urls)], timeout=30) as http:
                    while not self._stop.is_set():
                        self._ask(http, next(self._numbers))
            except httpx.TransportError:
                with self._lock:
                    self.broken += 1
                self._stop.wait(0.02)  # not all at once again

    def _ask(self, http: httpx.Client, n: int) -> None:
        lowest, first = self._allowed[0], n % 10
        if n % 4 == 3:
            got = http.post(f"/v2/models/{MODEL}/infer", json=batch(first, first, first))
        else:
            got = http.post("/predict", content=picture(first), headers=IMAGE)
        with self._lock:
            if got.status_code != 200:
                self.failed.append(got.text)
                return
            version = got.headers["x-hotpool-version"]
            self.answered[version] += 1
            if problem := self._check(got, version, first, lowest):
                self.wrong.append(f"request {n}: {problem}")

    def _check(self, got: httpx.Response, version: str, first: int, lowest: int) -> str | None:
        if not min(lowest, self._allowed[0]) <= int(version[1:]) <= self._allowed[1]:
            return f"answered by {version}, allowed were v{lowest} to v{self._allowed[1]}"
        if got.headers["x-hotpool-digest"] != noop_manifest(version).digest:
            return f"{version} with the digest of another"
        told = got.json()
        if "outputs" in told:
            versions, found = {told["model_version"]}, set(told["outputs"][2]["data"][::3])
        else:
            versions, found = {told["version"]}, {told["predictions"][0]["index"]}
        if versions != {version} or found != {noop_class(first, version)}:
            return f"{version} is named, but the answer is {told}"
        return None


@contextmanager
def watched(gateway: Gateway, path: str) -> Iterator[Counter[int]]:
    """How often the gateway has answered this path with which status meanwhile."""
    seen: Counter[int] = Counter()
    stop = threading.Event()

    def look() -> None:
        with gateway.client() as http:
            while not stop.wait(0.005):
                seen[http.get(path).status_code] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("settings", [SETTINGS, BESIDE], ids=["drain", "beside"])
def test_eight_callers_notice_nothing_of_rollouts_and_get_what_the_named_version_answers(settings):
    allowed = [1, 1]
    with running_pool(2, ANY_PORT) as pool, running_gateway(pool.home, pool.config) as gateway:
        add_versions(pool.home, 6)
        pool.start_control()
        with watched(gateway, "/readyz") as readyz:
            with HttpCallers(lambda: [gateway.url], allowed) as callers:
                for number in range(2, 7):
                    callers.wait_for(200)
                    allowed[1] = number
                    assert roll_out(pool.home, number, settings) is Phase.SUCCEEDED
                    allowed[0] = number
                callers.wait_for(max(200, N_REQUESTS - callers.answered.total()))
            assert {worker.version for worker in pool.report().workers} == {"v6"}
        pool.end_control()
    print(f"{callers.answered.total()} answers of {dict(callers.answered)}, {readyz.total()} times ready")
    assert not callers.failed, callers.failed[:5]
    assert not callers.broken
    assert not callers.wrong, callers.wrong[:5]
    assert set(callers.answered) == {f"v{number}" for number in range(1, 7)}
    assert set(readyz) == {200}
    assert readyz.total() > 50


def test_a_gateway_that_is_killed_loses_nothing_that_its_clients_ask_again():
    with running_pool(2, ANY_PORT) as pool:
        gateways: list[Gateway] = []
        with HttpCallers(lambda: [one.url for one in gateways] or ["http://127.0.0.1:1"], [1, 1]) as callers:
            for _ in range(3):
                with running_gateway(pool.home, pool.config) as gateway:
                    gateways[:] = [gateway]
                    callers.wait_for(200)
                    gateway.kill()
        assert not callers.failed, callers.failed[:5]
        assert not callers.wrong, callers.wrong[:5]
        assert callers.broken > 0
        eventually(lambda: held(pool) == 0, "the pool holds nothing of the dead")


def held(pool: Pool) -> int:
    report = pool.report()
    return report.queue.requests + sum(worker.in_flight for worker in report.workers)


def test_two_gateways_serve_side_by_side_and_one_can_do_without_the_other():
    with (
        running_pool(2, ANY_PORT) as pool,
        running_gateway(pool.home, pool.config, "first") as first,
        running_gateway(pool.home, pool.config, "second") as second,
        HttpCallers(lambda: [first.url, second.url], [1, 1]) as callers,
    ):
        callers.wait_for(400)
        for gateway in (first, second):
            with gateway.client() as http:
                counted = http.get("/metrics").text
            assert 'hotpool_http_requests_total{method="POST",route="/predict",status="200"}' in counted
        assert not callers.broken
        first.kill()
        with HttpCallers(lambda: [second.url], [1, 1], n=2) as others:
            others.wait_for(200)
    for one in (callers, others):
        assert not one.failed, one.failed[:5]
        assert not one.wrong, one.wrong[:5]
    assert not others.broken


def test_a_gateway_that_is_asked_to_stop_answers_what_is_under_way():
    with (
        running_pool(1, f"[dispatch]\nheartbeat_s = 8.0\n{ANY_PORT}") as pool,
        running_gateway(pool.home, pool.config) as gateway,
        gateway.client() as http,
    ):
        http.post("/predict", content=picture(0), headers=IMAGE)
        pool.kill("worker-0", signal.SIGSTOP)
        answers: list[httpx.Response] = []
        asked = [threading.Thread(target=lambda: answers.append(ask_alone(gateway))) for _ in range(3)]
        for thread in asked:
            thread.start()
        eventually(lambda: held(pool) == 3, "three are under way")
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: not accepts(gateway), "it takes no more")
        begin = monotonic()
        pool.kill("worker-0", signal.SIGCONT)
        for thread in asked:
            thread.join(20)
        assert [one.status_code for one in answers] == [200] * 3
        assert gateway.process.wait(20) == 0
        assert monotonic() - begin < 5.0


def ask_alone(gateway: Gateway) -> httpx.Response:
    with gateway.client() as http:
        return http.post("/predict", content=picture(0), headers=IMAGE)


def accepts(gateway: Gateway) -> bool:
    try:
        with gateway.client() as http:
            http.get("/healthz")
    except (httpx.ConnectError, httpx.RemoteProtocolError):  # refused, or taken just before the end and closed
        return False
    return True
