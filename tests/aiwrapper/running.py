"""What the tests of runs, agents and drivers share: agents on fakes and recordings, and listeners that act."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, ParamSpec, Protocol, TypeVar

from aiwrapper import ChatAgent, Entry, Lang, RetryPolicy, Tool
from aiwrapper._core.conversation import Conversation
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.model_spec import ModelSpec
from aiwrapper.testing import DialectName, Say, Turn, render
from aiwrapper.testing.fakes import FakeProvider
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from aiwrapper.transport import HttpTransport, Transport

P = ParamSpec("P")
R = TypeVar("R")

DIALECTS: tuple[DialectName, ...] = ("openai_chat", "anthropic")
KEY = "sk-fake-0123456789abcdef"
AT_ONCE = RetryPolicy(first_wait_seconds=0.0, max_retry_after_seconds=0.0)

HELLO = Turn((Say(("Hel", "lo")),))


def said(*turns: Turn, dialect: DialectName = "openai_chat") -> RecordedTransport:
    """A model that says this, from memory."""
    return RecordedTransport([Recording((render(turn, dialect),)) for turn in turns])


def silent_after(
    text: bytes, turn: Turn = HELLO, *, dialect: DialectName = "openai_chat"
) -> tuple[Recording, Hold]:
    """The model falls silent after the event with this text."""
    body, hold = render(turn, dialect), Hold()
    place = body.index(b"\n\n", body.index(text)) + 2
    return Recording((body[:place], hold, body[place:])), hold


def lang_at(fake: FakeProvider, transport: Transport | None = None) -> Lang:
    """The model of a fake."""
    return lang(fake.dialect, fake.base_url, HttpTransport() if transport is None else transport)


def lang(dialect: DialectName, base_url: str, transport: Transport) -> Lang:
    make = Lang.openai_like if dialect == "openai_chat" else Lang.anthropic
    return make(base_url=base_url, model="fake-model", api_key=KEY, transport=transport, retry=AT_ONCE)


def recorded_agent(
    transport: RecordedTransport,
    tools: Iterable[Tool[..., object]] = (),
    *,
    dialect: DialectName = "openai_chat",
    tool_grace_seconds: float = 30.0,
    max_turns: int = 50,
) -> ChatAgent:
    """An agent that is answered from memory."""
    return ChatAgent(
        lang(dialect, "http://recorded/v1", transport),
        tools,
        tool_grace_seconds=tool_grace_seconds,
        max_turns=max_turns,
    )


class Spoken(Protocol):
    """Whatever has a model and tools."""

    lang: ModelSpec
    tools: Mapping[str, Tool[..., object]]


def violations(dialect: DialectName, agent: Spoken, conversation: Conversation) -> list[str]:
    """What a provider would refuse about the next request."""
    options = agent.lang.call("", agent.tools.values()).options
    spoken = OpenAIChat() if dialect == "openai_chat" else Anthropic()
    return [
        f"{found.rule} {found.where}" for found in spoken.violations(spoken.encode(conversation, options))
    ]


class Acting:
    """A subscriber that keeps the log, and does something at the entries that it waits for.

    Args:
        when: which entries.
        action: what.
    """

    def __init__(
        self, when: Callable[[Entry], bool] = lambda entry: False, action: Callable[[], object] = lambda: None
    ) -> None:
        self.log: list[Entry] = []
        self._when = when
        self._action = action

    def append(self, entry: Entry, /) -> None:
        self.log.append(entry)
        if self._when(entry):
            self._action()


class Background(Generic[R]):
    """A call in a thread of its own; what came of it is asked for once, and the thread is gone by then."""

    def __init__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> None:
        self._returned: list[R] = []
        self._thread = threading.Thread(target=lambda: self._returned.append(function(*args, **kwargs)))
        self._thread.start()

    def result(self) -> R:
        self._thread.join()
        return self._returned[0]
