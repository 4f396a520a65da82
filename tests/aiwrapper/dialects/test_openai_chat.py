"""What Chat Completions is sent, and every rule of it broken on purpose."""

import json
from typing import Any

import pytest

from aiwrapper._core.conversation import CONTINUE_CUT, CONTINUE_WHOLE, Conversation
from aiwrapper._core.dialect import JsonObject, Options, ToolSpec
from aiwrapper._core.messages import (
    AssistantMessage,
    Image,
    Message,
    Opaque,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from aiwrapper.dialects._wire_history import BRIDGE, OPENING
from aiwrapper.dialects.openai_chat import OpenAIChat

GPT = Producer("openai_chat", "api.openai.com", model="gpt")
REASONER = Producer("openai_chat", "api.deepseek.com", model="reasoner")
OPTIONS = Options(producer=GPT)

MISTRAL = OpenAIChat(max_tokens_field="max_tokens", usage_option=False, nine_character_ids=True)
DEEPSEEK = OpenAIChat(max_tokens_field="max_tokens", reasoning_back=True)


def user(text: str, message_id: str = "u") -> UserMessage:
    return UserMessage(message_id, (Text(text),))


def said(
    *parts: Text | Reasoning | ToolCall, message_id: str = "r.1", stopped: bool = False
) -> AssistantMessage:
    return AssistantMessage(message_id, parts, producer=GPT, stopped=stopped)


def answered(*ids: str) -> ToolMessage:
    return ToolMessage("r.1.results", tuple(ToolResult(call_id, f"result of {call_id}") for call_id in ids))


CALL = ToolCall("r.1.0", "f", arguments='{"a": 1}', provider_id="call_theirs")


def sent(
    *messages: Message, dialect: OpenAIChat | None = None, options: Options = OPTIONS
) -> list[JsonObject]:
    encoded: list[JsonObject] = (dialect or OpenAIChat()).encode(Conversation.of(messages), options)[
        "messages"
    ]
    return encoded


def roles(messages: list[JsonObject]) -> list[str]:
    return [message["role"] for message in messages]


def test_a_first_question_is_a_small_request() -> None:
    assert {
        "model": "gpt",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    } == OpenAIChat().encode(Conversation.of([user("Hi")]), OPTIONS)


def test_options_are_sent() -> None:
    options = Options(
        producer=GPT,
        instructions="Be brief.",
        tools=(ToolSpec("f", description="Does f.", parameters='{"type": "object"}'),),
        max_output_tokens=7,
        temperature=0.5,
        extra='{"top_p": 0.9, "temperature": 1, "stream": false, "messages": []}',
    )

    body = OpenAIChat().encode(Conversation.of([user("Hi")]), options)

    function = {"name": "f", "description": "Does f.", "parameters": {"type": "object"}}
    assert [{"type": "function", "function": function}] == body["tools"]
    assert [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}] == body["messages"]
    assert (7, 1, 0.9, True) == tuple(
        body[key] for key in ("max_completion_tokens", "temperature", "top_p", "stream")
    )


def test_a_host_may_want_other_fields() -> None:
    body = MISTRAL.encode(Conversation.of([user("Hi")]), Options(producer=GPT, max_output_tokens=7))

    assert 7 == body["max_tokens"]
    assert "stream_options" not in body
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize("extra", ["[]", "{", "", '"\ud800"', "[" * 100_000])
def test_extra_fields_have_to_be_an_object(extra: str) -> None:
    with pytest.raises(ValueError, match=r"Options\.extra"):
        OpenAIChat().encode(Conversation(), Options(producer=GPT, extra=extra))


def test_a_call_and_its_results_are_sent_under_ids_of_ours() -> None:
    calls = said(Text("Let me see."), CALL, ToolCall("r.1.1", "g", arguments="{}"))

    _, assistant, first, second, answer = sent(
        user("Hi"), calls, answered("r.1.0", "r.1.1"), said(Text("x"), message_id="r.2")
    )[:5]

    ids = [call["id"] for call in assistant["tool_calls"]]
    assert "Let me see." == assistant["content"]
    assert ids == [first["tool_call_id"], second["tool_call_id"]]
    assert all(wire_id.startswith("call_") and len(wire_id) <= 40 for wire_id in ids)
    assert {"name": "f", "arguments": '{"a": 1}'} == assistant["tool_calls"][0]["function"]
    assert ["tool", "tool", "assistant"] == roles([first, second, answer])


def test_mistrals_ids_have_nine_letters_and_are_distinct() -> None:
    """M5."""
    calls = tuple(ToolCall(f"r.1.{index}", "f", arguments="{}") for index in range(2_000))

    assistant = sent(user("Hi"), said(*calls), answered(*(call.id for call in calls)), dialect=MISTRAL)[1]

    ids = [call["id"] for call in assistant["tool_calls"]]
    assert {9} == {len(wire_id) for wire_id in ids}
    assert all(wire_id.isalnum() and wire_id.isascii() for wire_id in ids)
    assert len(ids) == len(set(ids))


def test_calls_without_text_have_null_content() -> None:
    assert sent(user("Hi"), said(CALL), answered("r.1.0"))[1]["content"] is None


def test_a_user_after_results_is_bridged() -> None:
    """C16: the natural shape after a stop between a result and the answer."""
    messages = sent(user("Hi"), said(CALL), answered("r.1.0"), user("And?", "u2"))

    assert ["user", "assistant", "tool", "assistant", "user"] == roles(messages)
    assert {"role": "assistant", "content": BRIDGE} == messages[3]


def test_results_at_the_end_are_answered_by_the_model_without_a_bridge() -> None:
    assert ["user", "assistant", "tool"] == roles(sent(user("Hi"), said(CALL), answered("r.1.0")))


def test_what_the_user_says_in_a_row_is_one_message() -> None:
    """OC5; a turn that gave nothing before the stop leaves this."""
    assert [{"role": "user", "content": "Hi\n\nAre you there?"}] == sent(
        user("Hi"), user("Are you there?", "u2")
    )


def test_an_answer_at_the_end_is_asked_to_go_on() -> None:
    assert {"role": "user", "content": CONTINUE_WHOLE} == sent(user("Hi"), said(Text("a")))[-1]
    assert {"role": "user", "content": CONTINUE_CUT} == sent(user("Hi"), said(Text("a"), stopped=True))[-1]


def test_two_answers_in_a_row_have_the_question_between_them_that_the_second_answered() -> None:
    messages = sent(
        user("Hi"), said(Text("a"), stopped=True), said(Text("b"), message_id="r2.1"), user("Thanks", "u2")
    )

    assert ["Hi", "a", CONTINUE_CUT, "b", "Thanks"] == [message["content"] for message in messages]


def test_an_empty_conversation_and_one_that_begins_with_an_answer_are_requests() -> None:
    assert [{"role": "user", "content": OPENING}] == sent()
    assert [OPENING, "a", "Hi"] == [message["content"] for message in sent(said(Text("a")), user("Hi"))]


def test_a_turn_of_reasoning_alone_is_absent() -> None:
    """C17."""
    assert [{"role": "user", "content": "Hi\n\nAnd?"}] == sent(
        user("Hi"), said(Reasoning("Hm", complete=True)), user("And?", "u2")
    )


def test_blank_text_is_left_out_and_a_blank_message_too() -> None:
    messages = sent(
        UserMessage("u", (Text(" "),)), user("Hi", "u2"), said(Text("\n"), CALL), answered("r.1.0")
    )

    assert ["user", "assistant", "tool"] == roles(messages)
    assert messages[1]["content"] is None


def test_images_are_sent_as_data_urls() -> None:
    image = Image("image/png", "aGk=")

    assert [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ] == sent(UserMessage("u", (Text("What is this?"), image)))[0]["content"]


def test_a_name_that_a_model_made_up_is_made_fit_to_send() -> None:
    calls = tuple(
        ToolCall(f"r.1.{at}", name, arguments="{}") for at, name in enumerate(("a b.c", "", "x" * 99))
    )

    assistant = sent(user("Hi"), said(*calls), answered(*(call.id for call in calls)))[1]

    assert ["a_b_c", "unnamed", "x" * 64] == [call["function"]["name"] for call in assistant["tool_calls"]]


def test_an_empty_result_says_that_it_is_empty() -> None:
    message = ToolMessage("m", (ToolResult("r.1.0", " \n"),))

    assert "(no output)" == sent(user("Hi"), said(CALL), message)[2]["content"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Reasoning("Hm", complete=True), "Hm"),
        (Reasoning("Hm"), ""),
        (Reasoning("Hm", complete=True, opaque=Opaque(REASONER, "{}")), ""),
    ],
    ids=["whole", "partial", "opaque"],
)
def test_deepseek_gets_its_own_whole_reasoning_back(part: Reasoning, expected: str) -> None:
    """D1, C8."""
    options = Options(producer=REASONER)
    own = AssistantMessage("r.1", (part, CALL), producer=REASONER)

    assert (
        expected
        == sent(user("Hi"), own, answered("r.1.0"), dialect=DEEPSEEK, options=options)[1]["reasoning_content"]
    )


def test_deepseek_gets_an_empty_string_for_the_reasoning_of_others() -> None:
    theirs = said(Reasoning("Hm", complete=True), CALL)

    messages = sent(
        user("Hi"), theirs, answered("r.1.0"), dialect=DEEPSEEK, options=Options(producer=REASONER)
    )

    assert "" == messages[1]["reasoning_content"]


def test_deepseek_gets_no_reasoning_of_turns_without_calls() -> None:
    own = AssistantMessage("r.1", (Reasoning("Hm", complete=True), Text("a")), producer=REASONER)

    messages = sent(user("Hi"), own, user("b", "u2"), dialect=DEEPSEEK, options=Options(producer=REASONER))

    assert "reasoning_content" not in messages[1]


def test_others_are_sent_no_reasoning() -> None:
    assert "Hm" not in json.dumps(
        sent(user("Hi"), said(Reasoning("Hm", complete=True), CALL), answered("r.1.0"))
    )


def test_the_headers_hold_the_key_and_no_empty_one() -> None:
    assert "Bearer sk-1" == OpenAIChat().headers("sk-1")["Authorization"]
    assert "Authorization" not in OpenAIChat().headers(None)
    assert "/chat/completions" == OpenAIChat().path(OPTIONS)


# Every rule, broken.


def u(content: object = "Hi") -> JsonObject:
    return {"role": "user", "content": content}


def a(content: object = "Hello", **fields: object) -> JsonObject:
    return {"role": "assistant", "content": content, **fields}


def c(*ids: str, name: str = "f", arguments: object = "{}", content: object = None) -> JsonObject:
    function = {"name": name, "arguments": arguments}
    return a(
        content, tool_calls=[{"id": call_id, "type": "function", "function": function} for call_id in ids]
    )


def t(call_id: str, content: object = "ok") -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


S = {"role": "system", "content": "Be brief."}


def found(messages: Any, dialect: OpenAIChat | None = None, model: object = "gpt") -> list[str]:
    violations = (dialect or OpenAIChat()).violations({"model": model, "messages": messages})
    assert all(violation.message and violation.where for violation in violations)
    return [violation.rule for violation in violations]


@pytest.mark.parametrize(
    "messages",
    [
        [u()],
        [S, u()],
        [{"role": "developer", "content": "x"}, u()],
        [u(), a(), u()],
        [u(), c("1", "2"), t("2"), t("1")],
        [u(), c("1", content="Hm"), t("1"), a(), u([{"type": "text", "text": "x"}])],
        [u(), c("1"), t("1", [{"type": "text", "text": "x"}]), c("2"), t("2")],
        [u(), a([{"type": "text", "text": "x"}]), u()],
        [u(), a([{"type": "refusal", "refusal": "x"}]), u()],
        [u(), c("1", content=[]), t("1")],
    ],
)
def test_a_good_request_breaks_no_rule(messages: list[JsonObject]) -> None:
    assert [] == found(messages)


BROKEN = {
    "OC0 no messages": ("OC0", None),
    "OC0 empty messages": ("OC0", []),
    "OC0 no object": ("OC0", ["Hi"]),
    "OC0 no role": ("OC0", [{"content": "Hi"}]),
    "OC0 unknown role": ("OC0", [{"role": "model", "content": "Hi"}]),
    "OC0 unhashable role": ("OC0", [{"role": [], "content": "Hi"}]),
    "OC0 no content": ("OC0", [{"role": "user"}]),
    "OC0 null content": ("OC0", [u(None)]),
    "OC0 number as content": ("OC0", [u(), a(3), u()]),
    "OC0 result without id": ("OC0", [u(), c("1"), {"role": "tool", "content": "ok"}]),
    "OC0 calls are no list": ("OC0", [u(), a(tool_calls={}), u()]),
    "OC0 call is no object": ("OC0", [u(), a(tool_calls=["f"]), u()]),
    "OC0 call without function": ("OC0", [u(), a(tool_calls=[{"id": "1", "type": "function"}]), u()]),
    "OC0 call without id": ("OC0", [u(), c(""), t("")]),
    "OC0 long id": ("OC0", [u(), c("x" * 41), t("x" * 41)]),
    "OC0 bad name": ("OC0", [u(), c("1", name="a b"), t("1")]),
    "OC1 no result": ("OC1", [u(), c("1")]),
    "OC1 fewer results": ("OC1", [u(), c("1", "2"), t("1")]),
    "OC1 result after the user": ("OC1", [u(), c("1"), u(), t("1")]),
    "OC1 id twice": ("OC1", [u(), c("1", "1"), t("1")]),
    "OC2 result of nothing": ("OC2", [u(), t("1")]),
    "OC2 result first": ("OC2", [t("1")]),
    "OC2 result of another": ("OC2", [u(), c("1"), t("1"), t("2")]),
    "OC2 result twice": ("OC2", [u(), c("1"), t("1"), t("1")]),
    "OC2 result of an older call": ("OC2", [u(), c("1"), t("1"), c("2"), t("2"), t("1")]),
    "OC3 cut arguments": ("OC3", [u(), c("1", arguments='{"a'), t("1")]),
    "OC3 empty arguments": ("OC3", [u(), c("1", arguments=""), t("1")]),
    "OC3 an array": ("OC3", [u(), c("1", arguments="[]"), t("1")]),
    "OC3 the object itself": ("OC3", [u(), c("1", arguments={}), t("1")]),
    "OC3 no arguments": ("OC3", [u(), c("1", arguments=None), t("1")]),
    "OC4 null": ("OC4", [u(), a(None), u()]),
    "OC4 empty": ("OC4", [u(), a(""), u()]),
    "OC4 blank": ("OC4", [u(), a(" \n"), u()]),
    "OC4 empty list": ("OC4", [u(), a([]), u()]),
    "OC4 blank parts": ("OC4", [u(), a([{"type": "text", "text": " "}, {"type": "text"}]), u()]),
    "OC5 two users": ("OC5", [u(), u()]),
    "OC5 two answers": ("OC5", [u(), a(), a(), u()]),
    "OC5 system in the middle": ("OC5", [u(), a(), S, u()]),
    "OC5 answer first": ("OC5", [S, a(), u()]),
    "OC6 empty calls": ("OC6", [u(), a(tool_calls=[]), u()]),
    "C16 user after a result": ("C16", [u(), c("1"), t("1"), u()]),
    "M3 answer last": ("M3", [u(), a()]),
    "M3 system last": ("M3", [S]),
}


@pytest.mark.parametrize(("rule", "messages"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_found(rule: str, messages: object) -> None:
    assert rule in found(messages)


@pytest.mark.parametrize("model", [None, "", 3])
def test_a_request_names_its_model(model: object) -> None:
    assert ["OC0"] == found([u()], model=model)


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ("M1", [u(), c("abcdefgh1"), u()]),
        ("M4", [u(), a(""), u()]),
        ("M5", [u(), c("call_1"), t("call_1")]),
        ("M5", [u(), c("abcdefgh_"), t("abcdefgh_")]),
    ],
)
def test_mistrals_rules_are_found_where_mistral_is_asked(rule: str, messages: list[JsonObject]) -> None:
    assert rule in found(messages, MISTRAL)
    assert rule not in found(messages)


def test_deepseeks_rule_is_found_where_deepseek_is_asked() -> None:
    messages = [u(), c("1"), t("1")]

    assert ["D1"] == found(messages, DEEPSEEK)
    assert [] == found([u(), {**messages[1], "reasoning_content": ""}, t("1")], DEEPSEEK)
    assert [] == found([u(), a(), u()], DEEPSEEK)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [u(), c("call_1", "call_2"), t("call_1")],
            (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: call_2"
            ),
        ),
        (
            [u(), t("1")],
            (
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'."
            ),
        ),
        (
            [u(), u()],
            "After the optional system message, conversation roles must alternate user and assistant roles",
        ),
        ([u(), c("1"), t("1"), u()], "Unexpected role 'user' after role 'tool'"),
        (
            [u(), a()],
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        ),
    ],
)
def test_the_words_are_the_providers(messages: list[JsonObject], words: str) -> None:
    violations = OpenAIChat().violations({"model": "gpt", "messages": messages})

    assert words in [violation.message for violation in violations]
