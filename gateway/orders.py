"""Pure: what the bodies of orders hold. The controller checks the values once more, and whether they fit the pool."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_REASON = 2000  # characters
MAX_QUERY = 500  # of a reason that stands in the request line

Reason = Annotated[str, Meta(max_length=MAX_REASON, description="why; kept in the journal")]
Name = Annotated[
    str, Meta(min_length=1, max_length=128, description="a version's name, digest, or the beginning of its digest")
]
# Not `\Z`, which the regular expressions of OpenAPI do not know.
NewName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$(?!\n)", description="how people call the version")
]
StrategyName = Literal["drain", "beside", "surge"]
Workers = Annotated[int, Meta(ge=1, le=1024)]
Share = Annotated[str, Meta(pattern=r"^[0-9]{1,3}%$(?!\n)")]


class Order(Struct, forbid_unknown_fields=True):
    """Base only."""

    reason: Reason = ""


class Login(Struct, forbid_unknown_fields=True):
    token: Annotated[str, Meta(max_length=512)]
    operator: Annotated[str, Meta(min_length=1, max_length=64, description="who gives orders in this session")]


class Start(Order, kw_only=True):
    """A rollout to a version. What is left out is as configured."""

    version: Name
    strategy: StrategyName | UnsetType = UNSET
    max_unavailable: Workers | Share | UnsetType = UNSET
    max_surge: Workers | Share | UnsetType = UNSET
    steps: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    canary_workers: Workers | UnsetType = UNSET
    bake_s: Annotated[float, Meta(ge=0, le=86_400)] | UnsetType = UNSET
    on_inconclusive: Literal["pause", "abort"] | UnsetType = UNSET
    force: Annotated[bool, Meta(description="although the stable version is not healthy")] = False
    dry_run: bool = False


class Undo(Order, kw_only=True):
    number: Annotated[int, Meta(ge=1, description="of the last rollout, as you know it")] | UnsetType = UNSET
    strategy: StrategyName | UnsetType = UNSET
    dry_run: bool = False


class Promote(Order, kw_only=True):
    full: Annotated[bool, Meta(description="leave all steps that are left, not only this one")] = False
    step: Annotated[str, Meta(max_length=200, description="the step that is meant")] | UnsetType = UNSET


class NewVersion(Order, kw_only=True):
    """What is told of a file with weights. Without arch and precision they are resnet18 and fp32."""

    name: NewName | UnsetType = UNSET
    arch: Annotated[str, Meta(max_length=128)] | UnsetType = UNSET
    precision: Literal["fp32", "int8", "auto"] | UnsetType = UNSET


class Fields(NewVersion, kw_only=True):
    """Of the form that a file is uploaded with."""

    labels: Annotated[str, Meta(description="one a line")] | UnsetType = UNSET


class Update(NewVersion, kw_only=True):
    """Either `version`, or `model_path` and what is told of that file; without a name it is the file's, without its ending."""

    version: Name | UnsetType = UNSET
    model_path: Annotated[str, Meta(min_length=1, max_length=2000)] | UnsetType = UNSET
