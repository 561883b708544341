"""What a call that blocks has found is shared by all who ask at about the same time."""

import asyncio
import threading
from contextlib import closing

import pytest

from gateway.fresh import KEPT_S, Fresh
from hotpool.errors import BrokerUnreachable


class Looks:
    """Each look waits until it may return; `n` counts them."""

    def __init__(self) -> None:
        self.n = 0
        self.may_return = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.n += 1
        assert self.may_return.wait(10)
        if self.error is not None:
            raise self.error
        return self.n


async def until(claim) -> None:
    async with asyncio.timeout(10):
        while not claim():
            await asyncio.sleep(0)


def test_all_who_come_while_it_looks_share_one_look_and_those_of_a_moment_later_too():
    async def main() -> None:
        looks = Looks()
        with closing(Fresh(looks, "test")) as fresh:
            asked = [asyncio.ensure_future(fresh.get()) for _ in range(500)]
            await until(lambda: looks.n == 1)
            looks.may_return.set()
            assert await asyncio.gather(*asked) == [1] * 500
            assert await fresh.get() == 1

    asyncio.run(main())


def test_what_is_older_than_a_moment_is_looked_at_anew(monkeypatch):
    async def main() -> None:
        looks, loop = Looks(), asyncio.get_running_loop()
        looks.may_return.set()
        with closing(Fresh(looks, "test")) as fresh:
            assert await fresh.get() == 1
            later = loop.time() + 2 * KEPT_S
            monkeypatch.setattr(loop, "time", lambda: later)
            assert await fresh.get() == 2

    asyncio.run(main())


def test_one_that_gives_up_takes_it_from_nobody():
    async def main() -> None:
        looks = Looks()
        with closing(Fresh(looks, "test")) as fresh:
            first, second = (asyncio.ensure_future(fresh.get()) for _ in range(2))
            await until(lambda: looks.n == 1)
            first.cancel()
            looks.may_return.set()
            assert await second == 1

    asyncio.run(main())


def test_a_failure_is_told_to_all_and_the_next_look_may_succeed(monkeypatch):
    async def main() -> None:
        looks, loop = Looks(), asyncio.get_running_loop()
        looks.may_return.set()
        looks.error = BrokerUnreachable("nobody there")
        with closing(Fresh(looks, "test")) as fresh:
            results = await asyncio.gather(*(fresh.get() for _ in range(3)), return_exceptions=True)
            assert [str(result) for result in results] == ["nobody there"] * 3
            looks.error, later = None, loop.time() + 2 * KEPT_S
            monkeypatch.setattr(loop, "time", lambda: later)
            assert await fresh.get() == looks.n == 2

    asyncio.run(main())


@pytest.mark.parametrize("n", [1, 3])
def test_closing_waits_for_a_look_that_is_under_way(n):
    async def main() -> None:
        looks = Looks()
        fresh = Fresh(looks, "test")
        asked = [asyncio.ensure_future(fresh.get()) for _ in range(n)]
        await until(lambda: looks.n == 1)
        looks.may_return.set()
        await asyncio.to_thread(fresh.close)
        assert await asyncio.gather(*asked) == [1] * n

    asyncio.run(main())
