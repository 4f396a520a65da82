"""Clients of httpx and httpx2 for the tests of the hooks, and how they are used there."""

import ssl
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import httpx2

from cancel_token import CancelToken
from cancel_token.httpx import use_token
from tests.cancel_token.stalling import Call

LIBRARIES = [name for name in ("httpx2", "httpx") if find_spec(name) is not None]


def library(name: str) -> Any:  # Any: httpx may not be installed where types are checked
    return import_module(name)


def new_client(name: str = "httpx2", context: ssl.SSLContext | bool = False, **options: Any) -> httpx2.Client:
    """A client that waits forever and reads no environment; typed as if the two libraries were one."""
    settings = {"verify": context, "trust_env": False, "timeout": None, **options}
    client: httpx2.Client = library(name).Client(**settings)
    return client


def connections(client: httpx2.Client) -> list[Any]:
    """What lies in a client's pools."""
    inside: Any = client  # no public way
    transports = [inside._transport, *inside._mounts.values()]
    return [connection for transport in transports for connection in transport._pool.connections]


def under(token: CancelToken, fn: Callable[[], Any]) -> Call[Any]:
    """Call in a thread of its own, under a token."""

    def work() -> Any:
        with use_token(token):
            return fn()

    return Call(work)


def open_stream(client: httpx2.Client, url: str, token: CancelToken) -> httpx2.Response:
    with use_token(token):
        return client.send(client.build_request("GET", url), stream=True)
