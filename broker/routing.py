"""Pure: which versions of a model may serve, and whose word counts.

The controller's table is the rule. A broker that was just started has none. Until the controller speaks any worker may answer
for the version it holds, which it has verified; for requests that name none there is the pointer to the stable version.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from hotpool.errors import StaleEpoch, UnknownModel, UnknownVersion
from hotpool.messages import ModelReport, Policy, SetVersions


def point(key: bytes, salt: int) -> float:
    """Where in [0, 100) a key lies, the same in every broker. Another salt shuffles all keys anew."""
    digest = blake2b(key, digest_size=8, salt=salt.to_bytes(16, "big")).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53 * 100  # 53 bits fit a float: none is rounded up to 100


@dataclass(frozen=True, slots=True)
class Admitted:
    """The versions of one model that may serve now."""

    epoch: int
    stable: str
    target: str | None
    names: dict[str, str]
    policy: Policy | None = None

    def served(self) -> list[str]:
        """Aliases, the stable version first."""
        return [self.alias(digest) for digest in (self.stable, self.target) if digest]

    def alias(self, digest: str) -> str:
        """What people call a version."""
        return next((name for name, named in self.names.items() if named == digest), digest[:12])


class Routing:
    """The controller's table, by model. stable: by model, see `Settings`."""

    def __init__(self, default_model: str, stable: dict[str, str]) -> None:
        self._default_model, self._stable = default_model, stable
        self._admitted: dict[str, Admitted] = {}
        self.epoch = 0

    def fence(self, epoch: int) -> None:
        """Raises StaleEpoch for a controller that has been replaced."""
        if epoch < self.epoch:
            raise StaleEpoch(f"epoch {epoch} is over, a newer controller leads with epoch {self.epoch}")
        self.epoch = epoch

    def hear_of(self, epoch: int) -> None:
        """A worker has obeyed this epoch: how a broker that was just started learns who leads. The controller's own word ends
        that: a worker must not be able to lock it out."""
        if not self._admitted:
            self.epoch = max(self.epoch, epoch)

    def set_versions(self, order: SetVersions) -> None:
        self._admitted[order.model] = Admitted(order.epoch, order.stable, order.target, dict(order.names), order.policy)

    def admits(self, model: str, digest: str) -> bool:
        admitted = self._admitted.get(model)
        return admitted is None or digest in (admitted.stable, admitted.target)

    def model_of(self, model: str | None, served: Iterable[str]) -> str:
        """The model a request means. Raises UnknownModel."""
        if model is None or model == self._default_model:
            return self._default_model
        known = {self._default_model, *self._admitted, *served}
        if model not in known:
            raise UnknownModel(f"no model {model!r} is served here; served are {', '.join(sorted(known))}")
        return model

    def check_version(self, model: str, version: str | None) -> None:
        """Raises UnknownVersion when the table is known and no worker may ever answer for this version."""
        admitted = self._admitted.get(model)
        if version is None or admitted is None:
            return
        digest = admitted.names.get(version, version)
        if digest not in (admitted.stable, admitted.target):
            served = ", ".join(admitted.served())
            raise UnknownVersion(f"version {version!r} of {model!r} is not served now; served: {served}")

    def untold(self) -> dict[str, str]:
        """The stable version by model, where the controller has not spoken yet."""
        return {model: digest for model, digest in self._stable.items() if model not in self._admitted}

    def policies(self) -> Iterator[tuple[str, Policy, str, str]]:
        """Model, policy, stable and target, where a policy holds. Without a target, after a rollout, what is judged is the one
        version that serves."""
        for model, admitted in self._admitted.items():
            if admitted.policy is not None:
                yield model, admitted.policy, admitted.stable, admitted.target or admitted.stable

    def alias(self, model: str, digest: str) -> str:
        """What people call this version of a model that is in the table."""
        return self._admitted[model].alias(digest)

    def report(self) -> tuple[ModelReport, ...]:
        return tuple(
            ModelReport(model, admitted.epoch, admitted.stable, admitted.target, admitted.names, admitted.policy)
            for model, admitted in sorted(self._admitted.items())
        )
