"""Anthropic's Messages, as the server says it.

After https://docs.anthropic.com/en/docs/build-with-claude/streaming and the `errors` page beside it.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Set
from typing import Any

from aiwrapper._core.dialect import Violation
from aiwrapper._core.messages import Usage
from aiwrapper.testing._provider import SIGNED_BY_FAKE, Asked, bearer_token, seal, sign, signature_of, to_json
from aiwrapper.testing.scripts import Block, Call, Redacted, Say, Think, Turn

_FINISH = {"length": "max_tokens", "filtered": "refusal"}

# status -> (type, message), in the provider's words
_ERRORS = {
    400: ("invalid_request_error", "Invalid request."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not Found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: (
        "rate_limit_error",
        "This request would exceed your organization's rate limit. Please try again later.",
    ),
    500: ("api_error", "Internal server error"),
    529: ("overloaded_error", "Overloaded"),
}
_STREAM_ERRORS = {"server": 500, "overloaded": 529}


def _input_usage(usage: Usage) -> dict[str, int]:
    # `input_tokens` is what was neither read from the cache nor written to it: here the sum is ours.
    cached = usage.cached_input_tokens or 0
    return {
        "input_tokens": max(0, (usage.input_tokens or 0) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
    }


def _finish_reason(turn: Turn) -> str:
    natural = "tool_use" if any(isinstance(block, Call) for block in turn.blocks) else "end_turn"
    return _FINISH.get(turn.finish, natural)


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments  # what a host does that has not looked either: the text where an object was promised


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + to_json({"type": kind} | fields) + b"\n\n"


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content blocks of a request that `violations` has not judged yet, each with its path."""
    messages = body.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                yield f"messages.{i}.content.{j}", block


class AnthropicProvider:
    """The server's side of `anthropic`."""

    base_path = ""
    path = "/v1/messages"

    def key(self, headers: Mapping[str, str], /) -> str | None:
        """`x-api-key`, or a bearer token, which the official client sends since its version 2."""
        return headers.get("x-api-key") or bearer_token(headers)

    def missing_header(self, headers: Mapping[str, str], /) -> str | None:
        """The version of the interface is needed."""
        return None if headers.get("anthropic-version") else "anthropic-version: header is required"

    def forged_reasoning(self, body: Mapping[str, Any], issued: Set[str], /) -> Violation | None:
        """Thinking whose signature does not fit its text, or redacted thinking that nobody redacted."""
        for where, block in _blocks(body):
            match block:
                case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
                    known = signature == sign(text) or seal(text, signature) in issued
                    field = "signature"
                case {"type": "redacted_thinking", "data": str(data)}:
                    known = data.startswith(SIGNED_BY_FAKE) or seal("", data) in issued
                    field = "data"
                case _:
                    continue
            if not known:
                return Violation("A6", where, f"{where}: Invalid `{field}` in `{block['type']}` block")
        return None

    def asked(self, body: Mapping[str, Any], /, *, model: str, serial: int) -> Asked:
        """Usage is always told."""
        return Asked(model=model, serial=serial)

    def events(self, turn: Turn, asked: Asked, /) -> Iterator[bytes]:
        """`message_start`, blocks, `message_delta`, `message_stop`."""
        usage = turn.usage if turn.usage_at != "never" else None
        message = self._message(asked)
        if usage is not None:
            at_start = usage if turn.usage_at != "with_finish" else Usage()
            message["usage"] = _input_usage(at_start) | {"output_tokens": 1}
        yield _event("message_start", message=message)
        for index, block in enumerate(turn.blocks):
            yield _event("content_block_start", index=index, content_block=self._opened(block, asked, index))
            if index == 0:
                yield _event("ping")  # the real one sends them when it likes; the first is always about here
            # A stream for a benchmark repeats one piece a million times: it is not rendered anew each time.
            for delta, same in itertools.groupby(self._deltas(block)):
                event = _event("content_block_delta", index=index, delta=delta)
                for _ in same:
                    yield event
            if turn.error is not None and index == len(turn.blocks) - 1:
                break
            yield _event("content_block_stop", index=index)
        if turn.error is not None:
            yield (
                b"event: error\ndata: "
                + self.error(_STREAM_ERRORS[turn.error], serial=asked.serial)
                + b"\n\n"
            )
            return
        if turn.finish == "missing":
            return
        end: dict[str, Any] = {"delta": {"stop_reason": _finish_reason(turn), "stop_sequence": None}}
        if usage is not None:
            counted = _input_usage(usage) if turn.usage_at == "with_finish" else {}
            end["usage"] = counted | {"output_tokens": usage.output_tokens or 0}
        yield _event("message_delta", **end)
        yield _event("message_stop")

    def whole(self, turn: Turn, asked: Asked, /) -> bytes:
        """A `message`."""
        message = self._message(asked)
        message["content"] = [self._closed(block, asked, index) for index, block in enumerate(turn.blocks)]
        message["stop_reason"] = _finish_reason(turn)
        if turn.usage is not None and turn.usage_at != "never":
            message["usage"] = _input_usage(turn.usage) | {"output_tokens": turn.usage.output_tokens or 0}
        return to_json(message)

    def error(self, status: int, message: str | None = None, /, *, serial: int) -> bytes:
        """`{"type": "error", "error": {type, message}, "request_id"}`."""
        kind, words = _ERRORS.get(status, ("api_error", f"HTTP {status}"))
        error = {"type": kind, "message": message or words}
        return to_json({"type": "error", "error": error, "request_id": self._request_id(serial)})

    def wrong_key(self, key: str | None, /, *, serial: int) -> bytes:
        """Says nothing of the key."""
        return self.error(401, "x-api-key header is required" if key is None else None, serial=serial)

    def unknown_model(self, model: object, /, *, serial: int) -> bytes:
        """Names the model, and nothing else."""
        return self.error(404, f"model: {model}", serial=serial)

    def unknown_path(self, method: str, path: str, /, *, serial: int) -> bytes:
        """Does not name the path."""
        return self.error(404, serial=serial)

    def bad_json(self, error: str, /, *, serial: int) -> bytes:
        """Says where the JSON broke."""
        return self.error(400, f"The request body is not valid JSON: {error}", serial=serial)

    def refusal(self, violation: Violation, /, *, serial: int) -> bytes:
        """The path into the request is part of the words."""
        return self.error(400, violation.message, serial=serial)

    def headers(self, serial: int, /) -> tuple[tuple[str, str], ...]:
        """The request's id, which the official client shows in errors."""
        return (("request-id", self._request_id(serial)),)

    def _opened(self, block: Block, asked: Asked, index: int) -> dict[str, Any]:
        match block:
            case Say():
                return {"type": "text", "text": ""}
            case Think():
                return {"type": "thinking", "thinking": "", "signature": ""}
            case Redacted(data):
                return {"type": "redacted_thinking", "data": data}
            case Call(name):
                return {
                    "type": "tool_use",
                    "id": self._call_id(block, asked, index),
                    "name": name,
                    "input": {},
                }

    def _closed(self, block: Block, asked: Asked, index: int) -> dict[str, Any]:
        """A block as it stands in a body that is no stream."""
        match block:
            case Say(pieces):
                return {"type": "text", "text": "".join(pieces)}
            case Think(pieces):
                return {"type": "thinking", "thinking": "".join(pieces), "signature": signature_of(block)}
            case Redacted():
                return self._opened(block, asked, index)
            case Call(_, pieces):
                return self._opened(block, asked, index) | {"input": _parsed("".join(pieces))}

    @staticmethod
    def _deltas(block: Block) -> Iterator[dict[str, Any]]:
        match block:
            case Say(pieces):
                yield from ({"type": "text_delta", "text": piece} for piece in pieces)
            case Think(pieces):
                yield from ({"type": "thinking_delta", "thinking": piece} for piece in pieces)
                if signature := signature_of(block):
                    yield {"type": "signature_delta", "signature": signature}
            case Redacted():
                return
            case Call(_, pieces):
                yield from ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)

    @staticmethod
    def _message(asked: Asked) -> dict[str, Any]:
        return {
            "id": f"msg_fake{asked.serial:020d}",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    @staticmethod
    def _request_id(serial: int) -> str:
        return f"req_fake{serial:020d}"

    @staticmethod
    def _call_id(call: Call, asked: Asked, index: int) -> str:
        return f"toolu_{asked.serial:016d}{index:08d}" if call.id is None else call.id
