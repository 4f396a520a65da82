"""The other end of a real connection, which stalls, cuts the line, or has the reader cancelled, at a byte.

    @contextmanager
    def make():
        with cut_socketpair(b"one two three") as sock:
            yield Reader(sock)

    explore(make, run, check).assert_ok()

It sends one byte after the other. Explored, each offset is a point of its own, of the kind *byte*: so many bytes have
been sent, the line is silent from here on, and the sender's thread cancels. Nobody but the reader can end that:
it has to hang up, or it hangs. Without an exploration it sends everything, or stops where it is told to.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from cancel_token.testing._points import Lane, Recording, outside_lanes

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_RECEIVE_BYTES = 65536


@contextmanager
def cut_socketpair(
    data: bytes, *, stall_at: int | None = None, cut_at: int | None = None
) -> Iterator[socket.socket]:
    """Connect two sockets, whose other end sends `data` and hangs up.

    Args:
        data: What is sent.
        stall_at: Send so many bytes only, and be silent until the reader hangs up.
        cut_at: Send so many bytes only, and hang up.

    Yields:
        The reader's end; closed at the end of the block.
    """
    reader, sender = socket.socketpair()
    peer = _Peer(sender, data, stall_at, cut_at)
    peer.start()
    try:
        yield reader
    finally:
        reader.close()
        peer.end()


@contextmanager
def cut_server(
    response: bytes, *, stall_at: int | None = None, cut_at: int | None = None
) -> Iterator[tuple[str, int]]:
    """Listen on loopback, and answer the first request of each connection with `response`, then hang up.

    Args:
        response: With its status line and its headers; HTTP/1.1.
        stall_at: As for `cut_socketpair()`.
        cut_at: As for `cut_socketpair()`.

    Yields:
        Host and port.
    """
    peers: list[_Peer] = []
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()

        def accept() -> None:
            while True:
                sock, _ = listener.accept()
                if closing.is_set():
                    sock.close()
                    return
                peer = _Peer(sock, response, stall_at, cut_at, _read_request)
                peers.append(peer)
                peer.start()

        thread = threading.Thread(target=accept, name="byte server")
        with outside_lanes():
            thread.start()
        try:
            yield address
        finally:
            closing.set()
            socket.create_connection(address).close()  # wakes it; closing the listener would not
            thread.join()
            for peer in peers:
                peer.end()


class _Peer:
    """One connection's other end, and its thread."""

    def __init__(
        self,
        sock: socket.socket,
        data: bytes,
        stall_at: int | None,
        cut_at: int | None,
        begin: Callable[[socket.socket], bool] = lambda sock: True,
    ) -> None:
        self._sock = sock
        self._data = data
        self._stall_at = stall_at
        self._cut_at = cut_at
        self._begin = begin
        self._recording = Recording.current
        self._thread = threading.Thread(target=self._run, name="byte peer")

    def start(self) -> None:
        with outside_lanes():
            self._thread.start()

    def end(self) -> None:
        """Stop whatever it is doing, and wait for that."""
        if self._recording is not None:
            self._recording.let_peers_go()  # the work may never have begun
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has hung up itself
            pass
        self._thread.join()

    def _run(self) -> None:
        with self._sock:
            try:
                self._serve()
            except OSError:  # the reader has gone
                pass

    def _serve(self) -> None:
        if not self._begin(self._sock):
            return
        recording = self._recording
        lane = None
        if recording is not None:
            recording.wait_until_begun()  # what is sent before the work begins would be no point of it
            if recording.open:
                lane = recording.new_root()
                lane.reach("byte", None, 0)
        for offset in range(len(self._data) + 1):
            if lane is not None and lane.recording.fired and lane.recording.fired[-1].lane == lane.name:
                self._wait_for_the_reader(lane.recording)
                return
            if offset == self._cut_at:
                return
            if offset == self._stall_at:
                self._receive_to_the_end()
                return
            if offset < len(self._data):
                self._send(offset, lane)

    def _send(self, offset: int, lane: Lane | None) -> None:
        """Send the byte behind an offset, and pass the point behind the byte."""
        is_last = offset + 1 == len(self._data)
        if lane is not None and is_last:
            # A reader who knows the length has all that he wants with this byte, and the work may end before we are
            # at its point. So its end waits for the lock; and we don't hold that while a reader does not read.
            with selectors.DefaultSelector() as selector:
                selector.register(self._sock, selectors.EVENT_WRITE)
                selector.select()
        with lane.recording.last_byte if lane is not None and is_last else nullcontext():
            self._sock.sendall(self._data[offset : offset + 1])
            if lane is not None:
                lane.reach("byte", None, offset + 1)

    def _wait_for_the_reader(self, recording: Recording) -> None:
        self._sock.settimeout(recording.patience_seconds)
        try:
            self._receive_to_the_end()
        except TimeoutError:
            recording.deaf = recording.open  # else the work has ended, and has only not hung up yet

    def _receive_to_the_end(self) -> None:
        while self._sock.recv(_RECEIVE_BYTES):
            pass


def _read_request(sock: socket.socket) -> bool:
    """Read a request with its body; False if there is none."""
    received = b""
    missing = 1
    while missing > 0:
        more = sock.recv(_RECEIVE_BYTES)
        if not more:
            return False
        received += more
        head, blank, body = received.partition(b"\r\n\r\n")
        if blank:
            length = _LENGTH.search(head + b"\r\n")
            missing = (int(length[1]) if length else 0) - len(body)
    return True
