"""What a client is set to stays; what can't obey a token is refused."""

import socket
import ssl
import sys
from typing import Any

import httpx2
import pytest
import trustme

from cancel_token import Cancelled, CancelToken
from cancel_token.httpx import stoppable, use_token
from tests.cancel_token.httpx_clients import LIBRARIES, connections, library, new_client, under
from tests.cancel_token.stalling import UPLOAD, FullListener, Proxy, StallingServer, no_descriptor_left
from tests.cancel_token.transports import stop

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)
both_libraries = pytest.mark.parametrize("name", LIBRARIES)


def test_an_error_of_the_peer_stays_its_own(server: StallingServer, client: httpx2.Client) -> None:
    errors = library(type(client).__module__.partition(".")[0])
    token = CancelToken()
    with use_token(token):
        server.phase = "headers"
        with pytest.raises(errors.ReadTimeout):
            # Of the read alone: on a busy machine connecting takes longer than that, too, which is another error.
            client.get(server.url, timeout=errors.Timeout(None, read=0.01))
        server.phase = "upload"
        with pytest.raises(errors.WriteTimeout):
            client.post(server.url, content=UPLOAD, timeout=errors.Timeout(None, write=0.01))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(errors.ConnectError, match="refused"):
            client.get(f"http://127.0.0.1:{port}/")
        with pytest.raises(errors.ConnectError):
            client.get("http://name.invalid/")

    assert 0 == token.stats().registrations
    assert [] == connections(client)


@linux_only
@both_libraries
def test_a_connect_that_takes_too_long_is_a_connect_timeout(name: str) -> None:
    timeout = pytest.raises(library(name).ConnectTimeout)
    with FullListener() as full, stoppable(new_client(name)) as client, timeout:
        client.get(f"http://127.0.0.1:{full.port}/", timeout=0.01)


@both_libraries
def test_settings_of_the_sockets_are_kept(name: str, server: StallingServer) -> None:
    keep_alive = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    transport = library(name).HTTPTransport(socket_options=[keep_alive], local_address="127.0.0.1")
    client = stoppable(new_client(name, transport=transport))
    with client, client.stream("GET", server.url) as response:
        stream = response.extensions["network_stream"]
        sock = stream.get_extra_info("socket")

        assert 1 == sock.getsockopt(*keep_alive[:2])
        assert 1 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert ("127.0.0.1", server.port) == stream.get_extra_info("server_addr")
        assert sock.getsockname() == stream.get_extra_info("client_addr")
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("something else") is None


@pytest.mark.parametrize(
    ("option", "error"),
    [((socket.SOL_SOCKET, -1, 1), "ConnectError"), (("no", "option", "at all"), "TypeError")],
)
@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_settings_that_the_socket_refuses_leave_nothing(name: str, option: Any, error: str) -> None:
    transport = library(name).HTTPTransport(socket_options=[option])
    client = stoppable(new_client(name, transport=transport))
    with no_descriptor_left(), StallingServer() as server, client:
        call = under(CancelToken(), lambda: client.get(server.url)).join()

        assert error == type(call.error).__name__
        assert [] == connections(client)


class Refusing(ssl.SSLContext):
    """Checks more than certificates, in its own way."""

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        raise RuntimeError("not today")


@both_libraries
@pytest.mark.usefixtures("without_gc")
def test_a_handshake_that_cannot_begin_leaves_nothing(name: str, certificate: trustme.LeafCert) -> None:
    client = stoppable(new_client(name, Refusing(ssl.PROTOCOL_TLS_CLIENT)))
    with no_descriptor_left(), StallingServer(certificate) as server, client:
        with pytest.raises(RuntimeError, match="not today"):
            client.get(server.url)

        assert [] == connections(client)


@both_libraries
def test_the_pool_says_what_its_connections_do(name: str, server: StallingServer) -> None:
    with stoppable(new_client(name)) as client:
        client.get(server.url)

        assert "IDLE" in repr(connections(client)[0])


@both_libraries
def test_a_client_without_a_limit_has_a_place_for_everybody(name: str, server: StallingServer) -> None:
    with stoppable(new_client(name, limits=library(name).Limits(max_connections=None))) as client:
        assert b"ok" == client.get(server.url).content


@both_libraries
def test_proxies_of_the_environment_are_kept(
    name: str, server: StallingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with stoppable(new_client(name, trust_env=True)) as client:
            token = CancelToken()
            server.phase = "headers"
            call = under(token, lambda: client.get(server.url))
            stop(server, token, call)

            assert isinstance(call.error, Cancelled)
            assert [server.url.encode()] == proxy.targets


@both_libraries
def test_twice_is_once_and_what_cannot_obey_is_refused(name: str, server: StallingServer) -> None:
    module = library(name)
    client = new_client(name)
    pool = client._transport._pool  # type: ignore[attr-defined]  # no public way
    assert stoppable(client) is client
    changed = client._transport._pool  # type: ignore[attr-defined]
    assert stoppable(client)._transport._pool is changed is not pool  # type: ignore[attr-defined]

    used = new_client(name)
    used.get(server.url)
    refused = [
        (ValueError, "open connections", used),
        (ValueError, "Unix", new_client(name, transport=module.HTTPTransport(uds="/nowhere"))),
        (ValueError, "HTTP/2", new_client(name, transport=module.HTTPTransport(http2=True))),
        (ValueError, "HTTPS proxy", new_client(name, proxy="https://127.0.0.1:1")),
        (TypeError, "HTTPTransport", new_client(name, transport=module.MockTransport(lambda request: None))),
        (TypeError, "blocking client", module.AsyncClient()),
        (TypeError, "blocking client", object()),
    ]
    for error, words, unfit in refused:
        with pytest.raises(error, match=words):
            stoppable(unfit)
    used.close()


@both_libraries
def test_a_socks_proxy_is_refused(name: str) -> None:
    pytest.importorskip("socksio", reason="without it no client goes through a SOCKS proxy")
    with pytest.raises(ValueError, match="SOCKS"):
        stoppable(new_client(name, proxy="socks5://127.0.0.1:1080"))
