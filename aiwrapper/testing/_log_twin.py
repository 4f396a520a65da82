"""A conversation beside its log, by a twin that reads the log without a state: is what was told what is kept?

The fold makes messages of entries; this counts them off instead, and knows nothing of turns that are open, of slots
or of versions. So a mistake in the one is not made in the other.
"""

from collections.abc import Iterable, Iterator
from typing import assert_never

from attrs import define, field

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.log import (
    Entry,
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import (
    AssistantMessage,
    Reasoning,
    Text,
    ToolMessage,
    ToolOutcome,
    ToolResult,
    UserMessage,
)
from aiwrapper._core.text import is_blank, well_formed
from aiwrapper._core.validity import Violation


@define
class _Twin:
    """One turn as the log tells it, read without a state."""

    text: str = ""
    thoughts: str = ""
    payloads: list[str] = field(factory=list)
    begun: dict[int, str] = field(factory=dict)
    ready: dict[int, ToolCallReady] = field(factory=dict)
    outcomes: dict[int, ToolOutcome] = field(factory=dict)
    results: dict[int, str] = field(factory=dict)
    whole: bool = False

    @property
    def is_empty(self) -> bool:
        return is_blank(self.text) and is_blank(self.thoughts) and not self.payloads and not self.ready


def _twins(entries: Iterable[Entry]) -> dict[str, _Twin]:
    twins: dict[str, _Twin] = {}
    for entry in entries:
        match entry:
            case TurnStarted():
                twins[f"{entry.run_id}.{entry.turn}"] = _Twin()
            case (
                TextDelta()
                | ReasoningDelta()
                | ReasoningFinished()
                | ToolCallStarted()
                | ToolCallReady()
                | ToolStarted()
                | ToolFinished()
                | TurnFinished()
            ):
                twin = twins[f"{entry.run_id}.{entry.turn}"]
                match entry:
                    case TextDelta():
                        twin.text += entry.text
                    case ReasoningDelta():
                        twin.thoughts += entry.text
                    case ReasoningFinished():
                        if entry.payload is not None:
                            twin.payloads.append(entry.payload)
                    case ToolCallStarted():
                        twin.begun[entry.index] = entry.name
                    case ToolCallReady():
                        twin.ready[entry.index] = entry
                        twin.outcomes[entry.index] = "not_started"
                    case ToolStarted():
                        twin.outcomes[entry.index] = "interrupted_running"
                    case ToolFinished():
                        twin.outcomes[entry.index] = entry.outcome
                        twin.results[entry.index] = entry.content
                    case TurnFinished():
                        twin.whole = True
                    case _:
                        assert_never(entry)
            case _:
                pass
    return twins


def letters(text: str) -> str:
    """What of a text can be compared without knowing which parts were blank, or which halves of a character met."""
    return "".join(
        c
        for c in text
        if not c.isspace() and not "\ud800" <= c <= "\udfff" and c != "\ufffd" and c < "\U00010000"
    )


def untold(entries: Iterable[Entry], conversation: Conversation) -> Iterator[Violation]:
    """Where a conversation does not say what the log says: C3, C6, C7, C8, C9, C11, C12.

    Args:
        entries: a log as our drivers write it, or a prefix of one, that ends in `conversation`.
        conversation: what it was folded and settled to. Messages from before the log are left alone.
    """
    log = list(entries)
    twins = {message_id: twin for message_id, twin in _twins(log).items() if not twin.is_empty}
    wanted = [entry.id for entry in log if isinstance(entry, UserMessageAdded) and _says_something(entry)]
    runs = {message_id.rpartition(".")[0] for message_id in _twins(log)}
    there: dict[str, AssistantMessage] = {}
    results: dict[str, ToolResult] = {}
    for message in conversation.all_messages:
        match message:
            case UserMessage():
                if message.id in wanted:
                    wanted.remove(message.id)
            case AssistantMessage() if message.id.partition(".")[0] in runs:
                there[message.id] = message
            case ToolMessage() if message.id.partition(".")[0] in runs:
                results |= {result.call_id: result for result in message.results}
            case _:
                pass
    for message_id in wanted:
        yield Violation("C9", "all_messages", f"what the user said in {message_id!r} is gone")
    for message_id in there.keys() - twins.keys():
        yield Violation("C11", message_id, "nobody has said this message")
    for message_id in twins.keys() - there.keys():
        yield Violation("C11", message_id, f"the message is gone, and {twins[message_id].text!r} with it")
    for message_id in there.keys() & twins.keys():
        yield from _unlike(message_id, twins[message_id], there[message_id], results)


def _says_something(entry: UserMessageAdded) -> bool:
    return any(not is_blank(part.text) if isinstance(part, Text) else bool(part.data) for part in entry.parts)


def _unlike(
    message_id: str, twin: _Twin, message: AssistantMessage, results: dict[str, ToolResult]
) -> Iterator[Violation]:
    if letters(message.text) != letters(twin.text):
        yield Violation("C11", message_id, f"kept {message.text!r}, and was told {twin.text!r}")
    if message.stopped == twin.whole:
        yield Violation(
            "C12", message_id, f"marked stopped={message.stopped}, and its turn is whole={twin.whole}"
        )
    reasoning = [part for part in message.parts if isinstance(part, Reasoning)]
    if letters("".join(part.text for part in reasoning)) != letters(twin.thoughts):
        yield Violation("C8", message_id, f"kept other reasoning than was told: {twin.thoughts!r}")
    if [part.opaque.body for part in reasoning if part.opaque is not None] != list(
        map(well_formed, twin.payloads)
    ):
        yield Violation("C8", message_id, "the payloads are others than the provider gave")
    calls = {call.id: call for call in message.calls}
    ready = {f"{message_id}.{index}": entry for index, entry in twin.ready.items()}
    if calls.keys() != ready.keys():
        yield Violation(
            "C6", message_id, f"calls {sorted(calls)}, and the provider has finished {sorted(ready)}"
        )
    for index in twin.ready:
        call_id = f"{message_id}.{index}"
        call, result = calls.get(call_id), results.get(call_id)
        if call is None or result is None:
            continue  # C6 and C1 say so
        if (call.name, call.arguments) != (
            well_formed(ready[call_id].name),
            well_formed(ready[call_id].arguments),
        ):
            yield Violation("C6", call_id, f"{call} is not what the provider said")
        if result.outcome != twin.outcomes[index]:
            yield Violation("C7", call_id, f"told as {result.outcome}, and it is {twin.outcomes[index]}")
        content = twin.results.get(index, "")
        if not is_blank(content) and result.content != well_formed(content):
            yield Violation("C7", call_id, f"the result is {result.content!r}, and was {content!r}")
    if not twin.whole:
        cut = [well_formed(name) for index, name in twin.begun.items() if index not in twin.ready]
        if cut != [call.name for call in message.cut_calls]:
            yield Violation("C6", message_id, f"cut calls {message.cut_calls}, and cut were {cut}")
