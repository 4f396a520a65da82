"""Name lookups that can be left behind.

The operating system's lookup can't be interrupted, not even by a signal handler that raises (T-N4). It runs in a daemon
thread, one for a host and a process, whoever asks; who stops waiting leaves it behind, and who asks again joins it. The
thread keeps neither the process nor an event loop from ending.
"""

import copy
import errno
import queue
import socket
import threading
from typing import cast

from cancel_token._forks import forks
from cancel_token._token import CancelToken

AddressInfo = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]
]


class _Lookup:
    """One name being looked up by one daemon thread, and those who wait for it."""

    __slots__ = ("addresses", "error", "waiting")

    def __init__(self) -> None:
        self.addresses: list[AddressInfo] | None = None  # one of the two is set once, before anybody is woken
        self.error: Exception | None = None
        self.waiting: dict[queue.SimpleQueue[None], None] = {}

    @property
    def done(self) -> bool:
        return self.addresses is not None or self.error is not None

    def wake_all(self) -> None:
        for bell in tuple(self.waiting):
            bell.put(None)


# What is being looked up at this moment: process, host, family. Module state because the promise is one of the process:
# a server that asks for one unreachable name a thousand times must not start a thousand threads nobody can end. The
# process is part of the key since a forked child inherits the entries without the threads.
_lookups: dict[tuple[int, str, int], _Lookup] = {}


def resolve(
    host: str,
    port: int,
    token: CancelToken,
    *,
    family: int = socket.AF_UNSPEC,
    timeout: float | None = None,
) -> list[AddressInfo]:
    """Look up the TCP addresses of `host`, until the token is cancelled.

    The operating system's lookup can't be interrupted: it runs in a daemon thread, which is left behind after a stop
    and keeps neither the process nor an event loop from ending. There is at most one for a host: later callers, also
    after a stop, join the lookup that is under way (T-N4). A numeric address needs none.

    Args:
        host: Host name or numeric address.
        port: The port the answers shall carry.
        token: The token to obey.
        family: Restricts the answers, for example to `socket.AF_INET`.
        timeout: Seconds to wait. None waits as long as the operating system does.

    Returns:
        Answers in the shape and order of `socket.getaddrinfo`, which are never empty.

    Raises:
        Cancelled: The token was or has been cancelled.
        TimeoutError: `timeout` seconds have passed.
        OSError: The name has no address, as `socket.gaierror`.
        UnicodeError: `host` can't be a host name.
    """
    token.check()
    try:
        return _getaddrinfo(host, port, family, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    lookup = _join_lookup(host, family)
    bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # no Condition: a signal handler may ring it
    lookup.waiting[bell] = None
    try:
        with token.on_cancel(bell.put, None):
            if (
                not lookup.done
            ):  # looked at after `waiting` has been published: nobody rings in between unheard
                bell.get(timeout=timeout)
    except queue.Empty:
        token.check()
        raise TimeoutError(errno.ETIMEDOUT, f"no address of {host!r} within {timeout} seconds") from None
    finally:
        lookup.waiting.pop(bell, None)
    token.check()
    if lookup.error is not None:
        raise copy.copy(
            lookup.error
        )  # every waiter raises its own: a traceback is written into the exception
    assert lookup.addresses is not None
    return [(*found[:4], (found[4][0], port, *found[4][2:])) for found in lookup.addresses]


def _join_lookup(host: str, family: int) -> _Lookup:
    key = (len(forks), host, family)
    fresh = _Lookup()
    lookup = _lookups.setdefault(key, fresh)
    if lookup is fresh:
        name = f"cancel_token resolver {host}"
        try:
            threading.Thread(target=_look_up, args=(key, lookup), name=name, daemon=True).start()
        except BaseException as error:  # no thread to be had: let those who have joined meanwhile go, too
            lookup.error = error if isinstance(error, Exception) else InterruptedError(str(error))
            _lookups.pop(key, None)
            lookup.wake_all()
            raise
    return lookup


def _look_up(key: tuple[int, str, int], lookup: _Lookup) -> None:
    try:
        lookup.addresses = _getaddrinfo(key[1], 0, key[2], 0)
    except Exception as error:
        lookup.error = error  # raised by those who wait
    finally:
        _lookups.pop(key, None)
        lookup.wake_all()


def _getaddrinfo(host: str, port: int, family: int, flags: int) -> list[AddressInfo]:
    answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, flags)
    return cast(
        list[AddressInfo], answers
    )  # typeshed's also covers Pythons built without IPv6, which answer bytes
