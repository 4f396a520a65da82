"""Line events of the code under test: `sys.settrace` on 3.11, `sys.monitoring` from 3.12 on."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, ModuleType
from typing import Any

from cancel_token.testing._points import here

Target = ModuleType | type | Callable[..., object]

TOOL_ID = 4  # of the six; 0 to 2 and 5 are meant for debuggers, coverage, profilers and optimizers


def file_of(target: Target) -> str | None:
    """The source file of a module, class or callable; None for what is built in."""
    while isinstance(target, partial):
        target = target.func
    if isinstance(target, ModuleType):
        return getattr(target, "__file__", None)  # `sys` has none
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is None:
        target = target if isinstance(target, type) else type(target)
        return getattr(sys.modules.get(target.__module__), "__file__", None)
    return str(code.co_filename)


class LineEvents:
    """Makes every line of the targets a point, in threads that have a lane.

    Args:
        targets: Modules (a package with all that is below it), classes and functions (all of their file).
    """

    def __init__(self, targets: Iterable[Target]) -> None:
        self._files: set[str] = set()
        self._directories: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}
        for target in targets:
            self.add(target)

    def add(self, target: Target) -> None:
        """Watch this one, too; what is built in has no lines."""
        file = file_of(target)
        if file is None or self._is_target(file):
            return
        if isinstance(target, ModuleType) and os.path.basename(file) == "__init__.py":
            self._directories += (os.path.dirname(file) + os.sep,)
        else:
            self._files.add(file)
        self._known.clear()
        if sys.version_info >= (3, 12):
            sys.monitoring.restart_events()  # what was found to be no target may be one now

    def _is_target(self, file: str) -> bool:
        known = self._known.get(file)
        if known is None:
            known = self._known[file] = file in self._files or file.startswith(self._directories)
        return known

    if sys.version_info >= (3, 12):

        @contextmanager
        def installed(self) -> Iterator[None]:
            """Watch for the length of the block."""
            monitoring = sys.monitoring
            monitoring.use_tool_id(TOOL_ID, "cancel_token.testing")
            try:
                monitoring.register_callback(TOOL_ID, monitoring.events.LINE, self._line)
                monitoring.set_events(TOOL_ID, monitoring.events.LINE)
                monitoring.restart_events()
                yield
            finally:
                monitoring.set_events(TOOL_ID, 0)
                monitoring.register_callback(TOOL_ID, monitoring.events.LINE, None)
                monitoring.free_tool_id(TOOL_ID)

        @contextmanager
        def in_thread(self) -> Iterator[None]:
            """Nothing to do: events come from all threads."""
            yield

        def _line(self, code: CodeType, line: int) -> object:
            if not self._is_target(code.co_filename):
                return sys.monitoring.DISABLE
            lane = here.lane
            if lane is not None:
                lane.reach("line", code, line)
            return None

    else:

        @contextmanager
        def installed(self) -> Iterator[None]:
            """Nothing to do: each thread is traced by itself."""
            yield

        @contextmanager
        def in_thread(self) -> Iterator[None]:
            """Trace this thread for the length of the block; a tracer that is there rests meanwhile."""
            before = sys.gettrace()
            sys.settrace(self._call)
            try:
                yield
            finally:
                sys.settrace(before)

        def _call(self, frame: FrameType, event: str, _: Any) -> Any:
            return self._event if self._is_target(frame.f_code.co_filename) else None

        def _event(self, frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                lane = here.lane
                if lane is not None:
                    lane.reach("line", frame.f_code, frame.f_lineno)
            return self._event
