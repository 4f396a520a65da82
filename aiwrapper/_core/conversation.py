"""How a conversation follows from its log; what it is, says `tree.py`.

    step   : State x Entry -> State            total: any entry in any state
    fold   = step over many entries
    settle : State x Reason -> Conversation    what the conversation is if the open run ends now

Four things hold at every entry (docs/conversations.md names the laws L1 to L7):

1. `State.conversation` holds closed messages only, and is valid by itself. What is being said is in
   `State.run`; it becomes messages when its turn is whole *and* all its calls have results, or when somebody
   settles it. So a call and its result enter the conversation together, or not at all (C1).
2. A message that is in the conversation never changes and never leaves (C10). Moving the head hides, no more.
3. `step` reads nothing but its two arguments, so a log means the same on every machine and at every time.
4. An entry that makes no sense is ignored: of a run that is not open, of a turn that is over, for a call that
   nobody has made, a second result. This is where late chunks and late results end (C3, E1).

A turn is kept as the entries it came in until it is closed, because taking an entry has to cost the same
at the hundred-thousandth delta as at the first; `turns.py` makes messages of them, `runs.py` tells of the run.
"""

from collections.abc import Iterable
from typing import assert_never

from attrs import evolve, field, frozen

from aiwrapper._core.budget import Spent
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
from aiwrapper._core.messages import Text, UserMessage, UserPart
from aiwrapper._core.runs import CallReport as CallReport
from aiwrapper._core.runs import OpenRun as OpenRun
from aiwrapper._core.runs import RunReport as RunReport
from aiwrapper._core.runs import RunStatus as RunStatus
from aiwrapper._core.text import is_blank
from aiwrapper._core.tree import CONTINUE_CUT as CONTINUE_CUT
from aiwrapper._core.tree import CONTINUE_WHOLE as CONTINUE_WHOLE
from aiwrapper._core.tree import Conversation as Conversation
from aiwrapper._core.tree import append as append
from aiwrapper._core.tree import appended
from aiwrapper._core.tree import continue_ as continue_
from aiwrapper._core.tree import move_head as move_head
from aiwrapper._core.turns import OpenTurn, turn_messages
from aiwrapper._core.versions import Versions


@frozen
class State:
    """All that a log says.

    Args:
        conversation: the closed messages, valid at every entry.
        run: the run that is open.
        runs: how the closed ones ended, in order, by their ids.
        title: the last one given.
        settings: JSON text of an object, read by the application that wrote it.
        deleted: whether it is to be listed no more.
    """

    conversation: Conversation = field(factory=Conversation)
    run: OpenRun | None = None
    runs: Versions[RunReport] = field(factory=Versions)
    title: str = ""
    settings: str = "{}"
    deleted: bool = False


EMPTY = State()


def fold(entries: Iterable[Entry], state: State = EMPTY) -> State:
    """What a log says; going on from `state`, if the entries are the rest of a log."""
    for entry in entries:
        state = step(state, entry)
    return state


def settle(state: State, reason: str = "crash") -> Conversation:
    """The conversation as it would be if the open run ended now; the same object if none is open.

    A view: nothing is written, and the run may go on. It is valid, so a next message may follow (L1), and it
    is what the log would say after a `run_stopped` with this reason (L2).
    """
    return settled(state, reason).conversation


def settled(state: State, reason: str = "crash") -> State:
    """The state with the open run stopped; the same object if none is open."""
    return state if state.run is None else _closed(state, state.run, "stopped", reason, "", "unknown")


def run_report(state: State, run_id: str | None = None) -> RunReport | None:
    """How a run stands or ended.

    Args:
        state: what the log says.
        run_id: the run; None for the last one, open or closed.

    Returns:
        None if there is no such run.
    """
    run = state.run
    if run is not None and run_id in (None, run.run_id):
        calls = tuple(run.calls)
        if run.turn is not None:
            calls += tuple(
                CallReport(call, outcome=run.turn.outcome(index), started=run.turn.is_started(index))
                for index, call in run.turn.calls(run.run_id)
            )
        spent = run.spent
        return RunReport(run.run_id, status="running", turns=spent.turns, usage=spent.usage, calls=calls)
    if run_id is not None:
        return state.runs.get(run_id)
    return state.runs[len(state.runs) - 1] if len(state.runs) else None


def step(state: State, entry: Entry) -> State:
    """What the log says with one more entry. Total: an entry that makes no sense changes nothing."""
    match entry:
        case (
            TextDelta()
            | ReasoningDelta()
            | ReasoningFinished()
            | ToolCallStarted()
            | ToolCallArguments()
            | ToolCallReady()
            | ToolStarted()
            | ToolFinished()
            | TurnFinished()
        ):
            run = state.run
            if run is None or run.turn is None or run.run_id != entry.run_id or run.turn.number != entry.turn:
                return state
            turn = run.turn.taken(entry)
            if turn is run.turn:
                return state
            state = _with_run(state, run.with_turn(turn))
            return _turn_closed(state) if turn.is_done else state
        case RetryWaiting():
            run = _run_asking(state, entry)
            if run is None or run.turn_usage is None:
                return state
            # The request that failed had told a count, and the next one begins its own.
            return _with_run(state, evolve(run, usage=run.usage.plus(run.turn_usage), turn_usage=None))
        case UsageReported():
            run = _run_asking(state, entry)
            if run is None:
                return state
            usage = entry.usage if run.turn_usage is None else run.turn_usage.updated(entry.usage)
            return _with_run(state, evolve(run, turn_usage=usage))
        case ToolUsageReported():
            run = _run_asking(state, entry)
            if run is None or run.turn is None or not run.turn.is_started(entry.index):
                return state
            spent = Spent(turns=entry.turns, usage=entry.usage)
            return _with_run(state, evolve(run, called={**run.called, (entry.turn, entry.index): spent}))
        case TurnStarted():
            return _turn_started(state, entry)
        case RunStarted():
            if entry.run_id in state.runs or (state.run is not None and state.run.run_id == entry.run_id):
                return state
            return evolve(settled(state), run=OpenRun(entry.run_id))
        case RunFinished():
            run = state.run
            return state if run is None or run.run_id != entry.run_id else _closed(state, run, "completed")
        case RunStopped():
            run = state.run
            if run is None or run.run_id != entry.run_id:
                return state
            return _closed(state, run, "stopped", entry.reason, entry.message, entry.where)
        case RunFailed():
            run = state.run
            if run is None or run.run_id != entry.run_id:
                return state
            return _closed(state, run, "failed", entry.error, entry.message)
        case UserMessageAdded():
            return _user_message_added(settled(state), entry)
        case HeadMoved():
            if entry.message_id is not None and state.conversation.message(entry.message_id) is None:
                return state
            state = settled(state)
            return evolve(state, conversation=move_head(state.conversation, entry.message_id))
        case Titled():
            return evolve(state, title=entry.title)
        case Configured():
            return evolve(state, settings=entry.settings)
        case Deleted():
            return evolve(state, deleted=True)
        case _:
            assert_never(entry)


def _run_asking(state: State, entry: UsageReported | ToolUsageReported | RetryWaiting) -> OpenRun | None:
    """The open run, if the entry tells of its last turn."""
    run = state.run
    if run is None or run.run_id != entry.run_id or not run.turns or run.last_turn != entry.turn:
        return None
    return run


def _with_run(
    state: State,
    run: OpenRun | None,
    conversation: Conversation | None = None,
    runs: Versions[RunReport] | None = None,
) -> State:
    """The state with another open run, and the rest as it is, but for what is given."""
    # Not attrs.evolve, as in OpenRun.with_turn.
    return State(
        state.conversation if conversation is None else conversation,
        run,
        state.runs if runs is None else runs,
        state.title,
        state.settings,
        state.deleted,
    )


def _turn_started(state: State, entry: TurnStarted) -> State:
    run = state.run
    if run is None or run.run_id != entry.run_id or entry.turn <= run.last_turn:
        return state
    # A turn that is open still was given up by whoever writes the log.
    state = _turn_closed(state)
    assert state.run is not None
    run = state.run
    return _with_run(
        state,
        evolve(
            run,
            turn=OpenTurn(entry.turn, entry.producer),
            last_turn=entry.turn,
            turns=run.turns + 1,
            asks_again=True,
            usage=run.spent_itself.usage,
            turn_usage=None,
        ),
    )


def _turn_closed(state: State) -> State:
    """The state with the open turn made messages; the run stays open."""
    run = state.run
    if run is None or run.turn is None:
        return state
    turn = run.turn
    conversation = state.conversation
    calls = run.calls
    messages = turn_messages(run.run_id, turn, parent_id=conversation.head_id)
    if messages is not None:
        assistant, results = messages
        conversation = appended(conversation, assistant)
        if results is not None:
            conversation = appended(conversation, results)
            for (index, call), result in zip(turn.calls(run.run_id), results.results, strict=True):
                calls = calls.appended(
                    CallReport(call, outcome=result.outcome, started=turn.is_started(index))
                )
    return _with_run(state, run.with_turn_closed(calls), conversation)


def _closed(
    state: State,
    run: OpenRun,
    status: RunStatus,
    reason: str | None = None,
    message: str = "",
    where: StopWhere | None = None,
) -> State:
    """The state with the open run ended and remembered."""
    state = _turn_closed(state)
    assert state.run is not None
    run = state.run
    spent = run.spent
    report = RunReport(
        run.run_id,
        status=status,
        turns=spent.turns,
        usage=spent.usage,
        calls=tuple(run.calls),
        reason=reason,
        message=message,
        where=where,
    )
    conversation = state.conversation
    conversation = Conversation(
        conversation.all_messages, conversation.head_id, spent=conversation.spent.plus(spent)
    )
    return _with_run(state, None, conversation, state.runs.appended(report, run.run_id))


def _user_message_added(state: State, entry: UserMessageAdded) -> State:
    if state.conversation.message(entry.id) is not None:
        return state  # the same message twice is one message (C9)
    parts: tuple[UserPart, ...] = tuple(part for part in entry.parts if not is_empty_part(part))
    if not parts:
        return state
    conversation = state.conversation
    if entry.parent_id is not None:
        conversation = move_head(conversation, entry.parent_id)
    message = UserMessage(entry.id, parts, parent_id=conversation.head_id, synthetic=entry.synthetic)
    return evolve(state, conversation=append(conversation, message))


def is_empty_part(part: UserPart) -> bool:
    """Whether a provider would refuse the part for having nothing in it (C5)."""
    return is_blank(part.text) if isinstance(part, Text) else not part.data
