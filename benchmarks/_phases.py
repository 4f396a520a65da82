"""How long a stop takes in one phase of some work: the driver, the transport's cases, and the table.

A `Case` opens a `Target`: a way to start work that will stall, to know that it has, and to ask its peer when it saw the
hang-up. `measure` stops it again and again. Add a case for anything that can be started in a thread under a token.
"""

import contextlib
import platform
import queue
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trustme

from cancel_token._token import CancelToken
from cancel_token.http import CancellableAdapter, Response, Session
from tests.cancel_token.stalling import (
    UPLOAD,
    Call,
    FullListener,
    Phase,
    Proxy,
    StallingServer,
    open_descriptors,
    wait_for_hang_up,
)

SETTLE_SECONDS = 0.002  # between "the server stalls" and the stop, so that the client has gone to sleep
PATIENCE_SECONDS = 2.0  # how long an answer is waited for that may never come

NO_COUNTS: Mapping[str, int] = {}


@attrs.frozen
class Target:
    """Work that stalls, ready to be started any number of times, one after the other."""

    start: Callable[[CancelToken], Call[Any]]
    wait_until_stalled: Callable[[], object]
    hung_up_at: Callable[
        [], float | None
    ]  # by time.perf_counter; None: nobody was there to see it, or nobody did
    settle: Callable[
        [], object
    ]  # after each stop: the next request must be accepted; let the peer come to rest
    counts: Callable[[], Mapping[str, int]] = lambda: (
        NO_COUNTS
    )  # further columns, read once at the end; each should be 0


@attrs.frozen
class Case:
    """One row of the table."""

    wire: str
    phase: str
    open: Callable[[], AbstractContextManager[Target]]


@attrs.frozen
class Times:
    """Milliseconds from `token.cancel()`."""

    median: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times | None":
        if not seconds:
            return None
        ordered = sorted(1000 * value for value in seconds)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))])

    def __str__(self) -> str:
        return f"{self.median:8.2f} {self.p95:8.2f}"


@attrs.frozen
class Row:
    """What was measured of one case."""

    wire: str
    phase: str
    caller: Times | None  # until the caller has control again
    peer: Times | None  # until the peer has seen the hang-up
    repeats: int
    left: str  # descriptors and threads; empty: nothing
    counts: Mapping[str, int] = attrs.field(factory=dict)

    def keeps(self, limits: Times) -> bool:
        """Whether both times are within the limits, nothing is left, and every count is 0."""
        measured = [times for times in (self.caller, self.peer) if times is not None]
        return (
            self.caller is not None
            and not self.left
            and not any(self.counts.values())
            and all(times.median <= limits.median and times.p95 <= limits.p95 for times in measured)
        )


def measure(case: Case, repeats: int) -> Row:
    """Start, wait for the stall, stop, again and again."""
    caller: list[float] = []
    peer: list[float] = []
    with case.open() as target:
        stop_once(target)  # warms up: imports, certificates, the first connection
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        for _ in range(repeats):
            stopped_at, ended_at, hung_up_at = stop_once(target)
            caller.append(ended_at - stopped_at)
            if hung_up_at is not None:
                peer.append(hung_up_at - stopped_at)
        left = _left(descriptors, threads)
        counts = dict(target.counts())
    return Row(case.wire, case.phase, Times.of(caller), Times.of(peer), repeats, left, counts)


def stop_once(target: Target) -> tuple[float, float, float | None]:
    """Stop the work once; return when it was stopped, when the caller had control, when the peer knew."""
    token = CancelToken()
    call = target.start(token)
    target.wait_until_stalled()
    time.sleep(SETTLE_SECONDS)
    stopped_at = time.perf_counter()
    token.cancel("benchmark")
    call.join()
    hung_up_at = target.hung_up_at()
    target.settle()
    return stopped_at, call.ended_at, hung_up_at


def _left(descriptors: Mapping[int, str], threads: set[threading.Thread]) -> str:
    more = len(open_descriptors()) - len(descriptors)
    alive = [thread for thread in threading.enumerate() if thread not in threads]
    foreign = [thread for thread in alive if not thread.name.startswith("cancel_token resolver")]
    parts = [f"{more} descriptors"] if more else []
    parts += [f"{len(foreign)} threads"] if foreign else []
    parts += ["more than one resolver"] if len(alive) - len(foreign) > 1 else []
    return ", ".join(parts)


def bare_shutdown(repeats: int) -> Row:
    """What nothing can be faster than: `shutdown` of a socket on which a thread is blocked in `recv`."""
    caller, peer = [], []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(repeats):
            with socket.create_connection(listener.getsockname()) as near:
                far, _ = listener.accept()
                with far:
                    receiving, watching = Call(partial(near.recv, 1)), Call(partial(wait_for_hang_up, far))
                    time.sleep(SETTLE_SECONDS)
                    stopped_at = time.perf_counter()
                    near.shutdown(socket.SHUT_RDWR)
                    caller.append(receiving.join().ended_at - stopped_at)
                    peer.append(watching.join().ended_at - stopped_at)
    return Row("bare", "shutdown of a recv", Times.of(caller), Times.of(peer), repeats, "")


def limits_from(bare: Row) -> Times:
    """Median max(2 ms, 5 x bare), p95 max(5 ms, 5 x bare)."""
    assert bare.caller is not None
    return Times(max(2.0, 5 * bare.caller.median), max(5.0, 5 * bare.caller.p95))


def print_table(rows: Sequence[Row], bare: Row, limits: Times) -> bool:
    """Print all rows beside the bare shutdown; return whether every one keeps the limits."""
    names = sorted({name for row in rows for name in row.counts})
    columns = "".join(f" {name:>12}" for name in names)
    print(f"{'':9} {'':24} {'caller has control':>17} | {'peer sees it':>17} |")
    print(
        f"{'wire':9} {'phase':24} {'median':>8} {'p95':>8} | {'median':>8} {'p95':>8} |{columns}  (milliseconds)"
    )
    for row in (bare, *rows):
        counts = "".join(f" {row.counts.get(name, ''):>12}" for name in names)
        verdict = "" if row is bare else "ok" if row.keeps(limits) else f"OVER {row.left}"
        dash = f"{'-':>8} {'-':>8}"
        print(f"{row.wire:9} {row.phase:24} {row.caller or dash} | {row.peer or dash} |{counts}  {verdict}")
    print(f"{'limits':9} {'':24} {limits} | {limits} |")
    return all(row.keeps(limits) for row in rows)


def describe_machine() -> str:
    """Where and with what this was measured."""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    )


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


@attrs.frozen
class Certificates:
    """One authority for all cases."""

    server: trustme.LeafCert
    authority_file: Path


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(path))
        yield Certificates(authority.issue_cert("127.0.0.1", "localhost"), path)


def transport_cases(certificates: Certificates) -> Iterator[Case]:
    """Every phase of a request over every wire."""
    yield Case("plain", "name lookup", _open_lookup)
    if sys.platform == "linux":
        yield Case("plain", "connect", partial(_open_connect, proxied=False))
        yield Case("proxy", "connect", partial(_open_connect, proxied=True))
    yield Case("CONNECT", "proxy's answer", partial(_open_silent_proxy, certificates))
    for wire, tls, proxied in (
        ("plain", False, False),
        ("TLS", True, False),
        ("proxy", False, True),
        ("CONNECT", True, True),
    ):
        for name, phase in TRANSPORT_PHASES.items():
            if tls or phase != "tls":
                yield Case(wire, name, partial(_open_server, certificates, phase, tls=tls, proxied=proxied))


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


class _Announcing(CancellableAdapter):
    """Says when a request is about to be sent: a connect that gets no answer has no server to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.sending: queue.SimpleQueue[None] = queue.SimpleQueue()

    def send(self, *args: Any, **kwargs: Any) -> Response:
        self.sending.put(None)
        return super().send(*args, **kwargs)


@contextlib.contextmanager
def _open_connect(*, proxied: bool) -> Iterator[Target]:
    with FullListener() as full, new_session() as session:
        adapter = _Announcing()
        session.mount("http://", adapter)
        url = f"http://127.0.0.1:{full.port}/"
        if proxied:
            session.proxies = {"http": url}
        yield Target(
            start=lambda token: Call(
                lambda: consume(session, "http://127.0.0.1:9/" if proxied else url, token)
            ),
            wait_until_stalled=adapter.sending.get,
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
