"""`requests`, stoppable: a session whose every wait obeys a token.

    session = Session()
    response = session.get("https://example.org/", token=token)

Whatever a request waits for, a free connection, the name lookup, the connecting, a proxy, the TLS handshake, the
upload, the headers, the body, a back-off before a retry: `token.cancel()` from anywhere frees it within milliseconds,
the call raises `Cancelled`, and the server sees the hang-up. The session goes on: its next request works.

The socket's side of it lives in `sockets.py` and `_connections.py`; here is what users of `requests` touch.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict, TypeVar, Unpack, cast

import requests
import requests.adapters
import requests.auth
import requests.exceptions
import urllib3.exceptions
from urllib3.util.retry import Retry

from cancel_token._arrivals import NothingArrived as NothingArrived
from cancel_token._connections import POOLS, READ_BYTES, arrivals
from cancel_token._lines import bound_token as bound_token
from cancel_token._lines import use_token as use_token
from cancel_token._token import CancelToken
from cancel_token.sockets import raise_stop

Item = TypeVar("Item")
Pause = TypeVar("Pause")


class BodilessOptions(TypedDict, total=False):
    """What all of `Session`'s methods take by keyword."""

    # Any, here and below: what requests accepts for these is its own affair, and differs between its versions
    params: Any
    headers: Mapping[str, str | bytes | None] | None
    cookies: Any
    files: Any
    auth: Any
    timeout: float | tuple[float | None, float | None] | None
    allow_redirects: bool
    proxies: Any
    hooks: Any
    stream: bool | None
    verify: bool | str | None
    cert: Any
    token: CancelToken | None


class RequestOptions(BodilessOptions, total=False):
    """What `Session.request` takes by keyword."""

    data: Any
    json: Any


class Response(requests.Response):
    """A response whose body obeys the token of its request, in whatever thread it is read.

    The token is asked before every piece that is delivered. A stop raises `Cancelled` and closes the connection; so
    does leaving an iterator before its end. A body that has been read to its end is kept: no later stop takes it away.
    """

    _content_consumed: bool  # requests' own
    _token: CancelToken | None = None
    _closed = False

    def close(self) -> None:
        """End the body, and the connection unless the body has been read to its end. Again: nothing."""
        if not self._closed:
            super().close()
            self._closed = True

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """Iterate over the body as `requests.Response.iter_content` does.

        With a chunk size each item waits until it is full: for a stream of events see `iter_arrived`.

        Args:
            chunk_size: The most bytes of an item. None: whatever arrives together, if the request was streamed.
            decode_unicode: Give text, by the response's encoding.

        Yields:
            Bytes, or text.

        Raises:
            Cancelled: The request's token is cancelled before the end.
            requests.RequestException: The body broke off or makes no sense.
        """
        return self._obey(super().iter_content(chunk_size, decode_unicode))

    def iter_lines(
        self,
        chunk_size: int | None = 512,
        decode_unicode: bool = False,
        delimiter: str | bytes | None = None,
    ) -> Iterator[Any]:
        """Iterate over the body's lines as `requests.Response.iter_lines` does.

        Args:
            chunk_size: The most bytes to read at once.
            decode_unicode: Give text, by the response's encoding.
            delimiter: What ends a line, if not any line break.

        Yields:
            Lines without their ends.

        Raises:
            Cancelled: The request's token is cancelled before the end.
            requests.RequestException: The body broke off or makes no sense.
        """
        return self._obey(super().iter_lines(chunk_size, decode_unicode, delimiter))

    def iter_arrived(self, max_bytes: int = READ_BYTES) -> Iterator[bytes]:
        """Iterate over the decoded body as it arrives; for streams of events.

        An item is what one read of the socket brought, or one chunk of a chunked body: nothing waits to fill it.
        The iterator ends with the body. Leaving it earlier closes the connection.

        Args:
            max_bytes: The most bytes of an item.

        Yields:
            Bytes, never empty.

        Raises:
            Cancelled: The request's token is cancelled before the end.
            requests.RequestException: The body broke off or makes no sense.
        """
        if self._content_consumed:
            raise requests.exceptions.StreamConsumedError
        return self._obey(self._arrivals(max_bytes, _wait_in_the_read))

    def iter_arrived_nowait(self, max_bytes: int = READ_BYTES) -> Iterator[bytes | NothingArrived]:
        """Iterate like `iter_arrived`, in an event loop: where that would wait, this says what is to be waited for.

            for item in response.iter_arrived_nowait():
                if isinstance(item, NothingArrived):
                    await trio.lowlevel.wait_readable(item.descriptor)

        So it never holds up the loop. A stop shuts the socket down, and so makes the descriptor readable. From here on
        the body can be read in no other way.

        Args:
            max_bytes: The most bytes of an item.

        Yields:
            Bytes, never empty; or `NothingArrived`.

        Raises:
            Cancelled: The request's token is cancelled before the end.
            requests.RequestException: The body broke off or makes no sense, or the server was silent for too long.
            io.UnsupportedOperation: The body is encoded, TLS runs inside a proxy's TLS, or this is Windows; use
                `iter_arrived`.
        """
        if self._content_consumed:
            raise requests.exceptions.StreamConsumedError
        return self._obey(self._arrivals(max_bytes, arrivals(self.raw)))

    def _arrivals(self, max_bytes: int, look: Callable[[], Pause | None]) -> Iterator[bytes | Pause]:
        read = self.raw.read1
        try:
            while True:
                while (pause := look()) is not None:
                    yield pause
                if not (piece := read(max_bytes, decode_content=True)):
                    break
                yield piece
        except urllib3.exceptions.ProtocolError as error:
            raise requests.exceptions.ChunkedEncodingError(error) from error
        except urllib3.exceptions.DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error) from error
        except urllib3.exceptions.ReadTimeoutError as error:
            raise requests.exceptions.ConnectionError(error) from error
        except urllib3.exceptions.SSLError as error:
            raise requests.exceptions.SSLError(error) from error
        self._content_consumed = True

    def _obey(self, items: Iterator[Item]) -> Iterator[Item]:
        token = self._token
        if token is None or self._content_consumed:
            return items
        return self._guarded(items, token)

    def _guarded(self, items: Iterator[Item], token: CancelToken) -> Iterator[Item]:
        ended = False
        try:
            for item in items:
                if token.cancelled:  # after the read, which may have brought this item long ago
                    token.check()
                yield item
            ended = True
        finally:
            if not ended:
                self.close()


def _wait_in_the_read() -> None:
    """Look at nothing first: the read waits for what is to come."""


class StoppableRetry(Retry):
    """urllib3's `Retry` whose back-off obeys the token. Derive from it what is handed to `CancellableAdapter`."""

    def sleep_for_retry(self, response: urllib3.BaseHTTPResponse) -> bool:
        """Wait as long as the server's `Retry-After` asks, if it asks."""
        seconds = self.get_retry_after(response)
        if not seconds:
            return False
        bound_token().sleep(seconds)
        return True

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        """Wait before the next try, as the server or the back-off factor says."""
        if self.respect_retry_after_header and response is not None and self.sleep_for_retry(response):
            return
        bound_token().sleep(self.get_backoff_time())


class CancellableAdapter(requests.adapters.HTTPAdapter):
    """A transport adapter whose every phase obeys the token bound to the context (see `use_token`).

    Mount it on any `requests.Session` to make code stoppable that knows nothing of tokens; `Session` here has it
    mounted. SOCKS proxies are refused: their handshake can't be hooked.

    Args:
        pool_connections: How many pools, one for each host, are kept.
        pool_maxsize: How many connections a pool keeps.
        max_retries: How often to try again, or a `StoppableRetry`. A stop is never retried.
        pool_block: Whether to wait for a free connection, under the token, when `pool_maxsize` are in use.

    Raises:
        TypeError: `max_retries` is a subclass of `Retry` that sleeps on its own account.
    """

    max_retries: Retry

    def __init__(
        self,
        pool_connections: int = requests.adapters.DEFAULT_POOLSIZE,
        pool_maxsize: int = requests.adapters.DEFAULT_POOLSIZE,
        max_retries: int | Retry = requests.adapters.DEFAULT_RETRIES,
        pool_block: bool = requests.adapters.DEFAULT_POOLBLOCK,
    ) -> None:
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)
        given = self.max_retries
        if type(given) is Retry:
            kept = StoppableRetry()
            kept.__dict__.update(given.__dict__)
            self.max_retries = kept
        elif not isinstance(given, StoppableRetry):
            raise TypeError(
                f"derive {type(given).__name__} from StoppableRetry: its back-off would obey no token"
            )

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make the pools of stoppable connections."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:  # Any: urllib3's ProxyManager
        """Make the pools behind a proxy.

        Raises:
            requests.exceptions.InvalidSchema: It is a SOCKS proxy.
        """
        if proxy.lower().startswith("socks"):
            raise requests.exceptions.InvalidSchema("a SOCKS proxy can't be made to obey a token")
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request under the context's token.

        Args:
            request: The prepared request.
            stream: Unused here; the session reads the body if it is False.
            timeout: Seconds for connecting and for each wait for data, or a pair of both.
            verify: Whether or by what to check the server's certificate.
            cert: The client's certificate.
            proxies: Proxy URLs by scheme.

        Returns:
            The response, its body unread.

        Raises:
            Cancelled: The token was or has been cancelled; nothing was sent, or the connection has been ended.
            requests.RequestException: What else goes wrong, as in `requests`.
        """
        token = bound_token()
        token.check()
        try:
            response = super().send(request, stream, timeout, verify, cert, proxies)
        except (
            urllib3.exceptions.LocationValueError
        ) as error:  # found while connecting, where requests lets it out
            raise requests.exceptions.InvalidURL(error, request=request) from error
        except Exception as error:
            raise_stop(token, error)
            raise
        assert isinstance(response, Response)
        return response

    def close(self) -> None:
        """Close the connections in the pools; those in use are closed when their responses have been read."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  # iterating over the container itself is refused
                if (pool := manager.pools.get(key)) is not None:
                    pool.close_idle()  # requests leaves it to the pool's end, which a kept exception puts off
        super().close()

    def build_response(self, req: requests.PreparedRequest, resp: urllib3.BaseHTTPResponse) -> Response:
        """Build a response that carries the context's token on."""
        response = Response()
        response.__dict__.update(super().build_response(req, resp).__dict__)
        response._token = bound_token()
        return response


class Session(requests.Session):
    """A `requests.Session` whose requests take a `token`.

    Usable from several threads as far as requests allows it (the connection pools do; cookies and headers are shared).
    """

    def __init__(self) -> None:
        super().__init__()
        self.mount("https://", CancellableAdapter())
        self.mount("http://", CancellableAdapter())

    def request(  # type: ignore[override]  # short for the same options
        self, method: str, url: str, *args: Any, **options: Unpack[RequestOptions]
    ) -> Response:
        """Send a request and wait for its response, redirects included, under a token.

        Args:
            method: GET, POST, ...
            url: Where to.
            *args: The first options by position, as in `requests.Session.request`.
            **options: As in `requests.request`, and `token`: the token to obey until the body has been read. Without
                it, or with None, the context's (see `use_token`).

        Returns:
            The response. Its body has been read unless `stream=True`; then read it, or close it (it is a context
            manager).

        Raises:
            Cancelled: The token was or has been cancelled.
            requests.RequestException: What else goes wrong, as in `requests`.
        """
        token = options.pop("token", None)
        rest: dict[str, Any] = {**options}  # Any: as in the options
        with use_token(bound_token() if token is None else token):
            response = super().request(method, url, *args, **rest)
        return cast(Response, response)  # what our adapter has built; only a foreign one gives another

    def get(self, url: str, **options: Unpack[RequestOptions]) -> Response:  # type: ignore[override]
        """Send a GET request. See `request`."""
        return self.request("GET", url, **options)

    def options(self, url: str, **options: Unpack[RequestOptions]) -> Response:  # type: ignore[override]
        """Send an OPTIONS request. See `request`."""
        return self.request("OPTIONS", url, **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> Response:  # type: ignore[override]
        """Send a HEAD request, not following redirects unless told to. See `request`."""
        options.setdefault("allow_redirects", False)
        return self.request("HEAD", url, **options)

    def post(  # type: ignore[override]
        self, url: str, data: Any = None, json: Any = None, **options: Unpack[BodilessOptions]
    ) -> Response:
        """Send a POST request. See `request`."""
        return self.request("POST", url, data=data, json=json, **options)

    def put(  # type: ignore[override]
        self, url: str, data: Any = None, **options: Unpack[BodilessOptions]
    ) -> Response:
        """Send a PUT request. See `request`."""
        return self.request("PUT", url, data=data, **options)

    def patch(  # type: ignore[override]
        self, url: str, data: Any = None, **options: Unpack[BodilessOptions]
    ) -> Response:
        """Send a PATCH request. See `request`."""
        return self.request("PATCH", url, data=data, **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> Response:  # type: ignore[override]
        """Send a DELETE request. See `request`."""
        return self.request("DELETE", url, **options)


class BearerAuth(requests.auth.AuthBase):
    """Puts a key into the `Authorization` header of requests, and into nothing else.

    A header given by hand is replaced by an entry of `.netrc` for the same host; an `auth` is not (T-N10). Redirects
    to another host lose it, as with every `Authorization` header of requests.

    Args:
        key: The key, without the word `Bearer`.
    """

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request."""
        r.headers["Authorization"] = f"Bearer {self._key}"
        return r

    def __repr__(self) -> str:
        return "BearerAuth(...)"  # tracebacks and logs print reprs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BearerAuth) and other._key == self._key

    def __hash__(self) -> int:
        return hash((BearerAuth, self._key))
