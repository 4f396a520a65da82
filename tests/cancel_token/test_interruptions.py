"""Something comes in between any two bytecodes: a signal handler, a finalizer, a KeyboardInterrupt (T-S3, T-S6)."""

import functools
import signal
import threading
import weakref
from _thread import LockType
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from cancel_token import CancelToken, Registration
from cancel_token.testing import ManualClock
from tests.cancel_token.cases import count
from tests.cancel_token.injection import Injector, bytecodes, monitoring
from tests.cancel_token.stalling import Call

Test = TypeVar("Test", bound=Callable[..., None])


def in_a_thread_of_its_own(test: Test) -> Test:
    """An exception that comes at the very end of an `except` block leaves CPython's record of what is being handled
    behind: everything that the thread raises later gets it as its `__context__`. So the thread ends with the test.
    """

    @functools.wraps(test)
    def run_it(*args: Any, **kwargs: Any) -> None:
        call = Call(lambda: test(*args, **kwargs)).join()
        if call.error is not None:
            raise call.error

    return run_it  # type: ignore[return-value]  # a test is called with its fixtures, by name


@pytest.fixture(autouse=True)
def monitored() -> Iterator[None]:
    with monitoring():
        yield


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
    "late register": lambda scene: scene.register("late", scene.leaf),
    "wait": lambda scene: scene.leaf.wait(0.000_001),
}

BEFORE: dict[str, Callable[[Scene], object]] = {
    "late register": lambda scene: scene.root.cancel("before"),
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
    name: str,
    comes_in: Callable[[Scene], object],
    way: Callable[[Callable[[], object]], Callable[[], object]],
) -> int:
    operation = OPERATIONS[name]

    def make() -> Scene:
        scene = Scene()
        if name in BEFORE:
            BEFORE[name](scene)
        return scene

    def prepare() -> Callable[[], object]:
        scene = make()
        return lambda: operation(scene)

    places = bytecodes(prepare)
    for place in places:
        scene = make()
        injector = Injector(place, way(lambda scene=scene: comes_in(scene)))  # type: ignore[misc]  # bound early
        injector.run(lambda scene=scene: operation(scene))  # type: ignore[misc]  # bound early
        assert injector.where is not None
        if name == "close registration" and "root" not in scene.ran:
            scene.left.append("root")
        scene.end()
    return len(places)


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
        cases = try_every_bytecode(operation, COMES_IN[what], way)
        count(request.config, f"token, something {way.__name__.replace('_', ' ')} at every bytecode", cases)


@pytest.mark.parametrize("target", ["root", "leaf"])
@pytest.mark.parametrize("already", [False, True])
@in_a_thread_of_its_own
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

    places = bytecodes(prepare)
    not_begun = []
    for number, at in enumerate(places):
        scene, token = make()
        injector = Injector(at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            injector.run(lambda token=token: token.cancel("operation"))  # type: ignore[misc]  # bound early
        if not token.cancelled:
            not_begun.append(number)
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
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel()", len(places))


@in_a_thread_of_its_own
def test_t_s3_a_keyboard_interrupt_in_cancel_leaves_no_thread_asleep(request: pytest.FixtureRequest) -> None:
    """The short way of a token on which nothing but threads waits; their locks stand for them here."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    def make() -> tuple[CancelToken, list[LockType]]:
        token = CancelToken()
        locks = [threading.Lock(), threading.Lock()]
        for lock in locks:
            lock.acquire()
            token._held[lock] = None
        return token, locks

    places = bytecodes(lambda: make()[0].cancel)
    not_begun = 0
    for place in places:
        token, locks = make()
        with pytest.raises(KeyboardInterrupt):
            Injector(place, interrupt).run(token.cancel)
        if token.cancelled:
            assert [False, False] == [lock.locked() for lock in locks]
            assert ("user", ()) == (token.reason.kind if token.reason else None, token.later_reasons)
        else:
            not_begun += 1
    assert not_begun <= 3
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel()", len(places))


@in_a_thread_of_its_own
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

    places = bytecodes(prepare)
    for at in places:
        token, errors = make()
        with pytest.raises(KeyboardInterrupt) as caught:
            Injector(at, interrupt).run(token.cancel)
        group = caught.value.__cause__
        if token.cancelled and group is not None:  # without: nothing had been begun, see above
            assert isinstance(group, BaseExceptionGroup)
            assert {id(error) for error in group.exceptions} <= {id(error) for error in errors}
        assert not token._held or not token.cancelled
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel()", len(places))


@pytest.mark.parametrize("call", [CancelToken.cancel_soon, CancelToken.cancel_and_report])
@in_a_thread_of_its_own
def test_t_s3_a_keyboard_interrupt_in_its_siblings_leaves_no_callback_behind(
    call: Callable[[CancelToken], bool], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two callbacks of `cancel_and_report()` it can't be told from what a callback raises: it is reported."""
    seen: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))

    def interrupt() -> None:
        raise KeyboardInterrupt

    def make() -> tuple[CancelToken, threading.Event]:
        token, ran = CancelToken(), threading.Event()
        token.on_cancel(ran.set)
        return token, ran

    def prepare() -> Callable[[], object]:
        token, _ = make()
        return lambda: call(token)

    assert CancelToken(timeout=0.001).wait()  # the service thread is there: each case takes the same way
    not_begun = []
    places = bytecodes(prepare)
    for number, place in enumerate(places):
        token, ran = make()
        seen.clear()
        try:
            Injector(place, interrupt).run(lambda token=token: call(token))  # type: ignore[misc]  # bound early
        except KeyboardInterrupt as interrupted:
            seen.append(type(interrupted))
        assert [KeyboardInterrupt] == seen
        if not token.cancelled:
            not_begun.append(number)
            assert not ran.is_set()
            token.cancel()
        ran.wait()
        assert not token._held
    assert not_begun == list(range(len(not_begun)))
    assert len(not_begun) <= 3
    count(request.config, f"token, KeyboardInterrupt at every bytecode of {call.__name__}()", len(places))


@pytest.mark.parametrize("seconds", [5, 0])
@in_a_thread_of_its_own
def test_t_s12_a_keyboard_interrupt_in_cancel_after_leaves_no_deadline_that_never_comes(
    seconds: float, request: pytest.FixtureRequest
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def make() -> tuple[CancelToken, ManualClock]:
        clock = ManualClock(100)
        return CancelToken(clock=clock), clock

    begun = 0
    places = bytecodes(lambda: functools.partial(make()[0].cancel_after, seconds))
    for place in places:
        token, clock = make()
        with pytest.raises(KeyboardInterrupt):
            Injector(place, interrupt).run(functools.partial(token.cancel_after, seconds))
        begun += token.deadline is not None
        assert token.deadline in (None, 100 + seconds)
        clock.advance(seconds)
        assert token.cancelled is (token.deadline is not None)
    assert 0 < begun < len(places)
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel_after()", len(places))


@in_a_thread_of_its_own
def test_t_s12_a_keyboard_interrupt_on_the_way_to_the_service_thread_loses_no_deadline(
    request: pytest.FixtureRequest,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert CancelToken(timeout=0.001).wait()  # the service thread is there: each case takes the same way
    places = bytecodes(lambda: functools.partial(CancelToken().cancel_after, 0.000_1))
    for place in places:
        token = CancelToken()
        with pytest.raises(KeyboardInterrupt):
            Injector(place, interrupt).run(functools.partial(token.cancel_after, 0.000_1))
        assert token.deadline is None or token.wait()
    count(request.config, "token, KeyboardInterrupt at every bytecode of cancel_after()", len(places))


def test_t_s9_however_many_reasons_come_in_at_once_eight_later_ones_are_shown() -> None:
    for place in bytecodes(lambda: CancelToken().cancel):
        token = CancelToken()
        Injector(place, lambda token=token: [token.cancel() for _ in range(20)]).run(token.cancel)  # type: ignore[misc]  # bound early

        assert len(token.later_reasons) == 8
