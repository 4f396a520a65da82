import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwrapper._core.text import MAX_NESTING, is_json_object

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
