"""Pure: every error hotpool raises on purpose, with its code on the wire.

`code` is stable and travels; `retryable` says whether the same call may succeed later; `executed` whether the work was done.
"""

from typing import ClassVar

from .states import Executed


class HotpoolError(Exception):
    """Anything hotpool raises on purpose. Anything else that escapes is a bug."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    version = digest = worker = ""  # of the worker that refused a request, when one did

    def __init__(
        self,
        message: str,
        *,
        executed: Executed = Executed.NO,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.executed = executed
        self.retry_after_s = retry_after_s


class RequestError(HotpoolError):
    """Base only. The request is at fault; another worker would refuse it too."""


class BadInput(RequestError):
    """The image or array can't be used as it is: wrong type, shape or value."""

    code = "bad_input"


class BadImage(BadInput):
    """The bytes are not a picture that can be decoded within the limits."""

    code = "bad_image"


class TooLarge(BadInput):
    """More bytes than the pool accepts for one request (`max_bytes`)."""

    code = "too_large"


class UnknownModel(RequestError):
    """No such model is served here."""

    code = "unknown_model"


class UnknownVersion(RequestError):
    """The version does not exist or is not served now."""

    code = "unknown_version"


class PoisonRequest(RequestError):
    """This request ended two worker processes; it is never tried again."""

    code = "poison_request"


class CapacityError(HotpoolError):
    """Base only. The pool is at fault for now; the same call may succeed later."""

    retryable = True


class QueueFull(CapacityError):
    """The broker's queue is full; try again after `retry_after_s`."""

    code = "queue_full"


class DeadlineExceeded(CapacityError):
    """No answer within `timeout_s`."""

    code = "deadline_exceeded"


class NoReadyWorker(DeadlineExceeded):
    """No worker of the model became ready within `timeout_s`."""

    code = "no_ready_worker"


class BrokerUnreachable(CapacityError):
    """No broker answered at the address within `timeout_s`."""

    code = "broker_unreachable"


class ControllerUnreachable(CapacityError):
    """No controller answered at the address within `timeout_s`; an order may or may not have been written down."""

    code = "controller_unreachable"


class WorkerLost(CapacityError):
    """Each worker that held the request was lost before it answered (at most 3 attempts)."""

    code = "worker_lost"


class ModelError(HotpoolError):
    """The model itself failed on this input."""

    code = "model_error"


class OperatorError(HotpoolError):
    """Base only. A command of an operator can't be carried out as given."""


class ConfigError(OperatorError):
    """The configuration file is wrong; the message names file, key, value and what is allowed."""

    code = "bad_config"


class BadVersion(OperatorError):
    """A version's files are not what they should be; the message names the tensor or field."""

    code = "bad_version"


class BadLabels(OperatorError):
    """A folder of labelled pictures can't be used; the message names the folder or file and what to do."""

    code = "bad_labels"


class Conflict(OperatorError):
    """Something else is under way or has the name already, or the pool is in no state for it."""

    code = "conflict"


class NothingToDo(OperatorError):
    """There is nothing the command applies to."""

    code = "nothing_to_do"


class BadRollout(OperatorError):
    """A rollout with these settings would not keep its promises in this pool."""

    code = "bad_rollout"


class JournalCorrupt(OperatorError):
    """The journal can't be trusted; the message names the row. Nothing is changed until it can."""

    code = "journal_corrupt"


class Unwritable(OperatorError):
    """The disk is full, read-only or failing; the message names file and disk. What can't be written down is not done."""

    code = "unwritable"
    retryable = True


class StaleEpoch(OperatorError):
    """The command comes from a controller that has been replaced."""

    code = "stale_epoch"


class ProtocolError(HotpoolError):
    """Base only. Local: we tried to send something illegal. Remote: the peer did."""


class LocalProtocolError(ProtocolError):
    """A call that is not allowed in this state, such as using a closed client."""

    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    """A peer sent bytes that are not a message of this protocol."""

    code = "remote_protocol"


def _leaves(cls: type[HotpoolError]) -> list[type[HotpoolError]]:
    own = [cls] if "code" in vars(cls) else []
    return own + [leaf for sub in cls.__subclasses__() for leaf in _leaves(sub)]


BY_CODE: dict[str, type[HotpoolError]] = {cls.code: cls for cls in _leaves(HotpoolError)}


def error_from(code: str, message: str, executed: Executed, retry_after_s: float | None) -> HotpoolError:
    """The error a peer reported, as an exception. An unknown code becomes a plain `HotpoolError`."""
    return BY_CODE.get(code, HotpoolError)(message, executed=executed, retry_after_s=retry_after_s)
