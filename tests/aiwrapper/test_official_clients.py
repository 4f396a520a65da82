"""The official clients talk to the fakes without noticing; so what we test against is what they were made for."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam, ToolParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from aiwrapper._core.messages import Usage
from aiwrapper.testing import (
    Call,
    Cut,
    Delivery,
    FakeProvider,
    HttpError,
    Raw,
    Redacted,
    Say,
    StreamError,
    Think,
    Turn,
    render,
)

WEATHER = '{"city": "Zürich"}'
WEATHER_PIECES = ('{"ci', 'ty": "Zü', 'rich"}')
OPENAI_TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {}},
    },
}
ANTHROPIC_TOOL: ToolParam = {
    "name": "weather",
    "description": "Tells it.",
    "input_schema": {"type": "object"},
}
USAGE = Usage(input_tokens=20, output_tokens=7, cached_input_tokens=5, reasoning_tokens=3, complete=True)


@pytest.fixture
def openai_fake() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


@pytest.fixture
def anthropic_fake() -> Iterator[FakeProvider]:
    with FakeProvider("anthropic") as fake:
        yield fake


@pytest.fixture
def openai_client(openai_fake: FakeProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=openai_fake.base_url, api_key=openai_fake.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(anthropic_fake: FakeProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=anthropic_fake.base_url, api_key=anthropic_fake.api_key, max_retries=0
    ) as client:
        yield client


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_openai_streams_text_finish_reason_and_usage(
    openai_fake: FakeProvider, openai_client: openai.OpenAI
) -> None:
    openai_fake.add(Turn((Say(("Grü", "ezi ", "🙂")),), usage=USAGE))

    chunks = list(
        openai_client.chat.completions.create(
            model=openai_fake.model,
            messages=user("Hi"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Grüezi 🙂"
    assert chunks[-2].choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 7, 27)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 5


def test_openai_is_told_no_usage_that_it_did_not_ask_for(
    openai_fake: FakeProvider, openai_client: openai.OpenAI
) -> None:
    stream = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"), stream=True)

    assert list({chunk.usage for chunk in stream}) == [None]


@pytest.mark.parametrize("interleaved", [False, True])
def test_openai_tools_make_the_round_trip(
    openai_fake: FakeProvider, openai_client: openai.OpenAI, interleaved: bool
) -> None:
    calls = (Call("weather", WEATHER_PIECES), Call("weather", ("{", "}")))
    openai_fake.add(Turn((Say(("Let me see.",)), *calls), interleaved=interleaved), Turn((Say(("Sunny.",)),)))
    messages = user("Weather?")

    with openai_client.chat.completions.stream(
        model=openai_fake.model, messages=messages, tools=[OPENAI_TOOL]
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    tool_calls = message.tool_calls or []
    messages.append(
        {
            "role": "assistant",
            "content": message.content,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in tool_calls
            ],
        }
    )
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "18 °C"} for call in tool_calls]
    answer = openai_client.chat.completions.create(
        model=openai_fake.model, messages=messages, tools=[OPENAI_TOOL]
    )

    assert [call.function.arguments for call in tool_calls] == [WEATHER, "{}"]
    assert answer.choices[0].message.content == "Sunny."
    assert [request.violations for request in openai_fake.requests] == [(), ()]


def test_openai_takes_several_turns(openai_fake: FakeProvider, openai_client: openai.OpenAI) -> None:
    messages = user("Hi")
    for text in ("one", "two", "three"):
        openai_fake.add(Turn((Say((text,)),)))
        answer = openai_client.chat.completions.create(model=openai_fake.model, messages=messages)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        messages.append({"role": "user", "content": "And?"})

    assert [m.get("content") for m in messages if m["role"] == "assistant"] == ["one", "two", "three"]


def test_openai_shows_reasoning_in_a_field_of_its_own(
    openai_fake: FakeProvider, openai_client: openai.OpenAI
) -> None:
    turn = Turn((Think(("let", " me")), Say(("Hi",))))
    openai_fake.add(turn, turn)

    stream = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"), stream=True)
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in stream]
    whole = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"))

    assert "".join(extra.get("reasoning_content", "") for extra in extras) == "let me"
    assert whole.choices[0].message.model_extra == {"reasoning_content": "let me"}


def test_openai_reads_tool_calls_and_usage_of_a_whole_body(
    openai_fake: FakeProvider, openai_client: openai.OpenAI
) -> None:
    openai_fake.add(Turn((Call("weather", WEATHER_PIECES, id="call_own"),), usage=USAGE))

    answer = openai_client.chat.completions.create(
        model=openai_fake.model, messages=user("Hi"), tools=[OPENAI_TOOL]
    )

    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.arguments) == ("call_own", WEATHER)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 27


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_openai_maps_http_errors_to_its_classes(
    openai_fake: FakeProvider, openai_client: openai.OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    openai_fake.add(HttpError(status))

    with pytest.raises(error) as caught:
        openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"))

    assert status == caught.value.status_code
    assert caught.value.request_id == f"req_{1:032x}"


def test_openai_is_refused_with_the_wrong_key_and_model(openai_fake: FakeProvider) -> None:
    with (
        openai.OpenAI(base_url=openai_fake.base_url, api_key="sk-no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as wrong_key,
    ):
        client.chat.completions.create(model=openai_fake.model, messages=user("Hi"))
    with (
        openai.OpenAI(base_url=openai_fake.base_url, api_key=openai_fake.api_key, max_retries=0) as client,
        pytest.raises(openai.NotFoundError) as wrong_model,
    ):
        client.chat.completions.create(model="gpt-none", messages=user("Hi"))

    assert wrong_key.value.code == "invalid_api_key"
    assert wrong_model.value.code == "model_not_found"


def test_openai_waits_as_long_as_retry_after_says_and_asks_again(openai_fake: FakeProvider) -> None:
    openai_fake.add(HttpError(429, retry_after="0.001"), Turn((Say(("Hi",)),)))

    with openai.OpenAI(base_url=openai_fake.base_url, api_key=openai_fake.api_key, max_retries=1) as client:
        answer = client.chat.completions.create(model=openai_fake.model, messages=user("Hi"))

    assert answer.choices[0].message.content == "Hi"
    assert [request.status for request in openai_fake.requests] == [429, 200]


def test_openai_raises_an_error_event_in_mid_stream(
    openai_fake: FakeProvider, openai_client: openai.OpenAI
) -> None:
    openai_fake.add(Turn((Say(("Hel",)),), error="server"))
    stream = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"), stream=True)

    with pytest.raises(openai.APIError, match="The server had an error while processing your request"):
        list(stream)


def test_openai_notices_a_cut_line(openai_fake: FakeProvider, openai_client: openai.OpenAI) -> None:
    openai_fake.add(Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(400))))
    stream = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"), stream=True)

    with pytest.raises(openai.APIConnectionError):
        list(stream)


def test_openai_reads_a_dribble(openai_fake: FakeProvider, openai_client: openai.OpenAI) -> None:
    openai_fake.add(Turn((Say(("Grü", "ezi 🙂")),), delivery=Delivery(write_bytes=1)))
    stream = openai_client.chat.completions.create(model=openai_fake.model, messages=user("Hi"), stream=True)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Grüezi 🙂"


def ask(
    client: anthropic.Anthropic, fake: FakeProvider, messages: list[MessageParam]
) -> anthropic.types.Message:
    with client.messages.stream(
        model=fake.model, max_tokens=100, messages=messages, tools=[ANTHROPIC_TOOL]
    ) as stream:
        return stream.get_final_message()


def test_anthropic_streams_text_stop_reason_and_usage(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic
) -> None:
    anthropic_fake.add(Turn((Say(("Grü", "ezi ", "🙂")),), usage=USAGE))

    with anthropic_client.messages.stream(
        model=anthropic_fake.model, max_tokens=100, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert text == "Grüezi 🙂"
    assert message.stop_reason == "end_turn"
    assert (
        message.usage.input_tokens,
        message.usage.cache_read_input_tokens,
        message.usage.output_tokens,
    ) == (15, 5, 7)


def test_anthropic_tools_and_thinking_make_the_round_trip(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic
) -> None:
    anthropic_fake.add(
        Turn(
            (
                Think(("let", " me")),
                Redacted("EncryptedByTheScript"),
                Say(("I look.",)),
                Call("weather", WEATHER_PIECES),
                Call("weather", ()),
            )
        ),
        Turn((Say(("Sunny.",)),)),
    )
    messages: list[MessageParam] = [{"role": "user", "content": "Weather?"}]

    first = ask(anthropic_client, anthropic_fake, messages)
    calls = [block for block in first.content if block.type == "tool_use"]
    messages.append({"role": "assistant", "content": first.content})
    messages.append(
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call.id, "content": "18 °C"} for call in calls
            ],
        }
    )
    second = ask(anthropic_client, anthropic_fake, messages)

    assert first.stop_reason == "tool_use"
    assert [json.loads(WEATHER), {}] == [call.input for call in calls]
    assert [b.type for b in first.content] == [
        "thinking",
        "redacted_thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert second.content[0].type == "text"
    assert second.content[0].text == "Sunny."
    assert [request.violations for request in anthropic_fake.requests] == [(), ()]


def without_id(block: anthropic.types.ContentBlock) -> dict[str, Any]:
    return block.model_dump(exclude={"id"}, mode="json")


def test_anthropic_reads_a_whole_body(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic
) -> None:
    turn = Turn(
        (Think(("hm",)), Redacted("fake/x"), Say(("Hi",)), Call("weather", WEATHER_PIECES)), usage=USAGE
    )
    anthropic_fake.add(turn, turn)
    messages: list[MessageParam] = [{"role": "user", "content": "Hi"}]

    streamed = ask(anthropic_client, anthropic_fake, messages)
    whole = anthropic_client.messages.create(
        model=anthropic_fake.model, max_tokens=100, messages=messages, tools=[ANTHROPIC_TOOL]
    )

    assert [without_id(block) for block in streamed.content] == [without_id(block) for block in whole.content]
    assert streamed.stop_reason == whole.stop_reason == "tool_use"
    assert whole.usage.output_tokens == 7


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, anthropic.APIStatusError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.InternalServerError),
    ],
)
def test_anthropic_maps_http_errors_to_its_classes(
    anthropic_fake: FakeProvider,
    anthropic_client: anthropic.Anthropic,
    status: int,
    error: type[anthropic.APIStatusError],
) -> None:
    anthropic_fake.add(HttpError(status))

    with pytest.raises(error) as caught:
        ask(anthropic_client, anthropic_fake, [{"role": "user", "content": "Hi"}])

    assert status == caught.value.status_code
    body: Any = caught.value.body  # Any: JSON, typed as object
    assert body["type"] == "error"
    assert caught.value.request_id == body["request_id"]


def test_anthropic_is_refused_with_the_wrong_key_and_model(anthropic_fake: FakeProvider) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "Hi"}]
    with (
        anthropic.Anthropic(base_url=anthropic_fake.base_url, api_key="sk-no", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"),
    ):
        ask(client, anthropic_fake, messages)
    with (
        anthropic.Anthropic(
            base_url=anthropic_fake.base_url, api_key=anthropic_fake.api_key, max_retries=0
        ) as client,
        pytest.raises(anthropic.NotFoundError, match="model: claude-none"),
    ):
        client.messages.create(model="claude-none", max_tokens=1, messages=messages)


@pytest.mark.parametrize(("error", "words"), [("overloaded", "overloaded_error"), ("server", "api_error")])
def test_anthropic_raises_an_error_event_in_mid_stream(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic, error: StreamError, words: str
) -> None:
    anthropic_fake.add(Turn((Say(("Hel",)),), error=error))

    with pytest.raises(anthropic.APIStatusError, match=words):
        ask(anthropic_client, anthropic_fake, [{"role": "user", "content": "Hi"}])


def test_anthropic_notices_a_cut_line(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic
) -> None:
    anthropic_fake.add(Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(400))))

    with pytest.raises(Exception, match=r"(?i)connection|read|peer") as caught:
        ask(anthropic_client, anthropic_fake, [{"role": "user", "content": "Hi"}])

    assert not isinstance(caught.value, anthropic.APIStatusError)


def test_a_recorded_stream_can_be_played_raw(
    anthropic_fake: FakeProvider, anthropic_client: anthropic.Anthropic
) -> None:
    anthropic_fake.add(Raw(render(Turn((Say(("Hi",)),)), "anthropic"), delivery=Delivery(framing="close")))

    assert (
        ask(anthropic_client, anthropic_fake, [{"role": "user", "content": "Hi"}]).stop_reason == "end_turn"
    )
