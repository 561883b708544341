"""Shell: the append-only `events` table in SQLite: journal of the controller, audit, and mailbox for orders in one.

Several processes write it: the CLI appends orders, the controller carries them out. Whoever decides something from what
it has read does so inside `transaction`, so that nothing new can come in between.
"""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any, Self

from hotpool.disk import describe
from hotpool.errors import JournalCorrupt, Unwritable

from .events import Event, EventKind, seal

BUSY_TIMEOUT_S = 10.0  # transactions take milliseconds; who waits this long waits for a process that hangs

# FULL: an event must be on the disk before its command is sent, or a power failure forgets what the pool was told.
# cache_size: KiB for each connection. By default 2,000, which fill with the journal; who works reads its end.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA cache_size = -200;
CREATE TABLE IF NOT EXISTS events (
    seq      INTEGER PRIMARY KEY,
    ts       TEXT NOT NULL,
    epoch    INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    model    TEXT NOT NULL,
    rollout  INTEGER,
    operator TEXT NOT NULL,
    body     TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash     TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS events_never_change BEFORE UPDATE ON events
    BEGIN SELECT raise(ABORT, 'events are never changed'); END;
CREATE TRIGGER IF NOT EXISTS events_never_go BEFORE DELETE ON events
    BEGIN SELECT raise(ABORT, 'events are never deleted'); END;
"""
_FIELDS = "seq, ts, epoch, kind, model, rollout, operator, body"
# SQLite looks at each row, and only what is found is taken into memory.
_OF_ROLLOUT = f"""
WITH own AS (SELECT min(seq) AS first, max(seq) AS last FROM events WHERE rollout = :rollout)
SELECT {_FIELDS} FROM events, own
WHERE rollout = :rollout OR (kind = '{EventKind.CONTROLLER_STARTED}' AND seq BETWEEN first AND last)
ORDER BY seq
"""


class Journal:
    """One connection to the table, for one thread."""

    def __init__(self, path: Path) -> None:
        """Creates file and table where they are missing.

        Raises:
            JournalCorrupt: the file is there and is no database.
            Unwritable: also where one that is there is only to be read: SQLite needs a file beside it.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path), _explained(path):
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._connection.executescript(_SCHEMA)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Until the block ends no other process writes. After an error nothing that the block appended remains.

        Raises:
            Unwritable: perhaps only at the end of the block.
        """
        if self._connection.in_transaction:
            yield
            return
        with _explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk can make SQLite end it by itself
                    self._connection.execute("ROLLBACK")
                raise

    def append(
        self, kind: EventKind, *, model: str, rollout: int | None = None, operator: str, body: dict[str, Any]
    ) -> Event:
        """Writes an event down; outside a transaction it is on the disk when this returns. operator: `user@host`."""
        with self.transaction():
            last = self._connection.execute("SELECT seq, epoch, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone()
            seq, epoch, previous = last or (0, 0, "")
            epoch += kind is EventKind.CONTROLLER_STARTED
            ts = datetime.now(UTC).isoformat(timespec="milliseconds")
            event = Event(seq + 1, ts, epoch, kind, intern(model), rollout, intern(operator), _once(body))
            row = (*_row(event), previous, seal(event, previous))
            self._connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(row))})", row)
        return event

    def last_seq(self) -> int:
        """Of the newest event, 0 without one. Microseconds: made to be polled."""
        with _explained(self._path):
            seq: int = self._connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        return seq

    def events(self, after: int = 0) -> list[Event]:
        """All events with a seq above `after`, the oldest first."""
        with _explained(self._path):
            rows = self._connection.execute(f"SELECT {_FIELDS} FROM events WHERE seq > ? ORDER BY seq", (after,))
            return [self._event(row) for row in rows]

    def of_rollout(self, number: int) -> list[Event]:
        """Its events, the oldest first, and the starts of controllers in between: they explain pauses that nobody ordered."""
        with _explained(self._path):
            return [self._event(row) for row in self._connection.execute(_OF_ROLLOUT, {"rollout": number})]

    def verify(self) -> int:
        """Checks the chain and returns its number of events. It can't see that the newest events were cut off.

        Raises:
            JournalCorrupt: an event was changed, removed or put in between; the message names the row.
        """
        seq, previous = 0, ""
        with _explained(self._path):
            rows = self._connection.execute(f"SELECT {_FIELDS}, previous, hash FROM events ORDER BY seq")
            for *row, before, hashed in rows:
                event = self._event(row)
                seq += 1
                if (event.seq, before, hashed) != (seq, previous, seal(event, previous)):
                    raise JournalCorrupt(
                        f"{self._path}: row {event.seq} ({event.kind}) does not fit the rows before it: the journal was "
                        "changed from outside; restore it from a copy"
                    )
                previous = hashed
        return seq

    def _event(self, row: Any) -> Event:
        try:
            seq, ts, epoch, kind, model, rollout, operator, body = row
            body = _once(json.loads(body))
            return Event(seq, ts, epoch, EventKind(kind), intern(model), rollout, intern(operator), body)
        except ValueError as error:
            raise JournalCorrupt(f"{self._path}: row {row[0]} can't be read: {error}") from None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite says in the block becomes an error of ours; what is none of the file's fault stays what it is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = f"the journal {path} can't be used: {error}; nothing is changed until it can; {describe(path)}"
        raise Unwritable(reason) from None
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:
            raise
        raise JournalCorrupt(f"{path} can't be read as the journal ({error}); restore it from a copy") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: SQLite waits for its turn everywhere but where it changes the journal mode."""
    with path.with_name(f"{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _once(value: Any) -> Any:
    """The same, with strings that are one object wherever they come again, as digests and names of workers do: ledgers keep
    those of all rollouts."""
    kind = type(value)
    if kind is str:  # not members of an enum, which are there once as they are
        return intern(value)
    if kind is list:
        return [_once(one) for one in value]
    return {_once(key): _once(one) for key, one in value.items()} if kind is dict else value


def _row(event: Event) -> tuple[object, ...]:
    body = json.dumps(event.body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return (event.seq, event.ts, event.epoch, event.kind, event.model, event.rollout, event.operator, body)
