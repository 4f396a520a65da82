"""What text has to be before it is kept: questions that several rooms ask, answered once."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

MAX_NESTING: Final = 100
"""How deep a call's arguments may be nested. Chosen by hand, far above what a tool's schema asks for.

Without a number of our own it would be the interpreter's stack that decides, and so the version of Python and
the depth of the caller: a log would not mean the same on every machine, and what could be read once could not
be sent the next time.
"""

_STRINGS_AND_BRACKETS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def well_formed(text: str) -> str:
    """The text as a `str`, with each lone surrogate replaced by U+FFFD; a pair that came in two halves is joined.

    No UTF-8 and therefore no request can hold a lone surrogate. They come from terminals that decode with
    `surrogateescape`, and from escapes such as a bare `\\ud83d` in somebody's JSON. msgspec
    writes no subclass of `str`, such as a string that is marked as safe HTML.
    """
    if type(text) is not str:
        text = str.__str__(text)  # what it holds, whatever its own methods say
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_blank(text: str) -> bool:
    """Whether there is nothing in it but white space: providers refuse such a part (C5)."""
    return not text or text.isspace()


def is_json_object(text: str) -> bool:
    """Whether it is the whole JSON text of an object, which is what a call's arguments have to be (C6).

    One that is nested deeper than `MAX_NESTING` is none.
    """
    try:
        return isinstance(msgspec.json.decode(text), dict) and not _is_nested_too_deeply(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        # A lone surrogate and 100,000 brackets are bad input like any other; a bare `]` is a DecodeError.
        return False


def _is_nested_too_deeply(text: str) -> bool:
    """Whether JSON text is nested deeper than `MAX_NESTING`."""
    if text.count("[") + text.count("{") <= MAX_NESTING:  # nearly always
        return False
    depth = 0
    for found in _STRINGS_AND_BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > MAX_NESTING:
                return True
        elif found[0] in ("]", "}"):
            depth -= 1
    return False


_MOST_OF_A_GROUP: Final = 5
"""How many exceptions of a group are described. Chosen by hand."""


def describe_exception(error: BaseException) -> str:
    """An exception in one line for a model or a person, whatever its `__str__` does; a group by what is in it."""
    if not isinstance(error, BaseExceptionGroup):
        return _describe(error)
    leaves = list(leaves_of(error))
    described = [_describe(leaf) for leaf in leaves[:_MOST_OF_A_GROUP]]
    if len(leaves) > _MOST_OF_A_GROUP:
        described.append(f"and {len(leaves) - _MOST_OF_A_GROUP} more")
    return "; ".join(described)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group and its groups, in their order; an exception that is none is all there is."""
    waiting = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseExceptionGroup):
            waiting.extend(reversed(found.exceptions))
        else:
            yield found


def _describe(error: BaseException) -> str:
    try:
        text = well_formed(str(error))
    except Exception as broken:
        text = f"its text cannot be shown: {type(broken).__name__}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
