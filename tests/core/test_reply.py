"""One turn, from bytes to entries: when a call exists, when a turn is whole, when nothing may come any more."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwrapper._core.conversation import fold, settle
from aiwrapper._core.dialect import Delta, Dialect, TextPiece, TurnEnd
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
    UsageReported,
)
from aiwrapper._core.messages import AssistantMessage, Producer, ToolMessage, Usage
from aiwrapper._core.reply import Reply
from aiwrapper._core.sse import ServerSentEvent
from aiwrapper._core.validity import validate
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import Call, DialectName, Redacted, Say, Think, Turn, render
from tests.aiwrapper.dialects.wire import (
    DONE,
    MESSAGE_STOP,
    block_delta,
    block_start,
    block_stop,
    call_chunk,
    chunk,
    event,
    message_delta,
    read,
)

DIALECTS: dict[DialectName, Dialect] = {"openai_chat": OpenAIChat(), "anthropic": Anthropic()}
every_dialect = pytest.mark.parametrize("name", DIALECTS)

EVERYTHING = Turn(
    (
        Think(("Let me", " see.")),
        Redacted("c2VjcmV0"),
        Say(("Hel", "lo \U0001f44d")),
        Call("read_page", ('{"url":', ' "a"}')),
        Call("now", ()),
    )
)


def one_call(name: DialectName, arguments: Iterable[str], finish: str | None) -> bytes:
    """A turn with one call of these pieces, ended by its provider with `finish`, or not at all."""
    if name == "openai_chat":
        body = call_chunk(call_id="c", name="f", arguments="")
        body += b"".join(call_chunk(arguments=piece) for piece in arguments)
        return body + (b"" if finish is None else chunk({}, finish) + DONE)
    body = block_start(0, type="tool_use", id="c", name="f", input={})
    body += b"".join(block_delta(0, type="input_json_delta", partial_json=piece) for piece in arguments)
    return body + (b"" if finish is None else block_stop(0) + message_delta(finish) + MESSAGE_STOP)


NATURAL = {"openai_chat": "tool_calls", "anthropic": "tool_use"}
CUT = {"openai_chat": "length", "anthropic": "max_tokens"}


def opening(name: DialectName) -> list[Entry]:
    return [RunStarted("r"), TurnStarted("r", 1, producer=Producer(name, "host", model="m"))]


def ready(arguments: str) -> ToolCallReady:
    return ToolCallReady("r", 1, 0, name="f", arguments=arguments, provider_id="c")


@every_dialect
@given(data=st.data())
def test_the_entries_do_not_depend_on_how_the_bytes_were_split(
    name: DialectName, data: st.DataObject
) -> None:
    body = render(EVERYTHING, name)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=8)) | {0, len(body)})

    chunks = [body[begin:end] for begin, end in pairwise(cuts)]

    assert read(DIALECTS[name], body) == read(DIALECTS[name], *chunks)


@every_dialect
def test_the_kept_text_is_what_was_said(name: DialectName) -> None:
    entries = read(DIALECTS[name], render(EVERYTHING, name))

    assert "Hello \U0001f44d" == "".join(entry.text for entry in entries if isinstance(entry, TextDelta))
    assert "Let me see." == "".join(entry.text for entry in entries if isinstance(entry, ReasoningDelta))
    assert ['{"url": "a"}', "{}"] == [
        entry.arguments for entry in entries if isinstance(entry, ToolCallReady)
    ]
    assert isinstance(entries[-1], TurnFinished)


@every_dialect
def test_a_body_cut_at_any_byte_gives_a_prefix_of_the_entries_and_is_not_whole(name: DialectName) -> None:
    """C11, and: only whole turns are whole."""
    body = render(EVERYTHING, name)
    whole = read(DIALECTS[name], body)
    # From here on the turn is whole, whatever is missing of the bytes.
    terminal = body.rindex(
        b'"finish_reason":"tool_calls"' if name == "openai_chat" else b'"stop_reason":"tool_use"'
    )
    end_of_terminal = body.index(b"\n\n", terminal) + 2

    for at in range(len(body)):
        reply = Reply(DIALECTS[name].decoder(), "r", 1)
        entries = list(reply.feed(body[:at]))
        if at < end_of_terminal:
            assert whole[: len(entries)] == entries
            with pytest.raises(ModelCallError) as caught:
                list(reply.finish())
            assert caught.value.kind == ("network" if b"\n\n" in body[:at] or not at else "protocol")
            assert not reply.finished
        else:
            entries += reply.finish()
            assert [e for e in whole if not isinstance(e, UsageReported)] == [
                e for e in entries if not isinstance(e, UsageReported)
            ]


@every_dialect
def test_the_conversation_is_valid_wherever_the_body_was_cut(name: DialectName) -> None:
    """L1, from bytes: what arrived up to any entry settles to a valid conversation."""
    for body in (render(EVERYTHING, name), one_call(name, ["no", " object"], NATURAL[name])):
        entries = read(DIALECTS[name], body)
        for end in range(len(entries) + 1):
            assert [] == validate(settle(fold([*opening(name), *entries[:end]])))


def test_a_call_of_chat_completions_is_not_ready_when_the_next_one_begins() -> None:
    """C6: the stream may be cut right there, and nobody could tell."""
    body = call_chunk(0, call_id="a", name="f", arguments="{}") + call_chunk(
        1, call_id="b", name="g", arguments="{"
    )

    entries = read(OpenAIChat(), body, ends=False)

    assert [] == [entry for entry in entries if isinstance(entry, ToolCallReady)]


def test_a_call_of_chat_completions_is_ready_at_the_finish_reason() -> None:
    body = call_chunk(0, call_id="c", name="f", arguments="{}") + chunk({}, "tool_calls")

    assert ready("{}") == read(OpenAIChat(), body, ends=False)[-1]


def test_a_call_of_anthropic_is_ready_when_its_block_stops() -> None:
    body = block_start(0, type="tool_use", id="c", name="f", input={})
    body += block_delta(0, type="input_json_delta", partial_json='{"a": 1}')

    assert ready('{"a": 1}') not in read(Anthropic(), body, ends=False)
    assert ready('{"a": 1}') == read(Anthropic(), body + block_stop(0), ends=False)[-1]


@every_dialect
@pytest.mark.parametrize("pieces", [[], [""], [" \n"]], ids=["no piece", "an empty piece", "blank"])
def test_no_arguments_are_the_empty_object_if_the_turn_ended_by_itself(
    name: DialectName, pieces: list[str]
) -> None:
    entries = read(DIALECTS[name], one_call(name, pieces, NATURAL[name]))

    assert [ready("{}")] == [entry for entry in entries if isinstance(entry, ToolCallReady)]
    assert [] == [entry for entry in entries if isinstance(entry, ToolFinished)]


@every_dialect
@pytest.mark.parametrize("arguments", ["", '{"path": "a', "[]"])
def test_arguments_that_the_provider_cut_make_no_call(name: DialectName, arguments: str) -> None:
    entries = read(DIALECTS[name], one_call(name, [arguments], CUT[name]))

    assert [] == [entry for entry in entries if isinstance(entry, ToolCallReady | ToolFinished)]
    assert TurnFinished("r", 1, finish_reason=CUT[name]) == entries[-1]


@every_dialect
def test_a_whole_object_is_a_call_even_if_the_provider_cut_the_turn(name: DialectName) -> None:
    """An object is never the beginning of another object."""
    entries = read(DIALECTS[name], one_call(name, ['{"a": 1}'], CUT[name]))

    assert ready('{"a": 1}') in entries


@every_dialect
@pytest.mark.parametrize("arguments", ["[]", "null", '{"a": NaN}', '{"a"', "{}{}", '"{}"', "[" * 100_000])
def test_arguments_that_are_no_object_are_answered_and_never_carried_out(
    name: DialectName, arguments: str
) -> None:
    entries = read(DIALECTS[name], one_call(name, [arguments], NATURAL[name]))

    at = entries.index(ready("{}"))
    result = entries[at + 1]
    assert isinstance(result, ToolFinished)
    assert ("invalid_arguments", 0) == (result.outcome, result.index)
    assert arguments[:100] in result.content
    assert len(result.content) < 3_000
    assert arguments == "".join(entry.text for entry in entries if isinstance(entry, ToolCallArguments))
    assert isinstance(entries[-1], TurnFinished)


@every_dialect
def test_the_answer_to_bad_arguments_is_in_the_conversation(name: DialectName) -> None:

    entries = read(DIALECTS[name], one_call(name, ["[]"], NATURAL[name]))

    call_message, results = fold([*opening(name), *entries]).conversation.messages
    assert isinstance(call_message, AssistantMessage)
    assert isinstance(results, ToolMessage)
    assert ["{}"] == [call.arguments for call in call_message.calls]
    assert ["invalid_arguments"] == [result.outcome for result in results.results]


@every_dialect
def test_calls_get_our_indices_in_the_order_of_their_beginning(name: DialectName) -> None:
    turn = Turn(
        (Say(("x",)), Call("f", ('{"a":1}',)), Call("g", ('{"b":', "2}"))), interleaved=name == "openai_chat"
    )

    entries = read(DIALECTS[name], render(turn, name))

    started = [(entry.index, entry.name) for entry in entries if isinstance(entry, ToolCallStarted)]
    ended = [
        (entry.index, entry.name, entry.arguments) for entry in entries if isinstance(entry, ToolCallReady)
    ]
    assert [(0, "f"), (1, "g")] == started
    assert [(0, "f", '{"a":1}'), (1, "g", '{"b":2}')] == ended


@every_dialect
def test_what_comes_after_the_end_of_the_turn_is_dropped(name: DialectName) -> None:
    body = render(Turn((Say(("Hi",)),)), name)
    reply = Reply(DIALECTS[name].decoder(), "r", 1)

    entries = list(reply.feed(body))

    assert reply.finished
    assert [] == list(reply.feed(body))
    assert [] == list(reply.finish())
    assert isinstance(entries[-1], TurnFinished)


def test_usage_after_the_finish_reason_counts_and_the_turn_finishes_last() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    body = chunk({"content": "Hi"}) + chunk({}, "stop") + event({"choices": [], "usage": usage}) + DONE

    assert [
        TextDelta("r", 1, text="Hi"),
        UsageReported("r", 1, usage=Usage(input_tokens=3, output_tokens=4, complete=True)),
        TurnFinished("r", 1, finish_reason="stop"),
    ] == read(OpenAIChat(), body)


def test_text_after_the_finish_reason_is_dropped() -> None:
    body = chunk({"content": "Hi"}) + chunk({}, "stop") + chunk({"content": "late"}) + DONE

    assert [TextDelta("r", 1, text="Hi"), TurnFinished("r", 1, finish_reason="stop")] == read(
        OpenAIChat(), body
    )


@every_dialect
def test_a_reply_is_lazy(name: DialectName) -> None:
    """What has not been taken has not happened: an error behind an entry does not hide it."""
    reply = Reply(DIALECTS[name].decoder(), "r", 1)
    error = event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})

    entries = reply.feed(render(Turn((Say(("Hi",)),)), name)[:-40] + b"\n\n" + error)

    assert not reply.started
    first = next(entry for entry in entries if isinstance(entry, TextDelta))
    assert TextDelta("r", 1, text="Hi") == first
    assert reply.started


@every_dialect
def test_a_reply_that_only_counted_tokens_has_not_started(name: DialectName) -> None:
    reply = Reply(DIALECTS[name].decoder(), "r", 1)
    usage = (
        event({"choices": [], "usage": {"prompt_tokens": 3}})
        if name == "openai_chat"
        else event({"type": "message_start", "message": {"usage": {"input_tokens": 3}}})
    )

    entries = list(reply.feed(usage))

    assert [UsageReported("r", 1, usage=Usage(input_tokens=3))] == entries
    assert not reply.started


@every_dialect
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "network"),
        (b"<html>Bad gateway</html>", "protocol"),
        (b'{"choices": [{"message": {"content": "no stream"}}]}', "protocol"),
        (b": keep-alive\n\n", "protocol"),
        (b"data: {\n\n", "protocol"),
        (b"data: []\n\n", "protocol"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "protocol"),
        (b'data: {"choices": 3, "type": 3}\n\n', "protocol"),
        (b"\xff\xfe\x00data", "protocol"),
    ],
)
def test_a_body_that_is_no_answer_is_one_clear_error(name: DialectName, body: bytes, kind: str) -> None:
    with pytest.raises(ModelCallError) as caught:
        read(DIALECTS[name], body)

    assert kind == caught.value.kind
    assert len(str(caught.value)) < 1_000


@every_dialect
def test_an_event_of_ten_megabytes_is_refused(name: DialectName) -> None:
    with pytest.raises(ModelCallError) as caught:
        read(DIALECTS[name], b'data: {"x": "' + b"x" * 10_000_000)

    assert "limit" == caught.value.kind


@every_dialect
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda data: b'data: {"' + data + b"\n\n"))
def test_garbage_raises_only_our_own_error(name: DialectName, body: bytes) -> None:
    with pytest.raises(ModelCallError):
        read(DIALECTS[name], body)


class HoldsBack:
    """A dialect's decoder that knows what was said only when the body has ended."""

    def __init__(self) -> None:
        self._text = ""

    def decode(self, event: ServerSentEvent, /) -> Iterable[Delta]:
        self._text += event.data
        return ()

    def end(self) -> Iterable[Delta]:
        return TextPiece(self._text), TurnEnd("stop")


def test_what_a_decoder_holds_back_is_given_at_the_end() -> None:
    reply = Reply(HoldsBack(), "r", 1)

    assert [] == list(reply.feed(b"data: a\n\ndata: b\n\n"))
    assert not reply.started
    assert [TextDelta("r", 1, text="ab"), TurnFinished("r", 1, finish_reason="stop")] == list(reply.finish())
    assert reply.started


def test_who_drives_is_asked_also_while_nothing_is_said() -> None:
    class Enough(Exception):
        pass

    looks = iter(range(5))

    def look() -> None:
        if next(looks, None) is None:
            raise Enough

    reply = Reply(OpenAIChat().decoder(), "r", 1, look=look)

    with pytest.raises(Enough):
        list(reply.feed(b": still there\n" * 6))
