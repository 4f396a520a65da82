"""Who is told of a run's entries: the sink first, then the subscribers, each of each entry once.

A telling may be interrupted between any two bytecodes (Ctrl-C), and be gone on with: whoever is about to be told
counts as told. So after an interruption nobody hears an entry twice, and nobody but the interrupted misses one.
"""

from collections.abc import Iterable

from aiwrapper._core.log import Entry, Sink
from cancel_token import Cancelled


class SinkFailed(Exception):
    """The sink did not take an entry; the cause says why. It is told nothing more."""


class Audience:
    """Those who are told, for one run and one thread.

    Args:
        sink: may refuse an entry, by raising.
        subscribers: one that raises is told nothing more, which is its own affair.
    """

    def __init__(self, sink: Sink | None, subscribers: Iterable[Sink]) -> None:
        self.sink = sink
        self.errors: list[BaseException] = []
        """What subscribers raised."""
        self.entry: Entry | None = None
        """What is being told; None if all is told."""
        self._subscribers = list(subscribers)
        self._waiting: list[Sink] = []  # for `entry`
        self._sink_waits = False

    def announce(self, entry: Entry) -> None:
        """Begin to tell an entry; nobody has it yet."""
        self._waiting = self._subscribers[:]
        self._sink_waits = True
        self.entry = entry  # last: from here on there is something to go on with

    def forget(self) -> None:
        """Leave it at that: the entry has not happened."""
        self.entry = None

    def tell_sink(self) -> None:
        """Tell the sink, if it has not been.

        Raises:
            SinkFailed: it does not take the entry.
            BaseException: something interrupted it, such as a stop, while it waited for somebody.
        """
        if self.entry is None or not self._sink_waits:
            return
        self._sink_waits = False
        if self.sink is None:
            return
        try:
            self.sink.append(self.entry)
        except Exception as error:
            self.sink = None  # what it has is a whole prefix of the log, and a gap would be worse
            raise SinkFailed from error

    def tell_subscribers(self) -> None:
        """Tell the subscribers that have not been."""
        entry = self.entry
        if entry is None:
            return
        while self._waiting:
            subscriber = self._waiting[0]
            try:
                self._waiting.pop(0).append(entry)  # in one line: an interruption has little room in between
            except (Exception, Cancelled) as error:
                # By what it is: another may compare equal to it.
                self._subscribers = [each for each in self._subscribers if each is not subscriber]
                self.errors.append(error)
        self.entry = None
