"""Shell: hotpool and other servers change their model under four clients: who is turned away, how long nobody is answered, and
how long it takes until all are answered by the new model.

    python -m bench changes

Two int8 ResNet-18, two workers of one thread each, one picture, to which the two give different classes. hotpool rolls out, Ray
Serve and TorchServe are told to change, and Mosec, as an example of those that can't, is ended and started again.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from control.versions import list_versions
from hotpool.home import Home
from hotpool.states import Phase, Strategy

from .alone import MAX_BATCH, Alone
from .figures import Bar, Figure, Findings
from .load import Load, free_port, wait_for_answer
from .pool import add_versions, make_jpeg, roll_out, running_pool
from .rival_work import describe_version
from .servers import SERVERS, WORKERS, Server, started, url_of

CLIENTS, N_PICTURES = 4, 12
BEFORE_S, QUICK_BEFORE_S, AFTER_S, PATIENCE_S = 2.0, 0.5, 1.0, 60.0
WARM_UP_S = 1
LOST_S = 5.0  # without an answer, where one takes 20 ms: it will not come
PAUSE_S = 0.01  # after a request that failed: whoever is refused at once would do nothing but ask

CHANGING = [server.name for server in SERVERS if server.takes_over]
# And of those that have to be started again the one that serves quickest.
WATCHED = [server for server in SERVERS if server.takes_over or server.name == "Mosec"]

Changes = dict[str, "Change"]  # by who made it


@dataclass
class Seen:
    """What all clients got. answers: when, and which class. failures: when one was refused, cut off, or told of an error."""

    answers: list[tuple[float, int]] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Change:
    """taken_s: from the order until nobody is answered by the old model any more, but by the new one. silence_s: the longest
    time without any answer. rate: answers a second while it is made, as part of those before."""

    failed: int
    silence_s: float
    taken_s: float
    rate: float


def judge(seen: Seen, since: float, ordered: float, old: int) -> Change:
    """Pure. since: when all was at rest; there are answers before and after."""
    answers = sorted(seen.answers)
    last_old = max(at for at, index in answers if index == old)
    settled = min(at for at, _ in answers if at > last_old)
    times = [at for at, _ in answers]
    before = sum(since <= at < ordered for at in times) / (ordered - since)
    during = sum(ordered <= at < settled for at in times) / (settled - ordered)
    silence = max(later - earlier for earlier, later in pairwise(times) if later >= ordered)
    return Change(sum(at >= ordered for at in seen.failures), silence, settled - ordered, during / before)


def run(quick: bool = False) -> Findings:
    before_s = QUICK_BEFORE_S if quick else BEFORE_S
    present = [server for server in WATCHED if server.is_installed]
    with TemporaryDirectory(prefix="hp") as folder:
        home = Home(Path(folder) / "home")
        add_versions(home, "int8", 2)
        digests = [manifest.digest for manifest in sorted(list_versions(home), key=lambda manifest: manifest.name)]
        picture, classes = tell_apart(home, digests)
        loads = {True: Load.of_form(Path(folder), picture), False: Load.of_bytes(Path(folder), picture)}
        ours = _change_ours(home, loads[False], classes, before_s)
        works = [describe_version(home, digest) for digest in digests]
        theirs = {
            server.name: _change_theirs(server, loads[server.takes_form], works, classes, before_s)
            for server in present
        }
    missing = [server.name for server in WATCHED if server not in present]
    notes = (
        f"{CLIENTS} clients over HTTP; one that fails asks again after {PAUSE_S * 1e3:g} ms: a longer silence is more failures",
        "Mosec is ended and started again with the new model, as LitServe and BentoML have to be; Ray Serve is told to deploy "
        "it, and TorchServe to register it, to make it the default and to unregister the one before",
        "hotpool tries the new model beside the pool first and verifies it in each worker; the others take what they get",
        f"not installed: {', '.join(missing) or 'none'}",
    )
    return Findings(tuple(figures_of(ours, theirs)), notes)


def figures_of(ours: Changes, theirs: Changes) -> list[Figure]:
    figures = []
    for row, change in {**ours, **theirs}.items():
        figures += [
            Figure(
                row,
                "lost or failed",
                (change.failed,),
                bar=_bar(row, "requests lost or failed", 0) if row in ours else None,
            ),
            Figure(row, "longest silence", (change.silence_s * 1e3,), "ms"),
            Figure(row, "the change takes", (change.taken_s,), "s"),
            Figure(row, "rate meanwhile / before", (change.rate,)),
        ]
        for name in CHANGING if row in ours else ():
            ratio = (change.silence_s / theirs[name].silence_s,) if name in theirs else ()
            figures.append(Figure(row, f"silence / {name}'s", ratio, bar=_bar(row, f"longest silence / {name}'s", 1)))
    return figures


def _bar(row: str, what: str, limit: float) -> Bar:
    return Bar(f"change of the model by {row}, {CLIENTS} HTTP clients: {what}", "≤", limit)


def tell_apart(home: Home, digests: list[str]) -> tuple[bytes, tuple[int, int]]:
    """The picture of which both versions are surest, of those to which they give different classes; and these."""
    pictures = [make_jpeg(seed) for seed in range(N_PICTURES)]
    versions = [Alone(home, digest) for digest in digests]
    logits = np.array([[version.logits([picture])[0] for version in versions] for picture in pictures])
    classes, best = logits.argmax(axis=2), np.sort(logits, axis=2)
    margins = np.where(classes[:, 0] == classes[:, 1], 0.0, (best[:, :, -1] - best[:, :, -2]).min(axis=1))
    chosen = int(margins.argmax())
    if not margins[chosen]:
        raise RuntimeError(f"both versions give each of {N_PICTURES} pictures the same class; none tells them apart")
    return pictures[chosen], (int(classes[chosen, 0]), int(classes[chosen, 1]))


def _change_ours(home: Home, load: Load, classes: tuple[int, int], before_s: float) -> Changes:
    """To v2 by one strategy, and back to v1 by the other."""
    port, services, changes = free_port(), ("broker", "workers", "control", "gateway"), Changes()
    with running_pool(home, WORKERS, services, settings=f"[gateway]\nport = {port}"):
        url = wait_for_answer(f"http://127.0.0.1:{port}/predict", load)
        for version, strategy, (old, new) in (("v2", Strategy.DRAIN, classes), ("v1", Strategy.BESIDE, classes[::-1])):
            change = partial(_roll_out, home, version, strategy)
            changes[f"hotpool, {strategy}"] = watch(url, load, change, old, new, before_s)
    return changes


def _roll_out(home: Home, version: str, strategy: Strategy) -> None:
    if (phase := roll_out(home, version, strategy)) is not Phase.SUCCEEDED:
        raise RuntimeError(f"the rollout to {version} ended as {phase}")


def _change_theirs(server: Server, load: Load, works: list[str], classes: tuple[int, int], before_s: float) -> Change:
    port = free_port()
    with ExitStack() as stack:
        process = stack.enter_context(started(server, port, works[0], MAX_BATCH))
        url = wait_for_answer(url_of(server, port), load)

        def change() -> None:
            if server.takes_over:
                assert process.stdin
                process.stdin.write(works[1].encode() + b"\n")
                process.stdin.flush()
            else:
                stack.close()
                stack.enter_context(started(server, port, works[1], MAX_BATCH))

        return watch(url, load, change, *classes, before_s)


def watch(url: str, load: Load, change: Callable[[], object], old: int, new: int, before_s: float) -> Change:
    """Clients ask before, while and after the change is made.

    Raises RuntimeError: somebody was answered by neither model.
    """
    load.run(url, CLIENTS, WARM_UP_S)
    with asking(url, load) as seen:
        since = monotonic()
        sleep(before_s)
        ordered = monotonic()
        change()
        _wait_until_settled(seen, old)
    if odd := {index for _, index in seen.answers} - {old, new}:
        raise RuntimeError(f"{url}: neither model gives this picture class {odd}")
    return judge(seen, since, ordered, old)


def _wait_until_settled(seen: Seen, old: int) -> None:
    """The new model answers, and for a second now the old one did not."""
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        sleep(0.02)
        answers, lately = list(seen.answers), monotonic() - AFTER_S
        is_late = {index == old for at, index in answers if at > lately}
        if is_late == {False} and any(index != old for at, index in answers if at <= lately):
            return
    raise TimeoutError(f"the new model does not answer everybody within {PATIENCE_S:g} s")


@contextmanager
def asking(url: str, load: Load) -> Iterator[Seen]:
    """Clients that never stop asking, each over a connection that it keeps; what they get. Raises ValueError: an answer has no
    class."""
    seen, stopping = Seen(), threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(_ask, url, load, seen, stopping) for _ in range(CLIENTS)]
        try:
            yield seen
        finally:
            stopping.set()
        for client in clients:
            client.result()


def _ask(url: str, load: Load, seen: Seen, stopping: threading.Event) -> None:
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=LOST_S)
    while not stopping.is_set():
        try:
            connection.request("POST", parts.path, load.body, {"Content-Type": load.kind})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise HTTPException(f"status {response.status}")
        except (OSError, HTTPException):
            seen.failures.append(monotonic())
            connection.close()
            sleep(PAUSE_S)
        else:
            seen.answers.append((monotonic(), class_of(json.loads(body))))
    connection.close()


def class_of(answer: Any) -> int:
    """The most probable class, as each server's answer has it."""
    match answer:
        case {"predictions": [{"index": int(index)}, *_]}:  # hotpool
            return index
        case {"class": int(index)} | [int(index)] | int(index):  # LitServe and Ray Serve; BentoML with batches; Mosec
            return index
    raise ValueError(f"no class in {answer}")
