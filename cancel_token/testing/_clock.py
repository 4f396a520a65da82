"""A clock that tests move by hand."""

from __future__ import annotations

import threading
from _thread import LockType
from typing import TYPE_CHECKING
from weakref import ref

from cancel_token._cancellation import cancel_all, wake
from cancel_token._deadline import Deadlines, expirations

if TYPE_CHECKING:
    from cancel_token._token import CancelToken


class ManualClock:
    """A `Clock` that stands still until it is told to move: `CancelToken(timeout=5, clock=ManualClock())`.

    Deadlines are fired, and sleepers woken, by the thread that moves the clock, before `advance()` returns:
    first all flags, then all callbacks, as on the real clock. May be used from several threads.

    Args:
        start: What it shows at first, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._deadlines = Deadlines()
        self._sleepers: dict[LockType, float] = {}
        self._changed = threading.Condition()  # guards _deadlines and _sleepers; no foreign code under it

    def now(self) -> float:
        """What it shows, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it forward and do all that becomes due.

        Args:
            seconds: Not negative.

        Raises:
            ValueError: `seconds` is negative: a monotonic clock does not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock moves forward, not by {seconds!r} seconds")
        with self._changed:
            self._now += seconds
            now = self._now
            due = self._deadlines.pop_due(now)
            sleepers = [lock for lock, until in self._sleepers.items() if until <= now]
        cancel_all(expirations(due, now))
        for lock in sleepers:
            wake(lock)

    def wait_for_sleepers(self, count: int = 1) -> None:
        """Block until so many threads sleep on this clock, so that a test knows when to move it.

        Args:
            count: At least so many.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._sleepers) >= count)

    def schedule(self, token: CancelToken, when: float) -> None:
        """For tokens: cancel `token` when the clock shows `when`."""
        with self._changed:
            self._deadlines.add(when, ref(token))

    def acquire(self, lock: LockType, seconds: float) -> bool:
        """For tokens: acquire `lock`; give up, which is False, when the clock has moved on by `seconds`."""
        until = self._now + seconds
        with self._changed:
            self._sleepers[lock] = until
            self._changed.notify_all()
        try:
            lock.acquire()
        finally:
            with self._changed:
                del self._sleepers[lock]
        return self._now < until


class JumpingClock(ManualClock):
    """A `ManualClock` that whoever sleeps on it moves: time passes only, and at once, while somebody waits.

    For code with back-off or timeouts on its token: a sleep of an hour takes no time, and what becomes due in that hour
    is done first. Not for threads that wait for one another with a timeout: each wait ends at once.
    """

    def acquire(self, lock: LockType, seconds: float) -> bool:
        """For tokens: move on by `seconds`; True if what became due has released `lock`."""
        self.advance(max(0.0, seconds))
        return lock.acquire(blocking=False)
