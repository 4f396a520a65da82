"""Our transport alone, as cases of `_phases`: every phase of a request over every wire."""

import contextlib
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks._phases import Case, Certificates, Target
from cancel_token import CancelToken
from cancel_token.http import CancellableAdapter, Response, Session
from tests.cancel_token.stalling import (
    UPLOAD,
    Call,
    FullListener,
    Phase,
    Proxy,
    StallingServer,
)

PATIENCE_SECONDS = 2.0  # how long an answer is waited for that may never come

TRANSPORT_PHASES: dict[str, Phase] = {
    "TLS handshake": "tls",
    "upload": "upload",
    "headers": "headers",
    "first byte": "first byte",
    "mid-chunk": "mid-chunk",
    "silent stream": "between chunks",
    "body with a length": "length",
    "body until close": "until close",
    "gzip": "gzip",
    "fast stream": "fast",
}


def request_cases(certificates: Certificates) -> Iterator[Case]:
    """Every phase of a request over every wire."""
    yield Case("requests", "plain", "name lookup", _open_lookup)
    if sys.platform == "linux":
        yield Case("requests", "plain", "connect", partial(_open_connect, proxied=False))
        yield Case("requests", "proxy", "connect", partial(_open_connect, proxied=True))
    yield Case("requests", "CONNECT", "proxy's answer", partial(_open_silent_proxy, certificates))
    for wire, tls, proxied in (
        ("plain", False, False),
        ("TLS", True, False),
        ("proxy", False, True),
        ("CONNECT", True, True),
    ):
        for name, phase in TRANSPORT_PHASES.items():
            if tls or phase != "tls":
                yield Case(
                    "requests",
                    wire,
                    name,
                    partial(_open_server, certificates, phase, tls=tls, proxied=proxied),
                )


def new_session(certificates: Certificates | None = None) -> Session:
    session = Session()
    session.trust_env = False
    if certificates is not None:
        session.verify = str(certificates.authority_file)
    return session


def consume(session: Session, url: str, token: CancelToken, data: bytes = b"question") -> None:
    """Post and read the answer as it arrives, as a model's answer is read."""
    with session.post(url, data=data, stream=True, token=token) as response:
        for _ in response.iter_arrived():
            pass


def answer_or_none(times: "queue.SimpleQueue[float]") -> float | None:
    """When the peer saw the hang-up, or None if it hasn't in all the time it was given."""
    try:
        return times.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        return None


@contextlib.contextmanager
def _open_server(certificates: Certificates, phase: Phase, *, tls: bool, proxied: bool) -> Iterator[Target]:
    with ExitStack() as stack:
        server = stack.enter_context(StallingServer(certificates.server if tls else None))
        proxy = stack.enter_context(Proxy()) if proxied else None
        session = stack.enter_context(new_session(certificates))
        if proxy is not None:
            session.proxies = {"http": proxy.url, "https": proxy.url}
        data = UPLOAD if phase == "upload" else b"question"
        server.phase = phase

        def settle() -> None:
            server.phase = None
            accepted = session.post(server.url, data=b"next", headers={"Connection": "close"}).content
            assert accepted == b"ok"
            server.join_connections()
            if proxy is not None:
                proxy.join_connections()
            server.phase = phase

        yield Target(
            start=lambda token: Call(lambda: consume(session, server.url, token, data)),
            wait_until_stalled=server.stalled.get,
            hung_up_at=lambda: answer_or_none(server.hang_ups),
            settle=settle,
        )


@contextlib.contextmanager
def _open_silent_proxy(certificates: Certificates) -> Iterator[Target]:
    with Proxy(stalls=True) as proxy, new_session(certificates) as session:
        session.proxies = {"https": proxy.url}
        yield Target(
            start=lambda token: Call(lambda: consume(session, "https://127.0.0.1:9/", token)),
            wait_until_stalled=proxy.stalled.get,
            hung_up_at=lambda: answer_or_none(proxy.hang_ups),
            settle=proxy.join_connections,
        )


class Announcing(CancellableAdapter):
    """Says when a request is about to be sent: a connect that gets no answer has no server to tell."""

    def __init__(self, told: Callable[[], object]) -> None:
        super().__init__()
        self._told = told

    def send(self, *args: Any, **kwargs: Any) -> Response:
        self._told()
        return super().send(*args, **kwargs)


@contextlib.contextmanager
def _open_connect(*, proxied: bool) -> Iterator[Target]:
    with FullListener() as full, new_session() as session:
        sending: queue.SimpleQueue[None] = queue.SimpleQueue()
        session.mount("http://", Announcing(lambda: sending.put(None)))
        url = f"http://127.0.0.1:{full.port}/"
        if proxied:
            session.proxies = {"http": url}
        yield Target(
            start=lambda token: Call(
                lambda: consume(session, "http://127.0.0.1:9/" if proxied else url, token)
            ),
            wait_until_stalled=sending.get,
            hung_up_at=lambda: None,
            settle=lambda: None,
        )


class StallingLookup:
    """A resolver that is asked for one name and does not answer."""

    host = "stalls.test"

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._may_answer = threading.Semaphore(0)
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, *args: Any, **options: Any) -> Any:
        """In place of the operating system's."""
        if host != self.host:
            return self._real(host, *args, **options)
        if args[-1] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.put(None)
        self._may_answer.acquire()
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    def answer(self) -> None:
        """Let one lookup end, and wait for the resolver that was left behind."""
        self._may_answer.release()
        for thread in threading.enumerate():
            if thread.name.startswith("cancel_token resolver"):
                thread.join()


@contextlib.contextmanager
def stalling_lookup() -> Iterator[StallingLookup]:
    """Replace the operating system's resolver by one that stalls: no other way is sure to."""
    lookup = StallingLookup()
    real = socket.getaddrinfo
    socket.getaddrinfo = lookup.getaddrinfo  # type: ignore[assignment]  # it passes on what it is given
    try:
        yield lookup
    finally:
        socket.getaddrinfo = real


@contextlib.contextmanager
def _open_lookup() -> Iterator[Target]:
    with stalling_lookup() as lookup, new_session() as session:
        yield Target(
            start=lambda token: Call(lambda: consume(session, f"http://{lookup.host}/", token)),
            wait_until_stalled=lookup.asked.get,
            hung_up_at=lambda: None,
            settle=lookup.answer,
        )
