"""Shell: asks workers, through the broker and one after the other, the golden inputs of the version they serve.

In a thread of its own: a worker that is busy with requests answers when it has time, and rollouts don't wait for that.
One input at a time, so that a request which comes meanwhile waits for one forward pass at most.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from time import monotonic

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from hotpool.answers import Answer, logits_of
from hotpool.calls import Call
from hotpool.courier import Courier
from hotpool.digest import digest_bytes
from hotpool.errors import BadInput, BadVersion, HotpoolError, ModelError, RemoteProtocolError, TooLarge
from hotpool.exchange import Ticket
from hotpool.home import Home
from hotpool.inputs import tensor_work
from hotpool.logits import TOLERANCES, compare_logits
from hotpool.manifest import GOLDEN, Manifest, read_manifest, version_folder
from hotpool.messages import Request, WorkerReport
from hotpool.states import Executed, Priority
from hotpool.wire import encode_body

from .view import Probed, Round

PATIENCE_S = 2.0  # for one input: a worker that has no time for it in so long is busy with better things
KEPT_VERSIONS = 2  # stable and target

FloatArray = NDArray[np.float32]
log = logging.getLogger("hotpool.control")


@dataclass(frozen=True, slots=True)
class Golden:
    """What a version must answer. pixels: (n, 3, crop, crop); a quarter of what goes into the network, and so what is kept."""

    pixels: NDArray[np.uint8]
    logits: FloatArray
    manifest: Manifest

    def inputs(self) -> Iterator[FloatArray]:
        """One at a time, as they go into the network."""
        return (normalised(self.pixels[i : i + 1], self.manifest) for i in range(len(self.pixels)))


class Prober:
    """Use it from one thread, and close it."""

    def __init__(self, home: Home, interval_s: float) -> None:
        """interval_s: from the beginning of a round to that of the next; 0 for none at all."""
        self._home, self._interval_s = home, interval_s
        self._due_at = 0.0
        self._courier: Courier | None = None
        self._numbers = count(1)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotpool-prober")
        self._running: Future[Round] | None = None
        self._last: Round | None = None
        self._golden: dict[str, Golden] = {}

    def is_due(self, now: float) -> bool:
        return self._interval_s > 0 and self._running is None and now >= self._due_at

    def start(self, workers: Sequence[WorkerReport], now: float) -> None:
        """Begins a round; does nothing while one is under way."""
        if self._running is None:
            self._courier = self._courier or Courier(self._home.endpoint("clients"))
            self._due_at = now + self._interval_s
            self._running = self._thread.submit(self._round, self._courier, tuple(workers))

    def poll(self) -> Round | None:
        """The last round that has ended."""
        if self._running is not None and self._running.done():
            self._last, self._running = self._running.result(), None
        return self._last

    def close(self) -> None:
        """Calls that are open end at once."""
        if self._courier is not None:
            self._courier.close()
        self._thread.shutdown()

    # ---- in the thread

    def _round(self, courier: Courier, workers: Sequence[WorkerReport]) -> Round:
        probed, trouble = [], ""
        for worker in workers:
            try:
                probed.append(self._probe(courier, worker, self._golden_of(worker.digest)))
            except BadVersion as error:
                trouble = f"workers can't be probed: {error}"
            except (
                HotpoolError
            ) as error:  # it says nothing of the worker's answers: busy, lost, or it serves another version
                log.info("event=not_probed worker=%s code=%s reason=%r", worker.worker, error.code, str(error))
        return Round(tuple(probed), trouble)

    def _probe(self, courier: Courier, worker: WorkerReport, golden: Golden) -> Probed:
        try:
            got = np.concatenate([self._ask(courier, worker, one) for one in golden.inputs()])
            reason = compare_logits(golden.logits, got, TOLERANCES[golden.manifest.precision]).reason
        except TooLarge:
            raise
        except (
            ModelError,
            BadInput,
            ValueError,
        ) as error:  # it refuses what it must take, or its answers have different sizes
            reason = f"a golden input failed: {error}"
        return Probed(worker.worker, worker.incarnation, worker.digest, worker.version, reason, worker.token)

    def _ask(self, courier: Courier, worker: WorkerReport, row: FloatArray) -> FloatArray:
        """Raises HotpoolError."""
        work, payload = tensor_work(row)
        request = Request(
            courier.nonce + next(self._numbers).to_bytes(8, "big"), worker.model, worker.digest, Priority.LOW, 0,
            encode_body(work), worker=worker.worker,
        )  # fmt: skip
        future: Future[tuple[FloatArray, str, str]] = Future()
        now = monotonic()
        courier.post(Call(request, payload, Ticket(future, logits_and_source), now, now + PATIENCE_S), waits=False)
        got, name, digest = future.result()
        if (name, digest) != (worker.worker, worker.digest):
            raise RemoteProtocolError(f"{name} has answered with {digest[:12]}", executed=Executed.YES)
        return got

    def _golden_of(self, digest: str) -> Golden:
        if digest not in self._golden:
            self._golden = dict(list(self._golden.items())[1 - KEPT_VERSIONS :])
            self._golden[digest] = read_golden(self._home, digest)
        return self._golden[digest]


def logits_and_source(answer: Answer) -> tuple[FloatArray, str, str]:
    """Who answered, with what. Raises RemoteProtocolError."""
    return logits_of(answer), answer[0].worker, answer[0].digest


def read_golden(home: Home, digest: str) -> Golden:
    """Raises BadVersion: the file is missing or is not the one the manifest names."""
    folder = version_folder(home, digest)
    manifest = read_manifest(folder)
    try:
        data = (folder / GOLDEN).read_bytes()
        held = safetensors.numpy.load(data)
        pixels, logits = held["inputs"], held["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise BadVersion(f"{folder / GOLDEN} can't be read: {error}") from None
    if digest_bytes(data) != manifest.golden_sha256:
        raise BadVersion(f"{folder / GOLDEN} was changed: its SHA-256 is not the one the manifest names")
    return Golden(pixels, logits, manifest)


def normalised(pixels: NDArray[np.uint8], manifest: Manifest) -> FloatArray:
    """As `workers.preprocess` does it, operation by operation: an input must be the very same."""
    used = manifest.preprocessing
    mean, std = (np.array(part, np.float32).reshape(3, 1, 1) for part in (used.mean, used.std))
    scaled: FloatArray = pixels.astype(np.float32) / np.float32(255)
    return (scaled - mean) / std
