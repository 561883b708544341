"""A worker's heartbeat by itself, over a real socket."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest
import zmq

from hotpool.messages import Pulse
from hotpool.wire import from_worker
from workers.pulse import PulseThread

PATIENCE_S = 20.0
NEVER_S = 1000.0


@pytest.fixture
def heart() -> Iterator[tuple[PulseThread, "zmq.Socket[bytes]"]]:
    """One that beats, and the broker's end of its connection."""
    with TemporaryDirectory(prefix="hp") as folder, zmq.Context() as context, context.socket(zmq.ROUTER) as broker:
        broker.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
        broker.setsockopt(zmq.LINGER, 0)
        broker.bind(f"ipc://{folder}/workers")
        pulse = PulseThread(f"ipc://{folder}/workers", "worker-3", 7, lifeline=None)
        pulse.start()
        try:
            yield pulse, broker
        finally:
            pulse.stop()


def hear(broker: "zmq.Socket[bytes]") -> None:
    pulse, _ = from_worker.decode(broker.recv_multipart()[1:])
    assert isinstance(pulse, Pulse)
    assert (pulse.worker, pulse.incarnation) == ("worker-3", 7)


def test_a_heart_that_is_to_beat_more_often_does_so_at_once(heart):
    """It waits for its next beat, which would be long after the broker's patience is over."""
    pulse, broker = heart
    hear(broker)
    pulse.beat_every(NEVER_S)
    hear(broker)  # after this one it waits for so long
    pulse.beat_every(0.01)
    for _ in range(3):
        hear(broker)
