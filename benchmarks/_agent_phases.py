"""The phases of a whole agent, as cases of `_phases`: where its call of the model stalls, and what its tools do.

Each is stopped in each world: in a thread, in a task of trio, in a task of asyncio. Further columns: `late`, characters
of the answer that were recorded after `cancel()` had returned; `refused`, next requests that were not answered.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

from attrs import define, field, frozen

from aiwrapper import Lang
from aiwrapper._core.conversation import Conversation
from aiwrapper._core.log import Entry, RetryWaiting, TextDelta, ToolCallArguments
from aiwrapper._core.messages import AssistantMessage, Reasoning, Text, ToolCall
from aiwrapper.testing import Call, DialectName, FakeProvider, Hold, Turn
from aiwrapper.transport import HttpTransport
from benchmarks._phases import SETTLE_SECONDS, Case, Certificates, Target, Work
from benchmarks._request_phases import Announcing, new_session
from benchmarks._stages import (
    PATIENCE_SECONDS,
    PLAIN,
    WIRES,
    Signs,
    Stage,
    StallPhase,
    Wire,
    open_route,
    stall_phases,
    wait_for,
)
from benchmarks._worlds import WORLDS, AnyAgent, Start, World
from cancel_token import CancelToken, processes
from cancel_token.http import Session

LOOKED_AT = 10
"""How often a stop is looked at and not timed: looking at a long conversation takes the interpreter's lock from the
thread that is to come back."""

SLEEPER = ("sh", "-c", "echo 1; exec sleep 1000")
NAMES: Mapping[DialectName, str] = {"openai_chat": "agent", "anthropic": "messages"}


@define
class Watcher:
    """A subscriber that shows how far the agent has come."""

    signs: Signs = field(factory=Signs)

    def append(self, entry: Entry, /) -> None:
        match entry:
            case TextDelta() | ToolCallArguments():
                self.signs.first.set()
            case RetryWaiting():
                self.signs.sleeping.set()
            case _:
                pass


class Tools:
    """Three tools, each of which says when it is in the middle of its work."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.far = FakeProvider("openai_chat")
        self.session = Session()

    def loop(self, *, token: CancelToken) -> str:
        """Computes for ever, and asks now and then."""
        self.begun.set()
        number = 0
        while True:
            token.check()
            number = sum(range(number % 100))

    def subprocess(self, *, token: CancelToken) -> str:
        """Sleeps in another process."""
        with processes.Process(SLEEPER, token=token) as process:
            for _ in process:
                self.begun.set()
        return "done"

    def fetch(self, *, token: CancelToken) -> str:
        """Asks a server that does not answer."""
        with self.far.hold_at("headers") as hold:
            threading.Thread(target=self._begin_when, args=(hold,), name="fake provider watch").start()
            return self.session.get(self.far.base_url, token=token).text

    def _begin_when(self, hold: Hold) -> None:
        if hold.reached.wait(PATIENCE_SECONDS):
            self.begun.set()


def said_so_far(agent: AnyAgent) -> int:
    """How many characters of answers the conversation holds, cut calls included."""
    count = 0
    for message in agent.conversation.messages:
        if isinstance(message, AssistantMessage):
            count += sum(len(cut.arguments) for cut in message.cut_calls)
            for part in message.parts:
                match part:
                    case Text(text) | Reasoning(text):
                        count += len(text)
                    case ToolCall():
                        count += len(part.arguments)
    return count


class AgentInPhase:
    """Runs agents into one phase.

    Args:
        world: Where they run.
        start: Starts them there.
        stage: Where their call stalls.
        said: What they are told.
        tools: What they may call.
        session: The way to the provider.
    """

    def __init__(
        self, world: World, start: Start, stage: Stage, said: str, tools: Tools, session: Session
    ) -> None:
        self._world = world
        self._start = start
        self._stage = stage
        self._said = said
        self._tools = tools
        self._session = session
        self._announcing = Announcing(lambda: self._watcher.signs.sending.set())
        for scheme in ("http://", "https://"):
            session.mount(scheme, self._announcing)
        self._watcher = Watcher()
        self._agent = self._new_agent(stage.url, None)
        self._stalled: Callable[[], object] = lambda: None
        self._refused = 0

    def target(self) -> Target:
        return Target(self.start, lambda: self._stalled(), self._stage.hung_up_at, self.settle, self.counts)

    def start(self, token: CancelToken) -> Work:
        self._tools.begun.clear()
        self._watcher = Watcher()
        self._agent = self._new_agent(self._stage.url, None)
        self._go_by(self._stage.proxy)
        self._stalled = partial(self._stage.arm(), self._watcher.signs)
        return self._start(self._agent, self._said, token, [self._watcher])

    def settle(self) -> None:
        self._go_by(self._stage.proxy_next)
        following = self._new_agent(self._stage.fake.base_url, self._agent.conversation)
        self._start(following, "And now?", None, ()).join()
        result = following.last_result
        self._refused += result is None or result.status != "completed"
        self._session.close()  # the idle connection of this request would count as left behind
        for connection in (*self._stage.fake.connections, *self._tools.far.connections):
            connection.closed.wait(PATIENCE_SECONDS)
        self._stage.rest()
        for thread in threading.enumerate():
            if thread.name.startswith("fake provider connection"):
                thread.join()

    def counts(self) -> Mapping[str, int]:
        late = 0
        for _ in range(LOOKED_AT):
            token = CancelToken()
            work = self.start(token)
            self._stalled()
            time.sleep(SETTLE_SECONDS)
            token.cancel("benchmark")
            said = said_so_far(self._agent)
            work.join()
            late += said_so_far(self._agent) - said
            self.settle()
        return {"late": late, "refused": self._refused}

    def _go_by(self, proxy: str | None) -> None:
        self._session.proxies = {} if proxy is None else {"http": proxy, "https": proxy}

    def _new_agent(self, url: str, conversation: Conversation | None) -> AnyAgent:
        fake = self._stage.fake
        make = Lang.anthropic if fake.dialect == "anthropic" else Lang.openai_like
        lang = make(
            model=fake.model, api_key=fake.api_key, base_url=url, transport=HttpTransport(self._session)
        )
        tools = [self._tools.loop, self._tools.subprocess, self._tools.fetch]
        return self._world.agent(lang, tools, conversation=conversation)


def agent_cases(certificates: Certificates) -> Iterator[Case]:
    """Every phase of an agent over every wire and in every world; with the other dialect in one."""
    for world in WORLDS:
        for wire in WIRES:
            yield from _cases(world, wire, "openai_chat", certificates)
    yield from _cases(WORLDS[0], PLAIN, "anthropic", certificates)


def _cases(world: World, wire: Wire, dialect: DialectName, certificates: Certificates) -> Iterator[Case]:
    phases: list[StallPhase | ToolPhase] = [*stall_phases(wire)]
    if wire is PLAIN:  # a tool knows nothing of the way to the model
        phases.extend(tool_phases())
    for phase in phases:
        open_target = partial(_open, world, wire, phase, dialect, certificates)
        yield Case(NAMES[dialect], wire.name, phase.name, open_target, world.name)


@contextlib.contextmanager
def _open(
    world: World,
    wire: Wire,
    phase: "StallPhase | ToolPhase",
    dialect: DialectName,
    certificates: Certificates,
) -> Iterator[Target]:
    with ExitStack() as stack:
        tools = Tools()
        stack.enter_context(tools.far)
        stack.enter_context(tools.session)
        session = stack.enter_context(new_session(certificates))
        start = stack.enter_context(world.open())
        if isinstance(phase, ToolPhase):
            stage = stack.enter_context(phase.open(tools, dialect, certificates))
        else:
            stage = stack.enter_context(phase.open(dialect, wire, certificates))
        yield AgentInPhase(world, start, stage, phase.said, tools, session).target()


@frozen(kw_only=True)
class ToolPhase:
    """A phase in which a tool works.

    Args:
        name: For people.
        tool: Which.
    """

    name: str
    tool: str
    said: str = "Hi"

    @contextlib.contextmanager
    def open(self, tools: Tools, dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
        """A stage on which the agent's provider has answered, with a call of the tool."""
        with open_route(dialect, PLAIN, certificates) as route:
            begun: list[int] = []

            def arm() -> Callable[[Signs], object]:
                route.fake.add(Turn((Call(self.tool, ("{}",)),)))
                begun[:] = [len(tools.far.requests)]
                return lambda signs: wait_for(tools.begun)

            def hung_up_at() -> float | None:
                if len(tools.far.requests) == begun[0]:
                    return None
                request = tools.far.requests[begun[0]]
                return request.hung_up_at if request.hung_up.wait(PATIENCE_SECONDS) else None

            yield route.stage(arm, hung_up_at)


def tool_phases() -> Iterator[ToolPhase]:
    for name, tool in (("a loop", "loop"), ("a subprocess", "subprocess"), ("HTTP", "fetch")):
        yield ToolPhase(name=f"tool: {name}", tool=tool)
