"""The right to append to one conversation, held through the kernel.

A lease is an exclusive lock on a small file beside the store. The kernel frees it when its holder dies,
however it dies, so there is nothing to expire, to renew or to clean up after a crash.

It is `flock` and not `lockf`: the locks of `lockf` belong to the process, so two threads of one process
would both get the lease, and closing any other descriptor of the file would silently drop it.
"""

import os
import sys
from pathlib import Path
from typing import BinaryIO

from aiwrapper._core.errors import Busy, StoreError
from aiwrapper._fork import give_up_in_children

if sys.platform == "win32":  # pragma: no cover - best effort
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the text, which others may then still read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class Lease:
    """An exclusive lock on the file `path`, taken by the constructor without waiting.

    Raises:
        Busy: another process, or another lease of this one, holds it.
        StoreError: the lock file can't be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        give_up_in_children(self)  # before the lock, so that no fork falls in between
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            while self._file is None:
                self._file = self._locked_file()
        except OSError as exc:
            raise StoreError(
                f"The lock file {str(path)!r} can't be used: {exc.strerror}. Nothing was changed. "
                "Make its folder writable, or keep the conversations elsewhere."
            ) from exc

    def release(self) -> None:
        """Give the lease back. Calling it again does nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            try:
                os.unlink(self.path)  # while it is locked: see `_locked_file`
            except OSError:
                pass  # Windows keeps open files, and somebody may have cleaned up: an empty file more or less
            # Said explicitly: a child forked by foreign code may hold a copy of the descriptor.
            _unlock(file.fileno())

    def give_up_in_child(self) -> None:
        """Close the child's copy of the descriptor, which leaves the parent's lock alone; unlocking would not."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _locked_file(self) -> BinaryIO | None:
        """The file, locked, with our process id in it; None if it has to be tried again."""
        # A file object and not a bare descriptor: one that is forgotten says so, with a ResourceWarning.
        file = open(self.path, "r+b", buffering=0, opener=_open_private)  # noqa: SIM115 - kept open
        try:
            _lock(file.fileno())
        except (BlockingIOError, PermissionError):  # what the systems call "locked by somebody else"
            with file:
                holder = file.read(20).decode("ascii", "replace").strip()
            holder = "already" if holder in ("", str(os.getpid())) else f"in process {holder}"
            raise Busy(
                f"The conversation is open {holder}. Leave or stop it there first, or start another one."
            ) from None
        except OSError:  # a file system without locks
            file.close()
            raise
        # The holder before us may have removed the file between our opening and our locking it: then this is
        # a lock that nobody else can see.
        if not _is_at(file, self.path):
            file.close()
            return None
        try:
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        except OSError:
            pass  # a courtesy for whoever finds it busy; a full disk must not cost the lease
        return file


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
