"""OpenAI Chat Completions: the stream of one turn.

The provider describes it at https://platform.openai.com/docs/api-reference/chat-streaming; checked here by the
official client (`openai` 3.54), not against the live service. A call is finished when the `finish_reason`
comes, and not before: the next index begins when the model has said a call, but a stream cut there cannot be
told from one that would have gone on (C6).

What odd hosts do, each with a test: every call has the index 0; a whole call comes in one chunk; ids are
missing, repeated, or new in every chunk; the name comes again in every chunk, or late; the `finish_reason` is
`stop` although there are calls, or an empty string until it is known; usage comes with every chunk, with the
last, after it, or never; `[DONE]` is missing; reasoning is called `reasoning_content` or `reasoning`, or comes
as a list of parts (Mistral).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from aiwrapper._core.dialect import (
    CallArguments,
    CallEnd,
    CallStart,
    Delta,
    ReasoningEnd,
    ReasoningPiece,
    TextPiece,
    TurnEnd,
    UsageUpdate,
)
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.messages import Usage
from aiwrapper._core.sse import ServerSentEvent
from aiwrapper._core.text import is_json_object
from aiwrapper.dialects._wire_json import JSON_ERRORS, decode_broken, stream_error

_WHOLE_REASONS = frozenset({"stop", "tool_calls", "function_call"})
"""With every other reason the provider itself cut the turn: `length`, `content_filter`, `model_length`, ..."""


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = (
        None  # some hosts send the object itself; Any: it is written back
    )


class _CallDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(Struct, gc=False):
    """A part of a content that is a list, as Mistral's reasoning models send it."""

    type: str = ""
    text: str | None = None
    thinking: "str | list[_Part] | None" = None


class _ChunkDelta(Struct, gc=False):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(Struct, gc=False):
    delta: _ChunkDelta | None = None
    finish_reason: str | None = None
    index: int = 0


class _PromptDetails(Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class _ChunkUsage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's name for cached_tokens


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _ChunkUsage | None = None
    error: Any = None  # Any: every host has a form of its own, read by `stream_error`


_CHUNK = msgspec.json.Decoder(_Chunk)
_decode = _CHUNK.decode


class _OpenCall:
    """A call that is being said; it is told of when its name is known."""

    def __init__(self, key: int, provider_id: str | None) -> None:
        self.key = key
        self.provider_id = provider_id
        self.name = ""
        self.started = False
        self.arguments: list[str] = []


class OpenAIChatStream:
    """One turn of Chat Completions; a `TurnDecoder`."""

    def __init__(self) -> None:
        self._calls: list[_OpenCall] = []
        self._at_index: dict[int, _OpenCall] = {}  # the newest call of each index
        self._reasons = False  # the last piece was reasoning
        self._has_text = False
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def decode(self, event: ServerSentEvent, /) -> Iterable[Delta]:
        """The deltas of one event.

        Raises:
            ModelCallError: the provider reports an error, or the data are no chunk.
        """
        try:
            chunk = _decode(event.data)
        except JSON_ERRORS as error:
            if event.data.strip() == "[DONE]":
                return self._done()
            chunk = decode_broken(_CHUNK, event.data, error)
        choices = chunk.choices
        if choices and chunk.usage is None and self._finish_reason is None and not self._reasons:
            choice = choices[0]
            delta = choice.delta
            if (
                chunk.error is None
                and choice.finish_reason is None
                and choice.index == 0
                and delta is not None
                and type(delta.content) is str
                and delta.content
                and delta.tool_calls is None
                and delta.reasoning_content is None
                and delta.reasoning is None
            ):  # nearly every event of an answer: a piece of text and nothing else
                self._has_text = True
                return (TextPiece(delta.content),)
        return self._deltas(chunk)

    def end(self) -> Iterable[Delta]:
        """The body has ended, without `[DONE]` or after it.

        Raises:
            ModelCallError: no `finish_reason` has come (kind `network`).
        """
        if self._finish_reason is None:
            raise ModelCallError("the connection ended before the answer was whole", kind="network")
        return self._turn_end(self._finish_reason)

    def _done(self) -> Iterable[Delta]:
        if self._finish_reason is not None:
            return self._turn_end(self._finish_reason)
        if self._calls or not self._has_text:
            # Without a finish_reason nobody has finished the calls, and an answer without them is not the answer;
            # nor is nothing at all.
            raise ModelCallError("the provider said [DONE] without a finish_reason", kind="protocol")
        return (*self._reasoning_end(), *self._turn_end(""))

    def _turn_end(self, finish_reason: str) -> Iterable[Delta]:
        return (TurnEnd(finish_reason, finish_reason not in _WHOLE_REASONS),)

    def _deltas(self, chunk: _Chunk) -> Iterator[Delta]:
        if chunk.error is not None:
            raise stream_error(chunk.error)
        for choice in chunk.choices or ():
            # We ask for one choice. After the finish_reason only usage counts.
            if choice.index != 0 or self._finish_reason is not None:
                continue
            if choice.delta is not None:
                yield from self._choice_delta(choice.delta)
            if choice.finish_reason:
                self._finish_reason = choice.finish_reason
                yield from self._reasoning_end()
                for call in self._calls:
                    if not call.started:
                        yield from self._started(call)
                    yield CallEnd(call.key)
        if chunk.usage is not None:
            usage = self._usage_of(chunk.usage)
            if usage != self._usage:
                self._usage = usage
                yield UsageUpdate(usage)

    def _choice_delta(self, delta: _ChunkDelta) -> Iterator[Delta]:
        if reasoning := delta.reasoning_content or delta.reasoning:
            self._reasons = True
            yield ReasoningPiece(reasoning)
        if isinstance(delta.content, list):
            yield from self._content_parts(delta.content)
        elif text := delta.content or delta.refusal:  # a refusal is what the model says, in another field
            yield from self._reasoning_end()
            self._has_text = True
            yield TextPiece(text)
        for part in delta.tool_calls or ():
            yield from self._reasoning_end()
            yield from self._call_delta(part)

    def _content_parts(self, parts: list[_Part]) -> Iterator[Delta]:
        for part in parts:
            if part.thinking is not None:
                pieces = (
                    [part.thinking] if isinstance(part.thinking, str) else [p.text for p in part.thinking]
                )
                for piece in filter(None, pieces):
                    self._reasons = True
                    yield ReasoningPiece(piece)
            elif part.text:
                yield from self._reasoning_end()
                self._has_text = True
                yield TextPiece(part.text)

    def _reasoning_end(self) -> Iterator[Delta]:
        if self._reasons:
            self._reasons = False
            yield ReasoningEnd()

    def _call_delta(self, part: _CallDelta) -> Iterator[Delta]:
        function = part.function or _Function()
        call = self._call_of(part, function)
        if function.name and not call.started:
            call.name = function.name
        if part.id and call.provider_id is None:
            call.provider_id = part.id
        if call.name and not call.started:
            yield from self._started(call)
        arguments = function.arguments
        text = msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else arguments
        if text:
            call.arguments.append(text)
            if call.started:
                yield CallArguments(call.key, text)

    def _call_of(self, part: _CallDelta, function: _Function) -> _OpenCall:
        """The call that a delta goes on with, or a new one."""
        index = part.index
        newest = self._calls[-1] if self._calls else None
        call = newest if index is None else self._at_index.get(index)
        if call is None or self._begins_another(call, part.id, function):
            call = _OpenCall(len(self._calls), part.id or None)
            self._calls.append(call)
            if index is not None:
                self._at_index[index] = call
        return call

    @staticmethod
    def _begins_another(call: _OpenCall, provider_id: str | None, function: _Function) -> bool:
        """Whether a delta for a call's index begins another call (hosts that give every call the index 0).

        Only one with a name can. A new id alone does not say so: some hosts make up an id for every chunk.
        """
        if not function.name or not call.name:
            return False
        if function.name != call.name or (
            provider_id and call.provider_id and provider_id != call.provider_id
        ):
            return True
        if provider_id and not function.arguments:
            return False  # the name and the id once more, and nothing else
        # Nothing can be added to a whole object. Its last letter is looked at first, lest a host that repeats
        # the name in every chunk has all of a call's arguments read again for each.
        last = call.arguments[-1] if call.arguments else ""
        return last.rstrip().endswith("}") and is_json_object("".join(call.arguments))

    @staticmethod
    def _started(call: _OpenCall) -> Iterator[Delta]:
        call.started = True
        yield CallStart(call.key, call.name, call.provider_id)
        for text in call.arguments:
            yield CallArguments(call.key, text)

    def _usage_of(self, usage: _ChunkUsage) -> Usage:
        cached = usage.prompt_cache_hit_tokens
        if usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens is not None:
            cached = usage.prompt_tokens_details.cached_tokens
        details = usage.completion_tokens_details
        return Usage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_input_tokens=cached,
            reasoning_tokens=None if details is None else details.reasoning_tokens,
            complete=self._finish_reason is not None and usage.completion_tokens is not None,
        )
