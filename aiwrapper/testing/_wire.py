"""One accepted connection, byte by byte, and the moment its peer leaves it.

The socket does not block; whatever the connection's thread waits for, it waits in one `poll` that also
watches the peer and a waker. So a hang-up is seen at once while a response is held, paced or stuck in a
full buffer, and `close` never has to wait for a timeout. TLS runs over memory buffers, because only then
is every byte on the line ours to hold or to cut.

A `Wire` belongs to its thread; `wake` and `stop` alone may be called from others.
"""

import select
import socket
import ssl
import struct
import time
from typing import Literal, TypeAlias

HowGone: TypeAlias = Literal["fin", "rst"]
"""How the peer left: an orderly end, or a reset."""

_READ_BYTES = 65536
_LONGEST_POLL_MS = 3_600_000.0  # poll takes 24 days at most; whoever waits for longer asks again
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
# Linux tells of a FIN behind data that nobody has read; elsewhere only a reset is seen then.
_PEER_FINISHED: int = getattr(select, "POLLRDHUP", 0)


class PeerGone(Exception):
    """The peer has ended the connection."""

    def __init__(self, how: HowGone) -> None:
        super().__init__(how)
        self.how: HowGone = how


class ServerStopped(Exception):
    """The server is being closed; the connection's thread unwinds."""


class Waker:
    """Lets another thread wake a `poll`; safe to use after it was closed."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the next or the present poll return."""
        try:
            self._writer.send(b"\0")
        except OSError:
            return  # full: it is awake already; closed: nobody sleeps any more

    def drain(self) -> None:
        """Forget all wakes so far."""
        try:
            while self._reader.recv(_READ_BYTES):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give both descriptors back."""
        self._reader.close()
        self._writer.close()


class Wire:
    """Bytes in, bytes out.

    Args:
        sock: the accepted socket, which the wire now owns.
        tls: the server's context; None for plain bytes.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a write is a segment: dribbling is seen
        self._sock = sock
        self._waker = Waker()
        self._stopped = False
        self._poll = select.poll()
        self._poll.register(sock, 0)
        self._poll.register(self._waker.fileno(), select.POLLIN)
        self._received = bytearray()  # decrypted
        self._raw = bytearray()  # TLS only: not yet given to OpenSSL, so that a handshake can be held
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = None if tls is None else tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._secured = False
        self._said_goodbye = False  # close_notify came behind bytes that have to be taken first

    @property
    def encrypted(self) -> bool:
        """Whether there is a handshake to be done."""
        return self._tls is not None

    def stop(self) -> None:
        """Make the connection's thread raise `ServerStopped` wherever it waits; from any thread."""
        self._stopped = True
        self._waker.wake()

    def wake(self) -> None:
        """Make `wait` return; from any thread."""
        self._waker.wake()

    def wait(self, *, until: float | None = None, reading: bool = True) -> None:
        """Wait for anything: bytes, a wake, or the time `until` (monotonic seconds).

        Args:
            until: None for no limit.
            reading: False leaves the peer's bytes where they are, so that its upload gets stuck.

        Raises:
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        self._wait(writing=False, until=until, reading=reading)

    def receive(self) -> bytes:
        """Whatever the peer has sent and nobody has taken yet; at least one byte.

        Raises:
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
        """
        while not self._received:
            self._wait(writing=False, until=None, reading=True)
        taken = bytes(self._received)
        self._received.clear()
        return taken

    def await_hello(self) -> None:
        """Wait for the first byte of the peer's handshake, and answer nothing."""
        while not self._raw:
            self._wait(writing=False, until=None, reading=True)

    def secure(self) -> None:
        """Do the TLS handshake.

        Raises:
            PeerGone: the peer has left.
            ServerStopped: the server is being closed.
            ssl.SSLError: the peer does not like us, or speaks no TLS.
        """
        assert self._tls is not None
        while True:
            self._incoming.write(bytes(self._raw))
            self._raw.clear()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._write(self._outgoing.read())
                while not self._raw:
                    self._wait(writing=False, until=None, reading=True)
                continue
            break
        self._secured = True
        self._write(self._outgoing.read())
        self._decrypt()

    def send(self, plain: bytes) -> None:
        """Send bytes; returns when the kernel has them.

        Raises:
            PeerGone: the peer has left, perhaps without having read what was sent before.
            ServerStopped: the server is being closed.
        """
        if self._tls is None:
            self._write(plain)
            return
        while plain:
            plain = plain[self._tls.write(plain) :]
            self._write(self._outgoing.read())

    def farewell(self) -> None:
        """End an orderly connection: over TLS with its close_notify."""
        if self._tls is not None and self._secured:
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                self._write(self._outgoing.read())

    def reset(self) -> None:
        """Make the coming `close` an RST instead of a FIN, when what was sent before has left.

        Raises:
            PeerGone: the peer has left before.
            ServerStopped: the server is being closed.
        """
        # An RST throws away what the kernel still has, which is much if the peer's machine is slow to acknowledge.
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
        while not self._wait(writing=True, until=None, reading=True):
            pass
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the socket: a FIN, or an RST after `reset`."""
        self._sock.close()
        self._waker.close()

    def _write(self, raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            if not self._wait(writing=True, until=None, reading=True):
                continue
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                continue
            except ConnectionError as error:
                raise PeerGone("rst") from error

    def _wait(self, *, writing: bool, until: float | None, reading: bool) -> bool:
        """One poll; takes in what has arrived. Says whether there is room to write."""
        if self._said_goodbye:
            raise PeerGone("fin")
        mask = select.POLLIN if reading else _PEER_FINISHED
        self._poll.modify(self._sock, mask | (select.POLLOUT if writing else 0))
        timeout_ms = (
            None if until is None else min(_LONGEST_POLL_MS, max(0.0, (until - time.monotonic()) * 1000))
        )
        events = dict(self._poll.poll(timeout_ms))
        if self._waker.fileno() in events:
            self._waker.drain()
        if self._stopped:
            raise ServerStopped
        seen = events.get(self._sock.fileno(), 0)
        if reading and seen & (select.POLLIN | _GONE):
            self._take_in()
        elif seen & _GONE:
            raise PeerGone("rst")
        elif seen & _PEER_FINISHED:
            raise PeerGone("fin")
        return bool(seen & select.POLLOUT)

    def _take_in(self) -> None:
        try:
            raw = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise PeerGone("rst") from error
        if not raw:
            raise PeerGone("fin")
        if self._tls is None:
            self._received += raw
            return
        self._raw += raw
        if self._secured:
            self._decrypt()
            if self._said_goodbye and not self._received:
                raise PeerGone("fin")

    def _decrypt(self) -> None:
        assert self._tls is not None
        self._incoming.write(bytes(self._raw))
        self._raw.clear()
        while True:
            try:
                plain = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:  # the FIN is on its way
                plain = b""
            if not plain:
                self._said_goodbye = True
                return
            self._received += plain
