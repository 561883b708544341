"""Pure: an error as HTTP answers it: status, headers, and the body `{"error": ..., "code": ...}`, the same everywhere."""

from collections.abc import Mapping
from math import ceil

import msgspec

from hotpool.errors import BadInput, CapacityError, ControllerUnreachable, HotpoolError, RequestError
from hotpool.states import Executed

Headers = list[tuple[bytes, bytes]]


class BadRequest(RequestError):
    """What was sent is not what this route takes; the message says what it takes."""

    code = "bad_request"


class Unusable(BadInput):
    """A worker could not use the input. Well formed it was, so it is not `BadRequest`."""


class UnsupportedType(RequestError):
    """The body's Content-Type is none that this route reads."""

    code = "unsupported_type"


class NotFound(RequestError):
    """Nothing lies under this path."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """The path knows other methods."""

    code = "method_not_allowed"


class Unauthorized(RequestError):
    """The token is missing or wrong."""

    code = "unauthorized"


class Forbidden(RequestError):
    """The request may come from another site than ours."""

    code = "forbidden"


class HeaderTooLarge(RequestError):
    """More bytes of header than any request needs."""

    code = "header_too_large"


class TooSlow(RequestError):
    """The request did not arrive in the time that is allowed for it."""

    code = "too_slow"


class TooManyAttempts(CapacityError):
    """So many wrong tokens at once that this one was not even slowed down."""

    code = "too_many_attempts"


class TooManyConnections(CapacityError):
    """As many as are allowed are open, and none of them is idle."""

    code = "too_many_connections"


class TooMuchHeld(CapacityError):
    """The bodies of all requests under way take as much memory as they may (`queue_max_bytes`)."""

    code = "too_much_held"


class NoRoom(HotpoolError):
    """The disk can't take what was sent."""

    code = "no_room"


STATUS: Mapping[str, int] = {
    "bad_input": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_version": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "conflict": 409,
    "nothing_to_do": 409,
    "too_large": 413,
    "unsupported_type": 415,
    "bad_config": 422,
    "bad_image": 422,
    "bad_labels": 422,
    "bad_rollout": 422,
    "bad_version": 422,
    "poison_request": 422,
    "queue_full": 429,
    "too_many_attempts": 429,
    "too_much_held": 429,
    "header_too_large": 431,
    "internal": 500,
    "journal_corrupt": 500,
    "local_protocol": 500,
    "model_error": 500,
    "remote_protocol": 500,
    "broker_unreachable": 503,
    "controller_unreachable": 503,
    "no_ready_worker": 503,
    "stale_epoch": 503,
    "too_many_connections": 503,
    "worker_lost": 503,
    "deadline_exceeded": 504,
    "no_room": 507,
    "unwritable": 507,
}
RETRY_LATER = (429, 503)


def status_of(error: HotpoolError) -> int:
    return 422 if isinstance(error, Unusable) else STATUS.get(error.code, 500)


def headers_of(error: HotpoolError) -> Headers:
    """What goes with the status, but for the body's own headers."""
    status = status_of(error)
    is_in_doubt = isinstance(error, ControllerUnreachable) and error.executed is Executed.MAYBE
    if status in RETRY_LATER and not is_in_doubt:  # who obeys might order the same twice; to ask twice does no harm
        # in whole seconds: HTTP knows no shorter ones
        return [(b"retry-after", b"%d" % max(1, ceil(error.retry_after_s or 0)))]
    if status == 401:
        return [(b"www-authenticate", b"Bearer")]
    return []


def body_of(error: HotpoolError) -> bytes:
    return msgspec.json.encode({"error": str(error), "code": error.code})
