"""The debug switch: where was each child and registration made? (T-S8)"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

recording: list[object] = []  # not empty while somebody records; the hot paths ask only for its truth


@contextlib.contextmanager
def record_origins() -> Iterator[None]:
    """Record, within the block, where each child and each registration is made, for `token.stats().origins`.

    It is for finding leaks: it applies to all threads and costs several times a registration.
    """
    switch = object()
    recording.append(switch)
    try:
        yield
    finally:
        recording.remove(switch)


def note_origin(made: Any) -> None:
    """Write down the first line outside this package that led here."""
    package = os.path.dirname(__file__)
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == package:
        frame = frame.f_back
    made._where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def known_origins(things: Iterable[Any]) -> tuple[str, ...]:
    """The origins of those that have one."""
    return tuple(thing._where for thing in things if hasattr(thing, "_where"))
