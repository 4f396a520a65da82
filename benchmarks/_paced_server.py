"""A server that streams to thousands at once, at a pace: a process of its own for `bench_many`.

    python -m benchmarks._paced_server EVENTS_PER_SECOND

It prints its port, answers every POST with the beginning of an endless chat completion, and prints a line of JSON
whenever the last of its streams has hung up. A line of its standard input lets all answers go on until then; the end of
it ends the server.

One thread and one selector; an event is the same bytes for everybody, in one `send`, so it takes some microseconds of
CPU an event where its clients take tens. All streams together get so many events a second, each in its turn.
"""

import json
import os
import selectors
import socket
import sys
import time
from collections import deque

from aiwrapper.testing import Say, Turn, render_events
from benchmarks._files import raise_file_limit

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
OPENING, PIECE = (
    b"%x\r\n%b\r\n" % (len(event), event)
    for event in list(render_events(Turn((Say((" token",)),)), "openai_chat"))[:2]
)
RECV_BYTES = 65_536


class PacedServer:
    """Serves until standard input ends."""

    def __init__(self, events_per_second: float) -> None:
        self._events_per_second = events_per_second
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._asking: dict[socket.socket, bytearray] = {}
        self._streams: deque[socket.socket] = deque()  # whose turn is next stands first
        self._open: set[socket.socket] = set()
        self._hang_ups = self._passed_over = self._sent = 0
        self._going = False
        self._paced_since = self._cpu_before = 0.0

    def serve(self) -> None:
        print(self._listener.getsockname()[1], flush=True)
        while True:
            for key, _ in self._selector.select(self._wait_seconds()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is sys.stdin:
                    if not os.read(key.fd, RECV_BYTES):
                        return
                    self._go()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(key.fileobj)
            self._send_due()

    def _wait_seconds(self) -> float | None:
        if not self._going:
            return None
        return max(0.0, self._paced_since + (self._sent + 1) / self._events_per_second - time.perf_counter())

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._asking[sock] = bytearray()
                self._selector.register(sock, selectors.EVENT_READ)
        except BlockingIOError:
            pass

    def _read(self, sock: socket.socket) -> None:
        try:
            received = sock.recv(RECV_BYTES)
        except ConnectionError:
            received = b""
        if not received:
            self._hung_up(sock, time.perf_counter())
        elif sock in self._asking:
            self._asking[sock] += received
            if _is_whole(self._asking[sock]):
                del self._asking[sock]
                self._open.add(sock)
                self._streams.append(sock)
                sock.send(HEAD + OPENING + PIECE)

    def _go(self) -> None:
        self._going = True
        self._paced_since, self._sent = time.perf_counter(), 0
        self._cpu_before = time.process_time()

    def _hung_up(self, sock: socket.socket, at: float) -> None:
        self._selector.unregister(sock)
        sock.close()
        self._asking.pop(sock, None)
        if sock in self._open:
            self._open.remove(sock)
            self._hang_ups += 1
            if not self._open:
                self._streams.clear()
                self._going = False
                print(
                    json.dumps(
                        {
                            "hang_ups": self._hang_ups,
                            "at": at,
                            "passed_over": self._passed_over,
                            "load": (time.process_time() - self._cpu_before)
                            / max(at - self._paced_since, 1e-9),
                        }
                    ),
                    flush=True,
                )

    def _send_due(self) -> None:
        if not self._going:
            return
        due = int((time.perf_counter() - self._paced_since) * self._events_per_second) - self._sent
        for _ in range(min(due, len(self._streams))):
            self._sent += 1
            sock = self._streams.popleft()
            if sock not in self._open:
                continue
            self._streams.append(sock)
            try:
                sock.send(PIECE)
            except BlockingIOError:
                self._passed_over += 1  # its reader is behind by a whole socket buffer
            except ConnectionError:
                pass  # the selector says so, too


def _is_whole(request: bytearray) -> bool:
    head, blank, body = bytes(request).partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return False


if __name__ == "__main__":
    raise_file_limit()
    PacedServer(float(sys.argv[1])).serve()
    sys.stdout.flush()
    os._exit(0)  # the kernel closes thousands of sockets faster than a collector
