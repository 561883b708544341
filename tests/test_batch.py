"""From a batch of leases to one answer each."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpool.classes import FEW, top_classes
from hotpool.errors import BadImage, BadInput
from hotpool.messages import Done, Failed, Work
from hotpool.states import Executed
from hotpool.wire import MAX_HEADER_BYTES, decode_result, encode
from workers.batch import (
    Lease,
    PictureRows,
    Spent,
    answer,
    compute,
    failed,
    group,
    one_line,
    pixels_array,
    tensor_rows,
)


def reply_to(lease, outcome, labels=()) -> tuple[Any, Any]:
    """The message and payload that answer this lease."""
    reply = answer(lease, outcome, labels, Spent(5, 4, 1))
    return reply.message, reply.payload


def lease(job, *values, kind="picture", size=2, top=3):
    """One row for each value, filled with it."""
    rows = np.stack([np.full((3, size, size), value, np.float32) for value in values])
    return Lease(job, Work(kind, top), rows)


def sums(rows):
    """A model: (n, 4) logits that depend on each row alone. It can't take rows that begin with -13."""
    if (rows[:, 0, 0, 0] == -13).any():
        raise RuntimeError("unlucky\nand more lines")
    first = rows[:, 0, 0, 0]
    return np.stack([first, first * 2, first - 1, -first], axis=1)


def test_leases_of_one_kind_are_computed_together_up_to_a_batch():
    groups = group([lease(i, 1) for i in range(5)], max_batch=2)
    assert [[x.job for x in members] for members in groups] == [[0, 1], [2, 3], [4]]


def test_other_sizes_and_tensors_are_computed_apart():
    leases = [lease(0, 1), lease(1, 1, size=4), lease(2, 1), lease(3, 1, kind="tensor"), lease(4, 1, kind="pixels")]
    assert [[x.job for x in members] for members in group(leases, max_batch=8)] == [[0, 2, 4], [1], [3]]


def test_a_lease_with_more_rows_than_a_batch_is_computed_alone():
    leases = [lease(0, *range(10), kind="tensor"), lease(1, 1, kind="tensor")]
    assert [[x.job for x in members] for members in group(leases, max_batch=4)] == [[0], [1]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["picture", "tensor"]), st.sampled_from([1, 2])), max_size=20)
)
def test_each_lease_is_computed_exactly_once_with_its_own_rows(shapes):
    leases = [lease(i, *[i] * n, kind=kind, size=size) for i, (n, kind, size) in enumerate(shapes)]
    groups = group(leases, max_batch=4)
    assert sorted(x.job for members in groups for x in members) == list(range(len(leases)))
    for members in groups:
        assert len(members) == 1 or sum(len(x.rows) for x in members) <= 4
        for member, logits in zip(members, compute(sums, members), strict=True):
            np.testing.assert_array_equal(logits, sums(member.rows))


def test_only_the_guilty_one_of_a_failed_batch_fails():
    outcomes = compute(sums, [lease(0, 1), lease(1, -13), lease(2, 2)])
    assert isinstance(outcomes[1], RuntimeError)
    np.testing.assert_array_equal(outcomes[0], sums(lease(0, 1).rows))
    np.testing.assert_array_equal(outcomes[2], sums(lease(2, 2).rows))


def test_a_batch_too_large_for_memory_is_computed_one_by_one():
    def small(rows):
        if len(rows) > 1:
            raise MemoryError
        return sums(rows)

    outcomes = compute(small, [lease(0, 1), lease(1, 2)])
    np.testing.assert_array_equal(outcomes[1], sums(lease(1, 2).rows))


def keep(rows, value):
    rows.free()[...] = value
    return rows.keep()


def test_the_pictures_of_a_batch_reach_the_engine_where_they_were_written_and_channels_last():
    rows = PictureRows(4, 2)
    parts = [keep(rows, value) for value in range(3)]
    leases = [Lease(i, Work("picture"), part) for i, part in enumerate(parts)]
    seen = []

    def engine(batch):
        seen.append(batch)
        return sums(batch)

    outcomes = compute(engine, leases, rows.join)
    assert [np.asarray(outcome)[0, 0] for outcome in outcomes] == [0, 1, 2]
    (batch,) = seen
    assert (batch.shape, batch.transpose(0, 2, 3, 1).flags.c_contiguous) == ((3, 3, 2, 2), True)
    assert all(np.shares_memory(batch, part) for part in parts)


def test_a_picture_that_fails_leaves_its_row_to_the_next_and_the_others_alone():
    rows = PictureRows(3, 2)
    first = keep(rows, 1)
    rows.free()[0] = 99  # half written when it failed, so not kept
    second = keep(rows, 2)
    assert rows.join([first, second])[:, 0, 0, 0].tolist() == [1, 2]
    assert (first == 1).all()
    assert (second == 2).all()


@pytest.mark.parametrize("chosen", [[1], [0, 2], [1, 2], [2, 1, 0], [0, 0]])
def test_rows_that_no_longer_follow_one_another_are_put_together_as_asked(chosen):
    rows = PictureRows(3, 2)
    parts = [keep(rows, value) for value in range(3)]
    assert rows.join([parts[i] for i in chosen])[:, 0, 0, 0].tolist() == chosen


def test_the_next_batch_begins_with_no_row_of_the_one_before():
    rows = PictureRows(2, 2)
    old = [keep(rows, value) for value in (1, 2)]
    rows.clear()
    new = keep(rows, 3)
    assert rows.join([new]).tolist() == new.tolist()
    assert len(rows.join([new, old[1]])) == 2
    keep(rows, 4)
    with pytest.raises(IndexError):
        rows.free()


def test_tensors_are_put_together_as_before():
    rows = PictureRows(2, 2)
    keep(rows, 1)
    outcomes = compute(sums, [lease(0, 5, 6, kind="tensor"), lease(1, 7, kind="tensor")], rows.join)
    assert [np.asarray(outcome)[:, 0].tolist() for outcome in outcomes] == [[5, 6], [7]]


def test_a_bug_is_not_taken_for_a_bad_input():
    def buggy(_rows):
        raise AttributeError("no such thing")

    with pytest.raises(AttributeError):
        compute(buggy, [lease(0, 1)])


def test_a_failure_of_the_model_is_one_line_and_was_executed():
    (outcome,) = compute(sums, [lease(7, -13)])
    message = reply_to(lease(7, -13), outcome, [])[0]
    assert message == Failed(7, 5, "model_error", "RuntimeError: unlucky", Executed.YES)


def test_an_error_of_ours_keeps_its_code():
    assert failed(1, BadImage("cut off"), 5).message == Failed(1, 5, "bad_image", "cut off", Executed.NO)


@pytest.mark.parametrize("others", [(np.nan,), (np.inf,), (-np.inf,), (np.inf, -np.inf), (np.nan, np.inf)])
@pytest.mark.parametrize("kind", ["picture", "tensor"])
def test_output_that_is_not_finite_is_no_answer(kind, others):
    logits = np.array([[1.0, *others]], np.float32)
    assert reply_to(lease(1, 0, kind=kind), logits, ["a", "b", "c"])[0].code == "model_error"


def test_the_largest_numbers_that_there_are_are_an_answer():
    largest = np.finfo(np.float32).max
    message = reply_to(lease(1, 0), np.array([[largest, -largest, largest]], np.float32), ["a", "b", "c"])[0]
    assert isinstance(message, Done)


def test_an_endless_message_is_cut_to_what_the_wire_takes():
    assert len(one_line(RuntimeError("x" * 10_000))) == 1000
    assert one_line(MemoryError()) == "MemoryError"


def test_a_picture_is_answered_with_its_most_probable_classes():
    message = reply_to(lease(1, 0, top=2), np.array([[0.0, 2.0, 1.0]], np.float32), ["a", "b", "c"])[0]
    assert isinstance(message, Done)
    (first, second) = decode_result(message.result).classes
    assert (first[:2], second[:2]) == ((1, "b"), (2, "c"))
    assert first[2] == pytest.approx(np.exp(2) / (np.exp(0) + np.exp(1) + np.exp(2)))


def test_a_tensor_is_answered_with_its_logits():
    rows = lease(1, 1, 2, kind="tensor")
    done, payload = reply_to(rows, sums(rows.rows))
    assert decode_result(done.result).shape == (2, 4)
    np.testing.assert_array_equal(np.frombuffer(payload, "<f4").reshape(2, 4), sums(rows.rows))


@pytest.mark.parametrize("kind", ["picture", "pixels"])
def test_a_picture_is_answered_with_its_logits_too_when_they_are_asked_for(kind):
    logits = np.array([[0.0, 2.0, 1.0]], np.float32)
    asked = Lease(1, Work(kind, 2, logits=True), np.zeros((1, 3, 2, 2), np.float32))
    done, payload = reply_to(asked, logits, ["a", "b", "c"])
    result = decode_result(done.result)
    assert ([index for index, _, _ in result.classes], result.shape) == ([1, 2], (1, 3))
    np.testing.assert_array_equal(np.frombuffer(payload, "<f4").reshape(result.shape), logits)
    assert (done.top1, done.confidence) == (1, pytest.approx(result.classes[0][2]))
    assert reply_to(Lease(1, Work(kind, 2), asked.rows), logits, "abc")[1] is None


def test_probabilities_sum_to_one_even_for_huge_logits():
    classes = top_classes(np.array([1e4, 1e4 - 1, -1e4], np.float32), ["a", "b", "c"], 3)
    assert sum(probability for _, _, probability in classes) == pytest.approx(1.0)
    assert [label for _, label, _ in classes] == ["a", "b", "c"]


def test_equal_classes_come_in_the_order_of_their_index_and_top_may_exceed_them():
    assert [i for i, _, _ in top_classes(np.zeros(3, np.float32), [], 10)] == [0, 1, 2]


@pytest.mark.parametrize("top", [1, 3, FEW, FEW + 1, 1000])
def test_the_most_probable_classes_are_those_of_a_stable_sort_whether_few_or_many_are_asked_for(top):
    print("seed 5")
    logits = np.random.default_rng(5).integers(-9, 10, 1000).astype(np.float32)  # so each value is there some 50 times
    weights = np.exp(logits.astype(np.float64))
    found = top_classes(logits, [], top)
    assert [i for i, _, _ in found] == np.argsort(-logits, kind="stable")[:top].tolist()
    assert [p for _, _, p in found] == pytest.approx([weights[i] / weights.sum() for i, _, _ in found])


def test_an_answer_too_long_for_a_header_is_refused_rather_than_sent():
    labels = ["x" * 100] * 1000
    logits = np.zeros((1, 1000), np.float32)
    message = reply_to(lease(1, 0, top=1000), logits, labels)[0]
    assert message.code == "bad_input"
    assert "fewer" in message.message
    assert len(encode(reply_to(lease(1, 0, top=400), logits, labels)[0])) < MAX_HEADER_BYTES


@pytest.mark.parametrize(
    ("shape", "n_bytes"),
    [((), 12), ((1, 3, 1), 12), ((1, 4, 1, 1), 16), ((0, 3, 1, 1), 0), ((1, 3, 1, 1), 11), ((2**62, 3, 2**62, 4), 0)],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(shape, n_bytes):
    with pytest.raises(BadInput):
        tensor_rows(shape, bytes(n_bytes))


@pytest.mark.parametrize(
    ("shape", "n_bytes"), [((2, 2), 4), ((2, 2, 4), 16), ((2, 0, 3), 0), ((2, 2, 3), 13), ((9, 9, 3), 243)]
)
def test_pixels_that_are_not_what_they_say_are_refused(shape, n_bytes):
    with pytest.raises(BadInput):
        pixels_array(shape, bytes(n_bytes), max_pixels=80)


def test_payloads_are_read_in_their_order():
    pixels = pixels_array((1, 2, 3), bytes(range(6)), 10)
    assert pixels[0, 1].tolist() == [3, 4, 5]
    rows = tensor_rows((1, 3, 1, 2), np.arange(6, dtype="<f4").tobytes())
    assert rows[0, 2, 0].tolist() == [4.0, 5.0]


@pytest.mark.parametrize("kind", ["picture", "tensor"])
def test_an_answer_says_which_class_of_its_one_row_is_most_probable_and_how_much_so(kind):
    logits = np.array([[0.0, 3.0, 1.0, -2.0]], np.float32)
    done = answer(lease(0, 1, kind=kind), logits, "abcd", Spent(5, 3, 4)).message
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert (done.top1, done.service_us, done.cpu_us, done.batch) == (1, 5, 3, 4)
    assert done.confidence == pytest.approx(expected[1])


def test_an_answer_of_several_rows_names_no_class():
    done = answer(lease(0, 1, 2, kind="tensor"), sums(lease(0, 1, 2).rows), "", Spent(5, 3, 2)).message
    assert (done.top1, done.confidence, done.batch) == (-1, 0.0, 2)
