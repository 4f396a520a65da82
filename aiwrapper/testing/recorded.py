"""A transport that plays bytes from memory, for tests that need no socket."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from attrs import define, field, frozen

from aiwrapper._core.errors import ModelCallError
from aiwrapper.transport import HttpRequest, NotAStream
from cancel_token import CancelToken


@define(eq=False)
class Hold:
    """A place in a recording at which nothing comes until the token is cancelled or somebody lets it go on."""

    reached: threading.Event = field(factory=threading.Event, init=False)
    """Set when the reader waits here."""

    _released: CancelToken = field(factory=CancelToken, init=False)

    def release(self) -> None:
        """Let it go on."""
        self._released.cancel("released")

    def wait(self, token: CancelToken) -> None:
        """Wait here.

        Raises:
            Cancelled: the token was cancelled.
        """
        self.reached.set()
        with CancelToken.any(token, self._released) as either:
            either.wait()
        token.check()


@frozen
class Recording:
    """One answer.

    Args:
        pieces: its body, as it arrives. A `Hold` among them waits.
        status: anything but 200 is an HTTP error, whose body is the pieces.
        headers: of an HTTP error, in lower case.
        refuse: there is no connection at all; this is said instead.
    """

    pieces: tuple[bytes | Hold, ...] = field(converter=tuple[bytes | Hold, ...], default=())
    status: int = field(default=200, kw_only=True)
    headers: Mapping[str, str] = field(factory=dict, kw_only=True)
    refuse: str | None = field(default=None, kw_only=True)


def _iterator(recordings: Iterable[Recording]) -> Iterator[Recording]:
    return iter(recordings)


@define(eq=False)
class RecordedTransport:
    """A `Transport` that answers each request with the next recording, and remembers what it was asked.

    Args:
        recordings: the answers, in order. A request beyond them is refused.
    """

    recordings: Iterator[Recording] = field(converter=_iterator)
    requests: list[HttpRequest] = field(factory=list, init=False)
    open_now: int = field(default=0, init=False)
    """How many answers are being read; 0 after every run."""

    @contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[Iterable[bytes]]:
        """Play the next recording."""
        token.check()
        self.requests.append(request)
        recording = next(self.recordings, Recording(refuse="nothing more was recorded"))
        if recording.refuse is not None:
            raise ModelCallError(recording.refuse, kind="network")
        request.connected()
        if recording.status != 200:
            body = b"".join(piece for piece in recording.pieces if isinstance(piece, bytes))
            raise NotAStream(recording.status, recording.headers, body)
        self.open_now += 1
        try:
            yield self._play(recording, token)
        finally:
            self.open_now -= 1

    def _play(self, recording: Recording, token: CancelToken) -> Iterator[bytes]:
        for piece in recording.pieces:
            if isinstance(piece, Hold):
                piece.wait(token)
            else:
                token.check()
                yield piece
