"""The client library against a real broker and real worker processes, and what it survives."""

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from hashlib import blake2b
from time import monotonic

import numpy as np
import pytest
from PIL import Image

from bench.noop import MODEL, noop_class, noop_manifest
from broker.routing import point
from hotpool import BadImage, BadInput, BrokerUnreachable, Client, DeadlineExceeded, TooLarge, UnknownModel
from hotpool.admin import Admin
from hotpool.errors import LocalProtocolError, QueueFull, UnknownVersion
from hotpool.evidence import Counts
from hotpool.messages import Evidence, FromAdmin, GetEvidence, LoadVersion, Policy, SetVersions
from tests.pool import Pool, eventually, running_pool, short_home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool():
    with running_pool(2) as running:
        yield running


@pytest.fixture
def client(pool):
    with pool.client() as connected:
        yield connected


def picture(first: int = 0, size: int = 8) -> np.ndarray:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[0, 0, 0] = first
    return pixels


def test_a_prediction_says_what_and_who(client):
    prediction = client.classify(picture(3), top=2)
    assert prediction.classes[0].index == noop_class(3, "v1")
    assert prediction.label == prediction.classes[0].label == f"class-{noop_class(3, 'v1')}"
    assert len(prediction.classes) == 2
    assert sum(score.probability for score in client.classify(picture(), top=10).classes) == pytest.approx(1.0)
    assert (prediction.model, prediction.version, prediction.attempt) == ("noop", "v1", 1)
    assert prediction.worker in ("worker-0", "worker-1")
    assert prediction.service_ms > 0
    assert prediction.queue_ms >= 0


def test_paths_bytes_pil_images_and_arrays_are_the_same_picture(client, tmp_path):
    image = Image.fromarray(picture(4))
    path = tmp_path / "four.png"
    image.save(path)
    answers = {client.classify(given).label for given in (path, str(path), path.read_bytes(), image, picture(4))}
    assert answers == {f"class-{noop_class(4, 'v1')}"}


def test_infer_returns_logits_for_each_row(client):
    rows = np.zeros((5, 3, 8, 8), np.float32)
    rows[:, 0, 0, 0] = range(5)
    logits = client.infer(rows)
    assert logits.shape == (5, 10)
    assert logits.dtype == np.float32
    assert list(logits.argmax(axis=1)) == [noop_class(n, "v1") for n in range(5)]


def test_many_come_in_the_order_they_were_asked(client):
    predictions = client.classify_many(picture(n % 10) for n in range(300))
    assert [prediction.classes[0].index for prediction in predictions] == [noop_class(n % 10, "v1") for n in range(300)]


def test_a_bad_one_among_many_raises_at_its_turn_or_comes_as_an_error(client):
    images = [picture(1), b"no picture", picture(2), 42]
    outcomes = list(client.classify_many(images, return_exceptions=True))
    assert [type(outcome).__name__ for outcome in outcomes] == ["Prediction", "BadImage", "Prediction", "BadInput"]
    with pytest.raises(BadImage):
        list(client.classify_many(images))


def test_one_client_serves_many_threads(client):
    def ask(n):
        return client.classify(picture(n % 10)).classes[0].index == noop_class(n % 10, "v1")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(400)))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (42, "expected a path, bytes, a PIL image or an (h, w, 3) uint8 array, got int"),
        (np.zeros((8, 8), np.uint8), r"expected an (h, w, 3) uint8 array, got (8, 8) uint8"),
        (np.zeros((8, 8, 3), np.float32), r"got (8, 8, 3) float32"),
        ("/no/such/file.jpg", "/no/such/file.jpg: can't be read: No such file or directory"),
    ],
)
def test_what_is_no_image_is_refused_at_once(client, image, text):
    with pytest.raises(BadInput) as caught:
        client.classify(image)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top": 0}, "top = 0"),
        ({"timeout_s": 0}, "timeout_s = 0"),
        ({"timeout_s": float("nan")}, "timeout_s = nan"),
        ({"priority": "urgent"}, "priority = 'urgent': expected high, normal or low"),
    ],
)
def test_options_out_of_range_are_refused_with_what_is_allowed(client, options, text):
    with pytest.raises(BadInput, match=text):
        client.classify(picture(), **options)


def test_wrong_tensors_are_refused_with_both_shapes(client):
    with pytest.raises(BadInput, match=r"expected an \(n, 3, h, w\) float32 array, got \(3, 8, 8\) float32"):
        client.infer(np.zeros((3, 8, 8), np.float32))


def test_too_many_bytes_never_leave_the_client(client):
    client.classify(picture())
    with pytest.raises(TooLarge, match="at most 16777216"):
        client.classify(b"x" * (16 * 1024 * 1024 + 1))
    client.classify(picture())


def test_unknown_models_are_refused_by_name(client):
    with pytest.raises(UnknownModel, match="no model 'cats' is served here; served are noop"):
        client.classify(picture(), model="cats")


def test_a_closed_client_says_so(pool):
    client = pool.client()
    client.close()
    client.close()
    with pytest.raises(LocalProtocolError, match="the client is closed"):
        client.classify(picture())


def test_closing_ends_the_calls_of_other_threads():
    with short_home() as home:
        (home.root / "run").mkdir()
        client = Client(home.endpoint("clients"))
        future = client.submit(picture(), timeout_s=60)
        client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            future.result(5)


def test_a_cancelled_future_sees_nothing_more(client):
    future = client.submit(picture())
    if future.cancel():
        with pytest.raises(CancelledError):
            future.result()
    client.classify(picture())


def test_a_client_is_refused_after_a_fork(client):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: the child only reports, it never returns into pytest
        try:
            client.classify(picture())
        except LocalProtocolError:
            os.write(writer, b"refused")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"refused"
    os.close(reader)
    os.close(writer)


# ---- faults


def test_without_a_broker_the_error_says_where_it_looked_and_what_to_do():
    with short_home() as home, Client(home.endpoint("clients")) as client:
        begin = monotonic()
        with pytest.raises(BrokerUnreachable, match=r"no broker at ipc://.*clients\.sock within 0\.3 s; .*hotpool up"):
            client.classify(picture(), timeout_s=0.3)
        assert 0.29 < monotonic() - begin < 5


def test_a_broker_that_starts_later_is_found():
    with short_home() as home:
        pool = Pool(home)
        try:
            with pool.client() as client:
                future = client.submit(picture(5), timeout_s=30)
                pool.start_broker()
                pool.start_worker("worker-0")
                assert future.result().classes[0].index == noop_class(5, "v1")
        finally:
            pool.stop()


def test_a_broker_that_is_killed_and_restarted_loses_nothing():
    with running_pool(2) as pool, pool.client() as client:
        client.classify(picture())
        pool.kill("worker-0", signal.SIGSTOP)
        pool.kill("worker-1", signal.SIGSTOP)  # so that requests are under way when the broker dies
        futures = [client.submit(picture(n % 10), timeout_s=30) for n in range(50)]
        pool.kill("broker")
        pool.kill("worker-0", signal.SIGCONT)
        pool.kill("worker-1", signal.SIGCONT)
        pool.start_broker()
        assert [future.result().classes[0].index for future in futures] == [noop_class(n % 10, "v1") for n in range(50)]


def test_a_killed_workers_requests_are_answered_by_another():
    with running_pool(2, "[dispatch]\nheartbeat_s = 2.0\n") as pool, pool.client() as client:
        pool.kill("worker-0", signal.SIGSTOP)
        futures = [client.submit(picture(n % 10), timeout_s=30) for n in range(20)]
        eventually(
            lambda: any(w.in_flight and w.worker == "worker-0" for w in pool.report().workers), "a lease on worker-0"
        )
        pool.kill("worker-0")
        assert [future.result().classes[0].index for future in futures] == [noop_class(n % 10, "v1") for n in range(20)]
        assert max(future.result().attempt for future in futures) == 2


def test_a_full_queue_is_tried_again_within_the_deadline():
    with running_pool(1, "[dispatch]\nqueue_max_requests = 5\n") as pool, pool.client() as client:
        pool.kill("worker-0", signal.SIGSTOP)
        futures = [client.submit(picture(), timeout_s=30) for n in range(30)]
        eventually(lambda: pool.report().queue.requests == 5, "a full queue")
        pool.kill("worker-0", signal.SIGCONT)
        assert len([future.result() for future in futures]) == 30


def test_when_the_queue_stays_full_the_error_says_how_often_it_was_refused():
    with running_pool(1, "[dispatch]\nqueue_max_requests = 1\nheartbeat_s = 5.0\n") as pool, pool.client() as client:
        pool.kill("worker-0", signal.SIGSTOP)
        futures = [client.submit(picture(), timeout_s=1.0) for n in range(5)]
        errors = [future.exception() for future in futures]
        assert {type(error) for error in errors} == {QueueFull, DeadlineExceeded}
        assert all("full" in str(error) for error in errors if isinstance(error, QueueFull))


def test_a_version_nobody_serves_is_refused_when_the_table_is_known(pool, client):
    stable = noop_manifest("v1").digest
    with Admin(pool.home.endpoint("admin")) as admin:
        admin.request(
            lambda seq: SetVersions(seq, 1, MODEL, stable, None, {"v1": stable, "v2": noop_manifest("v2").digest})
        )
    assert client.classify(picture(), version="v1").version == "v1"
    assert client.classify(picture(), version=stable).version == "v1"
    with pytest.raises(UnknownVersion, match="version 'v2' of 'noop' is not served now; served: v1"):
        client.classify(picture(), version="v2")


def test_callers_with_a_route_key_keep_to_their_version_and_copies_are_compared():
    v1, v2 = (noop_manifest(version).digest for version in ("v1", "v2"))

    def table(policy: Policy) -> Callable[[int], FromAdmin]:
        return lambda seq: SetVersions(seq, 1, MODEL, v1, v2, {"v1": v1, "v2": v2}, policy)

    with running_pool(2) as pool, pool.client() as client, Admin(pool.home.endpoint("admin")) as admin:
        admin.request(table(Policy(1, 7, 50.0, 0.0)))
        admin.request(lambda seq: LoadVersion(seq, 1, "worker-1", v2, "token", True))
        eventually(lambda: {worker.version for worker in pool.report().workers} == {"v1", "v2"}, "a worker of v2")
        answers = {key: {client.classify(picture(), route_key=key).version for _ in range(5)} for key in "abcdefghijkl"}
        by_point = {
            key: "v2" if point(blake2b(key.encode(), digest_size=16).digest(), 7) < 50 else "v1" for key in answers
        }
        assert answers == {key: {version} for key, version in by_point.items()}
        assert len(set(by_point.values())) == 2
        admin.request(table(Policy(2, 7, 0.0, 100.0)))
        assert {client.classify(picture(first)).version for first in range(10)} == {"v1"}

        def counts() -> Counts:
            evidence = admin.request(lambda seq: GetEvidence(seq, MODEL))
            assert isinstance(evidence, Evidence)
            return evidence.counts

        eventually(lambda: counts().pairs == counts().target.answered > 0, "every copy is answered")
        found = counts()
    assert (found.policy, found.stable.routed, found.target.routed, found.disagreements) == (2, 10, 0, found.pairs)
    assert set(found.stable.classes) == {noop_class(first, "v1") for first in range(10)}
    assert set(found.target.classes) <= {noop_class(first, "v2") for first in range(10)}
    assert found.stable.confidence == {99: 10}


@pytest.mark.parametrize("name", ["\udcff", "", "x" * 129, 5])
def test_a_name_that_cannot_travel_is_refused_and_hurts_nobody_else(client, name):
    with pytest.raises(BadInput, match="expected a name of 1 to 128 printable characters"):
        client.classify(picture(), model=name)
    with pytest.raises(BadInput, match="route_key = "):
        client.classify(picture(), route_key=name)
    client.classify(picture(), route_key="x" * 128)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:5555", "ipc://" + "x" * 200, "nonsense://x"])
def test_an_endpoint_that_cannot_be_is_refused_at_once(endpoint):
    with pytest.raises(BadInput, match="can't be used"):
        Client(endpoint)


def test_a_call_that_meets_a_closing_client_ends(pool):
    client = pool.client()
    client._courier.close()  # as if another thread had closed it between the check and the post
    with pytest.raises(LocalProtocolError, match="closed"):
        client.submit(picture(), timeout_s=60).result(5)
    client.close()


def test_a_client_that_did_not_read_for_a_while_gets_every_answer():
    # 6,000 answers do not fit into the pipe to a client whose thread stands still until all are computed.
    n = 6_000
    with running_pool(1, "[dispatch]\nheartbeat_s = 2.0\n") as pool, pool.client() as client:
        pool.kill("worker-0", signal.SIGSTOP)
        futures = [client.submit(picture(), timeout_s=60) for _ in range(n)]

        def stand_still(future):  # in the client's own thread: it does not read meanwhile
            eventually(lambda: pool.report().queue.requests == 0, "all answered meanwhile")

        futures[0].add_done_callback(stand_still)
        eventually(lambda: pool.report().queue.requests >= n - 4, "all queued")
        pool.kill("worker-0", signal.SIGCONT)
        assert {future.result().label for future in futures} == {f"class-{noop_class(0, 'v1')}"}
        undelivered = next(f for f in pool.report().metrics if f.name == "hotpool_undeliverable_total")
        assert undelivered.samples[0].value > 0, "every answer was delivered at once: nothing was tested"


class Torn:
    """In place of a connection's socket: a Ctrl-C comes when a part of the message is written."""

    def __init__(self, real) -> None:
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def sendmsg(self, pieces, *_):
        self._real.sendall(b"".join(pieces)[:30])
        raise KeyboardInterrupt


def test_a_caller_interrupted_in_the_middle_of_a_message_spoils_nobody_elses(pool, client):
    client.classify(picture())
    pool.kill("worker-0", signal.SIGSTOP)
    pool.kill("worker-1", signal.SIGSTOP)
    waiting = [client.submit(picture(n), timeout_s=20) for n in range(8)]
    stream = client._courier._exchange.link._dealer._stream
    stream._socket = Torn(stream._socket)
    with pytest.raises(KeyboardInterrupt):
        client.submit(picture(), timeout_s=20)
    later = client.submit(picture(8), timeout_s=20)
    for name in ("worker-0", "worker-1"):
        pool.kill(name, signal.SIGCONT)
    indices = [future.result().classes[0].index for future in (*waiting, later)]
    assert indices == [noop_class(n, "v1") for n in range(9)]


def test_neither_an_answer_nor_a_deadline_waits_for_the_next_heartbeat():
    # Callers send by themselves: the thread must hear of a sooner deadline at once.
    with running_pool(2, "[dispatch]\nheartbeat_s = 8.0\n") as pool, pool.client() as client:
        client.classify(picture())

        def ask(n):
            return [client.submit(picture(n)).result(2.0).classes[0].index for _ in range(300)]

        with ThreadPoolExecutor(4) as threads:
            assert all(set(seen) == {noop_class(n, "v1")} for n, seen in enumerate(threads.map(ask, range(4))))
        pool.kill("broker", signal.SIGSTOP)  # nobody but the client itself can end the call in time
        error = client.submit(picture(), timeout_s=0.1).exception(2.0)  # a TimeoutError when nothing comes for so long
        assert isinstance(error, DeadlineExceeded)


def test_a_callback_may_ask_again(client):
    asked: Future[int] = Future()

    def ask_again(first):
        second = client.submit(picture(first.result().classes[0].index))
        second.add_done_callback(lambda done: asked.set_result(done.result().classes[0].index))

    client.submit(picture(3)).add_done_callback(ask_again)
    assert asked.result(10) == noop_class(noop_class(3, "v1"), "v1")


def test_a_peer_that_hangs_up_at_once_does_not_make_the_client_spin():
    with short_home() as home:
        (home.root / "run").mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(home.endpoint("clients").removeprefix("ipc://"))
        listener.listen(100)
        n_connections = 0
        with listener, Client(home.endpoint("clients")) as client:
            listener.settimeout(5)
            end = monotonic() + 1.0
            future = client.submit(picture(), timeout_s=30)
            while monotonic() < end:
                listener.accept()[0].close()
                n_connections += 1
            future.cancel()
        assert n_connections < 200
