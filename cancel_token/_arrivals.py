"""A response's body for whoever must not wait for it: an event loop.

`http.client` parses it all the same, and never meets a read that would have to wait. What has arrived is looked at
first, and the next step is taken only when the whole of it is there:

1. of a body that is not chunked, or in the middle of a chunk: a byte;
2. where a chunk begins: its size, and a byte of it; where the size is 0, the whole trailer;
3. where the line has ended or broken: whatever there is, since reading on waits for nothing then.

So half of a chunk's size neither holds up the loop nor is lost. Whatever is wrong is found by `http.client`, in the
bytes or in the error of the socket, and is reported as it is to code that blocks.
"""

import http.client
import io
import socket
import ssl
from typing import Final

import attrs

from cancel_token._lines import Line
from cancel_token._token import CancelToken
from cancel_token.sockets import raise_stop

READ_BYTES: Final = 65_536
"""What one read may bring at most. Hand-picked: a TLS record carries 16 KiB, a fast loopback stream fills four."""

MAX_LINE_BYTES: Final = 65_536
"""What `http.client` takes for the line of a chunk's size; a longer one is its error to raise."""

MAX_TRAILER_BYTES: Final = 262_144
"""Chosen by hand: nobody sends trailers, and they have to be held until they are whole."""


@attrs.frozen
class NothingArrived:
    """A body can't go on: nothing has arrived that it could give.

    Args:
        descriptor: The socket's. Wait until it can be read, then take the next item; it may be another one of these,
            if what has arrived is not enough.
        until: Take the next item then at the latest, by the clock of the request's token: the server has been silent
            for as long as the request allows, and the iterator will say so. None: there is no such time.
    """

    descriptor: int
    until: float | None


class ArrivedFile:
    """What has arrived of a response, as the file that `http.client` reads it from.

    It takes a `Reader`'s place. Like it, it asks the token before and after each read of the socket, and where no read
    is needed.

    Args:
        line: The connection's, bound to the request's token.
        token: It.
        raw: Is closed with this file.
        sock: What is read from; it never waits.
        data: What has been read from it already.
        timeout_seconds: How long the server may be silent; None for ever.
        last: As for `Reader`.
    """

    def __init__(
        self,
        line: Line,
        token: CancelToken,
        raw: io.RawIOBase,
        sock: socket.socket,
        data: bytes,
        timeout_seconds: float | None,
        *,
        last: bool,
    ) -> None:
        self.closed: bool = False
        self._line = line
        self._token = token
        self._raw = raw
        self._sock = sock
        self._data = data
        self._at = 0  # what comes before it in the data has been given
        self._ended = False  # nothing comes behind the data, or the error
        self._error: Exception | None = None
        self._may_hold_more = True  # what is read from, without a wait before
        self._timeout_seconds = timeout_seconds
        self._silent_since: float | None = None
        self._last = last
        line.hold(self)

    # For whoever wants the body

    def look(self, answer: http.client.HTTPResponse) -> NothingArrived | None:
        """Say what has to be waited for before `answer`, which reads from here, can give its next piece.

        Raises:
            Cancelled: The token is cancelled.
        """
        while not self._has_a_step(answer):
            if self._may_hold_more and self._receive():
                self._silent_since = None
                continue
            self._may_hold_more = True  # when it has been waited for
            seconds = self._timeout_seconds
            if seconds is None:
                return NothingArrived(self._sock.fileno(), None)
            now = self._token.clock.now()
            if self._silent_since is None:
                self._silent_since = now
            until = self._silent_since + seconds
            if now < until:
                return NothingArrived(self._sock.fileno(), until)
            self._fail(TimeoutError("timed out"))
        return None

    def _receive(self) -> bool:
        """Take what has arrived. False if nothing has."""
        token = self._token
        if token.cancelled:
            token.check()
        try:
            block = self._sock.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise_stop(token, error)
            self._fail(error)
            return True
        if (
            token.cancelled
        ):  # the end we see may be of our own making, and what has come before it is too late
            token.check()
        self._data = self._data[self._at :] + block
        self._at = 0
        self._ended = not block
        # A short read has taken all there was. TLS gives a record at a time, and may hold the rest of one.
        self._may_hold_more = len(block) == READ_BYTES or (
            isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0
        )
        return True

    def _fail(self, error: Exception) -> None:
        """Raise it from here on where somebody wants more than there is."""
        self._error = error
        self._ended = True

    def _has_a_step(self, answer: http.client.HTTPResponse) -> bool:
        if self._ended or self.closed:
            return True
        arrived = len(self._data) - self._at
        if not answer.chunked:
            return arrived > 0 or answer.length == 0
        if answer.chunk_left:
            return arrived > 0
        # Behind a chunk stands a line end, which is read together with the size of the next.
        return self._has_a_chunk(self._at if answer.chunk_left is None else self._at + 2)

    def _has_a_chunk(self, at: int) -> bool:
        end = self._end_of_line(at)
        if end is None:
            return False
        try:
            size = int(self._data[at:end].partition(b";")[0], 16)
        except ValueError:
            return True
        if size:
            return end < len(self._data)
        while self._data[at:end] not in (b"\r\n", b"\n"):
            at, found = end, self._end_of_line(end)
            if found is None:
                if len(self._data) - self._at > MAX_TRAILER_BYTES:
                    self._fail(http.client.HTTPException("the trailer does not end"))
                return self._ended
            end = found
        return True

    def _end_of_line(self, at: int) -> int | None:
        """Where the line that begins there ends, or is too long; None if neither is known."""
        limit = at + MAX_LINE_BYTES + 1
        end = self._data.find(b"\n", at, limit) + 1
        if end:
            return end
        return limit if len(self._data) >= limit else None

    # For http.client

    def readline(self, size: int = -1, /) -> bytes:
        """Give a line, or `size` bytes of it."""
        limit = len(self._data) + 1 if size < 0 else self._at + size
        end = self._data.find(b"\n", self._at, limit) + 1
        return self._given(end or limit)

    def read(self, size: int = -1, /) -> bytes:
        """Give so many bytes; all there are if it is negative."""
        return self._given(len(self._data) + 1 if size < 0 else self._at + size)

    def read1(self, size: int = -1, /) -> bytes:
        """Give at most so many bytes of those that have arrived."""
        arrived = len(self._data) - self._at
        return self._given(self._at + (min(size, arrived or 1) if size >= 0 else arrived or 1))

    def _given(self, end: int) -> bytes:
        """The data up to `end`; fewer where the body ends before.

        Raises:
            Cancelled: The token is cancelled.
            OSError: The line broke before, or nobody has looked.
        """
        if self._token.cancelled:
            self._token.check()
        if end > len(self._data):
            if self._error is not None:
                raise self._error
            if not self._ended:
                raise BlockingIOError("not so much has arrived: look first")
        given = self._data[self._at : end]
        self._at += len(given)
        return given

    def flush(self) -> None:
        """Do nothing: there is nothing to flush in what is only read."""

    def fileno(self) -> int:
        """Give the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Let go of the line and the socket."""
        if not self.closed:
            self.closed = True
            if self._last:
                self._line.release()
            self._line.let_go(self)
            self._raw.close()
