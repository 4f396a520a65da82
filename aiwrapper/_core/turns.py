"""One turn of the model while it is open, and the messages it becomes.

A turn is open from `turn_started` until it is whole and every call has its result. It is kept as the
entries it came in; the messages are made of them once, when it is closed or when somebody looks.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias, assert_never

from attrs import field, frozen

from aiwrapper._core.log import (
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    CutCall,
    Opaque,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolResult,
)
from aiwrapper._core.text import is_blank, is_json_object
from aiwrapper._core.versions import Versions

SYNTHETIC_RESULTS: Final[Mapping[ToolOutcome, str]] = {
    "not_started": (
        "Not executed: the run ended before this call was started, so it had no effect. "
        "Call again if it is still needed."
    ),
    "interrupted_running": (
        "Interrupted: the run ended while this call was being executed. It may have taken effect in part or "
        "in full; find out before you repeat it."
    ),
    "denied": "Not executed: a person refused this call, so it had no effect.",
    "sibling_failed": (
        "Given up because another call of the same turn failed. If it had begun, it may have taken effect in part."
    ),
}
"""What a model is told of a call that no handler answered (C7).

The texts never change with the moment, so prompt caches survive; and they never make a stop look like a
refusal, because models then apologise and give up.
"""

InTurn: TypeAlias = (
    TextDelta
    | ReasoningDelta
    | ReasoningFinished
    | ToolCallStarted
    | ToolCallArguments
    | ToolCallReady
    | ToolStarted
    | ToolFinished
    | TurnFinished
)
"""What an open turn takes in."""


@frozen
class OpenTurn:
    """A turn that is being said, or whose tools are being run.

    Args:
        number: the turn's.
        producer: who says it.
        entries: what was taken. Keys: `(kind, index)` for calls, results and the turn's end.
        unanswered: how many calls have no result yet.
    """

    number: int
    producer: Producer
    entries: Versions[InTurn] = field(factory=Versions)
    unanswered: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the provider has ended the turn."""
        return (TurnFinished.kind, 0) in self.entries

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing: it can become messages."""
        return not self.unanswered and self.is_whole

    def is_started(self, index: int) -> bool:
        """Whether a call's handler was called, as far as the log says: a result tells it, too."""
        return (ToolStarted.kind, index) in self.entries or self.outcome(index) in (
            "returned",
            "raised",
            "interrupted_running",
        )

    def outcome(self, index: int) -> ToolOutcome | None:
        """What became of a call, None while it is not known."""
        result = self.entries.get((ToolFinished.kind, index))
        return result.outcome if isinstance(result, ToolFinished) else None

    def calls(self, run_id: str) -> Iterator[tuple[int, ToolCall]]:
        """The calls that exist, with their indices, in the order in which the provider began them."""
        for slot in _slots(self):
            if isinstance(slot, CallSlot) and slot.ready is not None:
                yield slot.index, _tool_call(run_id, self, slot.ready)

    def taken(self, entry: InTurn) -> "OpenTurn":
        """The turn with one more entry; the same object if the entry makes no sense in it.

        Costs the same however long the turn is.
        """
        entries = self.entries
        match entry:
            case TextDelta() | ReasoningDelta():
                if not entry.text or self.is_whole:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry), self.unanswered)
            case ToolStarted():
                key = (entry.kind, entry.index)
                # A handler that starts after the result would be a second execution: nothing of ours does it.
                known = (ToolCallReady.kind, entry.index) in entries
                if not known or key in entries or (ToolFinished.kind, entry.index) in entries:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry, key), self.unanswered)
            case ToolFinished():
                key = (entry.kind, entry.index)
                if (ToolCallReady.kind, entry.index) not in entries or key in entries:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry, key), self.unanswered - 1)
            case ReasoningFinished():
                if self.is_whole:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry), self.unanswered)
            case ToolCallStarted() | ToolCallArguments():
                if self.is_whole or entry.index < 0 or (ToolCallReady.kind, entry.index) in entries:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry), self.unanswered)
            case ToolCallReady():
                key = (entry.kind, entry.index)
                if self.is_whole or entry.index < 0 or key in entries:
                    return self
                if not is_json_object(entry.arguments):  # it is kept to be shown; a call it is not (C6)
                    return OpenTurn(self.number, self.producer, entries.appended(entry), self.unanswered)
                return OpenTurn(self.number, self.producer, entries.appended(entry, key), self.unanswered + 1)
            case TurnFinished():
                key = (entry.kind, 0)
                if key in entries:
                    return self
                return OpenTurn(self.number, self.producer, entries.appended(entry, key), self.unanswered)
            case _:
                assert_never(entry)


def turn_messages(
    run_id: str, turn: OpenTurn, *, parent_id: str | None
) -> tuple[AssistantMessage, ToolMessage | None] | None:
    """The messages that the turn becomes if it ends now; None if it said nothing that can be kept (C5).

    Calls without a result get a truthful one (C7): it was never started, or it was running and may have
    taken effect.
    """
    parts: list[AssistantPart] = []
    cut_calls: list[CutCall] = []
    results: list[ToolResult] = []
    for slot in _slots(turn):
        match slot:
            case TextSlot():
                text = "".join(slot.pieces)
                if not is_blank(text):
                    parts.append(Text(text))
            case ReasoningSlot():
                thought = "".join(slot.pieces)
                if slot.payload is not None or not is_blank(thought):
                    opaque = None if slot.payload is None else Opaque(turn.producer, slot.payload)
                    parts.append(Reasoning(thought, complete=slot.complete, opaque=opaque))
            case CallSlot():
                if slot.ready is None:
                    cut_calls.append(CutCall(slot.name, "".join(slot.pieces)))
                    continue
                call = _tool_call(run_id, turn, slot.ready)
                parts.append(call)
                results.append(tool_result(turn, call.id, slot.index))
            case _:
                assert_never(slot)
    if not parts:
        return None
    assistant = AssistantMessage(
        f"{run_id}.{turn.number}",
        tuple(parts),
        parent_id=parent_id,
        producer=turn.producer,
        stopped=not turn.is_whole,
        cut_calls=tuple(cut_calls),
    )
    if not results:
        return assistant, None
    return assistant, ToolMessage(f"{assistant.id}.results", tuple(results), parent_id=assistant.id)


def _tool_call(run_id: str, turn: OpenTurn, ready: ToolCallReady) -> ToolCall:
    return ToolCall(
        f"{run_id}.{turn.number}.{ready.index}",
        ready.name,
        arguments=ready.arguments,
        provider_id=ready.provider_id,
        opaque=None if ready.payload is None else Opaque(turn.producer, ready.payload),
    )


def tool_result(turn: OpenTurn, call_id: str, index: int) -> ToolResult:
    """The result of a call if the turn ends now."""
    result = turn.entries.get((ToolFinished.kind, index))
    if isinstance(result, ToolFinished):
        content = result.content
        if is_blank(content):  # a handler may have nothing to say; whoever did not call it may not
            content = SYNTHETIC_RESULTS.get(result.outcome, content)
        return ToolResult(call_id, content, outcome=result.outcome)
    outcome: ToolOutcome = "interrupted_running" if turn.is_started(index) else "not_started"
    return ToolResult(call_id, SYNTHETIC_RESULTS[outcome], outcome=outcome)


class TextSlot:
    """A text part that is being said."""

    def __init__(self) -> None:
        self.pieces: list[str] = []


class ReasoningSlot:
    """A reasoning part that is being said."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.complete = False
        self.payload: str | None = None


class CallSlot:
    """A call that is being said; it exists once it is `ready`."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.pieces: list[str] = []
        self.ready: ToolCallReady | None = None


Slot: TypeAlias = TextSlot | ReasoningSlot | CallSlot


class Slots:
    """The parts of a turn in the order in which the provider began them (C4), as far as its entries were taken."""

    def __init__(self) -> None:
        self.all: list[Slot] = []
        self._calls: dict[int, CallSlot] = {}
        self._thinking: ReasoningSlot | None = None  # the reasoning that is not finished, the newest of them

    def take(self, entry: InTurn, turn: OpenTurn) -> None:
        """Take the next entry of a turn."""
        slots, calls = self.all, self._calls
        match entry:
            case TextDelta():
                if not slots or not isinstance(slots[-1], TextSlot):
                    slots.append(TextSlot())
                slots[-1].pieces.append(entry.text)
            case ReasoningDelta():
                if self._thinking is None or slots[-1] is not self._thinking:
                    self._thinking = ReasoningSlot()
                    slots.append(self._thinking)
                self._thinking.pieces.append(entry.text)
            case ReasoningFinished():
                if self._thinking is None:  # a part that shows nothing
                    self._thinking = ReasoningSlot()
                    slots.append(self._thinking)
                self._thinking.complete = True
                self._thinking.payload = entry.payload
                self._thinking = None
            case ToolCallStarted():
                if entry.index not in calls:
                    calls[entry.index] = CallSlot(entry.index, entry.name)
                    slots.append(calls[entry.index])
            case ToolCallArguments():
                if entry.index in calls:
                    calls[entry.index].pieces.append(entry.text)
            case ToolCallReady():
                if entry.index not in calls:
                    calls[entry.index] = CallSlot(entry.index, entry.name)
                    slots.append(calls[entry.index])
                slot = calls[entry.index]
                slot.name = entry.name
                slot.pieces = [entry.arguments]
                slot.ready = entry if turn.entries.get((entry.kind, entry.index)) is entry else None
            case ToolStarted() | ToolFinished() | TurnFinished():
                pass  # how the calls went is looked up by key
            case _:
                assert_never(entry)


def _slots(turn: OpenTurn) -> list[Slot]:
    slots = Slots()
    for entry in turn.entries:
        slots.take(entry, turn)
    return slots.all
