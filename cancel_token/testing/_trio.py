"""trio: an instrument sees every step of every task."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import outcome
import trio
from trio._core import _run, _thread_cache

from cancel_token._aio_trio import READINESS_TASK, TrioBinding
from cancel_token._token import CancelToken
from cancel_token.testing._outcomes import Limits, Outcome
from cancel_token.testing._points import Lane, Recording, Runaway, here
from cancel_token.testing._probe import job_in_lane
from cancel_token.testing._runtime import LoopRuntime, Stuck, pass_quietly, tasks_of_threads_in_lanes

T = TypeVar("T")

START_SECONDS = 1e6  # of the clock; trio's own is somewhere about there, too


class TrioRuntime(LoopRuntime):
    """A loop of trio's, whose tasks take turns in the same order every time."""

    def __init__(self, recording: Recording, token: CancelToken, limits: Limits, host: None) -> None:
        super().__init__(recording, token, limits, host)
        self.lanes: dict[trio.lowlevel.Task, Lane] = {}
        self.clock = _Clock()
        self._scope = trio.CancelScope()
        self._entry: trio.lowlevel.TrioToken | None = None

    def run_loop(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def main() -> T:
            self._entry = trio.lowlevel.current_trio_token()
            return await attempt()

        with (
            _same_order_every_time(),
            _cached_threads_in_lanes(),
            tasks_of_threads_in_lanes(TrioBinding, self._in_lane),
        ):
            try:
                return trio.run(main, clock=self.clock, instruments=[_Instrument(self)])
            except trio.TrioInternalError:
                if self.clock.stuck is None:
                    raise
                raise self.clock.stuck from None

    def _in_lane(
        self, run: Callable[[], Coroutine[Any, Any, None]], lane: Lane
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        async def run_in_lane() -> None:
            self.lanes[trio.lowlevel.current_task()] = here.lane = lane
            await run()

        return run_in_lane

    async def finish(self, value: object) -> Any:
        if not inspect.isawaitable(value):
            return value
        with trio.CancelScope() as self._scope:
            return await value
        raise Runaway("it waits for ever")  # nobody else cancels that scope

    async def work(self, call: Callable[[], object]) -> Outcome:
        task = trio.lowlevel.current_task()
        value = None
        try:
            with trio.CancelScope() as scope:
                self._scope = scope
                self.lanes[task] = self.recording.main
                with self.recording.running():
                    self.recording.main.reach("before", None, 0)
                    value = call()
                    if inspect.isawaitable(value):
                        value = await value
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self.outcome_of(error)
        finally:
            del self.lanes[task]
        return Outcome(kind="cancelled" if scope.cancelled_caught else "returned", value=value)

    def cancel_here(self) -> None:
        self._scope.cancel()

    async def settle(self) -> None:
        for _ in range(3):  # the entry queue's task, the one it wakes, and what that one leaves
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def left_tasks(self) -> list[str]:
        await self.settle()
        return sorted(task.name for task in self.lanes)

    def wake_up(self, then: Callable[[], object] = int) -> None:
        if self._entry is not None:
            try:
                self._entry.run_sync_soon(then)
            except trio.RunFinishedError:
                pass

    def release(self) -> None:
        self._scope.cancel()
        if self.rounds > 1:  # it is shielded
            for task in _leaves(trio.lowlevel.current_root_task()):
                trio.lowlevel.reschedule(task, outcome.Error(Runaway("it waits for ever")))

    def before_wait(self) -> None:
        """Before the loop waits for the outside world."""
        # What a thread has said before it ended, or before its task counted as started, is in the loop's queue.
        resting = self.started_tasks()
        hangs = self.nothing_can_come()
        if not resting and not hangs:
            return
        statistics = trio.lowlevel.current_statistics()
        if statistics.run_sync_soon_queue_size:
            return
        self.recording.tell_rest(*resting)
        if not hangs or statistics.seconds_to_next_deadline != math.inf:
            return
        sockets: Any = statistics.io_statistics  # of this platform; one is the loop's own
        if "tasks_waiting" in dir(sockets):
            waiting = sockets.tasks_waiting + sockets.monitors
        else:
            waiting = sockets.tasks_waiting_read + sockets.tasks_waiting_write
        if waiting <= 1:
            self.free()
            self.wake_up()  # how long it waits has been decided already


class _Instrument(trio.abc.Instrument):
    """Tells the lanes; must not raise, or trio drops it."""

    def __init__(self, runtime: TrioRuntime) -> None:
        self.runtime = runtime
        self.lanes = runtime.lanes

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        lane = here.lane
        if lane is not None and lane.recording.open and task.name != READINESS_TASK:
            self.lanes[task] = lane.child()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.lanes.pop(task, None)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        lane = self.lanes.get(task)
        if lane is not None:
            pass_quietly(lane, "wake", task.coro)
            here.lane = lane

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        here.lane = None
        lane = self.lanes.get(task)
        if lane is not None:
            pass_quietly(lane, "park", task.coro)

    def before_io_wait(self, timeout: float) -> None:
        runtime = self.runtime
        try:
            if runtime.recording.ran_away:
                runtime.cancel_here()
                runtime.count_runaway()
            elif timeout:
                runtime.before_wait()
        except Stuck as error:
            runtime.clock.stuck = error
            runtime.wake_up()


class _Clock(trio.abc.Clock):
    """The system's; and the only way to end a loop that cannot be ended is that its clock breaks."""

    def __init__(self) -> None:
        self.stuck: Stuck | None = None

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        if self.stuck is not None:
            raise self.stuck
        return time.perf_counter() + START_SECONDS

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


def _leaves(root: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """The tasks that wait, and not for tasks of their own; without trio's."""
    main = None if root is None else _main_task(root)
    stack = [] if main is None else [main]
    while stack:
        task = stack.pop()
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        stack += children
        if not children and task._next_send_fn is None:  # else it is about to run
            yield task


def _main_task(root: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
    for nursery in root.child_nurseries:
        for task in nursery.child_tasks:
            if task.name.endswith("run_loop.<locals>.main"):
                return task
    return None


@contextmanager
def _same_order_every_time() -> Iterator[None]:
    """trio shuffles the tasks that are ready. hypothesis' plugin of trio makes that repeatable in the same way."""
    switch: Any = _run
    before, state = switch._ALLOW_DETERMINISTIC_SCHEDULING, switch._r.getstate()
    switch._ALLOW_DETERMINISTIC_SCHEDULING = True
    switch._r.seed(0)
    try:
        yield
    finally:
        switch._ALLOW_DETERMINISTIC_SCHEDULING = before
        switch._r.setstate(state)


@contextmanager
def _cached_threads_in_lanes() -> Iterator[None]:
    """Make a job in one of trio's threads a lane, whichever thread it is; they stay for the next."""
    cache: Any = _thread_cache.ThreadCache
    start = cache.start_thread_soon

    def start_in_lane(
        self: object,
        fn: Callable[[], T],
        deliver: Callable[[outcome.Outcome[T]], object],
        name: str | None = None,
    ) -> None:
        with job_in_lane(fn) as (job, done):

            def delivered(result: outcome.Outcome[T]) -> None:
                try:
                    deliver(result)
                finally:
                    done()

            start(self, job, delivered, name)

    cache.start_thread_soon = start_in_lane
    try:
        yield
    finally:
        cache.start_thread_soon = start
