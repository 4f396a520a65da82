"""One call of `cancel()`, from the claim to the last callback.

The theory, by the rules of docs/cancellation.md:

1.  *Claim.* Each call appends a claim to a list; whoever stands first has won. One append decides, and looking twice
    gives the same answer, which a test-and-set would not after an interruption (T-S9). A claim is a reason, or what
    one can be made of (`reason_of`).
2.  *Mark.* Every descendant is flagged before any callback runs (T-S1). A losing call marks, too (T-S10).
3.  *Wake* the threads and tasks that wait on the tokens: they need no callback's permission.
4.  *Run* the callbacks, of inner tokens first, of one token newest first (T-S2).

Who runs a token's callbacks? The call whose claim stands first in the token's list, or whose reason does as `cause`.
So two calls never run callbacks of one token side by side, and a call that only helped to mark leaves them alone.

There are no locks (T-S6): a signal handler or a finalizer may run between any two bytecodes here, in this very
thread, and call anything of this package. Every step is a single dict or list operation, or may be done twice.
That is also how an interruption is survived (T-S3): `advance()` is simply called again and picks up where it was.
"""

from __future__ import annotations

import operator
import threading
from _thread import LockType
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from cancel_token._errors import CancelReason, trusted_reason
from cancel_token._forks import forks
from cancel_token._tree import unpin

if TYPE_CHECKING:
    from cancel_token._token import CancelToken

MAX_LATER_REASONS = 8  # chosen by hand: enough to see who else wanted it, little enough to forget about

Entry = tuple[object, Callable[[], object] | None]

Saying = tuple[str, float, list[CancelReason]]
"""What `cancel("text")` leaves: the text, when, and the reason, once somebody has asked for it.

Whoever waits is woken only after the claim is there, and to make a `CancelReason` takes a third of the time that the
whole wake-up does.
"""
Claim = CancelReason | Saying
"""What one call of `cancel()` says; always an object of its own, whose identity says which call won."""


class _ThreadState(threading.local):
    """What belongs to a thread; in a forked child only the forking thread's remains."""

    callback_depth = 0  # how many callbacks of this package this thread is inside of


thread_state = _ThreadState()


class Waker:
    """What a waiting task leaves on a token: to its event loop what a lock is to a waiting thread."""

    __slots__ = ()

    def release(self) -> None:
        """Wake the task; from any thread, in a signal handler, twice as well as once. Must not raise."""
        raise NotImplementedError


WAITING = (LockType, Waker)
"""What stands on a token for those who wait."""


def wake(waiting: LockType | Waker) -> None:
    """Wake the thread or the task that waits; twice is as good as once."""
    try:
        waiting.release()
    except RuntimeError:  # "release unlocked lock": another waker came first
        pass


def reason_of(claim: Claim) -> CancelReason:
    """The reason that a claim is or stands for: the same object each time."""
    if isinstance(claim, CancelReason):
        return claim
    message, at, made = claim
    if not made:
        made.append(trusted_reason("user", message, at))  # two may come here; all take the first
    return made[0]


def derive(reason: CancelReason) -> CancelReason:
    """What a descendant says of a token that was cancelled for `reason`."""
    cause = reason.cause or reason
    return trusted_reason("parent", cause.message, cause.at, cause)


class Running:
    """The callbacks under way in one call of `cancel()`; tokens point to it while their callbacks run.

    `taken` holds the entry between leaving its token and being called, `current` is set before the entry leaves
    `taken`. Whoever asks looks at `taken` first, then at `current`, and so cannot miss it in between.
    """

    __slots__ = ("closers", "current", "forks", "steps", "taken")

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.current: object = None
        self.closers: list[LockType] = []
        self.forks = len(forks)
        # Taking an entry off `taken` and entering its callback is one call into C, with no bytecode in between:
        # an interruption finds the entry either still in `taken`, or its callback begun.
        entries: Iterable[Any] = iter(self.taken.pop, None)
        self.steps = map(operator.call, map(operator.itemgetter(1), entries))

    def has(self, registration: object) -> bool:
        """Is the callback of this registration running, or about to?"""
        return any(entry[0] is registration for entry in list(self.taken)) or self.current is registration

    def finish_current(self) -> None:
        self.current = None
        for lock in list(self.closers):
            wake(lock)

    def wait_until_done(self, registration: object) -> None:
        """Block until the callback of `registration` has returned (T-S5).

        Not in a forked child: the thread that runs it stayed behind, and would never say that it has.
        """
        while self.forks == len(forks) and self.has(registration):
            lock = threading.Lock()
            lock.acquire()
            self.closers.append(lock)
            try:
                if self.has(
                    registration
                ):  # published, so look again: it may have ended before it could see us
                    lock.acquire()
            finally:
                self.closers.remove(lock)


class Cancellation:
    """One call of `cancel()` on `token`; every method may be interrupted and called again."""

    __slots__ = ("claim", "errors", "running", "to_run", "token", "won")

    def __init__(self, token: CancelToken, claim: Claim) -> None:
        self.token = token
        self.claim = claim
        self.won = False
        self.to_run: list[CancelToken] | None = None  # None until everything is marked
        self.running: Running | None = None
        self.errors: list[BaseException] = []

    def flag(self) -> None:
        """Claim the token, mark it and all its descendants, wake the waiting threads; runs no foreign code."""
        claims, claim = self.token._claims, self.claim
        if not claims:
            claims.append(claim)
        self.won = won = claims[0] is claim
        if not won and len(claims) <= MAX_LATER_REASONS and not any(each is claim for each in list(claims)):
            claims.append(claim)
            del claims[1 + MAX_LATER_REASONS :]  # two calls may have seen the last free place
        if self.to_run is None:
            self.to_run = self._mark()
        if self.to_run and self.running is None:
            for token in self.to_run:
                held = token._held
                for key in list(held):
                    if isinstance(key, WAITING):
                        wake(key)
                        held.pop(key, None)
            # Where nothing but threads and tasks waited there is nothing to run: then we are as quick as Event.set().
            self.to_run = [token for token in self.to_run if token._held]

    def _mark(self) -> list[CancelToken]:
        """Flag the whole tree with a stack, not by recursion; returns the tokens whose callbacks are ours."""
        root, won = self.token, self.won
        to_run: list[CancelToken] = []
        root.cancelled = True  # type: ignore[misc]  # read-only for users
        if won:
            if root._held:
                to_run.append(root)
        elif root._settled:
            return to_run
        if root._children:
            derived = derive(reason_of(root._claims[0]))
            cause = derived.cause
            stack = [root]
            seen: set[CancelToken] = set()
            listed: set[CancelToken] = set()
            while stack:
                for child in map(operator.call, list(stack.pop()._children)):
                    if child is None:
                        continue
                    claims = child._claims
                    if not claims or (won and len(claims) <= MAX_LATER_REASONS and derived not in claims):
                        claims.append(derived)
                    # The flag first, then the look at `_held`: on_cancel writes and looks the other way
                    # round, so at least one of us sees the other. The same with `_children` and child().
                    child.cancelled = True  # type: ignore[misc]  # read-only for users
                    if child._held and won and child not in listed:
                        first = claims[0]
                        if isinstance(first, CancelReason) and first.cause is cause:
                            if len(child._links) > 1:  # reached again, it would stand behind its own children
                                listed.add(child)
                            to_run.append(child)
                    if child._children:
                        # The winner passes settled tokens, too: a helper may have marked what is ours to run.
                        if not won and child._settled:
                            continue
                        if len(child._links) > 1:  # reached on several ways: without this, 2 ** depth of them
                            if child in seen:
                                continue
                            seen.add(child)
                        stack.append(child)
        root._settled = True
        return to_run

    def run(self) -> None:
        """Run the callbacks that are ours, each exactly once, collecting what they raise in `errors`."""
        if not self.to_run:
            return
        depth = thread_state.callback_depth
        thread_state.callback_depth = depth + 1
        try:
            running = self.running
            if running is None:
                running = self.running = Running()
            running.forks = len(forks)  # the service thread of a forked child goes on with what it finds
            while self.to_run:
                token = self.to_run[-1]  # inner tokens stand behind outer ones
                token._running = running  # before anything is taken, so that close() knows whom to wait for
                self._run_callbacks(token, running)
                token._running = None
                unpin(token)
                self.to_run.pop()
        finally:
            thread_state.callback_depth = depth

    def _run_callbacks(self, token: CancelToken, running: Running) -> None:
        running.finish_current()  # when called again after an interruption
        held, taken, steps = token._held, running.taken, running.steps
        while True:
            if not taken:
                try:
                    # The newest entry moves from one container to the other in one call into C: nobody, not even
                    # an interruption right after it, can find it in neither.
                    taken.extend(map(dict.popitem, cast("tuple[dict[Any, Any]]", (held,))))
                except KeyError:
                    return
            key, callback = taken[0]
            if callback is None:  # somebody who waits, or a pinned child that has been seen to already
                taken.clear()
                continue
            running.current = key
            try:
                next(steps)
            except BaseException as exc:
                self.errors.append(exc)
            running.finish_current()

    def help_mark(self) -> None:
        """Only mark what somebody else's call has decided, so that nothing below is behind (T-S1)."""
        self._mark()

    def raise_errors(self, interrupt: BaseException | None) -> None:
        """Raise what the callbacks raised, and what interrupted us.

        A KeyboardInterrupt goes on as itself wherever it struck, since `except KeyboardInterrupt` must meet it.
        """
        errors, self.errors = self.errors, []
        if interrupt is None:
            interrupt = next((error for error in errors if isinstance(error, KeyboardInterrupt)), None)
        errors = [error for error in errors if error is not interrupt]
        group = BaseExceptionGroup(f"callbacks of {self.token!r} raised", errors) if errors else None
        try:
            if interrupt is not None:
                if group is None:
                    raise interrupt
                raise interrupt from group
            if group is not None:
                raise group
        finally:
            # An exception holds this frame by its traceback, and the caller's: without this a cycle would keep
            # alive, until the next run of the garbage collector, whatever the caller has in its variables.
            del interrupt, group, errors

    def report_errors(self) -> None:
        """Tell `sys.unraisablehook` what the callbacks raised: nobody above could catch it (T-S3)."""
        for error in self.errors:
            report_unraisable(error, self.token)
        self.errors.clear()


def cancel_all(cancellations: Iterable[Cancellation]) -> None:
    """Flag all the tokens before the first callback runs; report errors instead of raising them (T-S12)."""
    pending = list(cancellations)
    for cancellation in pending:
        cancellation.flag()
    for cancellation in pending:
        cancellation.run()
        cancellation.report_errors()


class _Reporter:
    """CPython offers no way to call the hook with arguments of our own but to let it happen in a finalizer."""

    __slots__ = ("error", "owner")

    def __init__(self, error: BaseException, owner: object) -> None:
        self.error = error
        self.owner = owner

    def __repr__(self) -> str:
        return f"<callback of {self.owner!r}>"

    def __del__(self) -> None:
        raise self.error


def report_unraisable(error: BaseException, owner: object) -> None:
    """Report an error where nobody could catch it: the interpreter calls `sys.unraisablehook`."""
    _Reporter(error, owner)
