"""The log as JSON: every entry comes back, and what is none is refused in one way."""

import json
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiwrapper._core.errors import BadLog
from aiwrapper._core.log import (
    Deleted,
    Entry,
    HeadMoved,
    RetryWaiting,
    TextDelta,
    ToolFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.log_json import dump_entry, dump_log, load_entry, load_log
from aiwrapper._core.messages import Image, Producer, Text, Usage
from aiwrapper.testing.logs import logs, stray_entries

DELTA = b'{"kind":"text_delta","run_id":"r","turn":1,"text":"Hi"}'


@given(logs())
@example([])
def test_a_log_comes_back(log: list[Entry]) -> None:
    """L7."""
    assert log == load_log(dump_log(log))


@given(stray_entries())
@example(UserMessageAdded("u\udc00", (Text("Hi"), Image("image/png", "aGk=")), at=float("inf")))
@example(TextDelta("r", 2**70, text="\ud83d"))
@example(ToolFinished("r", -(2**63) - 1, 0, outcome="returned", content="\udc00"))
@example(RetryWaiting("r", 1, attempt=1, seconds=float("-inf"), error=""))
@example(UsageReported("r", 1, usage=Usage(input_tokens=2**64)))
@example(TurnStarted("r", 1, producer=Producer("\ud800", "h", model="m")))
@example(HeadMoved(None))
def test_an_entry_is_one_line_of_json_with_its_kind_first(entry: Entry) -> None:
    dumped = dump_entry(entry)

    assert entry == load_entry(dumped)
    assert b"\n" not in dumped
    assert "kind" == next(iter(json.loads(dumped)))
    assert dumped == dump_entry(load_entry(dumped))


def test_a_time_that_is_no_number_comes_back_as_none() -> None:
    loaded = load_entry(dump_entry(Deleted(at=float("nan"))))

    assert isinstance(loaded, Deleted)
    assert loaded.at != loaded.at


def test_every_kind_of_entry_is_drawn() -> None:
    """A round trip over drawn entries shows nothing about a kind that is never drawn."""
    seen: set[str] = set()

    @settings(max_examples=1000, deadline=None, database=None, derandomize=True)  # always the same ones
    @given(logs())
    def collect(log: list[Entry]) -> None:
        seen.update(entry.kind for entry in log)

    collect()

    assert {cls.kind for cls in get_args(Entry)} == seen


def test_fields_that_are_not_known_are_skipped() -> None:
    """An older version reads what a newer one wrote."""
    assert TextDelta("r", 1, text="Hi") == load_entry(DELTA[:-1] + b',"colour":"red"}')


def test_fields_with_a_default_may_be_missing() -> None:
    assert UserMessageAdded("u", ()) == load_entry(b'{"kind":"user_message","id":"u","parts":[]}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"kind":"text_delta","text":' + b"[" * 100_000,
        b'{"kind":5}',
        b'{"kind":"unheard_of"}',
        b'{"kind":["text_delta"]}',
        DELTA[:-1],
        DELTA + b"x",
        DELTA.replace(b"1", b'"1"'),
        DELTA.replace(b'"Hi"', b"null"),
        DELTA.replace(b'"r"', b"NaN"),
        DELTA.replace(b"Hi", b"\xff"),
        DELTA.replace(b"Hi", b"\\ud800").replace(b"1", b"1.5"),
        b'{"kind":"user_message","id":"u","parts":[{"type":"sound"}]}',
        b'{"kind":"user_message","id":"u","parts":[{"text":"no type"}]}',
        b'{"kind":"tool_finished","run_id":"r","turn":1,"index":0,"outcome":"exploded","content":""}',
        b'{"kind":"deleted","at":NaN}',
        b'{"kind":"deleted","at":"soon"}',
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_no_entry_is_a_bad_log(data: bytes) -> None:
    with pytest.raises(BadLog):
        load_entry(data)


@given(st.binary())
def test_garbage_raises_nothing_else(data: bytes) -> None:
    with pytest.raises(BadLog):
        load_entry(data)


@given(st.integers(0, len(DELTA) - 1), st.binary(max_size=3))
def test_damage_raises_nothing_else(place: int, damage: bytes) -> None:
    try:
        load_entry(DELTA[:place] + damage + DELTA[place + len(damage) :])
    except BadLog:
        pass


def test_a_bad_line_is_named() -> None:
    with pytest.raises(BadLog, match="line 3"):
        load_log(DELTA + b"\n\n" + DELTA[:-1])


def test_a_message_of_an_error_does_not_hold_what_was_said() -> None:
    """Logs are private; errors go to the terminal and into bug reports."""
    with pytest.raises(BadLog) as caught:
        load_entry(DELTA.replace(b"1", b'"secret"'))

    assert "secret" not in str(caught.value)
