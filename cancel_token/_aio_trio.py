"""trio's half of `aio.py`; loaded when it is first used in a trio task.

It goes to trio directly and not through anyio: a scope that is entered for every request costs half as much.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NoReturn, Self

import trio

from cancel_token._aio_binding import Binding, Interruption, WakeUps, nobody
from cancel_token._aio_readiness import IS_SUPPORTED, Readiness

READINESS_TASK: Final = "cancel_token readiness"
"""The task that wakes those who wait for descriptors. It is the loop's: it works for all tasks and belongs to none."""


class TrioWakeUps(WakeUps):
    """Those of one run of trio."""

    __slots__ = ("_serving", "entry", "is_ending")

    def __init__(self) -> None:
        super().__init__(can_wait_readable=IS_SUPPORTED)
        self.entry = trio.lowlevel.current_trio_token()
        self._serving = trio.CancelScope()  # of the task that serves `readiness`
        self.is_ending = False  # the run is: its tasks are being cancelled, that one first

    def ring(self) -> None:
        try:
            self.entry.run_sync_soon(self.serve)
        except trio.RunFinishedError:
            self._forget()

    def begin_readiness(self) -> Readiness:
        readiness = Readiness()
        scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._serve_readiness, readiness, scope, name=READINESS_TASK)
        self.readiness = readiness  # now that it is served
        self._serving = scope
        return readiness

    def end_readiness(self, readiness: Readiness) -> None:
        self._serving.cancel()

    async def _serve_readiness(self, readiness: Readiness, scope: trio.CancelScope) -> None:
        try:
            with scope:
                while True:
                    await trio.lowlevel.wait_readable(readiness)
                    readiness.serve()
        finally:
            if not scope.cancel_called:
                self.is_ending = True
                readiness.wake_all()
            readiness.close()


_of_this_run: trio.lowlevel.RunVar[TrioWakeUps | None] = trio.lowlevel.RunVar("cancel_token.aio", None)


class TrioBinding(Binding):
    """A trio task in its run."""

    __slots__ = ()

    _wake_ups: TrioWakeUps

    @classmethod
    def current(cls) -> Self:
        wake_ups = _of_this_run.get()
        if wake_ups is None:
            wake_ups = TrioWakeUps()
            _of_this_run.set(wake_ups)
        return cls(wake_ups)

    def call_soon(self, fn: Callable[[], object]) -> None:
        self._wake_ups.entry.run_sync_soon(fn)

    async def sleep(self) -> None:
        self.wake = partial(self._go_on, trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(self._stay_away)

    def _go_on(self, task: trio.lowlevel.Task) -> None:
        self.wake = nobody  # trio wants it said once
        trio.lowlevel.reschedule(task)

    def _stay_away(self, _: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        self.wake = nobody
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_readable(self, descriptor: int, lost: Callable[[], object]) -> None:
        if not self._wake_ups.is_ending:
            await super().wait_readable(descriptor, lost)
            return
        # Who is shielded still waits, by himself.
        self.wake = partial(trio.lowlevel.notify_closing, descriptor)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        except trio.ClosedResourceError:
            pass
        finally:
            self.wake = nobody

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
            self.call_soon(spawn)
        except trio.RunFinishedError:
            ended()

    def has_cancelled_task(self) -> bool:
        return trio.current_effective_deadline() == -math.inf

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

        self.wake = partial(self._go_on, task)
        start(self.release)
        await trio.lowlevel.wait_task_rescheduled(abort)
        return wanted[0] if wanted else None
