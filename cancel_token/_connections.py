"""urllib3's connections and pools, with every wait under the token of the request.

Who owns what, and until when:

1. The *line* of a connection is its socket hook and the token of the request on the way. It is held by the connection
   and by whoever still reads from the socket: `http.client` closes a connection that shall not be kept *before* its
   body is read. The last of them to let go closes the hook, and always before the socket (T-N6).
2. A line is bound to a token when the connection is made or a request is written to a kept one, and released when the
   response has been read to its end or closed, at the latest when the connection returns to its pool (T-N7).
3. Every read from the socket, and every look into what has been read already, asks the token before and after. What
   raises is `Cancelled`, a `BaseException`: urllib3 turns no stop into an error of its own, and retries none (T-N5).
"""

import contextlib
import http.client
import io
import math
import queue
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import urllib3
import urllib3.connection
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util.connection import allowed_gai_family
from urllib3.util.timeout import Timeout

from cancel_token._arrivals import READ_BYTES as READ_BYTES
from cancel_token._arrivals import ArrivedFile, NothingArrived
from cancel_token._lines import Line, Waiters, bound_token
from cancel_token._token import CancelToken
from cancel_token.sockets import connect_hooked, raise_stop


def _leave_waiting_to_the_kernel(sock: socket.socket) -> None:
    """Let a read keep the time in one system call, where Python makes two and takes its lock again after each.

    It lasts until the next request sets the timeout. A read that takes too long gives None. TLS has ways of its own.
    """
    if sys.platform == "win32" or type(sock) is not socket.socket:
        return
    seconds = sock.gettimeout()
    fraction, whole = math.modf(seconds or 0.0)
    microseconds = round(fraction * 1e6) or (
        0 if whole or seconds is None else 1
    )  # nothing at all means for ever
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), microseconds))
    sock.settimeout(None)


class _CheckedSocket(io.RawIOBase):
    """The raw end of a response's file: asks the token before and after each read."""

    def __init__(self, raw: io.RawIOBase, token: CancelToken) -> None:
        super().__init__()
        self._raw = raw
        self._token = token
        self._resting = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # Any: writable buffers have no type before 3.12
        token = self._token
        if token.cancelled:
            token.check()
        if self._resting:
            return None
        try:
            count: int | None = self._raw.readinto(buffer)
        except Exception as error:
            raise_stop(token, error)
            raise
        # The end we see may be of our own making, and what has come before it is too late.
        if token.cancelled:
            token.check()
        if count is None:  # see `_leave_waiting_to_the_kernel`
            raise TimeoutError("timed out")
        return count

    def rest(self) -> None:
        """Read no more."""
        self._resting = True

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()


class Reader(io.BufferedReader):
    """The file that `http.client` reads a response from.

    It asks the token also where no read is needed: what lies in the buffer is hundreds of events of a fast stream.

    Args:
        line: The connection's line, bound to the request's token.
        sock: What is read from.
        raw: The socket's raw stream, which becomes the reader's.
        last: Whether the request is over when this reader is closed (it is not after a proxy's answer to CONNECT).
    """

    def __init__(self, line: Line, sock: socket.socket, raw: io.RawIOBase, *, last: bool) -> None:
        assert line.token is not None
        self._line = line
        self._token = line.token
        self._sock = sock
        self._timeout_seconds = sock.gettimeout()
        self._last = last
        self._checked = _CheckedSocket(raw, self._token)
        line.hold(self)
        super().__init__(self._checked, READ_BYTES)

    def readline(self, size: int | None = -1, /) -> bytes:
        if self._token.cancelled:  # written out: this runs three times for each chunk of a stream
            self._token.check()
        return super().readline(size)

    def read(self, size: int | None = -1, /) -> bytes:
        if self._token.cancelled:
            self._token.check()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        if self._token.cancelled:
            self._token.check()
        return super().read1(size)

    def readinto(self, buffer: Any, /) -> int:  # Any: as above
        if self._token.cancelled:
            self._token.check()
        return super().readinto(buffer)

    def peek(self, size: int = 0, /) -> bytes:
        if self._token.cancelled:
            self._token.check()
        return super().peek(size)

    def arrived(self) -> ArrivedFile:
        """Hand over to a file that never waits, and be of no further use.

        Raises:
            io.UnsupportedOperation: There is none for this kind of socket.
        """
        if sys.platform == "win32" or type(self._sock) not in (socket.socket, ssl.SSLSocket):
            raise io.UnsupportedOperation("such a socket can't be read without waiting")
        self._checked.rest()
        self._sock.setblocking(False)  # until the next request sets the timeout
        arrived = ArrivedFile(
            self._line,
            self._token,
            self._checked,
            self._sock,
            super().peek(),
            self._timeout_seconds,
            last=self._last,
        )
        self._line.let_go(self)
        self.detach()
        return arrived

    def close(self) -> None:
        line = self._line
        if not self.closed:
            if self._last:
                line.release()
            line.let_go(self)
        super().close()


class HTTPConnection(urllib3.connection.HTTPConnection):
    """A connection that obeys the token bound to the context of whoever connects or sends."""

    _line: Line | None = None
    _answering = False

    def _new_conn(self) -> socket.socket:
        token = bound_token()
        try:
            sock, hook = connect_hooked(
                (self._dns_host.strip("[]"), self.port),
                token,
                timeout=Timeout.resolve_default_timeout(self.timeout),
                source_address=self.source_address,
                socket_options=self.socket_options or (),
                family=allowed_gai_family(),
            )
        except UnicodeError:
            raise LocationParseError(f"{self.host!r} is no host name") from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(
                self, f"Connection to {self.host} timed out. (connect timeout={self.timeout})"
            ) from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        line = Line(hook, token)
        line.hold(self)
        self._line = line
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    @property
    def is_connected(self) -> bool:
        """Whether another request may be sent; not on a parent's connection, which the pool then replaces (T-S18)."""
        return (self._line is None or not self._line.hook.inherited) and super().is_connected

    def release_token(self) -> bool:
        """Belong to no request; say whether another one may be sent."""
        return self._line is None or self._line.release()

    def connect(self) -> None:
        """Connect, through a proxy's tunnel and with TLS where wanted."""
        with _reporting_stops():
            try:
                super().connect()
            except BaseException:
                # The pool closes us, but a failed handshake's socket may be kept alive by its traceback: the peer
                # shall see its end now (T-N8).
                if self._line is not None:
                    self._line.hook.shut_down()
                raise

    def request(self, *args: Any, **kwargs: Any) -> None:  # Any: urllib3's own signature, passed on
        """Send a request; a kept connection belongs to its token from here on."""
        if self._line is not None:
            self._line.bind(bound_token())
        with _reporting_stops():
            super().request(*args, **kwargs)

    def send(self, data: Any) -> None:  # Any: as above
        """Send a piece of the request."""
        bound_token().check()
        super().send(data)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3 does
        """Wait for the response's head."""
        self._answering = True
        try:
            with _reporting_stops():
                return super().getresponse()
        finally:
            self._answering = False

    def response_class(  # type: ignore[override]  # a method in place of the class: `http.client` only calls it
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> http.client.HTTPResponse:
        """Make `http.client`'s response, reading from our file."""
        response = http.client.HTTPResponse(sock, debuglevel, method, url)
        assert self._line is not None
        response.fp = Reader(self._line, sock, response.fp.detach(), last=self._answering)
        if self._answering:
            _leave_waiting_to_the_kernel(sock)
        return response

    def close(self) -> None:
        """Close, the hook first unless a response is still to be read."""
        line, self._line = self._line, None
        if line is not None:
            line.let_go(self)
        super().close()


class HTTPSConnection(HTTPConnection, urllib3.connection.HTTPSConnection):
    """The same with TLS: the hook sits on the TCP socket, below every layer."""


class PoolQueue(queue.LifoQueue[Any]):  # Any: connections or None, as urllib3 has it
    """A pool's queue whose blocking `get` obeys the token."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._waiters = Waiters()

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._waiters.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the newest connection, waiting for one until the token is cancelled.

        After a stop it raises Empty, which the adapter reports as the stop. A `Cancelled` from here would let urllib3
        return to the pool a connection that was never taken.
        """
        take_nowait = partial(super().get, block=False)
        return self._waiters.take(take_nowait, bound_token(), timeout) if block else take_nowait()


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """A pool that keeps no stopped connection and waits under the token."""

    ConnectionCls = HTTPConnection
    QueueCls = PoolQueue

    def _put_conn(self, conn: Any) -> None:  # Any: our connection or None
        if conn is not None and not conn.release_token():
            conn.close()
        if conn is not None and conn.sock is None and not self.block:
            # Nobody waits for its place. Of thousands that are stopped together each would stand in line for the lock
            # of the queue, to learn that it is full, and log it.
            return
        super()._put_conn(conn)

    def close_idle(self) -> None:
        """Close the connections that rest here, and leave the pool usable for whoever still has one or waits."""
        resting = []
        assert self.pool is not None
        with contextlib.suppress(queue.Empty):
            while True:
                resting.append(self.pool.get(block=False))
        for conn in resting:
            if conn is not None:
                conn.close()
            self._put_conn(None)


class HTTPSConnectionPool(HTTPConnectionPool, urllib3.HTTPSConnectionPool):
    """The same for TLS."""

    ConnectionCls = HTTPSConnection


POOLS: dict[str, type[HTTPConnectionPool]] = {
    "http": HTTPConnectionPool,
    "https": HTTPSConnectionPool,
}


def arrivals(response: urllib3.BaseHTTPResponse) -> Callable[[], NothingArrived | None]:
    """Have a response never wait for its body; give what says whether the next piece can be read.

    Args:
        response: With its body unread, or treated so before.

    Raises:
        io.UnsupportedOperation: It can't be: it is encoded, and its decoder reads until it can give something; or the
            connection can't.
    """
    if response.headers.get("content-encoding"):
        raise io.UnsupportedOperation("an encoded body can't be read without waiting")
    answer = getattr(response, "_original_response", None)  # requests itself takes the cookies from there
    if not isinstance(answer, http.client.HTTPResponse):
        raise io.UnsupportedOperation("such a response can't be read without waiting")
    file: object = answer.fp
    if isinstance(file, Reader):
        file = answer.fp = file.arrived()  # type: ignore[assignment]  # all of it that is asked for
    if isinstance(file, ArrivedFile) and response.length_remaining != 0:
        return partial(file.look, answer)
    return _nothing_to_wait_for


def _nothing_to_wait_for() -> None:
    """Of a body that has ended."""


@contextlib.contextmanager
def _reporting_stops() -> Iterator[None]:
    """Raise `Cancelled` in place of an error of a request whose token is cancelled (T-N5)."""
    token = bound_token()
    try:
        yield
    except Exception as error:
        raise_stop(token, error)
        raise
