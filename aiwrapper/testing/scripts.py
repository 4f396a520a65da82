"""What a fake provider says: scripts, as plain values without a wire.

A `Script` is a sequence of answers, one for each request: a `Turn` of the model, an `HttpError`, or `Raw`
bytes. Each carries a `Delivery` that says how its bytes travel: in how many writes, how fast, and where the
line dies. The values know no provider; `aiwrapper.testing.render` gives a turn each provider's own bytes.

Pieces are what one event of the stream carries. A piece may hold bytes that are no UTF-8, as Python's
`surrogateescape` writes them (`b"\\xc3".decode(errors="surrogateescape")`): the wire then carries these bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from attrs import field, frozen, validators

from aiwrapper._core.messages import Usage

Finish: TypeAlias = Literal[
    "natural",  # the provider's word for a whole answer, or for one with tool calls
    "length",  # the limit of output tokens was reached
    "filtered",  # the provider refused to go on
    "missing",  # the body ends cleanly, and the provider never said that the turn is over
]
"""How a turn ends."""

UsageAt: TypeAlias = Literal[
    "natural",  # where the provider puts it; OpenAI: after the finish reason, and only if it was asked for
    "with_finish",  # in the event that carries the finish reason, as several OpenAI-compatible hosts do
    "every_event",  # a running count in each event; Anthropic, which has no such thing: as "natural"
    "never",
]
"""Where a turn's token counts stand in the stream."""

StreamError: TypeAlias = Literal["server", "overloaded"]
"""An error event in mid-stream, after HTTP 200."""

Framing: TypeAlias = Literal[
    "chunked",  # as the providers do
    "length",  # a Content-Length
    "close",  # neither: the body ends where the connection does
]
"""How the end of a body is told."""


def _pieces(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"pieces are a sequence of texts, not one text: {value!r}")
    return tuple(value)


@frozen
class Say:
    """Visible text."""

    pieces: tuple[str, ...] = field(converter=_pieces)


@frozen
class Think:
    """Reasoning that may be shown.

    Args:
        pieces: what is shown of it.
        signature: what the provider signs it with, byte for byte, where the dialect has signatures;
            None for one that the fake makes from the text and knows again, "" for a block without.
    """

    pieces: tuple[str, ...] = field(converter=_pieces)
    signature: str | None = field(default=None, kw_only=True)


@frozen
class Redacted:
    """Reasoning that only its producer can read. Dialects that have no such thing leave it out."""

    data: str


@frozen
class Call:
    """A tool call.

    Args:
        name: the tool's name.
        pieces: the JSON text of the arguments, as it arrives.
        id: the provider's id for the call; None for one that the fake makes, "" for a host that sends none.
    """

    name: str
    pieces: tuple[str, ...] = field(converter=_pieces)
    id: str | None = field(default=None, kw_only=True)


Block: TypeAlias = Say | Think | Redacted | Call


@frozen
class Cut:
    """The line dies.

    Args:
        at_byte: how many bytes of the body are sent before; beyond its length: after the last one, but
            before the end of the body is told.
        how: `fin`, as a process that went away quietly (over TLS without its farewell), or `rst`, as one
            that was killed or a middlebox that forgot the connection.
    """

    at_byte: int = field(validator=validators.ge(0))
    how: Literal["fin", "rst"] = "rst"


@frozen(kw_only=True)
class Delivery:
    """How the bytes of an answer travel.

    Args:
        write_bytes: at most so many bytes of the body in one write; None for an event in one write.
        events_per_second: the pace, kept by the fake's own timer: an event that is late goes out together
            with the next. None for as fast as the peer reads.
        cut: where the line dies.
        framing: how the end of the body is told.
    """

    write_bytes: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    events_per_second: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    cut: Cut | None = None
    framing: Framing = "chunked"


PLAIN = Delivery()
"""Nothing special: each event in one write, as fast as the peer reads."""


@frozen
class Turn:
    """One turn of the model, answered with HTTP 200.

    Args:
        blocks: what it says, in order; at most one event for each piece.
        finish: how it ends.
        usage: the token counts; None for a provider that keeps them to itself.
        usage_at: where they stand.
        error: an error event after the last piece, before anything is closed; the body then ends.
        interleaved: the pieces of neighbouring calls alternate, as some OpenAI-compatible hosts do;
            Anthropic's blocks stand one after the other.
        delivery: how its bytes travel.
    """

    blocks: tuple[Block, ...] = field(converter=tuple[Block, ...])
    finish: Finish = field(default="natural", kw_only=True)
    usage: Usage | None = field(default=Usage(input_tokens=12, output_tokens=34, complete=True), kw_only=True)
    usage_at: UsageAt = field(default="natural", kw_only=True)
    error: StreamError | None = field(default=None, kw_only=True)
    interleaved: bool = field(default=False, kw_only=True)
    delivery: Delivery = field(default=PLAIN, kw_only=True)


@frozen
class HttpError:
    """An error instead of an answer, in the provider's own JSON.

    Args:
        status: such as 429, 500 or Anthropic's 529.
        retry_after: the header's value, seconds or an HTTP date; None for no such header.
        message: instead of the provider's usual words.
        delivery: how its bytes travel; without a word about it, with a Content-Length.
    """

    status: int = field(validator=[validators.ge(400), validators.lt(600)])
    retry_after: str | None = field(default=None, kw_only=True)
    message: str | None = field(default=None, kw_only=True)
    delivery: Delivery = field(default=Delivery(framing="length"), kw_only=True)


@frozen
class Raw:
    """Any bytes as a body: junk, a proxy's web page, a recorded stream.

    Args:
        body: as it is; for the pace it counts as one event per blank line.
        status: the HTTP status.
        content_type: what the header claims.
        delivery: how its bytes travel.
    """

    body: bytes
    status: int = field(default=200, kw_only=True)
    content_type: str = field(default="text/event-stream; charset=utf-8", kw_only=True)
    delivery: Delivery = field(default=PLAIN, kw_only=True)


Answer: TypeAlias = Turn | HttpError | Raw


@frozen
class Script:
    """What a fake answers, in order, one answer for each request that breaks no rule."""

    answers: tuple[Answer, ...] = field(converter=tuple[Answer, ...])

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)


DEFAULT_TURN = Turn((Say(("Hello", " from", " the", " fake", ".")),))
"""What a fake answers when its script has ended."""
