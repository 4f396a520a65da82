"""Event loops of trio and asyncio, as other threads reach them: for what bridges the two.

A `Sleeper` is a task that sleeps until any thread wakes it, a `LoopCall` a function that the loop calls when any thread
asks, and a `Loop` starts tasks for other threads. However many of them are due in a loop, it is woken once.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from cancel_token._aio_binding import current_binding, nobody
from cancel_token._token import CancelToken


class Sleeper:
    """The current task, as others wake it: what a lock is to a thread that waits.

    The task publishes `wake`, then looks whether it need sleep at all, then sleeps, and looks again when it is awake.
    However many tasks of a loop are woken together, the loop is woken once.

    Raises:
        RuntimeError: This is no task of trio or asyncio.
    """

    __slots__ = ("_binding",)

    def __init__(self) -> None:
        self._binding = current_binding()

    def wake(self) -> None:
        """Wake the task; from any thread, a signal handler, a finalizer. Where the loop has ended, nothing happens."""
        self._binding.release()

    def wake_here(self) -> None:
        """Wake the task, in the thread of its loop."""
        self._binding.wake()

    async def sleep(self) -> None:
        """Sleep until `wake` is called, or was called since the task's last checkpoint; or for no reason at all."""
        await self._binding.sleep()

    @property
    def can_wait_readable(self) -> bool:
        """Whether `wait_readable` works: on Linux, but for loops of asyncio that wait for no descriptors of others."""
        return self._binding.can_wait_readable

    async def wait_readable(self, descriptor: int, lost: Callable[[], object]) -> None:
        """Sleep until a descriptor can be read, too. Where `can_wait_readable`; `leave_readiness` afterwards.

        Args:
            descriptor: Nobody else waits for it in this loop.
            lost: Is called if the task will never go on: somebody has closed an asyncio loop by hand and not
                cancelled what was running there. In the thread that does so; must not raise.
        """
        await self._binding.wait_readable(descriptor, lost)

    def leave_readiness(self) -> None:
        """Give back what was kept for the next `wait_readable`; from any thread, once or more often."""
        self._binding.leave_readiness()


class LoopCall:
    """A function that the current task's loop calls when somebody asks for it.

    Whoever asks does not wait for it. It may be called more often than it was asked for. Where the loop has ended,
    nothing happens.

    Args:
        fn: Is called in the loop's thread; must not block.

    Raises:
        RuntimeError: This is no task of trio or asyncio.
    """

    __slots__ = ("_binding",)

    def __init__(self, fn: Callable[[], object]) -> None:
        self._binding = current_binding()
        self._binding.wake = fn

    def ask(self) -> None:
        """Ask for it; from any thread, a signal handler, a finalizer."""
        self._binding.release()

    @property
    def is_lost(self) -> bool:
        """Whether nobody hears it any more: somebody has closed an asyncio loop by hand."""
        return self._binding.is_lost

    def silence(self) -> None:
        """Call nothing any more, and forget the function; in the loop's thread."""
        self._binding.wake = nobody

    def follow(self, token: CancelToken) -> None:
        """Have it asked for when a token is cancelled; at once if it has been."""
        token.add_waker(self._binding)
        if token.cancelled:
            self._binding.release()

    def unfollow(self, token: CancelToken) -> None:
        """Undo `follow`, once or more often."""
        token.remove_waker(self._binding)


def thread_context() -> contextvars.Context:
    """A copy of the caller's context variables for a thread, without what they say of the event loop."""
    context = contextvars.copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


class Loop:
    """The event loop of the task that makes it, as other threads reach it.

    Raises:
        RuntimeError: This is no task of trio or asyncio.
    """

    __slots__ = ("_binding",)

    def __init__(self) -> None:
        self._binding = current_binding()

    def start_soon(
        self,
        async_fn: Callable[[], Coroutine[Any, Any, None]],  # Any: what the runtime's own waits send and take
        *,
        context: contextvars.Context,
        name: str,
        lost: Callable[[], object],
        left: Callable[[], object] | None = None,
    ) -> None:
        """Have the loop run a task that belongs to nobody, a system task in trio's words. From any thread.

        The runtime cancels it when the loop ends. It should let no exception out: trio would end the whole program, and
        asyncio would report it when the task is forgotten.

        Args:
            async_fn: What to run.
            context: The context variables that it sees.
            name: What to call the task.
            lost: Is called instead, here or in the loop, if the loop has ended or ends before the task has begun.
            left: Is called if the task has begun and will never go on: somebody has closed an asyncio loop by hand and
                not cancelled what was running there. In the thread that does so; must not raise.
        """
        begun = ended = False

        async def run() -> None:
            nonlocal begun, ended
            begun = True
            try:
                await async_fn()
            finally:
                ended = True

        def note_end() -> None:
            if not begun:
                lost()
            elif left is not None and not ended:
                left()

        self._binding.start_soon(run, context, name, note_end)

    def has_cancelled_task(self) -> bool:
        """Whether the runtime has cancelled the current task itself, outside of all of its scopes.

        To be asked about what has come out of them. It need not be the runtime's exception: a clean-up may have raised
        another. And on asyncio a `CancelledError` may be that of something else which the task has awaited, such as a
        future: then it is an error like any other.
        """
        return self._binding.has_cancelled_task()
