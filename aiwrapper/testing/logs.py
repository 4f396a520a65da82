"""Hypothesis strategies for logs and the conversations that they say.

Drawn over structure: a log is runs of turns of parts, cut short at places, with things said out of turn in
between. `logs()` are what may stand on a disk; `honest_logs()` what our own drivers write, and any prefix
of those is what a crash leaves. What other programs leave is in `histories`.

    @given(logs())
    def test_my_sink_takes_every_log(log): ...
"""

from collections.abc import Iterable
from typing import Final, TypeVar

from hypothesis import strategies as st

from aiwrapper._core.conversation import Conversation, fold, settle
from aiwrapper._core.log import (
    Configured,
    Deleted,
    Entry,
    HeadMoved,
    ReasoningDelta,
    ReasoningFinished,
    RetryWaiting,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    Titled,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    ToolUsageReported,
    TurnFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.messages import Producer, UserPart
from aiwrapper.testing._samples import (
    BOOL,
    NAMES,
    NO_OBJECTS,
    OBJECTS,
    OUTCOME,
    PAYLOADS,
    PIECES,
    PLAN,
    PRODUCER,
    RESULT_TEXT,
    TEXT,
    USAGE,
    USER_PARTS,
    WHERE,
    number_below,
)
from aiwrapper.testing._samples import PRODUCERS as PRODUCERS

T = TypeVar("T")


def user_parts() -> st.SearchStrategy[tuple[UserPart, ...]]:
    """What a user says: seldom nothing, or nothing but blanks."""
    return USER_PARTS


def _reasoning(draw: st.DrawFn, run_id: str, turn: int, producer: Producer) -> list[Entry]:
    entries: list[Entry] = [ReasoningDelta(run_id, turn, text=text) for text in draw(PIECES)]
    payload = PAYLOADS[producer.dialect][number_below(draw, len(PAYLOADS[producer.dialect]))]
    match number_below(draw, 4):
        case 0:
            entries.append(ReasoningFinished(run_id, turn))
        case 1:
            entries.append(ReasoningFinished(run_id, turn, payload=payload))
        case 2:
            entries = [ReasoningFinished(run_id, turn, payload=payload)]  # it shows nothing
        case _:
            pass
    return entries


def _call(draw: st.DrawFn, run_id: str, turn: int, index: int, *, whole: bool) -> list[Entry]:
    name = NAMES[number_below(draw, len(NAMES))]
    # Some hosts repeat their ids, some have none (C3).
    provider_id = (None, "call_1", f"toolu_{run_id}_{turn}_{index}")[number_below(draw, 3)]
    arguments = OBJECTS[number_below(draw, len(OBJECTS))]
    cut = number_below(draw, len(arguments))
    entries: list[Entry] = [ToolCallStarted(run_id, turn, index, name=name, provider_id=provider_id)]
    entries += (
        ToolCallArguments(run_id, turn, index, text=text)
        for text in (arguments[:cut], arguments[cut:])
        if text
    )
    if whole:
        payload = (None, None, None, '{"thought_signature":"c2ln"}')[number_below(draw, 4)]
        entries.append(
            ToolCallReady(
                run_id,
                turn,
                index,
                name=name,
                arguments=arguments,
                provider_id=provider_id,
                payload=payload,
            )
        )
    return entries


def _interleaved(draw: st.DrawFn, sequences: Iterable[Iterable[T]]) -> list[T]:
    """The sequences in one, each in its own order."""
    left = [list(sequence) for sequence in sequences]
    result: list[T] = []
    while left:
        sequence = left[number_below(draw, len(left))]
        result.append(sequence.pop(0))
        left = [sequence for sequence in left if sequence]
    return result


def _turn(draw: st.DrawFn, run_id: str, turn: int) -> tuple[list[Entry], list[Entry]]:
    """A turn's entries and those of its tools."""
    producer = draw(PRODUCER)
    entries: list[Entry] = [TurnStarted(run_id, turn, producer=producer)]
    entries += (
        RetryWaiting(run_id, turn, attempt=attempt, seconds=0.5, error="the host said 500")
        for attempt in range(1, (1, 1, 1, 2, 3)[number_below(draw, 5)])
    )
    indices: list[int] = []
    calls: list[list[Entry]] = []
    for kind in draw(PLAN):
        match kind:
            case "text":
                entries += (TextDelta(run_id, turn, text=text) for text in draw(PIECES))
            case "reasoning":
                entries += _reasoning(draw, run_id, turn, producer)
            case "usage":
                entries.append(UsageReported(run_id, turn, usage=draw(USAGE)))
            case _:
                if kind == "call":
                    indices.append(len(calls))
                calls.append(_call(draw, run_id, turn, len(calls), whole=kind == "call"))
    entries += _interleaved(draw, calls)
    finish_reason = ("stop", "tool_use", "length")[number_below(draw, 3)]
    entries.append(TurnFinished(run_id, turn, finish_reason=finish_reason))
    tools: list[list[Entry]] = []
    for index in indices:
        outcome = draw(OUTCOME)
        finished = ToolFinished(run_id, turn, index, outcome=outcome, content=draw(RESULT_TEXT))
        started = outcome in ("returned", "raised", "interrupted_running", "sibling_failed")
        used: list[Entry] = [
            ToolUsageReported(run_id, turn, index, turns=turns, usage=draw(USAGE))
            for turns in range(1, (1, 1, 1, 2, 3)[number_below(draw, 5)])
        ]
        tools.append([ToolStarted(run_id, turn, index), *used, finished] if started else [finished])
    return entries, _interleaved(draw, tools)


def _terminal(draw: st.DrawFn, run_id: str) -> list[Entry]:
    """How a run ends; nothing, if its process dies."""
    match number_below(draw, 4):
        case 0:
            return [RunFinished(run_id)]
        case 1:
            return [RunStopped(run_id, reason="user", message="enough", where=draw(WHERE))]
        case 2:
            return [RunFailed(run_id, error="network", message="the connection broke")]
        case _:
            return []


def _run(draw: st.DrawFn, run_id: str) -> list[Entry]:
    """A run, whole or cut at a drawn place."""
    entries: list[Entry] = [RunStarted(run_id)]
    for turn in range(1, 2 + number_below(draw, 3)):
        said, tools = _turn(draw, run_id, turn)
        entries += said + tools
        if not tools:
            break
    if not draw(BOOL):
        entries = entries[: 1 + number_below(draw, len(entries))]
    return entries + _terminal(draw, run_id)


@st.composite
def honest_logs(draw: st.DrawFn, *, max_runs: int = 3) -> list[Entry]:
    """What our own drivers write, with crashes, edits and branches, in the order that log.py promises.

    Args:
        draw: hypothesis gives it.
        max_runs: how many runs at most.
    """
    entries: list[Entry] = []
    known: list[str] = []
    for number in range(1 + number_below(draw, max_runs)):
        for _ in range((1, 1, 1, 0, 2)[number_below(draw, 5)]):
            message_id = f"u{len(entries)}"
            synthetic = draw(BOOL)
            entries.append(UserMessageAdded(message_id, draw(USER_PARTS), synthetic=synthetic))
            known.append(message_id)
        entries += _run(draw, f"r{number}")
        known += [f"r{number}.1", f"r{number}.2", f"r{number}.1.results"]
        match number_below(draw, 6):
            case 0:
                entries.append(HeadMoved((None, *known)[number_below(draw, len(known) + 1)]))
            case 1:
                entries.append(Titled(draw(TEXT)))
            case 2:
                entries.append(Configured('{"model": "other"}'))
            case _:
                pass
    return entries


def _stray_entries() -> st.SearchStrategy[Entry]:
    run_ids = st.sampled_from(("r0", "r1", "r2", "elsewhere", "u0"))
    turns = st.sampled_from((1, 2, 0, -1, 3, 2**70))
    indices = st.sampled_from((0, 1, 2, -1, 2**70))
    arguments = st.sampled_from(OBJECTS + NO_OBJECTS)
    text = TEXT | st.just("")
    message_ids = st.sampled_from(("u0", "r0.1", "r0.1.results", "r1.1", "elsewhere"))
    return st.one_of(
        st.builds(TextDelta, run_ids, turns, text=text),
        st.builds(ReasoningDelta, run_ids, turns, text=text),
        st.builds(ReasoningFinished, run_ids, turns, payload=st.sampled_from((None, "{}"))),
        st.builds(ToolCallStarted, run_ids, turns, indices, name=text),
        st.builds(ToolCallArguments, run_ids, turns, indices, text=text),
        st.builds(ToolCallReady, run_ids, turns, indices, name=text, arguments=arguments),
        st.builds(ToolStarted, run_ids, turns, indices),
        st.builds(ToolFinished, run_ids, turns, indices, outcome=OUTCOME, content=text),
        st.builds(UsageReported, run_ids, turns, usage=USAGE),
        st.builds(ToolUsageReported, run_ids, turns, indices, turns=st.sampled_from((0, 1, 5)), usage=USAGE),
        st.builds(TurnFinished, run_ids, turns, finish_reason=st.just("stop")),
        st.builds(TurnStarted, run_ids, turns, producer=PRODUCER),
        st.builds(RunStarted, run_ids),
        st.builds(RunFinished, run_ids),
        st.builds(RunStopped, run_ids, reason=text),
        st.builds(RunFailed, run_ids, error=text, message=text),
        st.builds(UserMessageAdded, message_ids, user_parts(), parent_id=st.none() | message_ids),
        st.builds(HeadMoved, st.none() | message_ids),
        st.builds(Deleted, at=st.floats(allow_nan=False)),
    )


_STRAY: Final = _stray_entries()


def stray_entries() -> st.SearchStrategy[Entry]:
    """Entries that make no sense where they stand: of other runs and turns, with odd indices, repeated ids."""
    return _STRAY


@st.composite
def logs(draw: st.DrawFn, *, max_runs: int = 3, max_strays: int = 6) -> list[Entry]:
    """Any log: an honest one with entries put in between that make no sense there, and some of its own twice.

    Args:
        draw: hypothesis gives it.
        max_runs: how many runs at most.
        max_strays: how many strange entries at most.
    """
    entries = draw(honest_logs(max_runs=max_runs))
    for _ in range(number_below(draw, max_strays + 1)):
        place = number_below(draw, len(entries) + 1)
        again = draw(BOOL)
        entries.insert(place, entries[number_below(draw, len(entries))] if again else draw(_STRAY))
    return entries


def conversations() -> st.SearchStrategy[Conversation]:
    """Conversations that a stop at some place of a log has left: all of them valid (L1)."""
    return logs().map(lambda log: settle(fold(log)))
