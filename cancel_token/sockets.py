"""Blocking sockets that obey a token: resolve, connect, and hook any socket to a token.

Closing a socket wakes nobody who is blocked on it; shutting it down frees `recv`, `send`, `connect`, `accept` and the
TLS handshake at once. So whoever cancels shuts down, and whoever owns the socket closes it. What follows from that:

1. The hook shuts down a duplicate of the descriptor, taken when the hook is made (T-N1). The owner may close its own
   socket whenever it likes without the number being reused under us, and `ssl.wrap_socket`, which detaches the socket
   it is given, takes nothing away. The price: the connection ends only when the duplicate is closed, too.
2. A duplicate is a plain socket, also beneath TLS: `SSLSocket.shutdown()` would drop the TLS state first, and the next
   `recv` would hand out ciphertext as data (T-N2).
3. `shutdown()` of a socket that is not yet connecting fails, and a later `connect()` goes on. So the connection is
   begun first, then hooked, then the token is looked at again, then waited for (T-N3).
4. A name lookup can't be interrupted at all: `_resolver.py` leaves it behind (T-N4).
5. After a shutdown a read returns `b""`, which looks like a peer that has finished (T-N5). Whoever reads through a hook
   has to ask the token after every read.

No lock is taken here, and none can be: a token may be cancelled by a signal handler that interrupts this very code.
Who may use the duplicate, and who comes first when a stop and the end of a request meet, is settled by popping from a
list of one item: exactly one of them gets it.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import weakref
from collections.abc import Iterable, Iterator

from cancel_token._errors import Cancelled
from cancel_token._forks import forks
from cancel_token._registration import Registration
from cancel_token._resolver import AddressInfo as AddressInfo
from cancel_token._resolver import resolve as resolve
from cancel_token._token import CancelToken

if sys.platform != "win32":
    import fcntl

SocketOption = tuple[int, int, int | bytes]

_LINGER_ZERO = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)
_SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes in the send queue that have never been sent
_SO_NWRITE = 0x1024  # sys/socket.h of macOS: bytes in the send buffer
_CONNECT_BEGUN = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


class SocketHook:
    """Shuts one connection down when the token it is bound to is cancelled.

    A hook lives as long as its connection and is bound to at most one token at a time: a connection belongs to a token
    while something is asked of it, and to none while it rests in a pool (T-N7). All methods may be called from any
    thread, from a signal handler and from a finalizer. In a forked child a hook does nothing: a `shutdown` there would
    end the parent's connection (T-S18). So a stop frees nobody there, and a pool asks `inherited` before it gives a
    connection to a request.

    The token holds the hook weakly, so a connection that is dropped is not kept by a token that lives on.

    Args:
        sock: A socket that has a descriptor; it need not be connected. It stays the caller's. A duplicate of its
            descriptor is taken now and held until `close()`.
    """

    __slots__ = ("__weakref__", "_claim", "_forks", "_registration", "_twin", "stopped")

    stopped: bool  # goes from False to True once, before the shutdown; what is read after that is no answer

    def __init__(self, sock: socket.socket) -> None:
        self.stopped = False
        self._forks = len(forks)
        self._registration: Registration | None = None
        self._claim: list[None] = []  # one item while a token is bound; the stop and `release()` both want it
        self._twin: list[socket.socket] = []  # one item; whoever pops it owns it, and closes it
        self._twin.append(_duplicate(sock))

    @property
    def inherited(self) -> bool:
        """Whether the connection is another process's, of which this one is a forked child."""
        return len(forks) != self._forks

    def bind(self, token: CancelToken) -> None:
        """Let `token` shut the connection down from now on.

        Binding to a cancelled token shuts down at once, here. A hook that is bound to another token leaves it first.

        Args:
            token: The token to obey until `release()`.
        """
        self.release()
        claim: list[None] = [None]
        self._claim = claim
        self._registration = token.on_cancel(_stop, weakref.ref(self), claim)

    def release(self) -> bool:
        """Leave the token, without waiting for a shutdown that is under way: that has its duplicate to itself.

        Returns:
            Whether the connection may be used again: False if a stop has come first, however long ago.
        """
        registration = self._registration
        if registration is not None:
            try:
                self._claim.pop()
            except IndexError:
                self.stopped = True  # a stop has it, and may not have said so yet
            registration.unregister()
            self._registration = None
        return not self.stopped

    def shut_down(self) -> None:
        """End the connection in both directions, as a stop does. Never raises, whatever state it is in (T-N9)."""
        self.stopped = True
        if self.inherited:
            return
        try:
            twin = self._twin.pop()
        except IndexError:
            return  # done, or being done by another thread at this moment; or closed before
        # Not put back: nobody wants it once more, and each system call is a chance to lose the interpreter to one of
        # thousands who have been woken. A reset that is due goes out with the last descriptor, whoever has that.
        with contextlib.closing(twin):
            _shut_down(twin)

    def close(self) -> None:
        """Leave the token and give the duplicate back. Call it before closing the socket itself (T-N6)."""
        if not self.release():
            self.shut_down()  # the stop may be about to, and too late for what is unsent (T-N6)
        self._close_twin()

    def _close_twin(self) -> None:
        try:
            self._twin.pop().close()
        except IndexError:
            pass  # closed before, or `shut_down` has it and will close it

    def __enter__(self) -> "SocketHook":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Not `close()`: a finalizer must not wait. Nobody can be in `_stop` for us now: it would hold a reference.
        registration = getattr(self, "_registration", None)
        if registration is not None:
            registration.unregister()
        if hasattr(self, "_twin"):
            self._close_twin()


@contextlib.contextmanager
def shutdown_on_cancel(sock: socket.socket, token: CancelToken) -> Iterator[SocketHook]:
    """Let `token` free whatever blocks on `sock` inside the `with` block.

        with shutdown_on_cancel(sock, token):
            reply = sock.recv(4096)

    Any socket will do: connected or listening, plain or TLS. After a stop it can only be closed, which stays the
    caller's business. If data was left unsent, closing it resets the connection, or the peer would never learn (T-N6).

    Args:
        sock: The socket to shut down.
        token: The token to obey.

    Yields:
        The hook. Its `stopped` says whether the shutdown has been made: what is read after that is no answer (T-N5).

    Raises:
        Cancelled: At the end of the block, if the socket was shut down meanwhile, in place of whatever error or result
            the block ended with: after the shutdown they can't be told from the peer's. A token that is cancelled after
            the block's last line changes nothing.
    """
    hook = SocketHook(sock)
    try:
        hook.bind(token)
        try:
            yield hook
        except Exception as error:
            if not hook.release():
                raise_stop(token, error)
            raise
        if not hook.release():
            token.check()
    finally:
        hook.close()


def create_connection(
    address: tuple[str, int],
    token: CancelToken,
    *,
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
    socket_options: Iterable[SocketOption] = (),
    family: int = socket.AF_UNSPEC,
) -> socket.socket:
    """Connect to `address` as `socket.create_connection` does, until the token is cancelled.

    The token frees the name lookup and the connecting; it does not follow the socket into its later life: see
    `shutdown_on_cancel`.

    Args:
        address: Host name or address, and port.
        token: The token to obey.
        timeout: Seconds that the name lookup may take, and again each address that is tried. It stays the socket's own
            timeout. None waits forever.
        source_address: Where to connect from.
        socket_options: Arguments of `setsockopt`, applied before connecting.
        family: Restricts the addresses, for example to `socket.AF_INET`.

    Returns:
        The connected socket.

    Raises:
        Cancelled: The token was or has been cancelled.
        TimeoutError: The lookup, or the last address tried, took too long.
        OSError: The name has no address (`socket.gaierror`), or the last of its addresses could not be reached.
    """
    sock, hook = connect_hooked(
        address,
        token,
        timeout=timeout,
        source_address=source_address,
        socket_options=socket_options,
        family=family,
    )
    hook.close()
    return sock


def connect_hooked(
    address: tuple[str, int],
    token: CancelToken,
    *,
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
    socket_options: Iterable[SocketOption] = (),
    family: int = socket.AF_UNSPEC,
) -> tuple[socket.socket, SocketHook]:
    """Connect as `create_connection` does and hand out the socket's hook, still bound to the token.

    For those who wrap the socket (in TLS, in a connection class) and want no moment without a hook. The caller closes
    the hook, then the socket.

    Args:
        address: As for `create_connection`, like all arguments.
        token: The token to obey.
        timeout: Seconds, or None.
        source_address: Where to connect from.
        socket_options: Arguments of `setsockopt`.
        family: Restricts the addresses.

    Returns:
        The connected socket and its hook.

    Raises:
        Cancelled: The token was or has been cancelled.
        TimeoutError: The lookup, or the last address tried, took too long.
        OSError: As for `create_connection`.
    """
    host, port = address
    options = tuple(socket_options)
    last_error: OSError | None = None
    try:
        for found in resolve(host, port, token, family=family, timeout=timeout):
            try:
                return _connect_to(found, token, timeout, source_address, options)
            except OSError as error:
                last_error = error
        raise last_error or OSError(f"{host!r} has no address")
    finally:
        last_error = None  # its traceback holds this frame


def _connect_to(
    address: AddressInfo,
    token: CancelToken,
    timeout: float | None,
    source_address: tuple[str, int] | None,
    socket_options: tuple[SocketOption, ...],
) -> tuple[socket.socket, SocketHook]:
    family, kind, protocol, _, target = address
    sock = socket.socket(family, kind, protocol)
    hook: SocketHook | None = None
    try:
        for level, name, value in socket_options:
            sock.setsockopt(level, name, value)
        if source_address is not None:
            sock.bind(source_address)
        hook = SocketHook(sock)
        sock.setblocking(False)
        status = sock.connect_ex(target)
        hook.bind(token)  # only now is there something that a shutdown can end
        token.check()
        if status in _CONNECT_BEGUN:
            arrived = _wait_connected(sock, timeout)
            token.check()
            if not arrived:
                raise TimeoutError(errno.ETIMEDOUT, f"no connection to {target[0]} within {timeout} seconds")
            status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            raise OSError(status, os.strerror(status))
        sock.settimeout(timeout)
    except BaseException:
        if hook is not None:
            hook.close()
        sock.close()
        raise
    return sock, hook


def _wait_connected(sock: socket.socket, timeout: float | None) -> bool:
    if sys.platform == "win32":  # a failed connect shows in the third set only
        return any(select.select((), (sock,), (sock,), timeout))
    poller = select.poll()  # `select` fails from descriptor 1,024 on
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


def raise_stop(token: CancelToken, error: Exception) -> None:
    """Raise `Cancelled` from `error` if the token is cancelled, else return: the error is the peer's own (T-N5).

    Args:
        token: The token that the failed operation obeyed.
        error: What it failed with.

    Raises:
        Cancelled: The token is cancelled.
    """
    try:
        token.check()
    except Cancelled as stop:
        raise stop from error


def _stop(hook_ref: "weakref.ref[SocketHook]", claim: list[None]) -> None:
    """The callback of a bound hook."""
    hook = hook_ref()
    if hook is None:
        return
    try:
        claim.pop()
    except IndexError:
        return  # released first: the connection belongs to somebody else by now
    hook.shut_down()


def _duplicate(sock: socket.socket) -> socket.socket:
    # `sock.dup()` is refused by TLS sockets. Family, kind and timeout are passed on, or the new object would ask for
    # them, or set the default timeout's O_NONBLOCK, which the two descriptors share.
    descriptor = socket.dup(sock.fileno())
    try:
        twin = socket.socket(sock.family, sock.type, sock.proto, fileno=descriptor)
    except BaseException:
        socket.close(descriptor)
        raise
    twin.settimeout(sock.gettimeout())
    return twin


def _shut_down(twin: socket.socket) -> None:
    try:
        twin.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # ENOTCONN: the peer has reset it, or it was never connected; there is nothing to free
    # Asked after the shutdown, when nothing can be added to the queue any more. A FIN that waits behind unsent data
    # tells the peer nothing. With this option a reset goes out instead, when the last descriptor is closed (T-N6).
    # Without need it isn't set: a FIN that is lost is sent again, a reset is not.
    try:
        if _has_unsent(twin):
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    except OSError:
        pass  # the peer has reset it meanwhile (macOS says EINVAL)


def _has_unsent(sock: socket.socket) -> bool:
    try:
        if sys.platform == "linux":
            answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, bytes(4))
            unsent: int = struct.unpack("i", answer)[0]
        elif sys.platform == "darwin":
            unsent = sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        else:
            unsent = 1
    except OSError:
        return True  # a kernel or a kind of socket that can't say
    return unsent > 0
