"""The token: a tree of one-way flags, with callbacks.

State, and what keeps it true without a lock (T-S6; the walk of `cancel()` is in `_cancellation.py`, how tokens hang
together in `_tree.py`):

1.  Everything changes by single dict, list or slot operations, which the interpreter does not interrupt.
2.  Whoever adds something *publishes it first and then looks again* at the flag; whoever cancels *sets the flag
    first and then looks* at what is published. At least one of them sees the other.
3.  Whoever takes an entry out of a dict owns it: a callback is run by the one who took it, and by nobody else.
4.  `_held` is not empty => the token is in `_held` of its parents, and so on to the root ("pinned", T-S7).
    Unpinning looks again after it has unpinned.
"""

from __future__ import annotations

import math
import threading
from _thread import LockType
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar, TypeVarTuple, Unpack

import attrs

from cancel_token._cancellation import (
    MAX_LATER_REASONS,
    Cancellation,
    Claim,
    Running,
    Waker,
    cancel_all,
    derive,
    reason_of,
    thread_state,
    wake,
)
from cancel_token._deadline import SYSTEM_CLOCK, Clock, service
from cancel_token._errors import Cancelled, CancelReason
from cancel_token._iteration import CheckedAsyncIterator, checked
from cancel_token._origins import note_origin, recording
from cancel_token._registration import Registration
from cancel_token._stats import TokenStats, stats_of
from cancel_token._tree import Link, lineage, pin, unlink, unpin, unpin_lineage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CancelToken:
    """Whoever holds it may cancel it and ask it.

    Code that must not stop its caller is handed `token.child()`. A token goes from active to cancelled once, and
    never back. All methods may be called from any thread; `cancel`, `on_cancel`, `unregister` and `child` also
    from a signal handler, a finalizer, a weakref callback, and after a fork.

    Args:
        timeout: Seconds from now until it is cancelled with kind `"deadline"`; None for no limit, zero or less for
            at once.
        name: For people; shown in `repr`.
        clock: Where time comes from; the system's monotonic clock by default. Children inherit it.
    """

    __slots__ = (
        "__weakref__",
        "_children",
        "_claims",
        "_clock",
        "_deadline",
        "_held",
        "_links",
        "_open",
        "_running",
        "_settled",
        "_where",
        "cancelled",
        "name",
    )

    if TYPE_CHECKING:

        @property
        def cancelled(self) -> bool:
            """True as soon as a stop was decided; never False again.

            It does not say that every callback has run.
            """

    name: str | None
    _children: dict[Link, None]  # weak, so that a forgotten child goes away at once (T-S7)
    _held: dict[object, Callable[[], object] | None]  # registrations; who waits; pinned children
    _links: tuple[Link, ...]  # one to each parent; they stay after close(), for move_on_cancel
    _claims: list[Claim]  # the first has won
    _deadline: float | None  # our own; only ever moves nearer
    _running: Running | None  # set while callbacks of this token are taken and run
    _settled: bool  # a walk that began here has ended: every descendant is marked
    _open: bool  # False after close()
    _where: str  # unset, but while record_origins() is in force

    def __init__(
        self, timeout: float | None = None, name: str | None = None, clock: Clock | None = None
    ) -> None:
        self.cancelled = False  # type: ignore[misc]  # read-only for users
        self.name = name
        self._clock = clock
        self._children = {}
        self._held = {}
        self._claims = []
        self._links = ()
        self._deadline = self._running = None
        self._settled = False
        self._open = True
        if timeout is not None:
            self.cancel_after(timeout)

    # Making tokens

    def child(self, timeout: float | None = None, name: str | None = None) -> CancelToken:
        """Make a token that is cancelled when this one is, and never the other way round.

        A child of a cancelled token is cancelled from the start. The parent holds the child weakly, unless there
        are callbacks on it.

        Args:
            timeout: As for `CancelToken`.
            name: As for `CancelToken`.
        """
        child = CancelToken(None, name, self._clock)
        child._link(self)
        if timeout is not None:
            child.cancel_after(timeout)
        return child

    @classmethod
    def any(cls, *tokens: CancelToken, timeout: float | None = None, name: str | None = None) -> CancelToken:
        """Make a token that is cancelled as soon as the first of `tokens` is; their children's common child.

        It takes its clock from the first token that is not `never()`.

        Args:
            *tokens: At least one.
            timeout: As for `CancelToken`.
            name: As for `CancelToken`.

        Raises:
            ValueError: No token was given.
        """
        if not tokens:
            raise ValueError("CancelToken.any() needs at least one token")
        parents = [token for token in dict.fromkeys(tokens) if token is not _NEVER]
        child = CancelToken(None, name, parents[0]._clock if parents else None)
        for parent in parents:
            child._link(parent)
        if timeout is not None:
            child.cancel_after(timeout)
        return child

    @staticmethod
    def never() -> CancelToken:
        """Return the shared token that cannot be cancelled: the default of `token=` parameters."""
        return _NEVER

    def _link(self, parent: CancelToken) -> None:
        link = Link(self, unlink)
        link.parent = parent
        self._links += (link,)
        if recording:
            note_origin(self)
        parent._children[link] = None
        if parent.cancelled:  # published, so look again: the walk may have passed before it could see us
            if not self._claims:
                self._claims.append(derive(reason_of(parent._claims[0])))
            self.cancelled = True  # type: ignore[misc]  # read-only for users

    # Asking

    @property
    def reason(self) -> CancelReason | None:
        """Why it was cancelled, None while it is not. The first reason wins; see `later_reasons`."""
        return reason_of(self._claims[0]) if self._claims else None

    @property
    def later_reasons(self) -> tuple[CancelReason, ...]:
        """The reasons that came too late, oldest first, at most eight."""
        # Not all of them: a call that was interrupted before its append may have added one too many.
        return tuple(map(reason_of, self._claims[1 : 1 + MAX_LATER_REASONS]))

    @property
    def clock(self) -> Clock:
        """Where its time comes from: `reason.at` and `deadline` are seconds of it."""
        return self._clock or SYSTEM_CLOCK

    @property
    def deadline(self) -> float | None:
        """When the clock will cancel it: seconds of its clock, the nearest of its own and its ancestors'.

        Two calls of `cancel_after()` on one token at the same moment may leave the later time here; the token is
        cancelled at the earlier one all the same.
        """
        nearest = math.inf
        for token in lineage(self):
            if token._deadline is not None and token._deadline < nearest and token._clock is self._clock:
                nearest = token._deadline
        return None if nearest == math.inf else nearest

    def check(self) -> None:
        """Raise `Cancelled` if the token is cancelled; cost: one attribute.

        Raises:
            Cancelled: It is.
        """
        if self.cancelled:
            raise Cancelled(self)

    def __bool__(self) -> NoReturn:
        raise TypeError("a CancelToken has no truth value: ask token.cancelled")

    def is_within(self, token: CancelToken) -> bool:
        """Is this `token` itself, or made below it? Closing a child does not change the answer."""
        return any(each is token for each in lineage(self, closed=True))

    # Deciding

    def cancel(self, reason: str | CancelReason = "cancelled") -> bool:
        """Cancel the token and all its descendants, then run their callbacks in this thread.

        When it returns, `cancelled` is True on all of them, whoever cancelled first. A call that comes second
        waits for no callback: some may still be running in the first caller's thread.
        A child's callbacks run before its parent's, those of one token newest first; a token made by `any()` has
        no such place among its parents.

        Args:
            reason: A text (kind `"user"`) or a whole `CancelReason`.

        Returns:
            True if this call decided it; False if it was cancelled already.

        Raises:
            BaseExceptionGroup: What callbacks raised, after all of them have run.
            KeyboardInterrupt: It came in the middle, or out of a callback. Everything is flagged and every callback has
                run, too; what other callbacks raised is its `__cause__`.
        """
        try:  # nothing stands before it, so that an interruption finds us inside
            # As in _claim(), but each call on the way to whoever is woken is waited for.
            if isinstance(reason, str) and self._clock is None:
                claim: Claim = (reason, monotonic(), [])
            else:
                claim = self._claim(reason)
            # The short way, for a token on which nothing but threads and tasks hangs: it makes the same moves as a
            # Cancellation in the same order, so that one can take over after each of them.
            claims = self._claims
            if not claims:
                claims.append(claim)
            self.cancelled = True  # type: ignore[misc]  # read-only for users
            if claims[0] is claim and not self._children:  # else there is a tree to be marked first (T-S1)
                others = False
                self._settled = True
                for key in self._held.copy():  # one call into C, quicker than a list
                    if isinstance(key, Waker):
                        key.release()
                    elif isinstance(key, LockType):
                        wake(key)  # a call, since an interruption at a nested `try:` would escape ours
                    else:
                        others = True
                if not others:
                    return True
            cancellation = Cancellation(self, claim)
            cancellation.flag()
            if cancellation.to_run:
                cancellation.run()
        except BaseException as interrupt:
            try:
                cancellation  # noqa: B018
            except UnboundLocalError:  # interrupted before it was there
                try:
                    claim  # noqa: B018
                except UnboundLocalError:  # a bad reason is raised once more
                    claim = self._claim(reason)
                cancellation = Cancellation(self, claim)
            cancellation.flag()
            cancellation.run()
            unpin_lineage(self)  # the way up may have been interrupted, too
            cancellation.raise_errors(interrupt)
        if cancellation.errors:
            cancellation.raise_errors(None)
        return cancellation.won

    def cancel_soon(self, reason: str | CancelReason = "cancelled") -> bool:
        """Flag the token and all its descendants now, and leave the callbacks to the service thread.

        For callers that must not be held up, such as the thread of a user interface. What callbacks raise goes
        to `sys.unraisablehook`.

        Args:
            reason: As for `cancel()`.

        Returns:
            True if this call decided it.
        """
        try:  # nothing stands before it, as in cancel()
            cancellation = self._cancellation(reason)
            cancellation.flag()
            service.run_soon(cancellation)
        except BaseException:
            try:
                cancellation  # noqa: B018
            except UnboundLocalError:
                cancellation = self._cancellation(reason)
            cancellation.flag()
            service.run_soon(cancellation)  # twice is as good as once
            raise
        return cancellation.won

    def cancel_and_report(self, reason: str | CancelReason = "cancelled") -> bool:
        """Like `cancel()`, but never raises what callbacks raised: it goes to `sys.unraisablehook`.

        For signal handlers, finalizers and other places where nobody could catch it.

        Args:
            reason: As for `cancel()`.

        Returns:
            True if this call decided it.
        """
        try:  # nothing stands before it, as in cancel()
            cancellation = self._cancellation(reason)
            cancel_all((cancellation,))
        except BaseException:
            try:
                cancellation  # noqa: B018
            except UnboundLocalError:
                cancellation = self._cancellation(reason)
            cancel_all((cancellation,))
            unpin_lineage(self)
            raise
        return cancellation.won

    def cancel_after(self, seconds: float) -> None:
        """Cancel it `seconds` from now, unless it is to be cancelled earlier anyway.

        A deadline only moves nearer. With zero or less it is cancelled before this returns.

        Args:
            seconds: From now, on the token's clock; infinity changes nothing.

        Raises:
            ValueError: `seconds` is not a number.
        """
        if seconds != seconds:
            raise ValueError(f"seconds must be a number, not {seconds!r}")
        if seconds == math.inf or self.cancelled:
            return
        when = self._now() + max(seconds, 0)
        if seconds > 0 and self._deadline is not None and self._deadline <= when:
            return
        try:
            self._expire_at(when, at_once=seconds <= 0)
        except BaseException:  # the interruption may have come between the two; twice is as good as once
            self._expire_at(when, at_once=seconds <= 0)
            raise

    def _expire_at(self, when: float, *, at_once: bool) -> None:
        self._deadline = when
        if at_once:
            self.cancel_and_report(CancelReason("deadline", "no time was left"))
        else:
            (self._clock or SYSTEM_CLOCK).schedule(self, when)

    def close(self) -> None:
        """Unlink it from its parents without cancelling it, and forget its deadline.

        Afterwards only `cancel()` on itself cancels it. Descendants stay below it. May be called twice. A parent that
        is cancelled at the same moment may still cancel it. `with token.child() as child:` closes on leaving.
        """
        self._open = False
        self._deadline = None
        for link in self._links:
            parent = link.parent
            parent._children.pop(link, None)
            held = parent._held
            if self in held:
                held.pop(self, None)
                unpin(parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Being told

    def on_cancel(self, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> Registration:
        """Call `fn(*args)` once when the token is cancelled, in the thread that cancels it.

        On a cancelled token it is called at once, in this thread, and what it raises is raised here. If the token
        is cancelled at this very moment, it is called exactly once, here or there.
        While it is registered, the token is kept alive by its parents.

        Args:
            fn: Should be quick: it holds up whoever cancels.
            *args: Passed to it.

        Returns:
            The registration, a context manager: `with token.on_cancel(sock.shutdown, SHUT_RDWR): ...`
        """
        if not callable(fn):
            raise TypeError(f"on_cancel needs a callable, not {fn!r}")
        registration = Registration()
        registration._token = self
        held = self._held
        held[registration] = partial(fn, *args) if args else fn
        if recording:
            note_origin(registration)
        if self._links:
            pin(self)
        if self.cancelled:  # published, so look again, and take back: whoever takes it runs it (T-S4)
            callback = held.pop(registration, None)
            unpin_lineage(self)  # pin() may have gone on upwards behind the back of the one who cancelled
            if callback is not None:
                self._run_late(callback)
        return registration

    def _run_late(self, callback: Callable[[], object]) -> None:
        """Run a callback that came after the decision, but not before the whole tree is flagged (T-S1)."""
        for token in list(lineage(self)):
            if token.cancelled and not token._settled:
                Cancellation(token, token._claims[0]).help_mark()
        depth = thread_state.callback_depth
        thread_state.callback_depth = depth + 1
        try:
            callback()
        finally:
            thread_state.callback_depth = depth

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the token is cancelled.

        Args:
            timeout: At most so many seconds; None for ever.

        Returns:
            Whether it is cancelled.
        """
        if self.cancelled or (timeout is not None and timeout <= 0):
            return self.cancelled
        lock = threading.Lock()
        lock.acquire()
        held = self._held
        try:
            held[lock] = None
            if not self.cancelled:  # published, so look again
                if timeout is None:
                    lock.acquire()
                else:
                    (self._clock or SYSTEM_CLOCK).acquire(lock, timeout)
        finally:
            held.pop(lock, None)
            if not held and self._links:
                unpin(self)
        return self.cancelled

    def add_waker(self, waker: Waker) -> None:
        """Let a task wait on the token, for `cancel_token.aio`; what a lock is in `wait()`.

        Tasks are woken together with threads, before any callback runs. If the token is cancelled already, nobody
        is woken: look at it afterwards.
        """
        self._held[waker] = None
        if self._links:  # the task may be held by nobody but by what it waits for
            pin(self)

    def remove_waker(self, waker: Waker) -> None:
        """Undo `add_waker()`, once or more often; it never waits."""
        held = self._held
        held.pop(waker, None)
        if not held and self._links:
            unpin(self)

    def sleep(self, seconds: float) -> None:
        """Do nothing for `seconds`.

        Raises:
            Cancelled: As soon as the token is cancelled.
        """
        if self.wait(seconds):
            raise Cancelled(self)

    def iter(self, iterable: Iterable[T]) -> Iterator[T]:
        """Iterate, checking before each item is taken: an item is never taken and then dropped (T-S17).

        Raises:
            Cancelled: Instead of the next item.
        """
        return checked(self, iterable)

    def aiter(self, aiterable: AsyncIterable[T]) -> AsyncIterator[T]:
        """Iterate asynchronously, checking before each item is asked for (T-S17).

        It does not wake a wait for an item; that is a scope's work.

        Raises:
            Cancelled: Instead of the next item.
        """
        return CheckedAsyncIterator(self, aiterable)

    # Looking at it

    def stats(self) -> TokenStats:
        """Count what hangs on this token itself (T-S8)."""
        return stats_of(self)

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        reason = self.reason
        state = f"cancelled: {reason}" if self.cancelled and reason is not None else "active"
        return f"<{type(self).__name__}{name} at {id(self):#x}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a CancelToken cannot be copied or pickled: hand over token.child() within a process; "
            "in another process make a new token and cancel that"
        )

    # Behind the curtain

    def _now(self) -> float:
        return (self._clock or SYSTEM_CLOCK).now()

    def _cancellation(self, reason: object) -> Cancellation:
        return Cancellation(self, self._claim(reason))

    def _claim(self, reason: object) -> Claim:
        """Make a claim of what a caller gave."""
        if isinstance(reason, str):
            return reason, (self._clock or SYSTEM_CLOCK).now(), []
        if isinstance(reason, CancelReason):
            return attrs.evolve(reason, at=self._now() if reason.at is None else reason.at)
        # "from None", since cancel() asks twice: after an interruption it can't know what has come before it.
        raise TypeError(f"reason must be a str or a CancelReason, not {reason!r}") from None


class _Never(CancelToken):
    """Stands for "no token": it keeps nothing, so that a process-wide default cannot leak."""

    __slots__ = ()

    def _claim(self, reason: object) -> NoReturn:
        raise RuntimeError("CancelToken.never() cannot be cancelled: make a token of your own") from None

    def cancel(self, reason: str | CancelReason = "cancelled") -> NoReturn:
        self._claim(reason)

    def cancel_after(self, seconds: float) -> NoReturn:
        raise RuntimeError("CancelToken.never() cannot have a deadline: make a child of it")

    def child(self, timeout: float | None = None, name: str | None = None) -> CancelToken:
        return CancelToken(timeout, name)

    def on_cancel(self, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> Registration:
        if not callable(fn):
            raise TypeError(f"on_cancel needs a callable, not {fn!r}")
        registration = Registration()
        registration._token = self
        return registration

    def add_waker(self, waker: Waker) -> None:
        pass

    def close(self) -> None:
        pass


_NEVER = _Never(name="never")
