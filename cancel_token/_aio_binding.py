"""What `aio.py` needs of an event loop; `_aio_trio.py` and `_aio_asyncio.py` provide it.

Each is loaded when it is first needed: a program on asyncio never loads trio, and the other way round nothing of
anyio's asyncio half.
"""

from __future__ import annotations

import contextvars
import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import attrs

from cancel_token._cancellation import Waker


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


class Binding(Waker, ABC):
    """One task's event loop, as other threads may reach it (T-S13): it makes the loop call `wake`.

    A wake-up costs more than a trivial call only by what stands between `cancel()` and the loop, so a binding is
    itself what hangs on the token.
    """

    __slots__ = ("process_id", "wake")

    process_id: int
    wake: Callable[[], object]  # called in the loop's thread

    @abstractmethod
    def release(self) -> None:
        """Call `wake()` in the loop's thread; from any thread, and from a signal handler.

        Where the loop has ended nobody waits any more, and nothing happens. Nor does anything in a forked child, whose
        copy of the loop shares its wake-up socket, and perhaps a lock in mid-air, with the parent's (T-S18).
        """

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
            ended: Is called at the latest when it is certain that the task will not begin any more.
        """

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
