"""Where something stands in the source, for people: at the line that is their own, of all that led there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from types import CodeType, FrameType, TracebackType

import cancel_token
from cancel_token.testing._points import site_of

_STANDARD = os.path.dirname(os.__file__) + os.sep
_TESTING = os.path.dirname(__file__) + os.sep


def frames_of(traceback: TracebackType | None) -> list[tuple[CodeType, int]]:
    """Code and line of what an exception came through, from where it was raised outwards."""
    found: list[tuple[CodeType, int]] = []
    while traceback is not None:
        found.append((traceback.tb_frame.f_code, traceback.tb_lineno))
        traceback = traceback.tb_next
    return found[::-1]


def place_of_thread(ident: int | None) -> str:
    """The innermost line at which a thread stands that is of no library we know; else nothing."""
    frame: FrameType | None = None if ident is None else sys._current_frames().get(ident)
    while frame is not None:
        if not _is_known(frame.f_code.co_filename):
            return site_of(("line", frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return ""


def place_of(frames: Iterable[tuple[CodeType, int]]) -> str:
    """The innermost that is of no library we know; else the innermost that is not of the harness; else nothing."""
    frames = list(frames)
    for left_out in (_is_known, is_internal, lambda file: file.startswith(_TESTING)):
        for code, line in frames:
            if not left_out(code.co_filename):
                return site_of(("line", code, line))
    return ""


def _is_known(file: str) -> bool:
    return is_internal(file) or (file.startswith(_STANDARD) and "-packages" not in file)


@lru_cache(None)  # as many entries as there are source files
def is_internal(file: str) -> bool:
    """Is it of this package, or of a runtime?"""
    return file.startswith(_internal_directories())


@lru_cache(1)
def _internal_directories() -> tuple[str, ...]:
    return (*_directories(), "<frozen")


def _directories() -> Iterator[str]:
    yield os.path.dirname(cancel_token.__file__) + os.sep
    for name in ("asyncio", "trio", "anyio"):  # found, not loaded: blocking code needs none of them
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            yield os.path.dirname(spec.origin) + os.sep
