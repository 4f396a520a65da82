"""asyncio's half of `aio.py`; loaded when it is first used in an asyncio task.

asyncio knows no scopes: `task.cancel()` is one shot, which hits whatever the task waits for next, and a shot too late
lands in the clean-up. anyio's scopes shoot only at a task that waits, again at its next wait, and take back
(`uncancel`) exactly what they sent (T-A4). What we add is patience, see `PatientScope`.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from functools import partial
from threading import get_ident
from typing import Any, Final, NoReturn, Self
from weakref import WeakKeyDictionary, ref

import anyio
from anyio._backends._asyncio import CancelScope as AnyioScope

from cancel_token._aio_binding import Binding, Interruption, WakeUps, nobody
from cancel_token._aio_readiness import IS_SUPPORTED, Readiness
from cancel_token._cancellation import report_unraisable
from cancel_token._forks import forks

# Chosen by hand. Clean-up that waits a few times in a row is hurried through without a pause, as on trio; what
# waits again a second after the stop is told so within a tenth of one.
TRIES_AT_ONCE = 16
FIRST_PAUSE_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.1

NEVER_SECONDS = 1e9  # some 30 years; asyncio itself wakes up once a day

HAS_EVENTFD: Final = hasattr(os, "eventfd")
"""Whether there are descriptors here that are made for ringing: on Linux."""

_UNOWNED: set[asyncio.Task[None]] = set()  # until they have ended


class PatientScope(AnyioScope):
    """anyio's scope, which does not make the loop spin while a task won't leave.

    anyio looks in every iteration of the loop whether the task waits again. A task that swallows `CancelledError`, or
    that waits for a subtask which takes its time to clean up, so keeps a processor busy. We look more and more seldom.

    It overrides a private method, for which anyio has no public counterpart. Should a version of anyio call it
    no more, nothing is lost but the patience; test_aio_asyncio.py would say so.
    """

    __slots__ = ("_pause_seconds", "_tries")

    def __init__(self) -> None:
        super().__init__()
        self._tries = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def _deliver_cancellation(self, origin: AnyioScope) -> bool:
        try_again = AnyioScope._deliver_cancellation(self, origin)
        if origin is not self:  # a scope further out comes by, and keeps its own time
            return try_again
        handle = self._cancel_handle
        if not try_again or handle is None:
            self._tries = 0
            self._pause_seconds = FIRST_PAUSE_SECONDS
        elif self._tries < TRIES_AT_ONCE:
            self._tries += 1
        else:
            handle.cancel()
            self._cancel_handle = asyncio.get_running_loop().call_later(
                self._pause_seconds, self._deliver_cancellation, self
            )
            self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
        return try_again


class _AtTheEnd:
    """Calls `ended` when the task has ended, perhaps without having begun, or when its loop is closed.

    asyncio tells nobody that a loop is closed, but it drops its timers then. So this hangs on a timer that nobody waits
    for, and speaks when it is dropped.
    """

    __slots__ = ("_ended", "_task")

    def __init__(self, task: asyncio.Task[None], ended: Callable[[], object]) -> None:
        self._task = task
        self._ended = ended

    def __call__(self) -> None:
        raise AssertionError("the end of time")

    def __del__(self) -> None:
        _UNOWNED.discard(self._task)
        self._ended()


def _cancel(timer: ref[asyncio.TimerHandle], _: asyncio.Task[None]) -> None:
    handle = timer()
    if handle is not None:
        handle.cancel()  # which drops what it would have called


class _Serving:
    """What a loop of asyncio holds of a readiness.

    asyncio tells nobody that a loop is closed, but it drops what it holds then. This speaks when it is dropped.
    """

    __slots__ = ("_readiness",)

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def __call__(self) -> None:
        self._readiness.serve()

    def __del__(self) -> None:
        self._readiness.lose()
        self._readiness.close()


def _serve_readable(
    loop: asyncio.AbstractEventLoop, readable: Readiness | _Bell, serve: Callable[[], object]
) -> None:
    """Have the loop call `serve` whenever a descriptor can be read, for whoever uses the loop.

    In a context of its own: asyncio keeps the current one, and what its variables hold, for as long as it serves.
    """
    contextvars.Context().run(loop.add_reader, readable, serve)


class _Eventfd:
    """A descriptor that can be read once somebody has written to it; closed when it is dropped."""

    __slots__ = ("_wake_ups", "number")

    def __init__(self, number: int, wake_ups: WakeUps) -> None:
        self.number = number
        self._wake_ups = wake_ups

    def __del__(self) -> None:
        # Another finalizer may still come by, and by then the number may be another file's.
        number, self.number = self.number, -1
        os.close(number)
        if self._wake_ups.due and len(forks) == self._wake_ups.forks:  # they have rung in vain
            self._wake_ups.ring()


class _Bell:
    """What wakes a loop of asyncio: the loop waits for a descriptor, and whoever rings writes to it.

    By asyncio's own entry (`call_soon_threadsafe`) all of a wake-up took a quarter more (Linux, Python 3.11, November
    2026): that makes a handle, sends to a socket, and ends in an exception when nothing more is to be read from it.

    The loop alone holds it, and drops it when it is closed, which asyncio tells nobody. Whoever rings gets it through a
    weak reference and holds it meanwhile: so nobody ever writes to a number that was given away. It has no finalizer of
    its own, since an object that is being finalized can still be got.
    """

    __slots__ = ("__weakref__", "eventfd", "wake_ups")

    def __init__(self, wake_ups: WakeUps) -> None:
        self.eventfd = _Eventfd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), wake_ups)
        self.wake_ups = wake_ups

    def fileno(self) -> int:
        return self.eventfd.number

    def __call__(self) -> None:
        """Serve those who have rung. What the loop has not called yet when a Ctrl-C comes it calls again."""
        if len(forks) != self.wake_ups.forks:  # what was rung is for the parent to hear
            return
        try:
            try:
                os.eventfd_read(self.eventfd.number)
            except BlockingIOError:  # a loop inside this one, made by strange means, was quicker
                pass
            self.wake_ups.serve()  # reading comes first: who rings from here on is heard in the next iteration
        except BaseException:
            self.wake_ups.ring()
            raise


class AsyncioWakeUps(WakeUps):
    """Those of one loop of asyncio, which is woken by its own thread-safe entry."""

    __slots__ = ("_loop", "thread_id")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, can_wait_readable: bool) -> None:
        super().__init__(can_wait_readable=can_wait_readable)
        self._loop = ref(loop)
        self.thread_id = 0  # of the thread that runs the loop

    def ring(self) -> None:
        loop = self._loop()
        if loop is None:
            self._forget()
            return
        try:
            loop.call_soon_threadsafe(self.serve)
        except RuntimeError as error:
            if not loop.is_closed():
                report_unraisable(error, loop)
            self._forget()

    def begin_readiness(self) -> Readiness:
        readiness = Readiness()
        _serve_readable(asyncio.get_running_loop(), readiness, _Serving(readiness))
        self.readiness = readiness  # now that it is served
        return readiness

    def end_readiness(self, readiness: Readiness) -> None:
        asyncio.get_running_loop().remove_reader(readiness)


class BellWakeUps(AsyncioWakeUps):
    """Those of one loop of asyncio, which is woken by a bell.

    But not by its own thread: there the loop's entry puts the wake-up before all that becomes ready afterwards, such as
    the next step of a task that has just cancelled a token and only passes a checkpoint. Nor when the bell was taken
    away: by somebody who tells the loop to read no more from a number that he has closed, and that is the bell's now.

    Raises:
        OSError: There is no descriptor left.
        NotImplementedError: The loop waits for no descriptors.
    """

    __slots__ = ("_bell",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, can_wait_readable=IS_SUPPORTED)
        bell = _Bell(self)
        self._bell = ref(bell)
        _serve_readable(loop, bell, bell)

    def ring(self) -> None:
        bell = self._bell()
        if bell is None or get_ident() == self.thread_id:
            super().ring()
            return
        try:
            os.eventfd_write(bell.eventfd.number, 1)
        except ValueError:  # -1: all of it is garbage, and being finalized
            self._forget()


# A program has few loops at a time; each entry goes with its loop.
_WAKE_UPS: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioWakeUps] = WeakKeyDictionary()


def wake_ups_of(loop: asyncio.AbstractEventLoop) -> AsyncioWakeUps:
    """Those of `loop`, in whose thread this is called; made when they are first asked for."""
    wake_ups = _WAKE_UPS.get(loop)
    if wake_ups is None:
        wake_ups = _WAKE_UPS[loop] = _new_wake_ups(loop)
    wake_ups.thread_id = get_ident()  # it may go on in another thread than before
    return wake_ups


def _new_wake_ups(loop: asyncio.AbstractEventLoop) -> AsyncioWakeUps:
    if HAS_EVENTFD:
        try:
            return BellWakeUps(loop)
        except (OSError, NotImplementedError):  # then it costs a little more
            pass
    return AsyncioWakeUps(loop, can_wait_readable=False)


class AsyncioBinding(Binding):
    """A task of asyncio in its loop."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop, wake_ups: AsyncioWakeUps) -> None:
        super().__init__(wake_ups)
        self._loop = loop

    @classmethod
    def current(cls) -> Self:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is None:
            raise RuntimeError("cancel_token.aio works inside a task of trio or asyncio only")
        loop = task.get_loop()
        return cls(loop, wake_ups_of(loop))

    def call_soon(self, fn: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(fn)

    async def sleep(self) -> None:
        waiter = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self.wake = wake
        try:
            await waiter
        finally:
            self.wake = nobody

    def start_soon(
        self,
        async_fn: Callable[[], Coroutine[Any, Any, None]],  # Any: what asyncio's waits send and take
        context: contextvars.Context,
        name: str,
        ended: Callable[[], object],
    ) -> None:
        def spawn() -> None:
            task = self._loop.create_task(async_fn(), name=name, context=context)
            _UNOWNED.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(_UNOWNED.discard)
            # The loop's alone, so that they go when it does; `ended` is then called by `_AtTheEnd`.
            timer = self._loop.call_later(NEVER_SECONDS, _AtTheEnd(task, ended))
            task.add_done_callback(partial(_cancel, ref(timer)))

        try:
            self.call_soon(spawn)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            ended()

    @property
    def is_lost(self) -> bool:
        return self._loop.is_closed()

    def has_cancelled_task(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def new_scope(self) -> PatientScope:
        return PatientScope()

    async def wait_reported(
        self, start: Callable[[Callable[[], None]], object], interrupt: Callable[[], object]
    ) -> Interruption | None:
        reported = False
        waiter = self._loop.create_future()

        def note_report() -> None:
            nonlocal reported
            reported = True
            if not waiter.done():
                waiter.set_result(None)

        task = asyncio.current_task()
        assert task is not None
        cancelling_before = task.cancelling()
        self.wake = note_report
        start(self.release)
        try:
            await waiter
        except CancelledError as error:
            cancellation = error
        except BaseException:  # the loop was torn down: nobody will ever wait for the thread
            interrupt()
            raise
        else:
            return None
        # A scope of anyio repeats itself; but a native task.cancel() in the same iteration is folded into one
        # exception with it, and that one does not come again.
        comes_again = _is_from_a_scope(cancellation) and task.cancelling() == cancelling_before + 1
        if not reported:
            interrupt()
        with anyio.CancelScope(shield=True):  # holds against scopes, not against task.cancel()
            while not reported:
                waiter = self._loop.create_future()
                try:
                    await waiter
                except CancelledError as error:
                    cancellation = error
                    comes_again = False
        try:
            return Interruption(partial(_raise, cancellation), comes_again)
        finally:
            del cancellation  # its traceback leads to this frame: no circle


def _raise(error: BaseException) -> NoReturn:
    try:
        raise error
    finally:
        del error


def _is_from_a_scope(error: CancelledError) -> bool:
    """Whether it is anyio's. Should its message ever change, we take it for a `task.cancel()` and raise it again."""
    return bool(error.args) and str(error.args[0]).startswith("Cancelled via cancel scope ")
