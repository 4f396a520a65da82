"""Hypothesis strategies for logs, conversations and broken histories.

Drawn over structure: a log is runs of turns of parts, cut short at places, with things said out of turn in
between. `logs()` are what may stand on a disk; `honest_logs()` what our own drivers write, and any prefix
of those is what a crash leaves; `broken_histories()` what other programs have left behind.

    @given(logs())
    def test_my_sink_takes_every_log(log): ...
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, TypeVar, get_args

from attrs import evolve
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
    StopWhere,
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
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    CutCall,
    Image,
    Message,
    Opaque,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolResult,
    Usage,
    UserMessage,
    UserPart,
)

T = TypeVar("T")

PRODUCERS: Final = (
    Producer("openai_chat", "api.openai.com", model="gpt"),
    Producer("openai_chat", "api.deepseek.com", model="reasoner"),
    Producer("anthropic", "api.anthropic.com", model="claude"),
    Producer("anthropic", "api.anthropic.com", model="claude-other"),
)
"""Who may have said a turn: conversations switch dialect, host and model in the middle."""

# Sampled, because one draw is cheap and these are the texts that have broken something somewhere.
_TEXTS: Final = (
    "Hello",
    " world",
    "a",
    " ",
    "\n\t",
    "\u3000",  # blank, and no ASCII
    "caf\u00e9 \U0001f44d",
    "\ud83d",  # half of a character, as an escape in somebody's JSON gives it
    "\ude00",
    '{"a": 1',
    "trailing \n",
    "\x00",
)
_OBJECTS: Final = (
    "{}",
    '{"path": "a.txt"}',
    '{"a": {"b": [1, 2.5, null]}}',
    ' {"text": "caf\u00e9"} ',
    '{"n": 123456789012345678901234567890}',
)
_NO_OBJECTS: Final = (
    "",
    " ",
    "[]",
    "null",
    '"text"',
    '{"path": "a',
    "{}{}",
    '{"a": NaN}',
    '{"a": "\\ud800"}',
    "[" * 2000,
)
_NAMES: Final = ("read_page", "shell", "f", "weather.now", "with space", "n" * 70, "caf\u00e9")


# Strategies that are used at every entry are made once: making one costs more than drawing from it.
_TEXT: Final = st.sampled_from(_TEXTS) | st.text(min_size=1, max_size=8)
_PIECES: Final = st.lists(_TEXT, min_size=1, max_size=4)
_BOOL: Final = st.booleans()
_COUNT: Final = st.sampled_from((None, 0, 7, 10_000))
_USAGE: Final = st.builds(
    Usage,
    input_tokens=_COUNT,
    output_tokens=_COUNT,
    cached_input_tokens=_COUNT,
    reasoning_tokens=_COUNT,
    complete=st.booleans(),
)
_USER_PART: Final[st.SearchStrategy[UserPart]] = st.one_of(
    _TEXT.map(Text), st.sampled_from((Image("image/png", "aGk="), Text(""), Image("image/png", "")))
)
_USER_PARTS: Final = st.lists(_USER_PART, max_size=3).map(lambda parts: tuple(parts))
_PRODUCER: Final = st.sampled_from(PRODUCERS)
_OUTCOME: Final = st.sampled_from(get_args(ToolOutcome))
_RESULT_TEXT: Final = st.sampled_from(("12 files", "no such file", "", " ", "\ud800", "x" * 300))
# A turn's parts: mostly what models do.
_PLAN: Final = st.lists(
    st.sampled_from(("text", "text", "call", "reasoning", "call", "cut", "usage")), min_size=1, max_size=6
)
_WHERE: Final = st.sampled_from(get_args(StopWhere))
_PAYLOADS: Final[Mapping[str, tuple[str, ...]]] = {
    # The shapes in which the dialects keep them; another dialect must not look inside.
    "openai_chat": ('{"signature":"c2ln"}',),
    "anthropic": (
        '{"type":"thinking","thinking":"Hm.","signature":"c2ln"}',
        '{"type":"redacted_thinking","data":"ZGF0YQ=="}',
    ),
}


def user_parts() -> st.SearchStrategy[tuple[UserPart, ...]]:
    """What a user says: seldom nothing, or nothing but blanks."""
    return _USER_PARTS


@cache
def _below(number: int) -> st.SearchStrategy[int]:
    return st.integers(0, number - 1)


def _number(draw: st.DrawFn, below: int) -> int:
    return draw(_below(below)) if below > 1 else 0


def _reasoning(draw: st.DrawFn, run_id: str, turn: int, producer: Producer) -> list[Entry]:
    entries: list[Entry] = [ReasoningDelta(run_id, turn, text=text) for text in draw(_PIECES)]
    payload = _PAYLOADS[producer.dialect][_number(draw, len(_PAYLOADS[producer.dialect]))]
    match _number(draw, 4):
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
    name = _NAMES[_number(draw, len(_NAMES))]
    # Some hosts repeat their ids, some have none (C3).
    provider_id = (None, "call_1", f"toolu_{run_id}_{turn}_{index}")[_number(draw, 3)]
    arguments = _OBJECTS[_number(draw, len(_OBJECTS))]
    cut = _number(draw, len(arguments))
    entries: list[Entry] = [ToolCallStarted(run_id, turn, index, name=name, provider_id=provider_id)]
    entries += (
        ToolCallArguments(run_id, turn, index, text=text)
        for text in (arguments[:cut], arguments[cut:])
        if text
    )
    if whole:
        payload = (None, None, None, '{"thought_signature":"c2ln"}')[_number(draw, 4)]
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
        sequence = left[_number(draw, len(left))]
        result.append(sequence.pop(0))
        left = [sequence for sequence in left if sequence]
    return result


def _turn(draw: st.DrawFn, run_id: str, turn: int) -> tuple[list[Entry], list[Entry]]:
    """A turn's entries and those of its tools."""
    producer = draw(_PRODUCER)
    entries: list[Entry] = [TurnStarted(run_id, turn, producer=producer)]
    entries += (
        RetryWaiting(run_id, turn, attempt=attempt, seconds=0.5, error="the host said 500")
        for attempt in range(1, (1, 1, 1, 2, 3)[_number(draw, 5)])
    )
    indices: list[int] = []
    calls: list[list[Entry]] = []
    for kind in draw(_PLAN):
        match kind:
            case "text":
                entries += (TextDelta(run_id, turn, text=text) for text in draw(_PIECES))
            case "reasoning":
                entries += _reasoning(draw, run_id, turn, producer)
            case "usage":
                entries.append(UsageReported(run_id, turn, usage=draw(_USAGE)))
            case _:
                if kind == "call":
                    indices.append(len(calls))
                calls.append(_call(draw, run_id, turn, len(calls), whole=kind == "call"))
    entries += _interleaved(draw, calls)
    finish_reason = ("stop", "tool_use", "length")[_number(draw, 3)]
    entries.append(TurnFinished(run_id, turn, finish_reason=finish_reason))
    tools: list[list[Entry]] = []
    for index in indices:
        outcome = draw(_OUTCOME)
        finished = ToolFinished(run_id, turn, index, outcome=outcome, content=draw(_RESULT_TEXT))
        started = outcome in ("returned", "raised", "interrupted_running", "sibling_failed")
        used: list[Entry] = [
            ToolUsageReported(run_id, turn, index, turns=turns, usage=draw(_USAGE))
            for turns in range(1, (1, 1, 1, 2, 3)[_number(draw, 5)])
        ]
        tools.append([ToolStarted(run_id, turn, index), *used, finished] if started else [finished])
    return entries, _interleaved(draw, tools)


def _terminal(draw: st.DrawFn, run_id: str) -> list[Entry]:
    """How a run ends; nothing, if its process dies."""
    match _number(draw, 4):
        case 0:
            return [RunFinished(run_id)]
        case 1:
            return [RunStopped(run_id, reason="user", message="enough", where=draw(_WHERE))]
        case 2:
            return [RunFailed(run_id, error="network", message="the connection broke")]
        case _:
            return []


def _run(draw: st.DrawFn, run_id: str) -> list[Entry]:
    """A run, whole or cut at a drawn place."""
    entries: list[Entry] = [RunStarted(run_id)]
    for turn in range(1, 2 + _number(draw, 3)):
        said, tools = _turn(draw, run_id, turn)
        entries += said + tools
        if not tools:
            break
    if not draw(_BOOL):
        entries = entries[: 1 + _number(draw, len(entries))]
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
    for number in range(1 + _number(draw, max_runs)):
        for _ in range((1, 1, 1, 0, 2)[_number(draw, 5)]):
            message_id = f"u{len(entries)}"
            synthetic = draw(_BOOL)
            entries.append(UserMessageAdded(message_id, draw(_USER_PARTS), synthetic=synthetic))
            known.append(message_id)
        entries += _run(draw, f"r{number}")
        known += [f"r{number}.1", f"r{number}.2", f"r{number}.1.results"]
        match _number(draw, 6):
            case 0:
                entries.append(HeadMoved((None, *known)[_number(draw, len(known) + 1)]))
            case 1:
                entries.append(Titled(draw(_TEXT)))
            case 2:
                entries.append(Configured('{"model": "other"}'))
            case _:
                pass
    return entries


def _stray_entries() -> st.SearchStrategy[Entry]:
    run_ids = st.sampled_from(("r0", "r1", "r2", "elsewhere", "u0"))
    turns = st.sampled_from((1, 2, 0, -1, 3, 2**70))
    indices = st.sampled_from((0, 1, 2, -1, 2**70))
    arguments = st.sampled_from(_OBJECTS + _NO_OBJECTS)
    text = _TEXT | st.just("")
    message_ids = st.sampled_from(("u0", "r0.1", "r0.1.results", "r1.1", "elsewhere"))
    return st.one_of(
        st.builds(TextDelta, run_ids, turns, text=text),
        st.builds(ReasoningDelta, run_ids, turns, text=text),
        st.builds(ReasoningFinished, run_ids, turns, payload=st.sampled_from((None, "{}"))),
        st.builds(ToolCallStarted, run_ids, turns, indices, name=text),
        st.builds(ToolCallArguments, run_ids, turns, indices, text=text),
        st.builds(ToolCallReady, run_ids, turns, indices, name=text, arguments=arguments),
        st.builds(ToolStarted, run_ids, turns, indices),
        st.builds(ToolFinished, run_ids, turns, indices, outcome=_OUTCOME, content=text),
        st.builds(UsageReported, run_ids, turns, usage=_USAGE),
        st.builds(ToolUsageReported, run_ids, turns, indices, turns=st.sampled_from((0, 1, 5)), usage=_USAGE),
        st.builds(TurnFinished, run_ids, turns, finish_reason=st.just("stop")),
        st.builds(TurnStarted, run_ids, turns, producer=_PRODUCER),
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
    for _ in range(_number(draw, max_strays + 1)):
        place = _number(draw, len(entries) + 1)
        again = draw(_BOOL)
        entries.insert(place, entries[_number(draw, len(entries))] if again else draw(_STRAY))
    return entries


def conversations() -> st.SearchStrategy[Conversation]:
    """Conversations that a stop at some place of a log has left: all of them valid (L1)."""
    return logs().map(lambda log: settle(fold(log)))


def _opaque(producer: Producer) -> st.SearchStrategy[Opaque]:
    return st.sampled_from(_PAYLOADS[producer.dialect]).map(lambda body: Opaque(producer, body))


def assistant_parts() -> st.SearchStrategy[AssistantPart]:
    """Parts of an answer from elsewhere, sound or broken."""
    text = _TEXT | st.just("")
    call_ids = st.sampled_from(("c1", "c2", "c3"))
    calls = st.builds(
        ToolCall,
        call_ids,
        st.sampled_from(_NAMES),
        arguments=st.sampled_from(_OBJECTS + _NO_OBJECTS),
        provider_id=st.none() | call_ids,
    )
    return st.one_of(
        text.map(Text),
        st.builds(Reasoning, text, complete=st.booleans(), opaque=st.none() | _PRODUCER.flatmap(_opaque)),
        calls,
    )


def messages() -> st.SearchStrategy[Message]:
    """One message from elsewhere, sound or broken. Their ids are all `m`; see `broken_histories`."""
    results = st.builds(ToolResult, st.sampled_from(("c1", "c2", "c3", "c4")), _RESULT_TEXT, outcome=_OUTCOME)
    batch = tuple(ToolCall(f"c{number}", "f", arguments="{}") for number in (1, 2, 3))
    return st.one_of(
        st.builds(UserMessage, st.just("m"), user_parts()),
        # Several sound calls: there is most to break in what answers them.
        _PRODUCER.map(lambda producer: AssistantMessage("m", batch, producer=producer)),
        st.builds(
            AssistantMessage,
            st.just("m"),
            st.lists(assistant_parts(), max_size=4).map(tuple),
            producer=_PRODUCER,
            stopped=st.booleans(),
            cut_calls=st.sampled_from(((), (CutCall("f", '{"a'),))),
        ),
        st.builds(ToolMessage, st.just("m"), st.lists(results, max_size=3).map(tuple)),
    )


_MESSAGES: Final = st.lists(messages(), max_size=8)


def _answers(draw: st.DrawFn, calls: Sequence[ToolCall]) -> list[ToolMessage]:
    """What somebody may have put behind a message with calls: all results, too few, in another order, nothing."""
    results = tuple(ToolResult(call.id, draw(_RESULT_TEXT)) for call in calls)
    match _number(draw, 4):
        case 0:
            return []
        case 1:
            return [ToolMessage("m", results[::-1])]
        case 2:
            return [ToolMessage("m", results[1:])]
        case _:
            return [ToolMessage("m", results)]


@st.composite
def broken_histories(draw: st.DrawFn) -> Conversation:
    """Histories as other programs leave them: in any order, with anything missing, doubled, empty or cut."""
    history: list[Message] = []
    for message in draw(_MESSAGES):
        history.append(message)
        if isinstance(message, AssistantMessage) and message.calls:
            history += _answers(draw, message.calls)
    return Conversation.of(evolve(message, id=f"m{index}") for index, message in enumerate(history))
