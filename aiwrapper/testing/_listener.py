"""Accepting connections, each served in a thread of its own, all of which end in `close`."""

import select
import socket
import ssl
import threading
from collections.abc import Callable

from aiwrapper.testing._wire import Waker, Wire


class Listener:
    """A listening socket and its threads.

    Args:
        host: the address to bind; the port is any free one.
        tls: the server's context; None for plain bytes.
        serve: called with each connection's wire in a thread of its own; closes the wire.
    """

    def __init__(self, host: str, tls: ssl.SSLContext | None, serve: Callable[[Wire], None]) -> None:
        self._host = host
        self._tls = tls
        self._serve = serve
        self._sock: socket.socket | None = None
        self._waker: Waker | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="fake provider")
        self._served: list[tuple[Wire, threading.Thread]] = []  # written by the accepting thread alone

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; also after `close`, so that a test can knock at a closed door."""
        return self._host, self._port

    @property
    def origin(self) -> str:
        """The beginning of every URL."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self._port}"

    def start(self) -> None:
        """Bind, listen, and accept from now on."""
        self._sock = socket.create_server((self._host, 0), backlog=128)
        self._sock.setblocking(False)
        self._port: int = self._sock.getsockname()[1]
        self._waker = Waker()
        self._thread.start()

    def close(self) -> None:
        """End all of it, and wait for all threads."""
        if self._sock is None or self._waker is None:
            return
        self._closing = True
        self._waker.wake()
        self._thread.join()
        for wire, _ in self._served:
            wire.stop()
        for _, thread in self._served:
            thread.join()
        self._sock.close()
        self._waker.close()

    def _accept(self) -> None:
        assert self._sock is not None
        assert self._waker is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._waker.fileno(), select.POLLIN)
        while True:
            poll.poll()
            if self._closing:
                return
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue  # the peer has left between the poll and here
            wire = Wire(sock, self._tls)
            thread = threading.Thread(target=self._serve, args=(wire,), name="fake provider connection")
            self._served.append((wire, thread))
            thread.start()
