"""OpenAI Chat Completions: somebody's history as a conversation."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import JsonObject
from aiwrapper._core.errors import BadLog
from aiwrapper._core.messages import AssistantPart, Image, Producer, Reasoning, Text, UserPart
from aiwrapper.dialects._raw_history import RawHistory, as_id, as_text, roles

_DATA_URL = re.compile(r"data:(?P<media_type>[^;,]+);base64,(?P<data>.*)", re.DOTALL)


def openai_chat_conversation(messages: Sequence[JsonObject], producer: Producer) -> Conversation:
    """What is there; see `Dialect.decode`. System messages are no part of a conversation and stay out."""
    history = RawHistory(producer)
    for role, message in roles(messages):
        content = message.get("content")
        match role:
            case "user":
                history.user(tuple(_user_parts(content)))
            case "assistant":
                history.assistant(tuple(_assistant_parts(message)))
            case "tool":
                history.result(as_id(message.get("tool_call_id")), _text(content))
            case "function":  # the older form has no ids, only names
                history.result(f"function {message.get('name')}", _text(content))
            case "system" | "developer":
                pass
            case _:
                raise BadLog(f"{role!r} is no role of Chat Completions")
    return history.conversation()


def _user_parts(content: Any) -> Iterator[UserPart]:  # Any: whatever JSON is there
    if isinstance(content, str):
        yield Text(content)
        return
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            yield Text(part)
        elif isinstance(part, dict) and part.get("type") == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            match = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
            if match is not None:
                yield Image(match["media_type"], match["data"])
            elif isinstance(url, str):
                yield Text(url)  # we fetch nothing; where it is, is what can be kept
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            yield Text(part["text"])


def _assistant_parts(message: JsonObject) -> Iterator[AssistantPart | tuple[str, str, str | None]]:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        yield Reasoning(reasoning, complete=True)
    for field in ("content", "refusal"):
        if text := _text(message.get(field)):
            yield Text(text)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            yield _call(call.get("function"), as_id(call.get("id")))
    if isinstance(older := message.get("function_call"), dict):
        yield _call(older, f"function {older.get('name')}")


def _call(function: Any, provider_id: str | None) -> tuple[str, str, str | None]:  # Any: as above
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    return as_text(function.get("name") or ""), "" if arguments is None else as_text(arguments), provider_id


def _text(content: Any) -> str:  # Any: as above
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(text for text in texts if isinstance(text, str))
    return "" if content is None else as_text(content)
