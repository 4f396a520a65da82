"""Anthropic Messages: what a request must satisfy, in the words of those who refuse it.

The words are those that people reported (docs/conversations.md has the threads). A8 judges as the models do that
know no prefill; A10 is not confirmed by a thread, and judged all the same.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from aiwrapper._core.dialect import JsonObject, Violation
from aiwrapper._core.text import is_blank

IMAGE_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
MIN_THINKING_TOKENS: Final = 1_024

_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_BLOCKS: Final = {
    "user": frozenset({"text", "image", "document", "search_result", "tool_result"}),
    "assistant": frozenset({"text", "thinking", "redacted_thinking", "tool_use"}),
}
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})


def anthropic_violations(body: JsonObject) -> list[Violation]:
    """Every rule that a request breaks, by place; total over any JSON."""
    found = list(_fields(body))
    messages = body.get("messages")
    if not isinstance(messages, list):
        return [*found, Violation("A0", "messages", "messages: Field required")]
    if not messages:
        return [*found, Violation("A0", "messages", "messages: at least one message is required")]
    shape = [violation for at, message in enumerate(messages) for violation in _shape(at, message)]
    if shape:
        return found + shape  # what has no shape cannot be asked for its order
    contents = [_blocks(message) for message in messages]
    found += _order(messages)
    for at, blocks in enumerate(contents):
        for index, block in enumerate(blocks):
            found += _block(at, index, block)
        found += _pairing(at, contents, messages)
    found += _unique_ids(contents)
    if "tools" not in body and any(
        block["type"] in ("tool_use", "tool_result") for blocks in contents for block in blocks
    ):
        found.append(
            Violation(
                "A10",
                "tools",
                "Requests which include `tool_use` or `tool_result` blocks must define tools",
            )
        )
    found += _thinking_order(body, contents)
    return found


def _fields(body: JsonObject) -> Iterator[Violation]:
    """A0: the fields around the messages."""
    model, max_tokens, thinking = body.get("model"), body.get("max_tokens"), body.get("thinking")
    if not isinstance(model, str) or not model:
        yield Violation("A0", "model", "model: Field required")
    if not isinstance(max_tokens, int) or max_tokens < 1:
        yield Violation("A0", "max_tokens", "max_tokens: Field required")
        return
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < MIN_THINKING_TOKENS:
        yield Violation(
            "A0",
            "thinking.budget_tokens",
            f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_THINKING_TOKENS}",
        )
    elif budget >= max_tokens:
        yield Violation("A0", "max_tokens", "`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature", 1) != 1:
        yield Violation("A0", "temperature", "`temperature` may only be set to 1 when thinking is enabled.")


def _shape(at: int, message: Any) -> Iterator[Violation]:  # Any: whatever JSON was sent
    """A0, A4 and the empty content of A5."""
    where = f"messages[{at}]"
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("user", "assistant"):
        yield Violation("A0", f"{where}.role", f"messages.{at}.role: Input should be 'user' or 'assistant'")
        return
    content = message.get("content")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        yield Violation("A0", f"{where}.content", f"messages.{at}.content: Input should be a valid list")
        return
    if not content:
        yield Violation("A5", f"{where}.content", "messages: text content blocks must be non-empty")
    allowed = _BLOCKS[role]
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or kind not in allowed:
            tags = ", ".join(f"'{tag}'" for tag in sorted(allowed))
            yield Violation(
                "A4",
                f"{where}.content[{index}]",
                f"messages.{at}.content.{index}: Input tag {kind!r} found using 'type' does not match any of "
                f"the expected tags: {tags}",
            )
        elif kind == "tool_use":
            yield from _call_shape(at, index, block)
        elif kind == "tool_result" and not isinstance(block.get("tool_use_id"), str):
            yield Violation(
                "A0",
                f"{where}.content[{index}].tool_use_id",
                f"messages.{at}.content.{index}.tool_result.tool_use_id: Field required",
            )


def _call_shape(at: int, index: int, block: JsonObject) -> Iterator[Violation]:
    for field, pattern, shown in (("id", _ID, "^[a-zA-Z0-9_-]+$"), ("name", _NAME, "^[a-zA-Z0-9_-]{1,64}$")):
        value = block.get(field)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            yield Violation(
                "A0",
                f"messages[{at}].content[{index}].{field}",
                f"messages.{at}.content.{index}.tool_use.{field}: String should match pattern '{shown}'",
            )


def _blocks(message: JsonObject) -> list[Any]:  # Any: checked by `_shape`
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _order(messages: list[Any]) -> Iterator[Violation]:  # Any: checked by `_shape`
    """A8 and A9."""
    if messages[0]["role"] != "user":
        yield Violation("A9", "messages[0].role", 'messages: first message must use the "user" role')
    for at in range(1, len(messages)):
        role = messages[at]["role"]
        if role == messages[at - 1]["role"]:
            yield Violation(
                "A9",
                f"messages[{at}].role",
                'messages: roles must alternate between "user" and "assistant", '
                f'but found multiple "{role}" roles in a row',
            )
    if messages[-1]["role"] != "user":
        at = len(messages) - 1
        yield Violation(
            "A8",
            f"messages[{at}].role",
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        )
        last = _blocks(messages[-1])[-1]
        if last["type"] == "text" and str(last.get("text")) != str(last.get("text")).rstrip():
            yield Violation(
                "A8",
                f"messages[{at}].content",
                "messages: final assistant content cannot end with trailing whitespace",
            )


def _block(at: int, index: int, block: JsonObject) -> Iterator[Violation]:
    """A3, A5 and A6: what one block must be."""
    where, dotted = f"messages[{at}].content[{index}]", f"messages.{at}.content.{index}"
    match block["type"]:
        case "text":
            text = block.get("text")
            if not isinstance(text, str) or not text:
                yield Violation("A5", where, "messages: text content blocks must be non-empty")
                if "cache_control" in block:
                    yield Violation(
                        "A5", where, f"{dotted}.text: cache_control cannot be set for empty text blocks"
                    )
            elif is_blank(text):
                yield Violation("A5", where, "messages: text content blocks must contain non-whitespace text")
        case "tool_use":
            if not isinstance(block.get("input"), dict):
                yield Violation(
                    "A3", f"{where}.input", f"{dotted}.tool_use.input: Input should be a valid dictionary"
                )
        case "thinking":
            if not block.get("signature") or not isinstance(block.get("thinking"), str):
                yield Violation("A6", where, f"{dotted}: Invalid `signature` in `thinking` block")
        case "redacted_thinking":
            if not block.get("data"):
                yield Violation("A6", where, f"{dotted}: Invalid `data` in `redacted_thinking` block")
        case "image":
            source = block.get("source")
            kind = source.get("media_type") if isinstance(source, dict) else None
            if isinstance(source, dict) and source.get("type") == "base64" and kind not in IMAGE_TYPES:
                yield Violation(
                    "A0",
                    f"{where}.source.media_type",
                    f"{dotted}.image.source.base64.media_type: Input should be "
                    "'image/jpeg', 'image/png', 'image/gif' or 'image/webp'",
                )
        case _:
            pass


def _pairing(at: int, contents: list[list[Any]], messages: list[Any]) -> Iterator[Violation]:
    """A1 and A2, for the calls of one message and the results of one message."""
    blocks = contents[at]
    if messages[at]["role"] == "assistant":
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        after = contents[at + 1] if at + 1 < len(contents) else []
        answered = {block["tool_use_id"] for block in after if block["type"] == "tool_result"}
        missing = [call_id for call_id in calls if call_id not in answered]
        kinds = [block["type"] for block in blocks]
        if calls and "text" in kinds[kinds.index("tool_use") :]:
            missing = calls  # text between a call and its result is refused as if the result were missing
        if missing:
            yield Violation(
                "A1",
                f"messages[{at}].content",
                f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in "
                "the next message.",
            )
        return
    before = contents[at - 1] if at else []
    asked = {block["id"] for block in before if block["type"] == "tool_use"}
    others = False
    for index, block in enumerate(blocks):
        if block["type"] != "tool_result":
            others = True
            continue
        call_id = block["tool_use_id"]
        if call_id not in asked:
            yield Violation(
                "A2",
                f"messages[{at}].content[{index}]",
                f"messages.{at}.content.{index}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{call_id}. Each `tool_result` block must have a corresponding `tool_use` block in the "
                "previous message.",
            )
        elif others:
            yield Violation(
                "A1",
                f"messages[{at}].content[{index}]",
                f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{call_id}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
                "message.",
            )


def _unique_ids(contents: list[list[Any]]) -> Iterator[Violation]:
    """C3, on the wire: no id twice, of calls as of results."""
    for kind, field, words in (
        ("tool_use", "id", "`tool_use` ids must be unique"),
        ("tool_result", "tool_use_id", "each tool_use must have a single result."),
    ):
        seen: set[str] = set()
        for at, blocks in enumerate(contents):
            for index, block in enumerate(blocks):
                if block["type"] != kind:
                    continue
                if block[field] in seen:
                    yield Violation(
                        "A1", f"messages[{at}].content[{index}]", f"messages.{at}.content.{index}: {words}"
                    )
                seen.add(block[field])


def _thinking_order(body: JsonObject, contents: list[list[Any]]) -> Iterator[Violation]:
    """A7: the calls that the request answers begin with thinking, if that is on."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled" or len(contents) < 2:
        return
    if not any(block["type"] == "tool_result" for block in contents[-1]):
        return
    first = contents[-2][0]["type"]
    if first not in _THINKING:
        yield Violation(
            "A7",
            f"messages[{len(contents) - 2}].content[0]",
            f"messages.{len(contents) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
            f"`{first}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block "
            "(preceeding the lastmost set of `tool_use` and `tool_result` blocks).",
        )
