"""What users write, for the type checker alone: nothing here is ever run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from cancel_token import (
    Cancelled,
    CancelReason,
    CancelToken,
    Clock,
    Registration,
    TokenStats,
    move_on_cancel,
)
from cancel_token.testing import ManualClock


def asks(token: CancelToken) -> None:
    assert_type(token.cancelled, bool)
    assert_type(token.reason, CancelReason | None)
    assert_type(token.later_reasons, tuple[CancelReason, ...])
    assert_type(token.deadline, float | None)
    assert_type(token.wait(1), bool)
    assert_type(token.stats(), TokenStats)
    token.cancelled = True  # type: ignore[misc]  # read-only
    token.deadline = 3.0  # type: ignore[misc]  # read-only; cancel_after() moves it


def decides(token: CancelToken) -> None:
    assert_type(token.cancel(), bool)
    assert_type(token.cancel(CancelReason("signal", "Ctrl-C")), bool)
    assert_type(token.cancel_soon("later"), bool)
    token.cancel(3)  # type: ignore[arg-type]  # a text or a reason
    CancelReason("whim")  # type: ignore[arg-type]  # no such kind


def makes(token: CancelToken) -> None:
    with token.child(timeout=5) as child:
        assert_type(child, CancelToken)
    assert_type(CancelToken.any(token, child), CancelToken)
    assert_type(CancelToken.never(), CancelToken)
    clock: Clock = ManualClock()
    CancelToken(timeout=1.5, name="run", clock=clock)


def is_told(token: CancelToken) -> None:
    def free(number: int, name: str) -> None: ...

    with token.on_cancel(free, 3, "a") as registration:
        assert_type(registration, Registration)
        assert_type(registration.unregister(), bool)
    token.on_cancel(free, "a", 3)  # type: ignore[arg-type]  # the arguments are checked against the callback
    token.on_cancel(free)  # type: ignore[arg-type]  # some are missing


def iterates(token: CancelToken, items: Iterator[int], later: AsyncIterator[str]) -> None:
    assert_type(token.iter(items), Iterator[int])
    assert_type(token.aiter(later), AsyncIterator[str])


def ends(token: CancelToken) -> bool:
    with move_on_cancel(token) as scope:
        try:
            token.check()
        except Cancelled as stop:
            assert_type(stop.token, CancelToken | None)
            assert_type(stop.reason, CancelReason | None)
            raise
    return scope.cancelled_caught
