"""The ledger: what the events add up to."""

import pytest

from control.events import Event, EventKind
from control.ledger import Ledger, fold, replay
from control.rollout import IllegalTransition
from hotpool.errors import BadVersion
from hotpool.states import Phase
from tests.fake_pool import MODEL, rollout_body

K = EventKind


class Story:
    """Events written one after the other."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, kind: EventKind, rollout: int | None = None, /, **body: object) -> "Story":
        seq = len(self.events) + 1
        self.events.append(Event(seq, f"ts-{seq}", 0, kind, MODEL, rollout, "ada@example", body))
        return self

    def versions(self, *names: str) -> "Story":
        for name in names:
            self.add(K.VERSION_ADDED, name=name, digest=digest(name))
        return self.add(K.STABLE_SET, digest=digest(names[0]))

    def roll(self, number: int, stable: str, target: str, kind: str = "start") -> "Story":
        """A rollout from the beginning to `succeeded`, its steps left out."""
        body = rollout_body(digest(stable), digest(target), kind)
        self.add(K.ROLLOUT_CREATED, number, **body).add(K.PREFLIGHT_STARTED, number)
        self.add(K.PREFLIGHT_PASSED, number).add(K.BAKE_STARTED, number)
        self.add(K.COMMIT_STARTED, number, digest=digest(target))
        return self.add(K.SUCCEEDED, number, digest=digest(target))

    @property
    def ledger(self) -> Ledger:
        return replay(self.events, now=5.0)


def digest(name: str) -> str:
    return {"v1": "11", "v2": "22", "v3": "33"}[name] * 32


def test_nothing_is_known_before_the_first_event() -> None:
    ledger = Ledger()
    assert (ledger.stable(MODEL), ledger.previous_stable(MODEL), ledger.active(MODEL)) == (None, None, None)
    assert ledger.in_use(MODEL) == set()


def test_the_epoch_is_the_number_of_controllers_that_have_started() -> None:
    ledger = Story().add(K.CONTROLLER_STARTED).versions("v1").add(K.CONTROLLER_STARTED).ledger
    assert (ledger.epoch, ledger.seq) == (2, 4)


def test_versions_are_found_by_alias_digest_and_its_beginning() -> None:
    ledger = Story().versions("v1", "v2").ledger
    assert {ledger.find(MODEL, word) for word in ("v2", digest("v2"), "2222")} == {digest("v2")}
    assert ledger.name(MODEL, digest("v2")) == "v2"


@pytest.mark.parametrize(("word", "message"), [("v9", "no version"), ("", "no version")])
def test_an_unknown_version_is_answered_with_the_known_ones(word: str, message: str) -> None:
    with pytest.raises(BadVersion, match=f"{message}.*known are v1, v2"):
        Story().versions("v1", "v2").ledger.find(MODEL, word)


def test_an_ambiguous_beginning_of_a_digest_is_refused() -> None:
    story = Story().add(K.VERSION_ADDED, name="a", digest="abc1").add(K.VERSION_ADDED, name="b", digest="abc2")
    with pytest.raises(BadVersion, match="several versions"):
        story.ledger.find(MODEL, "abc")


def test_a_removed_version_is_not_found_and_keeps_no_name() -> None:
    ledger = Story().versions("v1", "v2").add(K.VERSION_REMOVED, name="v2", digest=digest("v2")).ledger
    assert ledger.versions[MODEL] == {"v1": digest("v1")}
    assert ledger.name(MODEL, digest("v2")) == digest("v2")[:12]


def test_a_success_makes_the_target_stable() -> None:
    ledger = Story().versions("v1", "v2").roll(1, "v1", "v2").ledger
    assert (ledger.stable(MODEL), ledger.previous_stable(MODEL)) == (digest("v2"), digest("v1"))
    assert ledger.active(MODEL) is None
    assert ledger.rollouts[1].phase is Phase.SUCCEEDED


def test_the_target_is_not_stable_before_the_success() -> None:
    story = Story().versions("v1", "v2").roll(1, "v1", "v2")
    for n in range(5, len(story.events)):
        assert replay(story.events[:n], 0.0).stable(MODEL) == digest("v1")


def test_undo_twice_goes_back_two() -> None:
    story = Story().versions("v1", "v2", "v3").roll(1, "v1", "v2").roll(2, "v2", "v3").roll(3, "v3", "v2", "undo")
    assert (story.ledger.stable(MODEL), story.ledger.previous_stable(MODEL)) == (digest("v2"), digest("v1"))
    story.roll(4, "v2", "v1", "undo")
    assert (story.ledger.stable(MODEL), story.ledger.previous_stable(MODEL)) == (digest("v1"), None)


def test_an_undo_goes_to_the_version_before_also_after_rollouts_that_failed() -> None:
    story = Story().versions("v1", "v2", "v3").roll(1, "v1", "v2")
    story.add(K.ROLLOUT_CREATED, 2, **rollout_body(digest("v2"), digest("v3"))).add(K.REJECTED, 2, cause="abort")
    assert story.ledger.previous_stable(MODEL) == digest("v1")


def test_what_is_in_use_holds_the_target_from_the_moment_of_the_order() -> None:
    story = Story().versions("v1", "v2", "v3").roll(1, "v1", "v2")
    assert story.ledger.in_use(MODEL) == {digest("v1"), digest("v2")}
    story.add(K.ROLLOUT_CREATED, 2, **rollout_body(digest("v2"), digest("v3")))
    assert story.ledger.in_use(MODEL) == {digest("v1"), digest("v2"), digest("v3")}


def test_the_target_may_serve_only_between_preflight_and_the_end() -> None:
    story = Story().versions("v1", "v2").roll(1, "v1", "v2")
    serves = {}
    for n in range(len(story.events) + 1):
        ledger = replay(story.events[:n], 0.0)
        if last := ledger.last(MODEL):
            serves[last.phase] = ledger.target(MODEL) is not None
    assert serves == {
        Phase.PENDING: False,
        Phase.PREFLIGHT: False,
        Phase.ROLLING: True,
        Phase.BAKING: True,
        Phase.COMMITTING: True,
        Phase.SUCCEEDED: False,
    }


def test_repairs_are_counted_until_a_rollout_is_created() -> None:
    story = Story().versions("v1", "v2")
    story.add(K.WORKER_REPAIRED, worker="worker-0", goal="x").add(K.WORKER_REPAIRED, worker="worker-0", goal="x")
    repair = story.ledger.repairs["worker-0"]
    assert (repair.count, repair.token) == (2, "repair-worker-0-5")
    story.add(K.ROLLOUT_CREATED, 1, **rollout_body(digest("v1"), digest("v2")))
    assert story.ledger.repairs == {}


def test_replaying_twice_gives_the_same() -> None:
    story = Story().versions("v1", "v2").roll(1, "v1", "v2")
    assert story.ledger == story.ledger
    assert replay(story.events[4:], 5.0, replay(story.events[:4], 5.0)) == story.ledger


def test_folding_changes_no_earlier_ledger() -> None:
    story = Story().versions("v1", "v2").roll(1, "v1", "v2")
    ledgers = [Ledger()]
    for event in story.events:
        ledgers.append(fold(ledgers[-1], event, 5.0))
    assert ledgers == [replay(story.events[:n], 5.0) for n in range(len(ledgers))]


def test_an_event_that_can_not_follow_is_a_bug() -> None:
    story = Story().versions("v1", "v2").roll(1, "v1", "v2").add(K.ABORT_REQUESTED, 1, reason="")
    with pytest.raises(IllegalTransition, match="abort_requested is not allowed in phase succeeded"):
        _ = story.ledger
