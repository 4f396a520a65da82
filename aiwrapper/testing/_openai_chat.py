"""OpenAI's Chat Completions, as the server says it.

After https://platform.openai.com/docs/api-reference/chat-streaming and what the official client's types
accept. Reasoning is sent as `reasoning_content`, as DeepSeek and many OpenAI-compatible hosts do.
"""

from collections.abc import Iterator, Mapping, Set
from itertools import zip_longest
from typing import Any

from aiwrapper._core.dialect import Violation
from aiwrapper._core.messages import Usage
from aiwrapper.testing._provider import CREATED, Asked, bearer_token, runs_of_calls, said, to_json
from aiwrapper.testing.scripts import Call, Redacted, Say, Think, Turn

_FINISH = {"length": "length", "filtered": "content_filter"}

# status -> (message, type, code), in the provider's words
_ERRORS = {
    400: ("Invalid request.", "invalid_request_error", None),
    403: (
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    404: ("Not found", "invalid_request_error", None),
    413: ("The request body is too large.", "invalid_request_error", None),
    429: ("Rate limit reached for requests. Please try again in 20s.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later", "server_error", None),
}
_STREAM_ERRORS = {"server": 500, "overloaded": 503}


def _usage_json(usage: Usage, output_tokens: int | None) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens or 0,
        "completion_tokens": output_tokens or 0,
        "total_tokens": (usage.input_tokens or 0) + (output_tokens or 0),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


def _finish_reason(turn: Turn) -> str:
    natural = "tool_calls" if any(isinstance(block, Call) for block in turn.blocks) else "stop"
    return _FINISH.get(turn.finish, natural)


class OpenAIChatProvider:
    """The server's side of `openai_chat`."""

    base_path = "/v1"
    path = "/v1/chat/completions"

    def key(self, headers: Mapping[str, str], /) -> str | None:
        """The bearer token."""
        return bearer_token(headers)

    def missing_header(self, headers: Mapping[str, str], /) -> str | None:
        """None is needed beside the key."""
        return None

    def forged_reasoning(self, body: Mapping[str, Any], issued: Set[str], /) -> Violation | None:
        """This protocol has no opaque reasoning."""
        return None

    def asked(self, body: Mapping[str, Any], /, *, model: str, serial: int) -> Asked:
        """Usage is streamed only if `stream_options` asks for it."""
        options = body.get("stream_options")
        include_usage = isinstance(options, dict) and options.get("include_usage") is True
        return Asked(model=model, serial=serial, include_usage=include_usage)

    def events(self, turn: Turn, asked: Asked, /) -> Iterator[bytes]:
        """Chunks as `data:` lines, then `[DONE]`."""
        count = 0
        last_delta: dict[str, Any] | None = None
        last_event = b""
        for delta in self._deltas(turn, asked.serial):
            if turn.usage_at == "every_event" and turn.usage is not None:
                count += 1
                yield self._chunk(turn, asked, delta, usage=_usage_json(turn.usage, count))
                continue
            # A stream for a benchmark repeats one piece a million times: it is not rendered anew each time.
            if delta != last_delta:
                last_delta, last_event = delta, self._chunk(turn, asked, delta)
            yield last_event
        if turn.error is not None:
            yield b"data: " + self.error(_STREAM_ERRORS[turn.error], serial=asked.serial) + b"\n\n"
            return
        if turn.finish == "missing":
            return
        usage = None if turn.usage is None else _usage_json(turn.usage, turn.usage.output_tokens)
        with_finish = usage if turn.usage_at in ("with_finish", "every_event") else None
        yield self._chunk(turn, asked, {}, finish_reason=_finish_reason(turn), usage=with_finish)
        if usage is not None and turn.usage_at == "natural" and asked.include_usage:
            yield self._event(asked, [], usage=usage)
        yield b"data: [DONE]\n\n"

    def whole(self, turn: Turn, asked: Asked, /) -> bytes:
        """A `chat.completion`."""
        calls = [block for block in turn.blocks if isinstance(block, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": said(turn) or None, "refusal": None}
        reasoning = "".join(
            piece for block in turn.blocks if isinstance(block, Think) for piece in block.pieces
        )
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(call, asked.serial, index),
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.pieces)},
                }
                for index, call in enumerate(calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(turn)}
        body = {
            "id": self._id(asked),
            "object": "chat.completion",
            "created": CREATED,
            "model": asked.model,
            "choices": [choice],
        }
        if turn.usage is not None and turn.usage_at != "never":
            body["usage"] = _usage_json(turn.usage, turn.usage.output_tokens)
        return to_json(body)

    def error(self, status: int, message: str | None = None, /, *, serial: int) -> bytes:
        """`{"error": {message, type, param, code}}`."""
        words, kind, code = _ERRORS.get(status, (f"HTTP {status}", "server_error", None))
        return self._error(message or words, kind, code=code)

    def wrong_key(self, key: str | None, /, *, serial: int) -> bytes:
        """Shows the ends of the key, as the real one does."""
        if key is None:
            words = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            return self._error(words, "invalid_request_error")
        masked = f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}" if len(key) > 12 else "*" * len(key)
        words = (
            f"Incorrect API key provided: {masked}. "
            "You can find your API key at https://platform.openai.com/account/api-keys."
        )
        return self._error(words, "invalid_request_error", code="invalid_api_key")

    def unknown_model(self, model: object, /, *, serial: int) -> bytes:
        """`model_not_found`."""
        words = f"The model `{model}` does not exist or you do not have access to it."
        return self._error(words, "invalid_request_error", code="model_not_found")

    def unknown_path(self, method: str, path: str, /, *, serial: int) -> bytes:
        """Names the path."""
        return self._error(f"Invalid URL ({method} {path})", "invalid_request_error")

    def bad_json(self, error: str, /, *, serial: int) -> bytes:
        """The hint of the real one; it does not say where the JSON broke."""
        words = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your "
            "HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. "
            "If you have trouble figuring out how to fix this, please contact us through our help center at "
            "help.openai.com.)"
        )
        return self._error(words, "invalid_request_error")

    def refusal(self, violation: Violation, /, *, serial: int) -> bytes:
        """The path into the request is `param`."""
        return self._error(violation.message, "invalid_request_error", param=violation.where or None)

    def headers(self, serial: int, /) -> tuple[tuple[str, str], ...]:
        """The request's id, which the official client shows in errors."""
        return (("x-request-id", f"req_{serial:032x}"), ("openai-version", "2020-10-01"))

    def _deltas(self, turn: Turn, serial: int) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": "", "refusal": None}
        index = 0
        for run in runs_of_calls(turn):
            calls: list[tuple[int, Call]] = []
            for block in run:
                match block:
                    case Say():
                        yield from ({"content": piece} for piece in block.pieces)
                    case Think():
                        yield from ({"reasoning_content": piece} for piece in block.pieces)
                    case Call():
                        calls.append((index, block))
                        index += 1
                    case Redacted():
                        pass  # this protocol has no such thing
            for at, call in calls:
                head: dict[str, Any] = {"index": at}
                if call_id := self._call_id(call, serial, at):
                    head["id"] = call_id
                yield {
                    "tool_calls": [
                        head | {"type": "function", "function": {"name": call.name, "arguments": ""}}
                    ]
                }
            for row in zip_longest(*(call.pieces for _, call in calls)):
                for (at, _), piece in zip(calls, row, strict=True):
                    if piece is not None:
                        yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}

    def _chunk(
        self,
        turn: Turn,
        asked: Asked,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event(asked, [choice], usage=usage)

    def _event(self, asked: Asked, choices: list[dict[str, Any]], *, usage: dict[str, Any] | None) -> bytes:
        chunk: dict[str, Any] = {
            "id": self._id(asked),
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": asked.model,
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
            "choices": choices,
        }
        if usage is not None or asked.include_usage:
            chunk["usage"] = usage
        return b"data: " + to_json(chunk) + b"\n\n"

    @staticmethod
    def _error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> bytes:
        return to_json({"error": {"message": message, "type": kind, "param": param, "code": code}})

    @staticmethod
    def _id(asked: Asked) -> str:
        return f"chatcmpl-fake{asked.serial:025d}"

    @staticmethod
    def _call_id(call: Call, serial: int, index: int) -> str:
        return f"call_{serial:016d}{index:08d}" if call.id is None else call.id
