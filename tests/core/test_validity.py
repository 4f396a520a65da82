"""Each core rule broken on purpose, and histories of every kind mended."""

from collections import Counter

import pytest
from attrs import evolve
from hypothesis import example, given, settings

from aiwrapper._core.conversation import Conversation, append, fold, move_head
from aiwrapper._core.log import Entry
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
    UserMessage,
)
from aiwrapper._core.turns import SYNTHETIC_RESULTS
from aiwrapper._core.validity import LOST_CALL, NO_RESULT_RECORDED, changes, repair, validate
from aiwrapper.testing.histories import broken_histories
from aiwrapper.testing.logs import conversations, logs

PRODUCER = Producer("anthropic", "api.anthropic.com", model="claude")


def user(said: str = "Hello", *, id: str = "u") -> UserMessage:  # noqa: A002  the field's own name
    return UserMessage(id, (Text(said),))


def model(*parts: AssistantPart, id: str = "a") -> AssistantMessage:  # noqa: A002
    return AssistantMessage(id, parts, producer=PRODUCER)


def call(call_id: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id, "f", arguments=arguments)


def result(call_id: str, content: str = "done", outcome: ToolOutcome = "returned") -> ToolResult:
    return ToolResult(call_id, content, outcome=outcome)


def tools(*results: ToolResult, id: str = "t") -> ToolMessage:  # noqa: A002
    return ToolMessage(id, results)


def rules(*messages: Message) -> list[str]:
    return [violation.rule for violation in validate(Conversation.of(messages))]


def mended(*messages: Message) -> tuple[Message, ...]:
    """The repaired messages, without what the chain of parents says."""
    conversation = repair(Conversation.of(messages))
    assert [] == validate(conversation)
    return tuple(evolve(message, parent_id=None) for message in conversation.messages)


# Each rule, broken


def test_c1_a_call_without_a_result() -> None:
    assert ["C1"] == rules(user(), model(call("c1"), call("c2")), tools(result("c1")))
    assert ["C1"] == rules(user(), model(call("c1")))
    assert ["C1", "C2"] == rules(user(), model(call("c1")), user(id="v"), tools(result("c1")))


def test_c2_a_result_without_a_call() -> None:
    assert ["C2"] == rules(user(), tools(result("c1")))
    assert ["C2"] == rules(user(), model(call("c1")), tools(result("c1"), result("c2")))
    assert ["C2", "C3"] == rules(model(call("c1")), tools(result("c1")), tools(result("c1"), id="t2"))


def test_c3_an_id_twice() -> None:
    assert ["C3"] == rules(model(call("c1"), call("c1")), tools(result("c1")))
    assert ["C3"] == rules(model(call("c1")), tools(result("c1"), result("c1")))
    assert ["C3", "C3"] == rules(
        model(call("c1")), tools(result("c1")), model(call("c1"), id="b"), tools(result("c1"), id="t2")
    )


def test_c3_a_message_id_twice_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="'u'"):
        Conversation.of([user(), user()])


def test_c4_results_out_of_order() -> None:
    assert ["C4"] == rules(model(call("c1"), call("c2")), tools(result("c2"), result("c1")))


@pytest.mark.parametrize(
    "message",
    [
        UserMessage("u", ()),
        user(" \n"),
        UserMessage("u", (Text("Hi"), Image("image/png", ""))),
        model(),
        model(Text("Hi"), Text("\u3000")),
        model(Reasoning("")),
        tools(),
    ],
    ids=repr,
)
def test_c5_nothing_in_it(message: Message) -> None:
    assert ["C5"] == rules(message)


@pytest.mark.parametrize("arguments", ["", '{"a', "[]", "null", '"{}"', '{"a": "\\ud800"}'])
def test_c6_arguments_that_are_no_object(arguments: str) -> None:
    assert ["C6"] == rules(model(call("c1", arguments)), tools(result("c1")))


def test_c7_a_synthetic_result_that_says_nothing() -> None:
    assert ["C7"] == rules(model(call("c1")), tools(result("c1", " ", "not_started")))


def test_c7_an_outcome_that_is_none() -> None:
    unknown: ToolOutcome = "exploded"  # type: ignore[assignment]  # what an older program may have stored
    assert ["C7"] == rules(model(call("c1")), tools(result("c1", outcome=unknown)))


def test_c8_partial_reasoning_with_a_payload() -> None:
    assert ["C8"] == rules(model(Reasoning("Hm", complete=False, opaque=Opaque(PRODUCER, "{}"))))


def test_c9_c10_a_message_that_is_gone() -> None:
    whole = Conversation.of([user(), model(Text("Hi"))])

    assert ["C9", "C10"] == [violation.rule for violation in changes(whole, Conversation())]


def test_c10_a_message_that_is_another_object() -> None:
    before = Conversation.of([user()])

    assert ["C10"] == [violation.rule for violation in changes(before, Conversation.of([user()]))]


def test_c12_a_message_that_is_marked_afterwards() -> None:
    before = Conversation.of([model(Text("Hi"))])
    after = Conversation.of([evolve(model(Text("Hi")), stopped=True)])

    assert ["C12"] == [violation.rule for violation in changes(before, after)]


def test_c12_a_message_that_is_marked_and_says_nothing() -> None:
    assert ["C5", "C12"] == rules(evolve(model(), stopped=True))


def test_growing_and_moving_the_head_is_no_change() -> None:
    before = Conversation.of([user(), model(Text("Hi"))])

    assert [] == changes(before, append(move_head(before, "u"), user(id="v")))


def test_a_violation_says_where() -> None:
    (violation,) = validate(Conversation.of([user(), model(Text("Hi"), Text(""))]))

    assert "messages[1].parts[1]" == violation.where


# Each rule, mended


def test_a_valid_conversation_is_left_alone() -> None:
    """C14: the same object, with its other branches."""
    conversation = Conversation.of([user(), model(call("c1")), tools(result("c1"))])

    assert conversation is repair(conversation)


def test_a_missing_result_is_said_to_be_unknown() -> None:
    """C7: nobody knows whether the other program had started it."""
    assert (
        user(),
        model(call("c1"), call("c2")),
        tools(result("c1"), result("c2", NO_RESULT_RECORDED, "interrupted_running")),
    ) == mended(user(), model(call("c1"), call("c2")), tools(result("c1")))


def test_a_result_behind_the_next_message_is_put_behind_its_call() -> None:
    repaired = mended(model(call("c1")), user("Stop", id="v"), tools(result("c1", "real")))

    assert (model(call("c1")), tools(result("c1", "real"), id="a.results"), user("Stop", id="v")) == repaired


def test_results_that_came_one_by_one_become_one_message() -> None:
    repaired = mended(
        model(call("c1"), call("c2")), tools(result("c2", "2")), tools(result("c1", "1"), id="t2")
    )

    assert (model(call("c1"), call("c2")), tools(result("c1", "1"), result("c2", "2"))) == repaired


def test_a_real_result_whose_call_is_lost_is_kept_as_one() -> None:
    lost = ToolCall("c9", LOST_CALL, arguments="{}")
    _, calls, results = mended(user(), tools(result("c9", "real")))

    assert isinstance(calls, AssistantMessage)
    assert (lost,) == calls.parts
    assert isinstance(results, ToolMessage)
    assert (result("c9", "real"),) == results.results


def test_a_synthetic_result_whose_call_is_lost_goes() -> None:
    assert (user(),) == mended(user(), tools(result("c9", "never started", "not_started")))


def test_a_real_result_replaces_a_synthetic_one_whichever_came_first() -> None:
    """C7: in a log the first stays; in a history from elsewhere the truth does."""
    synthetic, real = result("c1", "?", "not_started"), result("c1", "real")

    assert (model(call("c1")), tools(real)) == mended(model(call("c1")), tools(synthetic, real))
    assert (model(call("c1")), tools(real)) == mended(model(call("c1")), tools(real, synthetic))


def test_a_second_real_result_is_kept_if_it_says_something_else() -> None:
    repaired = mended(model(call("c1")), tools(result("c1", "one"), result("c1", "two"), result("c1", "one")))
    contents = [
        r.content for message in repaired if isinstance(message, ToolMessage) for r in message.results
    ]

    assert ["one", "two"] == contents


def test_repeated_call_ids_become_different_ones() -> None:
    """C3: some hosts count their calls from 1 in every turn."""
    repaired = mended(
        model(call("c1")),
        tools(result("c1", "first")),
        model(call("c1"), id="b"),
        tools(result("c1", "second"), id="t2"),
    )
    pairs = [(r.call_id, r.content) for m in repaired if isinstance(m, ToolMessage) for r in m.results]

    assert [("c1", "first"), ("c1'", "second")] == pairs


def test_a_result_belongs_to_the_nearest_call_with_its_id() -> None:
    repaired = mended(model(call("c1")), model(call("c1"), id="b"), tools(result("c1", "real")))
    outcomes = [
        r.outcome for message in repaired if isinstance(message, ToolMessage) for r in message.results
    ]

    assert ["interrupted_running", "returned"] == outcomes


def test_a_cut_call_is_shown_and_called_no_more() -> None:
    """C6: nor is its synthetic result kept, there is nothing to answer."""
    cut = mended(user(), model(Text("Well"), call("c1", '{"a')), tools(result("c1", "?", "not_started")))

    assert (user(), evolve(model(Text("Well")), cut_calls=(CutCall("f", '{"a'),))) == cut


def test_a_cut_call_that_was_answered_was_made() -> None:
    repaired = mended(model(call("c1", '{"a')), tools(result("c1", "real")))

    assert (
        evolve(model(call("c1")), cut_calls=(CutCall("f", '{"a'),)),
        tools(result("c1", "real")),
    ) == repaired


def test_a_payload_does_not_vouch_for_partial_reasoning() -> None:
    """C8: what was thought stays, to be shown."""
    partial = Reasoning("Hm", complete=False, opaque=Opaque(PRODUCER, "{}"))

    assert (model(Reasoning("Hm")),) == mended(model(partial))


def test_a_message_of_nothing_goes() -> None:
    """C5: and with it the mark on nothing."""
    assert (user(),) == mended(user(), evolve(model(Text(" ")), stopped=True), UserMessage("v", (Text(""),)))


def test_an_id_that_somebody_took_is_made_free() -> None:
    repaired = mended(model(call("c1")), user(id="a.results"))

    assert ["a", "a.results'", "a.results"] == [message.id for message in repaired]


def test_an_unknown_outcome_is_taken_for_a_result() -> None:
    unknown: ToolOutcome = "exploded"  # type: ignore[assignment]  # what an older program may have stored

    assert (model(call("c1")), tools(result("c1"))) == mended(
        model(call("c1")), tools(result("c1", outcome=unknown))
    )


def test_messages_that_are_sound_stay_the_same_objects() -> None:
    history = Conversation.of([user(), model(Text("Hi")), user("", id="v")])
    repaired = repair(history)

    assert repaired.messages[0] is history.messages[0]


# Any history


def texts_of_the_user(conversation: Conversation) -> list[str]:
    return [
        part.text
        for message in conversation.messages
        if isinstance(message, UserMessage)
        for part in message.parts
        if isinstance(part, Text) and part.text.strip()
    ]


def real_results(conversation: Conversation) -> set[str]:
    return {
        result.content
        for message in conversation.messages
        if isinstance(message, ToolMessage)
        for result in message.results
        if result.outcome not in SYNTHETIC_RESULTS
    }


ORPHAN = Conversation.of([ToolMessage("m0", (ToolResult("c1", "12 files"),))])
# Cut arguments whose real result comes later than a synthetic one.
LATE = Conversation.of(
    [
        AssistantMessage("m0", (ToolCall("c1", "f", arguments='{"a'),), producer=PRODUCER),
        ToolMessage("m1", (ToolResult("c1", "?", outcome="denied"),)),
        UserMessage("m2", (Text("Stop"),)),
        ToolMessage("m3", (ToolResult("c1", "12 files"),)),
    ]
)


@given(broken_histories())
@example(ORPHAN)
@example(LATE)
@settings(max_examples=500, deadline=None)
def test_any_history_is_mended_once_and_for_all(history: Conversation) -> None:
    """C14."""
    repaired = repair(history)

    assert [] == validate(repaired)
    assert repaired is repair(repaired)
    assert repaired == repair(history)


@given(broken_histories())
@example(ORPHAN)
@example(LATE)
@settings(max_examples=500, deadline=None)
def test_no_repair_loses_what_the_user_said_or_what_a_tool_returned(history: Conversation) -> None:
    repaired = repair(history)

    assert texts_of_the_user(history) == texts_of_the_user(repaired)
    assert real_results(history) <= real_results(repaired)


@given(broken_histories())
@settings(max_examples=300, deadline=None)
def test_no_repair_invents_a_real_result(history: Conversation) -> None:
    invented = real_results(repair(history)) - real_results(history)

    assert not invented


@given(conversations())
def test_what_was_folded_needs_no_repair(conversation: Conversation) -> None:
    """L7."""
    assert conversation is repair(conversation)


@given(logs())
def test_every_branch_of_a_log_is_valid(log: list[Entry]) -> None:
    conversation = fold(log).conversation
    for message in conversation.all_messages:
        assert [] == validate(move_head(conversation, message.id))


def test_the_strategy_breaks_every_rule_that_one_history_can_break() -> None:
    """A sweep over histories that are never broken in some way shows nothing about that way."""
    seen = Counter[str]()

    @settings(max_examples=600, deadline=None, database=None, derandomize=True)  # always the same ones
    @given(broken_histories())
    def count(history: Conversation) -> None:
        seen.update({violation.rule for violation in validate(history)})

    count()

    assert {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C12"} == set(seen)
