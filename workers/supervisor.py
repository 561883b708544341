"""Shell: keeps the seats filled: one loop over the broker, the template and signals; `seats` decides, this does."""

import contextlib
import logging
import os
import select
import signal
import socket
from math import ceil, inf
from time import monotonic

from hotpool.config import Config
from hotpool.disk import overwrite
from hotpool.home import Home
from hotpool.link import Link
from hotpool.messages import Kill, Spares, ToWorker
from hotpool.restart import Exit, GiveUp, decide_restart
from hotpool.stable import read_stable
from hotpool.wire import encode, to_worker

from .cores import can_pin
from .forker import Forker, become_subreaper
from .orders import Exited, Forked, NotForked, Settings, exit_file
from .pinning import Plan
from .seats import Action, Announce, Fork, Report, SeatTable, Signal

log = logging.getLogger("hotpool.workers")

STABLE_EVERY_S = 0.25  # how often the pointer to the version that workers boot is read
TEMPLATE_PATIENCE_S = 60.0  # its imports take seconds on a cold disk; later a fork takes milliseconds


class Supervisor:
    """Runs until SIGTERM or SIGINT; the second one ends at once."""

    def __init__(self, home: Home, config: Config, plan: Plan, template: str = f"{__package__}.template") -> None:
        """template: the module that the template process runs; tests and benchmarks bring others."""
        self._home, self._config, self._plan = home, config, plan
        self._incarnations = home.run / "incarnation"
        self._highest_incarnation = self._last_incarnation()
        self._seats = SeatTable(config.pool.model, len(plan.core_sets), self._highest_incarnation)
        self._forker = Forker(template, plan.threads, home.socket("scratch"))
        self._is_subreaper = become_subreaper()
        self._template_exits: list[Exit] = []
        self._template_started_at = 0.0
        self._template_at = -inf  # when to start it; infinite when given up
        self._template_trouble = ""
        self._stable: str | None = None
        self._stable_trouble = ""  # why it could not be read when last tried
        self._stable_read_at = -inf
        self._link: Link[ToWorker] = Link(home.endpoint("workers"), to_worker, self._frame)
        self._link_at = 0.0  # when the link is to be looked at again
        self._reported_at = 0.0
        self._wakeup, self._waker = socket.socketpair()

    def run(self) -> None:
        self._listen()
        next_at = monotonic()
        try:
            while not self._seats.is_over(monotonic()):
                self._turn(next_at)
                next_at = self._next_at()
            log.info("event=stopped")
        finally:
            self._forker.close()
            self._link.close()

    def _listen(self) -> None:
        for stale in self._home.run.glob("exit-*"):
            stale.unlink(missing_ok=True)
        if not self._is_subreaper:
            log.info("event=no_subreaper workers can't outlive the template here")
        if not can_pin():
            log.info("event=no_pinning this system has no call for it")
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the signal's number arrives as a byte at the wake-up socket

    # ---- the loop

    def _turn(self, until: float) -> None:
        signals = self._wait(until)
        now = monotonic()
        self._link_at = self._link.tick(now)
        self._hear_broker(now)
        self._hear_template(now)
        self._hear_signals(signals, now)
        self._look_after_template(now)
        self._read_stable(now)
        self._do(self._seats.tick(now, self._find_obstacle()), now)
        if now - self._reported_at >= self._link.heartbeat_s:
            self._report(now)

    def _next_at(self) -> float:
        beats = self._reported_at + self._link.heartbeat_s
        due = self._seats.next_at()
        if due <= monotonic():
            due = inf  # the last tick has done what can be done now; an obstacle goes at the next look at the pointer
        return min(beats, due, self._link_at, self._stable_read_at + STABLE_EVERY_S)

    def _wait(self, until: float) -> bytes:
        """Until something arrives or time has come. Returns the signals that arrived, a byte each."""
        poller = select.poll()  # made anew: the template's socket changes, and this loop turns rarely
        for polled in (self._link, self._wakeup, self._forker.control):
            if polled is not None:
                poller.register(polled, select.POLLIN)
        poller.poll(0 if self._link.has_input else max(0, ceil((until - monotonic()) * 1000)))
        with contextlib.suppress(BlockingIOError):
            return self._wakeup.recv(4096)
        return b""

    def _hear_broker(self, now: float) -> None:
        for message, _ in self._link.receive():
            match message:
                case Kill(worker, incarnation, cause):
                    self._do(self._seats.kill(worker, incarnation, cause), now)
                case Spares(n):
                    self._do(self._seats.spares(n, now), now)
                case _:
                    pass  # not for supervisors

    def _hear_template(self, now: float) -> None:
        if self._forker.control is None:
            return
        reports, is_there = self._forker.receive()
        for report in reports:
            match report:
                case Forked(worker, incarnation, pid):
                    self._do(self._seats.forked(worker, incarnation, pid, now), now)
                case NotForked(worker, incarnation, reason):
                    self._do(self._seats.not_forked(worker, incarnation, reason, now), now)
                case Exited():
                    self._exited(report, now)
        if not is_there:
            self._lose_template(now)

    def _hear_signals(self, signals: bytes, now: float) -> None:
        if signal.SIGCHLD in signals:
            for exit in self._forker.reap_orphans():
                self._exited(exit, now)
        for _ in range(signals.count(signal.SIGTERM) + signals.count(signal.SIGINT)):
            self._do(self._seats.stop(now), now)

    def _exited(self, exit: Exited, now: float) -> None:
        path = exit_file(self._home, exit.pid)
        reason = ""
        with contextlib.suppress(OSError):  # none, as a rule
            reason = path.read_text()
            path.unlink()
        self._do(self._seats.exited(exit.pid, exit.code, reason, now), now)

    def _read_stable(self, now: float) -> None:
        if now - self._stable_read_at < STABLE_EVERY_S:
            return
        self._stable_read_at, before = now, self._stable
        try:
            self._stable = read_stable(self._home, self._config.pool.model)
        except (OSError, ValueError) as error:  # ValueError: it is no text
            if self._stable_trouble != str(error):
                self._stable_trouble = str(error)
                log.warning("event=stable_not_read reason=%r", self._stable_trouble)
            return  # what was stable stays so: workers that serve need it only when they are started again
        self._stable_trouble = ""
        if self._stable != before:
            self._template_at, self._template_exits = min(self._template_at, now), []
            self._do(self._seats.retry(now), now)

    def _find_obstacle(self) -> str:
        """Why no worker can be forked now; empty if one can."""
        model = self._config.pool.model
        if self._stable is None and self._stable_trouble:
            return f"can't read which version of model {model} is stable: {self._stable_trouble}"
        if self._stable is None:
            return f"waits for the first version of model {model} (add one: hotpool versions add)"
        return self._template_trouble if self._forker.control is None else ""

    # ---- the template

    def _look_after_template(self, now: float) -> None:
        if self._forker.control is None and now >= self._template_at and not self._seats.is_stopping:
            self._start_template(now)
        if now - self._seats.oldest_order_at() > TEMPLATE_PATIENCE_S:
            log.error("event=template_hung pid=%d patience_s=%g", self._forker.pid, TEMPLATE_PATIENCE_S)
            self._forker.kill()

    def _start_template(self, now: float) -> None:
        self._template_started_at = now
        try:
            self._forker.start()
        except OSError as error:  # no process, or no more files: those that serve need neither
            self._template_ended(Exit(now, now, f"can't be started ({error})", is_fault=False), now)
        else:
            log.info("event=template_started pid=%d", self._forker.pid)

    def _template_ended(self, ended: Exit, now: float) -> None:
        self._template_exits.append(ended)
        match decide_restart(self._template_exits, now):
            case GiveUp(reason):
                self._template_at, self._template_trouble = inf, f"template: {reason}"
            case restart:
                self._template_at, self._template_trouble = restart.at, f"template: {ended.cause}, is tried again"
        log.error("event=template_lost cause=%r next=%r", ended.cause, self._template_trouble)

    def _lose_template(self, now: float) -> None:
        """Its workers serve on: they are our children now. Without a subreaper they are nobody's, and must end."""
        if not self._is_subreaper:
            self._do([Signal(pid, signal.SIGKILL) for pid in self._seats.pids], now)
        children = self._forker.take_over()
        log.info("event=workers_kept n=%d", len(children))
        self._template_ended(Exit(self._template_started_at, now, "its process ended"), now)
        self._do(self._seats.template_lost(now, children), now)
        for exit in self._forker.reap_orphans():
            self._exited(exit, now)

    # ---- doing

    def _do(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case Fork(worker, index, incarnation):
                    self._write_incarnation(incarnation)
                    self._forker.order(self._settings(worker, index, incarnation))
                case Signal(pid, number):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                case Announce(line):
                    log.info(line)
        if any(isinstance(action, Report) for action in actions):
            self._report(now)

    def _report(self, now: float) -> None:
        self._reported_at = now
        self._link.send([self._frame()])

    def _frame(self) -> bytes:
        return encode(self._seats.message())

    def _settings(self, worker: str, index: int, incarnation: int) -> Settings:
        pool, pictures = self._config.pool, self._config.pictures
        sets = self._plan.core_sets
        everyones = tuple(sorted({core for cores in sets for core in cores}))  # a spare takes what the others leave
        return Settings(
            home=str(self._home.root),
            model=pool.model,
            worker=worker,
            incarnation=incarnation,
            cores=sets[index] if index < len(sets) else everyones,
            threads=self._plan.threads,
            max_batch=pool.max_batch,
            max_bytes=pictures.max_bytes,
            max_pixels=pictures.max_pixels,
            load_memory_mb=pool.load_memory_mb,
        )

    def _last_incarnation(self) -> int:
        """Kept in a file, so that numbers rise across supervisors: the broker may still hold processes of the last one."""
        text = self._incarnations.read_text() if self._incarnations.exists() else ""
        return int(text) if text.strip().isdigit() else 0

    def _write_incarnation(self, incarnation: int) -> None:
        if incarnation > self._highest_incarnation:
            self._highest_incarnation = incarnation
            try:
                overwrite(self._incarnations, f"{incarnation}\n")
            except OSError as error:  # a full disk: this supervisor remembers by itself, only its successor would not
                log.warning("event=incarnation_not_written incarnation=%d reason=%s", incarnation, error)
