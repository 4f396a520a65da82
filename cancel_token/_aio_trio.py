"""trio's half of `aio.py`; loaded when it is first used in a trio task.

It goes to trio directly and not through anyio: a scope that is entered for every request costs half as much.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from functools import partial
from os import getpid
from typing import Any, NoReturn, Self

import trio

from cancel_token._aio_binding import Binding, Interruption


class TrioBinding(Binding):
    """A trio task's run."""

    __slots__ = ("_entry",)

    def __init__(self) -> None:
        self.process_id = getpid()
        self._entry = trio.lowlevel.current_trio_token()

    @classmethod
    def current(cls) -> Self:
        return cls()

    def release(self) -> None:
        if getpid() == self.process_id:
            try:
                self._entry.run_sync_soon(self.wake)
            except trio.RunFinishedError:
                pass

    def start_soon(
        self,
        async_fn: Callable[[], Coroutine[Any, Any, None]],  # Any: what trio's waits send and take
        context: contextvars.Context,
        name: str,
        ended: Callable[[], object],
    ) -> None:
        def spawn() -> None:
            try:
                trio.lowlevel.spawn_system_task(async_fn, name=name, context=context)
            except RuntimeError:  # trio still takes calls, but no tasks: it is about to end
                ended()

        try:
            self._entry.run_sync_soon(spawn)
        except trio.RunFinishedError:
            ended()

    def has_cancelled_task(self) -> bool:
        return True  # nothing else raises trio.Cancelled

    def new_scope(self) -> trio.CancelScope:
        return trio.CancelScope()

    # Between the start and the wait a Ctrl-C would leave a thread that wakes a task which does not sleep.
    @trio.lowlevel.enable_ki_protection
    async def wait_reported(
        self, start: Callable[[Callable[[], None]], object], interrupt: Callable[[], object]
    ) -> Interruption | None:
        task = trio.lowlevel.current_task()
        wanted: list[Interruption] = []

        def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            wanted.append(Interruption(raise_cancel, comes_again=True))
            interrupt()
            return trio.lowlevel.Abort.FAILED  # and trio does not ask again

        self.wake = partial(trio.lowlevel.reschedule, task)
        start(self.release)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return wanted[0] if wanted else None
