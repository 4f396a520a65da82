"""Serves the chats over HTTP until the process is told to leave: Hypercorn, on trio."""

import gc
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio
from attrs import field, frozen
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from aiwrapper.chat.app import ChatApp
from cancel_token import CancelReason

LEAVE_SECONDS: Final = 3.0
"""Within which a server has left, as docs/chatapp.md promises: what its tools may take (`tool_grace_seconds` of the
agent), `DRAIN_SECONDS`, and what is left for writing the ends of the runs and for leaving itself."""

DRAIN_SECONDS: Final = 0.5
"""How long open connections get after the runs have ended and the streams have told it; by hand."""


FULL_COLLECTION_THRESHOLD: Final = 1_000
"""How many collections of the middle generation come before a full one; Python's own is 10.

A full one looks at every object there is with the interpreter's lock held, and each piece of an answer that is being
given is one. With 200 chats answered for a minute it took 0.3 to 0.4 s, every ten seconds, in which nothing could be
stopped. Chosen by hand: that is once in some minutes then. What is garbage without a circle does not wait for it, and
young circles are found as before.
"""


@frozen(kw_only=True)
class Place:
    """Where to listen.

    Args:
        host: a name or an address.
        port: 0 for a free one.
        certificate: a PEM file with the certificate chain; with it, HTTPS and HTTP/2 are spoken.
        key: a PEM file with its key.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    certificate: Path | None = field(default=None)
    key: Path | None = field(default=None)


def serve(app: ChatApp, place: Place, *, ready: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM; then stop all runs with the reason `shutdown`, tell the pages, and return.

    Call it in the main thread. Afterwards nothing is answered any more; the data is left open.

    Args:
        app: what is served.
        place: where.
        ready: called once with the server's URL when it listens.

    Raises:
        OSError: the place can't be listened at.
    """
    listener = _listener(place)
    host, port = listener.getsockname()[:2]
    scheme = "http" if place.certificate is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # Hypercorn closes it
    config.certfile = None if place.certificate is None else str(place.certificate)
    config.keyfile = None if place.key is None else str(place.key)
    config.accesslog = None
    config.loglevel = "WARNING"
    config.graceful_timeout = DRAIN_SECONDS
    config.include_server_header = False
    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], FULL_COLLECTION_THRESHOLD)
    try:
        trio.run(_serve, app, config, _Listening(lambda: ready(url)))
    finally:
        gc.set_threshold(*thresholds)


def _listener(place: Place) -> socket.socket:
    """Ours and not Hypercorn's, so that an address in use is an `OSError` and leaves nothing open."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.create_server((place.host, place.port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have it from here
    return listener


async def _serve(app: ChatApp, config: Config, listening: "_Listening") -> None:
    framework: Any = app  # Hypercorn's own types of ASGI are narrower than the standard's
    # Ours, because the default handler of SIGTERM skips every `finally`, and Python's own of SIGINT raises anywhere.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def told_to_leave() -> None:
            async for number in signals:
                name = signal.Signals(number).name
                # In this order: the streams tell how the runs have ended, and then they end.
                await app.wrapped.aclose(CancelReason("shutdown", f"the server got {name}"))
                app.data.leave()
                return

        await hypercorn_serve(framework, config, shutdown_trigger=told_to_leave, task_status=listening)


class _Listening(trio.TaskStatus[list[str]]):
    """Told by Hypercorn when it listens."""

    def __init__(self, ready: Callable[[], object]) -> None:
        self._ready = ready

    def started(self, value: list[str]) -> None:
        """It listens, at the socket that it was given."""
        self._ready()
