"""Bytes to server-sent events, after the WHATWG standard.

Section 9.2.5 and 9.2.6 of https://html.spec.whatwg.org/multipage/server-sent-events.html.

Invariants, each with a test in tests/core/test_sse.py:

1. The events do not depend on how the bytes were split.
2. The work is linear in the number of bytes for every split: a byte is looked at once for line ends, and a
   long line that dribbles in byte by byte is joined once.
3. No more than `max_event_bytes` (and one chunk) are ever held.

The standard decodes the stream to text and then takes it apart; we take apart the bytes and decode each line.
That is the same, because line ends and colons are ASCII, and a decoder that replaces invalid UTF-8 starts
afresh at every ASCII byte.
"""

from collections.abc import Callable, Iterator
from itertools import chain

from msgspec import Struct

from aiwrapper._core.errors import ModelCallError

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Chosen by hand: an inline image in one event of a provider takes 2 to 6 MB of base64; nobody sends 8."""

_SLICE_BYTES = 64 * 1024
"""A chunk is taken apart in slices, so that whoever feeds 10 MB at once can be stopped between two events."""

_MAX_RETRY_DIGITS = 15
"""More milliseconds than 15 digits are no waiting time; `int()` itself gives up at 4,300 digits."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(Struct, frozen=True, gc=False):
    """One event. A msgspec struct and no attrs class, because one is made for every token of an answer.

    Args:
        event: its type; `message` if the stream names none.
        data: its data lines, joined by line feeds.
        id: the last event id at this point of the stream; empty if there was none.
    """

    event: str
    data: str
    id: str = ""


class SseDecoder:
    """Takes the bytes of one stream apart. Not thread-safe; one decoder for one stream.

    Args:
        max_event_bytes: how large one event may be: the lines of its data and the line that is arriving.
        look: called at each line that ends no event and is not its only line of data: of these there may be any number
            between two events. What it raises ends the reading, and the decoder is of no further use.
    """

    def __init__(
        self, *, max_event_bytes: int = MAX_EVENT_BYTES, look: Callable[[], object] = lambda: None
    ) -> None:
        self._look = look
        self.retry_milliseconds: int | None = None
        """The reconnection time that the stream asked for last."""
        self._max_event_bytes = max_event_bytes
        self._tail = bytearray()  # the line that is arriving; never holds a line end
        self._after_cr = False  # a line feed that comes next belongs to the carriage return before it
        self._at_start = True  # no line is complete yet: the first may open with a byte-order mark
        self._event = ""
        self._data: list[str] = []
        self._data_bytes = 0
        self._id = ""

    def feed(self, chunk: bytes, /) -> Iterator[ServerSentEvent]:
        """Give the events that `chunk` completes, one by one, each as soon as its last line is read.

        The iterator has to be exhausted before the next chunk is fed: what it has not been asked for is
        not read yet. At the end of the stream nothing is to be done: an event without its blank line is
        dropped, as the standard wants it.

        Args:
            chunk: any number of bytes, split anywhere.

        Raises:
            ModelCallError: an event is larger than `max_event_bytes` (kind `limit`). The decoder is of no
                further use.
        """
        if len(chunk) <= _SLICE_BYTES:
            return self._feed(chunk)
        slices = (chunk[at : at + _SLICE_BYTES] for at in range(0, len(chunk), _SLICE_BYTES))
        return chain.from_iterable(map(self._feed, slices))

    def _feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if not chunk:
            return
        lines = chunk.splitlines()  # of bytes: at CR, LF and CRLF, and nowhere else
        rest = b""
        if chunk[-1] == 0x0D:
            self._after_cr = True
        elif chunk[-1] != 0x0A:
            rest = lines.pop()
        if lines and self._tail:
            self._tail += lines[0]
            lines[0] = bytes(self._tail)
            self._tail.clear()
        if lines and self._at_start:
            self._at_start = False
            if len(lines[0]) > self._max_event_bytes:  # counted with the mark, as in the tail (invariant 1)
                raise self._too_large()
            lines[0] = lines[0].removeprefix(_BOM)
        max_bytes, look = self._max_event_bytes, self._look
        for line in lines:
            if self._data_bytes + len(line) > max_bytes:
                raise self._too_large()
            if not line:
                if self._data:
                    # Reset before the event is given: the iterator may never be asked again.
                    event = ServerSentEvent(self._event or "message", "\n".join(self._data), self._id)
                    self._data.clear()
                    self._data_bytes = 0
                    self._event = ""
                    yield event
                else:
                    look()
                    self._event = ""
            elif line.startswith(b"data: "):
                if self._data:
                    look()
                self._data.append(line[6:].decode("utf-8", "replace"))
                self._data_bytes += len(line)
            elif line.startswith(b"event: "):  # the two lines that nearly every event is made of come first
                look()
                self._event = line[7:].decode("utf-8", "replace")
            else:
                look()
                self._field(line)
        if rest:
            self._tail += rest
            if self._data_bytes + len(self._tail) > max_bytes:
                raise self._too_large()

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")  # a comment is a field without a name
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
            self._data_bytes += len(line)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry_milliseconds = int(value)

    def _too_large(self) -> ModelCallError:
        return ModelCallError(
            f"one event of the answer is larger than max_event_bytes={self._max_event_bytes!r}", kind="limit"
        )
