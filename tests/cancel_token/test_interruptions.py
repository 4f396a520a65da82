"""Something comes in between any two bytecodes: a signal handler, a finalizer, a KeyboardInterrupt (T-S3, T-S6)."""

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

import cancel_token
from cancel_token import CancelToken, Registration
from tests.cancel_token.cases import count

PACKAGE = os.path.dirname(cancel_token.__file__)
PREFIX = cancel_token.__name__ + "._"


class Injector:
    """Runs a function and does something before its n-th bytecode inside the package.

    On Python 3.11 by `sys.settrace`; from 3.12 on by `sys.monitoring`, since tracing by bytecode misses some there.
    """

    active: "Injector | None" = None

    def __init__(self, at: int | None, action: Callable[[], object]) -> None:
        self.at = at
        self.action = action
        self.seen = 0
        self.where: CodeType | None = None
        self.thread = threading.get_ident()

    def run(self, operation: Callable[[], object]) -> None:
        before = sys.gettrace()
        Injector.active = self
        if sys.version_info < (3, 12):
            sys.settrace(self._trace)
        try:
            operation()
        finally:
            Injector.active = None
            if sys.version_info < (3, 12):
                sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not is_of_package(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            Injector.step(frame.f_code, 0)
        return self._trace

    @staticmethod
    def step(code: CodeType, _: int) -> None:
        self = Injector.active
        if self is None or self.thread != threading.get_ident():
            return
        self.seen += 1
        if self.seen - 1 == self.at:
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


@pytest.fixture(autouse=True)
def monitored() -> Iterator[None]:
    if sys.version_info >= (3, 12):
        monitoring, tool = sys.monitoring, 4
        monitoring.use_tool_id(tool, "injector")
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, Injector.step)
        codes = codes_of_package()
        for code in codes:
            monitoring.set_local_events(tool, code, monitoring.events.INSTRUCTION)
        yield
        for code in codes:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(tool)
    else:
        yield


def bytecodes(prepare: Callable[[], Callable[[], object]]) -> int:
    """How many bytecodes of the package the operation runs that `prepare` makes ready."""
    counting = Injector(None, lambda: None)
    counting.run(prepare())
    assert counting.seen > 10
    return counting.seen


class Scene:
    """A small tree with callbacks on it, and what happened to them."""

    def __init__(self) -> None:
        self.root = CancelToken()
        self.middle = self.root.child()
        self.leaf = self.middle.child()
        self.ran: list[str] = []
        self.left: list[str] = []  # unregister() said that it was in time
        self.maybe: list[str] = []  # their on_cancel() was interrupted before it returned
        self.registrations: dict[str, Registration] = {}
        self.made: list[CancelToken] = []
        for name, token in [("root", self.root), ("leaf", self.leaf), ("leaf 2", self.leaf)]:
            self.register(name, token)

    def register(self, name: str, token: CancelToken) -> None:
        self.maybe.append(name)
        self.registrations[name] = token.on_cancel(self.ran.append, name)
        self.maybe.remove(name)

    def unregister(self, *names: str) -> None:
        for name in names:
            if self.registrations[name].unregister():
                self.left.append(name)

    def register_late(self) -> None:
        self.root.cancel()
        self.register("late", self.leaf)

    def make_child(self) -> None:
        self.made.append(self.leaf.child())

    def end(self) -> None:
        """Cancel what is not yet cancelled; then everything must have come out even."""
        self.root.cancel("the end")
        self.middle.cancel("the end, in case it was closed")

        for token in (self.root, self.middle, self.leaf, *self.made):
            assert token.cancelled
            assert token.reason is not None
            assert not token._held
            assert token._running is None
        for name in self.registrations:
            assert (0 if name in self.left else 1) == self.ran.count(name), name
        for name in self.maybe:
            assert self.ran.count(name) <= 1, name


OPERATIONS: dict[str, Callable[[Scene], object]] = {
    "register": lambda scene: scene.register("new", scene.leaf),
    "register on root": lambda scene: scene.register("new", scene.root),
    "cancel": lambda scene: scene.root.cancel("operation"),
    "cancel leaf": lambda scene: scene.leaf.cancel("operation"),
    "unregister": lambda scene: scene.unregister("leaf"),
    "unregister all": lambda scene: scene.unregister("leaf", "leaf 2"),
    "close registration": lambda scene: scene.registrations["root"].close(),
    "child": lambda scene: scene.make_child(),
    "close token": lambda scene: scene.middle.close(),
    "late register": lambda scene: scene.register_late(),
    "wait": lambda scene: scene.leaf.wait(0.000_001),
}

COMES_IN: dict[str, Callable[[Scene], object]] = {
    "cancel": lambda scene: scene.root.cancel("came in"),
    "cancel leaf": lambda scene: scene.leaf.cancel("came in"),
    "register": lambda scene: scene.register("came in", scene.leaf),
    "unregister": lambda scene: scene.unregister("leaf 2"),
    "child": lambda scene: scene.make_child(),
}


def comes_by_call(act: Callable[[], object]) -> Callable[[], object]:
    return act


def comes_by_finalizer(act: Callable[[], object]) -> Callable[[], object]:
    class Dying:
        def __del__(self) -> None:
            act()

    alive = [Dying()]
    return alive.clear


def comes_by_weakref_callback(act: Callable[[], object]) -> Callable[[], object]:
    class Dying:
        pass

    alive = [Dying()]
    watch = weakref.ref(alive[0], lambda _: act())

    def die() -> None:
        alive.clear()
        assert watch() is None

    return die


def comes_by_signal(act: Callable[[], object]) -> Callable[[], object]:
    def send() -> None:
        before = signal.signal(signal.SIGUSR1, lambda *_: act() and None)
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)

    return send


def try_every_bytecode(
    operation: Callable[[Scene], object],
    comes_in: Callable[[Scene], object],
    way: Callable[[Callable[[], object]], Callable[[], object]],
) -> int:
    def prepare() -> Callable[[], object]:
        scene = Scene()
        return lambda: operation(scene)

    cases = bytecodes(prepare)
    for at in range(cases):
        scene = Scene()
        injector = Injector(at, way(lambda scene=scene: comes_in(scene)))  # type: ignore[misc]  # bound early
        injector.run(lambda scene=scene: operation(scene))  # type: ignore[misc]  # bound early
        assert injector.where is not None
        if operation is OPERATIONS["close registration"] and "root" not in scene.ran:
            scene.left.append("root")
        scene.end()
    return cases


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "way", [comes_by_call, comes_by_finalizer, comes_by_weakref_callback, comes_by_signal]
)
def test_t_s6_anything_may_come_in_between_any_two_bytecodes(
    operation: str,
    way: Callable[[Callable[[], object]], Callable[[], object]],
    request: pytest.FixtureRequest,
) -> None:
    for what in COMES_IN if way is comes_by_call else ["cancel"]:
        cases = try_every_bytecode(OPERATIONS[operation], COMES_IN[what], way)
        count(request.config, f"token, something {way.__name__.replace('_', ' ')} at every bytecode", cases)


@pytest.mark.parametrize("target", ["root", "leaf"])
@pytest.mark.parametrize("already", [False, True])
def test_t_s3_a_keyboard_interrupt_in_cancel_loses_nothing(
    target: str, already: bool, request: pytest.FixtureRequest
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def make() -> tuple[Scene, CancelToken]:
        scene = Scene()
        token: CancelToken = getattr(scene, target)
        if already:
            token.cancel("already")
        return scene, token

    def prepare() -> Callable[[], object]:
        scene, token = make()
        return lambda: (scene, token.cancel("operation"))

    cases = bytecodes(prepare)
    not_begun = []
    for at in range(cases):
        scene, token = make()
        injector = Injector(at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            injector.run(lambda token=token: token.cancel("operation"))  # type: ignore[misc]  # bound early
        if not token.cancelled:
            not_begun.append(at)
            assert injector.where is not None
            assert CancelToken.cancel.__code__ is injector.where
            assert [] == scene.ran
        else:
            expected = ["leaf 2", "leaf", "root"] if target == "root" else ["leaf 2", "leaf"]
            assert expected == scene.ran
            assert scene.leaf.cancelled
        scene.end()
    # Before the first instruction of the function's try statement nothing has been begun that could be lost.
    assert not_begun == list(range(len(not_begun)))
    assert len(not_begun) <= 3
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel()", cases)


def test_t_s3_a_keyboard_interrupt_does_not_lose_what_callbacks_raised(
    request: pytest.FixtureRequest,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def fail(error: Exception) -> None:
        raise error

    def make() -> tuple[CancelToken, list[Exception]]:
        token = CancelToken()
        errors: list[Exception] = [ValueError(), TypeError()]
        for error in errors:
            token.on_cancel(fail, error)
        return token, errors

    def prepare() -> Callable[[], object]:
        token, _ = make()

        def cancel() -> None:
            with pytest.raises(BaseExceptionGroup):
                token.cancel()

        return cancel

    cases = bytecodes(prepare)
    for at in range(cases):
        token, errors = make()
        with pytest.raises(KeyboardInterrupt) as caught:
            Injector(at, interrupt).run(token.cancel)
        group = caught.value.__cause__
        if token.cancelled and group is not None:  # without: nothing had been begun, see above
            assert isinstance(group, BaseExceptionGroup)
            assert {id(error) for error in group.exceptions} <= {id(error) for error in errors}
        assert not token._held or not token.cancelled
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel()", cases)


def test_t_s3_a_keyboard_interrupt_in_cancel_soon_leaves_no_callback_behind(
    request: pytest.FixtureRequest,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    cases = bytecodes(lambda: CancelToken().cancel_soon)
    for at in range(cases):
        token = CancelToken()
        ran = threading.Event()
        token.on_cancel(ran.set)
        with pytest.raises(KeyboardInterrupt):
            Injector(at, interrupt).run(token.cancel_soon)
        if not token._reasons:
            token.cancel_soon()
        ran.wait()
        assert token.cancelled
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel_soon()", cases)
