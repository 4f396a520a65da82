"""The oracle finds what is wrong with a run, by the rule's name, and nothing wrong with an honest one."""

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from aiwrapper import (
    CancelToken,
    Conversation,
    Entry,
    RunFinished,
    RunStopped,
    Spent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    Usage,
    tool,
)
from aiwrapper._core.messages import AssistantMessage, Text, ToolMessage
from aiwrapper.testing import Call, Say, Turn, render
from aiwrapper.testing.oracle import Effect, Evidence, assert_rules_kept, broken_rules
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from cancel_token.testing import Violation, cancel_at
from tests.aiwrapper.running import Acting
from tests.aiwrapper.worlds import World
from tests.proof.talks import Talk

SCRIPT = (
    Turn((Say(("Let ", "me see.")), Call("read_page", ("{", "}")), Call("run", ("{}",)))),
    Turn((Say(("It is ", "done.")),)),
)


def seen(k: int | None) -> Evidence:
    """A run that is stopped at its k-th point."""
    talk = Talk("openai_chat", SCRIPT)
    with cancel_at(k) as shot:
        talk.run(shot.token)
    return talk.evidence()


def stopped_when(condition: Callable[[Evidence], bool]) -> Evidence:
    return next(evidence for k in range(1000) if condition(evidence := seen(k)))


def in_a_text(evidence: Evidence) -> bool:
    head = evidence.result.conversation.head
    return isinstance(head, AssistantMessage) and head.stopped and head.id.endswith(".2")


def stopped_in_a_tool() -> Evidence:
    talk, token = Talk("openai_chat", SCRIPT), CancelToken()
    acting = Acting(lambda entry: isinstance(entry, ToolStarted) and entry.index == 1, token.cancel)
    talk.run(token, others=[acting])
    return talk.evidence()


def rules(evidence: Evidence) -> set[str]:
    return {broken.rule for broken in broken_rules(evidence)}


def test_an_honest_run_breaks_no_rule_wherever_it_is_stopped() -> None:
    for k in range(0, 120, 7):
        assert_rules_kept(seen(k))

    assert_rules_kept(stopped_in_a_tool())
    assert_rules_kept(seen(None))


def without(evidence: Evidence, kind: type[Entry]) -> Evidence:
    """As if nobody had been told of the last entry of a kind."""
    log = list(evidence.heard[0])
    log.remove([entry for entry in log if isinstance(entry, kind)][-1])
    return evolve(evidence, heard=[log], stored=log)


def saying(evidence: Evidence, change: Callable[[AssistantMessage], AssistantMessage]) -> Evidence:
    """With another last answer in the conversation."""
    messages = list(evidence.result.conversation.messages)
    for index, message in reversed(list(enumerate(messages))):
        if isinstance(message, AssistantMessage):
            messages[index] = change(message)
            break
    return evolve(evidence, result=evolve(evidence.result, conversation=Conversation.of(messages)))


def ended(evidence: Evidence, **changes: Any) -> Evidence:  # Any: each field has its own type
    return evolve(evidence, result=evolve(evidence.result, **changes))


def lost_results(evidence: Evidence) -> Evidence:
    messages = [
        m for m in evidence.result.conversation.messages if m is not evidence.result.conversation.head
    ]
    assert isinstance(evidence.result.conversation.head, ToolMessage)
    return evolve(evidence, result=evolve(evidence.result, conversation=Conversation.of(messages)))


def retold(evidence: Evidence, change: Callable[[list[Entry]], object]) -> Evidence:
    log = list(evidence.heard[0])
    change(log)
    return evolve(evidence, heard=[evidence.heard[0], log])


def stop_again(evidence: Evidence) -> Evidence:
    log = [*evidence.heard[0], RunStopped(evidence.result.run_id, reason="user")]
    return evolve(evidence, heard=[log], stored=log)


def unstopped(evidence: Evidence) -> Evidence:
    return evolve(evidence, token=CancelToken())


def other_reason(evidence: Evidence) -> Evidence:
    assert evidence.result.stop is not None
    return ended(evidence, stop=evolve(evidence.result.stop, reason="deadline"))


def spending(evidence: Evidence, spent: Spent) -> Evidence:
    return ended(evidence, conversation=evolve(evidence.result.conversation, spent=spent))


def asked_twice(evidence: Evidence) -> Evidence:
    assert evidence.requests
    return evolve(evidence, requests=[*evidence.requests, *evidence.requests])


Change = Callable[[Evidence], Evidence]

IN_A_TEXT: dict[str, tuple[str, Change]] = {
    "text that is in nobody's log": ("C11", lambda e: saying(e, lambda m: evolve(m, parts=(Text("Else"),)))),
    "a cut message that looks whole": ("C12", lambda e: saying(e, lambda m: evolve(m, stopped=False))),
    "a delta that was not told": ("C11", lambda e: without(e, TextDelta)),
    "an end without a reason": ("S3", other_reason),
    "two ends": ("S1", stop_again),
    "an end that only some were told": ("S1", lambda e: retold(e, lambda log: log.pop())),
    "a subscriber that missed something": ("E1", lambda e: retold(e, lambda log: log.pop(0))),
    "a stop as an error": ("S6", lambda e: ended(e, error=OSError("reset by peer"))),
    "a stop that nobody asked for": ("S6", unstopped),
    "a store that misses an entry": ("P1", lambda e: evolve(e, stored=e.heard[0][1:])),
    "a conversation that changes after the end": ("E3", lambda e: evolve(e, at_end=e.before)),
    "an agent that is busy at the end": ("E3", lambda e: evolve(e, busy_at_end=True)),
    "a word that slipped in after the stop": ("S8", lambda e: evolve(e, at_stop=e.before)),
    "usage that is called complete": ("U1", lambda e: ended(e, usage=evolve(e.result.usage, complete=True))),
    "usage that is counted twice": ("U1", lambda e: ended(e, usage=Usage(input_tokens=99))),
    "a run that the conversation has not counted": ("U2", lambda e: spending(e, e.before.spent)),
    "a run that the conversation counts twice": (
        "U2",
        lambda e: spending(e, e.result.conversation.spent.plus(e.result.conversation.spent)),
    ),
    "a request that the log does not permit": ("S8", asked_twice),
    "words that the provider has not said": (
        "C11",
        lambda e: evolve(e, answered=[e.answered[1], e.answered[0]]),
    ),
    "history that is lost": (
        "C9",
        lambda e: ended(evolve(e, before=e.result.conversation), conversation=e.before),
    ),
}
IN_A_TOOL: dict[str, tuple[str, Change]] = {
    "a call without its result": ("C1", lost_results),
    "a result that was not told": ("C7", lambda e: without(e, ToolStarted)),
    "a tool that nobody started": ("S8", lambda e: evolve(e, effects=[Effect("run")] * 3)),
    "a result that was thrown away": ("C7", lambda e: evolve(e, effects=[Effect("run", "output")])),
}
WHOLE: dict[str, tuple[str, Change]] = {
    "a whole message that looks cut": ("C12", lambda e: saying(e, lambda m: evolve(m, stopped=True))),
    "a result that no tool has returned": ("C7", lambda e: evolve(e, effects=[])),
    "an end that the provider has not said": ("S2", lambda e: without(e, TurnFinished)),
    "a result that is missing in the log": ("C7", lambda e: without(e, ToolFinished)),
    "a stop that is not told": (
        "S6",
        lambda e: evolve(without(e, TurnFinished), token=cancelled(), ended_at_stop=False),
    ),
    "a whole answer that counts as stopped": ("S2", lambda e: called_stopped(e)),
}


def cancelled() -> CancelToken:
    token = CancelToken()
    token.cancel()
    return token


def called_stopped(evidence: Evidence) -> Evidence:
    end = RunStopped(evidence.result.run_id, reason="user", message="cancelled")
    log = [end if isinstance(entry, RunFinished) else entry for entry in evidence.heard[0]]
    stop = stopped_when(in_a_text).result.stop
    return evolve(
        ended(evidence, status="stopped", stop=stop),
        heard=[log],
        stored=log,
        token=cancelled(),
        ended_at_stop=False,
    )


@pytest.mark.parametrize(("rule", "change"), IN_A_TEXT.values(), ids=IN_A_TEXT)
def test_it_finds_what_is_wrong_with_a_stopped_answer(rule: str, change: Change) -> None:
    assert rule in rules(change(stopped_when(in_a_text)))


@pytest.mark.parametrize(("rule", "change"), IN_A_TOOL.values(), ids=IN_A_TOOL)
def test_it_finds_what_is_wrong_with_a_stopped_tool(rule: str, change: Change) -> None:
    assert rule in rules(change(stopped_in_a_tool()))


@pytest.mark.parametrize(("rule", "change"), WHOLE.values(), ids=WHOLE)
def test_it_finds_what_is_wrong_with_a_whole_answer(rule: str, change: Change) -> None:
    assert rule in rules(change(seen(None)))


def test_it_finds_what_is_left_on_the_token() -> None:
    evidence = seen(None)
    assert evidence.token is not None
    with evidence.token.on_cancel(print):
        assert {"R2"} == rules(evidence)


def test_a_broken_rule_fails_by_its_name() -> None:
    with pytest.raises(Violation, match=r"(?s)S6 result\.status: stopped") as raised:
        assert_rules_kept(unstopped(stopped_when(in_a_text)))

    assert raised.value.name == "S6"


def test_what_is_not_known_is_not_judged() -> None:
    evidence = seen(None)

    assert [] == broken_rules(Evidence(result=evidence.result, before=evidence.before, heard=evidence.heard))


def wound_down() -> Evidence:
    """A run that was to finish its step, which was a model call and its tools."""
    hold = Hold()
    body = render(SCRIPT[0], "openai_chat")
    transport = RecordedTransport([Recording((body[: len(body) // 2], hold, body[len(body) // 2 :]))])
    tools = [tool(name=name)(lambda: "done") for name in ("read_page", "run")]
    run = World("threads").recorded_agent(transport, tools).start("Go")
    hold.reached.wait()
    run.stop("enough", mode="after_step")
    hold.release()
    return Evidence(result=run.wait(), heard=[list(run)], winding_down=True)


def test_it_knows_a_stop_that_lets_the_step_finish() -> None:
    evidence = wound_down()
    assert_rules_kept(evidence)
    stop = evidence.result.stop
    assert stop is not None
    in_the_middle = evolve(stop, where="streaming")
    without_results = evolve(stop, tools=(evolve(stop.tools[0], outcome="interrupted_running"),))

    assert "S6" in rules(evolve(evidence, winding_down=False))
    assert "S10" in rules(ended(evidence, stop=in_the_middle))
    assert "S10" in rules(ended(evidence, stop=without_results))
