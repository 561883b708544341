"""The queue: order, weights, and that nobody starves."""

from collections import Counter
from dataclasses import dataclass

import pytest

from broker.lanes import WEIGHTS, Lane
from hotpool.states import Priority


@dataclass(frozen=True)
class Item:
    id: bytes
    priority: int = Priority.NORMAL


def items(n: int, priority: Priority = Priority.NORMAL) -> list[Item]:
    return [Item(f"{priority}-{i}".encode(), priority) for i in range(n)]


def lane_of(*requests: Item) -> Lane[Item]:
    lane: Lane[Item] = Lane()
    for request in requests:
        lane.push(request)
    return lane


def test_one_priority_is_first_in_first_out():
    lane = lane_of(*items(5))
    assert [lane.pop() for _ in range(5)] == items(5)


def test_what_comes_back_goes_to_the_head():
    lane = lane_of(*items(3))
    first = lane.pop()
    lane.push_first(first)
    assert lane.pop() == first


def test_while_all_wait_each_gets_its_weight():
    lane = lane_of(*(item for priority in Priority for item in items(1300, priority)))
    taken = Counter(lane.pop().priority for _ in range(1300))
    for priority, weight in WEIGHTS.items():
        assert abs(taken[priority] - 100 * weight) <= 1


def test_low_is_served_within_one_round_however_much_high_arrives():
    lane = lane_of(*items(1, Priority.LOW), *items(100, Priority.HIGH))
    taken = [lane.pop().priority for _ in range(10)]
    assert Priority.LOW in taken


def test_a_priority_that_was_idle_gets_no_credit_for_it():
    lane = lane_of(*items(1000, Priority.NORMAL))
    for _ in range(500):
        lane.pop()
    for item in items(100, Priority.HIGH):
        lane.push(item)
    taken = Counter(lane.pop().priority for _ in range(12))
    assert taken == {Priority.HIGH: 8, Priority.NORMAL: 4}


def test_peek_names_what_pop_takes():
    lane = lane_of(*items(20, Priority.LOW), *items(20, Priority.HIGH))
    while lane:
        assert lane.peek() is lane.pop()


def test_one_in_the_middle_can_leave():
    lane = lane_of(*items(3))
    lane.remove(items(3)[1])
    assert [lane.pop().id for _ in range(len(lane))] == [b"1-0", b"1-2"]
    with pytest.raises(KeyError):
        lane.remove(items(3)[1])


def test_an_empty_lane_has_nothing_to_take():
    with pytest.raises(IndexError):
        Lane().pop()
