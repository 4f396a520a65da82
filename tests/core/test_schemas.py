"""JSON and types: what has no schema is refused, and what refers to itself has one."""

import socket

import attrs
import pytest

from aiwrapper._core.errors import InvalidArguments
from aiwrapper._core.schemas import read_json, result_text, schema_of


@attrs.define
class Tree:
    """A type that names itself within a list within a union."""

    name: str
    children: "list[Tree] | None" = None


@attrs.define
class Line:
    """Holds what JSON can't."""

    end: socket.socket


def test_a_recursive_type_is_on_top_and_among_its_own_definitions() -> None:
    schema = schema_of(Tree)

    assert "object" == schema["type"]
    assert schema["$defs"]["Tree"]["properties"] == schema["properties"]
    assert Tree("a", [Tree("b")]) == read_json('{"name": "a", "children": [{"name": "b"}]}', Tree)


@pytest.mark.parametrize("wanted", [socket.socket, Line])
def test_a_type_that_no_json_can_be_has_no_schema(wanted: type) -> None:
    with pytest.raises(TypeError, match=r"socket.* has no JSON Schema"):
        schema_of(wanted)


def test_json_is_not_read_into_what_it_cannot_be() -> None:
    with pytest.raises(InvalidArguments, match=r"socket.* cannot be read from JSON - at `\$.end`"):
        read_json('{"end": 3}', Line)


class Text(str):
    """A text of one's own kind."""


class Whole(int):
    """A number of one's own kind."""


class Measured(float):
    """Likewise."""


def test_values_of_ones_own_kind_are_given_to_the_model_as_what_they_are() -> None:
    assert "<b>" == result_text(Text("<b>"))
    assert '["<b>",3,0.5]' == result_text([Text("<b>"), Whole(3), Measured(0.5)])
