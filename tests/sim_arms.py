"""The oracle of `sim` for requests that are split between stable and target, and for their copies. It knows the policy that the
operator gave last and computes each request's point by itself."""

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from broker.core import SWEEP_S
from hotpool import messages as m
from hotpool.states import WorkerState

if TYPE_CHECKING:
    from .sim import World


WAIT_FOR_STABLE_S = 1.0  # how long a new broker that nobody has told anything keeps others than stable from answering


def own_point(key: bytes, salt: int) -> float:
    return int.from_bytes(blake2b(key, digest_size=8, salt=salt.to_bytes(16, "big")).digest(), "big") / 2**64 * 100


class Judge:
    """seen: how often each thing that the claims are about has happened."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.requests: dict[int, m.Request] = {}
        self.holders: dict[int, set[tuple[str, str]]] = {}  # who was asked for an answer: worker and version
        self.originals: dict[int, int] = {}  # job -> request, of this boot
        self.seen: Counter[str] = Counter()

    def asked(self, number: int, request: m.Request) -> m.Request:
        """The request as the client sends it: some callers have a route key."""
        rng = self.world.rng
        if rng.random() < 0.5:
            request = msgspec.structs.replace(request, route=b"caller-%d" % rng.randrange(20))
        self.requests[number] = request
        return request

    @property
    def policy(self) -> m.Policy | None:
        """In force: a broker that was just started has heard of none."""
        world = self.world
        return world.policy if world.target and world.core.routing.report() else None

    def belongs_to_target(self, request: m.Request, policy: m.Policy) -> bool:
        return own_point(request.route or request.id, policy.salt) < policy.share

    def expected(self, request: m.Request, policy: m.Policy) -> str:
        """The version that may answer a request without one."""
        target, stable = self.world.target, self.world.stable
        ready = any(w.version == target and w.state is WorkerState.READY for w in self.world.core.roster)
        return target if target and ready and self.belongs_to_target(request, policy) else stable

    def leased(self, worker: Any, lease: Any, number: int) -> None:
        policy, request = self.policy, self.requests[number]
        if lease.pending is None:
            self.copied(worker, number, policy)
            return
        self.originals[lease.job] = number
        self.holders.setdefault(number, set()).add((worker.name, worker.version))
        if policy is None or request.version is not None:
            self.seen_untold(worker, request)
            return
        is_target = worker.version == self.world.target
        belongs = self.belongs_to_target(request, policy)
        self.seen["split"] += 1
        self.seen["outside the share"] += not belongs
        self.seen["to the target"] += is_target
        self.seen["to the target, of a share below 100"] += is_target and policy.share < 100
        self.seen["fell back to stable"] += belongs and not is_target
        if worker.version != self.expected(request, policy):
            self.problem(f"request {number} went to {worker.version} by {policy}")

    def seen_untold(self, worker: Any, request: m.Request) -> None:
        """By a broker that was just started. `World.admitted` has judged it."""
        if request.version is None and not self.world.core.routing.report():
            self.seen["untold"] += 1
            held = {w.version for w in self.world.core.roster if w.state is WorkerState.READY}
            self.seen["untold, while others are ready too"] += bool(held - {self.world.stable})
            self.seen["untold, and stable is missing"] += worker.version != self.world.stable

    def copied(self, worker: Any, number: int, policy: m.Policy | None) -> None:
        self.seen["copies"] += 1
        world, request = self.world, self.requests[number]
        if policy is None or not policy.shadow or request.version is not None or worker.version != world.target:
            self.problem(f"request {number} was copied to {worker.version} by {policy}")
            return
        pending = world.core.dispatch._pending.get(request.id)
        if pending is None or pending.lease is None or pending.lease.version != world.stable:
            self.problem(f"request {number} was copied, and stable does not compute it")
        for other in world.core.dispatch._waiting:
            asked = self.requests[int.from_bytes(other.id[8:], "big")]
            wanted = asked.version or self.expected(asked, policy)
            if worker.version == wanted or worker.digest == wanted:
                self.problem(f"a copy of request {number} went before a request that waits")

    def owed(self, message: Any) -> int | None:
        """The request whose caller must get an answer when the broker has read this message."""
        if not isinstance(message, m.Done) or (number := self.originals.get(message.job)) is None:
            return None
        pending = self.world.core.dispatch._pending.get(self.requests[number].id)
        return number if pending and pending.lease and pending.lease.job == message.job else None

    def answered(self, number: int, reply: m.Reply) -> None:
        self.seen["answers"] += 1
        if (reply.worker, reply.version) not in self.holders[number]:
            self.problem(f"request {number} was answered by {reply.worker} {reply.version}, which was not asked")

    def waiting(self) -> None:
        """Nobody waits while a worker that may answer is free."""
        world, policy = self.world, self.policy
        if not world.core.dispatch.queued:
            return
        free = {worker.version for worker in world.core.roster if worker.is_free}
        for pending in world.core.dispatch._waiting:
            request = self.requests[int.from_bytes(pending.id[8:], "big")]
            admitted = world.admitted(pending, WAIT_FOR_STABLE_S + 2 * SWEEP_S)
            wanted = {self.expected(request, policy)} if policy else admitted
            if request.version is None and wanted & free:
                self.problem(f"request waits for {pending.goes_to} while a worker of {wanted} is free")

    def problem(self, text: str) -> None:
        self.world.problems.append(text)
