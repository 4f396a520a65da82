"""What a fake provider remembers of its visitors."""

import json
import threading
import time
from typing import Any

from aiwrapper._core.dialect import Violation
from aiwrapper.testing._http import Head
from aiwrapper.testing._wire import HowGone


class FakeConnection:
    """A connection that was accepted.

    Attributes:
        number: from 1, in the order in which they came.
        requests: the requests on it so far.
        hung_up: set the moment the server sees that the peer has ended it, in whatever state it was.
        hung_up_at: when that was, in `time.monotonic()` seconds.
        hung_up_how: `fin` or `rst`.
        closed: set when the server's side is closed, too.
        failure: why it could not be used: a failed TLS handshake, bytes that are no HTTP; None if it could.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests: list[FakeRequest] = []
        self.hung_up: threading.Event = threading.Event()
        self.hung_up_at: float | None = None
        self.hung_up_how: HowGone | None = None
        self.closed: threading.Event = threading.Event()
        self.failure: Exception | None = None

    def note_hang_up(self, how: HowGone) -> None:
        """The peer has just left."""
        self.hung_up_at = time.monotonic()
        self.hung_up_how = how
        self.hung_up.set()


class FakeRequest:
    """A request that has begun to arrive.

    Attributes:
        number: from 1, in the order in which their heads arrived.
        connection: the connection it came on.
        method: such as `POST`.
        path: as sent.
        headers: by name in lower case.
        status: the HTTP status of the answer; None until there is one.
        violations: what it was refused for, if the rules of the wire were broken.
        sent_bytes: how many bytes of the answer's body the kernel has taken so far.
        hung_up: set the moment the server sees that the peer has left *before* the answer was whole.
        hung_up_at: when that was, in `time.monotonic()` seconds.
        hung_up_how: `fin` or `rst`.
        done: set when the server is through with it: answered whole, cut by the script, or hung up on.
    """

    def __init__(self, number: int, connection: FakeConnection, head: Head) -> None:
        self.number = number
        self.connection = connection
        self.method: str = head.method
        self.path: str = head.path
        self.headers: dict[str, str] = head.headers
        self.status: int | None = None
        self.violations: tuple[Violation, ...] = ()
        self.sent_bytes = 0
        self.hung_up: threading.Event = threading.Event()
        self.hung_up_at: float | None = None
        self.hung_up_how: HowGone | None = None
        self.done: threading.Event = threading.Event()
        self.arrived: bytearray = bytearray()

    @property
    def body(self) -> bytes:
        """What has arrived of its body; all of it, unless the peer left while it sent."""
        return bytes(self.arrived)

    def json(self) -> Any:  # Any: JSON from somebody else
        """The body, parsed.

        Raises:
            ValueError: it is no JSON.
        """
        return json.loads(self.arrived)

    def note_hang_up(self, how: HowGone) -> None:
        """The peer has just left."""
        self.hung_up_at = time.monotonic()
        self.hung_up_how = how
        self.hung_up.set()
