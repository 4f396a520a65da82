"""A run's entries on their way to readers in other threads and in event loops.

Both kinds are subscribers of a run: they are told in its thread, and wake whoever sleeps. A reader hangs what wakes it
on a bell before it looks once more, so no entry is missed; one that keeps up costs the run nothing.
"""

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

from attrs import define, field

from aiwrapper._core.log import Entry
from cancel_token import CancelToken

PIPE_ENTRIES: Final = 256
"""How far a run may be ahead of the only one who reads it. Chosen by hand: a full read of a fast stream."""


@define(eq=False)
class Bell:
    """Wakes everybody who sleeps."""

    _sleepers: list[Callable[[], object]] = field(factory=list, init=False)

    def ring(self) -> None:
        """Something has changed. From any thread."""
        while self._sleepers:
            try:
                wake = self._sleepers.pop()
            except IndexError:  # its sleeper has taken it back in between
                return
            wake()

    def hang(self, wake: Callable[[], object]) -> None:
        """Have `wake` called at the next ring. Then look once more whether there is need to sleep."""
        self._sleepers.append(wake)

    def forget(self, wake: Callable[[], object]) -> None:
        """Take it back; it may be called at this moment all the same."""
        try:
            self._sleepers.remove(wake)
        except ValueError:  # it has rung
            pass


@define(eq=False)
class Feed:
    """The whole log of a run, for any number of readers, each at its own speed and from the beginning."""

    entries: list[Entry] = field(factory=list, init=False)
    """Only ever grows."""
    ended: bool = field(default=False, init=False)
    """Set after the last entry."""
    bell: Bell = field(factory=Bell, init=False)

    def append(self, entry: Entry, /) -> None:
        """Take an entry; called by the run."""
        self.entries.append(entry)
        self.bell.ring()

    def end(self) -> None:
        """No entry comes any more."""
        self.ended = True
        self.bell.ring()


@define(eq=False)
class FeedReader:
    """Reads a feed from its beginning. Look at `ended`, then `take`; sleep if it gives nothing and had not ended."""

    _feed: Feed
    _seen: int = field(default=0, init=False)

    @property
    def ended(self) -> bool:
        """Whether nothing is added any more."""
        return self._feed.ended

    def take(self) -> Entry | None:
        """The next entry; None if there is none now."""
        if self._seen == len(self._feed.entries):
            return None
        self._seen += 1
        return self._feed.entries[self._seen - 1]

    @property
    def bell(self) -> Bell:
        """Rung when there is something, and when nothing is added any more."""
        return self._feed.bell

    @property
    def has_news(self) -> bool:
        """Whether there is no need to sleep."""
        return self._feed.ended or len(self._feed.entries) > self._seen


@define(eq=False)
class Pipe:
    """The log of a run for one reader, who takes what he reads. If he is slow the run waits for him."""

    stopped: CancelToken = field(factory=CancelToken.never, init=False)
    """The run's. When it is cancelled, nobody is waited for."""
    ended: bool = field(default=False, init=False)
    """Set after the last entry."""
    _entries: list[Entry] = field(factory=list, init=False)  # a deque is 10 times the size when empty
    bell: Bell = field(factory=Bell, init=False)
    _drained: Bell = field(factory=Bell, init=False)

    def append(self, entry: Entry, /) -> None:
        """Take an entry, when there is room for it; called by the run."""
        if len(self._entries) >= PIPE_ENTRIES:
            self._wait_for_room()
        self._entries.append(entry)
        self.bell.ring()

    def end(self) -> None:
        """No entry comes any more."""
        self.ended = True
        self.bell.ring()

    def take(self) -> Entry | None:
        """The next entry; None if there is none now."""
        if not self._entries:
            return None
        entry = self._entries.pop(0)
        if len(self._entries) <= PIPE_ENTRIES // 2:
            self._drained.ring()
        return entry

    @property
    def has_news(self) -> bool:
        """Whether there is no need to sleep."""
        return self.ended or bool(self._entries)

    def _wait_for_room(self) -> None:
        changes: SimpleQueue[None] = SimpleQueue()  # no Condition: a stop may come from a signal handler
        wake = partial(changes.put, None)
        with self.stopped.on_cancel(wake):
            while len(self._entries) >= PIPE_ENTRIES and not self.stopped.cancelled:
                self._drained.hang(wake)
                if len(self._entries) >= PIPE_ENTRIES and not self.stopped.cancelled:
                    changes.get()
                self._drained.forget(wake)
