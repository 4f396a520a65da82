"""Tokens in tasks of trio and asyncio.

    with move_on_cancel(token) as scope:        # a stop ends the block, wherever it waits
        await stream(...)
    if scope.cancelled_caught: ...

    page = await run_sync(session.get, url, token=token)     # blocking work, stopped by its token

A token may be cancelled from anywhere: another thread, a signal handler, another loop. The runtime's own
cancellation passes through all of this as what it is, and never cancels the token (T-A2, T-A3).

The idea: the token has the loop cancel a scope of the runtime, from whichever thread. It does so when it wakes the
threads that wait, before any callback runs. No task and no thread watches anything; nothing is left when
the block has been left.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, ParamSpec, Self, TypeVar

import anyio
import anyio.lowlevel

from cancel_token._aio_binding import Binding, Interruption, Scope, current_binding, nobody
from cancel_token._errors import Cancelled, CancelReason
from cancel_token._token import CancelToken
from cancel_token._tree import unpin
from cancel_token.loops import thread_context

T = TypeVar("T")
P = ParamSpec("P")

_PERHAPS_OURS = (Cancelled, BaseExceptionGroup)
"""What may hold a stop that somebody raised who has checked the token."""


class _TokenScope:
    """A scope of the runtime that a token cancels; what both kinds have in common."""

    __slots__ = ("_binding", "_caught", "_scope", "token")

    _fails: ClassVar[bool]  # raises where the other kind moves on
    _scope: Scope
    _binding: Binding

    def __init__(self, token: CancelToken) -> None:
        self.token: CancelToken = token
        self._caught = False

    @property
    def cancel_called(self) -> bool:
        """The token was cancelled, and the block has been told. It may not have noticed yet, or may have finished."""
        return self._scope.cancel_called

    @property
    def cancelled_caught(self) -> bool:
        """The block was left early because of the token. Known when it has been left."""
        return self._caught or self._scope.cancelled_caught

    def __enter__(self) -> Self:
        if hasattr(self, "_scope"):
            raise RuntimeError(f"a {type(self).__name__} is for one `with` block; make another")
        self._binding = binding = current_binding()
        self._scope = scope = binding.new_scope()
        binding.wake = scope.cancel
        token = self.token
        try:
            token.add_waker(binding)
            if token.cancelled:  # published, so look: and so not even the block's first wait is begun
                scope.cancel()
            scope.__enter__()  # last: nothing can go wrong between this and the block
        except BaseException:
            token.remove_waker(binding)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        token = self.token
        # What `remove_waker()` does, but its call would be waited for. A wake-up that is under way only cancels a scope
        # that has been left.
        held = token._held
        held.pop(self._binding, None)
        if not held and token._links:
            unpin(token)
        scope = self._scope
        left: BaseException | None
        try:
            swallowed = bool(scope.__exit__(kind, error, traceback))
        except BaseException as rest:  # it has taken its own cancellation out of a group
            if not isinstance(error, _PERHAPS_OURS):
                raise
            left = rest
        else:
            if swallowed and not self._fails:  # most of those that were stopped
                return True
            if not isinstance(error, _PERHAPS_OURS):
                if swallowed and scope.cancelled_caught:
                    raise Cancelled(self.token)
                return swallowed
            left = None if swallowed else error
        left = self._without_ours(left)
        if left is None or left is error:
            return left is None
        context = left.__context__
        try:
            raise left
        finally:
            left.__context__ = context  # or the part that was dealt with would be shown as its cause
            del left, context, error

    def _without_ours(self, error: BaseException | None) -> BaseException | None:
        """What is to be raised of a `Cancelled` or a group, out of which the runtime's scope has taken its own."""
        raise NotImplementedError

    def _is_ours(self, error: BaseException) -> bool:
        return isinstance(error, Cancelled) and error.token is not None and error.token.is_within(self.token)

    def _split(self, error: BaseException) -> tuple[BaseException | None, BaseException | None]:
        """Our own stop and the rest; a checked token raises `Cancelled`, perhaps in several tasks at once."""
        if isinstance(error, BaseExceptionGroup):
            return error.split(lambda leaf: self._is_ours(leaf))  # 3.11 takes functions only, no methods
        return (error, None) if self._is_ours(error) else (None, error)


class move_on_cancel(_TokenScope):  # noqa: N801  # used like a function, as trio.move_on_after
    """End the block when the token is cancelled, and go on behind it: `with move_on_cancel(token) as scope: ...`.

    The task is woken wherever it waits, and so are all tasks of nurseries (task groups) inside the block. `Cancelled`
    of this token and its descendants ends here, too, so a block may check the token as well as wait, and both in one
    exception group. Anything else passes: the runtime's own cancellation, other tokens' stops, errors.

    A block that finishes while the token is being cancelled has finished: what it made is kept (T-S15). If the token is
    cancelled already, the block runs to its first wait.

    On asyncio a task that swallows `CancelledError` is told again at its next wait, more and more seldom.

    Args:
        token: Whose stop ends here.

    Raises:
        RuntimeError: The object was used before, or this is no task of trio or asyncio.
    """

    __slots__ = ()

    _fails = False

    def _without_ours(self, error: BaseException | None) -> BaseException | None:
        if error is None:
            return None
        ours, rest = self._split(error)
        if ours is not None:
            self._caught = True
        return rest


class fail_on_cancel(_TokenScope):  # noqa: N801  # used like a function, as trio.fail_after
    """End the block when the token is cancelled, and raise `Cancelled`: `with fail_on_cancel(token): ...`.

    Like `move_on_cancel` in everything else. `Cancelled` is raised only where the block was left early. If tasks inside
    failed at the same time, their errors are raised as the group they are, which then holds `Cancelled` only where
    a task raised it itself.

    Args:
        token: Whose stop ends the block.

    Raises:
        Cancelled: The token was cancelled, and the block ended because of it.
        RuntimeError: The object was used before, or this is no task of trio or asyncio.
    """

    __slots__ = ()

    _fails = True

    if TYPE_CHECKING:  # it never swallows, and code behind it may rely on that

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> Literal[False]: ...

    def _without_ours(self, error: BaseException | None) -> BaseException | None:
        if error is None:
            return Cancelled(self.token)
        ours, rest = self._split(error)
        if ours is None:
            return error
        self._caught = True
        if rest is not None:
            return error
        while isinstance(ours, BaseExceptionGroup):  # nothing but stops: one of them says it all
            ours = ours.exceptions[0]
        return ours


async def wait_cancelled(token: CancelToken) -> CancelReason:
    """Wait until the token is cancelled; what `token.wait()` is for threads.

    It leaves nothing behind if it is cancelled itself.

    Args:
        token: `CancelToken.never()` is waited for for ever.

    Returns:
        Why it was cancelled.
    """
    binding = current_binding()
    try:
        token.add_waker(binding)
        if token.cancelled:
            await anyio.lowlevel.checkpoint()
        while not token.cancelled:
            await binding.sleep()
    finally:
        token.remove_waker(binding)
    reason = token.reason
    assert reason is not None
    return reason


async def outlast(token: CancelToken) -> None:
    """Wait until the token is cancelled, whatever the runtime wants of the task meanwhile.

    For the end of what has been stopped and cannot be left behind. A `task.cancel()` of asyncio that comes meanwhile
    goes on afterwards; trio and anyio's scopes repeat themselves at the task's next wait.

    Args:
        token: Is cancelled by somebody who cannot wait for this task.

    Raises:
        RuntimeError: This is no task of trio or asyncio.
    """
    binding = current_binding()

    def follow(report: Callable[[], None]) -> None:
        token.add_waker(binding)
        if token.cancelled:
            report()

    try:
        interruption = await binding.wait_reported(follow, nobody)
    finally:
        token.remove_waker(binding)
    if interruption is not None and not interruption.comes_again:
        interruption.let_go_on()


def comes_again(error: BaseException) -> bool:
    """Whether the runtime raises this again at the task's next wait, so that no result need be thrown away for it.

    So does trio. asyncio does not, and of its exceptions none tells a scope's from others.
    """
    trio = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


async def run_sync(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `fn(*args, **kwargs)` in a thread of its own, with a child in the place of its `token`, and wait for it.

    `await run_sync(session.get, url, token=token)` calls `session.get(url, token=child)` in the thread. The thread is
    never left behind:

    - the token is cancelled: the child is, too, `fn` raises `Cancelled`, and so does this;
    - the runtime cancels the task (a scope, a timeout, `task.cancel()`): the child is cancelled with kind
      `"runtime"`, the thread is waited for, and then the runtime's exception goes on. The token is not cancelled.

    A result that `fn` returns nevertheless is returned (T-S15), except on asyncio after a `task.cancel()`, which
    asyncio would not repeat. An error that `fn` raises nevertheless is raised.

    `fn` runs in a copy of the caller's context variables. The threads are not pooled and not counted: how many there
    are is up to the caller. Without a `token` nothing tells `fn` to stop, and its end is waited for all the same; where
    only the runtime's cancellation shall stop it, pass `token=CancelToken.never()`.

    Args:
        fn: Blocks. What it does should obey the token it gets, for which this package has the means.
        *args: For `fn`.
        **kwargs: For `fn`; a `CancelToken` given as `token` is replaced by a child of it.

    Returns:
        What `fn` returned.

    Raises:
        Cancelled: The token was cancelled; if before the start, no thread was started.
        RuntimeError: No thread could be started, or this is no task of trio or asyncio.
    """
    binding = current_binding()
    given = kwargs.get("token")
    parent = given if isinstance(given, CancelToken) else CancelToken.never()
    parent.check()
    await anyio.lowlevel.checkpoint_if_cancelled()
    with parent.child() as child:
        if parent is given:
            kwargs["token"] = child
        work = _Work(partial(fn, *args, **kwargs))
        interruption = await binding.wait_reported(
            work.start, partial(child.cancel_and_report, CancelReason("runtime", "the task was cancelled"))
        )
        try:
            return work.finish(child, interruption)
        finally:
            del work, interruption  # an error's traceback leads to this frame: no circle


class _Work(Generic[T]):
    """A call in a thread, and what became of it."""

    __slots__ = ("_call", "_error", "_report", "_thread", "_value")

    _value: T
    _report: Callable[[], None]

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._error: BaseException | None = None
        context = thread_context()
        # A daemon, for a loop that was torn down; any other waits for it.
        self._thread = threading.Thread(
            target=self._run, args=(context,), name="cancel_token worker", daemon=True
        )

    def start(self, report: Callable[[], None]) -> None:
        self._report = report
        self._thread.start()

    def _run(self, context: contextvars.Context) -> None:
        try:
            self._value = context.run(self._in_thread)
        except BaseException as error:
            self._error = error
        self._report()

    def _in_thread(self) -> T:
        assert self._call is not None
        call, self._call = self._call, None
        return call()

    def finish(self, child: CancelToken, interruption: Interruption | None) -> T:
        """Return or raise what the call did, or let the runtime's cancellation go on."""
        # It has reported and has nothing more to do, so this is a matter of microseconds.
        self._thread.join()
        error, self._error = self._error, None
        try:
            if interruption is not None:
                stopped = (
                    isinstance(error, Cancelled) and error.token is not None and error.token.is_within(child)
                )
                if stopped or (error is None and not interruption.comes_again):
                    interruption.let_go_on()
            if error is not None:
                raise error
            return self._value
        finally:
            del error, interruption  # as in run_sync()
