"""The file of the store: SQLite.

One row an entry, numbered 1, 2, ... in its conversation; its body is the entry's JSON and is all that is
known of it. Beside it stand two things that could be read off the body, for listing without reading whole
logs: the kind of the few entries a list shows (`heading`), and when the row was written.

The key (conversation, number) is the last line of defence: should two writers ever believe that they hold
the same conversation, the second one's insert fails instead of mixing two logs.

Three connections, as `_log_opening.py` opens them: one writes, one reads, and one moves what was written from
the WAL into the file (`_checkpoints.py`). In WAL mode a reader never waits for a writer, so reading a long log
delays nobody's text. Lock order: `writing` and `_reading` are never held together.
"""

import ctypes
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from aiwrapper._checkpoints import Checkpoints
from aiwrapper._core.errors import StoreError
from aiwrapper._core.log import Entry
from aiwrapper._fork import give_up_in_children
from aiwrapper._log_errors import is_busy, store_error
from aiwrapper._log_opening import Transaction, bound_cache, claim, connect, keep_private, make_file

PAGE_BYTES = 4096  # SQLite's default
MAX_STATEMENT_ROWS = 64  # by hand; SQLite before 3.32 took 999 values a statement, and a row has four

FIRST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.02  # by hand: another process's transaction takes well under a millisecond

T = TypeVar("T")


@frozen
class Row:
    """An entry as it is written.

    Args:
        entry: it.
        body: its JSON.
        heading: its kind, if lists show it.
        durable: whether it has to survive a power cut.
    """

    entry: Entry
    body: bytes
    heading: str | None
    durable: bool


@frozen
class Batch:
    """Rows of one conversation, to be numbered from `after + 1` on."""

    conversation: int
    after: int
    rows: Sequence[Row]

    @property
    def last(self) -> int:
        """The number of the last row."""
        return self.after + len(self.rows)


@frozen
class Heading:
    """What a list shows of a conversation: the bodies of its latest title and of what the user said first."""

    id: str
    updated_at: float
    titled: bytes | None
    user_message: bytes | None


class NumberTaken(Exception):
    """Somebody else has appended to a conversation that we hold."""

    def __init__(self, conversation: int) -> None:
        super().__init__(conversation)
        self.conversation = conversation


class LogFile:
    """An open store file. Every method may be called from any thread.

    Args:
        path: made, readable by its owner alone, if it is not there; its folder too.
        busy_seconds: how long to wait for other processes that write.

    Raises:
        StoreError: it can't be made, opened or written, or is no store of ours. It was not changed.
    """

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self.path = path
        self._busy_seconds = busy_seconds
        self.writing = threading.Lock()
        """Held during a transaction."""
        self._reading = threading.Lock()
        self._closed = False
        self._forked = False
        self._writes_durably: bool | None = None
        make_file(path)
        with ExitStack() as opened:
            self._writer = self._connect(opened)
            self._patiently(self._writer, self.writing, lambda connection: claim(connection, path))
            keep_private(path)
            self._writer.execute("pragma wal_autocheckpoint = 0").fetchone()
            self._reader = self._connect(opened)
            self._patiently(self._writer, self.writing, bound_cache)
            self._patiently(self._reader, self._reading, bound_cache)
            self._checkpoints = Checkpoints(self._connect(opened), self.writing, path.name)
            opened.pop_all()
        give_up_in_children(self)

    @property
    def forked(self) -> bool:
        """Whether this is a forked child's copy, whose locks may be held by threads that don't exist here."""
        return self._forked

    def check_not_forked(self) -> None:
        """Raise `StoreError` in a forked child."""
        if self._forked:
            raise StoreError("The store was opened before the process forked. Open it anew in the child.")

    def close(self) -> None:
        """Close the connections; the last one to close tidies the file up. Calling it again does nothing."""
        if self._forked:
            return
        self._checkpoints.close()
        with self.writing:
            self._closed = True
            self._writer.close()
        with self._reading:
            self._reader.close()

    def give_up_in_child(self) -> None:
        """Never touch the connections again, not even to close them when the child's memory is cleared.

        A closing connection rolls back what it believes to be its transaction, in memory that the parent
        shares. So the child's copies are made immortal, by a reference that nobody gives back.
        """
        self._forked = True
        for connection in (self._writer, self._reader, self._checkpoints.connection):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    def add_conversation(self, conversation_id: str, rows: Sequence[Row]) -> None:
        """Make a conversation that begins with `rows`, durably."""

        def add(connection: sqlite3.Connection) -> None:
            self._set_durability(durable=True)
            with Transaction(connection):
                number = connection.execute(
                    "insert into conversation (id, created_at) values (?, ?)", (conversation_id, time.time())
                ).lastrowid
                assert number is not None
                _insert(connection, [Batch(number, 0, rows)])

        self._patiently(self._writer, self.writing, add)

    def append(
        self,
        take: Callable[[], Sequence[Batch]],
        written: Callable[[], object],
        wait: Callable[[float], object],
    ) -> None:
        """Write what `take()` gives, in one transaction; durably, if one of the rows asks for it.

        `take` is called anew for each try, `written` after the one that succeeded, both with `writing` held.

        Raises:
            StoreError: nothing of it was written.
            NumberTaken: nothing of it was written; one conversation of it is not ours any more.
        """

        def write(connection: sqlite3.Connection) -> None:
            batches = take()
            if not batches:
                return
            self._set_durability(durable=any(row.durable for batch in batches for row in batch.rows))
            try:
                with Transaction(connection):
                    _insert(connection, batches)
            except sqlite3.IntegrityError as exc:
                for batch in batches:
                    if _last_number(connection, batch.conversation) > batch.after:
                        raise NumberTaken(batch.conversation) from exc
                raise
            written()
            self._checkpoints.wrote(_pages(batches))

        self._patiently(self._writer, self.writing, write, wait)

    def conversation_number(self, conversation_id: str) -> int | None:
        """The number of a conversation; None if there is none."""
        rows = self._read("select number from conversation where id = ?", (conversation_id,))
        return rows[0][0] if rows else None

    def last_number(self, conversation: int) -> int:
        """The number of the last entry, 0 if there is none."""
        return self._patiently(
            self._reader, self._reading, lambda connection: _last_number(connection, conversation)
        )

    def bodies(self, conversation: int, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` entries behind number `after`: their numbers and bodies, in order."""
        return self._read(
            "select number, body from entry where conversation = ? and number > ? order by number limit ?",
            (conversation, after, limit),
        )

    def headings(self) -> list[Heading]:
        """What a list shows of every conversation that is not deleted, the one written last first."""
        rows = self._read(
            """
            select
                id,
                coalesce(
                    (select written_at from entry where conversation = c.number order by number desc limit 1),
                    created_at
                ) as updated_at,
                (select body from entry where conversation = c.number and heading = 'titled'
                 order by number desc limit 1),
                (select body from entry where conversation = c.number and heading = 'user_message'
                 order by number limit 1)
            from conversation as c
            where not exists (select 1 from entry where conversation = c.number and heading = 'deleted')
            order by updated_at desc, c.number desc
            """
        )
        return [Heading(*row) for row in rows]

    def _connect(self, opened: ExitStack) -> sqlite3.Connection:
        try:
            connection = connect(self.path)
        except sqlite3.Error as exc:
            raise store_error(exc, self.path, self._busy_seconds) from exc
        opened.callback(connection.close)
        return connection

    def _set_durability(self, *, durable: bool) -> None:
        if durable is not self._writes_durably:
            self._writer.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._writes_durably = durable

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:  # Any: what a row holds
        return self._patiently(
            self._reader, self._reading, lambda connection: connection.execute(statement, values).fetchall()
        )

    def _patiently(
        self,
        connection: sqlite3.Connection,
        lock: threading.Lock,
        attempt: Callable[[sqlite3.Connection], T],
        wait: Callable[[float], object] = time.sleep,
    ) -> T:
        """What `attempt` returns, tried until no other process is in the way.

        There is nothing to be woken by when another process's transaction ends, so this waits in short
        slices, with no lock held.
        """
        give_up_at = time.monotonic() + self._busy_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            self.check_not_forked()
            try:
                with lock:
                    if self._closed:
                        raise StoreError(f"The store {str(self.path)!r} is closed.")
                    return attempt(connection)
            except sqlite3.Error as exc:
                if not is_busy(exc) or time.monotonic() > give_up_at:
                    raise store_error(exc, self.path, self._busy_seconds) from exc
            wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _insert(connection: sqlite3.Connection, batches: Sequence[Batch]) -> None:
    """Insert the rows of all batches, many with one statement.

    The interpreter's lock is let go at each statement, and in a process of a thousand threads it takes long to have it
    back: row by row, one would keep all others from writing for as many turns of theirs.
    """
    now = time.time()
    values = [
        (batch.conversation, number, now, row.heading, row.body)
        for batch in batches
        for number, row in enumerate(batch.rows, batch.after + 1)
    ]
    at, rows = 0, MAX_STATEMENT_ROWS
    while at < len(values):
        while rows > len(values) - at:
            rows //= 2  # powers of two, so that there are few statements, and SQLite knows them all
        connection.execute(_insertion(rows), [*chain.from_iterable(values[at : at + rows])])
        at += rows


@cache
def _insertion(rows: int) -> str:
    """The statement that inserts so many rows."""
    places = ", ".join(["(?, ?, ?, ?, ?)"] * rows)
    return f"insert into entry (conversation, number, written_at, heading, body) values {places}"


def _pages(batches: Sequence[Batch]) -> int:
    """About how many pages a transaction has written: one for each conversation, and what its rows fill."""
    return len(batches) + sum(len(row.body) for batch in batches for row in batch.rows) // PAGE_BYTES


def _last_number(connection: sqlite3.Connection, conversation: int) -> int:
    """The number of a conversation's last entry, 0 if there is none."""
    rows = connection.execute("select max(number) from entry where conversation = ?", (conversation,))
    number: int | None = rows.fetchone()[0]
    return number or 0
