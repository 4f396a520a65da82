"""What a conversation is made of.

All values are frozen: a message that is in a conversation never changes, so it needs no lock and no
copy, and "the history before the run is unchanged, object by object" (rule C10) can be tested with `is`.

Ids are ours. A provider's own ids are fields beside them, because some hosts repeat or omit theirs (C3).
An assistant message of run `r`, turn 2 is `r.2`, its calls are `r.2.0`, `r.2.1`, ..., the message with
their results is `r.2.results`; so the same log always gives the same conversation.

Text that goes to a provider is well-formed from the moment it is a value here: a lone surrogate, which no
request could hold, becomes U+FFFD.
"""

from typing import Literal, TypeAlias

from attrs import field, frozen

from aiwrapper._core.text import well_formed

ToolOutcome: TypeAlias = Literal[
    "returned",  # the handler returned; `content` is what it returned
    "raised",  # the handler raised; `content` says what, for the model to read
    "invalid_arguments",  # the arguments failed validation; the handler was not called
    "unknown_tool",  # no tool of this name was offered
    "denied",  # a person refused
    "not_started",  # the run ended before the handler was called
    "interrupted_running",  # the run ended while it ran: it may have partly executed
    "sibling_failed",  # given up because another call of the turn failed
]
"""What became of a tool call. The last four are synthetic: no handler returned (C7)."""


@frozen
class Producer:
    """Who produced something: an opaque payload is only ever sent back to its producer (C8)."""

    dialect: str
    host: str
    """The host name of the base URL."""
    model: str = field(kw_only=True)


@frozen
class Opaque:
    """A provider's payload that we keep byte for byte and do not look into: a signature, encrypted reasoning."""

    producer: Producer
    body: str = field(converter=well_formed)
    """JSON text; what it holds is the dialect's own affair."""


@frozen
class Text:
    """Plain text, never empty and never only white space in a settled conversation (C5)."""

    text: str = field(converter=well_formed)


@frozen
class Image:
    """An image.

    Args:
        media_type: such as `image/png`.
        data: base64 text.
    """

    media_type: str
    data: str


@frozen
class Reasoning:
    """What a model thought. `complete` and `opaque` decide whether it may be sent back (C8).

    Args:
        text: what may be shown; empty if the provider shows nothing.
        complete: False if the stream was cut inside it; such a part is for display only.
        opaque: the provider's payload for it, present only if it was received whole.
    """

    text: str = field(converter=well_formed)
    complete: bool = field(default=False, kw_only=True)
    opaque: Opaque | None = field(default=None, kw_only=True)


@frozen
class ToolCall:
    """A call that the provider has finished saying (C6).

    Args:
        id: ours, `run.turn.index`.
        name: the tool's name.
        arguments: the JSON text of an object, as received.
        provider_id: the provider's id for it, which may be missing or repeated.
        opaque: a payload that has to travel with the call (Gemini's thought signature).
    """

    id: str
    name: str = field(converter=well_formed)
    arguments: str = field(kw_only=True, converter=well_formed)
    provider_id: str | None = field(default=None, kw_only=True)
    opaque: Opaque | None = field(default=None, kw_only=True)


@frozen
class CutCall:
    """A call that was cut while its arguments arrived: shown, never executed, never sent (C6)."""

    name: str = field(converter=well_formed)
    arguments: str = field(converter=well_formed)


@frozen
class ToolResult:
    """The one answer to one call.

    Args:
        call_id: the `ToolCall.id` it answers.
        content: text for the model.
        outcome: what became of the call.
    """

    call_id: str
    content: str = field(converter=well_formed)
    outcome: ToolOutcome = field(default="returned", kw_only=True)


UserPart: TypeAlias = Text | Image
AssistantPart: TypeAlias = Text | Reasoning | ToolCall


@frozen
class UserMessage:
    """What the user said.

    Args:
        id: unique in the conversation.
        parts: at least one.
        parent_id: the message it follows; None for the first.
        synthetic: True if we wrote it (`continue_()`), not a person.
    """

    id: str
    parts: tuple[UserPart, ...]
    parent_id: str | None = field(default=None, kw_only=True)
    synthetic: bool = field(default=False, kw_only=True)


@frozen
class AssistantMessage:
    """One turn of the model.

    Args:
        id: `run.turn`.
        parts: in the order in which the provider began them.
        parent_id: the message it follows.
        producer: who said it.
        stopped: it was cut, by a stop, a failure or a crash (C12).
        cut_calls: calls whose arguments had not been finished, for display.
    """

    id: str
    parts: tuple[AssistantPart, ...]
    parent_id: str | None = field(default=None, kw_only=True)
    producer: Producer = field(kw_only=True)
    stopped: bool = field(default=False, kw_only=True)
    cut_calls: tuple[CutCall, ...] = field(default=(), kw_only=True)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls among the parts, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@frozen
class ToolMessage:
    """The results of all calls of the assistant message before it, in call order (C1, C4)."""

    id: str
    results: tuple[ToolResult, ...]
    parent_id: str | None = field(default=None, kw_only=True)


Message: TypeAlias = UserMessage | AssistantMessage | ToolMessage


@frozen(kw_only=True)
class Usage:
    """Tokens, as far as the provider has told; None means it has not.

    `complete` is False if the turn or run ended before the provider's final count: then the numbers
    are lower bounds (U1).
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    complete: bool = False

    def updated(self, later: "Usage") -> "Usage":
        """This turn's usage after a later report of the same turn: what the later one knows, wins."""
        return Usage(
            input_tokens=self.input_tokens if later.input_tokens is None else later.input_tokens,
            output_tokens=self.output_tokens if later.output_tokens is None else later.output_tokens,
            cached_input_tokens=(
                self.cached_input_tokens if later.cached_input_tokens is None else later.cached_input_tokens
            ),
            reasoning_tokens=self.reasoning_tokens
            if later.reasoning_tokens is None
            else later.reasoning_tokens,
            complete=later.complete,
        )

    def plus(self, other: "Usage") -> "Usage":
        """The sum over two turns; complete only if both are."""
        return Usage(
            input_tokens=_sum(self.input_tokens, other.input_tokens),
            output_tokens=_sum(self.output_tokens, other.output_tokens),
            cached_input_tokens=_sum(self.cached_input_tokens, other.cached_input_tokens),
            reasoning_tokens=_sum(self.reasoning_tokens, other.reasoning_tokens),
            complete=self.complete and other.complete,
        )


def _sum(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return a if b is None else b
    return a + b
