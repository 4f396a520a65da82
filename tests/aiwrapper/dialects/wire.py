"""Events as providers send them, for tests that need what no well-behaved provider says."""

import json
from typing import Any

from aiwrapper._core.dialect import Dialect
from aiwrapper._core.log import TurnEntry
from aiwrapper._core.reply import Reply


def event(value: object, *, kind: str | None = None) -> bytes:
    named = b"" if kind is None else f"event: {kind}\n".encode()
    return named + b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(
    delta: dict[str, Any] | None = None, finish_reason: str | None = None, *, index: int = 0, **fields: object
) -> bytes:
    """A chunk of Chat Completions."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish_reason}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **fields})


def call_chunk(
    index: int | None = 0, *, call_id: str | None = None, name: str | None = None, arguments: object = None
) -> bytes:
    """A chunk with a piece of a call; what is None is missing."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return chunk({"tool_calls": [{**call, "type": "function", "function": function}]})


DONE = b"data: [DONE]\n\n"


def block_start(index: int, **block: object) -> bytes:
    """Anthropic's `content_block_start`."""
    return _anthropic("content_block_start", index=index, content_block=block)


def block_delta(index: int, **delta: object) -> bytes:
    """Anthropic's `content_block_delta`."""
    return _anthropic("content_block_delta", index=index, delta=delta)


def block_stop(index: int) -> bytes:
    """Anthropic's `content_block_stop`."""
    return _anthropic("content_block_stop", index=index)


def message_start(**usage: int) -> bytes:
    """Anthropic's `message_start`."""
    return _anthropic("message_start", message={"type": "message", "role": "assistant", "usage": usage})


def message_delta(stop_reason: str | None, **usage: int) -> bytes:
    """Anthropic's `message_delta`."""
    return _anthropic("message_delta", delta={"stop_reason": stop_reason}, usage=usage)


MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def _anthropic(kind: str, **fields: object) -> bytes:
    return event({"type": kind, **fields}, kind=kind)


def read(dialect: Dialect, *chunks: bytes, ends: bool = True) -> list[TurnEntry]:
    """The entries of a body; `ends` says whether it ended or only what arrived so far is asked for."""
    reply = Reply(dialect.decoder(), "r", 1)
    entries = [entry for chunk in chunks for entry in reply.feed(chunk)]
    return entries + (list(reply.finish()) if ends else [])
