"""What encode sends, judged by the types of the official clients.

Their request types are TypedDicts, which check nothing by themselves; pydantic makes them strict here: a wrong
type, a missing field and, at the top, an unknown field are errors.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from anthropic.types.message_param import MessageParam
from hypothesis import given, settings
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import TypeAdapter, ValidationError
from typing_extensions import get_type_hints

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import Options
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing.logs import conversations
from tests.aiwrapper.dialects.test_laws import options, sent


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:  # Any: a type as a value, here a union or a TypedDict
    return TypeAdapter(kind)


def check(kind: Any, value: object) -> None:
    """Raises ValidationError if the client's type does not take the value."""
    taken = adapter(kind).validate_python(value, strict=True)
    exhaust(taken)


def exhaust(value: object) -> None:
    """pydantic reads an Iterable only when somebody goes through it."""
    if isinstance(value, dict):
        for inner in value.values():
            exhaust(inner)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for inner in value:
            exhaust(inner)


@given(conversation=conversations(), options=options())
@settings(max_examples=100, deadline=None)
def test_the_openai_client_takes_what_we_send(conversation: Conversation, options: Options) -> None:
    for dialect in (OpenAIChat(), OpenAIChat(max_tokens_field="max_tokens", nine_character_ids=True)):
        body = sent(dialect.encode(conversation, options))

        check(CompletionCreateParamsStreaming, body)
        assert body.keys() <= get_type_hints(CompletionCreateParamsStreaming).keys()
        for message in body["messages"]:
            check(ChatCompletionMessageParam, message)


@given(conversation=conversations(), options=options())
@settings(max_examples=100, deadline=None)
def test_the_anthropic_client_takes_what_we_send(conversation: Conversation, options: Options) -> None:
    body = sent(Anthropic().encode(conversation, options))

    check(MessageCreateParamsStreaming, body)
    # The client knows no sampling fields since 2.0; older models and other hosts take them, if they are asked for.
    assert body.keys() - {"temperature", "top_p"} <= get_type_hints(MessageCreateParamsStreaming).keys()
    for message in body["messages"]:
        check(MessageParam, message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ChatCompletionMessageParam, {"role": "tool", "content": "ok"}),
        (ChatCompletionMessageParam, {"role": "assistant", "tool_calls": [{"id": "1"}]}),
        (ChatCompletionMessageParam, {"role": "user", "content": [{"type": "text"}]}),
        (MessageParam, {"role": "tool", "content": "ok"}),
        (MessageParam, {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f"}]}),
        (MessageParam, {"role": "user", "content": [{"type": "tool_result"}]}),
    ],
)
def test_the_judges_refuse_what_is_wrong(kind: Any, message: object) -> None:
    with pytest.raises(ValidationError):
        check(kind, msgspec.json.decode(msgspec.json.encode(message)))
