"""What can go wrong with the file of a store, in words that say what to do."""

import sqlite3
from pathlib import Path

from aiwrapper._core.errors import StoreError


def store_error(exc: sqlite3.Error, file: Path, busy_seconds: float) -> StoreError:
    """What happened, for people, and what they can do.

    Args:
        exc: the error.
        file: the store.
        busy_seconds: how long others that write were waited for.
    """
    path = str(file)
    match _primary_code(exc):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_PROTOCOL:
            told = (
                f"Another process has been writing to the store {path!r} for {busy_seconds:g} seconds. "
                "Look for one that hangs or is suspended, and try again."
            )
        case sqlite3.SQLITE_FULL:
            told = (
                f"The disk is full: {path!r} can't take more. What was written before is kept. "
                "Free some space and try again."
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            told = (
                f"The store {path!r} can't be opened for writing ({exc}). What was written before is kept. "
                "Make the file, the files beside it and their folder writable, or name another file."
            )
        case sqlite3.SQLITE_CORRUPT:
            told = (
                f"The store {path!r} is damaged ({exc}). It was not changed. Copy it and try "
                "`sqlite3 COPY .recover`, or name another file."
            )
        case sqlite3.SQLITE_NOTADB:
            told = f"{path!r} is not a store. It was not changed. Name another file."
        case sqlite3.SQLITE_IOERR:
            told = (
                f"The store {path!r} could not be read or written ({exc}; "
                f"{getattr(exc, 'sqlite_errorname', 'unknown')}). What was written before is kept. "
                "Look at the disk and its free space, and try again."
            )
        case _:
            told = f"The store {path!r} could not be used: {exc}."
    return StoreError(told)


def _primary_code(exc: sqlite3.Error) -> int:
    # Extended codes carry the primary one in the lowest byte; errors of the Python module have none.
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def is_busy(exc: sqlite3.Error) -> bool:
    """Whether another process is in the way, so that it is worth trying again."""
    return _primary_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL)
