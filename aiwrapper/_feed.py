"""A run's entries on their way to readers in other threads and in event loops.

Both kinds are subscribers of a run: they are told in its thread, and wake whoever waits. A reader sleeps on a
`CancelToken` of its own, the one event that a thread and a task of trio or asyncio may wait for alike; it
is hung up before the reader looks once more, so no entry is missed, and it costs nothing while the reader keeps up.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from attrs import define, field

from aiwrapper._core.log import Entry
from cancel_token import CancelToken

PIPE_ENTRIES: Final = 256
"""How far a run may be ahead of the only one who reads it. Chosen by hand: a full read of a fast stream."""


@define(eq=False)
class Bell:
    """Wakes everybody who sleeps."""

    _sleepers: list[CancelToken] = field(factory=list, init=False)

    def ring(self) -> None:
        """Something has changed. From any thread."""
        while self._sleepers:
            try:
                self._sleepers.pop().cancel_and_report("something has changed")
            except IndexError:  # its sleeper has taken it back in between
                return

    def sleep_until(self, changed: Callable[[], bool]) -> CancelToken | None:
        """A token that is cancelled at the next ring; None if there is no need to sleep.

        Args:
            changed: whether what is waited for is so already. Looked at when nothing can be missed any more.
        """
        sleeper = CancelToken(name="until something has changed")
        self._sleepers.append(sleeper)
        if not changed():
            return sleeper
        self.forget(sleeper)
        return None

    def forget(self, sleeper: CancelToken) -> None:
        """Take back a token that nobody waits for any more."""
        try:
            self._sleepers.remove(sleeper)
        except ValueError:  # it has rung
            pass


class Reader(Protocol):
    """One who reads a run's log. Look at `ended`, then `take`; if that gives nothing and it was not ended, `sleep`."""

    @property
    def ended(self) -> bool:
        """Whether nothing is added any more."""

    def take(self) -> Entry | None:
        """The next entry; None if there is none now."""

    def sleep(self) -> CancelToken | None:
        """What to wait for when there is none; None: look again at once."""

    def forget(self, sleeper: CancelToken) -> None:
        """Have done with what `sleep` gave, whether or not it was waited for to the end."""


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
    """Reads a feed from its beginning."""

    _feed: Feed
    _seen: int = field(default=0, init=False)

    @property
    def ended(self) -> bool:
        return self._feed.ended

    def take(self) -> Entry | None:
        if self._seen == len(self._feed.entries):
            return None
        self._seen += 1
        return self._feed.entries[self._seen - 1]

    def sleep(self) -> CancelToken | None:
        feed = self._feed
        return feed.bell.sleep_until(lambda: feed.ended or len(feed.entries) > self._seen)

    def forget(self, sleeper: CancelToken) -> None:
        self._feed.bell.forget(sleeper)


@define(eq=False)
class Pipe:
    """The log of a run for one reader, who takes what he reads. If he is slow the run waits for him.

    Args:
        stopped: when it is cancelled, nobody is waited for.
    """

    stopped: CancelToken
    ended: bool = field(default=False, init=False)
    """Set after the last entry."""
    _entries: deque[Entry] = field(factory=deque, init=False)
    _filled: Bell = field(factory=Bell, init=False)
    _drained: Bell = field(factory=Bell, init=False)

    def append(self, entry: Entry, /) -> None:
        """Take an entry, when there is room for it; called by the run."""
        while self._is_full():
            sleeper = self._drained.sleep_until(lambda: not self._is_full())
            if sleeper is not None:
                with CancelToken.any(sleeper, self.stopped) as either:
                    either.wait()
                self._drained.forget(sleeper)
        self._entries.append(entry)
        self._filled.ring()

    def end(self) -> None:
        """No entry comes any more."""
        self.ended = True
        self._filled.ring()

    def take(self) -> Entry | None:
        if not self._entries:
            return None
        entry = self._entries.popleft()
        if len(self._entries) <= PIPE_ENTRIES // 2:
            self._drained.ring()
        return entry

    def sleep(self) -> CancelToken | None:
        return self._filled.sleep_until(lambda: self.ended or bool(self._entries))

    def forget(self, sleeper: CancelToken) -> None:
        self._filled.forget(sleeper)

    def _is_full(self) -> bool:
        return len(self._entries) >= PIPE_ENTRIES and not self.stopped.cancelled
