"""`aiwrapper serve`: the chats in the browser, until Ctrl-C or SIGTERM."""

import argparse
import os
import secrets
import ssl
from collections.abc import Collection
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from aiwrapper._core.errors import AiwrapperError
from aiwrapper.agents import ChatAgent
from aiwrapper.chat.app import ChatApp
from aiwrapper.chat.data import ChatAppData
from aiwrapper.chat.serve import Place
from aiwrapper.chat.serve import serve as serve_app
from aiwrapper.chat.wrap import WrapChatAgent
from aiwrapper.terminal.chats import store_path
from aiwrapper.terminal.choose import choose_or_leave
from aiwrapper.terminal.printing import printable
from aiwrapper.toolbox import toolbox
from cancel_token import CancelToken

TOKEN_VARIABLE = "AIWRAPPER_SERVE_TOKEN"
"""Where a token is looked up that pages have to know; without it, one is drawn where one is needed."""

TOOL_GRACE_SECONDS = 1.5
"""How long tools get to return after a stop: the server promises to leave within `LEAVE_SECONDS`."""


class CannotListen(AiwrapperError):
    """The address can't be listened at."""


def serve(options: argparse.Namespace) -> int:
    """Serve until told to leave.

    Returns:
        0; 130 if it was stopped before it listened.
    """
    _check_certificate(options.certificate, options.key)
    with ExitStack() as resources:
        choice = choose_or_leave(options, resources)
        if isinstance(choice, int):
            return choice
        tools = toolbox(_nobody_to_ask)
        agent = ChatAgent(
            choice.lang,
            [tools[name] for name in options.tool],
            instructions=options.instructions,
            tool_grace_seconds=TOOL_GRACE_SECONDS,
        )
        data = resources.enter_context(ChatAppData(store_path(options.store)))
        wrapped = resources.enter_context(WrapChatAgent(data, agent))
        secret = os.environ.get(TOKEN_VARIABLE) or (
            None if _is_loopback(options.listen) else secrets.token_urlsafe(24)
        )
        app = ChatApp(wrapped, hosts=_hosts(options.listen), token=secret)

        def ready(url: str) -> None:
            query = "" if secret is None else f"?token={secret}"
            print(f"Talking to {printable(choice.description)}. Ctrl-C ends it.", flush=True)
            print(f"Open {_shown(url)}/{query}", flush=True)

        place = Place(
            host=options.listen, port=options.port, certificate=options.certificate, key=options.key
        )
        try:
            serve_app(app, place, ready=ready)
        except OSError as error:
            why = str(error.strerror).partition(" (while")[0]  # Python repeats the address there
            raise CannotListen(
                f"can't listen at {options.listen}, port {options.port}: {why}. "
                "Choose another port with --port, or another address with --listen."
            ) from error
    return 0


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Load it as the server will, so that what is wrong with it is said in a line and before anything begins."""
    if certificate is None:
        if key is not None:
            raise CannotListen("--key is the key of a certificate: name that with --certificate")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        files = str(certificate) if key is None else f"{certificate} and {key}"
        raise CannotListen(
            f"can't speak HTTPS with {files}: {error.strerror or error}. "
            "--certificate and --key want PEM files that belong together."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(host: str) -> Collection[str] | None:
    """By which names a browser may call the server; None for any, where a token is asked for."""
    if _is_loopback(host):
        return ("localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host)
    return (
        None  # the cookie with the token belongs to a name: a name that a stranger made point here has none
    )


def _shown(url: str) -> str:
    """The URL for a person at this machine."""
    parts = urlsplit(url)
    return url.replace("0.0.0.0", "localhost", 1) if parts.hostname == "0.0.0.0" else url


def _nobody_to_ask(what: str, token: CancelToken) -> bool:
    """No tool that asks is offered here."""
    return False
