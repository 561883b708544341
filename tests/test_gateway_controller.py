"""gateway/controller.py: a controller that is not there, one that is silent, and what is said of an order to it."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from time import monotonic

import pytest

from gateway.controller import Controller
from gateway.failures import headers_of
from hotpool.control_client import ControlClient
from hotpool.errors import ControllerUnreachable
from hotpool.home import Home
from hotpool.locks import hold
from hotpool.states import Executed
from tests.pool import short_home


@pytest.fixture
def home() -> Iterator[Home]:
    with short_home() as home:
        home.run.mkdir()
        yield home


@pytest.fixture
def controller(home: Home) -> Iterator[Controller]:
    with closing(Controller(home, ControlClient(home.endpoint("control")))) as controller:
        yield controller


def refusal(asked) -> ControllerUnreachable:
    async def ask() -> None:
        await asked

    with pytest.raises(ControllerUnreachable) as refused:
        asyncio.run(ask())
    return refused.value


def test_without_a_controller_nobody_waits_and_an_order_may_be_repeated(controller):
    error = refusal(controller.order("abort", timeout_s=60))
    assert "no controller is running" in str(error)
    assert headers_of(error), "it says when to come back"


def test_of_an_order_without_an_answer_it_is_said_that_it_may_count(home, controller):
    with hold(home.lock("control"), ""):
        error = refusal(controller.order("promote", timeout_s=0.02))
    assert "runs but did not answer within 0.02 s" in str(error)
    assert "look before you order it again" in str(error)
    assert error.executed is Executed.MAYBE
    assert not headers_of(error), "who obeys Retry-After would promote twice"


def test_who_looks_at_a_silent_controller_does_not_wait_for_all_who_looked_before(home, controller):
    async def look_often() -> list[str]:
        looks = [controller.ask("rollouts", timeout_s=0.2) for _ in range(40)]
        return [str(error) for error in await asyncio.gather(*looks, return_exceptions=True)]

    with hold(home.lock("control"), ""):
        begin = monotonic()
        told = asyncio.run(look_often())
        assert monotonic() - begin < 1.0, "40 looks of 0.2 s, 6 at once"
    assert len(told) == 40
    assert all("runs but did not answer within 0.2 s" in one for one in told)
