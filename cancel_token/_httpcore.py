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
import threading
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
        # A collection may begin in the pool's lock, and a finalizer that took it once more would wait for its own
        # thread, or disturb it in the middle of a change. So the lock is one that says who holds it.
        lock = pool._optional_thread_lock = threading.RLock()
        # The pool has a wait of its own, on an event that no token reaches. With as many places here as it may have
        # connections, nobody ever comes to it who would have to wait.
        self._places = _Places(pool._max_connections, lock)
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
        place.stream = response.stream
        response.stream = _Body(response, token, place, self._places)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._places.leave_dropped()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Places:
    """As many places for requests as the pool may have connections."""

    def __init__(self, count: int, lock: Any) -> None:  # Any, for a method that no type knows
        self._lock = lock
        self._free = None if count == sys.maxsize else [None] * count  # None: as many as you like
        self._waiters = Waiters()
        # Held here until they are left, and with them the library's iterators, which may take the pool's lock when they
        # are finalized. A body could not keep them from it: what lies in a cycle with it is finalized as it is.
        self._taken: dict[_Place, None] = {}
        self._dropped: list[_Place] = []  # by finalizers, for others to leave

    def take(self, token: CancelToken, timeout: float | None) -> "_Place":
        """Take a place.

        Raises:
            Empty: There was none in time, or before the token was cancelled.
        """
        if self._free is None:
            self.leave_dropped()
        else:
            self._waiters.take(self._take_nowait, token, timeout)
        place = _Place(self)
        self._taken[place] = None
        return place

    def _take_nowait(self) -> None:
        assert self._free is not None
        self.leave_dropped()  # who waits does it: nobody else may ever come
        self._free.pop()

    def in_lock(self) -> bool:
        """Whether this thread holds the pool's lock: then we are in a finalizer, and must not enter the pool."""
        is_mine: bool = self._lock._is_owned()  # what `threading.Condition` asks an RLock
        return is_mine

    def has(self, place: "_Place") -> bool:
        """Whether a place has not been given back."""
        return place in self._taken

    def give(self, place: "_Place") -> None:
        """Give a place back; again: nothing."""
        try:
            del self._taken[place]
        except KeyError:
            return
        if self._free is not None:
            self._free.append(None)
            self._waiters.wake()

    def drop(self, place: "_Place") -> None:
        """Let whoever comes next, or waits, leave a place; enters no lock."""
        self._dropped.append(place)
        self._waiters.wake()

    def leave_dropped(self) -> None:
        """Leave what finalizers have dropped."""
        while True:
            try:
                place = self._dropped.pop()
            except IndexError:
                return
            place.leave()


class _Place:
    """One of the places, and the library's side of the response that it was taken for."""

    __slots__ = ("_places", "pieces", "stream")

    def __init__(self, places: _Places) -> None:
        self._places = places
        self.stream: Any = None  # the response's; None: there is none yet
        self.pieces: Iterator[bytes] | None = None  # of the stream, once it is read

    def leave(self) -> None:
        """Let the pool have its connection back, and give the place to whoever waits. Again: nothing."""
        try:
            if self.stream is not None:
                self.stream.close()
        finally:
            self._places.give(self)
            self.pieces = None  # whose stream is closed now, so that it takes no lock any more


class _Body:
    """The body of a response: asks the token before every delivery, in whatever thread it is read."""

    def __init__(self, response: Any, token: CancelToken, place: _Place, places: _Places) -> None:
        self._token = token
        self._place = place
        self._places = places
        self._network_stream = response.extensions["network_stream"]
        self._line: Line = self._network_stream.get_extra_info(LINE)
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
            pieces = self._place.pieces = iter(self._place.stream)
            for piece in pieces:
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
        if self._places.in_lock():
            self._drop()  # a generator is finalized: ours, or that of an SDK, which closes the response it has read
            return
        if self._read_to_end and self._places.has(self._place):
            self._line.release()  # before the pool knows that it may give the connection away
        self._place.leave()

    def __del__(self) -> None:
        self._drop()  # neither library closes a response that nobody reads

    def _drop(self) -> None:
        """Close in a finalizer, which enters no lock: the peer is told now, the pool by whoever uses it next."""
        if self._places.has(self._place):
            if self._read_to_end:
                self._line.release()
            else:
                self._network_stream.close()
            self._places.drop(self._place)


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
