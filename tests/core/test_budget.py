"""What a conversation has used, as the log tells it, and when that is enough (U1, U2, U3)."""

from collections.abc import Sequence

import pytest
from attrs import evolve
from hypothesis import given

from aiwrapper._core.budget import NOTHING_SPENT, Budget, Spent
from aiwrapper._core.conversation import Conversation, append, fold, move_head, run_report, settle
from aiwrapper._core.log import (
    Entry,
    HeadMoved,
    RetryWaiting,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    ToolCallReady,
    ToolFinished,
    ToolStarted,
    ToolUsageReported,
    TurnFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.messages import Producer, Text, ToolMessage, ToolResult, Usage, UserMessage
from aiwrapper._core.validity import repair, validate
from aiwrapper.testing.logs import honest_logs, logs

PRODUCER = Producer("openai_chat", "api.openai.com", model="gpt")


def asked(run_id: str, turn: int = 1) -> list[Entry]:
    return [RunStarted(run_id), TurnStarted(run_id, turn, producer=PRODUCER)]


def used(run_id: str, tokens: int, *, turn: int = 1, complete: bool = True) -> Entry:
    return UsageReported(run_id, turn, usage=Usage(input_tokens=tokens, complete=complete))


def by_tool(turns: int, tokens: int, *, index: int = 0) -> Entry:
    return ToolUsageReported("r", 1, index, turns=turns, usage=Usage(output_tokens=tokens, complete=True))


CALLED: list[Entry] = [
    *asked("r"),
    used("r", 10),
    ToolCallReady("r", 1, 0, name="f", arguments="{}"),
    TurnFinished("r", 1, finish_reason="tool_use"),
]


def spent(log: Sequence[Entry]) -> Spent:
    return settle(fold(log)).spent


@pytest.mark.parametrize(
    ("budget", "refused"),
    [
        (Budget(), None),
        (Budget(tokens=31, turns=4), None),
        (Budget(tokens=30), "is used up: 30 of 30 tokens"),
        (Budget(tokens=1_000, turns=3), "is used up: 3 of 3 turns"),
        (Budget(tokens=0), "is used up: 30 of 0 tokens"),
    ],
)
def test_a_budget_is_used_up_when_as_much_has_been_used(budget: Budget, refused: str | None) -> None:
    refusal = budget.refusal(Spent(turns=3, usage=Usage(input_tokens=10, output_tokens=20)))

    assert (refused is None) == (refusal is None)
    assert refusal is None or (refused is not None and refused in refusal)


def test_what_nobody_has_counted_counts_as_nothing() -> None:
    assert 0 == Spent(turns=2, usage=Usage()).tokens
    assert 7 == Spent(turns=2, usage=Usage(output_tokens=7)).tokens


@pytest.mark.parametrize("budget", [{"tokens": -1}, {"turns": -1}])
def test_a_budget_of_less_than_nothing_is_refused(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=">= 0"):
        Budget(**budget)


def test_the_runs_of_all_branches_are_counted_however_they_ended() -> None:
    log: list[Entry] = [
        UserMessageAdded("u", (Text("Go"),)),
        *asked("a"),
        used("a", 1),
        TextDelta("a", 1, text="One"),
        TurnFinished("a", 1, finish_reason="stop"),
        RunFinished("a"),
        HeadMoved("u"),
        *asked("b"),
        used("b", 20, complete=False),
        RunStopped("b", reason="user"),
        *asked("c"),  # it crashes
        used("c", 300),
        UserMessageAdded("v", (Text("And?"),)),
    ]

    assert Spent(turns=3, usage=Usage(input_tokens=321, complete=False)) == spent(log)


def test_a_request_that_failed_after_it_had_told_its_count_is_counted_beside_the_one_after_it() -> None:
    waiting = RetryWaiting("r", 1, attempt=1, seconds=0.5, error="the line broke")
    log = [*asked("r"), used("r", 100, complete=False), waiting, used("r", 100)]
    report = run_report(fold(log))

    assert report is not None
    assert Usage(input_tokens=200, complete=False) == report.usage


def test_what_a_call_has_used_counts_for_the_run_and_is_counted_once() -> None:
    log = [*CALLED, ToolStarted("r", 1, 0), by_tool(1, 5), by_tool(2, 40)]
    done = [*log, ToolFinished("r", 1, 0, outcome="returned", content="done"), RunFinished("r")]
    wanted = Spent(turns=3, usage=Usage(input_tokens=10, output_tokens=40, complete=True))

    assert wanted == spent(log) == spent(done)
    report = run_report(fold(done))
    assert report is not None
    assert wanted == report.spent


@pytest.mark.parametrize(
    "log",
    [
        [*CALLED, by_tool(1, 5)],  # not started
        [*CALLED, ToolStarted("r", 1, 0), by_tool(1, 5, index=1)],
        [*CALLED, ToolFinished("r", 1, 0, outcome="returned", content=""), by_tool(1, 5)],
        [*asked("r"), used("r", 10), by_tool(1, 5)],
    ],
)
def test_what_no_call_under_way_has_used_is_not_counted(log: list[Entry]) -> None:
    assert 10 == spent(log).tokens


def test_equal_is_what_was_said_whatever_it_has_cost() -> None:
    said = append(Conversation(), UserMessage("u", (Text("Hi"),)))
    dear = evolve(said, spent=Spent(turns=9))

    assert said == dear
    assert hash(said) == hash(dear)


def test_what_was_used_stays_used_whatever_is_done_with_the_conversation() -> None:
    dear = evolve(append(Conversation(), UserMessage("u", (Text("Hi"),))), spent=Spent(turns=9))
    broken = append(dear, ToolMessage("t", (ToolResult("nobody's", "done"),)))
    repaired = repair(broken)

    assert [] != validate(broken)
    assert [] == validate(repaired)
    assert [9, 9, 9] == [each.spent.turns for each in (broken, repaired, move_head(dear, None))]


def counted(log: Sequence[Entry]) -> Spent:
    """What an honest log tells, read without a state."""
    turns = 0
    requests: list[Usage] = []
    calls: dict[tuple[str, int, int], ToolUsageReported] = {}
    for entry in log:
        match entry:
            case TurnStarted():
                turns += 1
                requests.append(Usage())
            case RetryWaiting() if requests[-1] != Usage():
                requests.append(Usage())
            case UsageReported():
                requests[-1] = requests[-1].updated(entry.usage)
            case ToolUsageReported():
                calls[entry.run_id, entry.turn, entry.index] = entry
            case _:
                pass
    total = NOTHING_SPENT
    for usage in requests:
        total = total.plus(Spent(usage=usage))
    for call in calls.values():
        total = total.plus(Spent(turns=call.turns, usage=call.usage))
    return total.plus(Spent(turns=turns))


@given(honest_logs())
def test_at_every_entry_all_that_was_told_has_been_counted_once(log: list[Entry]) -> None:
    """U2, U3: also what a crash leaves."""
    for end in range(len(log) + 1):
        assert counted(log[:end]) == spent(log[:end])


@given(logs())
def test_no_entry_makes_fewer_turns_of_those_that_were(log: list[Entry]) -> None:
    turns = [spent(log[:end]).turns for end in range(len(log) + 1)]

    assert [] == [
        entry
        for before, after, entry in zip(turns, turns[1:], log, strict=False)
        if after < before and not isinstance(entry, ToolUsageReported)
    ]
