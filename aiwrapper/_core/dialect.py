"""What a wire protocol must be able to do for us.

The core calls it, so the core owns the protocol; `aiwrapper/dialects` fulfils it, one file each.
`encode` is total and pure: every settled conversation becomes a request which the dialect's own
`violations` finds nothing in (law L5), whoever produced the conversation. What is sent is never stored.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from attrs import field, frozen
from msgspec import Struct

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.messages import Producer, Usage
from aiwrapper._core.sse import ServerSentEvent
from aiwrapper._core.validity import Violation as Violation

JsonObject: TypeAlias = dict[str, Any]  # Any: JSON from or for somebody else, read only through checks


@frozen
class ToolSpec:
    """A tool as a model sees it. `parameters` is JSON text of a JSON Schema with `type: object` on top."""

    name: str
    description: str = field(kw_only=True)
    parameters: str = field(kw_only=True)


@frozen(kw_only=True)
class Options:
    """How to ask, besides the conversation.

    Args:
        producer: dialect, host and model; opaque payloads of any other producer stay at home (C8).
        instructions: the system prompt; empty for none.
        tools: the tools offered.
        max_output_tokens: None leaves it to the dialect's default.
        temperature: None leaves it to the provider.
        thinking_tokens: a budget for reasoning where the dialect takes one; None for off.
        extra: further fields of the request, JSON text of an object, for hosts that know more.
    """

    producer: Producer
    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int | None = None
    temperature: float | None = None
    thinking_tokens: int | None = None
    extra: str = "{}"


# The deltas are msgspec structs and no attrs classes: one is made for every token of an answer, and a frozen
# attrs value costs four to six times as much to make.


class TextPiece(Struct, frozen=True, gc=False):
    """More text."""

    text: str


class ReasoningPiece(Struct, frozen=True, gc=False):
    """More reasoning, as shown."""

    text: str


class ReasoningEnd(Struct, frozen=True, gc=False):
    """The reasoning block is whole; `payload` is JSON text to be kept byte for byte, if the provider gave one."""

    payload: str | None = None


class CallStart(Struct, frozen=True, gc=False):
    """A call begins; `key` is whatever the dialect tells its calls apart by, used once in a turn."""

    key: int
    name: str
    provider_id: str | None = None


class CallArguments(Struct, frozen=True, gc=False):
    """More of a call's arguments."""

    key: int
    text: str


class CallEnd(Struct, frozen=True, gc=False):
    """The provider has finished a call (never: the next one has begun)."""

    key: int
    payload: str | None = None


class UsageUpdate(Struct, frozen=True):
    """Token counts so far."""

    usage: Usage


class TurnEnd(Struct, frozen=True, gc=False):
    """The provider says that the turn is over, in its own word; nothing comes after it.

    Args:
        finish_reason: the provider's word.
        cut: the provider itself cut the turn (a token limit, a filter), so that a call which it has ended may
            be less than the model wanted to say.
    """

    finish_reason: str
    cut: bool = False


Delta: TypeAlias = (
    TextPiece | ReasoningPiece | ReasoningEnd | CallStart | CallArguments | CallEnd | UsageUpdate | TurnEnd
)


class TurnDecoder(Protocol):
    """One model turn, from server-sent events to deltas."""

    def decode(self, event: ServerSentEvent, /) -> Iterable[Delta]:
        """The deltas of one event; `TurnEnd` is the last of all, and the decoder is not asked again after it.

        Raises:
            ModelCallError: an error event (`provider`, `overloaded`, `rate_limit`), or data that the dialect
                does not know (`protocol`).
        """

    def end(self) -> Iterable[Delta]:
        """The body has ended: what was still held back, if the turn is whole.

        Raises:
            ModelCallError: the turn is not whole; kind `network`.
        """


class Dialect(Protocol):
    """A wire protocol: what is sent, what may be sent, what comes back."""

    @property
    def name(self) -> str:
        """Such as `openai_chat`."""

    def path(self, options: Options, /) -> str:
        """The path below the base URL that a request is posted to."""

    def headers(self, api_key: str | None, /) -> dict[str, str]:
        """The headers, with the key where the dialect wants it."""

    def encode(self, conversation: Conversation, options: Options, /) -> JsonObject:
        """The body of the request that asks for the next turn; streaming is always on."""

    def violations(self, body: JsonObject, /) -> list[Violation]:
        """Every wire rule that a request's body breaks, as the provider would judge it; [] if none."""

    def decode(self, messages: Sequence[JsonObject], /, *, producer: Producer | None = None) -> Conversation:
        """A provider's own history as a conversation, however broken; mends nothing, loses nothing it can hold.

        What the system says is no part of a conversation (see `Options.instructions`) and stays out.

        Args:
            messages: as the provider takes them.
            producer: who said what the assistant says. None if that is not known; then signed reasoning is kept
                and never sent to anybody (C8).

        Raises:
            BadLog: it is no list of JSON objects with roles of this dialect.
        """

    def decoder(self) -> TurnDecoder:
        """A fresh decoder for one turn."""

    def error(self, status: int, body: bytes, /) -> str:
        """The provider's own words in the body of an error response, for people; never empty."""
