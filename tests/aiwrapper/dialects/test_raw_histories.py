"""Raw histories of other programs: read as they are, mended by `repair`, and then taken by every provider.

The histories are those that stops have left behind in the reports of docs/conversations.md, by their letters.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwrapper._core.conversation import Conversation, append
from aiwrapper._core.dialect import Dialect, JsonObject, Options
from aiwrapper._core.errors import BadLog
from aiwrapper._core.messages import (
    AssistantMessage,
    Image,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from aiwrapper._core.validity import UNKNOWN, repair, validate
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat

CLAUDE = Producer("anthropic", "api.anthropic.com", model="claude")
GPT = Producer("openai_chat", "api.openai.com", model="gpt")
DIALECTS: Mapping[str, tuple[Dialect, Producer]] = {
    "openai_chat": (OpenAIChat(), GPT),
    "mistral": (OpenAIChat(nine_character_ids=True), GPT),
    "deepseek": (OpenAIChat(reasoning_back=True), GPT),
    "anthropic": (Anthropic(), CLAUDE),
}


def openai_call(call_id: str | None, arguments: object = "{}", name: str = "shell") -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


U: JsonObject = {"role": "user", "content": "List the files."}
NEXT: JsonObject = {"role": "user", "content": "And now?"}
ASKED: JsonObject = {
    "role": "assistant",
    "content": None,
    "tool_calls": [openai_call("call_1"), openai_call("call_2")],
}


def tool(call_id: str, content: object = "a.txt") -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


OPENAI_HISTORIES: Mapping[str, Sequence[JsonObject]] = {
    "F-A a call without a result": [U, ASKED, NEXT],
    "F-A a call without a result at the end": [U, ASKED],
    "F-A the retry's text in the message of the stopped call": [U, {**ASKED, "content": "Let me"}, NEXT],
    "F-A the result comes after the user's message": [U, ASKED, NEXT, tool("call_1"), tool("call_2")],
    "F-A a result whose call is lost": [U, tool("call_9"), NEXT],
    "F-B two calls, one result": [U, ASKED, tool("call_2"), NEXT],
    "F-B one result twice": [U, ASKED, tool("call_1"), tool("call_1", "late"), tool("call_2"), NEXT],
    "F-C a result at the end and then the user": [U, ASKED, tool("call_1"), tool("call_2"), NEXT],
    "F-D cut arguments": [
        U,
        {**ASKED, "tool_calls": [openai_call("call_1", '{"path": "a')]},
        tool("call_1"),
        NEXT,
    ],
    "F-D empty arguments": [U, {**ASKED, "tool_calls": [openai_call("call_1", "")]}, tool("call_1"), NEXT],
    "F-D arguments as an object": [
        U,
        {**ASKED, "tool_calls": [openai_call("call_1", {"a": 1})]},
        tool("call_1"),
        NEXT,
    ],
    "F-E reasoning alone": [U, {"role": "assistant", "content": "", "reasoning_content": "Hm"}, NEXT],
    "F-F an empty answer": [U, {"role": "assistant", "content": ""}, NEXT],
    "F-F a blank answer": [U, {"role": "assistant", "content": " \n"}, NEXT],
    "F-F no content at all": [U, {"role": "assistant"}, NEXT],
    "F-F an empty list of calls": [U, {"role": "assistant", "content": "Hi", "tool_calls": []}, NEXT],
    "F-F it ends with an answer": [U, {"role": "assistant", "content": "Hi "}],
    "F-F two answers in a row": [
        U,
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ],
    "F-J nothing was answered": [U, NEXT],
    "F-K ids that come again in a later turn": [
        U,
        ASKED,
        tool("call_1"),
        tool("call_2"),
        ASKED,
        tool("call_2"),
        NEXT,
    ],
    "F-K no ids at all": [
        U,
        {**ASKED, "tool_calls": [openai_call(None)]},
        {"role": "tool", "content": "a.txt"},
        NEXT,
    ],
    "the older form of calls": [
        U,
        {"role": "assistant", "content": None, "function_call": {"name": "shell", "arguments": "{}"}},
        {"role": "function", "name": "shell", "content": "a.txt"},
        NEXT,
    ],
    "nothing": [],
    "an answer first": [{"role": "assistant", "content": "Hi"}, U],
}


def use(call_id: object = "toolu_1", given: object = None) -> JsonObject:
    return {"type": "tool_use", "id": call_id, "name": "shell", "input": {} if given is None else given}


def res(call_id: str = "toolu_1", content: object = "a.txt", **fields: object) -> JsonObject:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def says(*blocks: JsonObject) -> JsonObject:
    return {"role": "assistant", "content": list(blocks)}


def tells(*blocks: JsonObject) -> JsonObject:
    return {"role": "user", "content": list(blocks)}


def text(value: object) -> JsonObject:
    return {"type": "text", "text": value}


THINKING: JsonObject = {"type": "thinking", "thinking": "Hm", "signature": "c2ln"}

ANTHROPIC_HISTORIES: Mapping[str, Sequence[JsonObject]] = {
    "F-A a call without a result": [U, says(text("Let me"), use()), NEXT],
    "F-A text after the stopped call": [U, says(use(), text("Once more:")), NEXT],
    "F-A the result comes too late": [U, says(use()), NEXT, says(text("Hm")), tells(res())],
    "F-A a result whose call is lost": [U, says(text("Hi")), tells(res("toolu_9"))],
    "F-B two calls, one result": [U, says(use("1"), use("2")), tells(res("2"))],
    "F-B results in two messages": [
        U,
        says(use("1"), use("2")),
        tells(res("1")),
        tells(res("2"), text("And now?")),
    ],
    "F-B text before the result": [U, says(use()), tells(text("And now?"), res())],
    "F-D arguments as a cut text": [U, says(use(given='{"path": "a')), tells(res())],
    "F-D raw deltas": [U, says(text("Hi"), {"type": "input_json_delta", "partial_json": '{"a'}), NEXT],
    "F-E thinking without a signature": [U, says({"type": "thinking", "thinking": "Hm"}, text("Hi")), NEXT],
    "F-E thinking alone": [U, says(THINKING), NEXT],
    "F-E thinking lost before a call": [U, says(use()), tells(res())],
    "F-F an empty list of blocks": [U, {"role": "assistant", "content": []}, NEXT],
    "F-F an empty block": [U, says(text("")), NEXT],
    "F-F a blank block": [U, says(text(" "), text("Hi ")), NEXT],
    "F-F it ends with an answer": [U, says(text("Hi "))],
    "F-F a user's message without content": [{"role": "user"}, NEXT],
    "F-J nothing was answered": [U, NEXT],
    "F-K an id that comes again": [U, says(use()), tells(res()), says(use()), tells(res(content="b.txt"))],
    "no id": [U, says(use(None)), tells({"type": "tool_result", "content": "a.txt"}), NEXT],
    "nothing": [],
}


def is_sound(history: Conversation) -> None:
    """Repaired once, it is valid, stays as it is, and every provider takes the next message."""
    repaired = repair(history)
    assert [] == validate(repaired)
    assert repair(repaired) is repaired
    conversation = append(repaired, UserMessage("the next", (Text("Go on."),)))
    for dialect, producer in DIALECTS.values():
        for thinking in (None, 2_000):
            body = dialect.encode(conversation, Options(producer=producer, thinking_tokens=thinking))
            assert [] == dialect.violations(body)
            # Between the calls and their results there is a request, too.
            body = dialect.encode(repaired, Options(producer=producer, thinking_tokens=thinking))
            assert [] == dialect.violations(body)


def users_texts(history: Conversation) -> list[str]:
    return [
        part.text
        for message in history.messages
        if isinstance(message, UserMessage)
        for part in message.parts
        if isinstance(part, Text)
    ]


def results(history: Conversation) -> list[str]:
    return [
        result.content
        for message in history.messages
        if isinstance(message, ToolMessage)
        for result in message.results
    ]


@pytest.mark.parametrize("raw", OPENAI_HISTORIES.values(), ids=OPENAI_HISTORIES.keys())
def test_a_history_of_chat_completions_is_mended_for_every_provider(raw: Sequence[JsonObject]) -> None:
    history = OpenAIChat().decode(raw, producer=GPT)

    is_sound(history)
    assert [message["content"] for message in raw if message["role"] == "user"] == users_texts(
        repair(history)
    )


@pytest.mark.parametrize("raw", ANTHROPIC_HISTORIES.values(), ids=ANTHROPIC_HISTORIES.keys())
def test_a_history_of_messages_is_mended_for_every_provider(raw: Sequence[JsonObject]) -> None:
    history = Anthropic().decode(raw, producer=CLAUDE)

    is_sound(history)
    assert json.dumps(raw).count("And now?") == users_texts(repair(history)).count("And now?")


@pytest.mark.parametrize(
    "name", ["F-A the result comes after the user's message", "F-B two calls, one result"]
)
def test_a_real_result_is_not_lost_from_chat_completions(name: str) -> None:
    repaired = repair(OpenAIChat().decode(OPENAI_HISTORIES[name]))

    assert "a.txt" in results(repaired)


@pytest.mark.parametrize(
    "name", ["F-B two calls, one result", "F-B text before the result", "F-A the result comes too late"]
)
def test_a_real_result_is_not_lost_from_messages(name: str) -> None:
    repaired = repair(Anthropic().decode(ANTHROPIC_HISTORIES[name]))

    assert "a.txt" in results(repaired)


def test_reading_mends_nothing() -> None:
    assert {"C1"} == {violation.rule for violation in validate(OpenAIChat().decode([U, ASKED, NEXT]))}
    assert {"C2"} == {violation.rule for violation in validate(OpenAIChat().decode([U, tool("call_9")]))}
    assert {"C6"} == {
        violation.rule
        for violation in validate(
            OpenAIChat().decode([U, {**ASKED, "tool_calls": [openai_call("call_1", '{"a')]}, tool("call_1")])
        )
    }


def test_chat_completions_is_read_whole() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    elsewhere = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
    raw: list[JsonObject] = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                "Look:",
                {"type": "text", "text": "a cat"},
                picture,
                elsewhere,
                {"type": "audio"},
                3,
                {"type": "image_url"},
            ],
        },
        {
            "role": "assistant",
            "reasoning_content": "Hm",
            "content": [text("Hi"), {"type": "x"}],
            "refusal": "No.",
        }
        | {"tool_calls": [openai_call("call_1", '{"a": 1}'), "junk", {"function": 3}]},
        tool("call_1", [text("a"), text("b")]),
        tool("call_1", None),
    ]

    user, assistant, answers = OpenAIChat().decode(raw, producer=GPT).messages

    assert isinstance(user, UserMessage)
    assert (
        Text("Look:"),
        Text("a cat"),
        Image("image/png", "aGk="),
        Text("https://example.org/cat.png"),
    ) == user.parts
    assert isinstance(assistant, AssistantMessage)
    assert (Reasoning("Hm", complete=True), Text("Hi"), Text("No.")) == assistant.parts[:3]
    assert ("shell", '{"a": 1}', "call_1") == (
        assistant.calls[0].name,
        assistant.calls[0].arguments,
        assistant.calls[0].provider_id,
    )
    assert ("", "") == (assistant.calls[1].name, assistant.calls[1].arguments)
    assert GPT == assistant.producer
    assert isinstance(answers, ToolMessage)
    assert ["ab", ""] == [result.content for result in answers.results]
    assert [assistant.calls[0].id] * 2 == [result.call_id for result in answers.results]


def test_messages_are_read_whole() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    elsewhere = {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}}
    redacted = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
    raw = [
        {"role": "system", "content": "Be brief."},
        tells(
            text("Look:"),
            image,
            elsewhere,
            {"type": "document"},
            {"type": "image", "source": {"type": "file"}},
        ),
        says(THINKING, redacted, text("Hi"), use(given={"a": 1}), {"type": "later"}, {"type": "thinking"}),
        tells(res(content=[text("a"), image, "b"], is_error=True), text("Go on.")),
        {"role": "user", "content": ["plain", 3]},
    ]

    user, assistant, answers, *rest = Anthropic().decode(raw, producer=CLAUDE).messages

    assert isinstance(user, UserMessage)
    assert (Text("Look:"), Image("image/png", "aGk="), Text("https://example.org/cat.png")) == user.parts
    assert isinstance(assistant, AssistantMessage)
    assert '{"a":1}' == assistant.calls[0].arguments
    assert isinstance(answers, ToolMessage)
    assert (ToolResult(assistant.calls[0].id, "a\n(image)\nb", outcome="raised"),) == answers.results
    assert [(Text("Go on."),), (Text("plain"),)] == [
        message.parts for message in rest if isinstance(message, UserMessage)
    ]


def test_signed_thinking_of_a_history_goes_back_to_its_producer_and_to_nobody_else() -> None:
    raw = [U, says(THINKING, use()), tells(res())]

    def blocks(read_as: Producer | None) -> list[JsonObject]:
        history = Anthropic().decode(raw, producer=read_as)
        body = Anthropic().encode(history, Options(producer=CLAUDE, thinking_tokens=2_000))
        found: list[JsonObject] = body["messages"][1]["content"]
        return found

    assert THINKING == blocks(CLAUDE)[0]
    assert ["tool_use"] == [block["type"] for block in blocks(None)]


def test_a_lone_surrogate_in_somebodys_json_is_survived() -> None:
    raw = [U, says({**THINKING, "thinking": "\ud800"}, use(given={"a": "\ud800"})), tells(res())]

    history = Anthropic().decode(raw, producer=CLAUDE)

    assert {"C6"} == {violation.rule for violation in validate(history)}
    is_sound(history)


def test_what_is_sent_is_read_back_as_it_was() -> None:
    """encode and decode agree on everything that a request can hold."""
    call = ToolCall("raw.1.0", "f", arguments='{"a":1}', provider_id="p")
    conversation = Conversation.of(
        [
            UserMessage("raw.0", (Text("Hi"), Image("image/png", "aGk="))),
            AssistantMessage("raw.1", (Text("Let me see."), call), producer=UNKNOWN),
            ToolMessage("raw.2", (ToolResult("raw.1.0", "a.txt"),)),
            AssistantMessage("raw.3", (Text("One."),), producer=UNKNOWN),
            UserMessage("raw.4", (Text("Thanks"),)),
        ]
    )
    for dialect, producer in DIALECTS.values():
        back = dialect.decode(dialect.encode(conversation, Options(producer=producer))["messages"])
        read = [
            AssistantMessage(
                message.id,
                tuple(
                    ToolCall(part.id, part.name, arguments=part.arguments, provider_id="p")
                    if isinstance(part, ToolCall)
                    else part
                    for part in message.parts
                    if not isinstance(part, Reasoning)
                ),
                parent_id=message.parent_id,
                producer=message.producer,
            )
            if isinstance(message, AssistantMessage)
            else message
            for message in back.messages
        ]
        assert list(conversation.messages) == read


@pytest.mark.parametrize("dialect", [OpenAIChat(), Anthropic()], ids=["openai_chat", "anthropic"])
@pytest.mark.parametrize(
    "raw",
    [
        "Hi",
        b"Hi",
        {"role": "user"},
        3,
        None,
        ["Hi"],
        [{"content": "Hi"}],
        [{"role": 3}],
        [{"role": "wizard"}],
    ],
)
def test_what_is_no_history_is_refused(dialect: Dialect, raw: Any) -> None:
    with pytest.raises(BadLog):
        dialect.decode(raw)


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", " ", "Hi", "\ud800", "call_1", "toolu_1", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "id", "input", "function", "image_url", "source"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)


def raw_messages(seen: Mapping[str, Sequence[JsonObject]]) -> st.SearchStrategy[list[JsonObject]]:
    """Messages of the reports in any order, with fields and blocks replaced by junk."""
    known = [message for history in seen.values() for message in history]
    broken = st.builds(
        lambda message, field, junk: {**message, field: junk},
        st.sampled_from(known),
        st.sampled_from(["content", "tool_calls", "tool_call_id", "function_call", "refusal"]),
        JUNK
        | st.lists(
            JUNK
            | st.sampled_from(
                [
                    THINKING,
                    {**THINKING, "thinking": "\ud800"},
                    use(),
                    res(),
                    text("Hi"),
                    openai_call("call_1"),
                ]
            ),
            max_size=3,
        ),
    )
    return st.lists(st.sampled_from(known) | broken, max_size=7)


@given(raw_messages(OPENAI_HISTORIES))
@settings(deadline=None)
def test_any_history_of_chat_completions_can_be_mended(raw: list[JsonObject]) -> None:
    is_sound(OpenAIChat().decode(raw, producer=GPT))


@given(raw_messages(ANTHROPIC_HISTORIES))
@settings(deadline=None)
def test_any_history_of_messages_can_be_mended(raw: list[JsonObject]) -> None:
    is_sound(Anthropic().decode(raw, producer=CLAUDE))


@given(raw_messages(OPENAI_HISTORIES) | raw_messages(ANTHROPIC_HISTORIES) | JUNK)
@settings(deadline=None)
def test_any_json_can_be_judged(raw: Any) -> None:
    for dialect, _ in DIALECTS.values():
        for body in (
            {"model": "m", "max_tokens": 9_000, "messages": raw, "thinking": raw},
            {"messages": [raw]},
        ):
            assert all(found.rule and found.message for found in dialect.violations(body))


def test_a_result_finds_its_call_without_looking_through_all_of_them() -> None:
    class CountedId(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            CountedId.compared += 1
            return str.__eq__(self, other) is True

        __hash__ = str.__hash__

    raw: list[JsonObject] = []
    for number in range(200):
        raw += [
            {"role": "assistant", "tool_calls": [openai_call(CountedId(f"call_{number}"))]},
            tool(CountedId(f"call_{number}")),
        ]
    conversation = OpenAIChat().decode(raw)

    assert [] == validate(conversation)
    assert CountedId.compared <= 5 * 200
