"""Whether a conversation can be gone on with: the next request, encoded for every kind of host, and judged."""

from collections.abc import Iterator
from typing import Final

from attrs import evolve

from aiwrapper._core.conversation import Conversation, append, continue_, move_head
from aiwrapper._core.dialect import Dialect, Options, ToolSpec
from aiwrapper._core.messages import AssistantMessage, Producer, Text, UserMessage
from aiwrapper._core.validity import Violation
from aiwrapper.dialects.hosts import HOSTS
from aiwrapper.dialects.openai_chat import OpenAIChat


def _kind(dialect: Dialect) -> Dialect:
    """The dialect without the ways that no rule looks at, so that each kind of host is asked once."""
    if isinstance(dialect, OpenAIChat):
        return evolve(dialect, max_tokens_field="max_tokens", usage_option=True)
    return dialect


KINDS: Final = tuple(dict.fromkeys(_kind(host.dialect) for host in HOSTS.values()))
_USERS_NEXT: Final = "And now?"


def refused_next(conversation: Conversation, tools: tuple[ToolSpec, ...] = ()) -> list[Violation]:
    """C13, C16, C17: what any host's dialect refuses of the three ways to go on from here; [] if nothing.

    Said is a user's next message, what `continue_` asks for, and another try of the last answer.

    Args:
        conversation: a settled one.
        tools: what the model is offered.
    """
    ways = [append(conversation, UserMessage("the next", (Text(_USERS_NEXT),)))]
    asked = continue_(conversation)
    ways.append(conversation if asked is None else append(conversation, asked))
    again = conversation.head
    while again is not None and not isinstance(again, UserMessage):
        again = conversation.message(again.parent_id)
    if again is not None:
        ways.append(move_head(conversation, again.id))
    found: list[Violation] = []
    for dialect, options in _everybody(conversation, tools):
        for way in ways:
            if way.head is not None:
                found += dialect.violations(dialect.encode(way, options))
    return found


def _everybody(conversation: Conversation, tools: tuple[ToolSpec, ...]) -> Iterator[tuple[Dialect, Options]]:
    """Each kind of host that we know, as asked by the last producer and, where there is one, with thinking."""
    producers = [m.producer for m in conversation.all_messages if isinstance(m, AssistantMessage)]
    for dialect in KINDS:
        last = next((p for p in reversed(producers) if p.dialect == dialect.name), None)
        producer = last or Producer(dialect.name, "elsewhere.example", model="another")
        yield dialect, Options(producer=producer, tools=tools, thinking_tokens=2_000)
