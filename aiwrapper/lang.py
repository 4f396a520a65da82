"""A model to talk to: which, where, with which settings. An immutable value, shared by any number of agents."""

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

import msgspec
from attrs import Factory, field, frozen

from aiwrapper._core.conversation import Conversation, State
from aiwrapper._core.dialect import Dialect, Options
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import Sink, UserMessageAdded
from aiwrapper._core.messages import Producer, Text, UserPart
from aiwrapper._core.text import is_blank, well_formed
from aiwrapper._core.tools import InvalidArguments, Tool, read_json, schema_of
from aiwrapper._model_call import Host, ModelCall, RemoteHost, RetryPolicy
from aiwrapper._run import Run, RunResult
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.hosts import HOSTS
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.drivers._tool_threads import ToolThreads
from aiwrapper.drivers.threads import complete
from aiwrapper.transport import HttpTransport, Transport
from cancel_token import CancelToken

T = TypeVar("T")

Said = str | Iterable[UserPart]
"""What a user says: text, or parts such as images."""


class Settings(TypedDict, total=False):
    """What every way to make a `Lang` takes besides."""

    transport: Transport
    retry: RetryPolicy
    max_output_tokens: int | None
    temperature: float | None
    thinking_tokens: int | None
    extra: Mapping[str, Any]  # Any: JSON for the host


def _host_name(lang: "Lang") -> str:
    if isinstance(lang.host, RemoteHost):
        return urlsplit(lang.host.base_url).hostname or ""
    return "localhost"


@frozen(kw_only=True)
class Lang:
    """A model, and how to ask it. Make one with `Lang.openai(...)` and its kin; vary one with `attrs.evolve`.

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
            **settings: as for `Lang`.

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

    def ask(
        self,
        said: Said,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Ask one question without a conversation before it. Blocks until it is answered or stopped.

        Args:
            said: the question.
            instructions: the system prompt.
            token: stops it; a stop is a result, not an exception.
            subscribers: told of every entry.

        Returns:
            The result; its `conversation` can be gone on with.

        Raises:
            ModelCallError: the model could not be asked, or its answer broke off.
            ValueError: there is nothing in the question.
        """
        return self._turn(Conversation(), user_message(said), instructions, token, subscribers)

    def chat(
        self,
        conversation: Conversation,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Get the model's answer to a conversation that ends with what a user said, without tools. Blocks.

        Args:
            conversation: what was said; `result.conversation` is it with the answer.
            instructions: the system prompt.
            token: stops it; a stop is a result, not an exception.
            subscribers: told of every entry.

        Raises:
            ModelCallError: the model could not be asked, or its answer broke off.
            ValueError: the conversation is empty.
        """
        if conversation.head is None:
            raise ValueError("there is nothing in the conversation that could be answered")
        return self._turn(conversation, None, instructions, token, subscribers)

    def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> "ObjectResult[T]":
        """Ask for a value of a type. What does not fit is shown to the model with the reason, and it may try again.

        Args:
            said: the question.
            wanted: a type that msgspec reads, such as a dataclass or an attrs class; or a pydantic model.
            instructions: the system prompt; the schema is added to it.
            token: stops it; then `value` is None.
            max_attempts: how often the model may try.

        Raises:
            ModelCallError: the model could not be asked; or nothing that it said fits (kind `protocol`).
            TypeError: JSON cannot be read into the type.
            ValueError: there is nothing in the question, or no attempt is allowed.
        """
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts!r}")
        schema = msgspec.json.encode(schema_of(wanted)).decode()
        system = f"{instructions}\n\n{_AS_JSON}\n{schema}".strip()
        conversation, message = Conversation(), user_message(said)
        for _ in range(max_attempts):
            result = self._turn(conversation, message, system, token, ())
            if result.stop is not None:
                return ObjectResult(None, result)
            try:
                return ObjectResult(read_json(_json_part(result.text), wanted), result)
            except InvalidArguments as error:
                problem = error
            conversation, message = result.conversation, user_message(_TRY_AGAIN.format(problem))
        raise ModelCallError(
            f"the model {self.model!r} did not give the JSON that was asked for in {max_attempts} attempts: {problem}",
            kind="protocol",
        )

    def _turn(
        self,
        conversation: Conversation,
        message: UserMessageAdded | None,
        instructions: str,
        token: CancelToken | None,
        subscribers: Iterable[Sink],
    ) -> RunResult:
        run = Run(
            State(conversation),
            new_id(),
            user_message=message,
            token=CancelToken.never() if token is None else token,
            max_turns=1,
            sink=None,
            subscribers=subscribers,
            now=time.time,
            settled=_nobody,
        )
        result = complete(run, self.call(instructions), ToolThreads({}))
        if result.status == "failed":
            assert result.error is not None
            raise result.error
        return result


@frozen
class ObjectResult(Generic[T]):
    """What became of `Lang.ask_for_object`.

    Args:
        value: the object; None if it was stopped.
        result: the run of the last attempt; its conversation holds all of them.
    """

    value: T | None
    result: RunResult


_AS_JSON = (
    "Answer with one JSON value that satisfies this JSON Schema, without explanation and without code fence:"
)
_TRY_AGAIN = "That does not fit: {}. Answer again with the corrected JSON value and nothing else."
_FENCED = re.compile(r"```(?:json)?\s*\n(?P<inside>.*?)\n\s*```", re.DOTALL)


def _json_part(text: str) -> str:
    """The answer without the code fence that models put around JSON although they were asked not to."""
    fenced = _FENCED.search(text)
    return text if fenced is None else fenced["inside"]


def _nobody(run: Run) -> None:
    """Nobody waits for this run but its caller."""


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
