import sys
import threading
from contextlib import closing

import pytest

from aiwrapper import (
    Busy,
    CancelReason,
    CancelToken,
    ChatAgent,
    Entry,
    Image,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnStarted,
    UserMessageAdded,
    tool,
    validate,
)
from aiwrapper._core.conversation import CONTINUE_CUT, Conversation, fold, settle
from aiwrapper.testing import Call, DialectName, Say, Turn, render
from aiwrapper.testing.fakes import FakeProvider
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from tests.aiwrapper.running import DIALECTS, Acting, Background, lang_at, recorded_agent, violations
from tests.aiwrapper.worlds import World


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def said(dialect: DialectName, *turns: Turn) -> RecordedTransport:
    return RecordedTransport([Recording((render(turn, dialect),)) for turn in turns])


def held_after_the_first_word(turn: Turn) -> tuple[Recording, Hold]:
    """The model falls silent after its first delta of text."""
    body, hold = render(turn, "openai_chat"), Hold()
    first = body.index(b"\n\n", body.index(b'"Hel"')) + 2
    return Recording((body[:first], hold, body[first:])), hold


HELLO = Turn((Say(("Hel", "lo")),))
ADDING = Turn(
    (Say(("Let me see.",)), Call("add", ('{"a": 1,', ' "b": 2}')), Call("add", ('{"a": 3, "b": 4}',)))
)
SUM = Turn((Say(("It is ", "3 and 7.")),))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_agent_answers_and_remembers(world: World, dialect: DialectName) -> None:
    with FakeProvider(dialect, [HELLO, SUM]) as fake:
        agent = world.agent(lang_at(fake), instructions="Be brief.")
        first = agent.run("Hi")
        second = agent.run("And?")

    assert (first.status, first.text, first.stop, first.error) == ("completed", "Hello", None, None)
    assert second.text == "It is 3 and 7."
    assert second.conversation is agent.conversation
    assert second.conversation.messages[:2] == first.conversation.messages
    assert [request.status for request in fake.requests] == [200, 200]
    assert "Hello" in str(fake.requests[1].json())
    assert "Be brief." in str(fake.requests[1].json())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tools_are_called_and_their_results_sent(world: World, dialect: DialectName) -> None:
    with FakeProvider(dialect, [ADDING, SUM]) as fake:
        agent = world.agent(lang_at(fake), [add])
        result = agent.run("1 + 2? 3 + 4?")

    assert result.status == "completed"
    assert result.text == "It is 3 and 7."
    assert [request.status for request in fake.requests] == [200, 200]
    assert result.usage.output_tokens == 68


def test_plain_functions_are_made_tools(world: World) -> None:
    def shout(text: str) -> str:
        return text.upper()

    transport = said("openai_chat", Turn((Call("shout", ('{"text": "hi"}',)),)), HELLO)
    agent = world.recorded_agent(transport)
    agent = world.agent(agent.lang, [shout])
    agent.run("Shout")

    assert b'"content":"HI"' in transport.requests[1].body


def test_what_is_no_model_is_refused_with_what_is_one() -> None:
    with pytest.raises(TypeError, match=r"such as Lang\.openai\(model=.*not 'gpt-4'"):
        ChatAgent("gpt-4")  # type: ignore[arg-type]  # what a user may write


def test_what_is_no_token_is_refused_before_anything_happens(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat"))
    with pytest.raises(TypeError, match="by a CancelToken, and 5 is none"):
        agent.run("Hello", token=5)  # type: ignore[arg-type]  # what a user may write

    assert agent.conversation.head is None
    assert not agent.busy


def test_two_tools_of_one_name_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="two tools have the name 'add'"):
        world.recorded_agent(said("openai_chat"), [add, add])


def test_an_async_tool_is_refused_by_an_agent_for_blocking_code() -> None:
    @tool
    async def later() -> None: ...

    with pytest.raises(TypeError, match="'later' is async def"):
        recorded_agent(said("openai_chat"), [later])


@pytest.mark.parametrize("nothing", ["", " \n", []])
def test_nothing_said_is_refused_before_anything_happens(world: World, nothing: str | list[Image]) -> None:
    agent = world.recorded_agent(said("openai_chat"))
    with pytest.raises(ValueError, match="something other than white space"):
        agent.run(nothing)
    with pytest.raises(ValueError, match="something other than white space"):
        agent.stream(nothing)

    assert agent.conversation == Conversation()
    assert not agent.busy


def test_an_agent_that_never_ends_is_ended_by_its_limit(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", *[ADDING] * 5), [add], max_turns=3)
    result = agent.run("Go")

    assert result.status == "failed"
    assert "3 turns" in str(result.error)
    assert validate(result.conversation) == []


# watching


def test_a_stream_gives_the_log_as_it_grows(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", ADDING, SUM), [add])
    entries: list[Entry] = []
    for entry in agent.stream("Go"):
        entries.append(entry)
        assert validate(settle(fold(entries))) == []

    assert isinstance(entries[0], UserMessageAdded)
    assert isinstance(entries[1], RunStarted)
    assert isinstance(entries[-1], RunFinished)
    assert agent.last_result is not None
    assert agent.last_result.conversation == settle(fold(entries))


def test_a_stream_of_code_that_blocks_goes_on_only_while_entries_are_taken() -> None:
    agent = recorded_agent(said("openai_chat", ADDING, SUM), [add])
    entries: list[Entry] = []
    for entry in agent.stream("Go"):
        entries.append(entry)
        assert settle(fold(entries)) == agent.conversation


def test_closing_a_stream_early_stops_the_run_and_leaves_nothing(world: World) -> None:
    transport = RecordedTransport(
        [held_after_the_first_word(HELLO)[0], Recording((render(SUM, "openai_chat"),))]
    )
    agent = world.recorded_agent(transport)
    acting = Acting()
    token = CancelToken()
    with closing(agent.stream("Hi", token=token, subscribers=[acting])) as entries:
        for entry in entries:
            if isinstance(entry, TextDelta):
                break

    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "closed"
    assert agent.last_result.text == "Hel"
    assert isinstance(acting.log[-1], RunStopped)
    assert transport.open_now == 0
    assert not token.cancelled
    assert (token.stats().children, token.stats().registrations) == (0, 0)
    assert agent.run("Again").text == "It is 3 and 7."


def test_a_stream_that_is_stopped_gives_the_closing_entries_and_ends(world: World) -> None:
    recording, _ = held_after_the_first_word(HELLO)
    agent = world.recorded_agent(RecordedTransport([recording]))
    token = CancelToken()
    entries: list[Entry] = []
    for entry in agent.stream("Hi", token=token):
        entries.append(entry)
        if isinstance(entry, TextDelta):
            token.cancel("enough")

    assert [type(entry) for entry in entries[-2:]] == [TextDelta, RunStopped]
    assert settle(fold(entries)) == agent.conversation


def test_what_a_tools_callback_raises_when_the_stream_is_closed_is_reported_and_all_is_settled() -> None:
    """In code that blocks the callbacks run where the stream is closed."""
    begun = threading.Event()

    @tool
    def careless(*, token: CancelToken) -> None:
        """Registers a callback with a bug."""
        with token.on_cancel(divide, 1, 0):
            begun.set()
            token.wait()
            token.check()

    def divide(a: int, b: int) -> float:
        return a / b

    agent = recorded_agent(said("openai_chat", Turn((Call("careless", ("{}",)),)), HELLO), [careless])
    with closing(agent.stream("Hi")) as entries:
        assert any(isinstance(entry, ToolStarted) for entry in entries)
        begun.wait()
    result = agent.last_result

    assert result is not None
    assert result.stop is not None
    assert "closed" == result.stop.reason
    (group,) = result.subscriber_errors
    assert isinstance(group, ExceptionGroup)
    assert group.subgroup(ZeroDivisionError) is not None
    assert agent.run("Go on").status == "completed"


def test_a_stream_that_was_never_begun_keeps_nobody_waiting(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", HELLO))
    agent.stream("Hi").close()

    assert agent.run("Hi").status == "completed"


# one run at a time


def test_a_second_run_is_busy_and_a_conversation_of_its_own_is_not(world: World) -> None:
    hold = Hold()
    hello = render(HELLO, "openai_chat")
    agent = world.recorded_agent(RecordedTransport([Recording((hold, hello)), Recording((hello,))]))
    running = Background(agent.run, "Hi")
    hold.reached.wait()
    with pytest.raises(Busy):
        agent.run("Hi, too")
    with pytest.raises(Busy):
        next(agent.stream("Hi, too"))
    with pytest.raises(Busy):
        agent.continue_(conversation=None)
    busy = agent.busy
    other = agent.run("Hi, too", conversation=Conversation())
    hold.release()
    own = running.result()

    assert busy
    assert not agent.busy
    assert other.status == "completed"
    assert agent.conversation is own.conversation
    assert len(own.conversation.messages) == len(other.conversation.messages) == 2


def test_a_stop_for_one_run_does_not_touch_the_next(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", HELLO, SUM))
    token = CancelToken()
    first = agent.run("Hi", token=token)
    token.cancel("too late")
    second = agent.run("Again", token=CancelToken())

    assert first.status == "completed"
    assert second.status == "completed"


def test_stopping_twice_is_stopping_once(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", HELLO))
    token = CancelToken()
    acting = Acting(
        lambda entry: isinstance(entry, TextDelta),
        lambda: (token.cancel("first"), token.cancel(CancelReason("shutdown", "second"))),
    )
    result = agent.run("Hi", token=token, subscribers=[acting])

    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("user", "first")
    assert sum(isinstance(entry, RunStopped) for entry in acting.log) == 1


def test_a_stop_before_the_start_opens_nothing_and_keeps_what_the_user_said(world: World) -> None:
    transport = said("openai_chat", HELLO)
    agent = world.recorded_agent(transport, [add])
    token = CancelToken()
    token.cancel("never mind")
    acting = Acting()
    result = agent.run("Hi", token=token, subscribers=[acting])

    assert result.status == "stopped"
    assert result.stop is not None
    assert result.stop.where == "before_start"
    assert [type(entry) for entry in acting.log] == [UserMessageAdded, RunStarted, RunStopped]
    assert transport.requests == []
    assert len(agent.conversation.messages) == 1


# going on


@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_a_cut_answer_the_model_is_asked_to_go_on(world: World, dialect: DialectName) -> None:
    agent = world.recorded_agent(said(dialect, HELLO, SUM), dialect=dialect)
    token = CancelToken()
    agent.run(
        "Hi", token=token, subscribers=[Acting(lambda entry: isinstance(entry, TextDelta), token.cancel)]
    )
    result = agent.continue_()

    assert result.text == "It is 3 and 7."
    assert CONTINUE_CUT in str(result.conversation.messages)
    assert violations(dialect, agent, result.conversation) == []


def test_after_tool_results_nothing_is_added(world: World) -> None:
    transport = said("openai_chat", ADDING, SUM)
    agent = world.recorded_agent(transport, [add])
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, ToolFinished), token.cancel)
    agent.run("Go", token=token, subscribers=[acting])
    before = agent.conversation.messages
    result = agent.continue_()

    assert result.text == "It is 3 and 7."
    assert len(result.conversation.messages) == len(before) + 1


def test_after_a_stop_before_the_start_the_question_is_answered(world: World) -> None:
    agent = world.recorded_agent(said("openai_chat", HELLO))
    token = CancelToken()
    token.cancel()
    agent.run("Hi", token=token)

    assert agent.continue_().text == "Hello"
    assert len(agent.conversation.messages) == 2


def test_there_is_nothing_to_go_on_from_at_the_beginning(world: World) -> None:
    with pytest.raises(ValueError, match="nothing has been said yet"):
        world.recorded_agent(said("openai_chat")).continue_()


def test_what_was_sent_is_not_held_while_the_answer_arrives(world: World) -> None:
    """It is never sent again then, and of a long conversation it is the largest thing that a run has."""
    transport = said("openai_chat", HELLO)
    held: list[int] = []

    def count() -> None:
        held.append(sys.getrefcount(transport.requests[0].body))

    agent = world.recorded_agent(transport)
    agent.run("Hi", subscribers=[Acting(lambda entry: isinstance(entry, TextDelta), count)])
    count()

    assert 3 == len(held)
    assert 1 == len(set(held))


# subscribers


def test_a_raising_subscriber_is_detached_and_reported_and_the_others_have_everything(world: World) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    agent = world.recorded_agent(said("openai_chat", HELLO))
    broken = Acting(lambda entry: isinstance(entry, TextDelta), fail)
    healthy = Acting()
    result = agent.run("Hi", subscribers=[broken, healthy])

    assert result.status == "completed"
    assert [str(error) for error in result.subscriber_errors] == ["a bug"]
    assert isinstance(broken.log[-1], TextDelta)
    assert isinstance(healthy.log[-1], RunFinished)


def test_the_last_result_has_what_a_subscriber_raises_at_the_very_last_entry(world: World) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    agent = world.recorded_agent(said("openai_chat", HELLO))
    result = agent.run("Hi", subscribers=[Acting(lambda entry: isinstance(entry, RunFinished), fail)])

    assert [str(error) for error in result.subscriber_errors] == ["a bug"]
    assert agent.last_result == result


def test_a_raising_subscriber_does_not_lose_the_stop(world: World) -> None:
    token = CancelToken()

    def stop_and_fail() -> None:
        token.cancel("stop")
        raise ZeroDivisionError("a bug")

    agent = world.recorded_agent(said("openai_chat", HELLO))
    result = agent.run(
        "Hi", token=token, subscribers=[Acting(lambda e: isinstance(e, TextDelta), stop_and_fail)]
    )

    assert result.status == "stopped"


def test_a_subscriber_that_obeys_the_token_does_not_keep_the_entry_from_the_others(world: World) -> None:
    token = CancelToken()

    def stop_and_check() -> None:
        token.cancel("stop")
        token.check()

    agent = world.recorded_agent(said("openai_chat", HELLO))
    first = Acting(lambda entry: isinstance(entry, TextDelta), stop_and_check)
    second = Acting()
    result = agent.run("Hi", token=token, subscribers=[first, second])

    assert result.status == "stopped"
    assert [type(entry) for entry in second.log[-2:]] == [TextDelta, RunStopped]


@pytest.mark.parametrize("ending", [RunStopped, RunFinished])
def test_the_next_message_may_be_sent_from_inside_the_last_entry(world: World, ending: type[Entry]) -> None:
    agent = world.recorded_agent(said("openai_chat", HELLO, SUM))
    token = CancelToken()
    answers: list[str] = []
    following = Acting(
        lambda entry: isinstance(entry, ending), lambda: answers.append(agent.run("And then?").text)
    )
    stopping = Acting(lambda entry: isinstance(entry, TextDelta) and ending is RunStopped, token.cancel)
    result = agent.run("Hi", token=token, subscribers=[stopping, following])

    assert answers == ["It is 3 and 7."]
    assert result.conversation.messages == agent.conversation.messages[: len(result.conversation.messages)]
    assert following.log == stopping.log


# every point


CLOSING = (RunStarted, ToolFinished, RunStopped, RunFinished)
"""What may be appended after a stop; a run that was stopped before it began says that it began."""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stop_at_any_entry_leaves_a_valid_conversation_that_goes_on(
    world: World, dialect: DialectName
) -> None:
    whole = Acting()
    world.recorded_agent(said(dialect, ADDING, SUM), [add], dialect=dialect).run("Go", subscribers=[whole])
    statuses: list[str] = []
    for place in range(1, len(whole.log)):
        transport = said(dialect, ADDING, SUM, HELLO, HELLO)
        agent = world.recorded_agent(transport, [add], dialect=dialect)
        token = CancelToken()
        stopping = Stopping(place, token)
        result = agent.run("Go", token=token, subscribers=[stopping])
        asked, cut, rest = len(transport.requests), stopping.log[:place], stopping.log[place:]
        statuses.append(result.status)

        # two tools race for the order of their results, so only the kinds are compared
        assert [type(entry) for entry in cut] == [type(entry) for entry in whole.log[:place]]
        assert {type(entry) for entry in rest} <= set(CLOSING)
        assert [isinstance(entry, RunStopped | RunFinished) for entry in rest].count(True) == 1
        assert asked == sum(isinstance(entry, TurnStarted) for entry in cut[:-1])
        assert validate(result.conversation) == []
        assert result.conversation == settle(fold(stopping.log))
        assert violations(dialect, agent, result.conversation) == []
        assert transport.open_now == 0
        assert (token.stats().children, token.stats().registrations) == (0, 0)
        assert agent.run("Go on").status == "completed"
        assert violations(dialect, agent, agent.conversation) == []

    # only at the last entry but one, with which the answer is whole, the stop comes too late
    assert statuses == ["stopped"] * (len(whole.log) - 2) + ["completed"]


class Stopping:
    """Cancels a token at an entry, by its number."""

    def __init__(self, place: int, token: CancelToken) -> None:
        self.log: list[Entry] = []
        self._place = place
        self._token = token

    def append(self, entry: Entry, /) -> None:
        self.log.append(entry)
        if len(self.log) == self._place:
            self._token.cancel()


def test_after_cancel_has_returned_no_delta_is_accepted(world: World) -> None:
    pieces = render(Turn((Say(tuple("x" * 2_000)),)), "openai_chat")
    slipped = 0
    for _ in range(50):
        agent = world.recorded_agent(RecordedTransport([Recording((pieces,))]))
        token = CancelToken()
        begun = threading.Event()
        running = Background(
            agent.run,
            "Hi",
            token=token,
            subscribers=[Acting(lambda entry: isinstance(entry, TextDelta), begun.set)],
        )
        begun.wait()
        token.cancel()
        at_the_cut = agent.conversation
        result = running.result()
        slipped += result.status == "stopped" and at_the_cut.messages != result.conversation.messages

    assert slipped == 0
