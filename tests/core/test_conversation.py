"""step, fold and settle, rule by rule; the laws over all of them are in test_laws.py."""

import copy
import pickle
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiwrapper._core.conversation import (
    CONTINUE_CUT,
    CONTINUE_WHOLE,
    EMPTY,
    Conversation,
    State,
    append,
    continue_,
    fold,
    move_head,
    run_report,
    settle,
    settled,
    step,
)
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
    TurnFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.messages import (
    AssistantMessage,
    CutCall,
    Image,
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
)
from aiwrapper._core.turns import SYNTHETIC_RESULTS
from aiwrapper._core.versions import Versions
from aiwrapper.testing.logs import logs, stray_entries

PRODUCER = Producer("openai_chat", "api.openai.com", model="gpt")
ASKED: list[Entry] = [UserMessageAdded("u", (Text("Hello"),)), RunStarted("r")]
TURN: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=PRODUCER)]


def text(said: str, turn: int = 1) -> TextDelta:
    return TextDelta("r", turn, text=said)


def ready(index: int, arguments: str = "{}", turn: int = 1) -> ToolCallReady:
    return ToolCallReady("r", turn, index, name=f"tool_{index}", arguments=arguments)


def returned(
    index: int, content: str = "done", outcome: ToolOutcome = "returned", turn: int = 1
) -> ToolFinished:
    return ToolFinished("r", turn, index, outcome=outcome, content=content)


def end(turn: int = 1) -> TurnFinished:
    return TurnFinished("r", turn, finish_reason="stop")


def answer(entries: list[Entry]) -> AssistantMessage:
    """The only answer in the settled conversation."""
    (message,) = [
        message for message in settle(fold(entries)).messages if isinstance(message, AssistantMessage)
    ]
    return message


def results(entries: list[Entry]) -> tuple[ToolResult, ...]:
    """The results in the settled conversation."""
    (message,) = [message for message in settle(fold(entries)).messages if isinstance(message, ToolMessage)]
    return message.results


def roles(state: State) -> list[str]:
    return [type(message).__name__ for message in settle(state).messages]


# What is said


def test_the_text_is_the_deltas_one_after_the_other() -> None:
    """C11."""
    message = answer([*TURN, text("Hel"), text("lo "), text("you"), end()])

    assert (Text("Hello you"),) == message.parts
    assert not message.stopped


def test_a_cut_answer_is_kept_and_marked() -> None:
    """C12."""
    message = answer([*TURN, text("Hel")])

    assert "Hel" == message.text
    assert message.stopped


def test_a_turn_that_the_provider_ended_is_not_marked_by_a_later_stop() -> None:
    """C12."""
    message = answer([*TURN, text("Hello"), end(), RunStopped("r", reason="user")])

    assert not message.stopped


@pytest.mark.parametrize("said", [[], [text(" ")], [text("\n"), text("\u3000\t")]])
def test_a_turn_that_said_nothing_leaves_no_message(said: list[Entry]) -> None:
    """C5."""
    assert ["UserMessage"] == roles(fold([*TURN, *said]))
    assert ["UserMessage"] == roles(fold([*TURN, *said, end()]))


def test_white_space_between_words_is_text() -> None:
    message = answer([*TURN, text("a"), text("\n\n"), text("b"), end()])

    assert "a\n\nb" == message.text


def test_a_part_of_white_space_between_calls_goes() -> None:
    """C5: one blank part is refused as an empty message is."""
    message = answer([*TURN, text("Let me see."), ready(0), text("\n"), ready(1), end()])

    assert ["Text", "ToolCall", "ToolCall"] == [type(part).__name__ for part in message.parts]


def test_parts_stand_in_the_order_in_which_the_provider_began_them() -> None:
    """C4: a call is where it was begun, not where it was finished."""
    entries: list[Entry] = [
        ToolCallStarted("r", 1, 0, name="tool_0"),
        text("after"),
        ReasoningDelta("r", 1, text="hm"),
        ready(0),
        end(),
    ]
    message = answer([*TURN, *entries])

    assert ["ToolCall", "Text", "Reasoning"] == [type(part).__name__ for part in message.parts]


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    assert "a\ufffd" == answer([*TURN, text("a"), text("\ud83d"), end()]).text


def test_two_halves_of_a_character_become_the_character() -> None:
    assert "\U0001f600" == answer([*TURN, text("\ud83d"), text("\ude00"), end()]).text


# What is thought


def test_reasoning_that_was_cut_is_for_display() -> None:
    """C8."""
    message = answer([*TURN, ReasoningDelta("r", 1, text="Hm, "), ReasoningDelta("r", 1, text="so")])

    assert (Reasoning("Hm, so", complete=False, opaque=None),) == message.parts


def test_a_payload_is_kept_byte_for_byte_with_its_producer() -> None:
    """C8."""
    payload = '{ "signature" :"x=="}'
    message = answer([*TURN, ReasoningDelta("r", 1, text="Hm"), ReasoningFinished("r", 1, payload=payload)])

    assert (Reasoning("Hm", complete=True, opaque=Opaque(PRODUCER, payload)),) == message.parts


def test_reasoning_that_shows_nothing_is_kept_for_its_payload() -> None:
    message = answer([*TURN, ReasoningFinished("r", 1, payload="{}")])

    assert (Reasoning("", complete=True, opaque=Opaque(PRODUCER, "{}")),) == message.parts


def test_reasoning_that_shows_and_carries_nothing_goes() -> None:
    """C5."""
    assert ["UserMessage"] == roles(fold([*TURN, ReasoningFinished("r", 1), end()]))


def test_reasoning_that_is_finished_begins_anew() -> None:
    message = answer(
        [
            *TURN,
            ReasoningDelta("r", 1, text="one"),
            ReasoningFinished("r", 1),
            ReasoningDelta("r", 1, text="two"),
        ]
    )

    assert (Reasoning("one", complete=True), Reasoning("two", complete=False)) == message.parts


def test_reasoning_may_be_finished_behind_the_text_that_followed_it() -> None:
    message = answer([*TURN, ReasoningDelta("r", 1, text="Hm"), text("So"), ReasoningFinished("r", 1)])

    assert (Reasoning("Hm", complete=True), Text("So")) == message.parts


# What is called


def test_a_call_exists_when_it_is_ready() -> None:
    """C6."""
    message = answer([*TURN, ready(0, '{"a": 1}'), end()])

    assert (ToolCall("r.1.0", "tool_0", arguments='{"a": 1}'),) == message.parts


def test_a_call_that_was_cut_is_shown_and_no_call() -> None:
    """C6: also if what there is of its arguments happens to be an object."""
    started = ToolCallStarted("r", 1, 0, name="shell")
    message = answer([*TURN, text("Well"), started, ToolCallArguments("r", 1, 0, text="{}")])

    assert () == message.calls
    assert (CutCall("shell", "{}"),) == message.cut_calls


@pytest.mark.parametrize("arguments", ["", "[]", "null", '{"a": 1', "{}{}", '{"a": NaN}', "[" * 100_000])
def test_arguments_that_are_no_object_make_no_call(arguments: str) -> None:
    """C6."""
    message = answer([*TURN, text("Well"), ready(0, arguments), end()])

    assert () == message.calls
    assert (CutCall("tool_0", arguments),) == message.cut_calls


def test_a_payload_travels_with_its_call() -> None:
    call = ToolCallReady("r", 1, 0, name="f", arguments="{}", provider_id="call_7", payload='{"s":1}')
    (part,) = answer([*TURN, call, end()]).parts

    assert (
        ToolCall("r.1.0", "f", arguments="{}", provider_id="call_7", opaque=Opaque(PRODUCER, '{"s":1}'))
        == part
    )


def test_results_come_in_call_order_whatever_finished_first() -> None:
    """C4."""
    log = [*TURN, ready(0), ready(1), end(), returned(1, "second"), returned(0, "first")]

    assert ["first", "second"] == [result.content for result in results(log)]


def test_the_call_and_its_result_enter_the_conversation_together() -> None:
    """C1: no look at the closed messages sees a call that nobody answered."""
    log = [*TURN, ready(0), ready(1), end(), returned(0)]

    assert 1 == len(fold(log).conversation.messages)
    assert 3 == len(fold([*log, returned(1)]).conversation.messages)


def test_a_call_that_was_not_started_says_so() -> None:
    """C7."""
    (result,) = results([*TURN, ready(0), end()])

    assert ToolResult("r.1.0", SYNTHETIC_RESULTS["not_started"], outcome="not_started") == result


def test_a_call_that_ran_says_that_it_may_have_had_an_effect() -> None:
    """C7."""
    (result,) = results([*TURN, ready(0), end(), ToolStarted("r", 1, 0)])

    assert "interrupted_running" == result.outcome
    assert "may have taken effect" in result.content


def test_a_call_that_was_finished_keeps_its_result_when_another_is_stopped() -> None:
    """C7."""
    log: list[Entry] = [
        *TURN,
        ready(0),
        ready(1),
        end(),
        ToolStarted("r", 1, 0),
        ToolStarted("r", 1, 1),
        returned(1),
    ]

    assert ["interrupted_running", "returned"] == [result.outcome for result in results(log)]


def test_the_first_result_stays() -> None:
    """C3: a late result after a synthetic one is dropped, and so is a second one."""
    log = [*TURN, ready(0), end(), returned(0, "first"), returned(0, "second")]

    assert ["first"] == [result.content for result in results(log)]


def test_a_result_after_the_stop_changes_nothing() -> None:
    """C3, E1."""
    stopped = fold([*TURN, ready(0), end(), ToolStarted("r", 1, 0), RunStopped("r", reason="user")])

    assert stopped is step(stopped, returned(0, "late"))


def test_a_result_may_come_while_the_turn_is_still_being_said() -> None:
    """Arguments that failed validation are answered before the turn is over."""
    log = [*TURN, ready(0), returned(0, "no such tool", "unknown_tool"), text("x"), end()]

    assert ["unknown_tool"] == [result.outcome for result in results(log)]
    assert 3 == len(fold(log).conversation.messages)


@pytest.mark.parametrize("outcome", sorted(SYNTHETIC_RESULTS))
def test_whoever_did_not_call_a_handler_says_why(outcome: ToolOutcome) -> None:
    """C7: found by the sweep over drawn logs, as a refusal without a word."""
    (result,) = results([*TURN, ready(0), end(), returned(0, " ", outcome)])

    assert SYNTHETIC_RESULTS[outcome] == result.content


def test_a_handler_may_return_nothing() -> None:
    (result,) = results([*TURN, ready(0), end(), returned(0, "")])

    assert "" == result.content


def test_no_text_about_a_stop_speaks_of_a_person() -> None:
    """Told that somebody refused, models apologise for what nobody did."""
    words = (SYNTHETIC_RESULTS["not_started"] + SYNTHETIC_RESULTS["interrupted_running"]).lower()

    assert not [word for word in ("user", "reject", "refus", "denied", "cancel") if word in words]


# What is ignored


@pytest.mark.parametrize(
    "entry",
    [
        TextDelta("other", 1, text="x"),
        TextDelta("r", 2, text="x"),
        TextDelta("r", 1, text=""),
        TurnStarted("r", 1, producer=PRODUCER),
        TurnStarted("r", 0, producer=PRODUCER),
        TurnStarted("r", -1, producer=PRODUCER),
        TurnStarted("other", 2, producer=PRODUCER),
        RunStarted("r"),
        RunFinished("other"),
        RunStopped("other", reason="user"),
        RunFailed("other", error="network", message=""),
        UsageReported("r", 2, usage=Usage(input_tokens=1)),
        ToolCallStarted("r", 1, -1, name="f"),
        ToolCallReady("r", 1, -(2**70), name="f", arguments="{}"),
        ToolStarted("r", 1, 0),
        ToolFinished("r", 1, 2**70, outcome="returned", content=""),
        RetryWaiting("r", 1, attempt=1, seconds=1.0, error=""),
        HeadMoved("unknown"),
    ],
    ids=repr,
)
def test_an_entry_that_makes_no_sense_changes_nothing(entry: Entry) -> None:
    state = fold([*TURN, text("Hello")])

    assert state is step(state, entry)


@pytest.mark.parametrize(
    "entry",
    [
        text("x"),
        ReasoningDelta("r", 1, text="x"),
        ReasoningFinished("r", 1, payload="{}"),
        ToolCallStarted("r", 1, 1, name="f"),
        ToolCallArguments("r", 1, 1, text="{}"),
        ready(1),
        end(),
    ],
    ids=repr,
)
def test_nothing_is_said_after_the_turns_end(entry: Entry) -> None:
    """E1."""
    state = fold([*TURN, ready(0), end()])

    assert state is step(state, entry)


def test_a_handler_is_not_started_after_its_result() -> None:
    state = fold([*TURN, ready(0), ready(1), end(), returned(0)])

    assert state is step(state, ToolStarted("r", 1, 0))


def test_a_huge_index_is_an_index() -> None:
    assert (f"r.1.{2**70}",) == tuple(call.id for call in answer([*TURN, ready(2**70), end()]).calls)


@given(logs(), stray_entries())
def test_step_takes_any_entry_in_any_state(log: list[Entry], entry: Entry) -> None:
    state = fold(log)

    assert isinstance(step(state, entry), State)


# Runs


def test_a_run_id_is_used_once() -> None:
    """S5: a second start would let late entries of the first run in."""
    state = fold([*TURN, text("Hello"), end(), RunFinished("r")])

    assert state is step(state, RunStarted("r"))


@pytest.mark.parametrize(
    "entry", [UserMessageAdded("u2", (Text("And?"),)), RunStarted("r2"), HeadMoved(None)]
)
def test_a_run_that_never_ended_has_crashed_when_the_next_thing_happens(entry: Entry) -> None:
    state = step(fold([*TURN, text("Hel")]), entry)
    report = run_report(state, "r")

    assert report is not None
    assert ("stopped", "crash") == (report.status, report.reason)
    assert "r.1" in state.conversation.all_messages


def test_a_turn_that_was_given_up_is_closed_by_the_next() -> None:
    message, second = (
        message
        for message in settle(
            fold([*TURN, text("Hel"), TurnStarted("r", 2, producer=PRODUCER), text("Hi", 2)])
        ).messages
        if isinstance(message, AssistantMessage)
    )

    assert message.stopped
    assert ("Hel", "Hi") == (message.text, second.text)


def test_settling_a_closed_run_gives_the_same_object() -> None:
    state = fold([*TURN, text("Hello"), end(), RunFinished("r")])

    assert state is settled(state)
    assert state.conversation is settle(state)


def test_settling_is_a_view() -> None:
    """P1: the run goes on as if nobody had looked."""
    state = fold([*TURN, text("Hel")])
    settle(state)

    assert answer([*TURN, text("Hel"), text("lo"), end()]) == settle(fold([text("lo"), end()], state)).head


def test_a_report_says_how_a_run_ended() -> None:
    log: list[Entry] = [*TURN, RunStopped("r", reason="user", message="enough", where="streaming")]
    report = run_report(fold(log))

    assert report is not None
    assert ("stopped", "user", "enough", "streaming", 1) == (
        report.status,
        report.reason,
        report.message,
        report.where,
        report.turns,
    )


def test_a_report_says_how_an_open_run_stands() -> None:
    report = run_report(
        fold([*TURN, ready(0), ready(1), ready(2), end(), ToolStarted("r", 1, 1), returned(2)])
    )

    assert report is not None
    assert "running" == report.status
    assert [(None, False), (None, True), ("returned", True)] == [
        (call.outcome, call.started) for call in report.calls
    ]


def test_a_report_has_the_calls_of_all_turns() -> None:
    log = [*TURN, ready(0), end(), returned(0), TurnStarted("r", 2, producer=PRODUCER), ready(0, turn=2)]
    report = run_report(fold([*log, RunFailed("r", error="network", message="broken")]))

    assert report is not None
    assert ("failed", "network", "broken") == (report.status, report.reason, report.message)
    assert [("r.1.0", "returned"), ("r.2.0", "not_started")] == [
        (call.call.id, call.outcome) for call in report.calls
    ]


def test_there_is_no_report_of_a_run_that_never_was() -> None:
    assert run_report(EMPTY) is None
    assert run_report(fold(TURN), "other") is None


def test_usage_is_summed_over_turns() -> None:
    """U2."""
    log: list[Entry] = [
        *TURN,
        UsageReported("r", 1, usage=Usage(input_tokens=10)),
        UsageReported("r", 1, usage=Usage(output_tokens=5, complete=True)),
        ready(0),
        end(),
        returned(0),
        TurnStarted("r", 2, producer=PRODUCER),
        UsageReported("r", 2, usage=Usage(input_tokens=20, output_tokens=7, complete=True)),
    ]
    report = run_report(fold([*log, end(2), RunFinished("r")]))

    assert report is not None
    assert Usage(input_tokens=30, output_tokens=12, complete=True) == report.usage


def test_usage_may_be_reported_after_the_turns_end() -> None:
    log = [*TURN, text("x"), end(), UsageReported("r", 1, usage=Usage(input_tokens=3, complete=True))]
    report = run_report(fold(log))

    assert report is not None
    assert Usage(input_tokens=3, complete=True) == report.usage


def test_usage_of_a_turn_that_did_not_tell_is_a_lower_bound() -> None:
    """U1."""
    log: list[Entry] = [*TURN, UsageReported("r", 1, usage=Usage(input_tokens=10)), text("Hel")]
    report = run_report(fold([*log, RunStopped("r", reason="user")]))

    assert report is not None
    assert Usage(input_tokens=10, complete=False) == report.usage


def test_a_run_that_asked_nobody_used_nothing() -> None:
    report = run_report(fold([*ASKED, RunStopped("r", reason="user", where="before_start")]))

    assert report is not None
    assert Usage(complete=True) == report.usage


# Users, branches, settings


def test_the_users_message_is_there_once() -> None:
    """C9."""
    state = fold([UserMessageAdded("u", (Text("Hello"),)), UserMessageAdded("u", (Text("Hello"),))])

    assert ["UserMessage"] == roles(state)


def test_a_user_who_says_nothing_has_said_nothing() -> None:
    """C5."""
    state = fold(
        [UserMessageAdded("u", (Text(" "), Text("Hi"), Image("image/png", ""))), UserMessageAdded("v", ())]
    )

    assert (UserMessage("u", (Text("Hi"),)),) == state.conversation.messages


def test_an_edit_makes_a_branch_and_loses_nothing() -> None:
    state = fold(
        [*TURN, text("Hello"), end(), RunFinished("r"), HeadMoved(None), UserMessageAdded("v", (Text("Hi"),))]
    )

    assert ["v"] == [message.id for message in state.conversation.messages]
    assert ["u", "r.1", "v"] == [message.id for message in state.conversation.all_messages]


def test_a_user_message_may_name_the_message_it_follows() -> None:
    state = fold([*TURN, text("Hello"), end(), UserMessageAdded("v", (Text("Hi"),), parent_id="u")])

    assert ["u", "v"] == [message.id for message in state.conversation.messages]


@pytest.mark.parametrize("target", ["r.1", "r.1.results"])
def test_moving_the_head_does_not_part_a_call_from_its_result(target: str) -> None:
    """C1."""
    log = [*TURN, ready(0), end(), returned(0), TurnStarted("r", 2, producer=PRODUCER), text("So", 2), end(2)]
    state = fold([*log, HeadMoved(target)])

    assert "r.1.results" == state.conversation.head_id


def test_the_head_does_not_move_to_a_call_that_has_no_result() -> None:
    broken = Conversation.of(
        [AssistantMessage("a", (ToolCall("c", "f", arguments="{}"),), producer=PRODUCER)]
    )
    longer = append(broken, UserMessage("u", (Text("Hi"),)))

    assert longer is move_head(longer, "a")


def test_an_id_that_a_user_took_is_made_free() -> None:
    """C3: ids are ours, but a user's message may be called what a run's would be."""
    state = fold([UserMessageAdded("r.1", (Text("Hello"),)), RunStarted("r"), *TURN[2:], text("Hi"), end()])

    assert ["r.1", "r.1'"] == [message.id for message in state.conversation.messages]


def test_title_settings_and_deletion_are_of_the_log() -> None:
    state = fold([Titled("Trip"), Configured('{"a": 1}'), Deleted()])

    assert ("Trip", '{"a": 1}', True) == (state.title, state.settings, state.deleted)


def test_a_title_does_not_end_a_run() -> None:
    assert fold([*TURN, Titled("Trip")]).run is not None


# Going on


def test_nothing_is_added_where_it_is_the_models_turn() -> None:
    user = Conversation.of([UserMessage("u", (Text("Hi"),))])
    tools = settle(fold([*TURN, ready(0), end(), returned(0)]))

    assert [None, None, None] == [continue_(Conversation()), continue_(user), continue_(tools)]


@pytest.mark.parametrize(("rest", "said"), [([], CONTINUE_CUT), ([end()], CONTINUE_WHOLE)])
def test_after_an_answer_the_user_is_made_to_ask_for_more(rest: list[Entry], said: str) -> None:
    message = continue_(settle(fold([*TURN, text("Hel"), *rest])))

    assert UserMessage("r.1.continue", (Text(said),), parent_id="r.1", synthetic=True) == message


def test_reasoning_alone_is_no_answer_to_go_on_from() -> None:
    """C17: it is not sent, so the user's message is the last the model sees."""
    assert continue_(settle(fold([*TURN, ReasoningDelta("r", 1, text="Hm")]))) is None


# The values themselves


def test_append_refuses_an_id_twice() -> None:
    conversation = Conversation.of([UserMessage("u", (Text("Hi"),))])

    with pytest.raises(ValueError, match="'u'"):
        append(conversation, UserMessage("u", (Text("Hi"),)))


def test_append_sets_the_parent() -> None:
    conversation = Conversation.of(
        [UserMessage("u", (Text("Hi"),)), UserMessage("v", (Text("Hi"),), parent_id="x")]
    )

    assert [None, "u"] == [message.parent_id for message in conversation.messages]


def test_the_history_is_the_same_objects_afterwards() -> None:
    """C10."""
    before = fold([*TURN, text("Hello"), end(), RunFinished("r")]).conversation
    after = append(before, UserMessage("v", (Text("And?"),)))

    assert all(new is old for new, old in zip(after.messages, before.messages, strict=False))


@given(logs())
def test_a_state_pickles_and_copies(log: list[Entry]) -> None:
    state = fold(log)

    assert state == pickle.loads(pickle.dumps(state)) == copy.deepcopy(state)
    assert hash(state) == hash(copy.deepcopy(state))


def test_a_conversation_shows_its_messages() -> None:
    conversation = Conversation.of([UserMessage("u", (Text("Hi"),))])

    assert conversation == eval(repr(conversation))


def test_a_turn_of_100_000_deltas_is_one_storage() -> None:
    """Linear: every version of the turn shares it, so taking a delta copies nothing, and nothing recurses."""
    state = fold(TURN)
    storages = set()
    delta = text("x")
    for _ in range(100_000):
        state = step(state, delta)
        assert state.run is not None
        assert state.run.turn is not None
        storages.add(id(state.run.turn.entries._items))

    assert 1 == len(storages)
    assert answer([*TURN, text("x" * 100_000)]) == settle(state).head
    assert state == copy.copy(state)
    assert "x" in repr(state)


def test_a_conversation_of_10_000_messages_is_one_storage() -> None:
    state = EMPTY
    storages = set()
    for number in range(10_000):
        state = step(state, UserMessageAdded(f"u{number}", (Text("Hi"),)))
        storages.add(id(state.conversation.all_messages._items))

    assert 1 == len(storages)
    assert 10_000 == len(state.conversation.messages)


# The sequence underneath


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3))))
@example([(0, 0), (0, 1), (0, 0)])
@example([(0, 0), (0, 1), (2, 2)])  # a key of the branch that was left
def test_versions_are_tuples_that_share(steps: list[tuple[int, int]]) -> None:
    """Against plain tuples: going on from any version, newest or not, never changes another."""
    versions: list[tuple[Versions[int], tuple[int, ...]]] = [(Versions(), ())]
    keys: set[str] = set()
    for origin, item in steps:
        version, twin = versions[origin % len(versions)]
        key = f"{len(twin)}: {item}"
        keys.add(key)
        versions.append((version.appended(item, key), (*twin, item)))
        for known, expected in versions:
            found = {f"{place}: {item}": item for place, item in enumerate(expected)}
            assert expected == tuple(known)
            assert len(expected) == len(known)
            assert {key: found.get(key) for key in keys} == {key: known.get(key) for key in keys}
            assert Versions(expected) == known
            assert (known == version) == (expected == twin)
            assert known == pickle.loads(pickle.dumps(known))


def test_a_version_knows_its_own_length_only() -> None:
    short = Versions(["a"])
    short.appended("b", "key")

    assert "key" not in short
    with pytest.raises(IndexError, match="1"):
        short[1]
    assert short != ("a",)


def test_threads_that_go_on_from_one_version_do_not_meet() -> None:
    """Whoever claims the place second copies; both get what they asked for."""
    shared: Versions[str] = Versions(["a"])
    barrier = threading.Barrier(8)
    made: dict[int, list[str]] = {}

    def go_on(number: int) -> None:
        version = shared
        barrier.wait()
        for item in range(500):
            version = version.appended(f"{number}.{item}", f"{item}")
        made[number] = list(version)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {n: ["a", *(f"{n}.{item}" for item in range(500))] for n in range(8)} == made
