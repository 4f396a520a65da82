"""What httpcore and httpcore2 do their input and output with, under the token of the request.

Neither asks what class it is: the two here fit both, and raise the errors of the one that they are made for.
"""

import select
import socket
import ssl
import sys
from collections.abc import Iterable
from typing import Any, Protocol

from cancel_token._lines import Line, bound_token
from cancel_token._token import CancelToken
from cancel_token.sockets import connect_hooked, raise_stop

LINE = "cancel_token.line"  # what a stream is asked for, through whatever the library has put around it


class Core(Protocol):
    """What we use of either library."""

    ConnectError: type[Exception]
    ConnectTimeout: type[Exception]
    ConnectionNotAvailable: type[Exception]
    PoolTimeout: type[Exception]
    ReadError: type[Exception]
    ReadTimeout: type[Exception]
    SOCKSProxy: type
    WriteError: type[Exception]
    WriteTimeout: type[Exception]


class Backend:
    """Makes the connections, and waits where the library waits between two tries."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "Stream":
        token = bound_token()
        try:
            sock, hook = connect_hooked(
                (host, port),
                token,
                timeout=timeout,
                source_address=None if local_address is None else (local_address, 0),
            )
        except TimeoutError as error:
            raise self._core.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise self._core.ConnectError(str(error)) from error
        try:
            for option in socket_options or ():
                sock.setsockopt(*option)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            hook.close()
            sock.close()
            if isinstance(error, OSError):
                raise_stop(token, error)
                raise self._core.ConnectError(str(error)) from error
            raise
        return Stream(self._core, sock, Line(hook, token))

    def sleep(self, seconds: float) -> None:
        bound_token().sleep(seconds)


class Stream:
    """One connection's socket and line."""

    def __init__(self, core: Core, sock: socket.socket, line: Line) -> None:
        self._core = core
        self._sock = sock
        self._line = line
        self._closed = False
        line.hold(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        token = self._line.token
        if token is None:
            token = CancelToken.never()
        if token.cancelled:
            token.check()
        try:
            self._sock.settimeout(timeout)
            data = self._sock.recv(max_bytes)
        except OSError as error:
            raise_stop(token, error)
            kind = self._core.ReadTimeout if isinstance(error, TimeoutError) else self._core.ReadError
            raise kind(str(error)) from error
        # The end we see may be of our own making, and what has come before it is too late.
        if token.cancelled:
            token.check()
        if self._closed:
            raise self._core.ReadError("the connection was closed while it was read")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        token = bound_token()
        self._line.bind(token)  # a kept connection belongs to the request whose head is written here
        view = memoryview(buffer)
        try:
            while view:
                if token.cancelled:
                    token.check()
                self._sock.settimeout(timeout)
                view = view[self._sock.send(view) :]
        except OSError as error:
            raise_stop(token, error)
            kind = self._core.WriteTimeout if isinstance(error, TimeoutError) else self._core.WriteError
            raise kind(str(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        assert not isinstance(self._sock, ssl.SSLSocket), "a proxy behind TLS is refused before"
        token = bound_token()
        try:
            token.check()
            self._sock.settimeout(timeout)
            # The handshake at once: a context that checks certificates by itself may do it in here.
            self._sock = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
            token.check()
        except BaseException as error:
            # The socket of a handshake that failed may be kept alive by its traceback: the peer shall see the end now.
            self._line.hook.shut_down()
            self.close()
            if isinstance(error, OSError):
                raise_stop(token, error)
                kind = (
                    self._core.ConnectTimeout if isinstance(error, TimeoutError) else self._core.ConnectError
                )
                raise kind(str(error)) from error
            raise
        return self

    def close(self) -> None:
        self._closed = True
        if self._line.token is not None:  # in use: another thread may read, whom a close alone would not free
            self._line.hook.shut_down()
        self._line.let_go(self)  # the hook first (T-N6)
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        if info == LINE:
            return self._line
        match info:
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "socket":
                return self._sock
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "is_readable":
                # Asked of connections at rest, where there is nothing but an end to be read. Ours may still be on its
                # way: `release()` does not wait for it. A parent's connection is not for us, and in there its hook
                # does nothing (T-S18); the pool closes it as one that has ended, and closing ends nothing of a parent.
                hook = self._line.hook
                return hook.stopped or hook.inherited or _is_readable(self._sock)
            case _:
                return None


def _is_readable(sock: socket.socket) -> bool:
    if sock.fileno() < 0:
        return True
    if sys.platform == "win32":
        return bool(select.select((sock,), (), (), 0)[0])
    poller = select.poll()  # `select` fails from descriptor 1,024 on
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))
