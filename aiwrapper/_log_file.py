"""The file of the store: SQLite.

One row an entry, numbered 1, 2, ... in its conversation; its body is the entry's JSON and is all that is
known of it. Beside it stand two things that could be read off the body, for listing without reading whole
logs: the kind of the few entries a list shows (`heading`), and when the row was written.

The key (conversation, number) is the last line of defence: should two writers ever believe that they hold
the same conversation, the second one's insert fails instead of mixing two logs.

Three connections: one writes, one reads, and one moves what was written from the WAL into the file
(`_checkpoints.py`). In WAL mode a reader never waits for a writer, so reading a long log delays nobody's
text. Lock order: `writing` and `_reading` are never held together.
"""

import ctypes
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from attrs import frozen

from aiwrapper._checkpoints import Checkpoints
from aiwrapper._core.errors import StoreError
from aiwrapper._core.log import Entry
from aiwrapper._fork import give_up_in_children
from aiwrapper._log_errors import is_busy, store_error

APPLICATION_ID = 0x61697772  # "aiwr", in the header of the file: what `file` shows, and how we know ours
SCHEMA_VERSION = 1
SCHEMA = (
    """
    create table conversation (
        number integer primary key,
        id text not null unique,
        created_at real not null
    )
    """,
    """
    create table entry (
        conversation integer not null references conversation (number),
        number integer not null,
        written_at real not null,
        heading text,
        body blob not null,
        primary key (conversation, number)
    ) without rowid
    """,
    # Only entries with a heading are in it, so a delta costs one insert, not two.
    "create index entry_heading on entry (conversation, heading, number) where heading is not null",
    f"pragma application_id = {APPLICATION_ID}",
    f"pragma user_version = {SCHEMA_VERSION}",
)

PAGE_BYTES = 4096  # SQLite's default
CACHE_KIB = 256
"""How much of the file a connection that reads or writes keeps in memory; SQLite's default is 2,000.

Chosen by hand: a writer needs the last pages of what is being written, and a reader's are of no use once somebody has
written. With 200, 1,000 and 4,000 conversations neither writing nor listing them took longer than with the default,
which a server was seen to fill in the course of a thousand answers.
"""
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
    """What a list shows of a conversation: the bodies of its latest entries with these headings."""

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
        self._make()
        with ExitStack() as opened:
            self._writer = self._connect(opened)
            self._patiently(self._writer, self.writing, self._claim)
            self._keep_private()
            self._writer.execute("pragma wal_autocheckpoint = 0").fetchone()
            self._reader = self._connect(opened)
            self._patiently(self._writer, self.writing, _keep_little)
            self._patiently(self._reader, self._reading, _keep_little)
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
            with _Transaction(connection):
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
                with _Transaction(connection):
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
                 order by number desc limit 1)
            from conversation as c
            where not exists (select 1 from entry where conversation = c.number and heading = 'deleted')
            order by updated_at desc, c.number desc
            """
        )
        return [Heading(*row) for row in rows]

    def _make(self) -> None:
        try:
            if not self.path.parent.exists():
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives the files beside it (-wal, -shm) the same rights.
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise StoreError(
                f"The store {str(self.path)!r} can't be opened for writing: {exc.strerror}. "
                "Nothing was changed. Make the file and its folder writable, or name another file."
            ) from exc
        if not regular:
            raise StoreError(f"The store {str(self.path)!r} is no file. Name another one.")

    def _keep_private(self) -> None:
        for name in (self.path, f"{self.path}-wal", f"{self.path}-shm"):
            try:
                if os.name == "posix" and os.stat(name).st_mode & 0o077:
                    os.chmod(name, 0o600)
            except FileNotFoundError:
                pass  # the files beside it come and go
            except OSError as exc:
                raise StoreError(
                    f"The store {str(name)!r} can be read by others, and that can't be changed: {exc.strerror}. "
                    "Let it belong to you, or name another file."
                ) from exc

    def _connect(self, opened: ExitStack) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(self.path.absolute()))}?mode=rw",  # SQLite itself never makes the file
                uri=True,
                timeout=0,  # waiting is our affair: SQLite would sleep where nobody can stop it
                isolation_level=None,
                check_same_thread=False,  # each connection has its lock
            )
        except sqlite3.Error as exc:
            raise store_error(exc, self.path, self._busy_seconds) from exc
        opened.callback(connection.close)
        return connection

    def _claim(self, connection: sqlite3.Connection) -> None:
        """See whether the file is ours, and make it so if it is empty. A foreign one is only read."""
        if not self._is_ours(connection):
            mode = connection.execute("pragma journal_mode = wal").fetchone()[0]
            if mode != "wal":  # pragma: no cover - needs a network drive
                raise StoreError(
                    f"The store {str(self.path)!r} is on a file system that can't share memory, such as a network "
                    "drive. Keep it on a local disk."
                )
            with _Transaction(connection):
                if not self._is_ours(connection):  # another process may have been faster
                    for statement in SCHEMA:
                        connection.execute(statement)

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        application_id = connection.execute("pragma application_id").fetchone()[0]
        version = connection.execute("pragma user_version").fetchone()[0]
        if application_id == APPLICATION_ID:
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"The store {str(self.path)!r} was written by a newer version of this program (its format is "
                    f"{version}, this version knows {SCHEMA_VERSION}). It was not changed. Upgrade to read it."
                )
            return True
        tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
        if application_id or version or tables:
            raise StoreError(
                f"{str(self.path)!r} is another program's database. It was not changed. Name another file."
            )
        return False

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


class _Transaction:
    """`BEGIN IMMEDIATE` to `COMMIT`. The right to write is taken at once: it can't be had later without a race."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("begin immediate")

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        try:
            if kind is None:
                self._connection.execute("commit")
        finally:
            if self._connection.in_transaction:  # SQLite ends it by itself on some errors, not on all
                self._connection.execute("rollback")


def _keep_little(connection: sqlite3.Connection) -> None:
    connection.execute(f"pragma cache_size = -{CACHE_KIB}")


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
