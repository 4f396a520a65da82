"""What Messages is sent, and every rule of it broken on purpose."""

from typing import Any

import pytest

from aiwrapper._core.conversation import CONTINUE_CUT, CONTINUE_WHOLE, Conversation
from aiwrapper._core.dialect import JsonObject, Options, ToolSpec
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
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
from aiwrapper.dialects._wire_history import BRIDGE, OPENING
from aiwrapper.dialects.anthropic import DEFAULT_MAX_TOKENS, Anthropic

CLAUDE = Producer("anthropic", "api.anthropic.com", model="claude")
GPT = Producer("openai_chat", "api.openai.com", model="gpt")
PLAIN = Options(producer=CLAUDE)
THINKING = Options(producer=CLAUDE, thinking_tokens=2_000)

BLOCK = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}
THOUGHT = Reasoning(
    "Hm", complete=True, opaque=Opaque(CLAUDE, '{"type":"thinking","thinking":"Hm","signature":"c2ln"}')
)
CALL = ToolCall("r.1.0", "f", arguments='{"a": 1}', provider_id="toolu_theirs")


def user(text: str, message_id: str = "u") -> UserMessage:
    return UserMessage(message_id, (Text(text),))


def said(
    *parts: AssistantPart, message_id: str = "r.1", stopped: bool = False, by: Producer = CLAUDE
) -> AssistantMessage:
    return AssistantMessage(message_id, parts, producer=by, stopped=stopped)


def answered(*ids: str, outcome: ToolOutcome = "returned") -> ToolMessage:
    return ToolMessage(
        "r.1.results", tuple(ToolResult(call_id, "result", outcome=outcome) for call_id in ids)
    )


def request(*messages: Message, options: Options = PLAIN) -> JsonObject:
    return Anthropic().encode(Conversation.of(messages), options)


def sent(*messages: Message, options: Options = PLAIN) -> list[tuple[str, list[JsonObject]]]:
    return [
        (message["role"], message["content"]) for message in request(*messages, options=options)["messages"]
    ]


def text(value: str) -> JsonObject:
    return {"type": "text", "text": value}


def test_a_first_question_is_a_small_request() -> None:
    assert {
        "model": "claude",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [text("Hi")]}],
        "stream": True,
    } == request(user("Hi"))


def test_options_are_sent() -> None:
    options = Options(
        producer=CLAUDE,
        instructions="Be brief.",
        tools=(ToolSpec("f", description="Does f.", parameters='{"type": "object"}'),),
        max_output_tokens=7,
        temperature=0.5,
        extra='{"top_k": 9, "stream": false, "messages": []}',
    )

    body = request(user("Hi"), options=options)

    assert [{"name": "f", "description": "Does f.", "input_schema": {"type": "object"}}] == body["tools"]
    assert ("Be brief.", 7, 0.5, 9, True) == tuple(
        body[key] for key in ("system", "max_tokens", "temperature", "top_k", "stream")
    )
    assert 1 == len(body["messages"])


def test_a_call_and_its_results_are_sent_under_ids_of_ours() -> None:
    calls = said(Text("Let me see."), CALL, ToolCall("r.1.1", "g", arguments="{}"))

    (_, _), (_, blocks), (role, results) = sent(user("Hi"), calls, answered("r.1.0", "r.1.1"))

    assert [text("Let me see."), {"type": "tool_use", "name": "f", "input": {"a": 1}}] == [
        blocks[0],
        {key: value for key, value in blocks[1].items() if key != "id"},
    ]
    assert "user" == role
    assert [block["id"] for block in blocks[1:]] == [block["tool_use_id"] for block in results]
    assert all(block["id"].startswith("toolu_") for block in blocks[1:])
    assert ["result", "result"] == [block["content"] for block in results]


@pytest.mark.parametrize("outcome", ["raised", "denied", "not_started", "interrupted_running"])
def test_what_did_not_return_is_an_error(outcome: ToolOutcome) -> None:
    assert sent(user("Hi"), said(CALL), answered("r.1.0", outcome=outcome))[2][1][0]["is_error"] is True
    assert "is_error" not in sent(user("Hi"), said(CALL), answered("r.1.0"))[2][1][0]


def test_calls_come_last_whatever_was_said_after_them() -> None:
    _, (_, blocks), *_ = sent(user("Hi"), said(Text("a"), CALL, Text("b")), answered("r.1.0"))

    assert ["text", "text", "tool_use"] == [block["type"] for block in blocks]


def test_a_user_after_results_is_bridged() -> None:
    """C16."""
    messages = sent(user("Hi"), said(CALL), answered("r.1.0"), user("And?", "u2"))

    assert [("assistant", [text(BRIDGE)]), ("user", [text("And?")])] == messages[3:]


def test_what_the_user_says_in_a_row_is_one_message() -> None:
    assert [("user", [text("Hi"), text("You?")])] == sent(user("Hi"), user("You?", "u2"))


def test_an_answer_at_the_end_is_asked_to_go_on() -> None:
    """A8."""
    assert ("user", [text(CONTINUE_WHOLE)]) == sent(user("Hi"), said(Text("a")))[-1]
    assert ("user", [text(CONTINUE_CUT)]) == sent(user("Hi"), said(Text("a "), stopped=True))[-1]


def test_an_empty_conversation_and_one_that_begins_with_an_answer_are_requests() -> None:
    """A9."""
    assert [("user", [text(OPENING)])] == sent()
    assert [("user", [text(OPENING)]), ("assistant", [text("a")])] == sent(said(Text("a")), user("Hi"))[:2]


def test_images_are_sent_and_those_of_other_types_are_named() -> None:
    message = UserMessage("u", (Image("image/png", "aGk="), Image("image/tiff", "aGk=")))

    image, words = sent(message)[0][1]

    assert {"type": "base64", "media_type": "image/png", "data": "aGk="} == image["source"]
    assert "image/tiff" in words["text"]


def test_without_tools_the_calls_of_the_history_are_described_and_not_to_be_used() -> None:
    """A10."""
    body = request(user("Hi"), said(CALL), answered("r.1.0"), user("x", "u2"))

    assert [{"name": "f", "input_schema": {"type": "object"}}] == body["tools"]
    assert {"type": "none"} == body["tool_choice"]


def test_thinking_has_a_budget_beside_the_answers_tokens() -> None:
    options = Options(producer=CLAUDE, thinking_tokens=5, max_output_tokens=100, temperature=0.5)

    body = request(user("Hi"), options=options)

    assert {"type": "enabled", "budget_tokens": 1_024} == body["thinking"]
    assert 1_124 == body["max_tokens"]
    assert "temperature" not in body


def test_thinking_may_be_asked_for_in_the_models_own_way() -> None:
    options = Options(producer=CLAUDE, extra='{"thinking": {"type": "adaptive"}}')

    body = request(user("Hi"), said(THOUGHT, CALL), answered("r.1.0"), options=options)

    assert {"type": "adaptive"} == body["thinking"]
    assert BLOCK == body["messages"][1]["content"][0]


def test_thinking_may_be_switched_off_in_the_models_own_way() -> None:
    options = Options(producer=CLAUDE, thinking_tokens=2_000, extra='{"thinking": {"type": "disabled"}}')

    assert "thinking" not in request(user("Hi"), options=options)


@pytest.mark.parametrize(
    "parts",
    [
        (CALL,),
        (Text("a"), THOUGHT, CALL),
        (Reasoning("Hm"), CALL),
        (Reasoning("Hm", complete=True), CALL),
        (Reasoning("Hm", complete=True, opaque=Opaque(GPT, '{"type":"thinking"}')), CALL),
        (Reasoning("Hm", complete=True, opaque=Opaque(CLAUDE, "no JSON")), CALL),
        (Reasoning("Hm", complete=True, opaque=Opaque(CLAUDE, '{"type":"thinking","thinking":"Hm"}')), CALL),
        (Reasoning("Hm", complete=True, opaque=Opaque(CLAUDE, '{"type":"text","data":"Hm"}')), CALL),
    ],
    ids=["none", "after text", "cut", "unsigned", "foreign", "broken", "no signature", "of another type"],
)
def test_thinking_is_off_where_the_calls_that_are_answered_did_not_begin_with_it(
    parts: tuple[AssistantPart, ...],
) -> None:
    """A7; and no thinking block is left in such a turn."""
    body = request(user("Hi"), said(*parts), answered("r.1.0"), options=THINKING)

    assert "thinking" not in body
    assert {"text", "tool_use"} >= {block["type"] for block in body["messages"][1]["content"]}
    assert [] == Anthropic().violations(body)


def test_thinking_is_on_again_for_the_next_question() -> None:
    body = request(user("Hi"), said(CALL), answered("r.1.0"), user("And?", "u2"), options=THINKING)

    assert "enabled" == body["thinking"]["type"]


def test_thinking_blocks_lead_their_turn_unchanged() -> None:
    redacted = Reasoning(
        "", complete=True, opaque=Opaque(CLAUDE, '{"type":"redacted_thinking","data":"ZGF0YQ=="}')
    )

    body = request(
        user("Hi"), said(THOUGHT, redacted, Text("a"), THOUGHT, CALL), answered("r.1.0"), options=THINKING
    )

    assert [BLOCK, {"type": "redacted_thinking", "data": "ZGF0YQ=="}, text("a"), BLOCK] == body["messages"][
        1
    ]["content"][:4]
    assert "thinking" in body


def test_thinking_after_a_call_is_left_out() -> None:
    """A6: calls are put last, and with them its place would change."""
    body = request(user("Hi"), said(THOUGHT, CALL, THOUGHT), answered("r.1.0"), options=THINKING)

    assert ["thinking", "tool_use"] == [block["type"] for block in body["messages"][1]["content"]]


def test_nobody_is_sent_thinking_unless_it_is_asked_for() -> None:
    assert [text("a")] == sent(user("Hi"), said(THOUGHT, Text("a")), user("b", "u2"))[1][1]


def test_arguments_that_are_no_object_are_refused_by_name() -> None:
    """Only a conversation that is not valid by itself has them."""
    broken = said(ToolCall("r.1.0", "f", arguments='{"a'))

    with pytest.raises(ValueError, match=r"r\.1\.0"):
        request(user("Hi"), broken, answered("r.1.0"))


def test_the_headers_hold_the_key_and_no_empty_one() -> None:
    assert "sk-1" == Anthropic().headers("sk-1")["x-api-key"]
    assert "x-api-key" not in Anthropic().headers(None)
    assert "2023-06-01" == Anthropic().headers(None)["anthropic-version"]
    assert "/v1/messages" == Anthropic().path(PLAIN)


# Every rule, broken.


def u(*blocks: object) -> JsonObject:
    return {"role": "user", "content": list(blocks) or "Hi"}


def a(*blocks: object) -> JsonObject:
    return {"role": "assistant", "content": list(blocks) or "Hello"}


def use(call_id: str = "t1", **fields: object) -> JsonObject:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {}, **fields}


def res(call_id: str = "t1") -> JsonObject:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "ok"}


def violations(messages: Any, **fields: object) -> list[tuple[str, str]]:
    body = {"model": "claude", "max_tokens": 5_000, "messages": messages, "tools": [], **fields}
    body = {key: value for key, value in body.items() if value is not None}
    found = Anthropic().violations(body)
    assert all(violation.where for violation in found)
    return [(violation.rule, violation.message) for violation in found]


ON = {"type": "enabled", "budget_tokens": 2_000}


@pytest.mark.parametrize(
    "messages",
    [
        [u()],
        [u(text("x"), {"type": "image", "source": {"type": "url", "url": "x"}})],
        [u(), a(), u()],
        [u(), a(text("x"), use("1"), use("2")), u(res("2"), res("1"))],
        [u(), a(use()), u(res(), text("x"))],
        [u(), a(BLOCK, use()), u(res())],
        [u(), a(use("1")), u(res("1")), a(use("2")), u(res("2"))],
    ],
)
def test_a_good_request_breaks_no_rule(messages: list[JsonObject]) -> None:
    assert [] == violations(messages)


@pytest.mark.parametrize(
    ("rule", "messages", "words"),
    [
        ("A0", None, "messages: Field required"),
        ("A0", [], "messages: at least one message is required"),
        ("A0", ["Hi"], "messages.0.role: Input should be 'user' or 'assistant'"),
        (
            "A0",
            [{"role": "system", "content": "x"}],
            "messages.0.role: Input should be 'user' or 'assistant'",
        ),
        ("A0", [{"role": [], "content": "x"}], "messages.0.role: Input should be 'user' or 'assistant'"),
        ("A0", [{"role": "user"}], "messages.0.content: Input should be a valid list"),
        (
            "A0",
            [u(), a(use("a b")), u(res("a b"))],
            "messages.1.content.0.tool_use.id: String should match pattern",
        ),
        (
            "A0",
            [u(), a(use(name="a b")), u(res())],
            "messages.1.content.0.tool_use.name: String should match pattern",
        ),
        (
            "A0",
            [u(), a(use()), u({"type": "tool_result"})],
            "messages.2.content.0.tool_result.tool_use_id: Field",
        ),
        (
            "A0",
            [u({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "x"}})],
            "messages.0.content.0.image.source.base64.media_type: Input should be",
        ),
        (
            "A1",
            [u(), a(use()), u()],
            (
                "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: t1. "
                "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
            ),
        ),
        ("A1", [u(), a(use("1"), use("2")), u(res("1"))], "immediately after: 2."),
        ("A1", [u(), a(use())], "immediately after: t1."),
        ("A1", [u(), a(use()), u(text("x"), res())], "immediately after: t1."),
        ("A1", [u(), a(use(), text("x")), u(res())], "immediately after: t1."),
        ("A1", [u(), a(use("1"), use("1")), u(res("1"))], "`tool_use` ids must be unique"),
        ("A1", [u(), a(use("1")), u(res("1")), a(use("1")), u(res("1"))], "`tool_use` ids must be unique"),
        ("A1", [u(), a(use()), u(res(), res())], "each tool_use must have a single result."),
        (
            "A2",
            [u(res())],
            (
                "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: t1. Each `tool_result` "
                "block must have a corresponding `tool_use` block in the previous message."
            ),
        ),
        ("A2", [u(), a(use()), u(res()), a(), u(res())], "messages.4.content.0: unexpected `tool_use_id`"),
        (
            "A3",
            [u(), a(use(input='{"a')), u(res())],
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (
            "A4",
            [u(), a({"type": "input_json_delta", "partial_json": "{"}), u()],
            "Input tag 'input_json_delta' found using 'type' does not match any of the expected tags",
        ),
        ("A4", [u(), a("Hi"), u()], "does not match any of the expected tags"),
        ("A4", [u(use())], "Input tag 'tool_use'"),
        (
            "A5",
            [u(), {"role": "assistant", "content": []}, u()],
            "messages: text content blocks must be non-empty",
        ),
        (
            "A5",
            [u(), {"role": "assistant", "content": ""}, u()],
            "messages: text content blocks must be non-empty",
        ),
        ("A5", [u({"type": "text"})], "messages: text content blocks must be non-empty"),
        (
            "A5",
            [u({**text(""), "cache_control": {"type": "ephemeral"}})],
            "messages.0.content.0.text: cache_control cannot be set for empty text blocks",
        ),
        ("A5", [u(text(" \n"))], "messages: text content blocks must contain non-whitespace text"),
        (
            "A6",
            [u(), a({**BLOCK, "signature": ""}, text("x")), u()],
            "messages.1.content.0: Invalid `signature` in `thinking` block",
        ),
        ("A6", [u(), a({"type": "thinking", "signature": "x"}, text("x")), u()], "Invalid `signature`"),
        ("A6", [u(), a({"type": "redacted_thinking"}, text("x")), u()], "Invalid `data`"),
        (
            "A8",
            [u(), a()],
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        ),
        ("A8", [u(), a(text("x "))], "messages: final assistant content cannot end with trailing whitespace"),
        ("A9", [a(), u()], 'messages: first message must use the "user" role'),
        ("A9", [u(), u()], 'but found multiple "user" roles in a row'),
        ("A9", [u(), a(), a(), u()], 'but found multiple "assistant" roles in a row'),
    ],
)
def test_a_broken_rule_is_found_in_the_providers_words(rule: str, messages: object, words: str) -> None:
    assert [] != [message for found, message in violations(messages) if found == rule and words in message]


def test_calls_need_tools() -> None:
    """A10."""
    assert ["A10"] == [rule for rule, _ in violations([u(), a(use()), u(res())], tools=None)]


def test_an_answered_call_without_thinking_needs_thinking_off() -> None:
    """A7."""
    messages = [u(), a(text("x"), use()), u(res())]

    ((rule, words),) = violations(messages, thinking=ON)

    assert "A7" == rule
    assert words.startswith(
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`. "
        "When `thinking` is enabled, a final `assistant` message must start with a thinking block"
    )
    assert [] == violations(messages)
    assert [] == violations(messages, thinking={"type": "adaptive"})
    assert [] == violations([u(), a(BLOCK, use()), u(res())], thinking=ON)
    assert [] == violations([u(), a(), u()], thinking=ON)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: Field required"),
        ({"thinking": {"type": "enabled"}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_000}}, "greater than or equal to 1024"),
        (
            {"thinking": ON, "max_tokens": 2_000},
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
        ),
        (
            {"thinking": ON, "temperature": 0.5},
            "`temperature` may only be set to 1 when thinking is enabled.",
        ),
    ],
)
def test_the_fields_around_the_messages_are_judged(fields: dict[str, object], words: str) -> None:
    ((rule, message),) = violations([u()], **fields)

    assert "A0" == rule
    assert words in message
