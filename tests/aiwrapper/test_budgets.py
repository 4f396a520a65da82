"""How much a conversation may use: counted over all of its runs, and never in the middle of a turn (U1, U2, U3)."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwrapper import (
    AsyncChatAgent,
    Budget,
    CancelToken,
    Conversation,
    Entry,
    Lang,
    ModelCallError,
    RunResult,
    Spent,
    Tool,
    ToolMessage,
    ToolUsageReported,
    Usage,
    UsageReported,
    UserMessage,
    fold,
    move_head,
    tool,
    validate,
)
from aiwrapper._core.reply import Reply
from aiwrapper.store import Store
from aiwrapper.testing import (
    Answer,
    Call,
    DialectName,
    FakeProvider,
    Raw,
    RecordedTransport,
    Say,
    ScriptedTransport,
    Turn,
    render,
)
from aiwrapper.testing.strategies import answers
from tests.aiwrapper.running import DIALECTS, HELLO, Acting, lang, lang_at, said, silent_after
from tests.aiwrapper.worlds import WORLDS, AgentFace, HandleFace, LoopLang, World, WorldName

A_TURN = 46
"""How many tokens a turn of a fake uses."""


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADDING = Turn((Say(("Let me see.",)), Call("add", ('{"a": 1, "b": 2}',)), Call("add", ('{"a": 3, "b": 4}',))))


def asking(*names: str) -> Turn:
    return Turn(tuple(Call(name, ('{"message": "What is it?"}',)) for name in names))


def kind(result: RunResult) -> str | None:
    return result.error.kind if isinstance(result.error, ModelCallError) else None


def turn_of(spent: Spent) -> tuple[int, int]:
    return spent.turns, spent.tokens


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_run_ends_before_the_turn_that_its_budget_has_nothing_for_and_goes_on_with_a_larger_one(
    world: World, dialect: DialectName
) -> None:
    with FakeProvider(dialect, [ADDING, ADDING, HELLO]) as fake:
        agent = world.agent(lang_at(fake), [add], budget=Budget(tokens=2 * A_TURN))
        refused = agent.run("Go")
        asked = len(fake.requests)
        agent.budget = Budget(tokens=10 * A_TURN)
        result = agent.continue_()

    assert ("failed", "budget", None) == (refused.status, kind(refused), refused.stop)
    assert "The budget is used up: 92 of 92 tokens." in str(refused.error)
    assert 2 == asked
    assert validate(refused.conversation) == []
    assert ["3", "7"] * 2 == [
        each.content
        for message in refused.conversation.messages
        if isinstance(message, ToolMessage)
        for each in message.results
    ]
    assert ("completed", "Hello") == (result.status, result.text)
    assert [200, 200, 200] == [request.status for request in fake.requests]
    assert (3, 3 * A_TURN) == turn_of(result.conversation.spent)


def test_a_conversation_that_has_used_up_its_budget_keeps_what_is_said_and_asks_nobody(world: World) -> None:
    transport = said(HELLO, HELLO)
    agent = world.recorded_agent(transport, budget=Budget(turns=1))
    agent.run("Hi")
    refused = agent.run("And?")

    assert ("failed", "budget") == (refused.status, kind(refused))
    assert "1 of 1 turns" in str(refused.error)
    assert 1 == len(transport.requests)
    assert isinstance(refused.conversation.head, UserMessage)

    agent.budget = None
    answered = agent.continue_()

    assert "completed" == answered.status
    assert 4 == len(answered.conversation.messages)


def test_an_answer_that_has_begun_is_never_cut_by_the_budget(world: World) -> None:
    result = world.recorded_agent(said(HELLO), budget=Budget(tokens=1)).run("Hi")

    assert ("completed", "Hello") == (result.status, result.text)


def test_what_a_stopped_run_has_used_counts_as_far_as_it_was_told(world: World) -> None:
    recording, hold = silent_after(b'"Hel"', dialect="anthropic")
    transport = RecordedTransport([recording])
    agent = world.recorded_agent(transport, dialect="anthropic", budget=Budget(tokens=13))
    run = agent.start("Hi")
    hold.reached.wait()
    run.stop("enough")
    stopped = run.wait()
    refused = agent.run("And?")

    assert "stopped" == stopped.status
    assert Spent(turns=1, usage=stopped.usage) == stopped.conversation.spent
    assert 13 == stopped.conversation.spent.tokens  # what the beginning of the message says
    assert not stopped.usage.complete
    assert ("failed", "budget") == (refused.status, kind(refused))
    assert 1 == len(transport.requests)


def test_a_provider_that_tells_nothing_is_bounded_by_turns(world: World) -> None:
    silent = Turn((Call("add", ('{"a": 1, "b": 2}',)),), usage=None)
    result = world.recorded_agent(said(silent, silent), [add], budget=Budget(tokens=9, turns=2)).run("Go")

    assert ("failed", "budget") == (result.status, kind(result))
    assert Spent(turns=2, usage=Usage()) == result.conversation.spent


def test_another_try_of_an_answer_and_going_on_count_beside_what_was_there(world: World) -> None:
    agent = world.recorded_agent(said(HELLO, HELLO, HELLO))
    first = agent.run("Hi").conversation
    again = agent.continue_(conversation=move_head(first, first.messages[0].id)).conversation
    further = agent.continue_(conversation=again).conversation

    assert [1, 2, 3] == [each.spent.turns for each in (first, again, further)]
    assert 3 * A_TURN == further.spent.tokens
    assert (1, A_TURN) == turn_of(agent.conversation.spent)  # its own, which went no further


def test_a_budget_binds_a_conversation_that_is_handed_over_too(world: World) -> None:
    agent = world.recorded_agent(said(HELLO, HELLO), budget=Budget(turns=1))
    once = agent.run("Hi", conversation=Conversation()).conversation

    assert "budget" == kind(agent.run("And?", conversation=once))
    assert "completed" == agent.run("Hi").status


def test_a_conversation_of_the_store_has_used_what_it_used_before(world: World, tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        conversation_id = store.create()
        with store.open(conversation_id) as log:
            world.recorded_agent(said(HELLO)).run("Hi", sink=log)
        loaded = store.load(conversation_id).conversation
    agent = world.agent(
        lang("openai_chat", "http://recorded/v1", said()), conversation=loaded, budget=Budget(tokens=A_TURN)
    )

    assert "budget" == kind(agent.run("And?"))


# agents as tools


def with_researcher(
    world: World, said_by_it: RecordedTransport, *turns: Turn, budget: Budget | None = None
) -> AgentFace:
    researcher = world.recorded_agent(said_by_it, [add])
    return world.recorded_agent(said(*turns), [researcher.as_tool("research", "Looks up.")], budget=budget)


def test_what_an_agent_uses_as_a_tool_counts_for_its_caller(world: World) -> None:
    heard = Acting()
    agent = with_researcher(world, said(ADDING, HELLO, HELLO), asking("research", "research"), HELLO)
    result = agent.run("Go", subscribers=[heard])

    assert "completed" == result.status
    assert (60, 170, True) == (result.usage.input_tokens, result.usage.output_tokens, result.usage.complete)
    assert (5, 5 * A_TURN) == turn_of(result.conversation.spent)
    assert result.conversation.spent == fold(heard.log).conversation.spent


def test_the_budget_of_the_caller_binds_the_agents_that_are_its_tools(world: World) -> None:
    inner = said(ADDING, ADDING, HELLO)
    agent = with_researcher(world, inner, asking("research"), HELLO, budget=Budget(turns=3))
    refused = agent.run("Go")

    assert ("failed", "budget") == (refused.status, kind(refused))
    assert 2 == len(inner.requests)
    assert (3, 3 * A_TURN) == turn_of(refused.conversation.spent)
    assert validate(refused.conversation) == []
    assert "3 of 3 turns" in str(refused.conversation.messages[-1])

    agent.budget = Budget(turns=4)
    assert "completed" == agent.continue_().status


def test_the_budget_of_the_first_caller_binds_them_however_deep(world: World) -> None:
    inner = said(*[ADDING] * 9)
    middle = with_researcher(world, inner, asking("research"), HELLO)
    agent = world.recorded_agent(
        said(asking("middle"), HELLO), [middle.as_tool("middle", "Asks.")], budget=Budget(turns=5)
    )
    refused = agent.run("Go")

    assert "budget" == kind(refused)
    assert 3 == len(inner.requests)
    assert (5, 5 * A_TURN) == turn_of(refused.conversation.spent)


def test_agents_that_work_side_by_side_share_the_budget_of_their_caller(world: World) -> None:
    """Each waits until both have asked once; then what both have used is known to each."""
    both_have_asked = threading.Barrier(2)

    @tool
    def meet() -> str:
        """Wait for the other one."""
        both_have_asked.wait()
        return "met"

    meeting = Turn((Call("meet", ("{}",)),))
    inner = said(meeting, meeting, HELLO)
    researcher = world.recorded_agent(inner, [meet])
    agent = world.recorded_agent(
        said(asking("research", "research")),
        [researcher.as_tool("research", "Looks up.")],
        budget=Budget(tokens=3 * A_TURN),
    )
    refused = agent.run("Go")

    assert "budget" == kind(refused)
    assert 2 == len(inner.requests)
    assert 3 * A_TURN == refused.conversation.spent.tokens


def test_an_agents_own_budget_binds_each_of_its_calls_and_its_caller_goes_on(world: World) -> None:
    researcher = world.recorded_agent(said(ADDING, ADDING), [add], budget=Budget(turns=1))
    agent = world.recorded_agent(
        said(asking("research", "research"), HELLO), [researcher.as_tool("research", "Looks up.")]
    )
    result = agent.run("Go")

    assert "completed" == result.status
    assert 2 == str(result.conversation.messages).count("1 of 1 turns")
    assert 4 == result.conversation.spent.turns


@pytest.mark.parametrize("caller_is_stopped", [True, False], ids=["the caller", "the tool"])
def test_what_a_stopped_agent_has_used_as_a_tool_counts_for_its_caller(
    world: World, caller_is_stopped: bool
) -> None:
    recording, hold = silent_after(b'"Hel"', dialect="anthropic")
    runs: SimpleQueue[HandleFace] = SimpleQueue()
    researcher = world.recorded_agent(RecordedTransport([recording]), dialect="anthropic")
    offered = researcher.as_tool("research", "Looks up.", started=runs.put)
    run = world.recorded_agent(said(asking("research"), HELLO), [offered]).start("Go")
    hold.reached.wait()
    (run if caller_is_stopped else runs.get()).stop("enough")
    result = run.wait()

    assert ("stopped" if caller_is_stopped else "completed") == result.status
    turns, tokens = (2, A_TURN + 13) if caller_is_stopped else (3, 2 * A_TURN + 13)
    assert (turns, tokens) == turn_of(result.conversation.spent)
    assert not result.usage.complete
    assert result.stop is None or not result.stop.usage_complete


def test_what_a_call_that_is_left_behind_has_used_counts_up_to_there(world: World) -> None:
    asked, may_go = threading.Event(), threading.Event()
    inner = lang("openai_chat", "http://recorded/v1", said(HELLO))

    @tool
    def deaf() -> str:
        """Asks a model and does not obey."""
        inner.ask("Hi")
        asked.set()
        may_go.wait()
        return "at last"

    agent = world.recorded_agent(said(Turn((Call("deaf", ("{}",)),))), [deaf], tool_grace_seconds=0.0)
    run = agent.start("Go")
    asked.wait()
    run.stop("enough")
    result = run.wait()
    may_go.set()

    assert result.stop is not None
    assert ["deaf"] == [call.name for call in result.stop.abandoned]
    assert (2, 2 * A_TURN) == turn_of(result.conversation.spent)


def asker(*answers: Turn) -> Tool[..., str]:
    """A tool that asks a model as often as there are answers."""
    inner = lang("openai_chat", "http://recorded/v1", said(*answers))

    @tool
    def ask() -> str:
        """Ask a model."""
        return " ".join(inner.ask("Hi").text for _ in answers)

    return ask


ASKED = Turn((Call("ask", ("{}",)),))


def test_a_question_that_a_tool_asks_a_model_counts(world: World) -> None:
    result = world.recorded_agent(said(ASKED, HELLO), [asker(HELLO, HELLO)]).run("Go")

    assert (4, 4 * A_TURN) == turn_of(result.conversation.spent)
    assert result.usage.complete


def test_what_a_tool_has_used_is_in_the_log_while_it_still_runs(world: World) -> None:
    inner = lang("openai_chat", "http://recorded/v1", said(HELLO))
    heard = threading.Event()

    @tool
    def ask() -> str:
        """Ask a model, and wait until that is known."""
        inner.ask("Hi")
        heard.wait()
        return "known"

    ear = Acting(
        lambda entry: isinstance(entry, ToolUsageReported) and entry.usage.output_tokens == 34, heard.set
    )
    result = world.recorded_agent(said(ASKED, HELLO), [ask]).run("Go", subscribers=[ear])

    assert "completed" == result.status


def test_what_a_tool_uses_while_nobody_looks_counts_too(world: World) -> None:
    """The log hears of its first question, and next of its end."""

    def wait_for_the_end() -> None:
        for thread in threading.enumerate():
            if thread.name == "aiwrapper tool ask":
                thread.join()

    ear = Acting(lambda entry: isinstance(entry, ToolUsageReported), wait_for_the_end)
    agent = world.recorded_agent(said(ASKED, HELLO), [asker(HELLO, HELLO)])
    result = agent.run("Go", subscribers=[ear])

    assert (4, 4 * A_TURN) == turn_of(result.conversation.spent)


@pytest.mark.parametrize("name", ["trio", "asyncio"])
def test_a_question_that_an_async_tool_asks_a_model_counts(name: WorldName) -> None:
    inner = World(name).lang(lang("openai_chat", "http://recorded/v1", said(HELLO)))
    assert isinstance(inner, LoopLang)

    @tool
    async def ask(message: str) -> str:
        """Ask a model."""
        return (await inner.lang.ask(message)).text

    agent = AsyncChatAgent(lang("openai_chat", "http://recorded/v1", said(asking("ask"), HELLO)), [ask])
    result = anyio.run(agent.run, "Go", backend=name)

    assert (3, 3 * A_TURN) == turn_of(result.conversation.spent)


def test_a_run_that_outlives_the_call_that_began_it_counts_up_to_there() -> None:
    """In threads alone: a task's run is over when the call is."""
    recording, hold = silent_after(b'"Hel"', dialect="anthropic")
    world = World("threads")
    inner = world.recorded_agent(RecordedTransport([recording]), dialect="anthropic")
    begun: list[HandleFace] = []

    @tool
    def begin() -> str:
        """Begin a run and leave it."""
        begun.append(inner.start("Hi"))
        hold.reached.wait()
        return "begun"

    agent = world.recorded_agent(said(Turn((Call("begin", ("{}",)),)), HELLO), [begin])
    result = agent.run("Go")
    hold.release()
    outlived = begun[0].wait()

    assert "completed" == outlived.status
    assert (3, 2 * A_TURN + 13) == turn_of(result.conversation.spent)
    assert not result.usage.complete  # it went on


class FullAt:
    """A sink that takes everything up to the first entry of a kind."""

    def __init__(self, kind: type[Entry]) -> None:
        self.kind = kind

    def append(self, entry: Entry, /) -> None:
        if isinstance(entry, self.kind):
            raise OSError("the disk is full")


def test_a_sink_that_fails_at_what_a_tool_has_used_loses_neither_that_nor_its_result(world: World) -> None:
    agent = with_researcher(world, said(HELLO), asking("research"), HELLO)
    result = agent.run("Go", sink=FullAt(ToolUsageReported))

    assert "failed" == result.status
    assert isinstance(result.error, OSError)
    assert validate(result.conversation) == []
    assert 2 == result.conversation.spent.turns


def test_what_a_tool_does_at_a_stop_is_kept_though_the_sink_fails_at_what_it_has_used(world: World) -> None:
    inner = lang("openai_chat", "http://recorded/v1", said(HELLO))
    begun = threading.Event()

    @tool
    def ask(*, token: CancelToken) -> str:
        """Ask a model when it is told to stop."""
        begun.set()
        token.wait()
        return inner.ask("Hi").text

    run = world.recorded_agent(said(ASKED), [ask]).start("Go", sink=FullAt(ToolUsageReported))
    begun.wait()
    run.stop("enough")
    result = run.wait()

    assert "stopped" == result.status
    assert isinstance(result.error, OSError)
    assert result.stop is not None
    assert ["returned"] == [call.outcome for call in result.stop.tools]
    assert (2, 2 * A_TURN) == turn_of(result.conversation.spent)


# whatever happens


def counts(spec: Lang, body: bytes) -> list[int]:
    """What the provider counts in a body: nothing, and then as often as it tells it."""
    usage, told = Usage(), [0]
    try:
        for entry in Reply(spec.call("").dialect.decoder(), "", 0).feed(body):
            if isinstance(entry, UsageReported):
                usage = usage.updated(entry.usage)
                told.append(Spent(usage=usage).tokens)
    except ModelCallError:
        return told  # what comes before it counts
    return told


def body_of(answer: Answer | None, dialect: DialectName) -> bytes:
    match answer:
        case Turn():
            return render(answer, dialect)
        case Raw():
            return answer.body
        case _:
            return b""


Going = Callable[[AgentFace, Conversation, CancelToken, Acting], RunResult]


def say(agent: AgentFace, conversation: Conversation, token: CancelToken, heard: Acting) -> RunResult:
    return agent.run("And?", conversation=conversation, token=token, subscribers=[heard])


def go_on(agent: AgentFace, conversation: Conversation, token: CancelToken, heard: Acting) -> RunResult:
    return agent.continue_(conversation=conversation, token=token, subscribers=[heard])


def try_again(agent: AgentFace, conversation: Conversation, token: CancelToken, heard: Acting) -> RunResult:
    users = [message for message in conversation.messages if isinstance(message, UserMessage)]
    return go_on(agent, move_head(conversation, users[-1].id), token, heard)


STEPS = st.lists(
    st.tuples(st.sampled_from((say, go_on, try_again)), st.none() | st.integers(1, 40)),
    min_size=1,
    max_size=5,
)


def nth(place: int | None) -> Callable[[Entry], bool]:
    counted = itertools.count(1)
    return lambda entry: next(counted) == place


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=40)
@given(script=st.lists(answers(), max_size=8), steps=STEPS)
def test_stops_anywhere_going_on_and_trying_again_count_all_that_was_told_and_nothing_twice(
    name: WorldName, dialect: DialectName, script: list[Answer], steps: list[tuple[Going, int | None]]
) -> None:
    transport = ScriptedTransport(dialect, script)
    spec = lang(dialect, transport.base_url, transport)
    agent = World(name).agent(spec, [add], max_turns=3)
    conversation = agent.run("Hi", conversation=Conversation()).conversation
    for go, stop_at in steps:
        token, before = CancelToken(), conversation
        conversation = go(agent, before, token, Acting(nth(stop_at), token.cancel)).conversation

        assert before.spent.turns <= conversation.spent.turns
        assert before.spent.tokens <= conversation.spent.tokens

    least = most = 0
    for answer, taken in zip(transport.answered, transport.taken, strict=True):
        # The reader may have heard one count more than it has come back to tell.
        may_be = counts(spec, body_of(answer, dialect))[len(counts(spec, taken)) - 1 :]
        least += min(may_be)
        most += max(may_be)
    assert least <= conversation.spent.tokens <= most
