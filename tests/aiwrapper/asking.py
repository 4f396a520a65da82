"""Asking a fake provider with bare sockets and with `requests`."""

import json
import socket
import struct
from typing import Any

import requests

from aiwrapper.testing import (
    DialectName,
    FakeProvider,
    Phase,
)

DIALECTS: tuple[DialectName, ...] = ("openai_chat", "anthropic")
PHASES: tuple[Phase, ...] = ("accept", "upload", "headers", "first_byte", "mid_body", "end")
PATIENCE_SECONDS = 30  # of waits that end at once unless something is broken


def good_body(fake: FakeProvider) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": fake.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }
    if fake.dialect == "anthropic":
        return body | {"max_tokens": 100}
    return body | {"stream_options": {"include_usage": True}}


def key_headers(fake: FakeProvider) -> dict[str, str]:
    if fake.dialect == "anthropic":
        return {"x-api-key": fake.api_key, "anthropic-version": "2023-06-01"}
    return {"authorization": f"Bearer {fake.api_key}"}


def url(fake: FakeProvider) -> str:
    return fake.base_url + ("/v1/messages" if fake.dialect == "anthropic" else "/chat/completions")


def request_bytes(fake: FakeProvider, body: dict[str, Any] | None = None) -> bytes:
    content = json.dumps(good_body(fake) if body is None else body).encode()
    path = "/v1/messages" if fake.dialect == "anthropic" else "/v1/chat/completions"
    headers = {"host": "fake", "content-length": str(len(content))} | key_headers(fake)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def post(fake: FakeProvider, body: object = None, **headers: str) -> requests.Response:
    sent = good_body(fake) if body is None else body
    return requests.post(url(fake), json=sent, headers=key_headers(fake) | headers, timeout=PATIENCE_SECONDS)


def receive_to_the_end(sock: socket.socket) -> bytes:
    received = b""
    while more := sock.recv(65536):
        received += more
    return received


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
