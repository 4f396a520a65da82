"""Opens the file of the store: makes it if it is not there, leaves alone what is not ours, keeps strangers out."""

import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from aiwrapper._core.errors import StoreError

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

CACHE_KIB = 256
"""How much of the file a connection that reads or writes keeps in memory; SQLite's default is 2,000.

Chosen by hand: a writer needs the last pages of what is being written, and a reader's are of no use once somebody has
written. With 200, 1,000 and 4,000 conversations neither writing nor listing them took longer than with the default,
which a server was seen to fill in the course of a thousand answers.
"""


def make_file(path: Path) -> None:
    """Make the file and its folder if they are not there.

    Raises:
        StoreError: they can't be made or written.
    """
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives the files beside it (-wal, -shm) the same rights.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise StoreError(
            f"The store {str(path)!r} can't be opened for writing: {exc.strerror}. "
            "Nothing was changed. Make the file and its folder writable, or name another file."
        ) from exc
    if not regular:
        raise StoreError(f"The store {str(path)!r} is no file. Name another one.")


def keep_private(path: Path) -> None:
    """Let nobody but its owner read it.

    Raises:
        StoreError: that can't be changed.
    """
    for name in (path, f"{path}-wal", f"{path}-shm"):
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


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there; it never waits for other processes by itself."""
    return sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",  # SQLite itself never makes the file
        uri=True,
        timeout=0,  # waiting is our affair: SQLite would sleep where nobody can stop it
        isolation_level=None,
        check_same_thread=False,  # each connection has its lock
    )


def claim(connection: sqlite3.Connection, path: Path) -> None:
    """See whether the file is ours, and make it so if it is empty. A foreign one is only read.

    Raises:
        StoreError: it is not, or a newer version wrote it.
    """
    if not _is_ours(connection, path):
        mode = connection.execute("pragma journal_mode = wal").fetchone()[0]
        if mode != "wal":  # pragma: no cover - needs a network drive
            raise StoreError(
                f"The store {str(path)!r} is on a file system that can't share memory, such as a network "
                "drive. Keep it on a local disk."
            )
        with Transaction(connection):
            if not _is_ours(connection, path):  # another process may have been faster
                for statement in SCHEMA:
                    connection.execute(statement)


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    application_id = connection.execute("pragma application_id").fetchone()[0]
    version = connection.execute("pragma user_version").fetchone()[0]
    if application_id == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The store {str(path)!r} was written by a newer version of this program (its format is "
                f"{version}, this version knows {SCHEMA_VERSION}). It was not changed. Upgrade to read it."
            )
        return True
    tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
    if application_id or version or tables:
        raise StoreError(
            f"{str(path)!r} is another program's database. It was not changed. Name another file."
        )
    return False


class Transaction:
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


def bound_cache(connection: sqlite3.Connection) -> None:
    """Bound what the connection keeps of the file in memory."""
    connection.execute(f"pragma cache_size = -{CACHE_KIB}")
