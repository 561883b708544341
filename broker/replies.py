"""Pure: errors as they travel to who asked."""

from hotpool.errors import HotpoolError
from hotpool.messages import MAX_TEXT, ErrorReply

from .actions import Payload


def error_reply(request_id: bytes, error: HotpoolError) -> ErrorReply:
    retry_after_us = None if error.retry_after_s is None else int(error.retry_after_s * 1e6)
    return ErrorReply(request_id, error.code, str(error)[:MAX_TEXT], error.executed.value, retry_after_us)


def payload_problem(payload: Payload | None, max_bytes: int) -> str:
    if payload is None:
        return "the request came without its payload"
    return f"the payload has {len(payload)} bytes, at most {max_bytes} are allowed"
