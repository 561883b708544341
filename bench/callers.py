"""Shell: callers in threads that never stop asking, and one history of what they got."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

from hotpool import Client, HotpoolError, Prediction

PATIENCE_S = 30.0  # three times the deadline of a call


@dataclass
class History:
    """wrong: what `check` found in answers. longest_gap_s: without an answer to anybody. retried: after a lost worker."""

    sent: int = 0
    answered: int = 0
    errors: list[HotpoolError] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    by_version: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    last_answer_at: float = 0.0

    @property
    def lost(self) -> int:
        return self.sent - self.answered - len(self.errors)


class Callers:
    """ask(n) makes the picture of request n and what to remember of now; check(n, remembered, prediction) says what is wrong,
    or nothing. Use as a context manager."""

    def __init__(
        self,
        client: Client,
        n_threads: int,
        ask: Callable[[int], tuple[Any, Any]],
        check: Callable[[int, Any, Prediction], str | None],
    ) -> None:
        self._client, self._ask, self._check = client, ask, check
        self._numbers, self._lock, self._stop = count(), threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(n_threads)]
        self.history = History(last_answer_at=monotonic())

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)  # whoever still waits then counts as lost: sent, neither answered nor failed

    def wait_for(self, n_answers: int) -> None:
        """Returns when so many more requests have been answered, or one has failed."""
        goal = self.history.answered + n_answers
        while self.history.answered < goal and not self.history.errors and any(t.is_alive() for t in self._threads):
            self._stop.wait(0.02)

    def _run(self) -> None:
        history = self.history
        while not self._stop.is_set():
            with self._lock:
                n = next(self._numbers)
                history.sent += 1
                image, remembered = self._ask(n)
            begin = monotonic()
            try:
                prediction = self._client.classify(image)
            except HotpoolError as error:
                with self._lock:
                    history.errors.append(error)
                continue
            with self._lock:
                self._count(prediction, begin, monotonic())
                if (problem := self._check(n, remembered, prediction)) is not None:
                    history.wrong.append(f"request {n}: {problem}")

    def _count(self, prediction: Prediction, begin: float, now: float) -> None:
        history = self.history
        history.answered += 1
        history.by_version[prediction.version] += 1
        history.retried += prediction.attempt > 1
        history.slowest_s = max(history.slowest_s, now - begin)
        history.longest_gap_s = max(history.longest_gap_s, now - history.last_answer_at)
        history.last_answer_at = now
