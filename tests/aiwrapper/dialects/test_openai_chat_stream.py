"""The stream of Chat Completions: as it should be, and as hosts make it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    TurnEntry,
    TurnFinished,
    UsageReported,
)
from aiwrapper._core.messages import Usage
from aiwrapper.dialects.openai_chat import OpenAIChat
from tests.aiwrapper.dialects.wire import DONE, call_chunk, chunk, event, read

END = chunk({}, "tool_calls") + DONE


def calls(body: bytes) -> list[tuple[int, str, str, str | None]]:
    return [
        (entry.index, entry.name, entry.arguments, entry.provider_id)
        for entry in read(OpenAIChat(), body)
        if isinstance(entry, ToolCallReady)
    ]


def shown(body: bytes) -> list[TurnEntry]:
    return [entry for entry in read(OpenAIChat(), body) if not isinstance(entry, TurnFinished)]


def text(value: str) -> TextDelta:
    return TextDelta("r", 1, text=value)


def thought(value: str) -> ReasoningDelta:
    return ReasoningDelta("r", 1, text=value)


THOUGHT_OUT = ReasoningFinished("r", 1)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_whole_when_the_answer_begins(field: str) -> None:
    body = (
        chunk({field: "Hm", "content": None})
        + chunk({field: ".", "content": ""})
        + chunk({"content": "Hi"})
        + END
    )

    assert [thought("Hm"), thought("."), THOUGHT_OUT, text("Hi")] == shown(body)


def test_reasoning_and_text_in_one_chunk_keep_their_order() -> None:
    body = chunk({"reasoning_content": "Hm", "content": "Hi"}) + END

    assert [thought("Hm"), THOUGHT_OUT, text("Hi")] == shown(body)


def test_reasoning_is_whole_when_a_call_begins() -> None:
    body = chunk({"reasoning_content": "Hm"}) + call_chunk(call_id="a", name="f", arguments="{}") + END

    assert [thought("Hm"), THOUGHT_OUT, ToolCallStarted("r", 1, 0, name="f", provider_id="a")] == shown(body)[
        :3
    ]


def test_reasoning_is_whole_when_the_turn_ends_after_it() -> None:
    assert [thought("Hm"), THOUGHT_OUT] == shown(
        chunk({"reasoning_content": "Hm"}) + chunk({}, "stop") + DONE
    )


def test_reasoning_that_comes_again_is_another_part() -> None:
    body = (
        b"".join(chunk(delta) for delta in ({"reasoning": "a"}, {"content": "b"}, {"reasoning": "c"})) + END
    )

    assert [thought("a"), THOUGHT_OUT, text("b"), thought("c"), THOUGHT_OUT] == shown(body)


def test_the_parts_of_mistrals_reasoning_models_are_read() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    parts = [thinking, {"type": "text", "text": "Hi"}, {"type": "reference"}]

    assert [thought("Hm"), THOUGHT_OUT, text("Hi")] == shown(chunk({"content": parts}) + END)


def test_a_refusal_is_what_the_model_says() -> None:
    assert [text("No.")] == shown(chunk({"refusal": "No.", "content": None}) + END)
    assert [text("No.")] == shown(chunk({"refusal": "No.", "content": ""}) + END)


def test_empty_pieces_say_nothing() -> None:
    body = (
        chunk({"role": "assistant", "content": ""})
        + chunk({"content": None})
        + chunk({})
        + chunk({"tool_calls": []})
    )

    assert [] == shown(body + END)


def test_chunks_without_choices_say_nothing() -> None:
    """Azure's filter results come first, in a chunk of their own."""
    body = event({"choices": [], "prompt_filter_results": []}) + event({"choices": None}) + event({})

    assert [] == shown(body + END)


def test_only_the_first_choice_counts() -> None:
    body = chunk({"content": "no"}, index=1) + chunk({}, "stop", index=1) + chunk({"content": "yes"})

    assert [text("yes")] == shown(body + END)


def test_calls_in_parallel_are_told_apart_by_their_index() -> None:
    body = call_chunk(0, call_id="a", name="f", arguments="") + call_chunk(
        1, call_id="b", name="g", arguments='{"x"'
    )
    body += call_chunk(0, arguments="{}") + call_chunk(1, arguments=":1}") + END

    assert [(0, "f", "{}", "a"), (1, "g", '{"x":1}', "b")] == calls(body)


ODD_HOSTS = {
    "index 0 for every call": call_chunk(0, call_id="a", name="f", arguments="{}")
    + call_chunk(0, call_id="b", name="g", arguments='{"x":')
    + call_chunk(0, arguments="1}"),
    "index 0 for every call, no ids": call_chunk(0, name="f", arguments="{}")
    + call_chunk(0, name="g", arguments='{"x":1}'),
    "index 0 for every call, the same id": call_chunk(0, call_id="a", name="f", arguments="{}")
    + call_chunk(0, call_id="a", name="g", arguments='{"x":1}'),
    "the same id": call_chunk(0, call_id="a", name="f", arguments="{}")
    + call_chunk(1, call_id="a", name="g", arguments='{"x":1}'),
    "no index": call_chunk(None, call_id="a", name="f", arguments="{}")
    + call_chunk(None, call_id="b", name="g", arguments='{"x":')
    + call_chunk(None, arguments="1}"),
    "no index, no ids": call_chunk(None, name="f", arguments="{}")
    + call_chunk(None, name="g", arguments='{"x":1}'),
    "indices from 1": call_chunk(1, call_id="a", name="f", arguments="{}")
    + call_chunk(2, call_id="b", name="g", arguments='{"x":1}'),
    "a new id for every chunk": call_chunk(0, call_id="a", name="f", arguments="{")
    + call_chunk(0, call_id="a2", arguments="}")
    + call_chunk(1, call_id="b", name="g", arguments='{"x":')
    + call_chunk(1, call_id="b2", arguments="1}"),
    "the name in every chunk, with the id": call_chunk(0, call_id="a", name="f", arguments="{")
    + call_chunk(0, call_id="a", name="f", arguments="}")
    + call_chunk(1, call_id="b", name="g", arguments='{"x":')
    + call_chunk(1, call_id="b", name="g", arguments="1}"),
    "the name in every chunk, no ids": call_chunk(0, name="f", arguments="{")
    + call_chunk(0, name="f", arguments="}")
    + call_chunk(1, name="g", arguments='{"x":')
    + call_chunk(1, name="g", arguments="1}"),
    "the name after the id": call_chunk(0, call_id="a")
    + call_chunk(0, name="f")
    + call_chunk(0, arguments="{}")
    + call_chunk(1, call_id="b", name="")
    + call_chunk(1, name="g", arguments='{"x":1}'),
    "arguments before the name": call_chunk(0, call_id="a", arguments="{}")
    + call_chunk(0, name="f")
    + call_chunk(1, call_id="b", name="g", arguments='{"x":1}'),
    "the id after the arguments": call_chunk(0, arguments="{")
    + call_chunk(0, call_id="a", name="f", arguments="}")
    + call_chunk(1, call_id="b", name="g", arguments='{"x":1}'),
    "arguments as an object": call_chunk(0, call_id="a", name="f", arguments={})
    + call_chunk(1, call_id="b", name="g", arguments={"x": 1}),
    "empty strings for what is missing": call_chunk(0, call_id="a", name="f", arguments="")
    + call_chunk(0, call_id="", name="", arguments="{}")
    + call_chunk(1, call_id="b", name="g", arguments='{"x":1}'),
}


@pytest.mark.parametrize("body", ODD_HOSTS.values(), ids=ODD_HOSTS.keys())
@pytest.mark.parametrize("finish_reason", ["tool_calls", "stop"])
def test_two_calls_are_two_calls_whatever_the_host_makes_of_them(body: bytes, finish_reason: str) -> None:
    found = calls(body + chunk({}, finish_reason) + DONE)

    assert [(0, "f", {}), (1, "g", {"x": 1})] == [
        (index, name, json.loads(arguments)) for index, name, arguments, _ in found
    ]


def test_a_tool_called_twice_under_one_id_and_index_is_two_calls() -> None:
    body = call_chunk(0, call_id="a", name="f", arguments="{}") + call_chunk(
        0, call_id="a", name="f", arguments=""
    )
    body += call_chunk(0, call_id="a", name="f", arguments='{"x":1}')

    assert [(0, "f", "{}", "a"), (1, "f", '{"x":1}', "a")] == calls(body + END)


def test_arguments_that_came_before_the_name_are_told_after_it() -> None:
    body = call_chunk(0, call_id="a", arguments="{") + call_chunk(0, name="f", arguments="}")

    assert [
        ToolCallStarted("r", 1, 0, name="f", provider_id="a"),
        ToolCallArguments("r", 1, 0, text="{"),
        ToolCallArguments("r", 1, 0, text="}"),
    ] == read(OpenAIChat(), body, ends=False)


def test_a_call_without_a_name_is_a_call_of_an_unknown_tool() -> None:
    assert [(0, "", "{}", "a")] == calls(call_chunk(0, call_id="a", arguments="{}") + END)


def test_a_delta_without_a_function_changes_nothing() -> None:
    body = call_chunk(0, call_id="a", name="f", arguments="{}") + chunk({"tool_calls": [{"index": 0}]})

    assert [(0, "f", "{}", "a")] == calls(body + END)


def test_an_empty_finish_reason_is_none() -> None:
    body = chunk({"content": "a"}, "") + chunk({"content": "b"}, "") + chunk({"content": ""}, "stop") + DONE

    assert [text("a"), text("b"), TurnFinished("r", 1, finish_reason="stop")] == read(OpenAIChat(), body)


def test_a_choice_without_a_delta_may_end_the_turn() -> None:
    body = chunk({"content": "a"}) + event({"choices": [{"finish_reason": "stop"}]})

    assert [text("a"), TurnFinished("r", 1, finish_reason="stop")] == read(OpenAIChat(), body)


def test_text_in_the_chunk_with_the_finish_reason_counts() -> None:
    assert [text("a")] == shown(chunk({"content": "a"}, "stop") + DONE)


def test_done_may_be_missing() -> None:
    assert (
        TurnFinished("r", 1, finish_reason="stop") == read(OpenAIChat(), chunk({"content": "a"}, "stop"))[-1]
    )


def test_done_without_a_finish_reason_ends_a_turn_of_text() -> None:
    body = chunk({"reasoning": "Hm"}) + chunk({"content": "a"}) + DONE

    assert [text("a"), TurnFinished("r", 1, finish_reason="")] == read(OpenAIChat(), body)[-2:]


def test_done_without_a_finish_reason_finishes_no_call() -> None:
    with pytest.raises(ModelCallError, match="without a finish_reason") as caught:
        read(OpenAIChat(), call_chunk(0, call_id="a", name="f", arguments="{}") + DONE)

    assert "protocol" == caught.value.kind


def test_done_alone_is_no_answer() -> None:
    with pytest.raises(ModelCallError, match="without a finish_reason"):
        read(OpenAIChat(), chunk({"role": "assistant", "content": ""}) + DONE)


def test_done_twice_is_done_once() -> None:
    assert [TurnFinished("r", 1, finish_reason="stop")] == read(OpenAIChat(), chunk({}, "stop"), DONE, DONE)


def test_blanks_around_done_do_not_matter() -> None:
    assert [TurnFinished("r", 1, finish_reason="stop")] == read(
        OpenAIChat(), chunk({}, "stop") + b"data:  [DONE] \n\n", ends=False
    )


def usage_entry(*, complete: bool, **counts: int) -> UsageReported:
    return UsageReported("r", 1, usage=Usage(**counts, complete=complete))


def test_usage_in_every_chunk_is_told_when_it_changes() -> None:
    body = b"".join(
        chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": count}) for count in (1, 1, 2)
    )
    body += chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2}) + DONE

    assert [
        usage_entry(input_tokens=3, output_tokens=1, complete=False),
        usage_entry(input_tokens=3, output_tokens=2, complete=False),
        usage_entry(input_tokens=3, output_tokens=2, complete=True),
    ] == [entry for entry in read(OpenAIChat(), body) if isinstance(entry, UsageReported)]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}},
        {"prompt_cache_hit_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}},
        {"prompt_cache_hit_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
        | {"completion_tokens_details": {"reasoning_tokens": 1, "accepted_prediction_tokens": 0}},
    ],
)
def test_the_parts_of_usage_are_read(usage: dict[str, object]) -> None:
    body = chunk({}, "stop") + event(
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4} | usage}
    )

    assert (
        usage_entry(input_tokens=3, output_tokens=4, cached_input_tokens=2, reasoning_tokens=1, complete=True)
        == read(OpenAIChat(), body)[0]
    )


def test_null_usage_is_none() -> None:
    assert [text("a")] == shown(chunk({"content": "a"}, usage=None) + END)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            {"message": "The server had an error", "type": "server_error"},
            "provider",
            "The server had an error",
        ),
        ({"message": "Slow down", "code": "rate_limit_exceeded"}, "rate_limit", "Slow down"),
        ({"message": "Busy", "type": "overloaded_error", "code": 529}, "overloaded", "Busy"),
        ("out of memory", "provider", "out of memory"),
        ({"message": "Too many", "code": 429}, "rate_limit", "Too many"),
        ({"message": "No capacity", "type": ["odd"], "code": "503"}, "overloaded", "No capacity"),
        ({"metadata": {"raw": 1}}, "provider", "without words"),
    ],
)
def test_an_error_in_the_stream_is_an_error(error: object, kind: str, words: str) -> None:
    with pytest.raises(ModelCallError, match=words) as caught:
        read(OpenAIChat(), chunk({"content": "a"}) + event({"error": error}))

    assert kind == caught.value.kind


@given(
    st.text(max_size=4),
    st.sampled_from([r"\ud83d", r"\ude00", r"\ud83d\ud83d\ude00", r"\\ud83d", r"\ud83dA"]),
)
def test_lone_surrogates_in_escapes_become_replacement_characters(around: str, escapes: str) -> None:
    """Hosts that cut text between the halves of a pair escape each half alone."""
    piece = event({"choices": [{"delta": {"content": around + "@" + around}}]}).replace(
        b"@", escapes.encode()
    )

    (entry,) = read(OpenAIChat(), piece, ends=False)

    assert isinstance(entry, TextDelta)
    expected = {
        r"\ud83d": "\ufffd",
        r"\ude00": "\ufffd",
        r"\ud83d\ud83d\ude00": "\ufffd\U0001f600",
        r"\\ud83d": r"\ud83d",
        r"\ud83dA": "\ufffdA",
    }
    if "@" not in around:
        assert around + expected[escapes] + around == entry.text
