"""A session with the broker, against a real socket on which the test answers."""

from contextlib import ExitStack, closing
from tempfile import TemporaryDirectory
from time import monotonic

from hotpool.link import Link
from hotpool.messages import PROTOCOL, Welcome, Who
from hotpool.router import Router
from hotpool.wire import encode, to_client

PATIENCE_S = 20.0
HELLO, LAST = b"it is me", b"the last before the broker asks again"


def test_a_hello_that_could_not_be_sent_is_sent_when_the_broker_asks_again():
    """It asks, but does not read."""
    with ExitStack() as stack:
        endpoint = f"ipc://{stack.enter_context(TemporaryDirectory(prefix='hp'))}/clients"
        broker = stack.enter_context(closing(Router(endpoint, max_bytes=10_000, high_water=8)))
        link = stack.enter_context(closing(Link(endpoint, to_client, lambda: HELLO)))
        heard: list[bytes] = []
        clients: set[bytes] = set()

        def until(is_so, what: str, *, broker_reads: bool = True) -> None:
            ends_at = monotonic() + PATIENCE_S
            while not is_so():
                assert monotonic() < ends_at, f"not within {PATIENCE_S:g} s: {what}"
                link.wait(0.01)
                list(link.receive())
                for client, (frame,) in broker.receive(100) if broker_reads else ():
                    clients.add(client)
                    heard.append(bytes(frame))

        until(lambda: heard == [HELLO], "the first hello")
        (client,) = clients
        broker.send(client, [encode(Welcome(PROTOCOL, 1, 250_000, 1000))])
        until(lambda: link.welcome, "welcome")
        while link.send([bytes(1_000)]):
            pass
        broker.send(client, [encode(Who())])
        broker.send(client, [b"none of the messages"])
        until(lambda: link.malformed, "what was said after the question", broker_reads=False)
        until(lambda: link.send([LAST]), "room for one more")
        until(lambda: LAST in heard, "the last")
        assert heard.count(HELLO) == 1, "it could be sent, and this test shows nothing"
        broker.send(client, [encode(Who())])
        until(lambda: heard.count(HELLO) == 2, "the second hello")
