"""Pure: verdicts taken again from what the journal holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hotpool.digest import digest_json
from hotpool.errors import JournalCorrupt
from hotpool.evidence import Counts

from .events import Event, EventKind
from .gates import judge
from .settings import Settings
from .verdicts import Gate, Labelled, counts_from_json, worst


def recheck(events: Iterable[Event]) -> int:
    """How many verdicts there are; each follows from its counts or labelled pictures and the rollout's settings.

    Raises:
        JournalCorrupt: one does not; names the event.
    """
    settings: dict[int | None, Settings] = {}
    labelled: dict[int | None, Labelled] = {}
    n_verdicts = 0
    for event in events:
        if event.kind is EventKind.ROLLOUT_CREATED:
            settings[event.rollout] = Settings(**event.body["settings"])
        if "labelled" in event.body:
            labelled[event.rollout] = Labelled(**event.body["labelled"])
        if "verdicts" in event.body:
            n_verdicts += _recheck(event, settings[event.rollout], labelled.get(event.rollout))
    return n_verdicts


def _recheck(event: Event, settings: Settings, labelled: Labelled | None) -> int:
    """Those of the preflight follow from labelled pictures alone."""
    written = event.body["verdicts"]
    gates = [Gate(one["gate"]) for one in written]
    counts = counts_from_json(event.body["counts"]) if "counts" in event.body else Counts()
    found = judge(counts, settings.gates, labelled, gates=gates)
    again = _without_words([asdict(one) for one in found])
    if digest_json(again) != digest_json(_without_words(written)) or worst(found) != event.body["result"]:
        raise JournalCorrupt(f"event {event.seq} ({event.kind}): its verdicts do not follow from its counts")
    return len(found)


def _without_words(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An update of hotpool may say it in other words; that nobody has changed them is for the chain of hashes to tell."""
    return [{key: value for key, value in one.items() if key != "reason"} for one in verdicts]
