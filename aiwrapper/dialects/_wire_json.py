"""JSON from providers, read the same way by every dialect."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from aiwrapper._core.errors import ErrorKind, ModelCallError

T = TypeVar("T")

JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeEncodeError, RecursionError)
"""What msgspec raises for text that is no JSON: a lone surrogate and 100,000 brackets are bad input, too."""

_SHOWN_CHARACTERS = 200
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)

_ERROR_KINDS: Final[Mapping[str, ErrorKind]] = MappingProxyType(
    {
        "overloaded_error": "overloaded",
        "overloaded": "overloaded",
        "server_overloaded": "overloaded",
        "503": "overloaded",
        "529": "overloaded",
        "rate_limit_error": "rate_limit",
        "rate_limit_exceeded": "rate_limit",
        "429": "rate_limit",
        "authentication_error": "authentication",
        "invalid_api_key": "authentication",
        "401": "authentication",
    }
)
"""By an error's `type` or `code`, which some hosts make an HTTP status."""


def decode_broken(decoder: "msgspec.json.Decoder[T]", data: str, error: Exception) -> T:
    """The data of an event that failed to decode, once more without what some hosts break.

    Hosts that cut their text between the halves of a surrogate pair escape each half alone.

    Args:
        decoder: what has failed.
        data: the event's.
        error: one of `JSON_ERRORS`, with which it failed.

    Raises:
        ModelCallError: they are not what the dialect promises (kind `protocol`).
    """
    try:
        return decoder.decode(_without_lone_surrogates(data))
    except JSON_ERRORS:
        raise ModelCallError(
            f"the provider sent an event that is not of its dialect ({error}): {data[:_SHOWN_CHARACTERS]!r}",
            kind="protocol",
        ) from error


def _without_lone_surrogates(data: str) -> str:
    """JSON text whose escapes of lone surrogates are escapes of U+FFFD."""
    parts: list[str] = []
    end = 0  # of what has been taken
    high: re.Match[str] | None = None  # the escape just before, if it is a first half
    for escape in _ESCAPE.finditer(data):
        code = int(escape[1], 16) if escape[1] else 0
        paired = high is not None and high.end() == escape.start() and 0xDC00 <= code < 0xE000
        if high is not None and not paired:
            parts += (data[end : high.start()], "\\ufffd")
            end = high.end()
        if 0xDC00 <= code < 0xE000 and not paired:
            parts += (data[end : escape.start()], "\\ufffd")
            end = escape.end()
        high = escape if 0xD800 <= code < 0xDC00 else None
    if high is not None:
        parts += (data[end : high.start()], "\\ufffd")
        end = high.end()
    return "".join((*parts, data[end:]))


def error_message(value: Any) -> str:  # Any: whatever JSON a provider calls an error
    """The provider's words in what it says about an error; empty if there are none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, map(error_message, value)))
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "msg", "errors"):
            if message := error_message(value.get(key)):
                return message
    return ""


def stream_error(error: Any) -> ModelCallError:  # Any: as above
    """The error that a provider reports in its stream."""
    words = [str(error.get(key)) for key in ("type", "code")] if isinstance(error, dict) else []
    kinds = [_ERROR_KINDS[word] for word in words if word in _ERROR_KINDS]
    message = error_message(error) or "an error without words"
    return ModelCallError(f"the provider reported: {message}", kind=kinds[0] if kinds else "provider")


def response_error(body: bytes) -> str:
    """The provider's words in the body of an error response; never empty, and without its status, which others add."""
    try:
        message = error_message(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = ""
    if not message:
        text = body.decode("utf-8", "replace").strip()
        message = "" if text.startswith("<") else text  # a proxy's page of HTML says nothing to a person
    return message[:2_000] or "it gave no reason"


def json_object(text: str, what: str) -> dict[str, Any]:  # Any: JSON for somebody else
    """JSON text of an object that we ourselves are given.

    Raises:
        ValueError: it is none.
    """
    try:
        value = msgspec.json.decode(text)
    except JSON_ERRORS as error:
        raise ValueError(f"{what} is no JSON: {text[:_SHOWN_CHARACTERS]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{what} has to be a JSON object, not {text[:_SHOWN_CHARACTERS]!r}")
    return value
