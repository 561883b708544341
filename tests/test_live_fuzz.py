"""Promise 10 against a live broker: any bytes on any of its sockets are counted and dropped, and it serves on."""

import random
import socket

import numpy as np
import pytest
import zmq

from bench.noop import noop_class
from hotpool import messages as m
from hotpool import wire
from hotpool.messages import Report
from tests.pool import Pool, eventually, running_pool
from tests.test_wire import HOSTILE, REQUEST

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SOCKETS = ("clients", "workers", "admin")
SEED = 7


@pytest.fixture(scope="module")
def pool():
    with running_pool(2) as running:
        yield running


def corpus(seed: int) -> list[list[bytes]]:
    """Hostile messages, noise, and real messages of every kind with damage."""
    rng = random.Random(seed)
    real = [
        wire.encode(message)
        for message in (
            REQUEST,
            m.ClientHello(1, b"clientid"),
            m.Done(5, 1, wire.encode_body(m.Result())),
            m.Failed(5, 1, "code", "text", "no"),
            m.LoadEnded("token", "v1", "d" * 64, 1, 1),
            m.Leaving(),
            m.Pulse("worker-0", 99, 1, 1),
            m.Drain(1, 0, "worker-77"),
            m.GetReport(1),
        )
    ]
    noise = [[rng.randbytes(rng.randrange(300)) for _ in range(rng.randrange(1, 5))] for _ in range(200)]
    damaged = [[damage(rng, rng.choice(real)), rng.randbytes(20)] for _ in range(300)]
    return [frames for frames in [*HOSTILE, *noise, *damaged, *([header] for header in real)] if frames]


def damage(rng: random.Random, header: bytes) -> bytes:
    changed = bytearray(header)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(1, len(changed) + 1)])


def malformed(report: Report) -> dict[str, float]:
    family = next(family for family in report.metrics if family.name == "hotpool_malformed_total")
    return {sample.labels["socket"]: sample.value for sample in family.samples}


def serves(pool: Pool) -> bool:
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pool.client() as client:
        return all(client.classify(pixels).classes[0].index == noop_class(0, "v1") for _ in range(20))


@pytest.mark.parametrize("name", SOCKETS)
def test_hostile_messages_are_counted_and_the_broker_serves_on(pool, name):
    print(f"seed {SEED}")
    before = malformed(pool.report()).get(name, 0)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(pool.home.endpoint(name))
    for frames in corpus(SEED):
        dealer.send_multipart(frames)
    eventually(
        lambda: malformed(pool.report()).get(name, 0) >= before + len(HOSTILE) - 1, "the count of what was dropped"
    )
    context.destroy(linger=0)
    assert serves(pool)
    assert pool.processes["broker"].poll() is None
    assert pool.ready() == 2


@pytest.mark.parametrize("name", SOCKETS)
def test_bytes_that_are_not_even_zeromq_do_no_harm(pool, name):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    path = pool.home.endpoint(name).removeprefix("ipc://")
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(path)
            raw.sendall(rng.randbytes(rng.randrange(1, 5000)))
    assert serves(pool)


def test_a_frame_over_the_limit_costs_its_sender_the_connection_and_nobody_else_anything(pool):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.connect(pool.home.endpoint("clients"))
    dealer.send_multipart([wire.encode(REQUEST), b"x" * (17 * 1024 * 1024)])
    assert monitor.poll(20_000), "the connection stayed open"
    dealer.disable_monitor()
    monitor.close(linger=0)
    context.destroy(linger=0)
    assert serves(pool)


def test_a_stranger_who_sends_work_without_a_hello_is_asked_who_it_is(pool):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(pool.home.endpoint("clients"))
    dealer.send_multipart([wire.encode(REQUEST), b"x"])
    assert dealer.poll(20_000)
    message, _ = wire.to_client.decode(dealer.recv_multipart())
    assert message == m.Who()
    context.destroy(linger=0)


def test_a_name_that_a_peer_gives_itself_takes_nobodys_place(pool):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealers = [context.socket(zmq.DEALER) for _ in range(2)]
    for dealer in dealers:
        dealer.setsockopt(zmq.ROUTING_ID, b"client")
        dealer.connect(pool.home.endpoint("clients"))
        dealer.send_multipart([wire.encode(m.ClientHello(1, b"clientid"))])
        assert dealer.poll(20_000)
        assert isinstance(wire.to_client.decode(dealer.recv_multipart())[0], m.Welcome)
    for number, dealer in enumerate(dealers):
        work = wire.encode_body(m.Work("pixels", 3, (8, 8, 3)))
        request = m.Request(bytes([number]) * 16, None, None, 1, 20_000_000, work)
        dealer.send_multipart([wire.encode(request), bytes(8 * 8 * 3)])
    for number, dealer in enumerate(dealers):
        assert dealer.poll(20_000)
        reply, _ = wire.to_client.decode(dealer.recv_multipart())
        assert isinstance(reply, m.Reply)
        assert reply.id == bytes([number]) * 16
    context.destroy(linger=0)


def test_a_worker_that_names_an_impossible_process_is_no_harm(pool):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(pool.home.endpoint("workers"))
    hello = m.WorkerHello(1, "worker-9", 1, 2**53, "other", "v1", "d" * 64, 0, (0,), 1)
    dealer.send_multipart([wire.encode(hello)])
    assert dealer.poll(20_000)
    assert wire.to_worker.decode(dealer.recv_multipart())[0].protocol == 1
    context.destroy(linger=0)
    assert serves(pool)
