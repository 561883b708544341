"""A session with the broker, against a real socket on which the test answers."""

from contextlib import ExitStack, closing
from tempfile import TemporaryDirectory
from time import monotonic

import zmq

from hotpool.link import Link
from hotpool.messages import PROTOCOL, Welcome, Who
from hotpool.wire import encode, to_client

PATIENCE_S = 20.0
HELLO, LAST = b"it is me", b"the last before the broker asks again"


def test_a_hello_that_could_not_be_sent_is_sent_when_the_broker_asks_again():
    """It asks, but does not read."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="hp"))
        context = stack.enter_context(zmq.Context())
        broker = stack.enter_context(context.socket(zmq.ROUTER))
        broker.setsockopt(zmq.RCVHWM, 1)
        broker.setsockopt(zmq.LINGER, 0)
        broker.bind(f"ipc://{folder}/clients")
        link = stack.enter_context(closing(Link(f"ipc://{folder}/clients", to_client, lambda: HELLO)))
        heard: list[bytes] = []
        clients: set[bytes] = set()

        def until(is_so, *, broker_reads=True):
            ends_at = monotonic() + PATIENCE_S
            while not is_so():
                assert monotonic() < ends_at
                link.wait(0.02)
                list(link.receive())
                while broker_reads and broker.poll(0):
                    client, frame = broker.recv_multipart()
                    clients.add(client)
                    heard.append(frame)

        until(lambda: heard == [HELLO])
        (client,) = clients
        broker.send_multipart([client, encode(Welcome(PROTOCOL, 1, 250_000, 1000))])
        until(lambda: link.welcome)
        while link.send([bytes(1_000)]):
            pass
        broker.send_multipart([client, encode(Who())])
        broker.send_multipart([client, b"none of the messages"])
        until(lambda: link.malformed, broker_reads=False)
        until(lambda: link.send([LAST]))
        until(lambda: LAST in heard)
        assert heard.count(HELLO) == 1, "it could be sent, and this test shows nothing"
        broker.send_multipart([client, encode(Who())])
        until(lambda: heard.count(HELLO) == 2)
