"""What the verbs of the controller's socket take: wrong arguments are told by their names, and nothing else can happen."""

import contextlib
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.asks import Add, AnyRollout, Arguments, Newest, Nothing, OneJob, OneRollout, Signed, Start, choices, read
from control.settings import OnInconclusive
from control.verbs import VERBS
from hotpool.errors import BadInput
from hotpool.states import Strategy
from hotpool.wire import encode_value

WHO = {"reason": "because", "operator": "ann"}
START = {"version": "v2", **WHO}
ADD = {"source": "/tmp/v2.pth", "name": "v2", **WHO}


def given_to(kind, **arguments):
    return read("do", kind, encode_value(arguments))


def test_what_is_left_out_is_as_the_command_line_has_it():
    start = given_to(Start, **START)
    assert (start.version, start.force, start.dry_run, set(start.chosen.values())) == ("v2", False, False, {None})
    add = given_to(Add, **ADD)
    assert (add.precision, add.preprocess, add.min_agreement, add.labels) == ("fp32", "fast", 0.98, None)
    assert given_to(Newest).n == 100
    assert given_to(AnyRollout).number is None


def test_everything_that_may_be_chosen_arrives_as_what_it_means():
    start = given_to(
        Start, **START, strategy="beside", max_unavailable=2, max_surge="25%", steps="shadow,5", canary_workers=1, bake_s=0,
        on_inconclusive="abort", eval_folder="/pictures", force=True, dry_run=True,
    )  # fmt: skip
    assert start.chosen == {
        "strategy": Strategy.BESIDE, "max_unavailable": 2, "max_surge": "25%", "steps": "shadow,5", "canary_workers": 1,
        "bake_s": 0.0, "on_inconclusive": OnInconclusive.ABORT,
    }  # fmt: skip
    assert (start.force, start.dry_run) == (True, True)
    assert given_to(Add, **{**ADD, "source": "torchvision:resnet18/IMAGENET1K_V1"}, labels=["a", "ü"]).labels == (
        "a",
        "ü",
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (Nothing, {"version": "v2"}, "no argument 'version'; known are none"),
        (Start, WHO, "version is missing"),
        (Start, {"version": "v2", "reason": "x"}, "operator is missing"),
        (Start, {**START, "versoin": "v3"}, "no argument 'versoin'; known are reason, operator, version, strategy"),
        (Start, {**START, "version": 2}, "version: expected str, got int"),
        (Start, {**START, "version": None}, "version: expected str, got None"),
        (Start, {**START, "strategy": "sideways"}, "strategy is 'sideways'; allowed are drain, beside, surge"),
        (Start, {**START, "on_inconclusive": "go"}, "on_inconclusive is 'go'; allowed are pause, abort"),
        (Start, {**START, "max_unavailable": 0}, "max_unavailable: expected int >= 1"),
        (Start, {**START, "max_unavailable": [1]}, "max_unavailable: expected int | str | null, got array"),
        (Start, {**START, "max_surge": "9" * 5000}, "max_surge: expected str of length <= 8"),
        (Start, {**START, "canary_workers": 1.5}, "canary_workers: expected int | null, got float"),
        (Start, {**START, "bake_s": math.nan}, "bake_s: expected float >= 0"),
        (Start, {**START, "bake_s": math.inf}, "bake_s: expected float <= 86400"),
        (Start, {**START, "bake_s": True}, "bake_s: expected float | null, got bool"),
        (Start, {**START, "dry_run": "no"}, "dry_run: expected bool, got str"),
        (Start, {**START, "eval_folder": "pictures"}, "eval_folder must be an absolute path, got 'pictures'"),
        (Start, {**START, "reason": "two\nlines"}, "reason must be one line of printable text"),
        (Start, {**START, "reason": "x" * 2001}, "reason: expected str of length <= 2000"),
        (Start, {**START, "operator": ""}, "operator: expected str of length >= 1"),
        (Start, {**START, "operator": "x" * 65}, "operator: expected str of length <= 64"),
        (Start, {**START, "operator": "ann\x1b[31m"}, "operator must be one line of printable text"),
        (Add, {**ADD, "source": "v2.pth"}, "source must be an absolute path, got 'v2.pth'"),
        (Add, {**ADD, "source": "/a\0b"}, "source must be one line of printable text"),
        (Add, {**ADD, "calibrate": "/pictures"}, "calibrate is for int8: precision must be int8 or auto"),
        (Add, {**ADD, "calibrate": "pictures", "precision": "int8"}, "calibrate must be an absolute path"),
        (Add, {**ADD, "precision": "fp16"}, "precision is 'fp16'; allowed are fp32, int8, auto"),
        (Add, {**ADD, "labels": ["a", 1]}, "labels: expected str, got int"),
        (Add, {**ADD, "labels": ["a", ""]}, "labels: expected str of length >= 1"),
        (Add, {**ADD, "labels": ["a", "b\nc"]}, "labels must be one line of printable text, got 'b\\nc'"),
        (Add, {**ADD, "min_agreement": 1.01}, "min_agreement: expected float <= 1"),
        (Add, {**ADD, "crop": 4}, "crop: expected int >= 8"),
        (Add, {**ADD, "mean": [0.5, 0.5]}, "mean: expected array of length 3"),
        (OneJob, {"job": "1"}, "job: expected int, got str"),
        (OneRollout, {"number": 0}, "number: expected int >= 1"),
        (Newest, {"n": 10**6}, "n: expected int <= 100000"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(kind, arguments, said):
    with pytest.raises(BadInput) as raised:
        given_to(kind, **arguments)
    assert str(raised.value).startswith("do: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "raw",
    [b"\xc0", b"\x91\x01", b"\x81\x01\x02", b"\x81\xa1\xff\x01", b"\x81\xa6reason\xa1\xff", b"\x91" * 5000, b"\xc1", b""],
)  # fmt: skip
def test_arguments_that_are_no_map_of_names_are_a_mistake_too(raw):
    with pytest.raises(BadInput, match="do: "):
        read("do", Signed, msgspec.Raw(raw))


SOME = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary()
VALUES = st.recursive(SOME, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data(), verb=st.sampled_from(sorted(VERBS)))
def test_any_arguments_are_taken_or_refused(data, verb):
    kind = VERBS[verb].takes
    names = st.sampled_from([*kind.__struct_fields__, "other"])
    arguments = data.draw(st.dictionaries(names, VALUES, max_size=6))
    with contextlib.suppress(BadInput):
        asked = read(verb, kind, encode_value(arguments))
        assert isinstance(asked, Arguments)
        assert {name for name in kind.__struct_fields__ if name in arguments} == set(arguments)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=80), verb=st.sampled_from(sorted(VERBS)))
def test_any_bytes_are_arguments_or_a_mistake(raw, verb):
    with contextlib.suppress(BadInput):
        read(verb, VERBS[verb].takes, msgspec.Raw(raw))


def test_every_verb_has_a_sentence_and_who_changes_something_says_who_and_why():
    looks = {"status", "metrics", "versions", "version", "rollouts", "rollout", "report", "audit", "job"}
    for name, verb in VERBS.items():
        assert verb.act.__doc__, name
        assert issubclass(verb.takes, Signed) == (name not in looks), name


def test_the_words_of_an_argument_are_those_of_the_states():
    assert choices(Start, "strategy") == [strategy.value for strategy in Strategy]
    assert choices(Start, "version") == []
