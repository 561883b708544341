"""Requests in virtual time for the fake pool: who answers them under its table, and what its broker counts of that.

Numbers of requests, not requests: what a tenth of a second brings is drawn at once, so that an hour takes seconds.
Service times are those of a noisy machine: both arms share a drift that changes from second to second, some replies are
spikes. Everything is computed alone, in batches of one.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.arms import WAIT_FOR_STABLE_S
from hotpool.evidence import Arm, Counts, bucket, log_percent, tail_rank
from hotpool.messages import ModelReport, Policy
from hotpool.stable import read_stable
from hotpool.states import WorkerState
from tests.fake_pool import MODEL, FakePool

SERVICE_US = 20_000.0
LEAST_IN_WINDOW = 3  # as in broker/evidence.py
COPIED = 0.4  # of the requests a shadow asks for: not always is a worker free that moment
CONFIDENCE = np.diff((np.arange(101) / 100) ** 2)  # of the whole percents 0 to 99: mostly sure


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of a version. errors: chance of a fault of the server. disagreement: chance to name another class than stable does.
    slower: times the service time. tail: chance to take three times as long. classes: how often each is named."""

    errors: float = 0.001
    disagreement: float = 0.005
    slower: float = 1.0
    tail: float = 0.0
    classes: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)


GOOD = Behaviour()


class Traffic:
    """rate: requests per second; a test may change it. behaviours: by digest, `GOOD` where it is missing.

    answered: by digest, from the beginning. longest_wait_s: of a request for which no worker was there.
    """

    def __init__(self, pool: FakePool, seed: int, rate: float = 1000.0) -> None:
        self.rate, self.behaviours = rate, dict[str, Behaviour]()
        self.answered: dict[str, int] = {}
        self.longest_wait_s = 0.0
        self._pool, self._rng = pool, np.random.default_rng(seed)
        self._owed = 0.0  # part of a request
        self._waiting, self._waited_s = 0, 0.0
        self._run: Run | None = None
        pool.requests, pool.counts = self, self.counts

    def counts(self) -> Counts | None:
        """What the broker answers when it is asked for its evidence."""
        if self._pool.table is None:
            return None
        self._follow(self._pool.table)
        return self._run.counts if self._run else Counts()

    # ---- what the pool tells

    def pass_time(self, seconds: float) -> None:
        n_parts = math.ceil(seconds)  # none longer than a window
        for part in range(n_parts):
            self._pass_part(seconds / n_parts, self._pool.now - seconds * (1 - part / n_parts))

    def _pass_part(self, seconds: float, now: float) -> None:
        self._follow(self._pool.table)
        if self._run:
            self._run.turn_to(now, self._rng)
        self._owed += self.rate * seconds
        n = int(self._owed)
        self._owed -= n
        n_workers = self._ready()
        policy = self._pool.table.policy if self._pool.table else None
        left = self._split(policy, n + self._waiting, n_workers)
        self._waited_s = self._waited_s + seconds if left else 0.0
        self._waiting, self.longest_wait_s = left, max(self.longest_wait_s, self._waited_s)

    def lose(self, digest: str) -> None:
        if self._run:
            self._run.lose(digest)

    def forget(self) -> None:
        self._run = None

    # ---- inside

    def _ready(self) -> dict[str, int]:
        """Workers by version."""
        ready = [worker.digest for worker in self._pool.workers.values() if worker.state is WorkerState.READY]
        return {digest: ready.count(digest) for digest in sorted(set(ready))}

    def _follow(self, table: ModelReport | None) -> None:
        """Another policy number, stable or target: another run."""
        if table is None or table.policy is None:
            self._run = None
            return
        key = (table.policy.number, table.stable, table.target or table.stable)
        if self._run is None or self._run.key != key:
            self._run = Run(key, self._pool.now)

    def _split(self, policy: Policy | None, n: int, n_workers: Mapping[str, int]) -> int:
        """How many find nobody to answer them."""
        table = self._pool.table
        if table is None:
            return self._untold(n, n_workers)
        if policy is None:
            return self._among_all(n, n_workers)
        has_target = table.target in n_workers
        n_target = int(self._rng.binomial(n, policy.share / 100)) if has_target else 0
        if table.target and n_target:
            self._answer(table.target, n_target)
        if table.stable not in n_workers:
            return n - n_target
        self._answer(table.stable, n - n_target)
        if policy.shadow and has_target and self._run:
            self._copy(int(self._rng.binomial(n - n_target, COPIED * policy.shadow / 100)))
        return 0

    def _untold(self, n: int, n_workers: Mapping[str, int]) -> int:
        """A broker that was just started lets stable alone answer; where it is missing, any after a while."""
        stable = read_stable(self._pool.home, MODEL)
        if stable not in n_workers and self._pool.now - self._pool.booted_at >= WAIT_FOR_STABLE_S:
            return self._among_all(n, n_workers)
        return self._among_all(n, {digest: held for digest, held in n_workers.items() if digest == stable})

    def _among_all(self, n: int, n_workers: Mapping[str, int]) -> int:
        """Without a policy any worker does."""
        total = sum(n_workers.values())
        if total == 0:
            return n
        parts = self._rng.multinomial(n, [count / total for count in n_workers.values()])
        for digest, part in zip(n_workers, parts, strict=True):
            self._answer(digest, int(part))
        return 0

    def _answer(self, digest: str, n: int) -> None:
        if n:
            self.answered[digest] = self.answered.get(digest, 0) + n
        if self._run and n:
            self._run.answer(digest, n, self._behaviour(digest), self._rng, is_routed=True)

    def _copy(self, n: int) -> None:
        assert self._run is not None
        target = self._run.key[2]
        behaviour = self._behaviour(target)
        good = self._run.answer(target, n, behaviour, self._rng, is_routed=False)
        self._run.counts.pairs += good
        self._run.counts.disagreements += int(self._rng.binomial(good, behaviour.disagreement))

    def _behaviour(self, digest: str) -> Behaviour:
        return self.behaviours.get(digest, GOOD)


class Run:
    """The evidence of one policy, as `broker.evidence.Run` has it. key: policy number, stable, target."""

    def __init__(self, key: tuple[int, str, str], now: float) -> None:
        self.key, self.counts = key, Counts(key[0])
        self._began_at, self._second, self._drift = now, 0, 0.0
        self._times: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])  # of this second: stable's, target's

    def answer(self, digest: str, n: int, behaviour: Behaviour, rng: np.random.Generator, *, is_routed: bool) -> int:
        """How many were answered with a class."""
        arm = self._arm(digest)
        bad = int(rng.binomial(n, behaviour.errors))
        arm.routed += n if is_routed else 0
        arm.answered += n
        arm.errors += bad
        if n == bad:
            return 0
        _add_all(arm.classes, enumerate(rng.multinomial(n - bad, behaviour.classes).tolist()))
        _add_all(arm.confidence, enumerate(rng.multinomial(n - bad, CONFIDENCE).tolist()))
        us = self._service_us(n - bad, behaviour, rng)
        buckets = np.floor(50 * np.log(us)).astype(int).tolist()
        _add_all(arm.service.setdefault(1, {}), Counter(buckets).items())
        self._times[digest == self.key[2]].append(us)
        return n - bad

    def lose(self, digest: str) -> None:
        """It held one request."""
        arm = self._arm(digest)
        arm.answered += 1
        arm.errors += 1

    def turn_to(self, now: float, rng: np.random.Generator) -> None:
        """Closes the window that is open, if its second is over."""
        second = math.floor(now - self._began_at + 1e-9)
        if second == self._second:
            return
        stable, target = (np.sort(np.concatenate([np.empty(0), *times])) for times in self._times)
        if min(len(stable), len(target)) >= LEAST_IN_WINDOW:
            _add_all(self.counts.windows, [(log_percent(_median(target) / _median(stable)), 1)])
            slow_us = float(target[-tail_rank(len(target))])
            _add_all(self.counts.tails.setdefault(1, {}), [(bucket(slow_us), 1)])
        self._second, self._times = second, ([], [])
        self._drift = 0.8 * self._drift + 0.1 * rng.normal()

    def _arm(self, digest: str) -> Arm:
        return self.counts.target if digest == self.key[2] else self.counts.stable

    def _service_us(self, n: int, behaviour: Behaviour, rng: np.random.Generator) -> NDArray[Any]:
        us = SERVICE_US * behaviour.slower * np.exp(self._drift + 0.12 * rng.standard_normal(n))
        us *= np.where(rng.random(n) < 0.03, rng.uniform(1, 4, n), 1.0)
        return us * np.where(rng.random(n) < behaviour.tail, 3.0, 1.0)


def _median(ordered: NDArray[Any]) -> float:
    """numpy's own takes five times as long for so few."""
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _add_all(histogram: dict[int, int], counts: Iterable[tuple[int, int]]) -> None:
    for key, count in counts:
        if count:
            histogram[key] = histogram.get(key, 0) + count
