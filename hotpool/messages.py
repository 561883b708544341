"""Pure: one struct per message. `wire.py` turns them into frames and back.

Each struct travels as a msgpack array: its tag, then its fields in order. Fields are only ever appended; a reader ignores a
tail that it does not know. Durations on the wire are microseconds (`_us`); there is no wall clock in any message.
A field of type `Raw` passes through the broker undecoded.
"""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from .evidence import Count, Counts
from .states import WorkerState

PROTOCOL = 1
SILENT_HEARTBEATS = 4  # then a session is lost: one late frame is no death, a second of silence is

# Limits are generous against real use and small against memory: a header is at most 64 KiB (wire.py) whatever they say.
RequestId = Annotated[bytes, Meta(min_length=16, max_length=16)]  # 8 random bytes of the client, 8 of a counter
MAX_NAME, MAX_TEXT = 128, 2000  # characters
MAX_CLASSES = 100_000
MAX_SPARES = 1024
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Token = Annotated[str, Meta(max_length=128)]


class Message(Struct, array_like=True, frozen=True, gc=False):
    """Base only."""


# ---- what work is: decoded by clients and workers, never by the broker


class Work(Struct, array_like=True, frozen=True, gc=False):
    """What to do with a request's payload.

    kind: `picture` (bytes of an image file), `pixels` (uint8, (h, w, 3)) or `tensor` (little-endian float32, (n, 3, h, w)).
    shape: of the payload for `pixels` and `tensor`. top: how many classes the reply lists. logits: whether the reply to a
    `picture` or `pixels` also has the logits; the reply to a `tensor` always has.
    """

    kind: Annotated[str, Meta(max_length=16)]
    top: Annotated[int, Meta(ge=1, le=MAX_CLASSES)] = 3
    shape: tuple[int, ...] = ()
    logits: bool = False


class Result(Struct, array_like=True, frozen=True, gc=False):
    """classes: (index, label, probability), most probable first, for `picture` and `pixels`; shape: of the little-endian
    float32 logits in the reply's payload, if they were asked for."""

    classes: tuple[tuple[int, str, float], ...] = ()
    shape: tuple[int, ...] = ()


# ---- client -> broker


class ClientHello(Message, tag=1, frozen=True):
    protocol: Count
    client: Annotated[bytes, Meta(min_length=8, max_length=8)]


class Request(Message, tag=2, frozen=True):
    """Followed by one payload frame. budget_us: what is left of the deadline. resend: how often it was sent before.
    route: requests with the same one go to the same version while a policy holds; empty: each by its id.
    worker: makes it a probe: for this worker alone, while it serves `version`, a digest, and after all other requests."""

    id: RequestId
    model: Name | None
    version: Name | None
    priority: Annotated[int, Meta(ge=0, le=2)]
    budget_us: Count
    work: Raw
    resend: Count = 0
    route: Annotated[bytes, Meta(max_length=64)] = b""
    worker: Name | None = None


class Cancel(Message, tag=3, frozen=True):
    id: RequestId


class Ping(Message, tag=4, frozen=True):
    pass


# ---- broker -> client (Welcome, Pong and Who also to workers)


class Welcome(Message, tag=16, frozen=True):
    """boot: of this broker process. A session is dead after 4 heartbeats of silence."""

    protocol: Count
    boot: Count
    heartbeat_us: Count
    max_bytes: Count


class Reply(Message, tag=17, frozen=True):
    """Followed by one payload frame when the result has a shape."""

    id: RequestId
    model: Name
    version: Name
    digest: Name
    worker: Name
    attempt: Count
    queue_us: Count
    service_us: Count
    result: Raw


class ErrorReply(Message, tag=18, frozen=True):
    """version, digest, worker: of the worker that refused, when one did."""

    id: RequestId
    code: Name
    message: Text
    executed: Name
    retry_after_us: Count | None = None
    version: Text = ""
    digest: Text = ""
    worker: Text = ""


class Pong(Message, tag=19, frozen=True):
    boot: Count


class Who(Message, tag=20, frozen=True):
    """The broker does not know this connection: say hello again."""


# ---- worker -> broker


class WorkerHello(Message, tag=32, frozen=True):
    """A worker process with verified weights reports for duty. epoch: highest controller epoch it has obeyed. token and
    load_reason: how its last ordered load ended, for a broker that was not there to hear it. loading: the token of a load
    that is under way, or that has ended and waits for `Serve`. pulse_thread: the system's id of the thread that its heartbeats
    come from and that lives as long as the process; 0: not told."""

    protocol: Count
    worker: Name
    incarnation: Count
    pid: Count
    model: Name
    version: Name
    digest: Name
    epoch: Count
    cores: tuple[int, ...]
    threads: Count
    token: Token = ""
    load_reason: Text = ""
    loading: Token = ""
    pulse_thread: Count = 0


class Done(Message, tag=33, frozen=True):
    """Followed by one payload frame when the result has a shape. job: as in `Job`. top1, confidence: the most probable
    class and its probability, of one row; -1 and 0 for a tensor of more. batch: rows computed together, those of this
    job included. cpu_us: processor time these took; another process on the worker's core makes service_us longer, not
    this."""

    job: Count
    service_us: Count
    result: Raw
    top1: Annotated[int, Meta(ge=-1, le=MAX_CLASSES)] = -1
    confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    batch: Count = 1
    cpu_us: Count = 0


class Failed(Message, tag=34, frozen=True):
    job: Count
    service_us: Count
    code: Name
    message: Text
    executed: Name


class LoadState(Message, tag=35, frozen=True):
    """How a load ordered under `token` goes: state is loading or verifying."""

    token: Token
    state: Name


class LoadEnded(Message, tag=36, frozen=True):
    """reason: empty when it succeeded. Then version and digest are of the tensors that the worker holds beside those it serves,
    until `Serve` says which to keep; else of those it serves."""

    token: Token
    version: Name
    digest: Name
    load_us: Count
    verify_us: Count
    reason: Text = ""


class Pulse(Message, tag=37, frozen=True):
    """A worker's heartbeat, from a thread and a connection of its own, so that a long computation does not silence it."""

    worker: Name
    incarnation: Count
    rss_bytes: Count
    private_bytes: Count


class Leaving(Message, tag=38, frozen=True):
    """The worker process was asked to stop; it exits when the broker answers `Released`."""


class Seat(Struct, array_like=True, frozen=True, gc=False):
    """What the supervisor knows of one worker. restarts: by cause (exit, killed, hung, ...). note: why it is down."""

    worker: Name
    incarnation: Count
    pid: Count
    restarts: dict[str, int]
    note: Text = ""


class Seats(Message, tag=39, frozen=True):
    """From the supervisor: on every change and every heartbeat."""

    model: Name
    seats: tuple[Seat, ...]


# ---- broker -> worker or supervisor


class Job(Message, tag=48, frozen=True):
    """One lease. Followed by the request's payload frame. behind: so many jobs that were leased with it come
    next; if the broker dies meanwhile, they never come."""

    job: Count
    budget_us: Count
    work: Raw
    behind: Count = 0


class Load(Message, tag=49, frozen=True):
    """Load this version beside the present one and verify it; what is served stays. beside: requests are served meanwhile, and
    go first; without it the worker is drained."""

    token: Token
    digest: Name
    epoch: Count
    beside: bool = False


class Released(Message, tag=50, frozen=True):
    """Answers `Leaving`: no lease is open, none will come."""


class Kill(Message, tag=51, frozen=True):
    """To the supervisor: end the process of this worker. cause: hung, silent, or wrong (what it answered)."""

    worker: Name
    incarnation: Count
    cause: Name


class Serve(Message, tag=52, frozen=True):
    """Answers a `LoadEnded` that succeeded: jobs after this one are for the version with this digest, the new or the old one,
    and jobs before it were for the old one. The worker lets go of the other."""

    token: Token
    digest: Name


class Spares(Message, tag=53, frozen=True):
    """To the supervisor: so many seats beside the ordinary ones. Those that are too many are emptied and removed."""

    n: Annotated[int, Meta(ge=0, le=MAX_SPARES)]


# ---- admin (controller, CLI) -> broker


class GetReport(Message, tag=64, frozen=True):
    seq: Count


class Watch(Message, tag=65, frozen=True):
    """From now on send `Changed` for every change of a worker's state."""

    seq: Count


class Policy(Struct, array_like=True, frozen=True, gc=False):
    """How requests that name no version are split between stable and target. number: names one run of evidence; a new
    one empties all counts. salt: the same throughout a rollout, so that a growing share only adds callers. share: what
    the target gets of the requests; shadow: how many of those that stable gets are copied to the target; both in
    percent."""

    number: Count
    salt: Count
    share: Percent
    shadow: Percent


class SetVersions(Message, tag=66, frozen=True):
    """Which versions of a model may serve. target: only while a rollout moves to it. names: alias -> digest. policy:
    None lets any of them answer; without a target it only counts."""

    seq: Count
    epoch: Count
    model: Name
    stable: Name
    target: Name | None
    names: dict[str, str]
    policy: Policy | None = None


class Drain(Message, tag=67, frozen=True):
    """floor: refused when fewer than this many workers of the model would stay ready. The controller decides on a report that
    may be milliseconds old; only the broker knows at the moment of draining."""

    seq: Count
    epoch: Count
    worker: Name
    floor: Count = 1


class Undrain(Message, tag=68, frozen=True):
    seq: Count
    epoch: Count
    worker: Name


class LoadVersion(Message, tag=69, frozen=True):
    """token: names this attempt; the worker's report carries it back. beside: to a ready worker, which stays ready; the version
    must be one that may serve. Without it: to a drained worker."""

    seq: Count
    epoch: Count
    worker: Name
    digest: Name
    token: Token
    beside: bool = False


class GetEvidence(Message, tag=70, frozen=True):
    """Answered with `Evidence`, or with `Ack` when no such model is served."""

    seq: Count
    model: Name


class Restart(Message, tag=71, frozen=True):
    """End the process of a drained worker, if it is still this one, so that another takes its seat."""

    seq: Count
    epoch: Count
    worker: Name
    incarnation: Count


class SetSpares(Message, tag=72, frozen=True):
    """As `Spares`, for the supervisor of this model. Nobody remembers it: what is missing is ordered again."""

    seq: Count
    epoch: Count
    model: Name
    n: Annotated[int, Meta(ge=0, le=MAX_SPARES)]


# ---- broker -> admin


class Ack(Message, tag=80, frozen=True):
    """code is empty when the command was accepted."""

    seq: Count
    code: Text = ""
    message: Text = ""


class WorkerReport(Struct, frozen=True):
    """One worker in a `Report`. token, load_reason: of its last load; load_reason is empty when it succeeded. beside: what it
    does beside its state, `loading` or `verifying`; empty when its state says it all."""

    worker: str
    state: WorkerState
    model: str
    version: str = ""
    digest: str = ""
    incarnation: int = 0
    pid: int = 0
    cores: tuple[int, ...] = ()
    threads: int = 0
    in_flight: int = 0
    served: int = 0
    rss_bytes: int = 0
    private_bytes: int = 0
    restarts: dict[str, int] = {}
    token: str = ""
    load_reason: str = ""
    load_s: float = 0.0
    verify_s: float = 0.0
    note: str = ""
    beside: str = ""


class QueueReport(Struct, frozen=True):
    requests: int
    requests_max: int
    bytes: int
    bytes_max: int


class ModelReport(Struct, frozen=True):
    """As the controller set it last; empty until then."""

    model: str
    epoch: int
    stable: str
    target: str | None
    names: dict[str, str]
    policy: Policy | None = None


class Sample(Struct, frozen=True):
    """One counter or gauge value, or with buckets one histogram: (upper bound, cumulative count), the last bound infinite."""

    labels: dict[str, str]
    value: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()


class Family(Struct, frozen=True):
    """All samples of one metric. kind: counter, gauge or histogram; a histogram's value is the sum."""

    name: str
    help: str
    kind: str
    samples: tuple[Sample, ...]


class Report(Message, tag=81, frozen=True):
    """The whole state of the broker at one instant."""

    seq: Count
    boot: Count
    uptime_s: float
    epoch: Count
    workers: tuple[WorkerReport, ...]
    queue: QueueReport
    models: tuple[ModelReport, ...]
    metrics: tuple[Family, ...]


class Changed(Message, tag=82, frozen=True):
    """A worker changed its state, or with before = after what it does beside it. at_us: since this broker started; ready: ready
    workers of its model after the change."""

    at_us: Count
    worker: Name
    before: Name
    after: Name
    cause: Text
    version: Text
    ready: Count


class Evidence(Message, tag=83, frozen=True):
    """What was counted of both arms since this policy began. boot: of the broker that counted; another one began at
    zero."""

    seq: Count
    boot: Count
    counts: Counts


# ---- anybody -> controller, and back


class Ask(Message, tag=96, frozen=True):
    """arguments: a map by name, decoded for the verb that it is for."""

    seq: Count
    verb: Text
    arguments: Raw


class Answer(Message, tag=112, frozen=True):
    """code is empty when it was done; result: plain values, nil after an error."""

    seq: Count
    result: Raw
    code: Text = ""
    message: str = ""


FromClient = ClientHello | Request | Cancel | Ping
ToClient = Welcome | Reply | ErrorReply | Pong | Who
FromWorker = WorkerHello | Done | Failed | LoadState | LoadEnded | Pulse | Leaving | Seats | Ping
ToWorker = Welcome | Job | Load | Serve | Released | Kill | Spares | Pong | Who
FromAdmin = GetReport | Watch | SetVersions | Drain | Undrain | LoadVersion | GetEvidence | Restart | SetSpares
ToAdmin = Ack | Report | Changed | Evidence
ToControl = Ask
FromControl = Answer
