"""One face for agents in threads, on trio and on asyncio, so that a test of a run is one test with three ids.

An async agent is driven by a loop for each call, in the thread that makes the call, and iterated through a portal.
What differs between the worlds then differs in a failing id, and not in somebody's opinion.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Literal, Protocol, TypedDict, TypeVar, Unpack

import anyio
import attrs
from anyio.from_thread import start_blocking_portal

from aiwrapper import (
    AsyncChatAgent,
    AsyncLang,
    AsyncRunHandle,
    Budget,
    CancelReason,
    CancelToken,
    ChatAgent,
    Entry,
    Lang,
    ObjectResult,
    RunResult,
    Sink,
    StopMode,
    StopReceipt,
    Tool,
)
from aiwrapper._core.conversation import Conversation
from aiwrapper.model_spec import ModelSpec, Said
from aiwrapper.testing import DialectName
from aiwrapper.testing.recorded import RecordedTransport
from tests.aiwrapper.running import lang

T = TypeVar("T")

WorldName = Literal["threads", "trio", "asyncio"]
WORLDS: tuple[WorldName, ...] = ("threads", "trio", "asyncio")

Tools = Iterable[Tool[..., object] | Callable[..., object]]


class How(TypedDict, total=False):
    """What every way to have an answer takes."""

    token: CancelToken | None
    conversation: Conversation | None
    sink: Sink | None
    subscribers: Iterable[Sink]


class Question(TypedDict, total=False):
    """What every question without an agent takes."""

    instructions: str
    token: CancelToken | None
    subscribers: Iterable[Sink]


class HandleFace(Protocol):
    """What is asked of a run that was started."""

    @property
    def run_id(self) -> str: ...
    @property
    def ended(self) -> bool: ...
    @property
    def stop_mode(self) -> StopMode | None: ...
    def stop(self, reason: str | CancelReason = ..., *, mode: StopMode = ...) -> StopReceipt: ...
    def wait(self) -> RunResult: ...
    def __iter__(self) -> Iterator[Entry]: ...


class AgentFace(Protocol):
    """What is asked of an agent."""

    lang: ModelSpec
    tools: Mapping[str, Tool[..., object]]
    budget: Budget | None

    @property
    def conversation(self) -> Conversation: ...
    @property
    def busy(self) -> bool: ...
    @property
    def last_result(self) -> RunResult | None: ...
    def run(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> RunResult: ...
    def stream(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> Generator[Entry, None, None]: ...
    def continue_(
        self,
        **how: Unpack[How],
    ) -> RunResult: ...
    def start(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> HandleFace: ...
    def as_tool(
        self, name: str, description: str, *, started: Callable[[HandleFace], object] | None = None
    ) -> Tool[..., object]: ...


@attrs.frozen
class LoopHandle:
    """An `AsyncRunHandle`, asked by code that blocks."""

    handle: AsyncRunHandle
    runtime: str

    @property
    def run_id(self) -> str:
        return self.handle.run_id

    @property
    def ended(self) -> bool:
        return self.handle.ended

    @property
    def stop_mode(self) -> StopMode | None:
        return self.handle.stop_mode

    def stop(
        self, reason: str | CancelReason = "the run was stopped", *, mode: StopMode = "now"
    ) -> StopReceipt:
        return self.handle.stop(reason, mode=mode)

    def wait(self) -> RunResult:
        return anyio.run(self.handle.wait, backend=self.runtime)

    def __iter__(self) -> Iterator[Entry]:
        with start_blocking_portal(self.runtime) as portal:
            entries = self.handle.__aiter__()
            while True:
                try:
                    entry = portal.call(entries.__anext__)
                except StopAsyncIteration:
                    return
                yield entry


class LoopAgent:
    """An `AsyncChatAgent`, asked by code that blocks."""

    def __init__(self, agent: AsyncChatAgent, runtime: str) -> None:
        self.agent = agent
        self.lang = agent.lang
        self.tools = agent.tools
        self._runtime = runtime

    @property
    def budget(self) -> Budget | None:
        return self.agent.budget

    @budget.setter
    def budget(self, budget: Budget | None) -> None:
        self.agent.budget = budget

    @property
    def conversation(self) -> Conversation:
        return self.agent.conversation

    @property
    def busy(self) -> bool:
        return self.agent.busy

    @property
    def last_result(self) -> RunResult | None:
        return self.agent.last_result

    def run(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> RunResult:
        run = partial(self.agent.run, said, **how)
        return anyio.run(run, backend=self._runtime)

    def stream(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> Generator[Entry, None, None]:
        entries = self.agent.stream(said, **how)

        def blocking() -> Generator[Entry, None, None]:
            with start_blocking_portal(self._runtime) as portal:
                try:
                    while True:
                        try:
                            entry = portal.call(entries.__anext__)
                        except StopAsyncIteration:
                            return
                        yield entry
                finally:
                    portal.call(entries.aclose)

        return blocking()

    def continue_(
        self,
        **how: Unpack[How],
    ) -> RunResult:
        go_on = partial(self.agent.continue_, **how)
        return anyio.run(go_on, backend=self._runtime)

    def start(
        self,
        said: Said,
        **how: Unpack[How],
    ) -> LoopHandle:
        start = partial(self.agent.start, said, **how)
        if any(tool.needs_loop for tool in self.tools.values()):
            return LoopHandle(self._start_in_a_loop(start), self._runtime)
        return LoopHandle(start(), self._runtime)

    def _start_in_a_loop(self, start: Callable[[], AsyncRunHandle]) -> AsyncRunHandle:
        """Start a run in a loop that lives as long as the run, because the tools need it."""
        started: SimpleQueue[AsyncRunHandle] = SimpleQueue()

        async def live() -> None:
            handle = start()
            started.put(handle)
            await handle.wait()

        threading.Thread(target=partial(anyio.run, live, backend=self._runtime), daemon=True).start()
        return started.get()

    def as_tool(
        self, name: str, description: str, *, started: Callable[[HandleFace], object] | None = None
    ) -> Tool[..., object]:
        if started is None:
            return self.agent.as_tool(name, description)
        return self.agent.as_tool(
            name, description, started=lambda handle: started(LoopHandle(handle, self._runtime))
        )


class LangFace(Protocol):
    """What is asked of a model without an agent."""

    def ask(
        self,
        said: Said,
        **how: Unpack[Question],
    ) -> RunResult: ...
    def chat(
        self,
        conversation: Conversation,
        **how: Unpack[Question],
    ) -> RunResult: ...
    def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> ObjectResult[T]: ...


@attrs.frozen
class LoopLang:
    """An `AsyncLang`, asked by code that blocks."""

    lang: AsyncLang
    runtime: str

    def ask(
        self,
        said: Said,
        **how: Unpack[Question],
    ) -> RunResult:
        ask = partial(self.lang.ask, said, **how)
        return anyio.run(ask, backend=self.runtime)

    def chat(
        self,
        conversation: Conversation,
        **how: Unpack[Question],
    ) -> RunResult:
        chat = partial(self.lang.chat, conversation, **how)
        return anyio.run(chat, backend=self.runtime)

    def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> ObjectResult[T]:
        async def ask() -> ObjectResult[T]:
            return await self.lang.ask_for_object(
                said, wanted, instructions=instructions, token=token, max_attempts=max_attempts
            )

        return anyio.run(ask, backend=self.runtime)


@attrs.frozen
class World:
    """Where runs are waited for."""

    name: WorldName

    def lang(self, lang: Lang) -> LangFace:
        """The same model, asked in this world."""
        if self.name == "threads":
            return lang
        fields = {field.name: getattr(lang, field.name) for field in attrs.fields(Lang)}
        return LoopLang(AsyncLang(**fields), self.name)

    def agent(
        self,
        lang: ModelSpec,
        tools: Tools = (),
        *,
        instructions: str = "",
        conversation: Conversation | None = None,
        max_turns: int = 50,
        budget: Budget | None = None,
        tool_grace_seconds: float = 30.0,
    ) -> AgentFace:
        if self.name == "threads":
            return ChatAgent(
                lang,
                tools,
                instructions=instructions,
                conversation=conversation,
                max_turns=max_turns,
                budget=budget,
                tool_grace_seconds=tool_grace_seconds,
            )
        agent = AsyncChatAgent(
            lang,
            tools,
            instructions=instructions,
            conversation=conversation,
            max_turns=max_turns,
            budget=budget,
            tool_grace_seconds=tool_grace_seconds,
        )
        return LoopAgent(agent, self.name)

    def recorded_agent(
        self,
        transport: RecordedTransport,
        tools: Tools = (),
        *,
        dialect: DialectName = "openai_chat",
        tool_grace_seconds: float = 30.0,
        max_turns: int = 50,
        budget: Budget | None = None,
    ) -> AgentFace:
        """An agent that is answered from memory."""
        return self.agent(
            lang(dialect, "http://recorded/v1", transport),
            tools,
            tool_grace_seconds=tool_grace_seconds,
            max_turns=max_turns,
            budget=budget,
        )
