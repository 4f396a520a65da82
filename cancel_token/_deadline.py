"""Deadlines, and the thread that keeps them (T-S12).

One daemon thread for the whole process, started by the first deadline or `cancel_soon()`. It is told everything
through a deque, and rung for with a `queue.SimpleQueue`, whose `put` is one call into C and may be interrupted by
itself: a Condition would deadlock in a signal handler. Only that thread touches the heap. The heap holds tokens weakly
and entries are never removed from its middle: a token that was cancelled, closed or dropped leaves a dead entry, and
when half of the heap may be dead, it is rebuilt.

Another thread may fork between any two bytecodes of this one (T-S18). So a letter leaves the deque only when it has
been served, and an entry stays in the heap until its token is cancelled: the child finds each in one place or in both,
and serving twice is as good as serving once.
"""

from __future__ import annotations

import _thread
import heapq
import itertools
import queue
import threading
import time
from _thread import LockType
from collections import deque
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from cancel_token._cancellation import Cancellation, cancel_all
from cancel_token._errors import CancelReason
from cancel_token._forks import call_in_child

if TYPE_CHECKING:
    from cancel_token._token import CancelToken

MAX_WAIT_SECONDS = 3600.0  # chosen by hand: far below any platform's limit, rare enough to cost nothing
MIN_PRUNE_ENTRIES = 64  # chosen by hand: a smaller heap is not worth a thought


class Clock(Protocol):
    """Where a token's time comes from. Tests hand in `cancel_token.testing.ManualClock`."""

    def now(self) -> float:
        """Seconds that never go back."""

    def schedule(self, token: CancelToken, when: float) -> None:
        """Cancel `token` when `now()` reaches `when`. Must hold it weakly and must not block."""

    def acquire(self, lock: LockType, seconds: float) -> bool:
        """Acquire `lock`, giving up after `seconds` of this clock; says whether it was acquired."""


class Deadlines:
    """A heap of deadlines; for one thread only."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ref[CancelToken]]] = []
        self._numbers = itertools.count()  # so that equal times never compare tokens
        self._prune_at = MIN_PRUNE_ENTRIES

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, token: ref[CancelToken]) -> None:
        """Add one; now and then this drops the dead, so that they are never more than the living."""
        if len(self._heap) >= self._prune_at:
            living = [entry for entry in self._heap if _is_alive(entry)]
            heapq.heapify(living)
            self._heap = living
            self._prune_at = max(MIN_PRUNE_ENTRIES, 2 * len(living))
        heapq.heappush(self._heap, (when, next(self._numbers), token))

    def next_time(self) -> float | None:
        """When the nearest is due; drops dead ones on the way."""
        while self._heap and not _is_alive(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[CancelToken]:
        """The tokens whose time has come, earliest first, each once; they stay in until they are cancelled."""
        entries, places = [], [0]
        while places:
            place = places.pop()
            if place < len(self._heap) and self._heap[place][0] <= now:
                entries.append(self._heap[place])
                places += (2 * place + 1, 2 * place + 2)
        tokens = [entry[2]() for entry in sorted(entries) if _is_alive(entry)]
        return list(dict.fromkeys(token for token in tokens if token is not None))

    def pop_due(self, now: float) -> list[CancelToken]:
        """Take out the tokens whose time has come."""
        due = self.due(now)
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)
        return due


def _is_alive(entry: tuple[float, int, ref[CancelToken]]) -> bool:
    token = entry[2]()
    if token is None or token.cancelled:
        return False
    deadline = token._deadline
    return deadline is not None and entry[0] <= deadline  # later ones were overtaken


def expirations(tokens: list[CancelToken], now: float) -> list[Cancellation]:
    """What is to be done, all at once, with tokens whose time has come."""
    return [Cancellation(token, CancelReason("deadline", "time is up", at=now)) for token in tokens]


Letter = tuple[float, "ref[CancelToken]"] | list[Cancellation]


class _Service:
    """The thread and its letters."""

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._deadlines = Deadlines()
        self._threads: list[int] = []  # the first has the office
        self._hooked = False

    def schedule(self, when: float, token: CancelToken) -> None:
        self._post((when, ref(token)))

    def run_soon(self, cancellation: Cancellation) -> None:
        self._post([cancellation])

    def _post(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._bell.put(None)
        self._ensure_thread()

    def will_act(self) -> bool:
        """Will it cancel anything by itself, or is it at it? For `cancel_token.testing`, which knows who waits in vain.

        A letter lies there until it is served, a deadline until it has become one: so letters are looked at twice.
        """
        return bool(self._letters) or any(map(_is_alive, list(self._deadlines._heap))) or bool(self._letters)

    def _ensure_thread(self) -> None:
        if not self._threads:
            if not self._hooked:
                call_in_child(self._after_fork)  # twice does no harm, never would
                self._hooked = True
            # Not threading.Thread: its start() takes locks that a signal handler may have interrupted the
            # holder of. Two callers may both come here: the second thread finds the office taken and leaves.
            _thread.start_new_thread(self._serve, ())

    def _after_fork(self) -> None:
        """The thread did not come along: serve what it had, from a thread of our own (T-S18)."""
        letters = list(self._letters)
        if _thread.get_ident() in self._threads:  # a callback forked: the letter it belongs to is served here
            del letters[:1]
        self._letters = deque(letters)
        self._bell = queue.SimpleQueue()  # the old one remembers a reader that is no more
        self._threads = []
        if letters or len(self._deadlines):
            self._ensure_thread()

    def _serve(self) -> None:
        me = _thread.get_ident()
        self._threads.append(me)
        try:
            if self._threads[0] == me:
                threading.current_thread().name = "cancel_token service"
                letters = self._letters
                while letters is self._letters:  # until a callback has forked, in the child
                    self._serve_next(letters)
        finally:
            if me in self._threads:
                self._threads.remove(me)

    def _serve_next(self, letters: deque[Letter]) -> None:
        """Wait for a letter or for the next deadline, and serve what is there."""
        when = self._deadlines.next_time()
        if not letters:
            seconds = None if when is None else min(max(0.0, when - time.monotonic()), MAX_WAIT_SECONDS)
            try:
                self._bell.get(timeout=seconds)  # it may have been rung for a letter that is served already
            except queue.Empty:
                pass
        if letters:
            self._serve_first(letters)
        now = time.monotonic()
        due = self._deadlines.due(now)
        if due:
            letters.appendleft(expirations(due, now))
            self._serve_first(letters)

    def _serve_first(self, letters: deque[Letter]) -> None:
        letter = letters[0]
        if isinstance(letter, tuple):
            self._deadlines.add(*letter)
        else:
            cancel_all(letter)
        letters.popleft()


service = _Service()


class _SystemClock:
    """The machine's monotonic clock; deadlines are kept by the service thread."""

    now = staticmethod(time.monotonic)  # not by a call of ours in between: whoever waits waits for that, too

    def schedule(self, token: CancelToken, when: float) -> None:
        service.schedule(when, token)

    def acquire(self, lock: LockType, seconds: float) -> bool:
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > MAX_WAIT_SECONDS:
            if lock.acquire(timeout=MAX_WAIT_SECONDS):
                return True
        return lock.acquire(timeout=max(0.0, left))


SYSTEM_CLOCK: Clock = _SystemClock()
