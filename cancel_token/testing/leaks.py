"""What a run may leave behind: threads, file descriptors, child processes, temporary files, registrations on the token.

Looked at before and after, cheaply enough for every attempt: a leak at one point in a thousand is still a leak.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import attrs

from cancel_token._registration import Registration
from cancel_token._token import CancelToken

Resource = Literal["threads", "tasks", "fds", "children", "registrations", "temp_files"]

# Daemon threads that cancel_token and trio keep, by the beginning of their names. They wait for something to do.
KEPT_THREADS = ("cancel_token service", "cancel_token resolver", "Trio thread ")


@attrs.frozen
class Snapshot:
    """What was there at one moment; made by `snapshot()`."""

    threads: frozenset[threading.Thread] | None = None
    fds: frozenset[int] | None = None
    children: frozenset[int] | None = None
    temp_files: frozenset[str] | None = None


def snapshot(*resources: Resource) -> Snapshot:
    """Look at what there is now.

    Args:
        *resources: What to look at. `"registrations"` belong to a token and not to a moment, see `registrations()`;
            `"tasks"` to a loop, at whose end an exploration looks for them. `"temp_files"` are the names in
            `tempfile.gettempdir()`, whoever has made them; see `private_temp_dir()`.

    Raises:
        ValueError: There is no such resource, or this platform cannot list it.
    """
    for resource in resources:
        if resource not in get_args(Resource):
            raise ValueError(f"unknown resource {resource!r}: expected one of {get_args(Resource)}")
    return Snapshot(
        threads=frozenset(threading.enumerate()) if "threads" in resources else None,
        fds=_open_fds() if "fds" in resources else None,
        children=_children() if "children" in resources else None,
        temp_files=frozenset(os.listdir(tempfile.gettempdir())) if "temp_files" in resources else None,
    )


def left_since(before: Snapshot, *, grace_seconds: float = 5.0) -> tuple[str, ...]:
    """Say what is there now and was not there before.

    If anything is left, the garbage is collected once: so the
    next look is not troubled by it, and the answer says whether it would have gone by itself.

    Args:
        before: From `snapshot()`.
        grace_seconds: How long a thread may take to end; the default is for busy machines.

    Returns:
        One text for each kind of thing, empty if nothing was left.
    """
    left = _difference(before, grace_seconds)
    if not left:
        return ()
    gc.collect()
    still = _difference(before, 0)
    return tuple(
        text if resource in still else f"{text} (until the next run of the garbage collector)"
        for resource, text in left.items()
    )


class Watch:
    """Looks again and again, for what has come since it looked last.

    Args:
        *resources: As for `snapshot()`.
        grace_seconds: As for `left_since()`.

    Raises:
        ValueError: As `snapshot()`.
    """

    def __init__(self, *resources: Resource, grace_seconds: float = 5.0) -> None:
        self._resources = resources
        self._grace_seconds = grace_seconds
        self._before = snapshot(*resources)

    def look(self) -> tuple[str, ...]:
        """Say what is there now and was not there at the last look, as `left_since()` does."""
        before, self._before = self._before, snapshot(*self._resources)
        if self._before == before:
            return ()
        left = left_since(before, grace_seconds=self._grace_seconds)
        self._before = snapshot(*self._resources)
        return left


@contextmanager
def private_temp_dir() -> Iterator[str]:
    """Give this process, and those that it starts, a directory of its own for temporary files.

    Yields:
        The directory, which goes away with all that is in it at the end of the block.
    """
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="cancel-points-") as directory:
        tempfile.tempdir = os.environ["TMPDIR"] = directory
        try:
            yield directory
        finally:
            tempfile.tempdir = before
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable


def registrations(token: CancelToken) -> int:
    """Count the callbacks that are still armed on `token` and on all the tokens below it."""
    count = 0
    stack = [token]
    while stack:
        token = stack.pop()
        count += sum(isinstance(key, Registration) for key in list(token._held))
        stack.extend(child for link in list(token._children) if (child := link()) is not None)
    return count


def _difference(before: Snapshot, grace_seconds: float) -> dict[str, str]:
    left: dict[str, str] = {}
    if before.threads is not None:
        threads = [
            thread
            for thread in threading.enumerate()
            if thread not in before.threads and not thread.name.startswith(KEPT_THREADS)
        ]
        for thread in threads:
            thread.join(grace_seconds)
        if names := sorted(thread.name for thread in threads if thread.is_alive()):
            left["threads"] = f"threads: {', '.join(names)}"
    if before.fds is not None and (fds := sorted(_open_fds() - before.fds)):
        left["fds"] = f"file descriptors: {', '.join(map(_describe_fd, fds))}"
    if before.children is not None and (children := sorted(_children() - before.children)):
        left["children"] = f"child processes: {', '.join(map(str, children))}"
    if before.temp_files is not None:
        directory = tempfile.gettempdir()
        if names := sorted(frozenset(os.listdir(directory)) - before.temp_files):
            left["temp_files"] = f"temporary files: {', '.join(names)} in {directory}"
    return left


def _open_fds() -> frozenset[int]:
    try:
        numbers = set(map(int, os.listdir("/dev/fd")))
    except FileNotFoundError:
        raise ValueError(f"file descriptors cannot be listed on {sys.platform}") from None
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest free number: the one that listdir() has just used
    os.close(free)
    numbers.discard(free)
    return frozenset(numbers)


def _describe_fd(fd: int) -> str:
    try:
        return f"{fd} ({os.readlink(f'/proc/self/fd/{fd}')})"
    except OSError:  # no /proc, or it is gone by now
        return str(fd)


def _children() -> frozenset[int]:
    found: set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                    found.update(map(int, file.read().split()))
            except ProcessLookupError:  # the thread has ended; its children are another's now
                pass
    except FileNotFoundError:
        raise ValueError(f"child processes cannot be listed on {sys.platform}") from None
    return frozenset(found)
