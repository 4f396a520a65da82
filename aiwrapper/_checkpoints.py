"""Moves what was written from the WAL into the file, where nobody waits for it.

Moving pages waits for the disk, long and often, and whoever writes must not: a stop's last entry least of all. So
SQLite does not do it behind a writer's commit, as it would by itself, but a thread on a connection of its own, which
lives for one checkpoint. Nobody has to wait for such a *passive* one, neither writers nor readers; and what it has
moved is on the disk, so that a commit has little to wait for.

A WAL that is written to without a pause is never moved to the end, and so would grow for ever. Once it is long, the
last pages are moved with `writing` held: few, because the others have just been moved.
"""

import sqlite3
import threading
from typing import Final

CHECKPOINT_PAGES: Final = 1_000
"""SQLite's own default, 4 MB."""

RESTART_PAGES: Final = 10_000
"""By hand: 40 MB."""


class Checkpoints:
    """The checkpoints of one file.

    Args:
        connection: for nobody else.
        writing: held during a transaction.
        name: of the file, for people.
        checkpoint_pages: how many are moved at a time, more or less.
        restart_pages: how long the WAL may become.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        writing: threading.Lock,
        name: str,
        *,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        restart_pages: int = RESTART_PAGES,
    ) -> None:
        self.connection = connection
        self._writing = writing
        self._name = name
        self._checkpoint_pages = checkpoint_pages
        self._restart_pages = restart_pages
        # Guarded by `writing`:
        self._pages = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def wrote(self, pages: int) -> None:
        """Note that about so many pages were written. Called with `writing`."""
        self._pages += pages
        if self._pages < self._checkpoint_pages or self._thread is not None or self._closed:
            return
        thread = threading.Thread(target=self._work, name=f"checkpoint of {self._name}")
        try:
            thread.start()
        except RuntimeError:  # there are no more threads, or the interpreter is shutting down
            return
        self._pages = 0
        self._thread = thread

    def close(self) -> None:
        """Move no more. The last one to close the file moves the rest."""
        with self._writing:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()
        self.connection.close()

    def _work(self) -> None:
        try:
            if self._move() > self._restart_pages:
                with self._writing:
                    self._move()
        except sqlite3.Error:
            pass  # what was not moved stays where it is, as good as moved; the next one tries again
        finally:
            with self._writing:
                self._thread = None

    def _move(self) -> int:
        """Move what can be moved, and return how many pages the WAL has."""
        _, pages, _ = self.connection.execute("pragma wal_checkpoint(passive)").fetchone()
        return int(pages)
