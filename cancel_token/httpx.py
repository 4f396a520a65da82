"""Clients of httpx and httpx2, and so the official SDKs, made to obey a token.

    client = openai.OpenAI(http_client=stoppable(openai.DefaultHttpxClient()))
    with use_token(token):
        answer = client.chat.completions.create(...)

Whatever such a call waits for, a free connection, the name lookup, the connecting, a proxy, the TLS handshake, the
upload, the headers, the body, the next event of a stream: `token.cancel()` from anywhere frees it within milliseconds,
the call raises `Cancelled`, and the server sees the hang-up. The client goes on: its next request works.

Nothing of httpx is imported here; a client brings its library along. How the sockets are held is in `_httpcore.py`.
"""

import inspect
from typing import Any, Protocol, TypeVar, cast

from cancel_token._httpcore import StoppablePool, core_of, library_of
from cancel_token._lines import bound_token as bound_token
from cancel_token._lines import use_token as use_token

_HTTPX = ("httpx", "httpx2")


class HttpxClient(Protocol):
    """A blocking client of httpx or httpx2; an async one has no `close`."""

    @property
    def is_closed(self) -> bool:
        """Whether the client has been closed."""

    def close(self) -> None:
        """Close the client's connections."""


ClientT = TypeVar("ClientT", bound=HttpxClient)


def stoppable(client: ClientT) -> ClientT:
    """Make a client obey the token of the context in which a request is made (see `use_token`).

    The client keeps its settings: timeouts, limits, certificates, proxies, also those from the environment. A response
    belongs to the token of its request until its body has been read or closed, in whatever thread that happens. A
    stream of server-sent events asks the token before each event, unless it is compressed: then before each piece that
    has arrived.

    Calling it twice changes nothing. Without a token in the context the client works as before.

    Args:
        client: An `httpx.Client` or `httpx2.Client`, such as an SDK's `DefaultHttpxClient()`, before its first
            request. It is changed in place.

    Returns:
        The same client.

    Raises:
        TypeError: It is no blocking client, or has a transport other than `HTTPTransport`.
        ValueError: It can't be made to obey: it speaks HTTP/2, where a connection belongs to many requests at once,
            goes through a SOCKS proxy, an HTTPS proxy or a Unix socket; or it has open connections already.
    """
    if library_of(client, "Client", _HTTPX) is None:
        raise TypeError(f"expected a blocking client of httpx or httpx2, not {client!r}")
    inside = cast(Any, client)  # neither library has a public way to the pools of a client
    transports = [inside._transport, *(mounted for mounted in inside._mounts.values() if mounted is not None)]
    pools = [_pool_of(transport) for transport in transports]  # all are looked at before one is changed
    for transport, pool in zip(transports, pools, strict=True):
        transport._pool = pool
    return client


def _pool_of(transport: Any) -> StoppablePool:  # Any: either library's
    if library_of(transport, "HTTPTransport", _HTTPX) is None:
        raise TypeError(f"expected a transport that is an HTTPTransport, not {transport!r}")
    pool = transport._pool
    if isinstance(pool, StoppablePool):
        return pool
    core = core_of(pool)
    if core is None:
        raise TypeError(f"expected a pool of httpcore or httpcore2, not {pool!r}")
    if isinstance(pool, core.SOCKSProxy):
        raise ValueError("a SOCKS proxy can't be made to obey a token")
    if pool._http2:
        raise ValueError("HTTP/2 can't be made to obey a token: its connection belongs to many requests")
    if pool._uds is not None:
        raise ValueError("a Unix socket can't be made to obey a token yet")
    proxy_url = getattr(pool, "_proxy_url", None)
    if proxy_url is not None and proxy_url.scheme == b"https":
        raise ValueError("an HTTPS proxy can't be made to obey a token yet")
    if pool.connections:
        raise ValueError("the client has open connections: make it stoppable before its first request")
    return StoppablePool(pool, core)


class StoppableBackOff:
    """A mixin for a client of an official SDK, whose wait before it tries again then obeys the token.

        class Client(StoppableBackOff, openai.OpenAI):
            pass

    The SDKs of OpenAI and Anthropic sleep where no token reaches them: a stop is obeyed when they have slept, before
    they send again, which may be minutes later if the provider has asked for that. This puts the token's sleep in the
    place of theirs. It stands on two methods that both SDKs share and neither documents; where they are missing,
    deriving fails.

    Raises:
        TypeError: At the derivation: the client is an async one, or has no such methods.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:  # Any: for the other bases
        super().__init_subclass__(**kwargs)
        others = cls.__mro__[cls.__mro__.index(StoppableBackOff) + 1 :]
        for name in ("_sleep_for_retry", "_calculate_retry_timeout"):
            found = next((vars(kind)[name] for kind in others if name in vars(kind)), None)
            if found is None or inspect.iscoroutinefunction(found):
                raise TypeError(f"{cls.__name__} needs a base after StoppableBackOff with a blocking {name}")

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        sdk = cast(Any, super())  # one of several SDKs
        headers = None if response is None else response.headers
        bound_token().sleep(sdk._calculate_retry_timeout(max_retries - retries_taken, options, headers))
