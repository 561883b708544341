"""Pure: which versions of a model may serve, and whose word counts.

The controller's table is the rule. A broker that was just started has none: until the controller speaks it takes the workers at
their word, since each has verified what it holds and none starts by itself on anything but the stable version.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hotpool.errors import StaleEpoch, UnknownModel, UnknownVersion
from hotpool.messages import ModelReport, SetVersions


@dataclass(frozen=True, slots=True)
class Admitted:
    """The versions of one model that may serve now."""

    epoch: int
    stable: str
    target: str | None
    names: dict[str, str]

    def served(self) -> list[str]:
        """Aliases, the stable version first."""
        alias = {digest: name for name, digest in self.names.items()}
        return [alias.get(digest, digest[:12]) for digest in (self.stable, self.target) if digest]


class Routing:
    """Requests to versions; later also by weight."""

    def __init__(self, default_model: str) -> None:
        self._default_model = default_model
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
        self._admitted[order.model] = Admitted(order.epoch, order.stable, order.target, dict(order.names))

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

    def report(self) -> tuple[ModelReport, ...]:
        return tuple(
            ModelReport(model, admitted.epoch, admitted.stable, admitted.target, admitted.names)
            for model, admitted in sorted(self._admitted.items())
        )
