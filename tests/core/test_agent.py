"""The step machine: what comes next, told by the log alone."""

import pytest
from hypothesis import given

from aiwrapper._core.agent import AgentMachine, CallModel, Finished, PendingCall, RunTools
from aiwrapper._core.conversation import EMPTY, fold, run_report
from aiwrapper._core.log import (
    Entry,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import Producer, Text, ToolCall
from aiwrapper.testing.logs import logs

PRODUCER = Producer("openai_chat", "api.openai.com", model="gpt")
ASKED: list[Entry] = [UserMessageAdded("u", (Text("Hello"),)), RunStarted("r")]


def turn(number: int, *said: Entry) -> list[Entry]:
    return [
        TurnStarted("r", number, producer=PRODUCER),
        *said,
        TurnFinished("r", number, finish_reason="stop"),
    ]


def ready(number: int, index: int) -> Entry:
    return ToolCallReady("r", number, index, name="f", arguments="{}")


def returned(number: int, index: int) -> Entry:
    return ToolFinished("r", number, index, outcome="returned", content="done")


def machine(*entries: Entry, max_turns: int = 10) -> AgentMachine:
    made = AgentMachine(EMPTY, "r", max_turns=max_turns)
    for entry in entries:
        made.append(entry)
    return made


def test_first_the_model_is_asked() -> None:
    asked = machine(*ASKED)

    assert CallModel("r", 1, conversation=asked.state.conversation) == asked.next_step()


def test_an_answer_without_calls_completes_the_run() -> None:
    answered = machine(*ASKED, *turn(1, TextDelta("r", 1, text="Hi")))

    assert Finished("r", "completed") == answered.next_step()


def test_an_answer_of_nothing_completes_the_run_too() -> None:
    assert Finished("r", "completed") == machine(*ASKED, *turn(1)).next_step()


def test_calls_are_run() -> None:
    called = machine(*ASKED, *turn(1, ready(1, 0), ready(1, 1)))
    calls = tuple(PendingCall(index, ToolCall(f"r.1.{index}", "f", arguments="{}")) for index in (0, 1))

    assert RunTools("r", 1, calls) == called.next_step()


def test_a_call_that_has_a_result_or_was_started_is_not_run_again() -> None:
    called = machine(
        *ASKED,
        *turn(1, ready(1, 0), ready(1, 1), ready(1, 2)),
        returned(1, 0),
        ToolStarted("r", 1, 1),
    )
    step = called.next_step()

    assert isinstance(step, RunTools)
    assert [2] == [pending.index for pending in step.calls]


def test_a_call_that_was_cut_is_not_run() -> None:
    """C6."""
    cut = machine(*ASKED, *turn(1, TextDelta("r", 1, text="Hi"), ToolCallStarted("r", 1, 0, name="f")))

    assert Finished("r", "completed") == cut.next_step()


def test_the_model_is_told_the_results() -> None:
    told = machine(*ASKED, *turn(1, ready(1, 0)), returned(1, 0))
    step = told.next_step()

    assert isinstance(step, CallModel)
    assert 2 == step.turn
    assert ["u", "r.1", "r.1.results"] == [message.id for message in step.conversation.messages]


def test_the_machine_goes_on_until_the_model_calls_nothing() -> None:
    log = [*ASKED, *turn(1, ready(1, 0)), returned(1, 0), *turn(2, TextDelta("r", 2, text="So"))]

    assert Finished("r", "completed") == machine(*log).next_step()


def test_a_run_that_never_comes_to_an_end_fails_at_its_limit() -> None:
    step = machine(*ASKED, *turn(1, ready(1, 0)), returned(1, 0), max_turns=1).next_step()

    assert isinstance(step, Finished)
    assert ("failed", "limit", None) == (step.status, step.error, step.report)
    assert "max_turns" in step.message


def test_the_last_turn_that_is_allowed_may_complete_the_run() -> None:
    assert Finished("r", "completed") == machine(*ASKED, *turn(1), max_turns=1).next_step()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (RunFinished("r"), "completed"),
        (RunStopped("r", reason="user"), "stopped"),
        (RunFailed("r", error="network", message="broken"), "failed"),
        (UserMessageAdded("v", (Text("And?"),)), "stopped"),
        (RunStarted("r2"), "stopped"),
    ],
)
def test_a_run_that_has_ended_stays_ended(end: Entry, status: str) -> None:
    """S1."""
    ended = machine(
        *ASKED, TurnStarted("r", 1, producer=PRODUCER), end, TextDelta("r", 1, text="late"), RunStarted("r")
    )
    step = ended.next_step()

    assert isinstance(step, Finished)
    assert (status, run_report(ended.state, "r")) == (step.status, step.report)


def test_looking_changes_nothing() -> None:
    asked = machine(*ASKED)

    assert asked.next_step() == asked.next_step()
    assert fold(ASKED) == asked.state


def test_a_machine_goes_on_from_what_a_log_says() -> None:
    log = [*ASKED, *turn(1, ready(1, 0)), returned(1, 0)]

    assert machine(*log).next_step() == AgentMachine(fold(log), "r", max_turns=10).next_step()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ([], "not been started"),
        ([*ASKED, TurnStarted("r", 1, producer=PRODUCER)], "has begun and not ended"),
        ([*ASKED, *turn(1, ready(1, 0)), ToolStarted("r", 1, 0)], "no result yet"),
    ],
)
def test_a_step_that_is_not_done_is_a_defect_of_the_driver(log: list[Entry], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        machine(*log).next_step()


def test_a_limit_of_no_turns_is_refused() -> None:
    with pytest.raises(ValueError, match="max_turns"):
        AgentMachine(EMPTY, "r", max_turns=0)


@given(logs())
def test_no_call_is_asked_for_twice_and_no_turn_either(log: list[Entry]) -> None:
    """Over any log: what the machine asks for has neither happened nor begun."""
    made = AgentMachine(EMPTY, "r0", max_turns=3)
    for entry in log:
        made.append(entry)
        run = made.state.run
        if run is None or run.run_id != "r0":
            continue
        try:
            step = made.next_step()
        except RuntimeError:
            assert run.turn is not None
            continue
        match step:
            case CallModel():
                assert run.turn is None
                assert run.last_turn < step.turn
                assert run.turns < 3
            case RunTools():
                assert run.turn is not None
                assert step.calls
                for pending in step.calls:
                    assert run.turn.outcome(pending.index) is None
                    assert not run.turn.is_started(pending.index)
            case Finished():
                assert step.report is None
