"""Every client obeys a token in every phase of a call, over every wire, and leaves nothing behind."""

import socket
import sys
import threading
from pathlib import Path

import pytest
import trustme

from cancel_token import Cancelled, CancelToken
from tests.cancel_token.stalling import (
    PHASES,
    UPLOAD,
    Call,
    FullListener,
    Phase,
    Proxy,
    StallingServer,
    no_descriptor_left,
)
from tests.cancel_token.transports import TRANSPORTS, WIRES, Transport, Wire, stop

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)
each_transport = pytest.mark.parametrize(
    "transport", [pytest.param(each, id=each.name) for each in TRANSPORTS]
)


@pytest.mark.parametrize(
    ("wire", "phase"),
    [
        pytest.param(wire, phase, id=f"{wire.name}-{phase}")
        for wire in WIRES
        for phase in PHASES
        if wire.tls or phase != "tls"
    ],
)
@each_transport
@pytest.mark.usefixtures("without_gc")
def test_a_stop_in_each_phase_frees_the_call_and_leaves_nothing_behind(
    transport: Transport, wire: Wire, phase: Phase, certificate: trustme.LeafCert, authority_file: Path
) -> None:
    """T-N1, T-N2, T-N5, T-N6, T-N7, T-N8: from the handshake to the last byte of the body, over every wire."""
    with no_descriptor_left(), wire.open(transport, certificate, authority_file) as way:
        token = CancelToken()
        body = UPLOAD if phase == "upload" else b"question"
        way.server.phase = phase
        with no_descriptor_left():
            call = Call(lambda: way.client.post(way.server.url, body, token))
            stop(way.server, token, call)
            way.server.join_connections()
            if way.proxy is not None:
                way.proxy.join_connections()
        stopped_requests, left = len(way.server.requests), way.client.left()
        way.server.phase = None
        following = way.client.post(way.server.url, b"question", CancelToken())

        assert isinstance(call.error, Cancelled)
        assert token is call.error.token
        assert 0 == token.stats().registrations
        assert (0 if phase == "tls" else 1) == stopped_requests
        assert [] == left
        assert b"ok" == following


@linux_only
@pytest.mark.parametrize("proxied", [False, True])
@each_transport
@pytest.mark.usefixtures("without_gc")
def test_a_stop_frees_a_call_that_connects(
    transport: Transport, proxied: bool, server: StallingServer
) -> None:
    """T-N3: a connect that gets no answer, from the server or from its proxy."""
    with FullListener() as full, no_descriptor_left():
        dead_end = f"http://127.0.0.1:{full.port}"
        with transport.open(None, dead_end if proxied else None) as client:
            token = CancelToken()
            url = server.url if proxied else dead_end
            call = Call(lambda: client.post(url, b"question", token))
            client.sending.wait()
            token.cancel()

            assert isinstance(call.join().error, Cancelled)
            assert [] == client.left()
            if not proxied:
                assert b"ok" == client.post(server.url, b"question", CancelToken())
        server.join_connections()


@each_transport
@pytest.mark.usefixtures("without_gc")
def test_a_stop_frees_a_call_whose_proxy_does_not_answer_connect(transport: Transport) -> None:
    with (
        no_descriptor_left(),
        Proxy(stalls=True) as proxy,
        transport.open(None, proxy.url) as client,
    ):
        token = CancelToken()
        call = Call(lambda: client.post("https://127.0.0.1:9/", b"question", token))
        stop(proxy, token, call)

        assert isinstance(call.error, Cancelled)
        assert [] == client.left()


@each_transport
def test_a_stop_frees_a_call_that_looks_up_a_name(
    transport: Transport, server: StallingServer, monkeypatch: pytest.MonkeyPatch
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
    with transport.open(None, None) as client:
        call = Call(lambda: client.post("http://stalls.test/", b"question", token))
        asked.wait()
        token.cancel()
        call.join()
        try:
            assert isinstance(call.error, Cancelled)
            assert b"ok" == client.post(server.url, b"question", CancelToken())
        finally:
            answer.set()
