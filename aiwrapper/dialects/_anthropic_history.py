"""Anthropic Messages: somebody's history as a conversation."""

from collections.abc import Iterator, Sequence
from typing import Any

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import JsonObject
from aiwrapper._core.errors import BadLog
from aiwrapper._core.messages import (
    AssistantPart,
    Image,
    Opaque,
    Producer,
    Reasoning,
    Text,
    ToolOutcome,
    UserPart,
)
from aiwrapper.dialects._raw_history import RawHistory, as_id, as_text, roles


def anthropic_conversation(messages: Sequence[JsonObject], producer: Producer) -> Conversation:
    """What is there; see `Dialect.decode`.

    A user's message with results in it becomes several, in the order of its blocks.
    """
    history = RawHistory(producer)
    for role, message in roles(messages):
        blocks = _blocks(message.get("content"))
        match role:
            case "user":
                _read_user(history, blocks)
            case "assistant":
                history.assistant(tuple(_assistant_parts(blocks, producer)))
            case "system":
                pass
            case _:
                raise BadLog(f"{role!r} is no role of Messages")
    return history.conversation()


def _blocks(content: Any) -> list[dict[str, Any]]:  # Any: whatever JSON is there
    if isinstance(content, list):
        return [
            {"type": "text", "text": block} if isinstance(block, str) else block
            for block in content
            if isinstance(block, str | dict)
        ]
    return [{"type": "text", "text": content}] if isinstance(content, str) else []


def _read_user(history: RawHistory, blocks: list[dict[str, Any]]) -> None:
    parts: list[UserPart] = []
    has_results = False
    for block in blocks:
        if block.get("type") == "tool_result":
            has_results = True
            if parts:
                history.user(parts)
                parts = []
            outcome: ToolOutcome = "raised" if block.get("is_error") is True else "returned"
            history.result(as_id(block.get("tool_use_id")), _result(block.get("content")), outcome)
        else:
            parts += _user_parts(block)
    if parts or not has_results:
        history.user(parts)


def _user_parts(block: dict[str, Any]) -> Iterator[UserPart]:
    if isinstance(text := block.get("text"), str):
        yield Text(text)
    elif block.get("type") == "image" and isinstance(source := block.get("source"), dict):
        media_type, data, url = (source.get(key) for key in ("media_type", "data", "url"))
        if isinstance(media_type, str) and isinstance(data, str):
            yield Image(media_type, data)
        elif isinstance(url, str):
            yield Text(url)  # we fetch nothing; where it is, is what can be kept


def _assistant_parts(
    blocks: list[dict[str, Any]], producer: Producer
) -> Iterator[AssistantPart | tuple[str, str, str | None]]:
    for block in blocks:
        match block.get("type"):
            case "thinking":
                text, signature = block.get("thinking"), block.get("signature")
                if isinstance(text, str) and isinstance(signature, str) and signature:
                    kept = {"type": "thinking", "thinking": text, "signature": signature}
                    yield Reasoning(text, complete=True, opaque=_opaque(kept, producer))
                elif isinstance(text, str):
                    yield Reasoning(text)  # without a signature it was cut
            case "redacted_thinking":
                kept = {"type": "redacted_thinking", "data": as_text(block.get("data") or "")}
                yield Reasoning("", complete=True, opaque=_opaque(kept, producer))
            case "tool_use":
                given = block.get("input")
                yield (
                    as_text(block.get("name") or ""),
                    "" if given is None else as_text(given),
                    as_id(block.get("id")),
                )
            case _:
                if isinstance(text := block.get("text"), str):
                    yield Text(text)


def _opaque(block: dict[str, str], producer: Producer) -> Opaque:
    return Opaque(producer, as_text(block))


def _result(content: Any) -> str:  # Any: as above
    if not isinstance(content, list):
        return "" if content is None else as_text(content)
    return "\n".join(_result_part(block) for block in _blocks(content))


def _result_part(block: dict[str, Any]) -> str:
    """A part of a result as text; of what is no text, that there was something."""
    text = block.get("text")
    return text if isinstance(text, str) else f"({block.get('type')})"
