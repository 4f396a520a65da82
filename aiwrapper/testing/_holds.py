"""Holding a fake provider at a place, so that a test knows where its client waits."""

import threading
from typing import TYPE_CHECKING, Literal, TypeAlias

from aiwrapper.testing._wire import Wire

if TYPE_CHECKING:
    from aiwrapper.testing._records import FakeConnection, FakeRequest

Phase: TypeAlias = Literal[
    "accept",  # the connection is accepted, nothing was read
    "tls",  # the client has begun its TLS handshake, nothing was answered
    "upload",  # the head of the request has been read, its body is left in the line
    "headers",  # the request has been read whole, no byte was answered
    "first_byte",  # the response's headers are sent, no byte of its body
    "mid_body",  # half of the body is sent
    "end",  # the body is sent, but not that it has ended
]
"""Where a fake can be held, besides before any one byte of a body."""

Place: TypeAlias = Phase | int
"""A phase, or the number of bytes of the body that are sent before the hold."""


class Hold:
    """A place where the fake waits until it is released. As a context manager it is released at the end.

    The first connection or request that gets to the place is held; one hold holds once.

    Attributes:
        reached: set once somebody is held. The bytes before the place are then in the hands of the kernel.
        connection: who is held; None until then.
        request: who is held; None until then, and in the phases before there is a request.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.reached: threading.Event = threading.Event()
        self.connection: FakeConnection | None = None
        self.request: FakeRequest | None = None
        self._released = False
        self._wire: Wire | None = None

    def release(self) -> None:
        """Let it go on; also before it is reached, then nobody is held. Any number of times."""
        self._released = True
        if self._wire is not None:  # set before the holder looks at `_released`: one of us two sees the other
            self._wire.wake()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def keep(self, wire: Wire, connection: "FakeConnection", request: "FakeRequest | None") -> None:
        """Wait in the connection's thread until released.

        Raises:
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        self.connection, self.request, self._wire = connection, request, wire
        self.reached.set()
        while not self._released:
            wire.wait(reading=self.place != "upload")


class Holds:
    """The holds that nobody has reached yet; used from all threads of a fake and of its test."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[Hold] = []

    def add(self, place: Place) -> Hold:
        """A new hold."""
        hold = Hold(place)
        with self._lock:
            self._pending.append(hold)
        return hold

    def take(self, place: Place) -> Hold | None:
        """The oldest hold of this place, which is then taken."""
        with self._lock:
            for hold in self._pending:
                if hold.place == place:
                    self._pending.remove(hold)
                    return hold
        return None

    def pending(self, place: Place) -> bool:
        """Whether somebody will be held at a place."""
        with self._lock:
            return any(hold.place == place for hold in self._pending)

    def next_byte(self, after: int) -> int | None:
        """The nearest place behind byte `after`."""
        with self._lock:
            places = [
                hold.place for hold in self._pending if isinstance(hold.place, int) and hold.place > after
            ]
        return min(places, default=None)
