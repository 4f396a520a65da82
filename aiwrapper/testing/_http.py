"""HTTP/1.1 as a server reads it: just enough for a client that posts JSON."""

import http.client
import io

from attrs import frozen

from aiwrapper.testing._wire import Wire

_MAX_HEAD_BYTES = 65536  # what http.server takes for one line; nobody's head is as long


class BadRequest(Exception):
    """The bytes are no HTTP request."""


@frozen(kw_only=True)
class Head:
    """A request without its body. The names of the headers are in lower case; of a repeated one, the last counts."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants another exchange on this connection."""
        return self.headers.get("connection", "").lower() != "close"


class RequestReader:
    """The requests of one connection, one after the other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray()

    def head(self) -> Head:
        """Wait for the next request's head.

        Raises:
            BadRequest: it is none.
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        raw = self._until(b"\r\n\r\n")
        first, _, rest = raw.partition(b"\r\n")
        words = first.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(f"no request line: {first[:80]!r}")
        try:
            fields = http.client.parse_headers(io.BytesIO(rest))
        except http.client.HTTPException as error:
            raise BadRequest(str(error)) from error
        headers = {name.lower(): value for name, value in fields.items()}
        return Head(method=words[0], path=words[1], headers=headers)

    def body(self, head: Head, into: bytearray) -> None:
        """Read the body as it arrives.

        Args:
            head: the request's.
            into: gets the bytes, also those of a body that is cut.

        Raises:
            BadRequest: its framing is broken.
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._number(self._until(b"\r\n").partition(b";")[0], base=16):
                self._take(size, into)
                self._until(b"\r\n")
            while self._until(b"\r\n") != b"\r\n":
                pass  # trailers, which nobody sends
            return
        self._take(self._number(head.headers.get("content-length", "0").encode("latin-1"), base=10), into)

    def _take(self, count: int, into: bytearray) -> None:
        while count:
            if not self._buffer:
                self._buffer += self._wire.receive()
            part = self._buffer[:count]
            del self._buffer[: len(part)]
            into += part
            count -= len(part)

    def _until(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`."""
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise BadRequest("the head does not end")
            self._buffer += self._wire.receive()
        taken = bytes(self._buffer[: at + len(mark)])
        del self._buffer[: len(taken)]
        return taken

    @staticmethod
    def _number(text: bytes, *, base: int) -> int:
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise BadRequest(f"no length: {text[:40]!r}")
        return number
