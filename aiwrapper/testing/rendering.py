"""From a script's turn to a provider's bytes; pure, so a parser can be tested without a socket."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from aiwrapper.testing._anthropic import AnthropicProvider
from aiwrapper.testing._openai_chat import OpenAIChatProvider
from aiwrapper.testing._provider import Asked, Provider
from aiwrapper.testing.scripts import Turn

DialectName: TypeAlias = Literal["openai_chat", "anthropic"]
"""The dialects that there are fakes for."""

PROVIDERS: Mapping[DialectName, Provider] = MappingProxyType(
    {"openai_chat": OpenAIChatProvider(), "anthropic": AnthropicProvider()}
)
"""The server's side of each dialect; stateless."""

_PLAIN_REQUEST = Asked()


def render_events(turn: Turn, dialect: DialectName, asked: Asked = _PLAIN_REQUEST) -> Iterator[bytes]:
    """The server-sent events of a turn, lazily, so that a stream of a million events needs no memory.

    Args:
        turn: what the model says.
        dialect: whose bytes.
        asked: what of the request matters; without it, a request that asked for token counts.

    Returns:
        The bytes of one event after the other; joined, they are the body of the response.
    """
    return PROVIDERS[dialect].events(turn, asked)


def render(turn: Turn, dialect: DialectName, asked: Asked = _PLAIN_REQUEST) -> bytes:
    """The body of a turn: `render_events`, joined."""
    return b"".join(render_events(turn, dialect, asked))
