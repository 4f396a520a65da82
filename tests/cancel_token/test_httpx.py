"""Clients of httpx and httpx2 obey a token in every phase, and leave nothing behind."""

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
import trustme

from cancel_token import Cancelled, CancelToken
from cancel_token.httpx import stoppable, use_token
from tests.cancel_token.httpx_clients import (
    LIBRARIES,
    connections,
    library,
    new_client,
    open_stream,
    stop,
    under,
)
from tests.cancel_token.stalling import (
    LINES,
    PHASES,
    UPLOAD,
    FullListener,
    Phase,
    Proxy,
    StallingServer,
    no_descriptor_left,
)

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)
both_libraries = pytest.mark.parametrize("name", LIBRARIES)


@pytest.fixture(scope="module")
def context(authority_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority_file)


@attrs.frozen
class Way:
    """A server, and a client that reaches it."""

    server: StallingServer
    proxy: Proxy | None
    client: httpx2.Client


@attrs.frozen
class Wire:
    """What lies between client and server."""

    name: str
    tls: bool
    proxied: bool

    @contextlib.contextmanager
    def open(self, library: str, certificate: trustme.LeafCert, context: ssl.SSLContext) -> Iterator[Way]:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(StallingServer(certificate if self.tls else None))
            proxy = stack.enter_context(Proxy()) if self.proxied else None
            options: dict[str, Any] = {} if proxy is None else {"proxy": proxy.url}
            client = stack.enter_context(stoppable(new_client(library, context, **options)))
            yield Way(server, proxy, client)


WIRES = [
    Wire("plain", tls=False, proxied=False),
    Wire("TLS", tls=True, proxied=False),
    Wire("proxy", tls=False, proxied=True),
    Wire("CONNECT", tls=True, proxied=True),
]


@pytest.mark.parametrize(
    ("wire", "phase"),
    [
        pytest.param(wire, phase, id=f"{wire.name}-{phase}")
        for wire in WIRES
        for phase in PHASES
        if wire.tls or phase != "tls"
    ],
)
@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_stop_in_each_phase_frees_the_call_and_leaves_nothing_behind(
    name: str, wire: Wire, phase: Phase, certificate: trustme.LeafCert, context: ssl.SSLContext
) -> None:
    """T-N1, T-N2, T-N5, T-N6, T-N7, T-N8: from the handshake to the last byte of the body, over every wire."""
    with no_descriptor_left(), wire.open(name, certificate, context) as way:
        token = CancelToken()
        body = UPLOAD if phase == "upload" else b"question"
        way.server.phase = phase
        with no_descriptor_left():
            call = under(token, lambda: way.client.post(way.server.url, content=body))
            stop(way.server, token, call)
            way.server.join_connections()
            if way.proxy is not None:
                way.proxy.join_connections()
        stopped_requests, left = len(way.server.requests), connections(way.client)
        way.server.phase = None
        following = way.client.post(way.server.url, content=b"question")

        assert isinstance(call.error, Cancelled)
        assert token is call.error.token
        assert 0 == token.stats().registrations
        assert (0 if phase == "tls" else 1) == stopped_requests
        assert [] == left
        assert b"ok" == following.content


@linux_only
@pytest.mark.parametrize("proxied", [False, True])
@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_stop_frees_a_call_that_connects(name: str, proxied: bool) -> None:
    """T-N3: a connect that gets no answer, from the server or from its proxy."""
    with FullListener() as full, no_descriptor_left():
        dead_end = f"http://127.0.0.1:{full.port}"
        sending = threading.Event()
        options: dict[str, Any] = {"proxy": dead_end} if proxied else {}
        hooks = {"request": [lambda request: sending.set()]}
        with stoppable(new_client(name, event_hooks=hooks, **options)) as client:
            token = CancelToken()
            call = under(token, lambda: client.get("http://127.0.0.1:9/" if proxied else dead_end))
            sending.wait()
            token.cancel()

            assert isinstance(call.join().error, Cancelled)
            assert [] == connections(client)


@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_stop_frees_a_call_whose_proxy_does_not_answer_connect(name: str) -> None:
    with (
        no_descriptor_left(),
        Proxy(stalls=True) as proxy,
        stoppable(new_client(name, proxy=proxy.url)) as client,
    ):
        token = CancelToken()
        call = under(token, lambda: client.get("https://127.0.0.1:9/"))
        stop(proxy, token, call)

        assert isinstance(call.error, Cancelled)
        assert [] == connections(client)


@both_libraries
def test_a_failed_handshake_behind_a_proxy_leaves_nothing_in_the_pool(
    name: str, certificate: trustme.LeafCert
) -> None:
    """The library keeps such a connection forever, as one in use."""
    with StallingServer(certificate) as server, Proxy() as proxy:
        stranger = ssl.create_default_context()
        with stoppable(new_client(name, stranger, proxy=proxy.url)) as client:
            with pytest.raises(library(name).ConnectError, match="certificate"):
                client.get(server.url)

            assert [] == connections(client)


def test_a_stop_frees_a_call_that_looks_up_a_name(
    server: StallingServer, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-N4: the lookup itself can't be interrupted; it is left behind, and the client goes on."""
    asked, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def stalling(host: str, *args: int) -> object:
        if host != "stalls.test":
            return real(host, *args)
        if args[-1] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        asked.set()
        answer.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", stalling)
    token = CancelToken()
    call = under(token, lambda: client.get("http://stalls.test/"))
    asked.wait()
    token.cancel()
    call.join()
    try:
        assert isinstance(call.error, Cancelled)
        assert b"ok" == client.get(server.url).content
    finally:
        answer.set()


class Watched(CancelToken):
    """A token that says when something registers with it."""

    def __init__(self) -> None:
        super().__init__()
        self.registered = threading.Event()

    def on_cancel(self, fn: Callable[..., object], *args: object) -> Any:
        registration = super().on_cancel(fn, *args)
        self.registered.set()
        return registration


@both_libraries
def test_a_stop_frees_a_call_that_waits_for_a_free_connection(name: str, server: StallingServer) -> None:
    """And the connection that was in use is none the worse for it (T-N7)."""
    with stoppable(new_client(name, limits=library(name).Limits(max_connections=1))) as client:
        server.phase = "between chunks"
        streaming = open_stream(client, server.url, CancelToken())
        server.stalled.get()
        token = Watched()
        call = under(token, lambda: client.get(server.url))
        token.registered.wait()  # for the place: it has no connection yet
        token.cancel()

        assert isinstance(call.join().error, Cancelled)
        with pytest.raises(library(name).PoolTimeout):
            client.get(server.url, timeout=0.01)
        pieces = streaming.iter_raw()
        assert LINES == next(pieces)
        server.phase = None
        following = under(CancelToken(), lambda: client.get(server.url).content)  # waits for the stream's end
        streaming.close()
        assert b"ok" == following.join().result


@pytest.mark.parametrize("tls", [False, True])
@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_stop_that_races_a_whole_request_ends_it_or_leaves_it_whole(
    name: str, tls: bool, certificate: trustme.LeafCert, context: ssl.SSLContext
) -> None:
    """T-N7, T-S15, T-N8: whoever wins, the answer is right or the stop is raised, and the next request works."""
    with StallingServer(certificate if tls else None) as server, no_descriptor_left():
        with stoppable(new_client(name, context)) as client:
            seen = set()
            for round_number in range(100):
                token = CancelToken()
                start = threading.Barrier(2)

                def request(start: threading.Barrier = start) -> bytes:
                    start.wait()
                    return client.get(server.url).content

                call = under(token, request)
                start.wait()
                if round_number % 4:  # the answer is on its way already
                    server.heard.get()
                token.cancel()
                call.join()
                seen.add(call.result if call.error is None else type(call.error))

                assert b"ok" == client.get(server.url).content
                assert 0 == token.stats().registrations
                while not server.heard.empty():
                    server.heard.get()
        server.join_connections()

    assert seen <= {b"ok", Cancelled}


def test_a_stop_before_the_start_opens_no_connection(server: StallingServer, client: httpx2.Client) -> None:
    token = CancelToken()
    token.cancel()
    with use_token(token), pytest.raises(Cancelled):
        client.get(server.url)

    assert 0 == server.connections


def test_an_upload_from_a_generator_stops_between_its_pieces(
    server: StallingServer, client: httpx2.Client
) -> None:
    token = CancelToken()
    taken = []

    def pieces() -> Iterator[bytes]:
        for number in range(10):
            taken.append(number)
            if number == 3:
                token.cancel()
            yield b"piece"

    with use_token(token), pytest.raises(Cancelled):
        client.post(server.url, content=pieces())

    assert [0, 1, 2, 3] == taken


@both_libraries
def test_the_wait_between_two_tries_to_connect_obeys(name: str) -> None:
    """Nothing listens here, and the library's own waits double each time."""

    class Sleeping(CancelToken):
        def __init__(self) -> None:
            super().__init__()
            self.sleeping = threading.Event()

        def sleep(self, seconds: float) -> None:
            if seconds:
                self.sleeping.set()
                seconds = 3600
            super().sleep(seconds)

    token = Sleeping()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    transport = library(name).HTTPTransport(retries=10)
    with stoppable(new_client(name, transport=transport)) as client:
        call = under(token, lambda: client.get(f"http://127.0.0.1:{port}/"))
        token.sleeping.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)


@both_libraries
def test_a_connection_that_is_in_use_sends_the_next_request_away(name: str, server: StallingServer) -> None:
    """The pool may give it to two requests at once; that harms neither."""
    core = library(name.replace("httpx", "httpcore"))
    with stoppable(new_client(name)) as client:
        server.phase = "between chunks"
        streaming = open_stream(client, server.url, CancelToken())
        server.stalled.get()
        with pytest.raises(core.ConnectionNotAvailable):
            connections(client)[0].handle_request(core.Request("GET", server.url))

        pieces = streaming.iter_raw()
        assert LINES == next(pieces)
        streaming.close()


@both_libraries
def test_a_request_that_fails_or_is_stopped_gives_its_place_back(name: str, server: StallingServer) -> None:
    module = library(name)
    limits, waits = module.Limits(max_connections=1), module.Timeout(None, pool=5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with stoppable(new_client(name, limits=limits, timeout=waits)) as client:
        token = CancelToken()
        server.phase = "headers"
        call = under(token, lambda: client.get(server.url))
        stop(server, token, call)
        with pytest.raises(module.ConnectError):
            client.get(f"http://127.0.0.1:{port}/")
        server.phase = None

        assert isinstance(call.error, Cancelled)
        assert b"ok" == client.get(server.url).content
