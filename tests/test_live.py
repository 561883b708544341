"""`/api/events` of a running gateway: what is told, to whom, and how it ends."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest

from gateway.controller import Controller
from gateway.live import MAX_LISTENERS, MAX_WAITING, Live
from hotpool.control_client import ControlClient
from hotpool.home import Home
from tests.gateway_process import ANY_PORT, Gateway, add_noop_versions, running_gateway, start_controller
from tests.pool import PATIENCE_S, Pool, eventually, running_pool

slow = pytest.mark.slow


def test_a_listener_that_falls_behind_is_dropped_and_the_others_get_everything(tmp_path):
    async def listen() -> tuple[int, int]:
        home = Home(tmp_path)
        with closing(Controller(home, ControlClient("ipc:///nowhere/at/all"))) as controller:
            live = Live(home, "m", controller)
            slow_one, quick_one = live.listen(), live.listen()
            await anext(slow_one), await anext(quick_one)  # history
            quick = 0
            for n in range(2 * MAX_WAITING):
                live._take("traffic", {"n": n})
                quick += (await anext(quick_one)).count(b"event: traffic")
            return quick, len([one async for one in slow_one])

    assert asyncio.run(listen()) == (2 * MAX_WAITING, 0)


class Listener:
    """Reads events in a thread. events: (seconds since 1970, kind, data) as they came. ended: how the stream ended."""

    def __init__(self, gateway: Gateway) -> None:
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.ended = ""
        self._http = gateway.client()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, one, data in list(self.events) if one == kind]

    def wait(self, kind: str, claim=lambda data: True) -> dict[str, Any]:
        found = lambda: [data for data in self.of(kind) if claim(data)]  # noqa: E731
        eventually(lambda: bool(found()), f"an event {kind}; there were {[one for _, one, _ in self.events]}")
        return found()[0]

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._http.close()

    def _read(self) -> None:
        kind = ""
        try:
            with self._http.stream("GET", "/api/events") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                for line in stream.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        self.events.append((time.time(), kind, json.loads(value)))
            self.ended = "in order"
        except httpx.HTTPError as error:
            self.ended = repr(error)


@contextmanager
def running() -> Iterator[tuple[Pool, Gateway]]:
    with running_pool(2) as pool:
        pool.config.write_text(f'[pool]\nmodel = "noop"\n{ANY_PORT}')
        add_noop_versions(pool.home, "v1", "v2")
        start_controller(pool)
        with running_gateway(pool.home, pool.config) as gateway, gateway.client() as http:
            eventually(lambda: http.get("/api/rollouts").status_code == 200, "the controller answers")
            yield pool, gateway


def order(pool: Pool, gateway: Gateway, **body) -> int:
    token = (pool.home.root / "admin-token").read_text().strip()
    with gateway.client(headers={"Authorization": f"Bearer {token}"}) as http:
        return int(http.post("/api/rollouts", json=body).json()["rollout"]["number"])


@slow
def test_a_page_sees_status_traffic_and_a_whole_rollout_and_the_end_of_the_gateway():
    picture = np.zeros((8, 8, 3), np.uint8)
    with running() as (pool, gateway):
        page = Listener(gateway)
        page.wait("history")
        assert page.wait("status")["health"] == "healthy"
        assert page.events[0][1] == "history"
        page.wait("traffic", lambda sample: sample["versions"] == {})
        with pool.client() as client:
            for _ in range(300):
                client.classify(picture)
        sample = page.wait("traffic", lambda sample: "v1" in sample["versions"])
        assert sample["versions"]["v1"]["rate"] > 0
        assert 0 < sample["versions"]["v1"]["p50_ms"] <= sample["versions"]["v1"]["p99_ms"]
        number = order(pool, gateway, version="v2", steps="none", bake_s=0.5)
        phases = lambda: [one["rollout"]["phase"] for one in page.of("rollout") if one["rollout"]["number"] == number]  # noqa: E731
        eventually(lambda: phases()[-1:] == ["succeeded"], "the rollout is over")
        assert len(set(phases())) > 1
        page.wait("status", lambda status: status["stable"]["name"] == "v2" and status["rollout"] is None)
        late = Listener(gateway)
        eventually(lambda: {"history", "status", "rollout"} <= {kind for _, kind, _ in late.events}, "it catches up")
        assert any("v1" in one["versions"] for one in late.of("history")[0]["samples"])
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 5
        for one in (page, late):
            one.join()
            assert one.ended == "in order"


@slow
def test_what_does_not_change_is_told_once_and_what_changes_at_most_four_times_a_second():
    with running() as (_, gateway):
        page = Listener(gateway)
        eventually(lambda: len(page.of("traffic")) >= 4, "some seconds")
        told = [(at, data | {"broker": None}) for at, kind, data in page.events if kind == "status"]
        assert all(before != after for (_, before), (_, after) in pairwise(told))
        assert len(told) <= 2 + 4 * (told[-1][0] - told[0][0])
        assert not page.of("rollout")
        gaps = np.diff([at for at, kind, _ in page.events if kind == "traffic"])
        assert 0.5 < np.median(gaps) < 2.0
        gateway.kill()
        page.join()


@slow
def test_when_the_broker_is_down_it_is_said_again_and_again_until_it_is_back():
    with running() as (pool, gateway):
        page = Listener(gateway)
        page.wait("status")
        pool.kill("broker")
        eventually(lambda: len(page.of("down")) >= 2, "down")
        assert "no broker" in page.of("down")[0]["error"]
        n = len(page.events)
        pool.start_broker()
        eventually(lambda: any(kind == "status" for _, kind, _ in page.events[n:]), "it is back")
        pool.kill("control")
        page.wait("status", lambda status: not status["controller"]["is_running"])
        gateway.kill()
        page.join()


@slow
def test_a_listener_that_does_not_read_does_not_hold_up_the_end():
    with running() as (_, gateway):
        host, _, port = gateway.url.partition("//")[2].partition(":")
        with closing(socket.create_connection((host, int(port)))) as deaf:
            deaf.sendall(f"GET /api/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            page = Listener(gateway)
            page.wait("traffic")
            assert gateway.stop() == 0
            page.join()
            assert page.ended == "in order"


@slow
def test_so_many_may_listen_and_no_more():
    request = b"GET /api/events HTTP/1.1\r\nHost: x\r\n\r\n"
    with running() as (_, gateway), gateway.client() as http:
        host, _, port = gateway.url.partition("//")[2].partition(":")
        pages = [socket.create_connection((host, int(port)), PATIENCE_S) for _ in range(MAX_LISTENERS)]
        for page in pages:
            page.sendall(request)
            assert page.recv(15).startswith(b"HTTP/1.1 200 OK")
        got = http.get("/api/events")
        assert (got.status_code, got.json()["code"]) == (503, "too_many_connections")
        assert http.get("/api/status").status_code == 200
        for page in pages:
            page.close()

        def is_let_in() -> bool:
            with http.stream("GET", "/api/events") as stream:
                return stream.status_code == 200

        eventually(is_let_in, "who has left makes room")


@slow
def test_head_of_the_events_ends():
    with running() as (_, gateway), gateway.client() as http:
        assert http.head("/api/events").status_code == 200
        assert http.get("/api/session").status_code == 200
