"""gateway/failures.py: every error that hotpool knows has a status of its own, and nobody is asked to repeat an order."""

import json

import pytest

from gateway.failures import STATUS, TooManyConnections, Unusable, body_of, headers_of, status_of
from hotpool.errors import (
    BY_CODE,
    ControllerUnreachable,
    HotpoolError,
    NoReadyWorker,
    QueueFull,
    Unwritable,
    WorkerLost,
)
from hotpool.states import Executed


def all_errors(kind: type[HotpoolError] = HotpoolError) -> set[str]:
    """The codes of all errors there are, the gateway's own among them."""
    return {kind.code}.union(*(all_errors(sub) for sub in kind.__subclasses__()))


def test_every_code_has_a_status_and_every_status_a_code():
    assert BY_CODE.keys() <= STATUS.keys()
    assert STATUS.keys() == all_errors()


def test_only_what_is_a_fault_of_ours_is_told_as_one():
    ours = {code for code, status in STATUS.items() if status == 500}
    assert ours == {"internal", "journal_corrupt", "local_protocol", "model_error", "remote_protocol"}


def test_an_error_tells_its_code_in_the_body():
    error = Unusable("3 channels are needed")
    assert status_of(error) == 422
    assert json.loads(body_of(error)) == {"error": "3 channels are needed", "code": "bad_input"}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (QueueFull("full", retry_after_s=2.1), b"3"), (QueueFull("full", retry_after_s=0.02), b"1"),
        (NoReadyWorker("none"), b"1"), (TooManyConnections("512"), b"1"), (ControllerUnreachable("none is running"), b"1"),
        (ControllerUnreachable("no answer", executed=Executed.MAYBE), None), (Unwritable("the disk is full"), None),
        (WorkerLost("lost", executed=Executed.MAYBE), b"1"),
    ],
)  # fmt: skip
def test_who_may_come_back_is_told_when_and_who_may_have_been_obeyed_is_not(error, seconds):
    assert dict(headers_of(error)).get(b"retry-after") == seconds
