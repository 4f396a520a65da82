"""What reading somebody else's history has in common over the dialects.

A raw history may be broken in every way: this mends nothing, it only says in our words what is there, so that
`validate` can name what is wrong and `repair` can mend it.
"""

import json
from collections.abc import Iterator, Sequence

import msgspec

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import JsonObject
from aiwrapper._core.errors import BadLog
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    Producer,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolResult,
    UserMessage,
    UserPart,
)


class RawHistory:
    """Messages as they are read; ids are ours, the provider's stay beside them.

    A result belongs to the newest call with its id that has no result yet, if there is one; then to the newest
    with its id (it is a second result, C3); otherwise to nobody (an orphan, C2).

    Args:
        producer: who said what the assistant says.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._messages: list[UserMessage | AssistantMessage | ToolMessage] = []
        self._results: list[ToolResult] = []
        # By the provider's id: our ids of the calls without a result, the one to be answered next at the end ...
        self._open: dict[str | None, list[str]] = {}
        # ... and that of the newest call, for a second result.
        self._newest: dict[str | None, str] = {}

    def user(self, parts: Sequence[UserPart]) -> None:
        """The user said something, perhaps nothing at all."""
        self._close_results()
        self._messages.append(UserMessage(f"raw.{len(self._messages)}", tuple(parts)))

    def assistant(self, parts: Sequence[AssistantPart | tuple[str, str, str | None]]) -> None:
        """The model said something; a call is its name, its arguments and the provider's id."""
        self._close_results()
        message_id = f"raw.{len(self._messages)}"
        said: list[AssistantPart] = []
        calls: list[ToolCall] = []
        for part in parts:
            if isinstance(part, tuple):
                name, arguments, provider_id = part
                part = ToolCall(
                    f"{message_id}.{len(calls)}", name, arguments=arguments, provider_id=provider_id
                )
                calls.append(part)
            said.append(part)
        # The calls of one message are looked through from its first, those of several from the newest.
        for call in reversed(calls):
            self._open.setdefault(call.provider_id, []).append(call.id)
            self._newest[call.provider_id] = call.id
        self._messages.append(AssistantMessage(message_id, tuple(said), producer=self._producer))

    def result(self, provider_id: str | None, content: str, outcome: ToolOutcome = "returned") -> None:
        """A result; neighbours become one message."""
        open_calls = self._open.get(provider_id)
        call_id = (
            open_calls.pop() if open_calls else self._newest.get(provider_id, f"raw.orphan.{provider_id}")
        )
        self._results.append(ToolResult(call_id, content, outcome=outcome))

    def conversation(self) -> Conversation:
        """All that was read."""
        self._close_results()
        return Conversation.of(self._messages)

    def _close_results(self) -> None:
        if self._results:
            self._messages.append(ToolMessage(f"raw.{len(self._messages)}", tuple(self._results)))
            self._results = []


def roles(messages: object) -> Iterator[tuple[str, JsonObject]]:
    """Each message with its role.

    Raises:
        BadLog: one is no JSON object with a role.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise BadLog(f"a history has to be a list of messages, not {type(messages).__name__}")
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str):
            raise BadLog(f"messages[{at}] is no JSON object with a role")
        yield role, message


def as_text(value: object) -> str:
    """A JSON value as text: itself if it is text, else its JSON."""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # somewhere in it is a lone surrogate, which only an escape can hold
        return json.dumps(value)


def as_id(value: object) -> str | None:
    """A provider's id, if it has one."""
    return value if isinstance(value, str) and value else None
