"""Events in a file of SQLite, for the processes of one machine."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .rules import Event
from .store import EVENTS, MANY, Stored, StoreError, as_event, as_text

WAIT_SECONDS = 5.0
"""How long a process waits for another one that writes."""
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS {} (number INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS store (identity TEXT NOT NULL)",
)


class SqliteStore:
    """Keeps events in a table of a file, in the mode WAL: readers and a writer do not wait.

    A position is the number of a row. Rows are numbered as they are committed, since only one
    process writes at a time.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist.
    channel : str
        Name of the table.

    Raises
    ------
    StoreError
        If it cannot be opened; the message says why.
    """

    def __init__(self, path: Path, channel: str = EVENTS) -> None:
        self.path, self.channel, self.last, self.state = path, channel, 0, -1
        with self._explained():
            # autocommit: transactions are begun by name
            self.connection = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._run("PRAGMA journal_mode = WAL")
            # Each commit is flushed to the disk, so that it outlives a loss of power, too.
            self._run("PRAGMA synchronous = FULL")
            with self._writing():
                for statement in SCHEMA:
                    self._run(statement.format(channel))
                if not self._run("SELECT identity FROM store").fetchall():
                    self._run("INSERT INTO store VALUES (?)", [secrets.token_hex(16)])
            self.identity = self._run("SELECT identity FROM store").fetchone()[0]

    def append(self, events: Sequence[Event]) -> None:
        rows = [(as_text(event),) for event in events]
        with self._explained(), self._writing():
            self.connection.executemany(f"INSERT INTO {self.channel} (event) VALUES (?)", rows)
        self.state = -1  # data_version tells only what other connections have written

    def read_new(self) -> list[Stored]:
        with self._explained():
            # Before the rows are read: what is written meanwhile changes it again.
            state = self._run("PRAGMA data_version").fetchone()[0]
            if state == self.state:
                return []
            found: list[Stored] = []
            last = self.last
            while rows := self._rows_after(last):
                found += [
                    Stored((number,), event)
                    for number, text in rows
                    if (event := as_event(text)) is not None
                ]
                last = rows[-1][0]
                if len(rows) < MANY:
                    break
        self.state, self.last = state, last
        return found

    def close(self) -> None:
        self.connection.close()

    def _rows_after(self, number: int) -> list[tuple[int, str]]:
        return self._run(
            f"SELECT number, event FROM {self.channel} WHERE number > ? ORDER BY number LIMIT ?",
            [number, MANY],
        ).fetchall()

    def _run(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self.connection.execute(statement, values)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make a transaction of a block."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # some errors end it
                self._run("ROLLBACK")
            raise
        self._run("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise StoreError(
                f"{self.path}: the store of events cannot be used ({error}); free space, correct "
                "its permissions, or restore the file with its -wal file from a copy"
            ) from error
