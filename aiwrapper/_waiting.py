"""How a run waits for what a model says: where it is, or by giving way.

Whatever drives a run takes one step of it after the other. In a thread each step waits for whatever it needs. An event
loop cannot wait like that, but it can read a model's answer: a run that gives way says when there is nothing to be
read, and of which descriptor it waits; and it says so before it does anything else that may block, for which there
are threads. Between two such pauses no step blocks.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, Protocol, TypeAlias

from aiwrapper.transport import ArrivingBody
from cancel_token.http import NothingArrived

BYTES_IN_A_ROW: Final = 65_536
"""How much is read before others may have a turn, entries or not. Chosen by hand: what one read brings at most."""


class Point(Enum):
    """A pause in which nothing is waited for."""

    READ = "much has been read, perhaps without an entry in it; others may have a turn"
    MAY_BLOCK = "the next step may block"


Pause: TypeAlias = NothingArrived | Point
"""Why a run gives way though it has appended nothing."""


class Waiting(Protocol):
    """A way to wait."""

    @property
    def before_blocking(self) -> Sequence[Pause]:
        """What to say before something that may block."""

    def read(self, body: Iterable[bytes], /) -> Iterable[bytes | Pause]:
        """The pieces of a body, and pauses."""


class _InPlace:
    before_blocking: Sequence[Pause] = ()

    def read(self, body: Iterable[bytes], /) -> Iterable[bytes | Pause]:
        return body


class _GivingWay:
    before_blocking: Sequence[Pause] = (Point.MAY_BLOCK,)

    def read(self, body: Iterable[bytes], /) -> Iterable[bytes | Pause]:
        if isinstance(body, ArrivingBody):
            try:
                return _with_turns(body.iter_nowait())
            except io.UnsupportedOperation:
                pass  # this one waits where it is, in the thread that it is opened in
        return body


def _with_turns(items: Iterator[bytes | NothingArrived]) -> Iterator[bytes | Pause]:
    unseen = 0
    for item in items:
        yield item
        if isinstance(item, bytes):
            unseen += len(item)
            if unseen >= BYTES_IN_A_ROW:
                unseen = 0
                yield Point.READ


IN_PLACE: Final[Waiting] = _InPlace()
"""For whoever may block."""

GIVING_WAY: Final[Waiting] = _GivingWay()
"""For whoever may not. A body that cannot be read like that gives no pause, and is to be read in a thread."""
