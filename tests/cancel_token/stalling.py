"""Real loopback peers that stall wherever they are told to, and say when they see the hang-up.

`StallingServer` speaks enough HTTP/1.1 for requests, plain or over TLS. `Proxy` forwards absolute URLs and CONNECT.
`FullListener` never accepts. All of them report the moment they have stalled, so nobody has to sleep.
"""

import contextlib
import gzip
import os
import queue
import re
import select
import socket
import ssl
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Literal, Self, TypeVar

import trustme

T = TypeVar("T")

Phase = Literal[
    "tls",
    "upload",
    "headers",
    "first byte",
    "between chunks",
    "mid-chunk",
    "length",
    "until close",
    "gzip",
    "fast",
]
BODY_PHASES: tuple[Phase, ...] = (
    "first byte",
    "between chunks",
    "mid-chunk",
    "length",
    "until close",
    "gzip",
    "fast",
)
PHASES: tuple[Phase, ...] = ("tls", "upload", "headers", *BODY_PHASES)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LINES = b"one\ntwo\nthree\n"
BEGINNINGS: dict[Phase, bytes] = {
    "first byte": CHUNKED,
    "between chunks": CHUNKED + b"e\r\n" + LINES + b"\r\n",
    "mid-chunk": CHUNKED + b"100\r\n" + LINES,
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + LINES,
    "until close": b"HTTP/1.0 200 OK\r\n\r\n" + LINES,
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n"
    + gzip.compress(LINES * 100, mtime=0)[:15]
    + b"\r\n",
    "fast": CHUNKED,
}
FAST_CHUNK = b"e\r\n" + LINES + b"\r\n"

UPLOAD = bytes(64 * 1024 * 1024)  # more than a loopback connection buffers

_HANG_UP = select.POLLHUP | select.POLLERR | (select.POLLRDHUP if sys.platform == "linux" else select.POLLIN)


class Call(Generic[T]):
    """A function running in a thread of its own, and what became of it."""

    def __init__(self, fn: Callable[[], T]) -> None:
        self.result: T | None = None
        self.error: BaseException | None = None
        self.ended_at = 0.0  # time.perf_counter
        self._fn = fn
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._fn()
        except BaseException as error:
            self.error = error
        self.ended_at = time.perf_counter()

    def join(self) -> Self:
        self._thread.join()
        return self


class _Listener:
    """Accepts connections and serves each in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
            thread = threading.Thread(target=self._run, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        try:
            self.serve(sock)
        except (OSError, ssl.SSLError):
            pass  # the client has hung up; the test asks what we have seen
        finally:
            self._open.discard(sock)
            sock.close()

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def join_connections(self) -> None:
        """Wait until every connection accepted so far has ended on our side, too."""
        for thread in list(self._threads):
            thread.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.join_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class StallingServer(_Listener):
    """Answers `ok`, unless it is told to stall in a phase.

    Args:
        certificate: Speak TLS with this certificate.
    """

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        self.phase: Phase | None = None  # where to stall; None: nowhere
        self.stalled: queue.SimpleQueue[Phase] = queue.SimpleQueue()  # told each time it has
        self.hang_ups: queue.SimpleQueue[float] = (
            queue.SimpleQueue()
        )  # when each was seen, by time.perf_counter
        self.answer = OK  # what is sent where nothing stalls
        self.requests: list[bytes] = []  # their heads
        self.heard: queue.SimpleQueue[None] = queue.SimpleQueue()  # told of each head
        self.connections = 0
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self._context)
        super().__init__()

    @property
    def scheme(self) -> str:
        return "http" if self._context is None else "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/"

    def serve(self, sock: socket.socket) -> None:
        self.connections += 1
        if self.phase == "tls":
            self._stall("tls", sock)
            return
        # The raw socket stays whole beneath TLS: we watch it for the hang-up, which TLS would hide.
        with sock.dup() as watched:
            self._open.add(watched)
            try:
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_side=True)
                with sock:
                    while self._answer(sock, watched):
                        pass
            finally:
                self._open.discard(watched)

    def _answer(self, sock: socket.socket, watched: socket.socket) -> bool:
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(65_536)
            if not data:
                return False
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        self.requests.append(head)
        self.heard.put(None)
        phase = self.phase
        if phase == "upload":
            self._stall(phase, watched)
            return False
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        missing = (int(length[0].split(b":")[1]) if length else 0) - len(body)
        while missing > 0:
            missing -= len(sock.recv(min(missing, 65_536)))
        if phase is None:
            answer = self.answer
            if b"connection: close" in head.lower():
                answer = answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            sock.sendall(answer)
            return b"\r\nConnection: close\r\n" not in answer
        if phase == "fast":
            self._send_fast(sock)
            return False
        sock.sendall(BEGINNINGS.get(phase, b""))
        self._stall(phase, watched)
        return False

    def _send_fast(self, sock: socket.socket) -> None:
        try:
            sock.sendall(BEGINNINGS["fast"] + FAST_CHUNK * 1000)
            self.stalled.put("fast")
            while True:
                sock.sendall(FAST_CHUNK * 1000)
        finally:
            self.hang_ups.put(time.perf_counter())

    def _stall(self, phase: Phase, watched: socket.socket) -> None:
        self.stalled.put(phase)
        wait_for_hang_up(watched)
        self.hang_ups.put(time.perf_counter())


class Proxy(_Listener):
    """An HTTP proxy: absolute URLs and CONNECT, no keep-alive of its own.

    Args:
        stalls: Never answer a CONNECT.
    """

    def __init__(self, *, stalls: bool = False) -> None:
        self.stalls = stalls
        self.targets: list[bytes] = []  # what it was asked for
        self.stalled: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.hang_ups: queue.SimpleQueue[float] = queue.SimpleQueue()
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = sock.recv(65_536)
            if not data:
                return
            received += data
        method, target, rest = received.split(b" ", 2)
        self.targets.append(target)
        if method == b"CONNECT":
            if self.stalls:
                self.stalled.put(None)
                wait_for_hang_up(sock)
                self.hang_ups.put(time.perf_counter())
                return
            place = target
        else:
            _, _, place, path = target.split(b"/", 3)
            # As an origin is asked (RFC 9112, 3.2.1), and once only: the next request may be for another one.
            version, _, fields = rest.partition(b"\r\n")
            fields = re.sub(rb"(?im)^(?:proxy-)?connection:.*\r\n", b"", fields)
            received = b"%b /%b %b\r\nConnection: close\r\n%b" % (method, path, version, fields)
        host, _, port = place.decode().partition(":")
        with socket.create_connection((host, int(port))) as origin:
            origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(origin)
            try:
                if method == b"CONNECT":
                    sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    received = b""
                _relay(sock, origin, received)
            finally:
                # Reset, or a server that doesn't read would never learn that the client has gone.
                origin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._open.discard(origin)


def _relay(client: socket.socket, origin: socket.socket, to_origin: bytes) -> None:
    """Pass bytes both ways until either side ends; a client that hangs up takes the origin's connection with it."""
    to_client = b""
    client.setblocking(False)
    origin.setblocking(False)
    poller = select.poll()
    while True:
        poller.register(
            client, (select.POLLOUT if to_client else 0) | (0 if to_origin else select.POLLIN) | _HANG_UP
        )
        poller.register(origin, (select.POLLOUT if to_origin else 0) | (0 if to_client else select.POLLIN))
        for descriptor, events in poller.poll():
            if descriptor == client.fileno() and events & _HANG_UP & ~select.POLLIN:
                return
            try:
                side = client if descriptor == client.fileno() else origin
                if events & select.POLLOUT:
                    if side is client:
                        to_client = to_client[client.send(to_client) :]
                    else:
                        to_origin = to_origin[origin.send(to_origin) :]
                if events & (select.POLLIN | select.POLLHUP):
                    data = side.recv(65_536)
                    if not data:
                        return
                    if side is client:
                        to_origin += data
                    else:
                        to_client += data
            except BlockingIOError:
                pass


class FullListener:
    """A listening socket whose queue is full: connecting to it neither succeeds nor fails (Linux)."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._filler = socket.create_connection(("127.0.0.1", self.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._filler.close()
        self._listener.close()


def wait_for_hang_up(sock: socket.socket) -> None:
    """Block until the peer has closed or reset the connection, reading nothing."""
    poller = select.poll()
    poller.register(sock, _HANG_UP)
    poller.poll()


def open_descriptors() -> dict[int, str]:
    """The descriptors of this process, with what each is open on."""
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    found = {}
    for name in os.listdir(folder):
        try:
            identity = os.fstat(int(name))
        except OSError:
            continue  # the one that listed the folder
        found[int(name)] = f"{stat.filemode(identity.st_mode)} {identity.st_dev}:{identity.st_ino}"
    return found


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Fail if the block leaves a descriptor open. The garbage collector is not asked for help: it may come late."""
    before = open_descriptors()
    yield
    assert before == open_descriptors()
