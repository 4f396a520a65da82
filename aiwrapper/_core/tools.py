"""A tool: a plain function that a model may ask for, described by its own signature and docstring.

The signature is read once, when the tool is made: it becomes the JSON Schema that the model sees, and the
decoder that checks what the model sends. Both come from msgspec, so they cannot disagree. What a model sends is
checked strictly (`"3"` is no int), because the message that says so goes back to the model, which can do better.

A parameter annotated `CancelToken` is not for the model: whoever runs the tool passes a token there. It is found
by its annotation, never by its name, and known by its qualified name, because this package is below the token.
"""

import ast
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, Union, overload

import msgspec
from attrs import field, frozen

from aiwrapper._core.dialect import ToolSpec
from aiwrapper._core.errors import InvalidArguments as InvalidArguments
from aiwrapper._core.errors import ToolDenied as ToolDenied
from aiwrapper._core.schemas import decoded, object_of, schema_of, value_of

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

# The narrowest of what the providers' pages allow: OpenAI and Anthropic take 64 of these characters.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_SECTION = re.compile(r"[A-Z][a-z]+:\s*$")
_ARGUMENT = re.compile(r"\*{0,2}(?P<name>\w+)(?:\s*\([^)]*\))?:\s*(?P<text>.*)")


@frozen
class Tool(Generic[P, R]):
    """A function that a model may call; made by `tool`. It can still be called like the function it is made of.

    Args:
        name: what the model calls it.
        handler: the function.
        description: what the model reads about it.
        parameters: JSON text of the JSON Schema of its arguments, `type: object` on top.
        token_parameter: the parameter that is given a `CancelToken`; None if it has none.
        is_async: True for an `async def`.
        wraps_async: True for a `def` with an `async def` below it (`functools.wraps`): what it returns may have to be
            awaited, or it may have awaited it itself.
    """

    name: str
    handler: Callable[P, R]
    description: str = field(kw_only=True)
    parameters: str = field(kw_only=True)
    token_parameter: str | None = field(default=None, kw_only=True)
    is_async: bool = field(default=False, kw_only=True)
    wraps_async: bool = field(default=False, kw_only=True)
    _decoder: "msgspec.json.Decoder[Any]" = field(
        kw_only=True, repr=False, eq=False
    )  # a Struct made at run time

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, with Python's own arguments and without any check."""
        return self.handler(*args, **kwargs)

    @property
    def needs_loop(self) -> bool:
        """Whether calling it may give a coroutine."""
        return self.is_async or self.wraps_async

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        return ToolSpec(self.name, description=self.description, parameters=self.parameters)

    def arguments(self, text: str) -> dict[str, Any]:  # Any: each value has its parameter's own type
        """Read and check a model's arguments. What it left out is absent, so that Python's defaults apply.

        Args:
            text: JSON text of an object.

        Returns:
            Keyword arguments for `handler`, without its token.

        Raises:
            InvalidArguments: it is no such JSON, or does not fit the signature; the text says where.
        """
        values = decoded(self._decoder, text)
        return {
            name: value
            for name in values.__struct_fields__
            if (value := getattr(values, name)) is not msgspec.UNSET
        }


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a function a tool, as `@tool` or `@tool(name=..., description=...)`.

    The model is told the docstring (its `Args:` section parameter by parameter, if written in Google's style) and
    a JSON Schema of the annotations: whatever msgspec reads, which is the builtin types, dataclasses, attrs
    classes, TypedDicts, enums, `Literal`, `Annotated[int, msgspec.Meta(ge=0)]`; and pydantic models. A parameter
    without an annotation takes any JSON. attrs converters are not called; validators are.
    A parameter annotated `CancelToken` (also as a string, also `CancelToken | None`) gets a child of the run's token.

    Args:
        function: a function, a bound method or another callable; all its parameters must have names.
        name: what the model calls it; None for the function's name. Letters, digits, `_` and `-`, at most 64.
        description: None for the docstring.

    Raises:
        TypeError: the signature cannot be read, or says something that JSON cannot.
        ValueError: a name that providers refuse.
    """
    if function is None:
        return lambda function: _make(function, name, description)
    return _make(function, name, description)


def _make(function: Callable[P, R], name: str | None, description: str | None) -> Tool[P, R]:
    name = name or getattr(function, "__name__", None) or type(function).__name__
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a tool's name is 1 to 64 letters, digits, '_' or '-', not {name!r}: use tool(name=...)"
        )
    about, of_parameters = _read_docstring(inspect.getdoc(function) or "")
    fields: list[tuple[str, Any, Any]] = []  # Any: annotations are any type forms
    defaults: dict[str, object] = {}
    token_parameter: str | None = None
    for parameter in _parameters(function, name):
        annotation = _annotation(function, parameter, name)
        if annotation is _TOKEN:
            if token_parameter is not None:
                raise TypeError(f"tool {name!r} has two CancelToken parameters")
            token_parameter = parameter.name
            continue
        if parameter.name in of_parameters:
            annotation = Annotated[annotation, msgspec.Meta(description=of_parameters[parameter.name])]
        if parameter.default is parameter.empty:
            fields.append((parameter.name, annotation, msgspec.NODEFAULT))
        else:
            fields.append((parameter.name, Union[annotation, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
            defaults[parameter.name] = parameter.default
    schema, decoder = _schema_and_decoder(name, fields, defaults)
    called = _underlying(function)
    is_async = inspect.iscoroutinefunction(called)
    return Tool(
        name,
        function,
        description=about if description is None else description,
        parameters=schema,
        token_parameter=token_parameter,
        is_async=is_async,
        wraps_async=not is_async and inspect.iscoroutinefunction(inspect.unwrap(called)),
        decoder=decoder,
    )


def _parameters(function: Callable[..., object], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise TypeError(f"tool {name!r} has no signature that could be read") from error
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {name!r}: {str(parameter)!r} cannot be given by name, as a model gives it")
    if (
        parameters
        and parameters[0].name in ("self", "cls")
        and parameters[0].annotation is inspect.Parameter.empty
    ):
        raise TypeError(f"tool {name!r} is a method without its object: use tool(the_object.{name})")
    return parameters


class _TokenType:
    """The sentinel for the annotation that is not the model's."""


_TOKEN = _TokenType()


def _annotation(function: Callable[..., object], parameter: inspect.Parameter, name: str) -> Any:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if isinstance(annotation, str):
        try:
            annotation = _resolve(function, annotation)
        except Exception as error:
            # Imported for type checkers only, or local to a function: nothing but the words is left to go by.
            if _names_a_token(annotation):
                return _TOKEN
            raise TypeError(
                f"tool {name!r}: the annotation {annotation!r} of {parameter.name!r} cannot be resolved: {error}"
            ) from error
    return _TOKEN if _holds_a_token(annotation) else annotation


def _resolve(function: Callable[..., object], annotation: str) -> object:
    underlying = inspect.unwrap(_underlying(function))
    names: dict[str, object] = dict(getattr(underlying, "__globals__", {}))
    code: types.CodeType | None = getattr(underlying, "__code__", None)
    if code is not None:
        for variable, cell in zip(
            code.co_freevars, getattr(underlying, "__closure__", None) or (), strict=True
        ):
            names[variable] = cell.cell_contents
    holder = type("holder", (), {"__annotations__": {"it": annotation}, "__module__": __name__})
    return typing.get_type_hints(holder, globalns=names, localns={}, include_extras=True)["it"]


def _underlying(function: Callable[..., object]) -> Callable[..., object]:
    """The function whose globals and kind count, below partials, methods and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return typing.cast("Callable[..., object]", type(function).__call__)  # typeshed: a slot of `type`


def _holds_a_token(annotation: object) -> bool:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _holds_a_token(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(_holds_a_token(choice) for choice in typing.get_args(annotation))
    return isinstance(annotation, type) and any(
        base.__qualname__ == "CancelToken" and base.__module__.split(".")[0] == "cancel_token"
        for base in annotation.__mro__
    )


def _names_a_token(annotation: str) -> bool:
    try:
        tree = ast.parse(annotation, mode="eval")
    except SyntaxError:
        return False
    return any(
        (isinstance(node, ast.Name) and node.id == "CancelToken")
        or (isinstance(node, ast.Attribute) and node.attr == "CancelToken")
        for node in ast.walk(tree)
    )


def _schema_and_decoder(
    name: str, fields: list[tuple[str, Any, Any]], defaults: Mapping[str, object]
) -> tuple[str, "msgspec.json.Decoder[Any]"]:
    try:
        arguments = msgspec.defstruct("arguments", fields, kw_only=True, forbid_unknown_fields=True)
        decoder = msgspec.json.Decoder(arguments, dec_hook=object_of)
        schema = schema_of(arguments)
    except TypeError as error:
        raise TypeError(f"tool {name!r} has a parameter that JSON cannot be read into: {error}") from error
    del schema["title"]
    for parameter, default in defaults.items():
        try:
            schema["properties"][parameter]["default"] = msgspec.to_builtins(default, enc_hook=value_of)
        except (TypeError, ValueError, RecursionError):
            pass  # a default that is no JSON is Python's affair: the model only learns that it may leave it out
    return msgspec.json.encode(schema).decode(), decoder


def _read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """The description without its `Args:` section, and that section's entries."""
    kept: list[str] = []
    entries: dict[str, str] = {}
    name: str | None = None
    inside = False
    indent = 0
    for line in docstring.splitlines():
        if _SECTION.match(line):
            inside = line.strip() in ("Args:", "Arguments:", "Parameters:")
            indent, name = 0, None
            if inside:
                continue
        elif inside and line.strip() and not line[0].isspace():
            inside = False  # text at the margin again: the section is over
        if not inside:
            kept.append(line)
            continue
        depth = len(line) - len(line.lstrip())
        indent = indent or depth
        entry = _ARGUMENT.match(line.strip()) if depth == indent else None
        if entry:
            name = entry["name"]
            entries[name] = entry["text"]
        elif name is not None and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return "\n".join(kept).strip(), {name: text for name, text in entries.items() if text}
