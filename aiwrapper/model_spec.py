"""A model to talk to: which, where, with which settings. An immutable value, shared by any number of agents."""

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import urlsplit

import msgspec
from attrs import Factory, field, frozen

from aiwrapper._core.dialect import Dialect, Options
from aiwrapper._core.log import UserMessageAdded
from aiwrapper._core.messages import Producer, Text, UserPart
from aiwrapper._core.text import is_blank, well_formed
from aiwrapper._core.tools import Tool
from aiwrapper._model_call import Host, ModelCall, RemoteHost, RetryPolicy
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.hosts import HOSTS
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.transport import HttpTransport, Transport

Said = str | Iterable[UserPart]
"""What a user says: text, or parts such as images."""


class Settings(TypedDict, total=False):
    """What every way to name a model takes besides."""

    transport: Transport
    retry: RetryPolicy
    max_output_tokens: int | None
    temperature: float | None
    thinking_tokens: int | None
    extra: Mapping[str, Any]  # Any: JSON for the host


def _host_name(spec: "ModelSpec") -> str:
    if isinstance(spec.host, RemoteHost):
        return urlsplit(spec.host.base_url).hostname or ""
    return "localhost"


@frozen(kw_only=True)
class ModelSpec:
    """A model, and how to ask it; use `Lang` in code that blocks, `AsyncLang` in tasks, either for an agent.

    Make one with `Lang.openai(...)` and its kin; vary one with `attrs.evolve`.

    Nothing is opened before the first request. Several threads may use it at once. The key is in no repr.

    Args:
        model: its name.
        dialect: the wire protocol it is spoken to in.
        host: where it is, and with which key.
        transport: the way there; HTTP if nothing else is given.
        retry: when to ask again.
        max_output_tokens: how long an answer may be; None leaves it to the dialect.
        temperature: None leaves it to the provider.
        thinking_tokens: a budget for reasoning, where the dialect takes one; None for off.
        extra: further fields of the request, for hosts that know more.
        host_name: by which opaque payloads know their producer (C8); taken from the host.
    """

    model: str
    dialect: Dialect
    host: Host
    transport: Transport = field(factory=HttpTransport, repr=False)
    retry: RetryPolicy = field(factory=RetryPolicy)
    max_output_tokens: int | None = None
    temperature: float | None = None
    thinking_tokens: int | None = None
    extra: Mapping[str, Any] = field(factory=dict)  # Any: JSON for the host
    host_name: str = Factory(_host_name, takes_self=True)

    @classmethod
    def openai_like(
        cls, *, base_url: str, model: str, api_key: str | None = None, **settings: Unpack[Settings]
    ) -> Self:
        """A model of any host that speaks OpenAI's chat completions.

        Args:
            base_url: up to and without `/chat/completions`, usually ending in `/v1`.
            model: its name there.
            api_key: None if the host asks for none.
            **settings: as for the class.

        Raises:
            ValueError: the URL or the key cannot be what it is meant to be.
        """
        # `max_tokens` is the older name of the field, which all but OpenAI itself know.
        dialect = OpenAIChat(max_tokens_field="max_tokens")
        return cls(model=model, dialect=dialect, host=RemoteHost(base_url, api_key), **settings)

    @classmethod
    def at(cls, host: str, *, model: str, api_key: str | None = None, **settings: Unpack[Settings]) -> Self:
        """A model of a host that we know by name: a key of `aiwrapper.dialects.hosts.HOSTS`.

        Raises:
            ValueError: there is no such host, or the key cannot be one.
        """
        known = HOSTS.get(host)
        if known is None:
            raise ValueError(
                f"unknown host {host!r}: use Lang.openai_like(base_url=...), or one of {', '.join(HOSTS)}"
            )
        return cls(model=model, dialect=known.dialect, host=RemoteHost(known.base_url, api_key), **settings)

    @classmethod
    def openai(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model of OpenAI."""
        return cls.at("openai", model=model, api_key=api_key, **settings)

    @classmethod
    def anthropic(
        cls, *, model: str, api_key: str, base_url: str | None = None, **settings: Unpack[Settings]
    ) -> Self:
        """A model of Anthropic, or of a host at `base_url` that speaks its protocol."""
        host = RemoteHost(HOSTS["anthropic"].base_url if base_url is None else base_url, api_key)
        return cls(model=model, dialect=Anthropic(), host=host, **settings)

    @classmethod
    def groq(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model of Groq."""
        return cls.at("groq", model=model, api_key=api_key, **settings)

    @classmethod
    def deepseek(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model of DeepSeek."""
        return cls.at("deepseek", model=model, api_key=api_key, **settings)

    @classmethod
    def mistral(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model of Mistral."""
        return cls.at("mistral", model=model, api_key=api_key, **settings)

    @classmethod
    def xai(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model of xAI."""
        return cls.at("xai", model=model, api_key=api_key, **settings)

    @classmethod
    def openrouter(cls, *, model: str, api_key: str, **settings: Unpack[Settings]) -> Self:
        """A model that OpenRouter finds a host for."""
        return cls.at("openrouter", model=model, api_key=api_key, **settings)

    @classmethod
    def ollama(cls, *, model: str, base_url: str | None = None, **settings: Unpack[Settings]) -> Self:
        """A model of an Ollama server, by default the one on this machine, through its OpenAI-compatible endpoint."""
        known = HOSTS["ollama"]
        host = RemoteHost(known.base_url if base_url is None else base_url)
        return cls(model=model, dialect=known.dialect, host=host, **settings)

    @classmethod
    def local(cls, host: Host, *, model: str = "local", **settings: Unpack[Settings]) -> Self:
        """A model on this machine that we start ourselves: an `aiwrapper.local.LocalModel`.

        It speaks OpenAI's chat completions. After a stop, the run ends when the model has come to rest.
        """
        return cls(model=model, dialect=OpenAIChat(max_tokens_field="max_tokens"), host=host, **settings)

    def call(self, instructions: str = "", tools: Iterable[Tool[..., object]] = ()) -> ModelCall:
        """How a driver asks this model."""
        options = Options(
            producer=Producer(self.dialect.name, self.host_name, model=self.model),
            instructions=well_formed(instructions),
            tools=tuple(tool.spec for tool in tools),
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            thinking_tokens=self.thinking_tokens,
            extra=msgspec.json.encode(dict(self.extra)).decode(),
        )
        return ModelCall(
            dialect=self.dialect, host=self.host, options=options, transport=self.transport, retry=self.retry
        )


def new_id() -> str:
    """A new id for a run or a message."""
    return secrets.token_hex(8)


def user_message(
    said: Said, *, message_id: str | None = None, parent_id: str | None = None
) -> UserMessageAdded:
    """The entry for what a user says.

    Raises:
        ValueError: there is nothing in it (C5).
    """
    parts: tuple[UserPart, ...] = (Text(said),) if isinstance(said, str) else tuple(said)
    parts = tuple(Text(well_formed(part.text)) if isinstance(part, Text) else part for part in parts)
    if not parts or any(isinstance(part, Text) and is_blank(part.text) for part in parts):
        raise ValueError("a message needs something other than white space in each of its parts")
    return UserMessageAdded(message_id or new_id(), parts, parent_id=parent_id, at=time.time())
