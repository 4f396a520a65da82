"""Processes that have the same store open tell each other when something was written, and pass stops on.

Each listens on a datagram socket in a folder beside the store. There are two messages:

- *look*: something was written, or a chat was given back. Whoever gets it reads the store; so one that is lost because
  the receiver's queue is full is not missed, for the receiver has another one to take, and reads after taking it.
- a stop, as JSON, for whoever runs that run.

A process that died leaves its socket's name behind, which the first one that can't reach it removes.
"""

import errno
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from attrs import frozen

_LOOK: Final = b"look"
_STOP_SECONDS: Final = 1.0
"""How long a stop waits for room in a busy receiver's queue; by hand. The page sends it again."""
_MAX_BYTES: Final = 4096
_TICK_SECONDS: Final = 2.0
"""Far more than the ticks of any file system in use."""


class Stop(msgspec.Struct, frozen=True):
    """Somebody wants this run of this chat stopped."""

    chat_id: str
    run_id: str


@frozen
class _Listing:
    """The others, as they were listed `at`; the folder was `changed` last before that."""

    at: float
    changed: float
    names: tuple[str, ...]


class Peers:
    """This process among those that have the store open. Without Unix sockets it is alone.

    Args:
        folder: where the sockets are; made readable by its owner alone.
        look: called when another process has written something.
        stop: called when another process passes a stop on.
    """

    def __init__(self, folder: Path, *, look: Callable[[], object], stop: Callable[[Stop], object]) -> None:
        self._folder = folder
        self._look = look
        self._stop = stop
        self._name = secrets.token_hex(4)
        self._closed = False
        self._listing: _Listing | None = None
        self._thread: threading.Thread | None = None
        if sys.platform == "win32":  # pragma: no cover - Python has no Unix sockets there
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.bind(str(folder / self._name))
        except (
            OSError
        ):  # the path is too long for a socket's name: then nobody tells, and followers look now and then
            sock.close()
            return
        self._socket = sock
        self._thread = threading.Thread(target=self._listen, name="aiwrapper peers")
        self._thread.start()

    def look(self) -> None:
        """Tell the others that something was written. Never blocks, never raises."""
        self._send(_LOOK, timeout_seconds=0)

    def stop(self, stop: Stop) -> None:
        """Pass a stop on."""
        self._send(msgspec.json.encode(stop), timeout_seconds=_STOP_SECONDS)

    def close(self) -> None:
        """Listen no more. Calling it again does nothing."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        self._send_to(
            self._name, _LOOK, timeout_seconds=0
        )  # if the queue is full, the thread is awake anyway
        self._thread.join()
        (self._folder / self._name).unlink(missing_ok=True)
        self._socket.close()

    def _send(self, message: bytes, *, timeout_seconds: float) -> None:
        if self._thread is None:
            return
        for name in self._others():
            self._send_to(name, message, timeout_seconds=timeout_seconds)

    def _others(self) -> tuple[str, ...]:
        """Who is in the folder besides us.

        It is asked at every write, so the folder is listed only if it has changed since. A listing is believed only if
        the last change was well before it: file systems tell times in ticks, and a change in the same tick looks like
        none.
        """
        changed = os.stat(self._folder).st_mtime
        known = self._listing
        if known is not None and known.changed == changed and known.at - changed > _TICK_SECONDS:
            return known.names
        now = time.time()
        names = tuple(name for name in os.listdir(self._folder) if name != self._name)
        self._listing = _Listing(now, changed, names)
        return names

    def _send_to(self, name: str, message: bytes, *, timeout_seconds: float) -> None:
        path = self._folder / name
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout_seconds)
            try:
                sock.sendto(message, str(path))
            except (BlockingIOError, TimeoutError, FileNotFoundError):
                pass  # busy, which is awake; or just gone
            except ConnectionRefusedError:  # nobody listens there any more
                path.unlink(missing_ok=True)
            except OSError as error:  # macOS says so where Linux says that it would block
                if error.errno != errno.ENOBUFS:
                    raise

    def _listen(self) -> None:
        while True:
            message = self._socket.recv(_MAX_BYTES)
            if self._closed:
                return
            if message == _LOOK:
                self._look()
                continue
            try:
                stop = msgspec.json.decode(message, type=Stop)
            except msgspec.DecodeError:
                continue  # of a later version
            self._stop(stop)
