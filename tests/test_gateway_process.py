"""`python -m gateway` as a process: where it listens, how it ends."""

import socket
import subprocess
import sys

import psutil
import pytest

from tests.gateway_process import ANY_PORT, running_gateway
from tests.pool import ROOT, short_home

pytestmark = pytest.mark.slow


def test_it_takes_a_free_port_says_which_and_ends_with_0_after_sigterm():
    with short_home() as home:
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        with running_gateway(home, config) as gateway:
            with gateway.client() as http:
                assert http.get("/healthz").text == "ok\n"
            assert gateway.stop() == 0


def test_unless_it_is_told_otherwise_only_this_host_reaches_it():
    with short_home() as home:
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        with running_gateway(home, config) as gateway:
            connections = psutil.Process(gateway.process.pid).net_connections("tcp")
            assert [one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN] == ["127.0.0.1"]


def test_a_port_that_is_taken_is_named():
    with short_home() as home, socket.create_server(("127.0.0.1", 0)) as taken:
        config, port = home.root / "hotpool.toml", taken.getsockname()[1]
        config.write_text(f"[gateway]\nport = {port}\n")
        command = [sys.executable, "-m", "gateway", "--home", str(home.root), "--config", str(config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 6
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("PUT", "/healthz", 405, "method_not_allowed")],
)
def test_what_is_not_there_is_told_in_the_form_of_all_errors(method, path, status, code):
    with short_home() as home:
        config = home.root / "hotpool.toml"
        config.write_text(ANY_PORT)
        with running_gateway(home, config) as gateway, gateway.client() as http:
            got = http.request(method, path)
    assert got.status_code == status
    assert got.json()["code"] == code
    assert path in got.json()["error"]
