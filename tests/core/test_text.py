import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwrapper._core.text import MAX_NESTING, describe_exception, is_json_object, well_formed

JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def nested(depth: int) -> str:
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@given(st.dictionaries(st.text(), JSON))
def test_every_object_that_a_tool_could_want_is_one(value: dict[str, object]) -> None:
    assert is_json_object(json.dumps(value))


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":1}}', '{"a":"\\ud83d"}', '"{}"', "[" * 100_000])
def test_what_is_no_object_is_none(text: str) -> None:
    assert not is_json_object(text)


def test_how_deep_an_object_may_be_nested_does_not_depend_on_the_stack() -> None:
    def deeper(calls: int, text: str) -> bool:
        return deeper(calls - 1, text) if calls else is_json_object(text)

    for calls in (0, 500):
        assert deeper(calls, nested(MAX_NESTING))
        assert not deeper(calls, nested(MAX_NESTING + 1))


def test_brackets_side_by_side_or_in_strings_are_no_nesting() -> None:
    assert is_json_object(json.dumps({"a": [[] for _ in range(2 * MAX_NESTING)]}))
    assert is_json_object(json.dumps({"a": '[{"' * MAX_NESTING, '\\"': "[" * MAX_NESTING}))


class Marked(str):
    """As those are that hold HTML which is known to be safe, or a place in a document."""

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize("text", ["plain", "lone \ud83d"])
def test_a_string_of_ones_own_kind_becomes_a_plain_one(text: str) -> None:
    formed = well_formed(Marked(text))

    assert type(formed) is str
    assert well_formed(text) == formed


def test_a_group_of_exceptions_is_described_by_what_is_in_it() -> None:
    inner = ExceptionGroup("a task group", [KeyError("b"), OSError("no disk")])
    many = ExceptionGroup("another", [inner, *(ValueError(number) for number in range(6))])

    assert "KeyError: 'b'; OSError: no disk" == describe_exception(inner)
    assert (
        "KeyError: 'b'; OSError: no disk; ValueError: 0; ValueError: 1; ValueError: 2; and 3 more"
        == describe_exception(many)
    )
