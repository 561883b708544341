"""The journal: what was written stays, in order, and who meddles is found out."""

import sqlite3
import threading
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from control.events import EventKind
from control.journal import Journal
from hotpool.errors import JournalCorrupt, Unwritable
from tests.full_disk import full_disk, needs_limits

K = EventKind


def add(journal: Journal, name: str = "v1", operator: str = "ada@example"):
    return journal.append(K.VERSION_ADDED, model="shapes", operator=operator, body={"name": name, "digest": name * 4})


@pytest.fixture
def journal(tmp_path: Path):
    with Journal(tmp_path / "sub" / "hotpool.db") as journal:
        yield journal


def meddle(tmp_path: Path, statement: str) -> None:
    """As somebody would who knows SQLite: the triggers go first."""
    with sqlite3.connect(tmp_path / "sub" / "hotpool.db") as connection:
        connection.execute("DROP TRIGGER events_never_change")
        connection.execute("DROP TRIGGER events_never_go")
        connection.execute(statement)
    connection.close()


def test_events_come_back_as_they_were_appended(journal: Journal) -> None:
    first = add(journal, "v1")
    second = journal.append(
        K.STEP_STARTED, model="shapes", rollout=7, operator="controller", body={"ä": [1, 2.5, None]}
    )
    assert journal.events() == [first, second]
    assert journal.events(after=1) == [second]
    assert (first.seq, second.seq, journal.last_seq()) == (1, 2, 2)
    assert second.rollout == 7
    assert second.ts.endswith("+00:00")


def test_a_word_that_comes_again_is_one_object_in_what_was_appended_and_in_what_is_read(journal: Journal) -> None:
    """A controller keeps those of all rollouts."""

    def fresh(word: str) -> str:
        return "".join(list(word))

    def append():
        body = {"worker": fresh("worker-9"), "more": [fresh("worker-9"), {"of": fresh("worker-9")}]}
        return journal.append(K.STEP_STARTED, model=fresh("worker-9"), rollout=7, operator=fresh("worker-9"), body=body)

    events = [append(), append(), *journal.events()]
    words = [
        (one.model, one.operator, one.body["worker"], one.body["more"][0], one.body["more"][1]["of"]) for one in events
    ]
    assert {word for found in words for word in found} == {"worker-9"}
    assert len({id(word) for found in words for word in found}) == 1


def test_of_a_rollout_there_are_its_events_and_the_controllers_started_meanwhile(journal: Journal) -> None:
    def append(kind: EventKind, rollout: int | None = None):
        return journal.append(kind, model="shapes", rollout=rollout, operator="controller", body={})

    append(K.CONTROLLER_STARTED)
    created = append(K.ROLLOUT_CREATED, 7)
    add(journal)
    again = append(K.CONTROLLER_STARTED)
    step = append(K.STEP_STARTED, 7)
    append(K.CONTROLLER_STARTED)
    other = append(K.ROLLOUT_CREATED, 8)
    assert journal.of_rollout(7) == [created, again, step]
    assert journal.of_rollout(8) == [other]
    assert journal.of_rollout(9) == []


def test_reading_one_rollout_takes_no_more_memory_after_thousands_of_others(journal: Journal) -> None:
    def peak() -> int:
        tracemalloc.start()
        assert len(journal.of_rollout(0)) == 10
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    def roll_out(numbers: Iterable[int]) -> None:
        with journal.transaction():
            for number in numbers:
                for _ in range(10):
                    journal.append(K.STEP_STARTED, model="shapes", rollout=number, operator="me", body={"worker": "w0"})

    roll_out([0])
    alone = peak()
    roll_out(range(1, 300))
    assert peak() < 2 * alone


def test_an_empty_journal_has_no_events(journal: Journal) -> None:
    assert (journal.events(), journal.last_seq(), journal.verify()) == ([], 0, 0)


def test_the_epoch_counts_controllers(journal: Journal) -> None:
    epochs = [add(journal).epoch]
    for _ in range(2):
        started = journal.append(K.CONTROLLER_STARTED, model="shapes", operator="controller", body={})
        epochs += [started.epoch, add(journal).epoch]
    assert epochs == [0, 1, 1, 2, 2]


def test_events_survive_being_opened_again(journal: Journal, tmp_path: Path) -> None:
    add(journal)
    with Journal(tmp_path / "sub" / "hotpool.db") as other:
        assert other.events() == journal.events()
        add(other, "v2")
    assert journal.last_seq() == 2
    assert journal.verify() == 2


@pytest.mark.parametrize("statement", ["UPDATE events SET operator = 'eve'", "DELETE FROM events"])
def test_sqlite_itself_refuses_changes(journal: Journal, tmp_path: Path, statement: str) -> None:
    add(journal)
    connection = sqlite3.connect(tmp_path / "sub" / "hotpool.db")
    with pytest.raises(sqlite3.IntegrityError, match="events are never"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE events SET operator = 'eve' WHERE seq = 2", 2),
        ("UPDATE events SET ts = '2026-01-01' WHERE seq = 1", 1),
        ("UPDATE events SET epoch = 9 WHERE seq = 3", 3),
        ("UPDATE events SET kind = 'stable_set' WHERE seq = 2", 2),
        ("UPDATE events SET model = 'other' WHERE seq = 2", 2),
        ("UPDATE events SET rollout = 1 WHERE seq = 2", 2),
        ("UPDATE events SET body = '{}' WHERE seq = 1", 1),
        ("UPDATE events SET body = '{' WHERE seq = 1", 1),
        ("UPDATE events SET kind = 'whatever' WHERE seq = 1", 1),
        ("UPDATE events SET previous = '' WHERE seq = 3", 3),
        ("DELETE FROM events WHERE seq = 2", 3),
        ("DELETE FROM events WHERE seq = 1", 2),
        (
            "INSERT INTO events SELECT 9, ts, epoch, kind, model, rollout, operator, body, hash, hash FROM events LIMIT 1",
            9,
        ),
    ],
)
def test_every_kind_of_meddling_is_found_and_the_row_named(
    journal: Journal, tmp_path: Path, statement: str, row: int
) -> None:
    for name in ("v1", "v2", "v3"):
        add(journal, name)
    assert journal.verify() == 3
    meddle(tmp_path, statement)
    with pytest.raises(JournalCorrupt, match=f"row {row} "):
        journal.verify()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hotpool.db"
    path.write_bytes(b"not a database, whatever its name says " * 100)
    with pytest.raises(JournalCorrupt, match=r"hotpool\.db"):
        Journal(path)


def test_a_transaction_that_fails_leaves_nothing(journal: Journal) -> None:
    def fail() -> None:
        with journal.transaction():
            add(journal)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert journal.last_seq() == 0
    assert add(journal).seq == 1


def test_nobody_writes_inside_anothers_transaction(journal: Journal, tmp_path: Path) -> None:
    inside, done = threading.Event(), threading.Event()

    def write_too() -> None:
        inside.wait(5)
        with Journal(tmp_path / "sub" / "hotpool.db") as other:
            add(other, "v2", operator="bob@example")
        done.set()

    thread = threading.Thread(target=write_too)
    thread.start()
    with journal.transaction():
        seen = journal.last_seq()
        inside.set()
        assert not done.wait(0.05)
        assert journal.last_seq() == seen
        add(journal, "v1")
    thread.join(5)
    assert [event.operator for event in journal.events()] == ["ada@example", "bob@example"]
    assert journal.verify() == 2


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    """Also the very first opening, by all at once."""
    path = tmp_path / "hotpool.db"
    start = threading.Barrier(6)

    def write() -> None:
        start.wait(5)
        with Journal(path) as journal:
            for _ in range(5):
                add(journal)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with Journal(path) as journal:
        assert journal.verify() == 30


def test_a_commit_is_synced_to_the_disk(journal: Journal) -> None:
    """FULL is 2, EXTRA 3: with less, a power failure forgets what the pool was told."""
    assert journal._connection.execute("PRAGMA synchronous").fetchone()[0] >= 2
    assert journal._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@needs_limits
def test_what_finds_no_room_is_not_there_and_what_comes_later_is(journal: Journal, tmp_path: Path) -> None:
    add(journal, "v1")
    with (
        full_disk(),
        pytest.raises(Unwritable, match=r"hotpool\.db can't be used: (disk I/O error|.* is full); .*; the disk at /"),
    ):
        add(journal, "v2")
    assert [event.body["name"] for event in journal.events()] == ["v1"]
    assert add(journal, "v3").seq == 2
    with Journal(tmp_path / "sub" / "hotpool.db") as other:
        assert other.verify() == 2


@needs_limits
def test_of_a_transaction_that_finds_no_room_nothing_is_there(journal: Journal) -> None:
    def add_two() -> None:
        with journal.transaction():
            add(journal, "v1")
            add(journal, "v2")

    with full_disk(), pytest.raises(Unwritable):
        add_two()
    assert journal.last_seq() == 0
    add_two()
    assert journal.verify() == 2
