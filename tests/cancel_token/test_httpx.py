"""Clients of httpx and httpx2 obey a token in every phase, and leave nothing behind."""

import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    under,
)
from tests.cancel_token.stalling import (
    LINES,
    Proxy,
    StallingServer,
    no_descriptor_left,
)
from tests.cancel_token.transports import stop

both_libraries = pytest.mark.parametrize("name", LIBRARIES)


@pytest.fixture(scope="module")
def context(authority_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority_file)


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


@pytest.mark.parametrize("begun", [False, True])
@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_dropped_response_gives_its_place_to_who_waits(
    name: str, begun: bool, server: StallingServer
) -> None:
    """Nobody else may ever use the client."""
    limits, waits = library(name).Limits(max_connections=1), library(name).Timeout(None, pool=10)
    with stoppable(new_client(name, limits=limits, timeout=waits)) as client:
        server.phase = "between chunks"
        dropped = [open_stream(client, server.url, CancelToken())]
        server.stalled.get()
        pieces = [dropped[0].iter_raw()]
        if begun:
            next(pieces[0])
        server.phase = None
        token = Watched()
        following = under(token, lambda: client.get(server.url).content)
        token.registered.wait()  # for the place: it has no connection yet
        pieces.clear()
        dropped.clear()
        gc.collect()  # httpx's responses are cycles

        assert b"ok" == following.join().result
        server.hang_ups.get()


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
