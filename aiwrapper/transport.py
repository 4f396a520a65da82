"""How a request reaches a model: the seam at which another way can be put in.

`HttpTransport` is the real one. A recording (`aiwrapper.testing.RecordedTransport`), a model in this process, another
HTTP client: whatever has `open` will do. Everything else about asking a model, above all when to try again, is
decided once, in `_model_call.py`, and is the same for all of them.
"""

import http.client
import io
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from attrs import field, frozen

from aiwrapper._core.errors import AiwrapperError, ModelCallError
from cancel_token import CancelToken
from cancel_token.http import NothingArrived, Response, Session

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS: Final = 30.0
"""Chosen by hand: a host that has not answered by then is taken for unreachable."""

SILENCE_TIMEOUT_SECONDS: Final = 600.0
"""How long a host may say nothing: what the official SDKs allow. A person's patience is a token's business."""

MAX_ERROR_BYTES: Final = 65_536
"""How much of an answer that is no stream is read; its first words are enough to say what is wrong."""

# Some gateways pass a stream on under a name that says nothing; what says that it is something else is believed.
_STREAM_TYPES: Final = frozenset({"", "text/event-stream", "text/plain", "application/octet-stream"})


def _nothing() -> None:
    """For requests that nobody watches."""


@frozen
class HttpRequest:
    """What is to be posted.

    Args:
        url: where to.
        headers: all of them; one holds the key, so they are in no repr.
        body: JSON.
        connected: called when a connection stands and the body begins to leave. A transport that cannot tell leaves
            it alone; then a stop before the first byte of the answer is reported as `connecting`.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False, kw_only=True)
    body: bytes = field(repr=False, kw_only=True)
    connected: Callable[[], None] = field(default=_nothing, repr=False, eq=False, kw_only=True)


class NotAStream(AiwrapperError):
    """A transport raises it when a host answered, but not with a stream of events: an HTTP error, a web page.

    What it means is decided above the transport, where it becomes a `ModelCallError` or another attempt.

    Args:
        status: the HTTP status.
        headers: of the answer, their names in lower case.
        body: how the answer begins.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"NotAStream({str(self)!r})"  # without the body: some hosts repeat a wrong key in it

    def __str__(self) -> str:
        return f"HTTP {self.status}, {self.headers.get('content-type', 'no content type')}"


class Transport(Protocol):
    """A way to post a request and read the answer as it arrives. Used from several threads at once."""

    def open(self, request: HttpRequest, token: CancelToken, /) -> AbstractContextManager[Iterable[bytes]]:
        """Send a request; the context's value is the body of its answer, in the pieces in which it arrives.

        The context holds the connection. When it is left, however it is left, nothing of the request remains.

        Args:
            request: what to send.
            token: to be obeyed while waiting for anything, also between the pieces.

        Raises:
            Cancelled: the token was cancelled: on entering, or from the pieces.
            NotAStream: the answer is no stream.
            ModelCallError: no connection, or it broke; kind `network`, a text for people.
        """


@runtime_checkable
class ArrivingBody(Protocol):
    """A body that an event loop can read, too. Where a body can only be waited for, any iterable of bytes will do."""

    def __iter__(self) -> Iterator[bytes]:
        """The pieces as they arrive; waits for them."""

    def iter_nowait(self) -> Iterator[bytes | NothingArrived]:
        """The same, without waiting: where nothing has arrived, it gives what has to be waited for.

        Raises:
            io.UnsupportedOperation: at once: this one can only be waited for.
        """


class HttpTransport:
    """HTTP over a pool of stoppable connections.

    Args:
        session: whose proxies, certificates and pool to use; None for one of its own.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._session = Session() if session is None else session

    @contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[ArrivingBody]:
        """Post it; see `Transport.open`."""
        url = request.url
        try:
            response = self._session.post(
                url,
                data=_Upload(request.body, request.connected),
                auth=Signed(request.headers),
                token=token,
                stream=True,
                verify=self._session.verify,  # requests lets the environment overrule what only the session says
                allow_redirects=False,  # a POST does not survive them, and a key should not follow them
                timeout=(CONNECT_TIMEOUT_SECONDS, SILENCE_TIMEOUT_SECONDS),
                proxies=_around_proxies(url),
            )
        except (
            OSError,
            ValueError,
        ) as error:  # all of requests' errors are OSErrors; a bad URL is a ValueError
            raise network_error(error, url) from error
        with response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if response.status_code != 200 or media_type not in _STREAM_TYPES:
                raise NotAStream(response.status_code, headers, _beginning(response, url))
            # What has asked for the stream is of no use to it: some 4 KiB, of which there may be thousands for minutes.
            del response.request, response.headers, response.cookies, headers, request
            yield _Body(response, url)

    def close(self) -> None:
        """Close the pooled connections. A later request opens new ones."""
        self._session.close()


def _around_proxies(url: str) -> dict[str, str]:
    """Keep what goes to this machine away from a proxy of the environment, which could not reach it anyhow.

    requests asks `HTTP_PROXY` for 127.0.0.1, too, and would show the proxy the local model's key.
    """
    host = urlsplit(url).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        loopback = False
    return {"no_proxy": host} if loopback else {}


class _Upload(io.BytesIO):
    """The body, which tells when it is first asked for: from then on a connection stands."""

    def __init__(self, body: bytes, connected: Callable[[], None]) -> None:
        super().__init__(body)
        self._connected = connected

    def read(self, size: int | None = -1, /) -> bytes:
        self._connected()
        return super().read(size)


@frozen
class Signed:
    """Puts the headers on as requests' `auth`, which an entry in `.netrc` does not replace (T-N10)."""

    headers: Mapping[str, str] = field(repr=False)

    def __call__(self, prepared: Any) -> Any:  # Any: a requests.PreparedRequest, which has its home elsewhere
        """Sign a request."""
        prepared.headers.update(self.headers)
        return prepared


class _Body:
    def __init__(self, response: Response, url: str) -> None:
        self._response = response
        self._url = url
        self._pieces: Iterator[bytes] | None = None  # kept: one that is forgotten would end the connection

    def __iter__(self) -> Iterator[bytes]:
        if self._pieces is None:
            self._pieces = self._reported(self._response.iter_arrived())
        return self._pieces

    def iter_nowait(self) -> Iterator[bytes | NothingArrived]:
        return self._reported(self._response.iter_arrived_nowait())

    def _reported(self, items: Iterator[T]) -> Iterator[T]:
        try:
            yield from items
        except OSError as error:
            raise network_error(error, self._url) from error


def _beginning(response: Response, url: str) -> bytes:
    body = bytearray()
    for piece in _Body(response, url):
        body += piece
        if len(body) >= MAX_ERROR_BYTES:
            break
    return bytes(body[:MAX_ERROR_BYTES])


def network_error(error: BaseException, url: str) -> ModelCallError:
    """Say in one sentence what the chain of exceptions below requests means."""
    where = _place(url)
    causes = _chain(error)
    for cause in causes:
        if hasattr(cause, "request"):
            cause.request = None  # requests keeps the request there, and with it the key
    for cause in causes:
        match cause:
            case socket.gaierror():
                said = f"the host {_host(url)!r} was not found: check the base URL and the network"
            case ConnectionRefusedError():
                said = f"nothing answers at {where}: is the server running, and is the port right?"
            case ssl.SSLCertVerificationError():
                said = f"the certificate of {where} is not trusted: {cause.verify_message}"
            case ssl.SSLError():
                said = f"no secure connection to {where}: does it speak https?"
            case TimeoutError():
                said = f"{where} did not answer in time"
            case ConnectionResetError() | BrokenPipeError():
                said = f"the connection to {where} was cut"
            case http.client.IncompleteRead():
                said = f"the connection to {where} ended before the answer was whole"
            case _:
                continue
        return ModelCallError(said, kind="network")
    if isinstance(error, ValueError):  # requests' own words for it quote the URL, which may hold a password
        return ModelCallError(f"{where!r} is no URL that a request can be sent to", kind="bad_request")
    return ModelCallError(f"the connection to {where} broke ({type(error).__name__})", kind="network")


def _chain(error: BaseException) -> list[BaseException]:
    """The innermost exception first: it knows best. urllib3 keeps some only as `reason` or as an argument."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if current in found:
            continue
        found.append(current)
        waiting += [
            cause
            for cause in (
                current.__cause__,
                current.__context__,
                getattr(current, "reason", None),
                *current.args,
            )
            if isinstance(cause, BaseException)
        ]
    found.reverse()
    return found


def _place(url: str) -> str:
    """Host and port, without a user or password that the URL may hold."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:
        return "the base URL"


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
