"""What text has to be before it is kept: three questions that several rooms ask, answered once."""

import msgspec


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; a pair that came in two halves is joined.

    No UTF-8 and therefore no request can hold a lone surrogate. They come from terminals that decode with
    `surrogateescape`, and from escapes such as a bare `\\ud83d` in somebody's JSON.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def is_blank(text: str) -> bool:
    """Whether there is nothing in it but white space: providers refuse such a part (C5)."""
    return not text or text.isspace()


def is_json_object(text: str) -> bool:
    """Whether it is the whole JSON text of an object, which is what a call's arguments have to be (C6)."""
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        # A lone surrogate and 100,000 brackets are bad input like any other; a bare `]` is a DecodeError.
        return False
