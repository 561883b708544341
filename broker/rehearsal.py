"""Pure: the way of one request and its answer through the broker, gone for nobody just before a real answer is due.

While a worker computes the broker sleeps, and the code that passes an answer on leaves the caches. Whoever has just gone the
way goes it again a tenth of a millisecond faster (docs/performance.md, "One request in flight").
"""

from collections import deque

from hotpool.messages import PROTOCOL, ClientHello, Done, Job, Message, Request, Result, Work, WorkerHello
from hotpool.states import Priority
from hotpool.wire import encode, encode_body, from_client, from_worker
from hotpool.zmtp import Incoming, opening, pack

from .actions import ToClient, ToWorker
from .core import Core, Settings
from .dispatch import Limits

CLIENT, WORKER, MODEL = b"client", b"worker", "model"
LONG_S, MAX_BYTES = 3600.0, 64 * 1024  # nothing here takes so long, or is so large
BUDGET_US = 1_000_000
WORK = encode_body(Work("picture", 3))
RESULT = encode_body(Result(tuple((index, f"class {index}", 0.3) for index in range(3))))


class Rehearsal:
    """A core of its own, with one client and one worker that are nobody."""

    def __init__(self, now: float) -> None:
        limits = Limits(1, MAX_BYTES, max_batch=1, max_attempts=1, lease_s=LONG_S)
        self._core = Core(Settings(0, MODEL, {}, LONG_S, LONG_S, MAX_BYTES, limits), now)
        self._core.from_client(CLIENT, ClientHello(PROTOCOL, bytes(8)), None, now)
        self._core.from_worker(WORKER, WorkerHello(PROTOCOL, "worker", 1, 1, MODEL, "v1", "", 0, (0,), 1), None, now)
        self._incoming = Incoming(MAX_BYTES)
        self._incoming.feed(memoryview(opening(b"DEALER")))
        self._n = 0

    def run(self, now: float) -> list[Message]:
        """What the client would be told: one reply."""
        self._n += 1
        request = Request(self._n.to_bytes(16, "big"), None, None, Priority.NORMAL, BUDGET_US, WORK)
        told = []
        to_do = deque(self._core.from_client(CLIENT, *from_client.decode(self._arrived(request, b"picture")), now))
        while to_do:
            match to_do.popleft():
                case ToWorker(_, Job() as job, payload):
                    pack([encode(job), payload or b""])
                    answer = self._arrived(Done(job.job, 1, RESULT))
                    to_do += self._core.from_worker(WORKER, *from_worker.decode(answer), now)
                case ToClient(_, message):
                    pack([encode(message)])
                    told.append(message)
        self._core.tick(now)
        self._core.take_changes(now)
        return told

    def _arrived(self, message: Message, *payload: bytes) -> list[bytes]:
        """The frames of a message, from the bytes of a connection."""
        (frames,) = self._incoming.feed(memoryview(b"".join(pack([encode(message), *payload]))))
        return frames
