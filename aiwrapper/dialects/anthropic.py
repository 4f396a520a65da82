"""Anthropic Messages.

The provider describes it at https://platform.claude.com/docs/en/api/messages; what we send is checked by the
types of the official client (`anthropic` 2.12), not against the live service. What it refuses is in
`_anthropic_rules.py`.
"""

from collections.abc import Sequence
from typing import ClassVar, Final, assert_never

import msgspec
from attrs import frozen

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import JsonObject, Options, TurnDecoder, Violation
from aiwrapper._core.messages import Image, Producer, Reasoning, Text, ToolCall, ToolResult, UserPart
from aiwrapper._core.text import is_blank, well_formed
from aiwrapper._core.validity import UNKNOWN
from aiwrapper.dialects._anthropic_history import anthropic_conversation
from aiwrapper.dialects._anthropic_rules import IMAGE_TYPES, MIN_THINKING_TOKENS, anthropic_violations
from aiwrapper.dialects._anthropic_stream import AnthropicStream
from aiwrapper.dialects._wire_history import (
    CallIds,
    ModelTurn,
    ResultsTurn,
    UserTurn,
    WireTurn,
    result_text,
    wire_name,
    wire_turns,
)
from aiwrapper.dialects._wire_json import JSON_ERRORS, json_object, response_error

DEFAULT_MAX_TOKENS: Final = 8_192
"""The wire wants a number. Chosen by hand: what every model since Claude 3.5 can say at least."""


@frozen(kw_only=True)
class Anthropic:
    """Messages, with thinking.

    Thinking is asked for with `Options.thinking_tokens`, or with a field `thinking` in `Options.extra` for
    models that decide by themselves how much (`{"thinking": {"type": "adaptive"}}`). While it is asked for, the
    model's own blocks are sent back as they came.

    Args:
        version: the header `anthropic-version`.
    """

    name: ClassVar[str] = "anthropic"
    version: str = "2023-06-01"

    def path(self, options: Options, /) -> str:
        """The path below the base URL."""
        return "/v1/messages"

    def headers(self, api_key: str | None, /) -> dict[str, str]:
        """The headers of a request; without a key for gateways that ask for none."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "anthropic-version": self.version,
        }
        if api_key:
            headers["x-api-key"] = api_key
        return headers

    def encode(self, conversation: Conversation, options: Options, /) -> JsonObject:
        """The body of the request that asks for the next turn.

        Raises:
            ValueError: `options.extra` or a tool's parameters are no JSON object, or a call's arguments are none
                (the conversation is not valid by itself: see `repair`).
        """
        extra = json_object(options.extra, "Options.extra")
        thinking = _thinking(options, extra.pop("thinking", None))
        turns = wire_turns(conversation)
        ids = CallIds("toolu_", 24)
        messages = [_message(turn, options, ids, sends_thinking=thinking is not None) for turn in turns]
        body: JsonObject = {
            "model": options.producer.model,
            "max_tokens": options.max_output_tokens or DEFAULT_MAX_TOKENS,
            "messages": messages,
            "stream": True,
        }
        if not is_blank(options.instructions):
            body["system"] = well_formed(options.instructions)
        body |= _tools(turns, options)
        if thinking is not None and not (thinking.get("type") == "enabled" and _lacks_thinking(messages)):
            body["thinking"] = thinking
            budget = thinking.get("budget_tokens")
            if isinstance(budget, int):
                # The wire counts thinking in and refuses less; what was asked for is meant for the answer.
                body["max_tokens"] += budget
        elif options.temperature is not None:
            body["temperature"] = options.temperature  # with thinking, the wire takes none
        return body | extra | {"messages": messages, "stream": True}

    def violations(self, body: JsonObject, /) -> list[Violation]:
        """Every wire rule that a request breaks; [] if none."""
        return anthropic_violations(body)

    def decode(self, messages: Sequence[JsonObject], /, *, producer: Producer | None = None) -> Conversation:
        """A Messages history as a conversation; mends nothing.

        Raises:
            BadLog: it is no list of JSON objects with roles of Messages.
        """
        return anthropic_conversation(messages, producer or UNKNOWN)

    def decoder(self) -> TurnDecoder:
        """A fresh decoder for one turn."""
        return AnthropicStream()

    def error(self, status: int, body: bytes, /) -> str:
        """The provider's words in the body of an error response; never empty."""
        return response_error(body)


def _thinking(options: Options, asked: object) -> JsonObject | None:
    """How thinking is to be asked for; None if it is not."""
    if isinstance(asked, dict):
        return None if asked.get("type") == "disabled" else asked
    if options.thinking_tokens is None:
        return None
    return {"type": "enabled", "budget_tokens": max(options.thinking_tokens, MIN_THINKING_TOKENS)}


def _lacks_thinking(messages: list[JsonObject]) -> bool:
    """A7: whether the request answers calls that were not preceded by thinking, so that it has to be off."""
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return False
    return messages[-2]["content"][0]["type"] not in ("thinking", "redacted_thinking")


def _tools(turns: list[WireTurn], options: Options) -> JsonObject:
    """The tools; where calls are told of and none are offered, the calls' own, not to be used (A10)."""
    if options.tools:
        return {
            "tools": [
                {
                    "name": tool.name,
                    "description": well_formed(tool.description),
                    "input_schema": json_object(tool.parameters, f"the parameters of {tool.name!r}"),
                }
                for tool in options.tools
            ]
        }
    names = dict.fromkeys(
        wire_name(call.name) for turn in turns if isinstance(turn, ModelTurn) for call in turn.calls
    )
    if not names:
        return {}
    return {
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in names],
        "tool_choice": {"type": "none"},
    }


def _message(turn: WireTurn, options: Options, ids: CallIds, *, sends_thinking: bool) -> JsonObject:
    if isinstance(turn, UserTurn):
        return {"role": "user", "content": [_user_block(part) for part in turn.parts]}
    if isinstance(turn, ResultsTurn):
        return {"role": "user", "content": [_result_block(result, ids) for result in turn.results]}
    return {
        "role": "assistant",
        "content": _assistant_blocks(turn, options, ids, sends_thinking=sends_thinking),
    }


def _user_block(part: UserPart) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return _image_block(part)


def _image_block(image: Image) -> JsonObject:
    if image.media_type not in IMAGE_TYPES:
        return {
            "type": "text",
            "text": f"(An image of the type {image.media_type!r}, which cannot be shown here.)",
        }
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def _result_block(result: ToolResult, ids: CallIds) -> JsonObject:
    block: JsonObject = {
        "type": "tool_result",
        "tool_use_id": ids[result.call_id],
        "content": result_text(result),
    }
    if result.outcome != "returned":
        block["is_error"] = True
    return block


def _assistant_blocks(
    turn: ModelTurn, options: Options, ids: CallIds, *, sends_thinking: bool
) -> list[JsonObject]:
    """The blocks, calls last: text after a call parts it from its result.

    Thinking is sent only where it leads: then the wire, which looks at the first block (A7), sees a whole
    thinking turn or none, and switching thinking off never leaves a block behind in the middle of one. That
    depends on nothing but the turn itself, so a message once sent is sent alike for ever (L6).
    """
    blocks: list[JsonObject] = []
    calls: list[JsonObject] = []
    own = sends_thinking and turn.message is not None and turn.message.producer == options.producer
    for part in turn.parts:
        match part:
            case Text(text):
                blocks.append({"type": "text", "text": text})
            case ToolCall():
                calls.append(_call_block(part, ids))
            case Reasoning():
                leads = not blocks or blocks[0]["type"] != "text"
                # After a call it would change its place, which breaks the signature (A6).
                block = _thinking_block(part, options) if own and leads and not calls else None
                if block is not None:
                    blocks.append(block)
            case _:
                assert_never(part)
    return blocks + calls


def _call_block(call: ToolCall, ids: CallIds) -> JsonObject:
    arguments = json_object(call.arguments, f"the arguments of {call.id!r}")
    return {"type": "tool_use", "id": ids[call.id], "name": wire_name(call.name), "input": arguments}


def _thinking_block(part: Reasoning, options: Options) -> JsonObject | None:
    """The provider's own block, if it is this provider's and whole."""
    if not part.complete or part.opaque is None or part.opaque.producer != options.producer:
        return None
    try:
        block = msgspec.json.decode(part.opaque.body, type=dict[str, str])
    except JSON_ERRORS:
        return None  # not of our making
    kept = block.get("signature") if block.get("type") == "thinking" else block.get("data")
    return block if kept and block.get("type") in ("thinking", "redacted_thinking") else None
