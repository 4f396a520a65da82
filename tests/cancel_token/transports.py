"""The clients that obey a token, behind one face, for what all of them promise: `requests`, httpx2, httpx."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import attrs
import httpx2
import trustme

from cancel_token import CancelToken
from cancel_token.http import CancellableAdapter, Response, Session
from cancel_token.httpx import stoppable, use_token
from tests.cancel_token.httpx_clients import LIBRARIES, connections, new_client
from tests.cancel_token.stalling import Call, Proxy, StallingServer


def stop(server: StallingServer | Proxy, token: CancelToken, call: Call[Any]) -> None:
    """Cancel once the peer stalls; return when the call has ended and the peer has seen the hang-up."""
    server.stalled.get()
    token.cancel("enough")
    call.join()
    server.hang_ups.get()


class Client(Protocol):
    """What the tests of all of them need."""

    @property
    def sending(self) -> threading.Event:
        """Set when a request is about to be sent."""

    def post(self, url: str, body: bytes, token: CancelToken) -> bytes:
        """Ask, and read the whole answer."""

    def left(self) -> list[object]:
        """The connections that are open in its pools."""


@attrs.frozen(kw_only=True)
class Transport:
    """A library, and how to open a client of it.

    Args:
        name: For people.
        open: Takes the file with the authority of the servers' certificates, and the URL of a proxy.
    """

    name: str
    open: Callable[[Path | None, str | None], AbstractContextManager[Client]]


def new_session(authority_file: Path | None = None, *, pool_maxsize: int | None = None) -> Session:
    session = Session()
    session.trust_env = False
    if authority_file is not None:
        session.verify = str(authority_file)
    if pool_maxsize is not None:
        session.mount("http://", CancellableAdapter(pool_maxsize=pool_maxsize, pool_block=True))
    return session


def adapter_reporting(sending: threading.Event) -> CancellableAdapter:
    """An adapter that says when a request is about to be sent."""

    class Reporting(CancellableAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Response:
            sending.set()
            return super().send(*args, **kwargs)

    return Reporting()


def open_connections(session: Session) -> list[object]:
    """What lies in a session's pools and is connected."""
    adapters: list[Any] = list(session.adapters.values())  # no public way
    managers = [
        manager for adapter in adapters for manager in (adapter.poolmanager, *adapter.proxy_manager.values())
    ]
    pools = [manager.pools[key] for manager in managers for key in manager.pools.keys()]  # noqa: SIM118
    pooled = [connection for pool in pools for connection in list(pool.pool.queue)]
    return [connection for connection in pooled if connection is not None and connection.sock is not None]


@attrs.frozen
class _RequestsClient:
    session: Session
    sending: threading.Event

    def post(self, url: str, body: bytes, token: CancelToken) -> bytes:
        return self.session.post(url, data=body, token=token).content

    def left(self) -> list[object]:
        return open_connections(self.session)


@contextlib.contextmanager
def _open_requests(authority_file: Path | None, proxy: str | None) -> Iterator[Client]:
    sending = threading.Event()
    with new_session(authority_file) as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter_reporting(sending))
        if proxy is not None:
            session.proxies = {"http": proxy, "https": proxy}
        yield _RequestsClient(session, sending)


@attrs.frozen
class _HttpxClient:
    client: httpx2.Client
    sending: threading.Event

    def post(self, url: str, body: bytes, token: CancelToken) -> bytes:
        with use_token(token):
            return self.client.post(url, content=body).content

    def left(self) -> list[object]:
        return connections(self.client)


@contextlib.contextmanager
def _open_httpx(library: str, authority_file: Path | None, proxy: str | None) -> Iterator[Client]:
    sending = threading.Event()
    context: ssl.SSLContext | bool = False
    if authority_file is not None:
        context = ssl.create_default_context(cafile=authority_file)
    options: dict[str, Any] = {"event_hooks": {"request": [lambda request: sending.set()]}}
    if proxy is not None:
        options["proxy"] = proxy
    with stoppable(new_client(library, context, **options)) as client:
        yield _HttpxClient(client, sending)


TRANSPORTS = (
    Transport(name="requests", open=_open_requests),
    *(Transport(name=name, open=partial(_open_httpx, name)) for name in LIBRARIES),
)


@attrs.frozen
class Way:
    """A server, and a client that reaches it."""

    server: StallingServer
    proxy: Proxy | None
    client: Client


@attrs.frozen
class Wire:
    """What lies between client and server."""

    name: str
    tls: bool
    proxied: bool

    @contextlib.contextmanager
    def open(
        self, transport: Transport, certificate: trustme.LeafCert, authority_file: Path
    ) -> Iterator[Way]:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(StallingServer(certificate if self.tls else None))
            proxy = stack.enter_context(Proxy()) if self.proxied else None
            client = transport.open(authority_file, None if proxy is None else proxy.url)
            yield Way(server, proxy, stack.enter_context(client))


WIRES = (
    Wire("plain", tls=False, proxied=False),
    Wire("TLS", tls=True, proxied=False),
    Wire("proxy", tls=False, proxied=True),
    Wire("CONNECT", tls=True, proxied=True),
)
