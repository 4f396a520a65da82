from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import typing
from typing import Annotated, Any, Literal, Optional, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from aiwrapper._core.schemas import result_text
from aiwrapper._core.text import describe_exception
from aiwrapper._core.tools import InvalidArguments, Tool, tool
from cancel_token import CancelToken

if typing.TYPE_CHECKING:
    from nowhere import Thing  # type: ignore[import-not-found]  # so that it cannot be resolved

    import cancel_token
    from cancel_token import CancelToken as OnlyForCheckers


def schema(made: Tool[..., object]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(made.parameters)
    return read


# the signature


def test_the_schema_is_an_object_and_says_what_may_be_left_out() -> None:
    @tool
    def search(query: str, limit: int = 10) -> str:
        return query * limit

    assert schema(search) == {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "default": 10}},
        "required": ["query"],
        "additionalProperties": False,
    }


def test_what_the_model_leaves_out_is_pythons_default() -> None:
    @tool
    def search(query: str, limit: int = 10) -> str:
        return query * limit

    assert search.arguments('{"query": "a"}') == {"query": "a"}


def test_a_default_that_is_no_json_is_not_shown_and_still_used() -> None:
    nothing = object()

    @tool
    def search(query: str = nothing) -> object:  # type: ignore[assignment]  # what the test is about
        return query

    assert schema(search)["properties"]["query"] == {"type": "string"}
    assert nothing is search(**search.arguments("{}"))


def test_a_tool_is_still_the_function() -> None:
    @tool
    def double(number: int) -> int:
        return 2 * number

    assert double(2) == 4


def test_a_function_without_parameters_takes_an_empty_object() -> None:
    @tool
    def now() -> str:
        return "now"

    assert schema(now) == {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    assert now.arguments("{}") == {}


@attrs.frozen
class Point:
    x: int
    y: int = attrs.field(default=0, validator=attrs.validators.ge(0))


@dataclasses.dataclass
class Box:
    corner: Point
    sides: list[float]


class Named(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    depth: int


class Outer(pydantic.BaseModel):
    inner: Inner


@tool
def everything(  # type: ignore[no-untyped-def]  # `bare` takes any JSON
    box: Box,
    named: Named,
    colour: Colour,
    unit: Literal["m", "km"],
    when: datetime.date,
    count: Annotated[int, msgspec.Meta(ge=1)],
    outer: Outer,
    anything: object,
    bare,
    maybe: Optional[str] = None,  # noqa: UP045  # as users write it
) -> str:
    return "done"


def test_classes_enums_literals_and_pydantic_models_are_read_into_objects() -> None:
    arguments = everything.arguments(
        '{"box": {"corner": {"x": 1}, "sides": [1, 2.5]}, "named": {"name": "n"}, "colour": "blue", "unit": "km",'
        ' "when": "2026-01-02", "count": 1, "outer": {"inner": {"depth": 3}}, "anything": [1], "bare": {"a": null}}'
    )

    assert {
        "box": Box(Point(1), [1.0, 2.5]),
        "named": {"name": "n"},
        "colour": Colour.BLUE,
        "unit": "km",
        "when": datetime.date(2026, 1, 2),
        "count": 1,
        "outer": Outer(inner=Inner(depth=3)),
        "anything": [1],
        "bare": {"a": None},
    } == arguments


def test_every_reference_of_a_schema_is_found_at_its_top() -> None:
    whole = schema(everything)
    found: set[str] = set()
    waiting: list[object] = [whole]
    while waiting:
        match waiting.pop():
            case {"$ref": str(reference)}:
                found.add(reference.removeprefix("#/$defs/"))
            case dict(part):
                waiting.extend(part.values())
            case list(part):
                waiting.extend(part)
            case _:
                pass

    assert whole["type"] == "object"
    assert {"Box", "Point", "Named", "Colour", "Inner"} == found
    assert found == set(whole["$defs"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": "3"}', "Expected `int`, got `str` - at `$.x`"),
        ("{}", "missing required field `x`"),
        ('{"x": 3, "z": 1}', "unknown field `z`"),
        ("[]", "Expected `object`, got `array`"),
        ('{"x": 3', "this is no JSON"),
        ("", "this is no JSON"),
        ('{"x": 3, "rest": ' + "[" * 100_000, "too deeply"),
        ('{"x": 3, "rest": "\ud800"}', "surrogate"),
        ('{"x": 3, "point": {"x": 1, "y": -1}}', "'y' must be >= 0"),
        ('{"x": 3, "inner": {"depth": "z"}}', "valid integer"),
        ('{"x": 3, "picky": {"n": 1}}', "KeyError"),
    ],
)
def test_arguments_that_do_not_fit_are_said_for_the_model(text: str, said: str) -> None:
    @attrs.frozen
    class Picky:
        n: int = attrs.field()

        @n.validator
        def refuse(self, attribute: object, value: int) -> None:
            raise KeyError(value)

    def move(x, rest=None, point=None, inner=None, picky=None):  # type: ignore[no-untyped-def]
        return x

    move.__annotations__ = {"x": int, "rest": Any, "point": Point, "inner": Inner, "picky": Picky}

    with pytest.raises(InvalidArguments, match=said.replace("$", r"\$").replace("`[", r"`\[")):
        tool(move).arguments(text)


def test_a_union_of_classes_that_json_cannot_tell_apart_is_refused_when_the_tool_is_made() -> None:
    def bad(value: Point | Box) -> None: ...

    with pytest.raises(TypeError, match="tool 'bad' has a parameter that JSON cannot be read into"):
        tool(bad)


def test_a_type_that_json_does_not_know_is_refused_when_the_tool_is_made() -> None:
    def bad(value: Tool[..., object] | threading_lock) -> None: ...

    class threading_lock: ...  # noqa: N801  # only its being unknown matters

    with pytest.raises(TypeError, match="bad"):
        tool(bad)


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    def bad(value: Thing) -> None: ...

    with pytest.raises(TypeError, match="annotation 'Thing' of 'value' cannot be resolved"):
        tool(bad)


def test_parameters_that_cannot_be_given_by_name_are_refused() -> None:
    def positional(a: int, /) -> None: ...
    def many(*numbers: int) -> None: ...
    def named(**words: str) -> None: ...

    for function in (positional, many, named):
        with pytest.raises(TypeError, match="cannot be given by name"):
            tool(function)


def test_a_method_without_its_object_is_refused_and_a_bound_one_works() -> None:
    class Shelf:
        def find(self, title: str) -> str:
            """Find a book."""
            return f"found {title}"

    with pytest.raises(TypeError, match=r"use tool\(the_object\.find\)"):
        tool(Shelf.find)
    found = tool(Shelf().find)

    assert list(schema(found)["properties"]) == ["title"]
    assert found.handler(**found.arguments('{"title": "x"}')) == "found x"


def test_partials_and_callable_objects_are_tools_too() -> None:
    class Adder:
        def __call__(self, number: int) -> int:
            return number + 1

    def add(a: int, b: int) -> int:
        return a + b

    assert tool(Adder()).handler(**tool(Adder()).arguments('{"number": 2}')) == 3
    assert list(schema(tool(name="add_two")(functools.partial(add, b=2)))["properties"]) == ["a", "b"]


def test_a_builtin_without_a_signature_is_refused() -> None:
    with pytest.raises(TypeError, match="no signature"):
        tool(iter)


@pytest.mark.parametrize("name", ["", "two words", "dot.ted", "x" * 65, "ümlaut"])
def test_a_name_that_providers_refuse_is_refused_when_the_tool_is_made(name: str) -> None:
    def fine() -> None: ...

    with pytest.raises(ValueError, match="name") if name else pytest.raises(ValueError, match="lambda"):
        tool(name=name)(fine) if name else tool(lambda: None)


def test_an_async_function_is_known_as_one() -> None:
    @tool
    async def later() -> str:
        return "later"

    class Later:
        async def __call__(self) -> str:
            return "later"

    assert later.is_async
    assert tool(Later()).is_async
    assert not everything.is_async
    assert not everything.needs_loop


def test_what_is_called_says_whether_it_is_async_and_not_what_it_wraps() -> None:
    def now() -> str:
        return "now"

    async def later() -> str:
        return "later"

    @functools.wraps(now)
    async def made_async() -> str:
        return now()

    @functools.wraps(later)
    def made_blocking() -> str:
        return asyncio.run(later())

    assert tool(made_async).is_async
    assert not tool(made_blocking).is_async
    assert tool(made_blocking).wraps_async
    assert tool(made_blocking).needs_loop


# the token


def takes_class(a: int, *, stop: CancelToken) -> None: ...
def takes_optional(a: int, stop: CancelToken | None = None) -> None: ...
def takes_annotated(a: int, stop: Annotated[CancelToken, "the run's"]) -> None: ...
def takes_unresolved(a: int, stop: OnlyForCheckers) -> None: ...
def takes_dotted(a: int, stop: cancel_token.CancelToken) -> None: ...


@pytest.mark.parametrize("function", [takes_class, takes_optional, takes_annotated, takes_dotted])
def test_the_token_is_found_by_its_annotation_and_kept_from_the_model(function: Any) -> None:
    made = tool(function)

    assert made.token_parameter == "stop"
    assert list(schema(made)["properties"]) == ["a"]


def test_an_annotation_that_is_a_class_and_no_text_is_known_too() -> None:
    def read(page: str, stop: object) -> None: ...

    read.__annotations__ = {"page": str, "stop": CancelToken}

    assert tool(read).token_parameter == "stop"


def test_a_parameter_named_token_is_the_models_if_it_is_no_cancel_token() -> None:
    @tool
    def log_in(token: str) -> str:
        return token

    assert log_in.token_parameter is None
    assert list(schema(log_in)["properties"]) == ["token"]


def test_another_class_of_the_same_name_is_no_token() -> None:
    @attrs.frozen
    class CancelToken:
        text: str

    @tool
    def redeem(coupon: CancelToken) -> str:
        return coupon.text

    # the name is free in the function's closure only if the function uses it: here it does not, so the module's
    # `CancelToken` is what the annotation means, as it is to Python itself
    assert redeem.token_parameter == "coupon"

    def redeem_too(coupon: CancelToken) -> type:
        return CancelToken

    assert tool(redeem_too).token_parameter is None


def test_a_subclass_of_the_token_is_a_token() -> None:
    class Mine(CancelToken): ...

    def read(stop: object) -> None: ...

    read.__annotations__ = {"stop": Mine}

    assert tool(read).token_parameter == "stop"


def test_an_alias_that_only_the_type_checker_knows_is_refused_with_its_name() -> None:
    with pytest.raises(TypeError, match="OnlyForCheckers"):
        tool(takes_unresolved)


def test_two_token_parameters_are_refused() -> None:
    def bad(a: CancelToken, b: CancelToken) -> None: ...

    with pytest.raises(TypeError, match="two CancelToken"):
        tool(bad)


# the docstring


def test_the_docstring_is_the_description_and_its_args_are_the_parameters() -> None:
    @tool
    def find(query: str, limit: int = 3, *, stop: CancelToken) -> str:
        """Find pages.

        Looks everywhere.

        Args:
            query: what to look for,
                in any language.
            limit (int): how many.
            stop: not for the model.

        Returns:
            Titles, one a line.
        """
        return query

    assert find.description == "Find pages.\n\nLooks everywhere.\n\nReturns:\n    Titles, one a line."
    properties = schema(find)["properties"]
    assert properties["query"]["description"] == "what to look for, in any language."
    assert properties["limit"]["description"] == "how many."
    assert "not for the model" not in find.parameters


def test_a_given_name_and_description_win() -> None:
    @tool(name="other", description="Does it.")
    def one() -> None:
        """Do something else."""

    assert (one.name, one.spec.description) == ("other", "Does it.")


def test_no_docstring_is_no_description() -> None:
    def silent() -> None: ...

    assert tool(silent).description == ""


# the result


def looped() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ("half \ud800", "half \ufffd"),
        (None, "null"),
        (3, "3"),
        ({"a": [1, True]}, '{"a":[1,true]}'),
        (Point(1), '{"x":1,"y":0}'),
        (Box(Point(1), []), '{"corner":{"x":1,"y":0},"sides":[]}'),
        (Inner(depth=1), '{"depth":1}'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Colour.RED, '"red"'),
    ],
)
def test_what_a_tool_returns_becomes_text(value: object, text: str) -> None:
    assert text == result_text(value)


@pytest.mark.parametrize("value", [object(), {("a",): 1}, looped(), {"a": "\ud800"}])
def test_what_cannot_be_json_is_named_by_its_type(value: object) -> None:
    with pytest.raises(TypeError, match=f"'{type(value).__name__}' cannot be given as JSON"):
        result_text(value)


def test_an_exception_is_described_whatever_its_str_does() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert describe_exception(ValueError("no")) == "ValueError: no"
    assert describe_exception(ValueError()) == "ValueError"
    assert describe_exception(Rude()) == "Rude: its text cannot be shown: ValueError"
