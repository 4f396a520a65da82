"""asyncio: the coroutine of each task is stepped by one of ours."""

from __future__ import annotations

import asyncio
import inspect
import selectors
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from typing import Any, Self, TypeVar

from cancel_token._aio_asyncio import AsyncioBinding, AsyncioWakeUps, wake_ups_of
from cancel_token._token import CancelToken
from cancel_token.testing._outcomes import Limits, Outcome
from cancel_token.testing._points import Lane, Recording, Runaway, here
from cancel_token.testing._runtime import LoopRuntime, pass_quietly, tasks_of_threads_in_lanes

T = TypeVar("T")

SETTLE_TURNS = 5  # chosen by hand: a task that was cancelled is gone after two


class AsyncioRuntime(LoopRuntime):
    """A loop of asyncio's."""

    def __init__(self, recording: Recording, token: CancelToken, limits: Limits, host: _Host) -> None:
        super().__init__(recording, token, limits, host)
        self._host = host
        self._loop = host.loop
        self._loop.selector.runtime = self
        self._task: asyncio.Task[Any] | None = None  # of the work

    @classmethod
    def host(cls) -> AbstractContextManager[_Host]:
        return _Host()

    def run_loop(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = self._loop
        clean = False
        struck: BaseException | None = None
        task: asyncio.Task[T] = loop.create_task(attempt())
        try:
            with tasks_of_threads_in_lanes(AsyncioBinding, lambda run, lane: lambda: _Steps(run(), lane)):
                result = loop.run_until_complete(task)
            clean = True
            return result
        except BaseException as error:
            struck = error
            raise
        finally:
            try:
                if not clean and not self.stuck:
                    self._clear(struck)
            finally:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: a Ctrl-C in another task has reached it by now, too
                del task, struck  # no circle
                if not clean or not loop.is_as_new():
                    self._host.renew()

    def _clear(self, struck: BaseException | None) -> None:
        """End what is left. Tasks that wait for the one that was struck pass on what struck it: that ends nothing."""
        clearing = self._loop.create_task(self.left_tasks())
        while not clearing.done():
            try:
                self._loop.run_until_complete(clearing)
            except BaseException as error:
                if error is not struck:  # such as a second Ctrl-C
                    raise

    async def finish(self, value: object) -> Any:
        if value is None or not inspect.isawaitable(value):
            return value
        try:
            return await value
        except asyncio.CancelledError:
            if self.hung:
                raise Runaway("it waits for ever") from None
            raise

    async def work(self, call: Callable[[], object]) -> Outcome:
        async def main() -> object:
            value = call()
            return await value if inspect.isawaitable(value) else value

        self.recording.begin()
        self._task = task = self._loop.create_task(_Steps(main(), self.recording.main, started=True))
        try:
            self.recording.main.reach("before", None, 0)
            await asyncio.wait([task])
            return Outcome(kind="returned", value=task.result())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self.outcome_of(error)
        finally:
            self._task = None
            del task  # what it raised leads to this frame: no circle

    def cancel_here(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def is_stop(self, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            return self.cancel_called
        return super().is_stop(error)

    async def settle(self) -> None:
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    async def left_tasks(self) -> list[str]:
        left = self._others()
        for _ in range(SETTLE_TURNS):
            if all(task.done() for task in left):
                break
            await asyncio.sleep(0)
        left = [task for task in left if not task.done()]
        if left:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            for task in left:
                task.cancelled() or task.exception()  # seen, so that nobody complains
        if not self._loop.is_as_new():
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()
        return sorted(task.get_name() for task in left)

    def _others(self) -> list[asyncio.Task[Any]]:
        me = asyncio.current_task(self._loop)
        return [task for task in asyncio.all_tasks(self._loop) if task is not me]

    def wake_up(self, then: Callable[[], object] = int) -> None:
        try:
            self._loop.call_soon_threadsafe(then)
        except RuntimeError:  # it is closed
            pass

    def release(self) -> None:
        work = self._task
        if self.rounds == 1 and work is not None:
            work.cancel()
        else:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()


class _Steps(Coroutine[Any, Any, T]):
    """Steps a task's coroutine: each call is a step of the task, what it returns is what the task waits for."""

    __slots__ = ("_coroutine", "_lane", "_started")

    def __init__(self, coroutine: Coroutine[Any, Any, T], lane: Lane, *, started: bool = False) -> None:
        self._coroutine = coroutine
        self._lane = lane
        self._started = started

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and the like, for those who look at tasks

    def _step(self, advance: Callable[..., Any], *args: Any) -> Any:
        lane = self._lane
        if not self._started:
            self._started = True
            pass_quietly(lane, "wake", self._coroutine)
        if lane.recording.ran_away:
            advance, args = self._coroutine.throw, (Runaway("it turns in circles"),)
        before, here.lane = here.lane, lane  # an eager task's first step is inside another's
        try:
            waits_for = advance(*args)
        finally:
            here.lane = before
        if lane.recording.open:
            # Here the task is not waiting yet. A cancel makes it cancel at once what it is about to wait for.
            pass_quietly(lane, "park", self._coroutine)
            # And here we are the first to hear, before the task: a cancel then finds a wait that has succeeded.
            if waits_for is None:
                asyncio.get_running_loop().call_soon(self._wake)
            else:
                waits_for.add_done_callback(self._wake)
        return waits_for

    def _wake(self, _: object = None) -> None:
        pass_quietly(self._lane, "wake", self._coroutine)


class _Host:
    """Keeps a loop for one attempt after the other: making one takes as long as a short attempt."""

    def __init__(self) -> None:
        self.loop = _Loop()

    def renew(self) -> None:
        """Take another: something of an attempt is left in this one."""
        self.loop.close()  # first, so that the new one has the same descriptors
        self.loop = _Loop()
        asyncio.set_event_loop(self.loop)

    def __enter__(self) -> Self:
        asyncio.set_event_loop(self.loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.set_event_loop(None)
        self.loop.close()


class _Loop(asyncio.SelectorEventLoop):
    """Makes a lane of each task that a task of the work starts, and knows when nothing will ever happen."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)
        self.selector.wake_ups = wake_ups_of(self)
        self.selector.own = len(self.selector.get_map())
        self._new = self._state()

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        lane = here.lane
        if lane is not None and lane.recording.open:
            coro = _Steps(coro, lane.child())
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        return task

    def is_as_new(self) -> bool:
        """Is nothing left of an attempt: nothing to call, to wait for, to close, and no setting?"""
        return self._state() == self._new

    def _state(self) -> tuple[object, ...]:
        own: Any = self  # what asyncio keeps to itself
        return (
            len(own._ready),
            len(own._scheduled),
            own._default_executor,
            own._executor_shutdown_called,
            len(own._asyncgens),
            own._asyncgens_shutdown_called,
            len(self.selector.get_map()),
            self.selector.wake_ups.silent,  # else a wake-up is under way
            self.get_task_factory(),
            self.get_exception_handler(),
            self.get_debug(),
            self.slow_callback_duration,
        )


class _Selector(selectors.DefaultSelector):
    runtime: AsyncioRuntime | None = None
    wake_ups: AsyncioWakeUps
    own: int  # how many descriptors wake the loop where it sleeps

    def select(self, timeout: float | None = None) -> Any:
        runtime = self.runtime
        if runtime is not None and runtime.recording.ran_away:
            runtime.count_runaway()
        alone = len(self.get_map()) <= self.own
        if timeout == 0 and alone and self.wake_ups.silent:
            return ()
        if timeout == 0 or runtime is None:
            return super().select(timeout)
        # What a thread has said before it ended, or before its task counted as started, is in the loop's own.
        resting = runtime.started_tasks()
        hangs = timeout is None and alone and runtime.nothing_can_come()
        if (resting or hangs) and (events := super().select(0)):
            return events
        runtime.recording.tell_rest(*resting)
        if hangs:
            runtime.free()
            timeout = 0
        return super().select(timeout)
