"""OpenAI Chat Completions: what a request must satisfy, in the words of those who refuse it.

The rules are the union over the hosts that speak the dialect, because a conversation has to survive a switch of
host: OC5 is asked by chat templates, C16 and M3 by Mistral. M1, M4, M5 and D1 are judged only for the hosts that
have them. The words are those that people reported (docs/conversations.md has the threads), so that an error in
a log can be searched for.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from aiwrapper._core.dialect import JsonObject, Violation
from aiwrapper._core.text import is_blank, is_json_object

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_MAX_ID_CHARACTERS = 40
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_SYSTEM = frozenset({"system", "developer"})


def openai_chat_violations(
    body: JsonObject, *, nine_character_ids: bool, reasoning_back: bool
) -> list[Violation]:
    """Every rule that a request breaks, by place; total over any JSON."""
    messages = body.get("messages")
    if not isinstance(body.get("model"), str) or not body["model"]:
        return [Violation("OC0", "model", "you must provide a model parameter")]
    if not isinstance(messages, list):
        return [Violation("OC0", "messages", "Missing required parameter: 'messages'.")]
    if not messages:
        return [
            Violation(
                "OC0",
                "messages",
                "Invalid 'messages': empty array. Expected an array with minimum length 1, "
                "but got an empty array instead.",
            )
        ]
    shape = [found for at, message in enumerate(messages) for found in _shape(f"messages[{at}]", message)]
    if shape:
        return shape  # what has no shape cannot be asked for its order
    found = [*_pairing(messages), *_order(messages)]
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            found += _assistant(f"messages[{at}]", message)
    if nine_character_ids:
        found += _mistral(messages)
    if reasoning_back:
        found += [
            Violation(
                "D1",
                f"messages[{at}].reasoning_content",
                "The reasoning_content in the thinking mode must be passed back to the API.",
            )
            for at, message in enumerate(messages)
            if _calls(message) and not isinstance(message.get("reasoning_content"), str)
        ]
    return found


def _shape(where: str, message: Any) -> Iterator[Violation]:  # Any: whatever JSON was sent
    if not isinstance(message, dict):
        yield Violation("OC0", where, f"Invalid type for '{where}': expected an object.")
        return
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        yield Violation(
            "OC0",
            f"{where}.role",
            f"Invalid value: {role!r}. Supported values are: 'system', 'assistant', 'user', 'tool', and 'developer'.",
        )
        return
    content = message.get("content")
    if not (isinstance(content, str) or (isinstance(content, list) and content)) and (
        role != "assistant" or content not in (None, [])
    ):
        yield Violation(
            "OC0",
            f"{where}.content",
            f"Invalid type for '{where}.content': expected one of a string or array of objects.",
        )
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield Violation(
            "OC0", f"{where}.tool_call_id", f"Missing required parameter: '{where}.tool_call_id'."
        )
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        yield Violation(
            "OC0", f"{where}.tool_calls", f"Invalid type for '{where}.tool_calls': expected an array."
        )
        return
    for index, call in enumerate(calls or ()):
        yield from _call_shape(f"{where}.tool_calls[{index}]", call)


def _call_shape(where: str, call: Any) -> Iterator[Violation]:  # Any: whatever JSON was sent
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function":
        yield Violation("OC0", where, f"Missing required parameter: '{where}.function'.")
        return
    call_id, name = call.get("id"), function.get("name")
    if not isinstance(call_id, str) or not call_id:
        yield Violation("OC0", f"{where}.id", f"Missing required parameter: '{where}.id'.")
    elif len(call_id) > _MAX_ID_CHARACTERS:
        yield Violation(
            "OC0",
            f"{where}.id",
            f"Invalid '{where}.id': string too long. Expected a string with maximum length "
            f"{_MAX_ID_CHARACTERS}, but got a string with length {len(call_id)} instead.",
        )
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        yield Violation(
            "OC0",
            f"{where}.function.name",
            f"Invalid '{where}.function.name': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
        )


def _calls(message: Mapping[str, Any]) -> list[Any]:  # Any: checked by `_shape`
    return (message.get("tool_calls") or []) if message["role"] == "assistant" else []


def _pairing(messages: list[Any]) -> Iterator[Violation]:  # Any: checked by `_shape`
    """OC1 and OC2."""
    at = 0
    while at < len(messages):
        message = messages[at]
        if message["role"] == "tool":
            yield Violation(
                "OC2",
                f"messages[{at}].role",
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                "with 'tool_calls'.",
            )
            at += 1
            continue
        asked = [call["id"] for call in _calls(message)]
        begin = at
        at += 1
        if not asked:
            continue
        if len(set(asked)) < len(asked):
            yield Violation(
                "OC1", f"messages[{begin}].tool_calls", "Duplicate value for 'tool_call_id' in one message."
            )
        open_ids = set(asked)
        while at < len(messages) and messages[at]["role"] == "tool":
            answered = messages[at]["tool_call_id"]
            if answered in open_ids:
                open_ids.remove(answered)
            else:
                yield Violation(
                    "OC2",
                    f"messages[{at}].tool_call_id",
                    "Invalid parameter: 'tool_call_id' of "
                    f"{answered!r} not found in 'tool_calls' of previous message, or answered already.",
                )
            at += 1
        if open_ids:
            missing = ", ".join(call_id for call_id in dict.fromkeys(asked) if call_id in open_ids)
            yield Violation(
                "OC1",
                f"messages[{begin}].tool_calls",
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {missing}",
            )


def _order(messages: list[Any]) -> Iterator[Violation]:  # Any: checked by `_shape`
    """OC5, C16 and M3."""
    roles = [message["role"] for message in messages]
    first = 1 if roles[0] in _SYSTEM else 0
    for at in range(first, len(roles)):
        before = roles[at - 1] if at > first else None
        role = roles[at]
        if role in _SYSTEM or (before is None and role == "assistant") or (before == role != "tool"):
            yield Violation(
                "OC5",
                f"messages[{at}].role",
                "After the optional system message, conversation roles must alternate user and assistant roles",
            )
        if before == "tool" and role == "user":
            yield Violation("C16", f"messages[{at}].role", "Unexpected role 'user' after role 'tool'")
    if roles[-1] not in ("user", "tool"):
        yield Violation(
            "M3",
            f"messages[{len(roles) - 1}].role",
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got "
            + roles[-1],
        )


def _assistant(where: str, message: Mapping[str, Any]) -> Iterator[Violation]:  # Any: checked by `_shape`
    """OC3, OC4 and OC6."""
    calls = message.get("tool_calls")
    if calls == []:
        yield Violation(
            "OC6",
            f"{where}.tool_calls",
            f"Invalid '{where}.tool_calls': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
        )
    if not calls and _is_empty(message.get("content")):
        yield Violation(
            "OC4",
            f"{where}.content",
            f"Invalid value for '{where}.content': expected a non-empty string or 'tool_calls'.",
        )
    for index, call in enumerate(calls or ()):
        arguments = call["function"].get("arguments")
        if not isinstance(arguments, str) or not is_json_object(arguments):
            yield Violation(
                "OC3",
                f"{where}.tool_calls[{index}].function.arguments",
                f"Failed to parse tool call arguments as JSON: {arguments!r}",
            )


def _is_empty(content: Any) -> bool:  # Any: checked by `_shape`
    if isinstance(content, list):
        texts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        return len(texts) == len(content) and all(not isinstance(t, str) or is_blank(t) for t in texts)
    return content is None or is_blank(content)


def _mistral(messages: list[Any]) -> Iterator[Violation]:  # Any: checked by `_shape`
    """M1, M4 and M5: OC1, OC2 and OC4 in another's words, and the shape of ids."""
    asked = [call["id"] for message in messages for call in _calls(message)]
    answers = [message for message in messages if message["role"] == "tool"]
    if len(asked) != len(answers):
        yield Violation("M1", "messages", "Not the same number of function calls and responses")
    for at, message in enumerate(messages):
        if message["role"] == "assistant" and not _calls(message) and _is_empty(message.get("content")):
            yield Violation(
                "M4",
                f"messages[{at}]",
                "Assistant message must have either content or tool_calls, but not none.",
            )
        for call in _calls(message):
            if _NINE.fullmatch(call["id"]) is None:
                yield Violation(
                    "M5",
                    f"messages[{at}].tool_calls",
                    f"Tool call id was {call['id']} but must be a-z, A-Z, 0-9, with a length of 9.",
                )
