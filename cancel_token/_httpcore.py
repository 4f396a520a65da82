"""httpcore's and httpcore2's connections, with every wait under the token of the request.

Both libraries let their network backend be replaced, and neither asks what class it is. So nothing is imported here:
the pool that is to obey says which of the two it belongs to.

Who knows the token, from the outside in:

1.  `StoppablePool` stands where the client's transport has its pool. It asks the context for the token, waits for a
    free place under it, and gives the response a body that asks it before every delivery (T-N5).
2.  `_Connection` stands around each connection of the pool. A request that fails in it ends it, which the library
    forgets where the TLS handshake behind a proxy's CONNECT fails.
3.  `Backend` and `Stream` (`_httpcore_backend.py`) hold the socket and its line (`_lines.py`): bound when the
    connection is made or a request is written to a kept one, released when the body has been read to its end (T-N7).

What comes out is `Cancelled`, a `BaseException`: neither library, nor an SDK above them, makes an error of it that it
would try again.
"""

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from queue import Empty
from typing import Any, Self, cast

from cancel_token._httpcore_backend import LINE, Backend, Core
from cancel_token._lines import Line, Waiters, bound_token
from cancel_token._token import CancelToken
from cancel_token.sockets import raise_stop

# Where an event of a stream ends. A boundary that is missed, in a body that is split between two line ends, costs only
# that two events are delivered without a look at the token in between.
_END_OF_EVENT = re.compile(rb"\n\r?\n|\r\r")


class StoppablePool:
    """A connection pool whose requests obey the context's token.

    It gives the pool another backend, and takes its place in the transport; that is all a transport asks of a pool.

    Args:
        pool: A `ConnectionPool` of httpcore or httpcore2 that has not been used yet. It becomes ours.
        core: The library that it belongs to.
    """

    def __init__(self, pool: Any, core: Core) -> None:  # Any, here and below: either library's
        self._pool = pool
        self._core = core
        # Bodies that nobody has closed: a finalizer must not enter the pool's lock.
        self._dropped: list[_Leaving] = []
        # The pool has a wait of its own, on an event that no token reaches. With as many places here as it may have
        # connections, nobody ever comes to it who would have to wait.
        self._places = _Places(pool._max_connections)
        create: Callable[[Any], Any] = pool.create_connection
        pool.create_connection = lambda origin: _Connection(create(origin), core)
        pool._network_backend = Backend(core)

    @property
    def connections(self) -> list[Any]:
        """The connections in use and at rest."""
        return list(self._pool.connections)

    def handle_request(self, request: Any) -> Any:
        """Send a request; its response's body obeys the same token.

        Raises:
            Cancelled: The token was or has been cancelled.
        """
        self._close_dropped()
        token = bound_token()
        token.check()
        try:
            place = self._places.take(token, request.extensions.get("timeout", {}).get("pool"))
        except Empty:
            token.check()
            raise self._core.PoolTimeout("no connection became free in time") from None
        try:
            response = self._pool.handle_request(request)
        except Exception as error:
            place.leave()
            raise_stop(token, error)
            raise
        except BaseException:
            place.leave()
            raise
        response.stream = _Body(response, token, _Leaving(response.stream, place), self._dropped)
        return response

    def _close_dropped(self) -> None:
        while True:
            try:
                self._dropped.pop().leave()
            except IndexError:
                return

    def close(self) -> None:
        """Close the connections."""
        self._close_dropped()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Places:
    """As many places for requests as the pool may have connections."""

    def __init__(self, count: int) -> None:
        self._free = None if count == sys.maxsize else [None] * count  # None: as many as you like
        self._waiters = Waiters()

    def take(self, token: CancelToken, timeout: float | None) -> "_Place":
        """Take a place.

        Raises:
            Empty: There was none in time, or before the token was cancelled.
        """
        if self._free is not None:
            self._waiters.take(self._free.pop, token, timeout)
        return _Place(self)

    def give(self) -> None:
        if self._free is not None:
            self._free.append(None)
            self._waiters.wake()


class _Place:
    """One of the places; given back once, without a lock: it may be in a finalizer."""

    __slots__ = ("_places",)

    def __init__(self, places: _Places) -> None:
        self._places = [places]

    def leave(self) -> None:
        try:
            self._places.pop().give()
        except IndexError:
            pass  # left before


class _Leaving:
    """What is to be done when a response is over."""

    __slots__ = ("_inner", "_place")

    def __init__(self, inner: Any, place: _Place) -> None:
        self._inner = inner
        self._place = place

    def leave(self) -> None:
        try:
            self._inner.close()
        finally:
            self._place.leave()


class _Body:
    """The body of a response: asks the token before every delivery, in whatever thread it is read."""

    def __init__(self, response: Any, token: CancelToken, leaving: _Leaving, dropped: list[_Leaving]) -> None:
        self._inner = response.stream
        self._token = token
        self._leaving = leaving
        self._dropped = dropped
        self._closed = False
        self._line: Line = response.extensions["network_stream"].get_extra_info(LINE)
        self._read_to_end = False
        headers = {name.lower(): value for name, value in response.headers}
        # One piece for each event: an SDK makes all events of a piece before it asks for the next one. In a compressed
        # body they can't be seen from here.
        self._has_events = b"content-encoding" not in headers and headers.get(
            b"content-type", b""
        ).strip().lower().startswith(b"text/event-stream")

    def __iter__(self) -> Iterator[bytes]:
        token = self._token
        try:
            for piece in self._inner:
                for part in _events(piece) if self._has_events else (piece,):
                    if token.cancelled:  # after the read, which may have brought this part long ago
                        token.check()
                    yield part
            self._read_to_end = True  # no later stop takes it away
        except Exception as error:
            raise_stop(token, error)
            raise
        finally:
            if not self._read_to_end:
                self.close()

    def close(self) -> None:
        """Give the connection back, or end it if there is more to come. May be called twice, and from any thread."""
        self._closed = True
        if self._read_to_end:
            self._line.release()  # before the pool knows that it may give the connection away
        self._leaving.leave()

    def __del__(self) -> None:
        # Neither library closes a response that nobody reads. The peer is told now, the pool when it is used again.
        if not self._closed:
            self._line.hook.shut_down()
            self._dropped.append(self._leaving)


def _events(piece: bytes) -> Iterator[bytes]:
    start = 0
    for found in _END_OF_EVENT.finditer(piece):
        yield piece[start : found.end()]
        start = found.end()
    if start < len(piece):
        yield piece[start:]


class _Connection:
    """One of the pool's connections, ended by a request that fails in it."""

    def __init__(self, inner: Any, core: Core) -> None:
        self._inner = inner
        self._core = core

    def handle_request(self, request: Any) -> Any:
        try:
            return self._inner.handle_request(request)
        except self._core.ConnectionNotAvailable:
            raise  # it serves another request
        except BaseException:
            self._inner.close()
            raise

    def __getattr__(self, name: str) -> Any:  # everything else that a pool asks of a connection
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return repr(self._inner)


def library_of(thing: object, class_name: str, libraries: tuple[str, ...]) -> str | None:
    """The library of whose class `class_name` a thing is an instance; None if of none."""
    for kind in type(thing).__mro__:
        library = kind.__module__.partition(".")[0]
        if kind.__name__ == class_name and library in libraries:
            return library
    return None


def core_of(pool: object) -> Core | None:
    """The library that a connection pool belongs to, or None."""
    library = library_of(pool, "ConnectionPool", ("httpcore", "httpcore2"))
    # a cast, since neither may be installed where types are checked
    return None if library is None else cast(Core, import_module(library))
