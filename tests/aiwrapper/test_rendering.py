"""What a script says is what a parser reads; and the scripts' own values."""

import json
from typing import Any, get_args

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from aiwrapper._core.dialect import Dialect
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallReady,
    TurnEntry,
    TurnFinished,
    UsageReported,
)
from aiwrapper._core.messages import Usage
from aiwrapper._core.reply import Reply
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import (
    Asked,
    Call,
    Cut,
    Delivery,
    DialectName,
    HttpError,
    Redacted,
    Say,
    Script,
    Think,
    Turn,
    render,
    render_events,
)
from aiwrapper.testing.strategies import provider_scripts, turns

DIALECTS = get_args(DialectName)
OURS: dict[DialectName, Dialect] = {"openai_chat": OpenAIChat(), "anthropic": Anthropic()}


def read(body: bytes, dialect: DialectName, chunk_bytes: int | None = None) -> list[TurnEntry]:
    reply = Reply(OURS[dialect].decoder(), "r", 1)
    size = chunk_bytes or max(1, len(body))
    entries: list[TurnEntry] = []
    for at in range(0, len(body), size):
        entries += reply.feed(body[at : at + size])
    entries += reply.finish()
    return entries


def joined(turn: Turn, kind: type[Say] | type[Think]) -> str:
    return "".join(piece for block in turn.blocks if isinstance(block, kind) for piece in block.pieces)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(turn=turns(whole=True), chunk_bytes=st.integers(1, 200))
def test_our_parser_reads_what_a_script_says(dialect: DialectName, turn: Turn, chunk_bytes: int) -> None:
    entries = read(render(turn, dialect), dialect, chunk_bytes)

    text = "".join(entry.text for entry in entries if isinstance(entry, TextDelta))
    thought = "".join(entry.text for entry in entries if isinstance(entry, ReasoningDelta))
    called = [
        (entry.name, json.loads(entry.arguments)) for entry in entries if isinstance(entry, ToolCallReady)
    ]
    assert text == joined(turn, Say)
    assert thought == joined(turn, Think)
    assert called == [
        (block.name, json.loads("".join(block.pieces))) for block in turn.blocks if isinstance(block, Call)
    ]
    assert isinstance(entries[-1], (TurnFinished, UsageReported))


@given(turn=turns(whole=True))
def test_anthropic_payloads_are_read_byte_for_byte(turn: Turn) -> None:
    entries = read(render(turn, "anthropic"), "anthropic")

    payloads = [e.payload for e in entries if isinstance(e, ReasoningFinished) and e.payload is not None]
    sealed = [
        block
        for block in turn.blocks
        if isinstance(block, Redacted) or (isinstance(block, Think) and block.signature != "")
    ]
    assert len(sealed) == len(payloads)
    for block, payload in zip(sealed, payloads, strict=True):
        if isinstance(block, Redacted):
            assert block.data in json.loads(payload).values()


@pytest.mark.parametrize("dialect", DIALECTS)
@given(turn=turns())
def test_a_turn_that_is_not_whole_is_an_error_or_says_how_it_ended(dialect: DialectName, turn: Turn) -> None:
    body = render(turn, dialect)
    if turn.error is not None or turn.finish == "missing":
        with pytest.raises(ModelCallError) as caught:
            read(body, dialect)
        assert caught.value.kind in ("network", "provider", "overloaded")
    else:
        assert any(isinstance(entry, TurnFinished) for entry in read(body, dialect))


@pytest.mark.parametrize("dialect", DIALECTS)
@given(turn=turns())
def test_the_events_joined_are_the_body_and_each_ends_in_a_blank_line(
    dialect: DialectName, turn: Turn
) -> None:
    events = list(render_events(turn, dialect))

    assert b"".join(events) == render(turn, dialect)
    assert all(event.endswith(b"\n\n") for event in events)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("at", ["natural", "with_finish", "every_event"])
def test_usage_is_read_wherever_it_stands(dialect: DialectName, at: Any) -> None:
    usage = Usage(input_tokens=20, output_tokens=7, cached_input_tokens=5, complete=True)
    turn = Turn((Say(("a", "b")),), usage=usage, usage_at=at)

    entries = read(render(turn, dialect), dialect)

    total = Usage()
    for entry in entries:
        if isinstance(entry, UsageReported):
            total = total.updated(entry.usage)
    assert (total.input_tokens, total.output_tokens, total.cached_input_tokens) == (20, 7, 5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "turn", [Turn((Say(("a",)),), usage=None), Turn((Say(("a",)),), usage_at="never")], ids=["none", "never"]
)
def test_a_turn_can_keep_its_usage_to_itself(dialect: DialectName, turn: Turn) -> None:
    assert b"output_tokens" not in render(turn, dialect)
    assert b"completion_tokens" not in render(turn, dialect)


def test_openai_tells_usage_only_if_it_was_asked_for() -> None:
    turn = Turn((Say(("a",)),))

    assert b'"usage"' not in render(turn, "openai_chat", Asked(include_usage=False))


def test_interleaved_calls_alternate_in_openai_and_not_in_anthropic() -> None:
    turn = Turn((Call("f", ("{", "}")), Call("g", ("{", "", "}"))), interleaved=True)

    openai = [e for e in render_events(turn, "openai_chat") if b'"arguments"' in e]
    anthropic = [e for e in render_events(turn, "anthropic") if b"input_json_delta" in e]

    assert [b'"tool_calls":[{"index":0' in e for e in openai] == [
        True,
        False,
        True,
        False,
        True,
        False,
        False,
    ]
    assert [b'"index":0' in e for e in anthropic] == [True, True, False, False, False]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ids_are_made_from_the_number_of_the_request_or_are_the_scripts_own(dialect: DialectName) -> None:
    turn = Turn((Call("f", ("{}",)),))

    first, second = render(turn, dialect, Asked(serial=1)), render(turn, dialect, Asked(serial=2))
    own = render(Turn((Call("f", ("{}",), id="own_id"),)), dialect)
    none = render(Turn((Call("f", ("{}",), id=""),)), "openai_chat")

    assert first != second
    assert first == render(turn, dialect, Asked(serial=1))
    assert b'"id":"own_id"' in own
    assert b'"id":"call' not in none


@given(script=provider_scripts())
def test_a_script_is_its_answers(script: Script) -> None:
    assert tuple(script) == script.answers
    assert len(script) == len(script.answers)


@given(script=provider_scripts(whole=True, max_answers=2))
def test_a_whole_script_is_of_whole_turns(script: Script) -> None:
    assert len(script) <= 2
    for answer in script:
        assert isinstance(answer, Turn)
        assert (answer.finish, answer.error, answer.delivery.cut) == ("natural", None, None)


def test_a_text_is_not_taken_for_pieces() -> None:
    with pytest.raises(TypeError, match="not one text: 'Hello'"):
        Say("Hello")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cut(-1),
        lambda: Delivery(write_bytes=0),
        lambda: Delivery(events_per_second=0),
        lambda: HttpError(200),
        lambda: HttpError(600),
        lambda: evolve(HttpError(500), status=302),
    ],
)
def test_what_cannot_be_delivered_is_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        make()
