"""Messages survive the wire; anything else is refused with a reason and never with another exception."""

import contextlib
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpool import messages as m
from hotpool import wire
from hotpool.errors import RemoteProtocolError
from hotpool.evidence import Arm, Counts

WORK = wire.encode_body(m.Work("picture", 3))
REQUEST = m.Request(b"0123456789abcdef", "shapes", None, 1, 5_000_000, WORK)
DECODERS = [
    wire.from_client, wire.to_client, wire.from_worker, wire.to_worker, wire.from_admin, wire.to_admin, wire.to_control,
    wire.from_control,
]  # fmt: skip

HOSTILE = [
    [],
    [b""],
    [b"HP"],
    [b"HP\x02\x90"],  # a later protocol
    [wire.PREFIX],
    [wire.PREFIX + b"\xc1"],  # never used in msgpack
    [wire.PREFIX + b"\xdd\xff\xff\xff\xff"],  # an array of 4 billion, not there
    [wire.PREFIX + b"\xdf\xff\xff\xff\xff"],
    [wire.PREFIX + b"\x91" * 5000],  # nested deeper than any message
    [wire.PREFIX + b"\xc7\x04\x01abcd"],  # an extension type
    [wire.PREFIX + b"\x92\x02"],  # shorter than it says
    [wire.PREFIX + msgspec.msgpack.encode([2, b"short", None, None, 1, 1, {}])],
    [wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "m", None, True, 1, [1]])],  # True is no priority
    [wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "m", None, 7, 1, [1]])],
    [wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "m", None, 1, -5, [1]])],
    [wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "x" * 1000, None, 1, 5, [1]])],
    [wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "m", None, 1, float("nan"), [1]])],
    [
        wire.PREFIX + msgspec.msgpack.encode([2, b"0123456789abcdef", "m", None, 1, 5, [1], 0, b"x" * 65])
    ],  # a long route
    [wire.PREFIX + msgspec.msgpack.encode([33, 1, 1, [1], -2])],
    [wire.PREFIX + msgspec.msgpack.encode([33, 1, 1, [1], 0, float("nan")])],
    [wire.PREFIX + msgspec.msgpack.encode([66, 1, 1, "m", "a", "b", {}, [1, 1, 101, 0]])],
    [wire.PREFIX + msgspec.msgpack.encode([66, 1, 1, "m", "a", "b", {}, [1, 1, float("nan"), 0]])],
    [wire.PREFIX + msgspec.msgpack.encode([96, 1, "x" * 2001, {}])],  # a long verb
    [wire.PREFIX + msgspec.msgpack.encode([112, -1, None])],
    [wire.PREFIX + msgspec.msgpack.encode([9999, 1])],
    [wire.PREFIX + msgspec.msgpack.encode({"id": 1})],
    [wire.PREFIX + b"\x91\xff\xff\xff", b"payload", b"one frame too many"],
    [b"\x80\x04\x95cposix\nsystem\n(S'true'\ntR."],  # a pickle
    [b"x" * (wire.MAX_HEADER_BYTES + 1)],
]


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (wire.from_client, REQUEST),
        (wire.from_client, msgspec.structs.replace(REQUEST, route=bytes(64))),
        (wire.from_client, m.Cancel(b"0123456789abcdef")),
        (wire.to_client, m.ErrorReply(b"0123456789abcdef", "queue_full", "full", "no", 50_000)),
        (wire.from_worker, m.Seats("shapes", (m.Seat("worker-0", 3, 42, {"killed": 1}, "note"),))),
        (wire.from_worker, m.WorkerHello(1, "worker-0", 1, 42, "shapes", "v1", "d" * 64, 3, (0, 1), 2)),
        (wire.from_worker, m.Done(7, 1000, WORK, 999, 1.0, 4)),
        (wire.to_worker, m.Job(7, 1000, WORK)),
        (wire.from_admin, m.SetVersions(1, 2, "shapes", "a" * 64, None, {"v1": "a" * 64})),
        (wire.from_admin, m.SetVersions(1, 2, "shapes", "a", "b", {}, m.Policy(3, 4, 12.5, 100.0))),
        (wire.from_admin, m.GetEvidence(1, "shapes")),
        (wire.to_admin, m.Ack(5, "conflict", "no")),
        (wire.to_control, m.Ask(5, "start", wire.encode_value({"version": "v2", "steps": None}))),
        (wire.from_control, m.Answer(5, wire.encode_value([1.5, {"a": True}]))),
        (wire.from_control, m.Answer(5, wire.encode_value(None), "conflict", "no")),
        (
            wire.to_admin,
            m.Evidence(
                5, 7, Counts(3, Arm(9, 8, 1, {999: 8}, {99: 8}, {4: {350: 8}}), windows={-12: 3}, tails={4: {355: 3}})
            ),
        ),
    ],
)
def test_a_message_survives_the_wire(decoder, message):
    decoded, payload = decoder.decode([wire.encode(message), b"payload"])
    assert type(decoded) is type(message)
    assert wire.encode(decoded) == wire.encode(message)
    assert payload == b"payload"


def test_the_parts_that_the_broker_passes_on_survive():
    work, result = m.Work("tensor", 1, (2, 3, 8, 8)), m.Result(((3, "cat", 0.5),))
    assert wire.decode_work(wire.encode_body(work)) == work
    assert wire.decode_result(wire.encode_body(result)) == result


@pytest.mark.parametrize("value", [None, True, -1, 2**64 - 1, 0.5, math.inf, "ü", [], {"a": [{"b": None}]}])
def test_arguments_and_results_survive(value):
    assert wire.decode_value(wire.encode_value(value)) == value


def test_a_field_from_a_later_release_is_ignored():
    frames = [wire.PREFIX + msgspec.msgpack.encode([3, b"0123456789abcdef", "a field of tomorrow"])]
    assert wire.from_client.decode(frames)[0] == m.Cancel(b"0123456789abcdef")


def test_a_client_cannot_speak_as_a_worker():
    with pytest.raises(RemoteProtocolError):
        wire.from_client.decode([wire.encode(m.Leaving())])


@pytest.mark.parametrize("frames", HOSTILE)
@pytest.mark.parametrize("decoder", DECODERS)
def test_hostile_frames_are_refused_with_a_reason(decoder, frames):
    with pytest.raises(RemoteProtocolError, match=r"\w"):
        decoder.decode(frames)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(st.binary(max_size=200), max_size=4), prefixed=st.booleans(), which=st.sampled_from(DECODERS))
def test_any_bytes_give_a_message_or_a_protocol_error(frames, prefixed, which):
    if prefixed and frames:
        frames[0] = wire.PREFIX + frames[0]
    with contextlib.suppress(RemoteProtocolError):
        which.decode(frames)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_real_message_gives_a_message_or_a_protocol_error(data):
    header = bytearray(wire.encode(REQUEST))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, _ = wire.from_client.decode([bytes(header[: data.draw(st.integers(0, len(header)))])])
    except RemoteProtocolError:
        return
    assert isinstance(message, m.Message)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=50))
def test_any_work_gives_work_or_a_protocol_error(raw):
    for decode in (wire.decode_work, wire.decode_result, wire.decode_value):
        with contextlib.suppress(RemoteProtocolError):
            decode(msgspec.Raw(raw))
