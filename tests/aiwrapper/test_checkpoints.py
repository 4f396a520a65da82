"""The WAL is moved into the file beside those who write, and begun anew."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiwrapper._checkpoints import Checkpoints

PAGE_BYTES = 4096
PAGES = 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma wal_autocheckpoint = 0")
    connection.execute("create table page (body blob)")
    yield connection
    connection.close()


def checkpoints(path: Path, writing: threading.Lock, *, restart_pages: int) -> Checkpoints:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    return Checkpoints(connection, writing, path.name, checkpoint_pages=PAGES, restart_pages=restart_pages)


def write(connection: sqlite3.Connection, pages: int = PAGES) -> None:
    connection.executemany("insert into page values (zeroblob(?))", [(PAGE_BYTES,)] * pages)


def test_what_was_written_is_moved_once_it_is_much(path: Path, writer: sqlite3.Connection) -> None:
    writing = threading.Lock()
    moving = checkpoints(path, writing, restart_pages=10 * PAGES)
    write(writer)
    with writing:
        moving.wrote(PAGES - 1)
    before = path.stat().st_size
    with writing:
        moving.wrote(1)
    moving.close()  # waits for it

    assert before < PAGES * PAGE_BYTES <= path.stat().st_size


def test_a_wal_that_is_long_is_begun_anew(path: Path, writer: sqlite3.Connection) -> None:
    wal = path.with_name(f"{path.name}-wal")
    writing = threading.Lock()
    moving = checkpoints(path, writing, restart_pages=1)
    write(writer)
    with writing:
        moving.wrote(PAGES)
    moving.close()
    before = wal.stat().st_size
    write(writer, PAGES // 2)

    assert before == wal.stat().st_size


def test_a_file_that_cannot_be_moved_to_costs_nothing(path: Path, writer: sqlite3.Connection) -> None:
    writing = threading.Lock()
    moving = checkpoints(path, writing, restart_pages=1)
    moving.connection.execute("begin")
    moving.connection.execute("select * from page").fetchall()  # in a transaction there is no checkpoint
    write(writer)
    with writing:
        moving.wrote(PAGES)
    moving.close()

    assert PAGES == writer.execute("select count(*) from page").fetchone()[0]


def test_nothing_is_begun_after_closing(path: Path, writer: sqlite3.Connection) -> None:
    writing = threading.Lock()
    moving = checkpoints(path, writing, restart_pages=1)
    moving.close()
    with writing:
        moving.wrote(10 * PAGES)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint of")]
