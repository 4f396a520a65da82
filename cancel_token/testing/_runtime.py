"""Where an attempt runs: in blocking code, in a loop of trio's, in a loop of asyncio's.

The attempt itself is written once, as a coroutine (`_trial.py`). In blocking code it never waits, so one step runs it
from end to end; the loops run it as their main task.

What a loop adds: every wait is two points, *park* (it has just begun) and *wake* (it has ended, and its task has not
run yet); every task is a lane; the loop has a cancellation of its own; and it knows when nothing can ever
happen again: no task is ready, no deadline is set, no socket is waited for, and no thread could wake it. That is a
hang, found without a clock.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CodeType
from typing import Any, TypeVar

from cancel_token._aio_binding import Binding
from cancel_token._deadline import service
from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.testing import leaks
from cancel_token.testing._outcomes import Limits, Outcome, Raised
from cancel_token.testing._places import is_internal, place_of_thread
from cancel_token.testing._points import Kind, Lane, Recording, Runaway, here
from cancel_token.testing._probe import counted_threads

T = TypeVar("T")

ROUNDS = 10  # chosen by hand: how often what hangs is freed anew before we give up
RUNAWAY_TICKS = 1000  # chosen by hand: how long a loop that runs away may take to come to an end


class Stuck(Exception):
    """A hung attempt cannot be freed; what it still does would disturb all others."""


class NeedsLoop(TypeError):
    """The code under test waits, and there is no loop."""

    def __init__(self) -> None:
        super().__init__("what waits needs a loop: explore it with backend='trio' or backend='asyncio'")


class Runtime(ABC):
    """Runs one attempt.

    Args:
        recording: The attempt's points.
        token: The explored one.
        limits: For `seconds`.
        host: What the attempts of an exploration share.
    """

    can_cancel = False  # has a cancellation of its own

    def __init__(self, recording: Recording, token: CancelToken, limits: Limits, host: Any) -> None:
        self.recording = recording
        self.token = token
        self.limits = limits
        self.cancel_called = False
        self.hung = False
        self.stood = ""  # where its thread did when it had taken too long

    @classmethod
    def host(cls) -> AbstractContextManager[Any]:  # Any: each runtime knows its own
        """What attempts share, for the length of an exploration."""
        return nullcontext()

    @abstractmethod
    def run(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the whole attempt.

        Raises:
            Stuck: It hangs and could not be freed.
        """

    @abstractmethod
    async def finish(self, value: object) -> Any:
        """What a function of the user's gave; awaited, where that is possible and needed."""

    @abstractmethod
    async def work(self, call: Callable[[], object]) -> Outcome:
        """Run the work as lane 0, from the point *before* to its end."""

    def cancel(self) -> None:
        """Cancel the work by the runtime's own means."""
        raise NotImplementedError

    async def settle(self) -> None:  # noqa: B027  # blocking code has nothing that is under way
        """Let happen what was set going and has not happened yet."""

    async def left_tasks(self) -> list[str]:
        """End the tasks that are still there, and say which these were."""
        return []

    def outcome_of(self, error: BaseException) -> Outcome:
        """What the work raised, as an outcome."""
        if isinstance(error, BaseExceptionGroup):
            interrupt: BaseException | None = error.subgroup(KeyboardInterrupt)
            while isinstance(interrupt, BaseExceptionGroup):
                interrupt = interrupt.exceptions[0]
            if interrupt is not None:
                raise interrupt from None  # itself, as the loop raises it, too
            stopped = error.split(lambda leaf: self.is_stop(leaf))[1] is None
        else:
            stopped = self.is_stop(error)
        return Outcome(kind="cancelled" if stopped else "raised", exception=error)

    def raised_by(self, outcome: Outcome) -> Raised | None:
        """What the work raised that was no stop, in words; of a group the first such."""
        error = outcome.exception
        if outcome.kind != "raised" or error is None:
            return None
        group: BaseException | None = None
        if isinstance(error, BaseExceptionGroup):
            group = error
            error = error.split(lambda leaf: self.is_stop(leaf))[1] or error
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
        return Raised.of(error, group)

    def is_stop(self, error: BaseException) -> bool:
        """Is it what the attempt's own cancel makes the work raise?"""
        return isinstance(error, Cancelled) and (error.token is None or error.token.is_within(self.token))


class LoopRuntime(Runtime):
    """What trio and asyncio have in common."""

    can_cancel = True

    def __init__(self, recording: Recording, token: CancelToken, limits: Limits, host: Any) -> None:
        super().__init__(recording, token, limits, host)
        self.rounds = 0
        self.runaway_ticks = 0
        recording.when_quiet = self.wake_up
        self._bystanders = threading.enumerate()

    @abstractmethod
    def run_loop(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the attempt in a new loop."""

    @abstractmethod
    def cancel_here(self) -> None:
        """Cancel the work, in the loop's thread."""

    @abstractmethod
    def wake_up(self, then: Callable[[], object] = int) -> None:
        """Make the loop go round once more and call `then`; from any thread."""

    @abstractmethod
    def release(self) -> None:
        """Free what waits for ever; each time by a harder means."""

    def run(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def run() -> T:
            self.recording.loop_thread = threading.get_ident()
            return self.run_loop(attempt)

        seconds = self.limits.seconds
        return run() if seconds is None else within(self.limits, seconds, run, self._overdue)

    @property
    def stuck(self) -> bool:
        """Nothing helps."""
        return self.rounds > ROUNDS or self.runaway_ticks > RUNAWAY_TICKS

    def cancel(self) -> None:
        self.cancel_called = True
        if threading.get_ident() == self.recording.loop_thread:
            self.cancel_here()
            return
        done = threading.Lock()
        done.acquire()

        def cancel() -> None:
            self.cancel_here()
            done.release()

        self.wake_up(cancel)
        done.acquire(timeout=self.limits.freeze_seconds)  # it may stand still itself

    def _overdue(self, place: str) -> None:
        self.hung, self.stood = True, place
        self.token.cancel_soon("the attempt hangs")
        self.wake_up(self.free)

    def free(self) -> None:
        """Nothing will ever happen again by itself, or it has taken too long: end it.

        Raises:
            Stuck: That was tried in vain.
        """
        self.hung = True
        self.recording.open = False  # what it does from here on counts for nothing
        self.rounds += 1
        if self.stuck:
            raise Stuck("an attempt hangs and cannot be freed")
        if self.rounds == 1:
            self.token.cancel_and_report("the attempt hangs")
        self.release()

    def count_runaway(self) -> None:
        """Once per turn of a loop that has run away: it is given some turns to end.

        Raises:
            Stuck: It does not.
        """
        self.runaway_ticks += 1
        if self.stuck:
            raise Stuck("an attempt turns in circles and cannot be stopped")

    def started_tasks(self) -> list[Lane]:
        """Of the tasks that threads have started, those that the loop knows; they wait if the loop does."""
        return [lane for lane in list(self.recording.tasks) if lane.started]

    def nothing_can_come(self) -> bool:
        """Is there nobody but the loop itself who could wake it, sockets aside?"""
        if self.recording.threads:
            return False
        # Another's timer, such as that of a time limit for tests, knows nothing of this loop.
        timers = (each for each in self._bystanders if isinstance(each, threading.Timer))
        inert: set[threading.Thread] = {threading.main_thread(), threading.current_thread(), *timers}
        return not service.will_act() and all(
            thread in inert or thread in counted_threads or thread.name.startswith(leaks.KEPT_THREADS)
            for thread in threading.enumerate()
        )


@contextmanager
def tasks_of_threads_in_lanes(
    binding: type[Binding],
    in_lane: Callable[
        [Callable[[], Coroutine[Any, Any, None]], Lane], Callable[[], Coroutine[Any, Any, None]]
    ],
) -> Iterator[None]:
    """Make a lane of a task that a thread of the work starts.

    Args:
        binding: The runtime's, whose tasks are meant.
        in_lane: Makes of an async function another one, whose task is in that lane.
    """
    start = binding.start_soon

    def start_in_lane(bound: Binding, async_fn: Callable[[], Coroutine[Any, Any, None]], *args: Any) -> None:
        lane = here.lane
        if lane is None:
            start(bound, async_fn, *args)
            return
        child = lane.child()
        child.started = False
        child.recording.tasks.add(child)

        async def run() -> None:
            try:
                await async_fn()
            finally:
                child.recording.task_ended(child)

        try:
            start(bound, in_lane(run, child), *args)
        finally:
            child.started = True
            lane.recording.give_way(lane)

    binding.start_soon = start_in_lane  # type: ignore[method-assign, assignment]  # taken for a method
    try:
        yield
    finally:
        binding.start_soon = start  # type: ignore[method-assign]


def pass_quietly(lane: Lane, kind: Kind, coroutine: object) -> None:
    """Pass a point where nothing may be raised: the loop's own code."""
    if lane.recording.open:
        try:
            lane.reach(kind, *where(coroutine, lane.recording.waited))
        except Runaway:
            pass  # the recording says so


def where(coroutine: Any, waited: set[tuple[str, int]]) -> tuple[CodeType | None, int]:
    """The innermost line that waits and is not the runtime's own.

    Args:
        coroutine: A task's.
        waited: Is given file and line of this one and of all further out.
    """
    found: tuple[CodeType | None, int] = (None, 0)
    while coroutine is not None:
        try:
            frame = coroutine.cr_frame
            coroutine = coroutine.cr_await
        except AttributeError:  # a generator that is one, or what it waits for in the end
            frame = getattr(coroutine, "gi_frame", None)
            coroutine = getattr(coroutine, "gi_yieldfrom", None)
        if frame is None:
            break
        code = frame.f_code
        if not is_internal(code.co_filename):
            found = code, frame.f_lineno
            waited.add((code.co_filename, frame.f_lineno))
    return found


def within(limits: Limits, seconds: float, fn: Callable[[], T], free: Callable[[str], object]) -> T:
    """Call it in a thread of its own; if it takes too long, ask for its end by `free`, and wait for that.

    `free` is told where the thread stands.

    Raises:
        Stuck: It has not ended then.
    """
    results: list[T] = []
    raised: list[BaseException] = []
    worker = threading.Thread(
        target=collect, args=(lambda: results.append(fn()), raised), name="explored", daemon=True
    )
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        free(place_of_thread(worker.ident))
        worker.join(limits.cancel_seconds)
        if worker.is_alive():
            place = place_of_thread(worker.ident)
            raise Stuck("an attempt hangs and cannot be freed" + (f", at {place}" if place else ""))
    if raised:
        raise raised[0]
    return results[0]


def collect(action: Callable[[], object], raised: list[BaseException]) -> None:
    """Call it and keep what it raises."""
    try:
        action()
    except BaseException as error:
        raised.append(error)
