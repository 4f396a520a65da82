"""JSON and Python's types: the schema of a type, reading JSON into it, and JSON of a value.

msgspec does all three, so they cannot disagree. It is strict (`"3"` is no int), because what a model sends goes back to
it with the reason why it does not fit.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from aiwrapper._core.dialect import JsonObject
from aiwrapper._core.errors import InvalidArguments
from aiwrapper._core.text import describe_exception, well_formed

T = TypeVar("T")


def read_json(text: str, wanted: type[T]) -> T:
    """Read JSON into a type, strictly.

    Raises:
        InvalidArguments: it is no such JSON; the text says where, for the model that wrote it. Also for a type that no
            JSON can be: ask `schema_of` first.
        TypeError: there can be no decoder for the type.
    """
    value: T = decoded(msgspec.json.Decoder(wanted, dec_hook=object_of), text)
    return value


def decoded(decoder: "msgspec.json.Decoder[Any]", text: str) -> Any:
    """What a decoder reads.

    Raises:
        InvalidArguments: it is no such JSON; the text says where.
    """
    try:
        return decoder.decode(text)
    except RecursionError:
        raise InvalidArguments("the JSON is nested too deeply") from None
    except UnicodeEncodeError:
        raise InvalidArguments("the JSON holds half a surrogate pair, which is no text") from None
    except msgspec.ValidationError as error:
        raise InvalidArguments(str(error)) from error
    except msgspec.DecodeError as error:
        raise InvalidArguments(f"this is no JSON: {error}") from error
    except Exception as error:  # a validator of the user's own types
        raise InvalidArguments(describe_exception(error)) from error


def result_text(value: object) -> str:
    """What a tool returned, as text for the model: a string as it is, everything else as JSON.

    Raises:
        TypeError: it cannot be JSON; says of which type it is.
    """
    if isinstance(value, str):
        return well_formed(value)
    try:
        return msgspec.json.encode(value, enc_hook=value_of).decode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise TypeError(f"{type(value).__name__!r} cannot be given as JSON: {error}") from error
    except Exception as error:  # of the value's own methods
        raise TypeError(
            f"{type(value).__name__!r} cannot be given as JSON: {describe_exception(error)}"
        ) from error


def schema_of(wanted: Any) -> JsonObject:
    """The JSON Schema of a type, itself on top and not behind a `$ref`: Anthropic wants `type: object` there.

    Raises:
        TypeError: JSON cannot be read into the type.
    """
    (schema,), components = msgspec.json.schema_components(
        (wanted,), ref_template="#/$defs/{name}", schema_hook=_pydantic_schema
    )
    top = schema.get("$ref", "").removeprefix("#/$defs/")
    if top:
        schema = components[top] if _refers_to(components, top) else components.pop(top)
    if components:
        schema = {**schema, "$defs": components}
    return _without_nested_definitions(schema)


def _refers_to(part: object, name: str) -> bool:
    """Whether a schema is recursive: then it has to stay among the definitions as well."""
    waiting = [part]
    while waiting:
        match waiting.pop():
            case dict(found):
                if found.get("$ref") == f"#/$defs/{name}":
                    return True
                waiting.extend(found.values())
            case list(found):
                waiting.extend(found)
            case _:
                pass
    return False


def _without_nested_definitions(schema: JsonObject) -> JsonObject:
    """Move the `$defs` of pydantic's schemas to the top, where their `$ref`s look for them."""
    definitions: JsonObject = schema.pop("$defs", {})
    waiting: list[object] = [schema, *definitions.values()]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for key, nested in part.pop("$defs", {}).items():
                definitions.setdefault(key, nested)
                waiting.append(nested)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return {**schema, "$defs": definitions} if definitions else schema


# Pydantic models are known by what they can do: they need no import of pydantic here.


def object_of(wanted: Any, value: object) -> object:
    if wanted is object:
        return value
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)
    raise TypeError(f"{wanted!r} cannot be read from JSON")


def _pydantic_schema(wanted: Any) -> JsonObject:
    if wanted is object:
        return {"description": "any JSON"}  # msgspec takes an empty schema for none
    if hasattr(wanted, "model_json_schema"):
        schema: JsonObject = wanted.model_json_schema()
        return schema
    raise TypeError(f"{wanted!r} has no JSON Schema")


# msgspec takes none of their subclasses, such as a string that is marked as safe HTML, or numpy's numbers.
_PLAIN: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)


def value_of(value: Any) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    for plain, exactly in _PLAIN:
        if isinstance(value, plain):
            return exactly(value)
    raise TypeError(f"{type(value).__name__!r} is no JSON")
