"""What `aio.py` and `loops.py` need of an event loop; `_aio_trio.py` and `_aio_asyncio.py` provide it.

Each is loaded when it is first needed: a program on asyncio never loads trio, and the other way round nothing of
anyio's asyncio half.
"""

from __future__ import annotations

import contextvars
import functools
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import attrs

from cancel_token._aio_readiness import Readiness
from cancel_token._cancellation import Waker
from cancel_token._forks import forks


class Scope(Protocol):
    """The part of `trio.CancelScope` that anyio's has, too."""

    @property
    def cancel_called(self) -> bool: ...

    @property
    def cancelled_caught(self) -> bool: ...

    def cancel(self) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None: ...


@attrs.frozen
class Interruption:
    """The runtime wanted to cancel a task that could not leave yet.

    Args:
        let_go_on: Raises what the runtime wanted to raise; to be called once.
        comes_again: The runtime raises it at the task's next wait anyway, so a result need not be thrown away.
    """

    let_go_on: Callable[[], NoReturn]
    comes_again: bool


def nobody() -> None:
    """What is woken where nobody sleeps: a wake-up that comes too late."""


class WakeUps(ABC):
    """The wake-ups that are due in one event loop (T-S13). However many threads have one, the first rings for all.

    To ring costs a system call and more, and trio holds a lock meanwhile: thousands of threads that do so for
    themselves stand in each other's way, and in the loop's.

    1. Whoever has a wake-up *puts it among the due first and then looks* whether somebody rings already.
    2. The loop *says first that nobody rings any more and then takes* what is due. At least one of them sees the other.
    3. An interruption loses nobody's: whoever is interrupted while ringing rings once more. Twice is as good as once.
    """

    __slots__ = ("__weakref__", "can_wait_readable", "due", "forks", "readiness", "silent", "struck")

    def __init__(self, *, can_wait_readable: bool) -> None:
        self.can_wait_readable = can_wait_readable
        self.due: deque[Binding] = deque()
        self.forks = len(forks)
        self.silent = True  # False: somebody has rung and was not heard yet, or is about to ring
        self.struck: Binding | None = None  # the one who was to be woken when an exception came
        self.readiness: Readiness | None = None
        """For those who wait for descriptors; there while somebody does."""

    @abstractmethod
    def ring(self) -> None:
        """Have the loop call `serve`, from any thread; or `_forget`, if the loop has ended."""

    @abstractmethod
    def begin_readiness(self) -> Readiness:
        """Make `readiness`, and have the loop serve it. In the loop's thread."""

    @abstractmethod
    def end_readiness(self, readiness: Readiness) -> None:
        """Have the loop serve it no more, and close it. In the loop's thread."""

    def end_unused_readiness(self) -> None:
        """End `readiness` if nobody uses it. In the loop's thread."""
        readiness = self.readiness
        if readiness is not None and not readiness.users:
            self.readiness = None
            self.end_readiness(readiness)

    def serve(self) -> None:
        """Wake everybody whose wake-up is due. In the loop's thread.

        An exception may be anybody's, such as a signal handler's: whoever was to be woken then is tried once more.
        """
        try:
            self.silent = True
            due = self.due
            # Whoever comes meanwhile rings again. No `while`: on 3.12 it jumps back outside of the `try`.
            for _ in range(len(due)):
                due[0].wake()
                due.popleft()  # now that it has been woken; twice does no harm
            self.struck = None
        except BaseException:
            struck = self.due[0] if self.due else None
            if struck is not None and struck is self.struck:
                self.due.popleft()
            self.struck = struck
            self.ring()
            raise

    def _forget(self) -> None:
        """Nobody waits any more."""
        self.silent = True  # so that whoever comes later comes here, too
        self.due = deque()  # another, since trio may have the last of the old one served at this moment


class Binding(Waker):
    """One task in its event loop, as other threads may reach it: they make the loop call `wake`.

    A wake-up costs more than a trivial call only by what stands between `cancel()` and the loop, so a binding is
    itself what hangs on the token.
    """

    __slots__ = ("_wake_ups", "wake")

    wake: Callable[[], object]  # called in the loop's thread; more often than it was asked for does no harm

    def __init__(self, wake_ups: WakeUps) -> None:
        self._wake_ups = wake_ups
        self.wake = nobody

    def release(self) -> None:
        """Have the loop call `wake()`; from any thread, and from a signal handler.

        Where the loop has ended nobody waits any more, and nothing happens. Nor does anything in a forked child, whose
        copy of the loop shares its wake-up socket, and perhaps a lock in mid-air, with the parent's (T-S18).
        """
        wake_ups = self._wake_ups
        if len(forks) != wake_ups.forks:
            return
        wake_ups.due.append(self)
        if wake_ups.silent:
            try:  # before the mark, so that no interruption comes between it and the ring
                wake_ups.silent = False
                wake_ups.ring()
            except BaseException:
                wake_ups.ring()
                raise

    @abstractmethod
    def call_soon(self, fn: Callable[[], object]) -> None:
        """Have the loop call a function, by its own thread-safe entry.

        Raises:
            RuntimeError: The loop has ended.
        """

    @abstractmethod
    async def sleep(self) -> None:
        """Sleep until `release` is called, or was called since the task's last checkpoint; or for no reason at all."""

    @property
    def can_wait_readable(self) -> bool:
        """Whether there is a readiness in this loop."""
        return self._wake_ups.can_wait_readable

    async def wait_readable(self, descriptor: int, lost: Callable[[], object]) -> None:
        """Wait until a descriptor can be read, or `wake` is called in the loop's thread; or for no reason at all.

        Args:
            descriptor: Nobody else waits for it in this loop.
            lost: Is called if the task will never go on, as with an asyncio loop that was closed by hand. In the thread
                that does so; must not raise.
        """
        readiness = self._wake_ups.readiness or self._wake_ups.begin_readiness()
        readiness.arm(descriptor, self, lost)
        try:
            await self.sleep()
        finally:
            readiness.disarm(descriptor, self)

    def leave_readiness(self) -> None:
        """Give back what `wait_readable` has kept for the next wait. From any thread."""
        if len(forks) != self._wake_ups.forks:  # as in `release`
            return
        readiness = self._wake_ups.readiness
        if readiness is not None and readiness.leave(self):
            try:
                self.call_soon(self._wake_ups.end_unused_readiness)
            except RuntimeError:  # the loop has ended, and it with the loop
                pass

    @abstractmethod
    def start_soon(
        self,
        async_fn: Callable[[], Coroutine[Any, Any, None]],  # Any: what the runtime's own waits send and take
        context: contextvars.Context,
        name: str,
        ended: Callable[[], object],
    ) -> None:
        """Have the loop run a task that belongs to nobody; from any thread.

        Args:
            async_fn: What to run.
            context: The context variables that it sees.
            name: What to call the task.
            ended: Is called at the latest when it is certain that the task will not begin, or go on, any more.
        """

    @property
    def is_lost(self) -> bool:
        """Whether the loop is over, and its tasks may have been left where they waited. From any thread."""
        return False

    @abstractmethod
    def has_cancelled_task(self) -> bool:
        """Whether the runtime has cancelled the current task, outside of its scopes."""

    @abstractmethod
    def new_scope(self) -> Scope:
        """Make a cancel scope for the current task."""

    @abstractmethod
    async def wait_reported(
        self, start: Callable[[Callable[[], None]], object], interrupt: Callable[[], object]
    ) -> Interruption | None:
        """Start work in another thread and wait until it has reported, whatever happens (T-A2).

        Args:
            start: Is called once, with the function that the thread must call as the last thing it does.
            interrupt: Is called once, in the loop's thread, when the runtime cancels the task meanwhile.

        Returns:
            What the runtime wanted, None if it let us be.
        """

    @classmethod
    @abstractmethod
    def current(cls) -> Self:
        """The loop that runs the current task.

        Raises:
            RuntimeError: There is no task.
        """


@functools.cache
def _trio_binding() -> type[Binding]:
    from cancel_token._aio_trio import TrioBinding

    return TrioBinding


@functools.cache
def _asyncio_binding() -> type[Binding]:
    from cancel_token._aio_asyncio import AsyncioBinding

    return AsyncioBinding


def current_binding() -> Binding:
    """Bind the current task's loop.

    Raises:
        RuntimeError: This is no task of trio or asyncio.
    """
    trio_lowlevel = sys.modules.get("trio.lowlevel")  # where nobody has loaded trio, this is no task of it
    if trio_lowlevel is not None and trio_lowlevel.in_trio_task():
        return _trio_binding().current()
    return _asyncio_binding().current()
