"""Real threads, as close together as they come: nothing is lost, nothing happens twice (T-S4, T-S5, T-S10)."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from cancel_token import CancelToken, Registration
from tests.cancel_token.cases import count

ROUNDS = 20_000


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Round:
    """A fresh tree; `first` and `second` run at the same time, then `check` looks."""

    def __init__(self) -> None:
        self.root = CancelToken()
        self.child = self.root.child()
        self.ran: list[int] = []

    def first(self) -> None:
        self.root.cancel()

    def second(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError


class RegisterRound(Round):
    def second(self) -> None:
        self.child.on_cancel(self.ran.append, 1)
        self.root.on_cancel(self.ran.append, 2)

    def check(self) -> None:
        assert [1, 2] == sorted(self.ran)


class UnregisterRound(Round):
    def __init__(self) -> None:
        super().__init__()
        self.registration = self.child.on_cancel(self.ran.append, 1)
        self.in_time = False

    def second(self) -> None:
        self.in_time = self.registration.unregister()

    def check(self) -> None:
        assert ([] if self.in_time else [1]) == self.ran


class CloseRound(Round):
    """After close() the callback is neither running nor about to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.seen_at_close = (0, 0)
        self.registration = self.child.on_cancel(self.callback)

    def callback(self) -> None:
        self.begun.append(1)
        self.ran.append(1)

    def second(self) -> None:
        self.registration.close()
        self.seen_at_close = (len(self.begun), len(self.ran))

    def check(self) -> None:
        assert (len(self.begun), len(self.ran)) == self.seen_at_close
        assert self.seen_at_close in [(0, 0), (1, 1)]


class ChildRound(Round):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[CancelToken] = []

    def second(self) -> None:
        made = self.child.child()
        made.on_cancel(self.ran.append, 1)
        self.made += [made, CancelToken.any(made, self.root)]

    def check(self) -> None:
        assert [True, True] == [token.cancelled for token in self.made]
        assert [1] == self.ran


class DropRound(Round):
    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[CancelToken | Registration] = [self.root.child() for _ in range(3)]
        self.dropped.append(self.child.child().on_cancel(self.ran.append, 1))

    def second(self) -> None:
        self.dropped.clear()

    def check(self) -> None:
        assert [1] == self.ran
        assert 1 == self.root.stats().children  # self.child
        assert 0 == self.child.stats().children


class CancelRound(Round):
    """Both come back to a tree that is cancelled to the last leaf; one of them did it."""

    def __init__(self) -> None:
        super().__init__()
        self.won: list[bool] = []
        self.seen: list[bool] = []
        self.child.on_cancel(self.ran.append, 1)

    def first(self) -> None:
        self.won.append(self.root.cancel())
        self.seen.append(self.child.cancelled)

    second = first

    def check(self) -> None:
        assert [False, True] == sorted(self.won)
        assert [True, True] == self.seen
        assert [1] == self.ran


class CloseTokenRound(Round):
    def __init__(self) -> None:
        super().__init__()
        self.child.on_cancel(self.ran.append, 1)

    def second(self) -> None:
        self.child.close()

    def check(self) -> None:
        assert len(self.ran) == self.child.cancelled
        self.child.cancel()
        assert [1] == self.ran
        assert not self.root._held
        assert 0 == self.root.stats().children


class PinRound(Round):
    """Two registrations come and go on one child; the one that stays keeps it alive (T-S7)."""

    def __init__(self) -> None:
        super().__init__()
        self.grandchild = self.child.child()
        self.old = self.grandchild.on_cancel(self.ran.append, 1)

    def first(self) -> None:
        self.old.unregister()

    def second(self) -> None:
        self.grandchild.on_cancel(self.ran.append, 2)

    def check(self) -> None:
        assert self.grandchild in self.child._held
        assert self.child in self.root._held
        self.root.cancel()
        assert [2] == self.ran
        assert not self.root._held


KINDS: list[Callable[[], Round]] = [
    RegisterRound, UnregisterRound, CloseRound, ChildRound, DropRound, CancelRound, CloseTokenRound, PinRound,
]  # fmt: skip


def test_t_s4_t_s5_t_s7_t_s10_races_lose_and_double_nothing(request: pytest.FixtureRequest) -> None:
    rounds: list[Round] = []
    starting, ended = threading.Barrier(2), threading.Barrier(2)
    errors: list[BaseException] = []

    def second_thread() -> None:
        for number in range(ROUNDS):
            starting.wait()
            try:
                rounds[number].second()
            except BaseException as exc:
                errors.append(exc)
            ended.wait()

    gc.disable()  # a collection would hide a leak from check(), and there is nothing here for it to find
    thread = threading.Thread(target=second_thread)
    thread.start()
    failures = []
    for number in range(ROUNDS):
        this = KINDS[number % len(KINDS)]()
        rounds.append(this)
        starting.wait()
        this.first()
        ended.wait()
        try:
            this.check()
        except AssertionError as exc:
            failures.append((number, type(this).__name__, exc))
        rounds[number] = None  # type: ignore[call-overload]  # let it go: twenty thousand trees are many
        del this
    thread.join()
    gc.enable()
    count(request.config, "token, races of two threads", ROUNDS)

    assert [] == failures
    assert [] == errors
