"""The client library for asyncio, which runs in the caller's loop alone, with a real broker and real worker processes."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest
import uvloop

from bench.noop import MODEL, noop_class
from hotpool import AsyncClient, BadInput, BrokerUnreachable, DeadlineExceeded, NoReadyWorker, QueueFull
from hotpool.answers import logits_of
from hotpool.errors import LocalProtocolError
from hotpool.inputs import picture_work
from hotpool.messages import Work
from tests.pool import ROOT, Pool, running_pool, short_home
from tests.test_client import Torn

pytestmark = pytest.mark.slow

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop, uvloop.new_event_loop]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with running_pool(2) as pool:
        yield pool


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main)

    return run


def picture(first_pixel: int = 0) -> np.ndarray:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, 0] = first_pixel
    return pixels


def client_of(pool: Pool) -> AsyncClient:
    return AsyncClient(pool.home.endpoint("clients"))


async def eventually(claim: Callable[[], bool], what: str, patience_s: float = 20.0) -> None:
    begin = monotonic()
    while not claim():
        assert monotonic() - begin < patience_s, f"not within {patience_s:g} s: {what}"
        await asyncio.sleep(0.002)


def outcomes(pool: Pool, outcome: str) -> float:
    requests = next(family for family in pool.report().metrics if family.name == "hotpool_requests_total")
    return sum(sample.value for sample in requests.samples if sample.labels["outcome"] == outcome)


def test_it_has_the_calls_of_the_other_client(pool, run):
    async def ask() -> None:
        async with client_of(pool) as client:
            some = await asyncio.gather(*(client.classify(picture(n)) for n in range(10)))
            assert [p.classes[0].index for p in some] == [noop_class(n, "v1") for n in range(10)]
            many = [p.classes[0].index async for p in client.classify_many([picture(n) for n in range(10)])]
            assert many == [noop_class(n, "v1") for n in range(10)]
            assert (await client.infer(np.zeros((2, 3, 4, 4), np.float32))).shape == (2, 10)

    run(ask())


def test_bytes_and_answers_pass_through_no_thread(pool, run):
    async def ask() -> None:
        threads = threading.enumerate()
        async with client_of(pool) as client:
            for n in range(300):
                got = await client.call(Work("pixels", 3, (8, 8, 3)), picture(n % 10).tobytes(), lambda got: got, {})
                assert got[0].version == "v1"
            assert threading.enumerate() == threads

    run(ask())


def test_many_at_once_are_each_answered_with_their_own(pool, run):
    async def ask() -> None:
        async with client_of(pool) as client:
            got = await asyncio.gather(*(client.classify(picture(n % 10)) for n in range(1500)))
        assert [p.classes[0].index for p in got] == [noop_class(n % 10, "v1") for n in range(1500)]

    run(ask())


def test_the_logits_of_a_picture_come_along_when_asked_for(pool, run):
    async def ask() -> None:
        async with client_of(pool) as client:
            work = Work("pixels", 1, (8, 8, 3), logits=True)
            logits = await client.call(work, picture(4).tobytes(), logits_of, {})
        assert logits.shape == (1, 10)
        assert int(logits.argmax()) == noop_class(4, "v1")

    run(ask())


def test_a_cancelled_task_cancels_the_request_at_the_broker(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            pool.kill("worker-0", signal.SIGSTOP)
            task = asyncio.create_task(client.classify(picture(), timeout_s=60))
            await eventually(lambda: pool.report().workers[0].in_flight == 1, "leased")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: outcomes(pool, "cancelled") == 1, "cancelled at the broker")
            pool.kill("worker-0", signal.SIGCONT)
            await client.classify(picture())

    with running_pool(1, "[dispatch]\nheartbeat_s = 5.0\n") as pool:
        run(ask(pool))


def test_a_broker_that_is_killed_and_restarted_loses_nothing(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            pool.kill("worker-0", signal.SIGSTOP)  # so that requests are under way when the broker dies
            waiting = asyncio.gather(*(client.classify(picture(n % 10), timeout_s=30) for n in range(50)))
            await eventually(lambda: pool.report().queue.requests > 40, "queued")
            pool.kill("broker")
            pool.kill("worker-0", signal.SIGCONT)
            pool.start_broker()
            assert [p.classes[0].index for p in await waiting] == [noop_class(n % 10, "v1") for n in range(50)]

    with running_pool(1) as pool:
        run(ask(pool))


def test_a_pool_that_starts_later_is_found(run):
    async def ask(home, config) -> None:
        client = AsyncClient(home.endpoint("clients"))
        task = asyncio.create_task(client.classify(picture(2), timeout_s=30))
        await asyncio.sleep(0)
        pool = Pool(home)
        try:
            pool.start_broker()
            pool.start_worker("worker-0")
            assert (await task).classes[0].index == noop_class(2, "v1")
        finally:
            await client.close()
            pool.stop()

    with short_home() as home:
        run(ask(home, ""))


def test_each_deadline_is_kept_and_says_why(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            pool.kill("worker-0", signal.SIGSTOP)
            begin = monotonic()
            with pytest.raises(DeadlineExceeded, match="still computing"):
                await client.classify(picture(), timeout_s=0.1)
            assert 0.1 <= monotonic() - begin < 1.0
            pool.kill("broker", signal.SIGSTOP)  # nobody but the client itself can end the call in time
            begin = monotonic()
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.1 s"):
                await client.classify(picture(), timeout_s=0.1)
            assert 0.1 <= monotonic() - begin < 1.0

    with running_pool(1, "[dispatch]\nheartbeat_s = 8.0\n") as pool:
        run(ask(pool))


def test_without_a_ready_worker_the_deadline_says_so(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            with pytest.raises(NoReadyWorker, match="no worker of model 'noop' became ready"):
                await client.classify(picture(), model=MODEL, timeout_s=0.2)

    with running_pool(0) as pool:
        run(ask(pool))


def test_without_a_broker_the_error_names_the_address(run):
    async def ask(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(BrokerUnreachable, match=endpoint):
                await client.classify(picture(), timeout_s=0.1)

    with short_home() as home:
        run(ask(home.endpoint("clients")))


def test_a_full_queue_is_tried_again_or_told_at_once(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            pool.kill("worker-0", signal.SIGSTOP)
            held = [asyncio.create_task(client.classify(picture(n), timeout_s=30)) for n in range(5)]
            await eventually(lambda: pool.report().queue.requests == 1, "a full queue")
            impatient = client.call(
                Work("pixels", 3, (8, 8, 3)), picture().tobytes(), lambda got: got, {}, retries=False
            )
            with pytest.raises(QueueFull) as refused:
                await impatient
            assert refused.value.retry_after_s
            pool.kill("worker-0", signal.SIGCONT)
            assert [p.classes[0].index for p in await asyncio.gather(*held)] == [noop_class(n, "v1") for n in range(5)]

    with running_pool(1, "[dispatch]\nqueue_max_requests = 1\nheartbeat_s = 5.0\n") as pool:
        run(ask(pool))


def test_no_answer_waits_for_the_next_heartbeat(run):
    # Sending can swallow the news that something arrived, and the loop would hear of it from the next heartbeat.
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:

            async def ask_on(n: int) -> set[int]:
                seen = set()
                for _ in range(300):
                    prediction = await asyncio.wait_for(client.classify(picture(n)), 2.0)
                    seen.add(prediction.classes[0].index)
                return seen

            got = await asyncio.gather(*(ask_on(n) for n in range(6)))
            assert got == [{noop_class(n, "v1")} for n in range(6)]

    with running_pool(2, "[dispatch]\nheartbeat_s = 8.0\n") as pool:
        run(ask(pool))


def test_the_loss_of_the_broker_is_seen_at_once(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            link = client._courier._exchange.link
            pool.kill("broker")
            await eventually(lambda: link.welcome is None, "the loss is seen, not at the next heartbeat", patience_s=3)
            pool.start_broker()
            assert (await client.classify(picture(3), timeout_s=20)).classes[0].index == noop_class(3, "v1")

    with running_pool(1, "[dispatch]\nheartbeat_s = 8.0\n") as pool:
        run(ask(pool))


def test_a_call_interrupted_in_the_middle_of_a_message_spoils_nobody_elses(run):
    async def ask(pool: Pool) -> None:
        async with client_of(pool) as client:
            await client.classify(picture())
            pool.kill("worker-0", signal.SIGSTOP)
            waiting = [asyncio.create_task(client.classify(picture(n), timeout_s=20)) for n in range(8)]
            await eventually(lambda: pool.report().queue.requests > 4, "queued")
            stream: Any = client._courier._exchange.link._dealer._stream
            stream._socket = Torn(stream._socket)
            with pytest.raises(KeyboardInterrupt):
                client.call(*picture_work(picture(), 3), lambda got: got, {})
            pool.kill("worker-0", signal.SIGCONT)
            later = await client.classify(picture(8), timeout_s=20)
            got = [(await one).classes[0].index for one in waiting] + [later.classes[0].index]
            assert got == [noop_class(n, "v1") for n in range(9)]

    with running_pool(1, "[dispatch]\nheartbeat_s = 5.0\n") as pool:
        run(ask(pool))


def test_a_closed_client_ends_its_calls_and_takes_no_more(pool, run):
    async def ask() -> None:
        client = client_of(pool)
        await client.classify(picture())
        open_call = client.call(Work("pixels", 3, (8, 8, 3)), picture().tobytes(), lambda got: got, {})
        await client.close()
        await client.close()
        with pytest.raises(LocalProtocolError, match="the client was closed"):
            await open_call
        with pytest.raises(LocalProtocolError, match="the client is closed"):
            await client.classify(picture())

    run(ask())


def test_it_belongs_to_one_loop(pool):
    client = client_of(pool)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(client.classify(picture()))
        with pytest.raises(LocalProtocolError, match="another event loop"):
            second.run(client.classify(picture()))
        first.run(client.close())


def test_what_cannot_be_sent_is_refused_at_once(pool, run):
    async def ask() -> None:
        async with client_of(pool) as client:
            with pytest.raises(BadInput, match="timeout_s"):
                await client.classify(b"", timeout_s=0)
            with pytest.raises(BadInput, match="top = 0"):
                await client.classify(b"", top=0)
        with pytest.raises(BadInput, match="can't be used"):
            AsyncClient("nonsense://x")

    run(ask())


def test_a_program_that_forgets_to_close_it_ends_all_the_same(pool):
    program = (
        "import asyncio, numpy as np\nfrom hotpool import AsyncClient\n"
        f"async def main():\n    client = AsyncClient({pool.home.endpoint('clients')!r})\n"
        "    print((await client.classify(np.zeros((8, 8, 3), np.uint8))).version)\nasyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
