"""What every dialect does with a conversation before it writes it down in its own way.

A conversation becomes turns which alternate strictly, begin with the user and end with what a model answers
to. All of it depends on a message and its direct neighbours only, never on its place or on the length of the
conversation: so a longer conversation encodes to an extension of the shorter one (L6), and the caches of the
providers keep their worth.
"""

import base64
import hashlib
import re
from typing import TypeAlias, assert_never

from attrs import frozen

from aiwrapper._core.conversation import CONTINUE_CUT, CONTINUE_WHOLE, Conversation
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    Image,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
    UserPart,
)
from aiwrapper._core.text import is_blank

BRIDGE = "I have the results."
"""Said for the model between tool results and a user's message, where the model itself was stopped (C16).

True whatever the results say, and nothing that invites to be imitated. Mistral and Gemini refuse the gap, and
other models take the user's text for a part of the results.
"""

OPENING = "(The conversation begins with the assistant.)"
"""Stands for the user where a conversation has no message yet or does not begin with a user's (A9)."""

NO_OUTPUT = "(no output)"
"""Stands for a result without text, which some hosts refuse."""

_NAME_BREAKERS = re.compile(r"[^a-zA-Z0-9_-]")
_NAME_CHARACTERS = 64


@frozen
class UserTurn:
    """What the user said; at least one part, no blank text."""

    parts: tuple[UserPart, ...]


@frozen
class ModelTurn:
    """What the model said in one turn.

    Args:
        parts: those that are worth looking at: no blank text.
        message: where they are from; None for the bridge.
    """

    parts: tuple[AssistantPart, ...]
    message: AssistantMessage | None

    @property
    def text(self) -> str:
        """All text of it, as one."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """All calls of it, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


@frozen
class ResultsTurn:
    """The results of the calls of the model's turn before it, in call order."""

    results: tuple[ToolResult, ...]


WireTurn: TypeAlias = UserTurn | ModelTurn | ResultsTurn


def wire_turns(conversation: Conversation) -> list[WireTurn]:
    """The conversation as alternating turns; never empty, for any conversation that is valid by itself.

    What the user says one after the other becomes one turn. Between two answers the user is made to say that
    the model may go on, because that is what the second answer was an answer to: it had to be asked for with
    the same words, see the end.
    """
    turns: list[WireTurn] = []
    for message in conversation.messages:
        last = turns[-1] if turns else None
        match message:
            case UserMessage():
                parts = tuple(part for part in message.parts if not _is_blank_text(part))
                if not parts:
                    continue
                if isinstance(last, UserTurn):
                    turns[-1] = UserTurn(last.parts + parts)
                    continue
                if isinstance(last, ResultsTurn):
                    turns.append(ModelTurn((Text(BRIDGE),), None))
                turns.append(UserTurn(parts))
            case AssistantMessage():
                said = tuple(part for part in message.parts if not _is_blank_text(part))
                if all(isinstance(part, Reasoning) for part in said):
                    continue  # C17: of a turn that was stopped while it reasoned, nothing is sent
                if last is None:
                    turns.append(UserTurn((Text(OPENING),)))
                elif isinstance(last, ModelTurn):
                    turns.append(_go_on(last))
                turns.append(ModelTurn(said, message))
            case ToolMessage():
                turns.append(ResultsTurn(message.results))
            case _:
                assert_never(message)
    if not turns:
        turns.append(UserTurn((Text(OPENING),)))
    elif isinstance(turns[-1], ModelTurn):
        turns.append(_go_on(turns[-1]))  # nobody has said anything since (A8, M3); never stored
    return turns


def _go_on(turn: ModelTurn) -> UserTurn:
    """What the user has to say so that the model says more; `continue_` stores the same."""
    is_cut = turn.message is not None and turn.message.stopped
    return UserTurn((Text(CONTINUE_CUT if is_cut else CONTINUE_WHOLE),))


def _is_blank_text(part: UserPart | AssistantPart) -> bool:
    return isinstance(part, Text) and is_blank(part.text)


class CallIds:
    """Our call ids as the wire's: deterministic, and no two alike in one conversation.

    The providers' own ids are not used: some hosts repeat or omit theirs (C3), and each provider refuses ids of
    some other's shape. Ours is hashed; should two hashes agree, the later id is hashed again, so what an id
    becomes depends only on the ids before it (L6).

    Args:
        prefix: what the provider's own ids begin with.
        length: characters after the prefix, all of them lower-case letters or digits.
    """

    def __init__(self, prefix: str, length: int) -> None:
        self._prefix = prefix
        self._length = length
        self._known: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, call_id: str) -> str:
        known = self._known.get(call_id)
        if known is not None:
            return known
        digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).digest()
        while (wire_id := self._shaped(digest)) in self._taken:
            digest = hashlib.sha256(digest).digest()
        self._taken.add(wire_id)
        self._known[call_id] = wire_id
        return wire_id

    def _shaped(self, digest: bytes) -> str:
        return self._prefix + base64.b32encode(digest)[: self._length].decode().lower()


def wire_name(name: str) -> str:
    """A tool's name as the wire takes it: models make up names, and one with a space is refused for ever."""
    return _NAME_BREAKERS.sub("_", name)[:_NAME_CHARACTERS] or "unnamed"


def result_text(result: ToolResult) -> str:
    """What the model is told of a call."""
    return NO_OUTPUT if is_blank(result.content) else result.content


def image_url(image: Image) -> str:
    """An image as a `data:` URL."""
    return f"data:{image.media_type};base64,{image.data}"
