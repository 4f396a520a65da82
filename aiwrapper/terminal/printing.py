"""What may be printed of text from outside: from a model, a tool, a host."""

_CONTROL_CHARACTERS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
# These show text in another order than it has: a command would not be the one that a person says yes to.
_DIRECTION_CHARACTERS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def printable(text: str) -> str:
    """The text without the characters that steer a terminal."""
    return text.translate(_CONTROL_CHARACTERS | _DIRECTION_CHARACTERS)


def sentence(text: str) -> str:
    """The text with the mark at its end that another sentence can follow."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
