"""The phases of a whole agent, as cases of `_phases`: what the model says, and what the tools do.

A strict fake provider is held where the agent is to be stopped. Further columns: `late`, characters of the answer that
were recorded after `cancel()` had returned; `refused`, next requests that were not answered.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from attrs import frozen

from aiwrapper._core.log import Entry, RetryWaiting, TextDelta, ToolCallArguments, ToolStarted
from aiwrapper._core.messages import AssistantMessage, Reasoning, Text, ToolCall
from aiwrapper.agents import ChatAgent
from aiwrapper.lang import Lang
from aiwrapper.testing import (
    Answer,
    Call,
    Delivery,
    DialectName,
    FakeProvider,
    FakeRequest,
    Hold,
    HttpError,
    Place,
    Say,
    Turn,
    render,
)
from aiwrapper.transport import HttpTransport
from benchmarks._phases import SETTLE_SECONDS, Case, Certificates, Target, new_session
from cancel_token import CancelToken, processes
from cancel_token.http import Session
from tests.cancel_token.stalling import Call as Work

PATIENCE_SECONDS = 30.0
LOOKED_AT = 10
"""How often a stop is looked at and not timed: looking at a long conversation takes the interpreter's lock from the
thread that is to come back."""

SLEEPER = ("sh", "-c", "echo 1; exec sleep 1000")

SPOKEN = Turn((Say(("first", " second", " thé rest", " of it")),))
CALLING = Turn((Call("spin", ('{"turns"', ": 1", "}")),))
ENDLESS = 2_000_000
"""Events of a stream that is stopped long before its end."""


@frozen(kw_only=True)
class Phase:
    """Where an agent is stopped.

    Args:
        name: for people.
        answers: what the provider says.
        hold: where the provider is held; None if it is not.
        sign: the entry that shows that the agent is there; None if the hold does.
        in_flight: whether a request to the provider is on its way then, whose hang-up is seen.
        tool: the tool that has to have begun.
        said: how large the user's message is.
    """

    name: str
    answers: Callable[[DialectName], Iterable[Answer]]
    hold: Callable[[DialectName], Place] | None = None
    sign: type[Entry] | None = None
    in_flight: bool = True
    tool: str | None = None
    said: str = "Hi"


def after(text: str, turn: Turn = SPOKEN, *, to_the_end: bool = False) -> Callable[[DialectName], int]:
    """The place behind a text of a body; or behind the event that it stands in."""

    def place(dialect: DialectName) -> int:
        body = render(turn, dialect)
        at = body.index(text.encode()) + len(text.encode())
        return body.index(b"\n\n", at) + 2 if to_the_end else at

    return place


def mid_character(dialect: DialectName) -> int:
    return render(SPOKEN, dialect).index("é".encode()) + 1


def call_of(name: str) -> Callable[[DialectName], Iterable[Answer]]:
    return lambda dialect: [Turn((Call(name, ("{}",)),))]


def paced(rate: float) -> Callable[[DialectName], Iterable[Answer]]:
    turn = Turn((Say((" x",) * ENDLESS),), delivery=Delivery(events_per_second=rate))
    return lambda dialect: [turn]


PHASES = (
    Phase(name="upload", answers=lambda _: (), hold=lambda _: "upload", said="x" * 20_000_000),
    Phase(name="headers", answers=lambda _: (), hold=lambda _: "headers"),
    Phase(name="first byte", answers=lambda _: (), hold=lambda _: "first_byte"),
    Phase(name="mid-line", answers=lambda _: [SPOKEN], hold=after("th", SPOKEN), sign=TextDelta),
    Phase(name="mid-character", answers=lambda _: [SPOKEN], hold=mid_character, sign=TextDelta),
    Phase(
        name="between events",
        answers=lambda _: [SPOKEN],
        hold=after(" second", to_the_end=True),
        sign=TextDelta,
    ),
    Phase(
        name="inside tool arguments",
        answers=lambda _: [CALLING],
        hold=after("turns", CALLING, to_the_end=True),
        sign=ToolCallArguments,
    ),
    Phase(name="100,000 events/s", answers=paced(100_000), sign=TextDelta),
    Phase(name="one event/s", answers=paced(1), sign=TextDelta),
    Phase(
        name="429, Retry-After: 30",
        answers=lambda _: [HttpError(429, retry_after="30")],
        sign=RetryWaiting,
        in_flight=False,
    ),
    Phase(name="500, back-off", answers=lambda _: [HttpError(500)], sign=RetryWaiting, in_flight=False),
    Phase(name="tool: a loop", answers=call_of("loop"), sign=ToolStarted, in_flight=False, tool="loop"),
    Phase(
        name="tool: a subprocess",
        answers=call_of("subprocess"),
        sign=ToolStarted,
        in_flight=False,
        tool="subprocess",
    ),
    Phase(name="tool: HTTP", answers=call_of("fetch"), sign=ToolStarted, in_flight=False, tool="fetch"),
)


class Watcher:
    """A subscriber that waits for an entry of a kind."""

    def __init__(self, sign: type[Entry] | None) -> None:
        self.seen = threading.Event()
        self._sign = sign

    def append(self, entry: Entry, /) -> None:
        if self._sign is not None and isinstance(entry, self._sign):
            self.seen.set()


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


def said_so_far(agent: ChatAgent) -> int:
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
        phase: which.
        fake: the provider.
        tools: what it may call.
        session: the way to the provider.
    """

    def __init__(self, phase: Phase, fake: FakeProvider, tools: Tools, session: Session) -> None:
        self._phase = phase
        self._fake = fake
        self._tools = tools
        self._session = session
        self._there: list[threading.Event] = []
        self._watched: Callable[[], FakeRequest | None] = lambda: None
        self._agent = self._new_agent()
        self._refused = 0

    def target(self) -> Target:
        return Target(self.start, self.wait_until_there, self.hung_up_at, self.settle, self.counts)

    def start(self, token: CancelToken) -> Work[Any]:
        self._tools.begun.clear()
        self._agent = self._new_agent()
        self._fake.add(*self._phase.answers(self._fake.dialect))
        watcher = Watcher(self._phase.sign)
        self._there = [watcher.seen] if self._phase.sign else []
        if self._phase.hold is not None:
            self._there.append(self._fake.hold_at(self._phase.hold(self._fake.dialect)).reached)
        if self._phase.tool is not None:
            self._there.append(self._tools.begun)
        near, far = len(self._fake.requests), len(self._tools.far.requests)

        def watched() -> FakeRequest | None:
            if self._phase.in_flight:
                return self._fake.requests[near]
            return self._tools.far.requests[far] if len(self._tools.far.requests) > far else None

        self._watched = watched
        return Work(partial(self._agent.run, self._phase.said, token=token, subscribers=[watcher]))

    def wait_until_there(self) -> None:
        if not all(event.wait(PATIENCE_SECONDS) for event in self._there):
            raise RuntimeError(f"{self._phase.name}: the agent did not get there")

    def hung_up_at(self) -> float | None:
        """`time.monotonic`, which is the clock of `time.perf_counter` on Linux and macOS."""
        request = self._watched()
        if request is None or not request.hung_up.wait(PATIENCE_SECONDS):
            return None
        return request.hung_up_at

    def settle(self) -> None:
        self._refused += self._agent.run("And now?").status != "completed"
        self._session.close()  # the idle connection of this request would count as left behind
        for connection in (*self._fake.connections, *self._tools.far.connections):
            connection.closed.wait(PATIENCE_SECONDS)
        for thread in threading.enumerate():
            if thread.name.startswith("fake provider connection"):
                thread.join()

    def counts(self) -> Mapping[str, int]:
        late = 0
        for _ in range(LOOKED_AT):
            token = CancelToken()
            work = self.start(token)
            self.wait_until_there()
            time.sleep(SETTLE_SECONDS)
            token.cancel("benchmark")
            said = said_so_far(self._agent)
            work.join()
            late += said_so_far(self._agent) - said
            self.settle()
        return {"late": late, "refused": self._refused}

    def _new_agent(self) -> ChatAgent:
        transport = HttpTransport(self._session)
        make = Lang.anthropic if self._fake.dialect == "anthropic" else Lang.openai_like
        lang = make(
            model=self._fake.model,
            api_key=self._fake.api_key,
            base_url=self._fake.base_url,
            transport=transport,
        )
        return ChatAgent(lang, [self._tools.loop, self._tools.subprocess, self._tools.fetch])


def agent_cases(certificates: Certificates) -> Iterator[Case]:
    """Every phase of an agent, with both dialects, and once over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.server.configure_cert(context)
    for phase in PHASES:
        yield Case("chat", phase.name, partial(_open, phase, "openai_chat"))
        yield Case("chat TLS", phase.name, partial(_open, phase, "openai_chat", context, certificates))
        yield Case("messages", phase.name, partial(_open, phase, "anthropic"))


@contextlib.contextmanager
def _open(
    phase: Phase,
    dialect: DialectName,
    tls: ssl.SSLContext | None = None,
    certificates: Certificates | None = None,
) -> Iterator[Target]:
    with ExitStack() as stack:
        tools = Tools()
        stack.enter_context(tools.far)
        stack.enter_context(tools.session)
        fake = stack.enter_context(FakeProvider(dialect, tls=tls))
        session = stack.enter_context(new_session(certificates))
        yield AgentInPhase(phase, fake, tools, session).target()
