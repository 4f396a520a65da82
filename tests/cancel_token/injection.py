"""Do something before any one of the bytecodes that an operation runs inside the package."""

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

import cancel_token

PACKAGE = os.path.dirname(cancel_token.__file__)
PREFIX = cancel_token.__name__ + "._"

Place = tuple[CodeType, int]  # a code object, and which of the bytecodes run in it, counted from the start


class Injector:
    """Runs a function and does something before one of its bytecodes inside the package.

    On Python 3.11 by `sys.settrace`; from 3.12 on by `sys.monitoring`, since tracing by bytecode misses some there.
    Only the code object of that bytecode is watched: watching all of them takes ten times as long.
    """

    active: "Injector | None" = None

    def __init__(self, at: Place | None, action: Callable[[], object]) -> None:
        self.at = at  # None: only note what is run
        self.action = action
        self.seen: list[CodeType] = []
        self.left = 0 if at is None else at[1]
        self.where: CodeType | None = None
        self.thread = threading.get_ident()

    def run(self, operation: Callable[[], object]) -> None:
        watched = codes_of_package() if self.at is None else {self.at[0]}
        Injector.active = self
        before = sys.gettrace()
        if sys.version_info >= (3, 12):
            watch(watched, sys.monitoring.events.INSTRUCTION)
        else:
            sys.settrace(self._trace)
        try:
            operation()
        finally:
            Injector.active = None
            if sys.version_info >= (3, 12):
                watch(watched, 0)
            else:
                sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not is_of_package(code) if self.at is None else code is not self.at[0]:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            Injector.step(code, 0)
        return self._trace

    @staticmethod
    def step(code: CodeType, _: int) -> None:
        self = Injector.active
        if self is None or self.thread != threading.get_ident():
            return
        if self.at is None:
            self.seen.append(code)
        elif self.left:
            self.left -= 1
        else:
            self.where = code
            Injector.active = None  # once is what we came for
            if sys.version_info < (3, 12):
                sys.settrace(None)
            self.action()


def is_of_package(code: CodeType) -> bool:
    return os.path.dirname(code.co_filename) == PACKAGE or code.co_filename.startswith("<attrs generated")


def codes_of_package() -> set[CodeType]:
    found: set[CodeType] = set()
    pending: list[object] = [vars(module) for name, module in sys.modules.items() if name.startswith(PREFIX)]
    seen: set[int] = set()
    while pending:
        thing = pending.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            pending += thing.values()
        elif isinstance(thing, type) and thing.__module__.startswith(PREFIX):
            pending += vars(thing).values()
        elif isinstance(thing, property):
            pending += [thing.fget]
        elif isinstance(thing, staticmethod | classmethod):
            pending += [thing.__func__]
        elif isinstance(thing, FunctionType):
            pending += [thing.__code__]
        elif isinstance(thing, CodeType) and is_of_package(thing):
            found.add(thing)
            pending += thing.co_consts
    return found


TOOL = 4  # one of those that nobody has claimed


def watch(codes: set[CodeType], events: int) -> None:
    if sys.version_info >= (3, 12):
        for code in codes:
            sys.monitoring.set_local_events(TOOL, code, events)


@contextlib.contextmanager
def monitoring() -> Iterator[None]:
    """What `Injector` needs around it."""
    if sys.version_info >= (3, 12):
        sys.monitoring.use_tool_id(TOOL, "injector")
        sys.monitoring.register_callback(TOOL, sys.monitoring.events.INSTRUCTION, Injector.step)
        try:
            yield
        finally:
            sys.monitoring.register_callback(TOOL, sys.monitoring.events.INSTRUCTION, None)
            sys.monitoring.free_tool_id(TOOL)
    else:
        yield


def bytecodes(prepare: Callable[[], Callable[[], object]]) -> list[Place]:
    """The bytecodes of the package, in order, that the operation runs which `prepare` makes ready."""
    noting = Injector(None, lambda: None)
    noting.run(prepare())
    assert len(noting.seen) > 10
    run_before: Counter[CodeType] = Counter()
    places = []
    for code in noting.seen:
        places.append((code, run_before[code]))
        run_before[code] += 1
    return places
