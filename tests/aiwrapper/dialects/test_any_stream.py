"""Streams that are well-formed and make no sense: what comes of them is valid, or one error of ours."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwrapper._core.conversation import append, fold, settle
from aiwrapper._core.dialect import Dialect, Options
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    Entry,
    ReasoningDelta,
    RunStarted,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    TurnFinished,
    TurnStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import Producer, Text, UserMessage
from aiwrapper._core.reply import Reply
from aiwrapper._core.validity import validate
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from tests.aiwrapper.dialects.wire import DONE, MESSAGE_STOP, block_stop, call_chunk, chunk, event

INDEX = st.sampled_from((0, 0, 1, 2))
TEXT = st.sampled_from(("", " ", "a", "Hi", '"}'))
ARGUMENTS = st.sampled_from((None, "", " ", "{", "}", "{}", '{"a":', "1}", "[]", "\ud83d"))
NAME = st.sampled_from((None, "", "f", "g"))
REASON = st.sampled_from(("stop", "tool_calls", "length", "content_filter", "", "later"))
COUNT = st.sampled_from((None, 0, 3))

OPENAI_EVENTS = st.one_of(
    st.builds(
        call_chunk,
        st.none() | INDEX,
        call_id=st.sampled_from((None, "", "a", "b")),
        name=NAME,
        arguments=ARGUMENTS,
    ),
    st.builds(lambda text: chunk({"content": text}), TEXT),
    st.builds(lambda text: chunk({"reasoning_content": text, "content": None}), TEXT),
    st.builds(lambda text, reason: chunk({"content": text}, reason), TEXT, REASON),
    st.builds(lambda count: event({"choices": [], "usage": {"completion_tokens": count}}), COUNT),
    st.just(DONE),
)


def _block(index: int, **block: Any) -> bytes:
    return event({"type": "content_block_start", "index": index, "content_block": block})


def _delta(index: int, **delta: Any) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": delta})


ANTHROPIC_EVENTS = st.one_of(
    st.builds(_block, INDEX, type=st.just("text"), text=TEXT),
    st.builds(_block, INDEX, type=st.just("thinking"), thinking=TEXT, signature=TEXT),
    st.builds(_block, INDEX, type=st.just("redacted_thinking"), data=TEXT),
    st.builds(
        _block,
        INDEX,
        type=st.just("tool_use"),
        id=st.sampled_from((None, "a", "b")),
        name=st.sampled_from(("", "f")),
        input=st.sampled_from(({}, None, {"a": 1}, [], "{")),
    ),
    st.builds(_delta, INDEX, type=st.just("text_delta"), text=TEXT),
    st.builds(_delta, INDEX, type=st.just("thinking_delta"), thinking=TEXT),
    st.builds(_delta, INDEX, type=st.just("signature_delta"), signature=TEXT),
    st.builds(_delta, INDEX, type=st.just("input_json_delta"), partial_json=ARGUMENTS.filter(bool)),
    st.builds(block_stop, INDEX),
    st.builds(
        lambda reason, count: event(
            {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": count}}
        ),
        st.sampled_from((None, "end_turn", "tool_use", "max_tokens")),
        COUNT,
    ),
    st.just(MESSAGE_STOP),
)

STREAMS: dict[str, tuple[Dialect, st.SearchStrategy[bytes]]] = {
    "openai_chat": (OpenAIChat(), OPENAI_EVENTS),
    "anthropic": (Anthropic(), ANTHROPIC_EVENTS),
}


def read_as_far_as_it_goes(dialect: Dialect, events: Sequence[bytes]) -> list[Entry]:
    reply = Reply(dialect.decoder(), "r", 1)
    entries: list[Entry] = []
    try:
        for body in events:
            entries.extend(reply.feed(body))
        entries.extend(reply.finish())
    except ModelCallError:
        assert not reply.finished
    return entries


@pytest.mark.parametrize(("dialect", "events"), STREAMS.values(), ids=STREAMS.keys())
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_stream_gives_entries_in_order_that_settle_to_what_can_be_sent(
    dialect: Dialect, events: st.SearchStrategy[bytes], data: st.DataObject
) -> None:
    entries = read_as_far_as_it_goes(dialect, data.draw(st.lists(events, max_size=14)))

    begun: list[int] = []
    ready: list[int] = []
    for at, entry in enumerate(entries):
        match entry:
            case TextDelta(text=text) | ReasoningDelta(text=text) | ToolCallArguments(text=text):
                assert text
            case ToolCallStarted(index=index):
                assert len(begun) == index
                begun.append(index)
            case ToolCallReady(index=index):
                assert index in begun
                assert index not in ready
                ready.append(index)
            case ToolFinished(index=index):
                assert index == ready[-1]  # directly behind its call
                assert isinstance(entries[at - 1], ToolCallReady)
            case TurnFinished():
                assert at == len(entries) - 1
            case _:
                pass
    producer = Producer(dialect.name, "host", model="m")
    log: list[Entry] = [
        UserMessageAdded("u", (Text("Hi"),)),
        RunStarted("r"),
        TurnStarted("r", 1, producer=producer),
        *entries,
    ]
    conversation = settle(fold(log))
    assert [] == validate(conversation)
    for other, _ in STREAMS.values():
        for thinking in (None, 2_000):
            asked = append(conversation, UserMessage("u2", (Text("Go on."),)))
            body = other.encode(asked, Options(producer=producer, thinking_tokens=thinking))
            assert [] == other.violations(body)


@pytest.mark.parametrize(("dialect", "events"), STREAMS.values(), ids=STREAMS.keys())
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_what_a_stream_gives_does_not_depend_on_how_it_was_split(
    dialect: Dialect, events: st.SearchStrategy[bytes], data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(events, max_size=8))
    body = b"".join(drawn)
    middle = data.draw(st.integers(0, len(body)))

    whole = read_as_far_as_it_goes(dialect, drawn)
    split = read_as_far_as_it_goes(dialect, [body[:middle], body[middle:]])

    assert whole == split
