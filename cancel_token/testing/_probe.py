"""The probe: passes a point wherever a token is asked, waited on or listened to; loops add theirs.

While it is installed, `CancelToken.cancelled` is a property, and the methods that arm, disarm and wait are
swapped for ones that pass a point first. Not installed, it costs nothing: no line of the token knows of it.
Threads without a lane (the service thread, other tests' threads) pass through; only that the explored token is asked
is noted of them, too.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import LockType
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE
from types import FrameType
from typing import Any, TypeVar
from weakref import WeakSet

from cancel_token import _cancellation, _deadline, _iteration, _registration, _stats, _token, _tree
from cancel_token._registration import Registration
from cancel_token._token import CancelToken
from cancel_token.testing import _clock
from cancel_token.testing._points import FLAG, Kind, Lane, Recording, Runaway, here, is_cancelled

T = TypeVar("T")

_on_cancel = CancelToken.on_cancel
_wait = CancelToken.wait
_unregister = Registration.unregister
_close = Registration.close
_start = threading.Thread.start
_submit = ThreadPoolExecutor.submit
_CHECK = CancelToken.check.__code__
_CLOSE = _close.__code__
# Reads in these files are the token's own business, but those of `check()`.
_OWN = (_token, _tree, _registration, _iteration, _stats, _cancellation, _deadline, _clock)
_INTERNAL = frozenset(str(module.__file__) for module in _OWN)
# A scope's look at its token is its user's. By name: who explores blocking code loads no loops.
_TRANSPARENT = _INTERNAL | {__file__, os.path.join(os.path.dirname(str(_token.__file__)), "aio.py")}
_AWAITS = CO_COROUTINE | CO_ITERABLE_COROUTINE | CO_ASYNC_GENERATOR  # of code that may await a coroutine
# Those of which `Recording.threads` says whether they do anything, or whose jobs it knows.
counted_threads: WeakSet[threading.Thread] = WeakSet()


def _caller(frame: FrameType) -> FrameType:
    """The nearest frame that is not of the token or of this file; at most the outermost one of a task."""
    while frame.f_code.co_filename in _TRANSPARENT and (outer := frame.f_back) is not None:
        if frame.f_code.co_flags & CO_COROUTINE and not outer.f_code.co_flags & _AWAITS:
            break  # the loop's own code calls it
        frame = outer
    return frame


def _bystander_asks(token: CancelToken) -> None:
    """Somebody who is not of the work may have been given its token, such as a service that `make` has started."""
    recording = Recording.current
    if recording is not None and recording.unasked and recording.open:
        recording.note_asked(token)


def _pass(kind: Kind, token: CancelToken) -> None:
    lane = here.lane
    if lane is not None:
        frame = _caller(sys._getframe(2))
        lane.reach(kind, frame.f_code, frame.f_lineno, token)
    else:
        _bystander_asks(token)


def _read_cancelled(token: CancelToken) -> bool:
    lane = here.lane
    if lane is not None:
        frame = sys._getframe(1)
        code = frame.f_code
        if code.co_filename in _TRANSPARENT:
            if code is not _CHECK and code.co_filename in _INTERNAL:
                return is_cancelled(token)
            frame = _caller(frame)
        lane.reach("check", frame.f_code, frame.f_lineno, token)
    elif (code := sys._getframe(1).f_code) is _CHECK or code.co_filename not in _INTERNAL:
        _bystander_asks(token)
    return is_cancelled(token)


def _pass_on_cancel(token: CancelToken, fn: Callable[..., object], *args: Any) -> Registration:
    _pass("arm", token)
    return _on_cancel(token, fn, *args)


def _pass_wait(token: CancelToken, timeout: float | None = None) -> bool:
    _pass("park", token)
    lane = here.lane
    if lane is not None:
        lane.recording.tell_rest(lane)
    cancelled = _wait(token, timeout)
    _pass("wake", token)
    return cancelled


def _pass_unregister(registration: Registration) -> bool:
    if sys._getframe(1).f_code is not _CLOSE:  # which is a point itself
        _pass("disarm", registration._token)
    return _unregister(registration)


def _pass_close(registration: Registration) -> None:
    _pass("disarm", registration._token)
    _close(registration)


def _in_lane(lane: Lane, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    before, here.lane = here.lane, lane
    try:
        with lane.recording.watch():
            return fn(*args, **kwargs)
    finally:
        here.lane = before


def _run_thread(lane: Lane, run: Callable[[], None]) -> None:
    try:
        _in_lane(lane, run)
    except Runaway:
        pass  # the recording says so; nobody else has to hear of it
    finally:
        lane.recording.thread_ended(lane)


def _start_in_lane(thread: threading.Thread) -> None:
    lane = here.lane
    if lane is None:
        _start(thread)
        return
    counted_threads.add(thread)
    if here.in_submit:
        _start(thread)
        return
    child = lane.child()
    # Not a subclass: the thread is whatever class the code under test has made it.
    vars(thread)["run"] = partial(_run_thread, child, thread.run)
    lane.recording.threads.add(child)
    try:
        _start(thread)
    except BaseException:
        lane.recording.threads.discard(child)
        raise
    lane.recording.give_way(lane)


@contextmanager
def job_in_lane(fn: Callable[[], T]) -> Iterator[tuple[Callable[[], T], Callable[[], object]]]:
    """Give a job to a pool in the block: it is a lane, whichever thread takes it, and a new thread of the pool is none.

    Yields:
        What the pool is to call, and what must be called when the job's result has been delivered.
    """
    lane = here.lane
    if lane is None:
        yield fn, int
        return
    child, recording = lane.child(), lane.recording
    recording.threads.add(child)
    here.in_submit = True
    try:
        yield partial(_in_lane, child, fn), partial(recording.thread_ended, child)
    except BaseException:
        recording.threads.discard(child)
        raise
    finally:
        here.in_submit = False


def _submit_in_lane(
    executor: ThreadPoolExecutor, fn: Callable[..., T], /, *args: Any, **kwargs: Any
) -> Future[T]:
    lane = here.lane
    if lane is None:
        return _submit(executor, fn, *args, **kwargs)
    ready = threading.Lock()
    ready.acquire()
    with job_in_lane(partial(fn, *args, **kwargs)) as (job, done):
        future = _submit(executor, _when, ready, job)
    # A pool calls one of them, which calls all that listen: only then nothing comes of the job any more.
    vars(future).update(
        set_result=partial(_deliver, future, "set_result", done),
        set_exception=partial(_deliver, future, "set_exception", done),
    )
    future.add_done_callback(lambda future: done() if future.cancelled() else None)
    ready.release()
    lane.recording.give_way(lane)
    return future


def _when(ready: LockType, job: Callable[[], T]) -> T:
    with ready:
        return job()


def _deliver(future: Future[T], method: str, done: Callable[[], object], result: object) -> None:
    del (
        vars(future)["set_result"],
        vars(future)["set_exception"],
    )  # they would be a circle with what they hold
    try:
        getattr(future, method)(result)
    finally:
        done()


_SWAPS: tuple[tuple[type, str, Any], ...] = (
    (CancelToken, "cancelled", property(_read_cancelled, FLAG.__set__)),
    (CancelToken, "on_cancel", _pass_on_cancel),
    (CancelToken, "wait", _pass_wait),
    (Registration, "unregister", _pass_unregister),
    (Registration, "close", _pass_close),
    (threading.Thread, "start", _start_in_lane),
    (ThreadPoolExecutor, "submit", _submit_in_lane),
)
_installed = threading.Lock()


@contextmanager
def installed() -> Iterator[None]:
    """Swap the methods for the length of the block; one block at a time in a process.

    Raises:
        RuntimeError: The probe is in use.
    """
    if not _installed.acquire(blocking=False):
        raise RuntimeError("cancel points are being explored already: one exploration at a time in a process")
    originals = [(owner, name, owner.__dict__[name]) for owner, name, _ in _SWAPS]
    try:
        for owner, name, swapped in _SWAPS:
            setattr(owner, name, swapped)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
        _installed.release()
