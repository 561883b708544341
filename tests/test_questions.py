"""gateway/questions.py: several pictures of one request, answered by one version within one deadline."""

import asyncio
import gc
import weakref
from itertools import pairwise
from typing import Any

import pytest
from msgspec import Raw

from gateway.questions import ALIKE_ATTEMPTS, PATIENCE_S, ask
from hotpool.errors import BadImage, NoReadyWorker, UnknownVersion
from hotpool.messages import Reply, Work

ROUND_S = 0.02
QUESTIONS = [(Work("picture", 1), b"one"), (Work("picture", 1), b"two")]


class Restless:
    """A client of a pool whose versions change with every answer, and are gone when they are asked for. left: the deadlines."""

    def __init__(self) -> None:
        self.left: list[float] = []

    def call(self, work, part, convert, options, *, retries) -> "asyncio.Future[Any]":
        self.left.append(options["timeout_s"])
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if "version" in options:
            future.set_exception(UnknownVersion("it has just left"))
        else:
            reply = Reply(b"r" * 16, "m", f"v{len(self.left)}", f"d{len(self.left)}", "worker-0", 1, 5, 7, Raw())
            loop.call_later(ROUND_S, future.set_result, (reply, None))
        return future


async def never() -> Any:
    await asyncio.Event().wait()


def test_however_often_a_request_is_asked_again_its_deadline_stays_the_same():
    client: Any = Restless()
    with pytest.raises(NoReadyWorker, match="changed its version"):
        asyncio.run(ask(client, QUESTIONS, {"model": "m", "timeout_s": 5.0}, never))
    rounds = client.left[::4]  # two questions, and one for each version that is asked again
    assert len(rounds) == ALIKE_ATTEMPTS
    assert rounds[0] <= 5.0
    for before, after in pairwise(rounds):
        assert after <= before - ROUND_S


class Picture:
    """As many bytes as are allowed."""


class Refusing:
    """A client of a pool that refuses each picture after a while."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    def call(self, work, part, convert, options, *, retries) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        loop.call_later(self._after_s, _refuse, future)
        return future


def _refuse(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(BadImage("no picture"))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("after_s", [0.0, 2 * PATIENCE_S])
def test_of_pictures_that_were_refused_nothing_is_kept_until_the_garbage_is_looked_through(n, after_s):
    async def refused() -> "weakref.ref[Picture]":
        picture, client = Picture(), Refusing(after_s)
        questions: list[Any] = [(Work("picture", 1), picture)] * n
        try:
            await ask(client, questions, {"model": "m"}, never)  # type: ignore[arg-type]
        except BadImage:
            kept = weakref.ref(picture)
        del picture, questions
        await asyncio.sleep(0)  # what was cancelled has ended
        await asyncio.sleep(0)
        return kept

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(refused())() is None
    finally:
        gc.enable()
