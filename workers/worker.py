"""Shell: one worker process: takes leases, computes, answers, loads versions when told to.

The main thread owns the one connection on which jobs come. What is already there is taken, up to a batch, and nothing is
waited for but jobs that were leased together. Versions are loaded beside, in a thread (`loader`), and swapped between two
jobs. Nothing is logged for a request.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from time import monotonic, process_time, thread_time
from typing import Protocol

from PIL import Image

from hotpool.errors import BadInput, BadVersion, DeadlineExceeded, HotpoolError, RemoteProtocolError
from hotpool.home import Home
from hotpool.link import Link
from hotpool.manifest import WEIGHTS, Manifest, version_folder
from hotpool.messages import (
    PROTOCOL,
    Job,
    Leaving,
    Load,
    LoadEnded,
    Message,
    Released,
    Serve,
    ToWorker,
    Welcome,
    WorkerHello,
)
from hotpool.stable import read_stable
from hotpool.wire import decode_work, encode, to_worker

from .batch import (
    ENGINE_ERRORS,
    Answer,
    FloatArray,
    Lease,
    PictureRows,
    Spent,
    answer,
    compute,
    failed,
    group,
    one_line,
    pixels_array,
    tensor_rows,
)
from .heap import give_back
from .loader import Loader
from .lookout import Lookout
from .orders import BOOT_FAILED, BROKER_GONE, ORPHANED, Settings, exit_file
from .pictures import Picture, decode
from .pulse import PulseThread
from .room import check_free, check_limit, explain_ran_out, ran_out
from .stop_signal import StopSignal

log = logging.getLogger("hotpool.workers")

# A version that can't be loaded is refused, whatever it is that fails; only a bug ends the process.
LOAD_ERRORS = (HotpoolError, OSError, *ENGINE_ERRORS)

# How long a worker that was asked to stop waits for a broker to tell it: a welcome, and leases, may be on their way.
WELCOME_S = 1.0

# How long a batch may take to arrive once its first job is here. Its jobs are sent one right after the other, in tens of
# microseconds; but if the broker died between them, the rest never comes.
BEHIND_S = 0.02

Payload = bytes | None


class Loaded(Protocol):
    """A version in memory, verified: `torch_version.TorchVersion`; tests and benchmarks bring others."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def load_s(self) -> float: ...
    @property
    def verify_s(self) -> float: ...
    @property
    def side(self) -> int:
        """Height and width of the input for a picture."""

    @property
    def least_side(self) -> int | None:
        """See `pictures.decode`."""

    def picture(self, picture: Picture, row: FloatArray) -> None:
        """Puts the input for a picture into a row, (side, side, 3). Raises BadInput."""

    def check(self, rows: FloatArray) -> None:
        """Raises BadInput if (n, 3, h, w) rows from a caller are no input of this version."""

    def logits(self, rows: FloatArray) -> FloatArray:
        """(n, classes) float32 for (n, 3, h, w) rows."""


class LoadFunction(Protocol):
    """Loads and verifies a version; `on_state` hears `loading` and `verifying`. Raises BadVersion."""

    def __call__(self, home: Home, digest: str, *, on_state: Callable[[str], None]) -> Loaded: ...


def serve(settings: Settings, load: LoadFunction, lifeline: int | None = None) -> int:
    """The life of a worker process, from its settings to its exit code.

    lifeline: a pipe's read end; its end of file says that the supervisor is gone.
    """
    stop = StopSignal()
    endpoint = Home(Path(settings.home)).endpoint("workers")
    pulse = PulseThread(endpoint, settings.worker, settings.incarnation, lifeline)
    pulse.start()
    try:
        worker = Worker(settings, load, stop, lifeline, pulse)
        return worker.run(endpoint) if worker.boot() else BOOT_FAILED
    finally:
        pulse.stop()
        stop.close()


def note_exit(settings: Settings, reason: str) -> None:
    """Leaves the reason of this process's end where its supervisor looks for it."""
    log.error("event=ends worker=%s incarnation=%d reason=%r", settings.worker, settings.incarnation, reason)
    with contextlib.suppress(OSError):  # a full disk: the supervisor knows the exit code alone
        exit_file(Home(Path(settings.home)), os.getpid()).write_text(reason)


class Worker:
    """One process in a worker's seat."""

    def __init__(
        self, settings: Settings, load: LoadFunction, stop: StopSignal, lifeline: int | None, pulse: PulseThread
    ) -> None:
        self._settings, self._home = settings, Home(Path(settings.home))
        self._load_version, self._stop, self._lifeline, self._pulse = load, stop, lifeline, pulse
        self._epoch = 0
        self._token = self._load_reason = ""  # of the last load that has come to its end
        self._loader = Loader(self._load)
        self._order: Load | None = None  # the newest, until it failed or the broker has said what to serve
        self._held: Loaded | None = None  # loaded by it, and not yet served
        self._is_leaving = False
        self._exit_code: int | None = None
        self._unwelcome_since: float | None = None
        self._rows = PictureRows(settings.max_batch, 1)
        # With one thread all computing is the main thread's, and a load beside, in another one, does not count.
        self._cpu_clock = thread_time if settings.threads == 1 else process_time
        self._loaded: Loaded
        self._link: Link[ToWorker]
        self._lookout: Lookout

    def boot(self) -> bool:
        """Loads the stable version; False, with the reason noted, if that can't be."""
        model = self._settings.model
        try:
            digest = read_stable(self._home, model)
            if digest is None:
                raise BadVersion(f"model {model} has no stable version; add one with hotpool versions add")
            self._loaded = self._load(digest, lambda state: None)
            give_back()
        except LOAD_ERRORS as error:
            note_exit(self._settings, one_line(error))
            return False
        return True

    def run(self, endpoint: str) -> int:
        """Serves until told to end; returns the exit code."""
        self._link = Link(endpoint, to_worker, self._hello)
        ends = (self._link.fileno(), self._stop.fileno(), self._loader.fileno(), self._lifeline)
        self._lookout = Lookout([end for end in ends if end is not None])
        next_at = monotonic()
        while self._exit_code is None:
            self._wait(next_at)
            now = monotonic()
            next_at = self._link.tick(now)
            self._receive(now)
            self._heed_ends(now)
        self._link.close()
        self._loader.close()
        return self._exit_code

    # ---- the loop's parts

    def _wait(self, until: float) -> None:
        ready = self._lookout.wait(monotonic() if self._link.has_input else until)
        if self._stop.fileno() in ready:
            self._stop.drain()
        if self._lifeline in ready:
            self._exit_code = ORPHANED
        if self._loader.fileno() in ready:
            self._hear_loader()

    def _receive(self, now: float) -> None:
        jobs: list[tuple[Job, Payload]] = []
        for message, payload in self._arriving(jobs, now):
            match message:
                case Job():
                    jobs.append((message, payload))
                case Load():
                    self._obey_load(message)
                case Serve():
                    self._answer(jobs, now)  # they came before it, so they are for the old version
                    jobs.clear()
                    self._obey_serve(message)
                case Welcome():
                    self._pulse.beat_every(self._link.heartbeat_s)
                    self._is_leaving = False  # this session has not heard it
                    self._report_held()
                case Released() if self._is_leaving:
                    self._exit_code = 0
                case _:
                    pass  # not for workers
        if jobs:
            self._answer(jobs, now)
            if len(jobs) == 1:  # of a busy pool the next ones are waiting already
                self._lookout.computed(began_at=now)

    def _arriving(self, jobs: list[tuple[Job, Payload]], now: float) -> Iterator[tuple[ToWorker, Payload]]:
        """Messages that are here, and what comes right behind the last of these jobs; nothing more when they are a full batch.

        jobs: the caller puts into it, between two messages, those that it has got.
        """
        session = self._link.sessions
        while True:
            for arrived in self._link.receive():
                yield arrived
                if len(jobs) >= self._settings.max_batch:
                    return
            is_expected = jobs and jobs[-1][0].behind and self._link.sessions == session
            left_s = now + BEHIND_S - monotonic()
            if not is_expected or left_s <= 0 or self._link.is_lost or not self._link.wait(left_s):
                return

    def _heed_ends(self, now: float) -> None:
        """Asked to stop, or without a broker for too long."""
        if self._link.welcome:
            self._unwelcome_since = None
            if self._stop.is_set and not self._is_leaving:
                self._is_leaving = True
                self._send(Leaving())
            return
        if self._unwelcome_since is None:
            self._unwelcome_since = now
        alone_s = now - self._unwelcome_since
        if self._stop.is_set and alone_s > WELCOME_S:
            self._exit_code = 0  # no broker, so no lease to finish
        elif alone_s > self._settings.broker_gone_s:
            note_exit(self._settings, f"no broker for {self._settings.broker_gone_s:g} s")
            self._exit_code = BROKER_GONE

    def _send(self, message: Message, payload: Payload = None) -> None:
        # A full socket means a broker that has not read for long: the session is as good as lost, and so are its leases.
        self._link.send([encode(message)] if payload is None else [encode(message), payload])

    # ---- jobs

    def _answer(self, jobs: list[tuple[Job, Payload]], received_at: float) -> None:
        cpu_at = self._cpu_clock()
        if self._rows.side != self._loaded.side:
            self._rows = PictureRows(self._settings.max_batch, self._loaded.side)
        self._rows.clear()
        leases = [lease for job, payload in jobs if (lease := self._read(job, payload, received_at))]
        expiry = {job.job: received_at + job.budget_us / 1e6 for job, _ in jobs}
        for members in group(leases, self._settings.max_batch):
            now = monotonic()
            in_time = [
                lease for lease in members if not self._refuse_late(lease.job, expiry[lease.job], received_at, now)
            ]
            outcomes = compute(self._loaded.logits, in_time, self._rows.join) if in_time else []
            cpu_us, n_rows = int((self._cpu_clock() - cpu_at) * 1e6), sum(len(lease.rows) for lease in in_time)
            spent = Spent(_since_us(received_at), cpu_us, n_rows)
            labels, done = self._loaded.manifest.labels, zip(in_time, outcomes, strict=True)
            replies = [answer(lease, outcome, labels, spent) for lease, outcome in done]
            # Only now, and all at once: each would wake the broker, on this very core perhaps, before the next one is made.
            for reply in replies:
                self._reply(reply)

    def _read(self, job: Job, payload: Payload, received_at: float) -> Lease | None:
        """The lease with its input ready to compute; None if it was answered with what is wrong with it."""
        if self._refuse_late(job.job, received_at + job.budget_us / 1e6, received_at, monotonic()):
            return None
        try:
            work = decode_work(job.work)
            if payload is None:
                raise BadInput("the request came without its payload")
            return Lease(job.job, work, self._input(work.kind, work.shape, payload))
        except RemoteProtocolError as error:
            self._reply(failed(job.job, BadInput(str(error)), _since_us(received_at)))
        except (HotpoolError, *ENGINE_ERRORS) as error:
            self._reply(failed(job.job, error, _since_us(received_at)))
        return None

    def _input(self, kind: str, shape: tuple[int, ...], payload: bytes) -> FloatArray:
        limits = self._settings
        match kind:
            case "picture":
                picture = decode(payload, limits.max_bytes, limits.max_pixels, self._loaded.least_side)
                return self._keep(picture)
            case "pixels":
                image = Image.fromarray(pixels_array(shape, payload, limits.max_pixels))
                return self._keep(Picture(image, image.size))
            case "tensor":
                rows = tensor_rows(shape, payload)
                self._loaded.check(rows)
                return rows
        raise BadInput(f"kind {kind!r} is not known here; known are picture, pixels and tensor")

    def _keep(self, picture: Picture) -> FloatArray:
        self._loaded.picture(picture, self._rows.free())
        return self._rows.keep()

    def _refuse_late(self, job: int, expires_at: float, received_at: float, now: float) -> bool:
        if now < expires_at:
            return False
        error = DeadlineExceeded("the deadline passed before the worker began to compute")
        self._reply(failed(job, error, _since_us(received_at)))
        return True

    def _reply(self, reply: Answer) -> None:
        self._send(reply.message, reply.payload)

    # ---- versions

    def _hello(self) -> bytes:
        settings, manifest = self._settings, self._loaded.manifest
        return encode(
            WorkerHello(
                protocol=PROTOCOL,
                worker=settings.worker,
                incarnation=settings.incarnation,
                pid=os.getpid(),
                model=manifest.model,
                version=manifest.name,
                digest=manifest.digest,
                epoch=self._epoch,
                cores=settings.cores,
                threads=settings.threads,
                token=self._token,
                load_reason=self._load_reason,
                loading=self._order.token if self._order else "",
                pulse_thread=self._pulse.native_id or 0,
            )
        )

    def _obey_load(self, order: Load) -> None:
        if order.epoch < self._epoch:
            self._refuse(order, f"epoch {order.epoch} is lower than {self._epoch}, which this worker has obeyed")
            return
        self._epoch = order.epoch
        if self._order is None or self._order.token != order.token:
            self._order, self._held = order, None
            self._loader.begin(order)

    def _hear_loader(self) -> None:
        states, ended = self._loader.news()
        for state in states:
            self._send(state)
        if ended is not None:
            self._end_load(*ended)

    def _end_load(self, order: Load, future: "Future[Loaded]") -> None:
        """Nothing changes for requests: a version that was loaded is held until the broker says what to serve."""
        reason = ""
        try:
            self._held = future.result()
        except LOAD_ERRORS as error:
            reason = one_line(error)
        log.info("event=load worker=%s version=%s reason=%r", self._settings.worker, order.digest[:12], reason)
        if reason:
            self._order, self._token, self._load_reason = None, order.token, reason
            self._refuse(order, reason)
            give_back()  # what it had taken until it failed
        self._report_held()

    def _report_held(self) -> None:
        if self._order and self._held:
            manifest, load_us = self._held.manifest, int(self._held.load_s * 1e6)
            verify_us = int(self._held.verify_s * 1e6)
            self._send(LoadEnded(self._order.token, manifest.name, manifest.digest, load_us, verify_us))

    def _refuse(self, order: Load, reason: str) -> None:
        manifest = self._loaded.manifest
        self._send(LoadEnded(order.token, manifest.name, manifest.digest, 0, 0, reason))

    def _obey_serve(self, order: Serve) -> None:
        """Swaps one reference, or lets go of what was loaded; the memory of the other one is free again."""
        if self._held and order.digest == self._held.manifest.digest:
            self._loaded = self._held
        self._order, self._held, self._token, self._load_reason = None, None, order.token, ""
        give_back()
        if order.digest != self._loaded.manifest.digest:
            self._link.reopen()  # a broker that is wrong about what is served here must hear it

    def _load(self, digest: str, on_state: Callable[[str], None]) -> Loaded:
        weights = version_folder(self._home, digest) / WEIGHTS
        check_limit(weights, self._settings.load_memory_mb)
        check_free(weights)
        try:
            loaded = self._load_version(self._home, digest, on_state=on_state)
        except LOAD_ERRORS as error:
            if ran_out(error):
                raise explain_ran_out(error, digest) from None
            raise
        if loaded.manifest.model != self._settings.model:
            names = f"{loaded.manifest.name} is a version of model {loaded.manifest.model}"
            raise BadVersion(f"{names}; this worker serves {self._settings.model}")
        return loaded


def _since_us(instant: float) -> int:
    return int((monotonic() - instant) * 1e6)
