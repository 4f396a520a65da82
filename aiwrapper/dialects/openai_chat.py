"""OpenAI Chat Completions, and every host that speaks it.

The provider describes it at https://platform.openai.com/docs/api-reference/chat; what we send is checked by the
types of the official client (`openai` 3.54), not against the live service. What hosts want differently is a
field of `OpenAIChat`; who wants what says hosts.py.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from attrs import frozen

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import JsonObject, Options, TurnDecoder, Violation
from aiwrapper._core.messages import Image, Producer, Reasoning, Text
from aiwrapper._core.text import is_blank, well_formed
from aiwrapper._core.validity import UNKNOWN
from aiwrapper.dialects._openai_chat_history import openai_chat_conversation
from aiwrapper.dialects._openai_chat_rules import openai_chat_violations
from aiwrapper.dialects._openai_chat_stream import OpenAIChatStream
from aiwrapper.dialects._wire_history import (
    CallIds,
    ModelTurn,
    UserTurn,
    WireTurn,
    image_url,
    result_text,
    wire_name,
    wire_turns,
)
from aiwrapper.dialects._wire_json import json_object, response_error


@frozen(kw_only=True)
class OpenAIChat:
    """Chat Completions. The defaults are OpenAI's own ways.

    Args:
        max_tokens_field: `max_completion_tokens` for OpenAI itself, `max_tokens` for nearly everybody else.
        usage_option: whether usage has to be asked for with `stream_options`; hosts that refuse fields they do
            not know tell it unasked.
        nine_character_ids: call ids are nine letters or digits (M5, Mistral).
        reasoning_back: the model's reasoning of turns with calls has to be sent back, `""` if it is not
            known (D1, DeepSeek).
    """

    name: ClassVar[str] = "openai_chat"
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    usage_option: bool = True
    nine_character_ids: bool = False
    reasoning_back: bool = False

    def path(self, options: Options, /) -> str:
        """The path below the base URL."""
        return "/chat/completions"

    def headers(self, api_key: str | None, /) -> dict[str, str]:
        """The headers of a request; without a key for hosts that ask for none."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        return headers

    def encode(self, conversation: Conversation, options: Options, /) -> JsonObject:
        """The body of the request that asks for the next turn.

        A budget for thinking has no place in it: hosts take an effort, if anything, through `options.extra`.

        Raises:
            ValueError: `options.extra` or a tool's parameters are no JSON object.
        """
        messages: list[JsonObject] = []
        if not is_blank(options.instructions):
            messages.append({"role": "system", "content": well_formed(options.instructions)})
        ids = CallIds("", 9) if self.nine_character_ids else CallIds("call_", 24)
        for turn in wire_turns(conversation):
            messages += self._messages(turn, options, ids)
        body: JsonObject = {"model": options.producer.model, "messages": messages, "stream": True}
        if self.usage_option:
            body["stream_options"] = {"include_usage": True}
        if options.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": well_formed(tool.description),
                        "parameters": json_object(tool.parameters, f"the parameters of {tool.name!r}"),
                    },
                }
                for tool in options.tools
            ]
        if options.max_output_tokens is not None:
            body[self.max_tokens_field] = options.max_output_tokens
        if options.temperature is not None:
            body["temperature"] = options.temperature
        # `extra` may change how the model is asked, never what was said nor that we read a stream.
        return body | json_object(options.extra, "Options.extra") | {"messages": messages, "stream": True}

    def _messages(self, turn: WireTurn, options: Options, ids: CallIds) -> list[JsonObject]:
        if isinstance(turn, UserTurn):
            return [{"role": "user", "content": _user_content(turn)}]
        if isinstance(turn, ModelTurn):
            return [self._assistant(turn, options, ids)]
        return [
            {"role": "tool", "tool_call_id": ids[result.call_id], "content": result_text(result)}
            for result in turn.results
        ]

    def _assistant(self, turn: ModelTurn, options: Options, ids: CallIds) -> JsonObject:
        message: JsonObject = {"role": "assistant"}
        if text := turn.text:
            message["content"] = text
        if calls := turn.calls:
            if not text:
                message["content"] = None  # OC4; some hosts want the field
            if self.reasoning_back:
                message["reasoning_content"] = _own_reasoning(turn, options)
            message["tool_calls"] = [
                {
                    "id": ids[call.id],
                    "type": "function",
                    "function": {"name": wire_name(call.name), "arguments": call.arguments},
                }
                for call in calls
            ]
        return message

    def violations(self, body: JsonObject, /) -> list[Violation]:
        """Every wire rule that a request breaks; [] if none."""
        return openai_chat_violations(
            body, nine_character_ids=self.nine_character_ids, reasoning_back=self.reasoning_back
        )

    def decode(self, messages: Sequence[JsonObject], /, *, producer: Producer | None = None) -> Conversation:
        """A Chat Completions history as a conversation; mends nothing.

        Raises:
            BadLog: it is no list of JSON objects with roles of Chat Completions.
        """
        return openai_chat_conversation(messages, producer or UNKNOWN)

    def decoder(self) -> TurnDecoder:
        """A fresh decoder for one turn."""
        return OpenAIChatStream()

    def error(self, status: int, body: bytes, /) -> str:
        """The provider's words in the body of an error response; never empty."""
        return response_error(body)


def _user_content(turn: UserTurn) -> str | list[dict[str, Any]]:  # Any: JSON
    """A string where it can be one: templates of many hosts know nothing else."""
    if all(isinstance(part, Text) for part in turn.parts):
        return "\n\n".join(part.text for part in turn.parts if isinstance(part, Text))
    return [
        {"type": "image_url", "image_url": {"url": image_url(part)}}
        if isinstance(part, Image)
        else {"type": "text", "text": part.text}
        for part in turn.parts
    ]


def _own_reasoning(turn: ModelTurn, options: Options) -> str:
    """Reasoning that this model has said whole and in plain words (C8)."""
    if turn.message is None or turn.message.producer != options.producer:
        return ""
    return "".join(
        part.text
        for part in turn.parts
        if isinstance(part, Reasoning) and part.complete and part.opaque is None
    )
