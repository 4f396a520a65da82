"""Anthropic Messages: the stream of one turn.

The provider describes it at https://platform.claude.com/docs/en/build-with-claude/streaming; checked here by
the official client (`anthropic` 2.12), not against the live service. New kinds of events, blocks and deltas may
come at any time: what we do not know is ignored. A block is finished by its `content_block_stop`, a turn by
`message_stop`.

Thinking is kept byte for byte: the payload of a block is made of exactly the strings that arrived, and exists
only if its `content_block_stop` and a signature did (A6).
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
from aiwrapper.dialects._wire_json import JSON_ERRORS, decode_broken, stream_error

_WHOLE_REASONS = frozenset({"end_turn", "tool_use", "stop_sequence", "pause_turn"})
"""With every other reason the provider itself cut the turn: `max_tokens`, `refusal`, ..."""


class _BlockStart(Struct, gc=False):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str | None = None
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _EventDelta(Struct, gc=False):
    """Of a block, or of the message: `message_delta` calls its field `delta`, too."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class _EventUsage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Message(Struct, gc=False):
    usage: _EventUsage | None = None


class _Event(Struct, gc=False):
    """All events in one: a union by `type` would refuse the kinds that are added later."""

    type: str
    index: int = 0
    delta: _EventDelta | None = None
    content_block: _BlockStart | None = None
    message: _Message | None = None
    usage: _EventUsage | None = None
    error: Any = None  # Any: read by `stream_error`


_EVENT = msgspec.json.Decoder(_Event)
_decode = _EVENT.decode


class _Block:
    """A block that is being said."""

    def __init__(self, key: int, start: _BlockStart) -> None:
        self.key = key
        self.type = start.type
        self.start = start
        self.pieces: list[str] = []  # of the thinking or of the arguments
        self.signature = start.signature


class AnthropicStream:
    """One turn of Messages; a `TurnDecoder`."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}  # by index, while they are open
        self._begun = 0  # how many
        self._usage = Usage()
        self._stop_reason: str | None = None

    def decode(self, event: ServerSentEvent, /) -> Iterable[Delta]:
        """The deltas of one event.

        Raises:
            ModelCallError: the provider reports an error, or the data are no event.
        """
        try:
            read = _decode(event.data)
        except JSON_ERRORS as error:
            if event.data == "[DONE]":  # a proxy's habit from another dialect; here it says nothing
                return ()
            read = decode_broken(_EVENT, event.data, error)
        delta = read.delta
        if delta is not None and delta.type == "text_delta":  # nearly every event of an answer
            return (TextPiece(delta.text),) if delta.text else ()
        return self._deltas(read)

    def end(self) -> Iterable[Delta]:
        """The body has ended.

        Raises:
            ModelCallError: no `stop_reason` has come (kind `network`).
        """
        if self._stop_reason is None:
            raise ModelCallError("the connection ended before the answer was whole", kind="network")
        return self._turn_end()

    def _deltas(self, event: _Event) -> Iterable[Delta]:
        match event.type:
            case "content_block_delta":
                return self._block_delta(event.index, event.delta)
            case "content_block_start":
                return self._block_start(event.index, event.content_block)
            case "content_block_stop":
                block = self._blocks.pop(event.index, None)
                return () if block is None else self._block_end(block)
            case "message_start":
                return self._usage_update(event.message.usage if event.message is not None else None)
            case "message_delta":
                if event.delta is not None and event.delta.stop_reason:
                    self._stop_reason = event.delta.stop_reason
                return self._usage_update(event.usage)
            case "message_stop":
                return self._turn_end()
            case "error":
                raise stream_error(event.error)
            case _:  # `ping`, and what is added later
                return ()

    def _turn_end(self) -> Iterable[Delta]:
        return (TurnEnd(self._stop_reason or "", self._stop_reason not in _WHOLE_REASONS),)

    def _block_start(self, index: int, start: _BlockStart | None) -> Iterator[Delta]:
        if start is None:
            return
        # Not its index, which a host may use again: a key is used once in a turn.
        self._begun += 1
        block = self._blocks[index] = _Block(self._begun, start)
        match start.type:
            case "text" if start.text:
                yield TextPiece(start.text)
            case "thinking" if start.thinking:
                block.pieces.append(start.thinking)
                yield ReasoningPiece(start.thinking)
            case "tool_use":
                yield CallStart(block.key, start.name, start.id or None)
            case _:
                pass

    def _block_delta(self, index: int, delta: _EventDelta | None) -> Iterator[Delta]:
        block = self._blocks.get(index)
        if block is None or delta is None:
            return
        if delta.type == "thinking_delta" and delta.thinking:
            block.pieces.append(delta.thinking)
            yield ReasoningPiece(delta.thinking)
        elif delta.type == "signature_delta":
            block.signature += delta.signature
        elif delta.type == "input_json_delta" and delta.partial_json and block.type == "tool_use":
            block.pieces.append(delta.partial_json)
            yield CallArguments(block.key, delta.partial_json)

    @staticmethod
    def _block_end(block: _Block) -> Iterator[Delta]:
        match block.type:
            case "thinking":
                payload = {
                    "type": "thinking",
                    "thinking": "".join(block.pieces),
                    "signature": block.signature,
                }
                # The block itself, not only its signature: whoever sends it back needs no other source.
                yield ReasoningEnd(msgspec.json.encode(payload).decode() if block.signature else None)
            case "redacted_thinking":
                payload = {"type": "redacted_thinking", "data": block.start.data}
                yield ReasoningEnd(msgspec.json.encode(payload).decode())
            case "tool_use":
                given = bytes(block.start.input)
                if not block.pieces and given not in (b"{}", b"null"):  # a host that sends it all at once
                    yield CallArguments(block.key, given.decode())
                yield CallEnd(block.key)
            case _:
                pass

    def _usage_update(self, usage: _EventUsage | None) -> Iterator[Delta]:
        if usage is None:
            return
        inputs = [usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens]
        known = [count for count in inputs if count is not None]
        details = usage.output_tokens_details
        update = self._usage.updated(
            Usage(
                # `message_delta` may repeat some of the three; only a report that has the first is a sum.
                input_tokens=sum(known) if usage.input_tokens is not None else None,
                output_tokens=usage.output_tokens,
                cached_input_tokens=usage.cache_read_input_tokens,
                reasoning_tokens=None if details is None else details.thinking_tokens,
                complete=self._stop_reason is not None and usage.output_tokens is not None,
            )
        )
        if update != self._usage:
            self._usage = update
            yield UsageUpdate(update)
