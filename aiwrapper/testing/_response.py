"""Sending one response as its delivery asks: held, cut, dribbled, paced."""

import http
import time
from collections.abc import Iterable, Iterator
from typing import Literal

from aiwrapper.testing._holds import Holds, Phase
from aiwrapper.testing._records import FakeRequest
from aiwrapper.testing._wire import Wire
from aiwrapper.testing.scripts import Delivery

_BATCH_BYTES = 65536  # chosen by hand: late events go out together, but not without limit


class LineCut(Exception):
    """The script wants the line to die here."""

    def __init__(self, how: Literal["fin", "rst"]) -> None:
        super().__init__(how)
        self.how = how


class Response:
    """One response on its way.

    Args:
        wire: the connection.
        request: whom it answers; its `sent_bytes` are kept up to date.
        holds: where to stop on the way.
        delivery: how to send.
    """

    def __init__(self, wire: Wire, request: FakeRequest, holds: Holds, delivery: Delivery) -> None:
        self._wire = wire
        self._request = request
        self._holds = holds
        self._delivery = delivery
        self._middle: int | None = None

    def send(self, status: int, headers: Iterable[tuple[str, str]], events: Iterable[bytes]) -> None:
        """Send it all.

        Args:
            status: the HTTP status.
            headers: without those that tell the body's framing.
            events: the body, in the parts that the pace counts.

        Raises:
            LineCut: the script ends here.
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        framing = self._delivery.framing
        at_middle = self._holds.pending("mid_body")
        length = 0
        if at_middle or framing == "length":  # both have to know the length; all else is sent as it is made
            events = list(events)
            length = sum(map(len, events))
            self._middle = length // 2 if at_middle else None
        match framing:
            case "chunked":
                told = ("transfer-encoding", "chunked")
            case "length":
                told = ("content-length", str(length))
            case "close":
                told = ("connection", "close")
        self._pass("headers")
        self._request.status = status
        self._wire.send(_head(status, [*headers, told]))
        self._pass("first_byte")
        for part in self._paced(events):
            self._send_part(part)
        self._pass_byte()
        if self._delivery.cut is not None:
            raise LineCut(self._delivery.cut.how)
        self._pass("end")
        if framing == "chunked":
            self._wire.send(b"0\r\n\r\n")

    def _send_part(self, part: bytes) -> None:
        while part:
            self._pass_byte()
            count = self._until_next_place()
            self._send_bytes(part[:count])
            part = part[count:] if count is not None else b""

    def _send_bytes(self, plain: bytes) -> None:
        framed = b"%x\r\n%b\r\n" % (len(plain), plain) if self._delivery.framing == "chunked" else plain
        self._wire.send(framed)
        self._request.sent_bytes += len(plain)

    def _until_next_place(self) -> int | None:
        """How many bytes may go out in one write; None for no limit."""
        sent = self._request.sent_bytes
        cut = self._delivery.cut
        places = [self._middle, None if cut is None else cut.at_byte, self._holds.next_byte(sent)]
        counts = [place - sent for place in places if place is not None and place > sent]
        if self._delivery.write_bytes is not None:
            counts.append(self._delivery.write_bytes)
        return min(counts, default=None)

    def _pass_byte(self) -> None:
        """Be held before the byte that is next, and die there if the script says so."""
        sent = self._request.sent_bytes
        self._pass(sent)
        if sent == self._middle:
            self._pass("mid_body")
        cut = self._delivery.cut
        if cut is not None and sent == cut.at_byte:
            raise LineCut(cut.how)

    def _pass(self, place: Phase | int) -> None:
        if (
            hold := self._holds.take(place)
        ) is not None:  # one: the next of this place is for the next request
            hold.keep(self._wire, self._request.connection, self._request)

    def _paced(self, events: Iterable[bytes]) -> Iterator[bytes]:
        """The events when they are due; those that are late, together."""
        rate = self._delivery.events_per_second
        if rate is None:
            yield from events
            return
        started = time.monotonic()
        late = bytearray()
        for number, event in enumerate(events):
            due = started + number / rate
            if due > time.monotonic():
                if late:
                    yield bytes(late)
                    late.clear()
                while due > time.monotonic():
                    self._wire.wait(until=due)
            late += event
            if len(late) >= _BATCH_BYTES:
                yield bytes(late)
                late.clear()
        if late:
            yield bytes(late)


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded" if status == 529 else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")
