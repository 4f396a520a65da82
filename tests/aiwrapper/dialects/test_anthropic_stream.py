"""The stream of Messages: blocks, thinking byte for byte, usage, errors, and what is added later."""

import json

import pytest

from aiwrapper._core.conversation import fold
from aiwrapper._core.dialect import Options
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    ReasoningDelta,
    ReasoningFinished,
    RunFinished,
    RunStarted,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    TurnFinished,
    TurnStarted,
    UsageReported,
)
from aiwrapper._core.messages import Producer, Usage
from aiwrapper.dialects.anthropic import Anthropic
from tests.aiwrapper.dialects.wire import (
    MESSAGE_STOP,
    block_delta,
    block_start,
    block_stop,
    event,
    message_delta,
    message_start,
    read,
)

CLAUDE = Producer("anthropic", "api.anthropic.com", model="claude")
END = message_delta("end_turn") + MESSAGE_STOP
ODD = 'a "quoted"\n\\ back\u2028slash \U0001f44d \x00\x7f'


def thinking(text: str, signature: str, index: int = 0) -> bytes:
    body = block_start(index, type="thinking", thinking="", signature="")
    for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
        body += block_delta(index, type="thinking_delta", thinking=piece)
    for piece in (signature[:3], signature[3:]):
        body += block_delta(index, type="signature_delta", signature=piece)
    return body


def sent_back(body: bytes, producer: Producer = CLAUDE) -> list[dict[str, object]]:
    """The blocks that the next request holds of what was read."""
    log = [RunStarted("r"), TurnStarted("r", 1, producer=CLAUDE), *read(Anthropic(), body), RunFinished("r")]
    request = Anthropic().encode(fold(log).conversation, Options(producer=producer, thinking_tokens=2_000))
    (assistant,) = (message for message in request["messages"] if message["role"] == "assistant")
    blocks: list[dict[str, object]] = assistant["content"]
    return blocks


def test_thinking_comes_back_byte_for_byte() -> None:
    body = thinking(ODD, "EqQB+/=") + block_stop(0)
    body += block_start(1, type="redacted_thinking", data="EmwK+/=") + block_stop(1)
    body += (
        block_start(2, type="text", text="") + block_delta(2, type="text_delta", text="Hi") + block_stop(2)
    )

    assert [
        {"type": "thinking", "thinking": ODD, "signature": "EqQB+/="},
        {"type": "redacted_thinking", "data": "EmwK+/="},
        {"type": "text", "text": "Hi"},
    ] == sent_back(body + END)


def test_thinking_that_is_not_shown_comes_back_with_its_signature() -> None:
    body = block_start(0, type="thinking", thinking="", signature="") + block_delta(
        0, type="signature_delta", signature="EqQB"
    )
    body += block_stop(0) + block_start(1, type="text", text="Hi") + block_stop(1)

    assert {"type": "thinking", "thinking": "", "signature": "EqQB"} == sent_back(body + END)[0]


def test_thinking_is_kept_from_another_model() -> None:
    body = thinking("Hm", "EqQB") + block_stop(0) + block_start(1, type="text", text="Hi") + block_stop(1)

    other = Producer("anthropic", "api.anthropic.com", model="claude-other")

    assert [{"type": "text", "text": "Hi"}] == sent_back(body + END, other)


@pytest.mark.parametrize(
    "cut",
    [thinking("Hm", "EqQB"), thinking("Hm", "") + block_stop(0)],
    ids=["its block did not stop", "its signature did not come"],
)
def test_thinking_that_was_cut_is_not_sent_back(cut: bytes) -> None:
    """A6: what the provider has not finished is for display."""
    body = cut + block_start(1, type="text", text="Hi") + block_stop(1) + END

    assert [{"type": "text", "text": "Hi"}] == sent_back(body)


def test_a_thinking_block_that_comes_whole_in_its_start_is_read() -> None:
    body = block_start(0, type="thinking", thinking="Hm", signature="EqQB") + block_stop(0)

    delta, finished = read(Anthropic(), body, ends=False)

    assert ReasoningDelta("r", 1, text="Hm") == delta
    assert isinstance(finished, ReasoningFinished)
    assert {"type": "thinking", "thinking": "Hm", "signature": "EqQB"} == json.loads(finished.payload or "")


def test_redacted_thinking_shows_nothing() -> None:
    body = block_start(0, type="redacted_thinking", data="EmwK") + block_stop(0)

    (finished,) = read(Anthropic(), body, ends=False)

    assert isinstance(finished, ReasoningFinished)


def test_text_in_the_start_of_its_block_is_read() -> None:
    body = (
        block_start(0, type="text", text="Hi")
        + block_delta(0, type="text_delta", text="")
        + block_stop(0)
        + END
    )

    assert [TextDelta("r", 1, text="Hi"), TurnFinished("r", 1, finish_reason="end_turn")] == read(
        Anthropic(), body
    )


def test_arguments_in_the_start_of_a_block_are_read() -> None:
    """Some compatible hosts send them all at once."""
    body = block_start(0, type="tool_use", id="toolu_1", name="f", input={"a": [1, "\u00e9"]}) + block_stop(0)

    started, arguments, ready = read(Anthropic(), body, ends=False)

    assert ToolCallStarted("r", 1, 0, name="f", provider_id="toolu_1") == started
    assert isinstance(arguments, ToolCallArguments)
    assert isinstance(ready, ToolCallReady)
    assert {"a": [1, "\u00e9"]} == json.loads(arguments.text) == json.loads(ready.arguments)


def test_a_call_without_an_id_is_a_call() -> None:
    body = block_start(0, type="tool_use", name="f", input={}) + block_stop(0) + message_delta("tool_use")

    assert ToolCallReady("r", 1, 0, name="f", arguments="{}") in read(Anthropic(), body + MESSAGE_STOP)


def test_blocks_that_all_have_the_same_index_are_several() -> None:
    body = b""
    for name in ("f", "g"):
        body += block_start(0, type="tool_use", id=name, name=name, input={})
        body += block_delta(0, type="input_json_delta", partial_json="{}") + block_stop(0)

    assert [(0, "f"), (1, "g")] == [
        (entry.index, entry.name)
        for entry in read(Anthropic(), body + END)
        if isinstance(entry, ToolCallReady)
    ]


def test_a_block_that_did_not_stop_is_no_call() -> None:
    body = block_start(0, type="tool_use", id="a", name="f", input={})
    body += (
        block_delta(0, type="input_json_delta", partial_json="{}") + message_delta("tool_use") + MESSAGE_STOP
    )

    assert [] == [entry for entry in read(Anthropic(), body) if isinstance(entry, ToolCallReady)]


def test_what_we_do_not_know_is_passed_over() -> None:
    body = (
        event({"type": "ping"}, kind="ping")
        + event({"type": "later"})
        + event({"type": "content_block_start"})
        + event({"type": "message_delta"})
    )
    body += block_start(0, type="server_tool_use", id="s", name="web_search", input={})
    body += block_delta(0, type="input_json_delta", partial_json='{"query"') + block_stop(0)
    body += block_start(1, type="text", text="") + block_delta(1, type="citations_delta", citation={})
    body += block_delta(1, type="text_delta", text="Hi") + block_stop(1) + block_stop(9)
    body += block_delta(7, type="thinking_delta", thinking="?") + event(
        {"type": "content_block_delta", "index": 1}
    )

    assert [TextDelta("r", 1, text="Hi"), TurnFinished("r", 1, finish_reason="end_turn")] == read(
        Anthropic(), body + END + b"data: [DONE]\n\n"
    )


def test_a_proxys_done_does_not_end_the_turn() -> None:
    with pytest.raises(ModelCallError, match="before the answer was whole") as caught:
        read(Anthropic(), block_start(0, type="text", text="Hi") + b"data: [DONE]\n\n")

    assert "network" == caught.value.kind


def test_the_turn_is_whole_with_its_stop_reason_even_if_message_stop_is_missing() -> None:
    assert TurnFinished("r", 1, finish_reason="end_turn") == read(Anthropic(), message_delta("end_turn"))[-1]


def test_message_stop_without_a_reason_ends_the_turn_and_finishes_no_doubtful_call() -> None:
    body = block_start(0, type="tool_use", id="a", name="f", input={}) + block_stop(0) + MESSAGE_STOP

    entries = read(Anthropic(), body)

    assert TurnFinished("r", 1, finish_reason="") == entries[-1]
    assert [] == [entry for entry in entries if isinstance(entry, ToolCallReady)]


def test_nothing_comes_after_message_stop() -> None:
    late = block_start(0, type="text", text="late") + block_delta(0, type="text_delta", text="late")

    assert [TurnFinished("r", 1, finish_reason="end_turn")] == read(Anthropic(), END + late + END)


def usage(*, complete: bool, **counts: int) -> UsageReported:
    return UsageReported("r", 1, usage=Usage(**counts, complete=complete))


def test_usage_is_known_from_the_start_and_complete_with_the_stop_reason() -> None:
    """U1: a stopped turn keeps what the start said of its input."""
    body = message_start(
        input_tokens=3, cache_creation_input_tokens=10, cache_read_input_tokens=100, output_tokens=1
    )
    body += message_delta("end_turn", output_tokens=20)

    assert [
        usage(input_tokens=113, cached_input_tokens=100, output_tokens=1, complete=False),
        usage(input_tokens=113, cached_input_tokens=100, output_tokens=20, complete=True),
    ] == read(Anthropic(), body, ends=False)


def test_a_final_usage_with_input_replaces_the_first() -> None:
    final = event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {
                "input_tokens": 5,
                "cache_read_input_tokens": 1,
                "output_tokens": 20,
                "output_tokens_details": {"thinking_tokens": 7},
            },
        }
    )

    assert [
        usage(input_tokens=3, complete=False),
        usage(input_tokens=6, cached_input_tokens=1, output_tokens=20, reasoning_tokens=7, complete=True),
    ] == read(Anthropic(), message_start(input_tokens=3) + final, ends=False)


def test_the_same_usage_twice_is_told_once() -> None:
    body = message_start(input_tokens=3) + message_start(input_tokens=3) + event({"type": "message_start"})

    assert [usage(input_tokens=3, complete=False)] == read(Anthropic(), body, ends=False)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", "overloaded"),
        ("rate_limit_error", "rate_limit"),
        ("authentication_error", "authentication"),
        ("api_error", "provider"),
    ],
)
def test_an_error_in_the_stream_is_an_error(kind: str, expected: str) -> None:
    body = block_start(0, type="text", text="Hi")
    body += event({"type": "error", "error": {"type": kind, "message": "No more."}}, kind="error")

    with pytest.raises(ModelCallError, match=r"No more\.") as caught:
        read(Anthropic(), body)

    assert expected == caught.value.kind
