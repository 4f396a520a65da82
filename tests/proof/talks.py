"""What the proof explores: an agent that is talked to, and all that anybody can know of it afterwards."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

from attrs import evolve

from aiwrapper import (
    AssistantMessage,
    AsyncChatAgent,
    CancelToken,
    ChatAgent,
    Conversation,
    Entry,
    Lang,
    Producer,
    RetryPolicy,
    RunFailed,
    RunFinished,
    RunResult,
    RunStopped,
    Sink,
    Text,
    ToolCall,
    ToolFinished,
    ToolMessage,
    ToolResult,
    ToolStarted,
    UserMessage,
    tool,
    validate,
)
from aiwrapper._agent import Agent
from aiwrapper._core.validity import changes
from aiwrapper.testing import Answer, DialectName
from aiwrapper.testing.oracle import Effect, Evidence, assert_rules_kept
from aiwrapper.testing.scripted import ScriptedTransport
from cancel_token.testing import Outcome

DIALECTS: tuple[DialectName, ...] = ("openai_chat", "anthropic")

BEFORE = Conversation.of(
    (
        UserMessage("u", (Text("Where were we?"),)),
        AssistantMessage(
            "r.1",
            (Text("Let me see."), ToolCall("r.1.0", "search", arguments="{}", provider_id="call_1")),
            producer=Producer("openai_chat", "api.openai.com", model="gpt"),
        ),
        ToolMessage("r.1.results", (ToolResult("r.1.0", "nothing found", outcome="raised"),)),
        AssistantMessage(
            "r.2", (Text("Half an ans"),), producer=Producer("anthropic", "a", model="b"), stopped=True
        ),
    )
)
"""What was said before: by others, with a call that failed and an answer that was cut."""


class Ear:
    """A subscriber or a sink that keeps what it is told."""

    def __init__(self) -> None:
        self.log: list[Entry] = []

    def append(self, entry: Entry, /) -> None:
        self.log.append(entry)


class Quarrelsome(Ear):
    """A subscriber that takes a few entries and then raises, which is nobody's affair but its own (E2)."""

    def append(self, entry: Entry, /) -> None:
        if len(self.log) == 2:
            raise ZeroDivisionError("a subscriber's own bug")
        super().append(entry)


class AtTheEnd:
    """A subscriber that looks at the agent when it is told the end (E3)."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.conversation: Conversation | None = None
        self.busy = False

    def append(self, entry: Entry, /) -> None:
        if isinstance(entry, RunFinished | RunStopped | RunFailed):
            self.conversation = self.agent.conversation
            self.busy = self.agent.busy


A = TypeVar("A", bound=Agent)


class Subject(Generic[A]):
    """An agent, its provider in this process, its tools, and what is known of its last run.

    Args:
        agent: makes the agent of a language, tools and what was said before.
        dialect: what its provider speaks.
        script: what its provider says.
        may_be_interrupted: whether its runtime cancels its task.
    """

    def __init__(
        self,
        agent: type[A],
        dialect: DialectName,
        script: Iterable[Answer],
        *,
        may_be_interrupted: bool = False,
    ) -> None:
        self.may_be_interrupted = may_be_interrupted
        self.transport = ScriptedTransport(dialect, script)
        self.effects: list[Effect] = []
        self.agent = agent(
            lang_of(self.transport),
            TOOLS,
            conversation=BEFORE,
            tool_grace_seconds=3600.0,  # of a clock that nobody moves: a tool that does not obey hangs
        )
        self.token = CancelToken.never()
        self.forget()

    def forget(self) -> None:
        """What is known of the last run."""
        self.before = self.agent.conversation
        self.ears = (Ear(), Ear())
        self.sink = Ear()
        self.at_end = AtTheEnd(self.agent)
        self.order = Order()
        self.at_stop: Conversation | None = None
        self.ended_at_stop: bool | None = False
        self._results_before = self.agent.last_result
        self._requests_before = len(self.transport.requests)
        self.effects.clear()

    @contextmanager
    def listening(self, token: CancelToken) -> Iterator[Iterable[Sink]]:
        """Around a run: who is to be told of it. Notes how things are when the stop has passed."""
        self.token = token
        # Our callback is older than the run's, so the run has heard of a stop before we note how things are.
        with working(self.effects, self.order), token.on_cancel(self._note_stop):
            yield (self.ears[0], Quarrelsome(), self.order, self.at_end, self.ears[1])
        if self.at_stop is None:
            # A stop that comes later finds nothing. One whose callback was just not called may have found anything.
            self.ended_at_stop = True if token.reason is None else None

    def _note_stop(self) -> None:
        run = self.agent._run
        if self.agent.last_result is not self._results_before or (
            run is not None and (run.ended or isinstance(run._ending, RunFailed))
        ):
            # A second thread's stop may have come before the end, and to us after it; or when it was decided that the
            # run has failed, and that was not yet written down.
            self.ended_at_stop = None
        self.at_stop = self.agent.conversation

    def evidence(self, *, interrupted: bool = False) -> Evidence:
        """All that is known of the run."""
        result = self.agent.last_result
        assert result is not None
        return Evidence(
            result=result,
            before=self.before,
            heard=[ear.log for ear in self.ears],
            stored=self.sink.log,
            token=self.token,
            interrupted=interrupted,
            at_stop=self.at_stop,
            ended_at_stop=self.ended_at_stop,
            at_end=self.at_end.conversation,
            busy_at_end=self.at_end.busy,
            requests=self.transport.requests[self._requests_before :],
            answered=self.transport.answered[self._requests_before :],
            taken=self.transport.taken[self._requests_before :],
            effects=list(self.effects),
            tools=tuple(each.spec for each in self.agent.tools.values()),
        )

    def check(self, outcome: Outcome) -> None:
        """The oracle of an exploration: whatever happened, every rule was kept.

        A run that its runtime has cancelled before it had begun has left nothing, and that is judged.
        """
        interrupted = outcome.kind == "cancelled"
        assert outcome.kind == "returned" or (interrupted and self.may_be_interrupted), outcome
        assert self.transport.open_now == 0
        assert not self.agent.busy
        if self.agent.last_result is None or self.agent.last_result is self._results_before:
            assert interrupted
            assert self.before is self.agent.conversation
            assert not self.transport.requests
            assert not self.ears[0].log
            return
        if outcome.kind == "returned":
            assert isinstance(outcome.value, RunResult)
            # What a subscriber raises at the very end, it raises when the agent has its result already (E3).
            assert evolve(outcome.value, subscriber_errors=()) == evolve(
                self.agent.last_result, subscriber_errors=()
            )
        assert_rules_kept(self.evidence(interrupted=interrupted))

    def check_next(self, result: RunResult) -> None:
        """The next message, which nobody has disturbed, was taken and answered."""
        assert (result.status, result.error) == ("completed", None)
        assert [] == [broken for request in self.transport.requests for broken in request.violations]
        assert [] == validate(result.conversation) + changes(self.before, result.conversation)


class Talk(Subject[ChatAgent]):
    """A subject for code that blocks."""

    def __init__(self, dialect: DialectName, script: Iterable[Answer]) -> None:
        super().__init__(ChatAgent, dialect, script)

    def run(self, token: CancelToken, said: str = "Go", *, others: Iterable[Sink] = ()) -> RunResult:
        """Say something; `others` are subscribers, too."""
        with self.listening(token) as listeners:
            return self.agent.run(said, token=token, sink=self.sink, subscribers=(*listeners, *others))

    def go_on(self) -> None:
        """Say the next thing, undisturbed."""
        self.forget()
        self.transport.say()
        self.check_next(self.run(CancelToken(), "And now?"))


class AsyncTalk(Subject[AsyncChatAgent]):
    """A subject for tasks."""

    def __init__(
        self, dialect: DialectName, script: Iterable[Answer], *, may_be_interrupted: bool = False
    ) -> None:
        super().__init__(AsyncChatAgent, dialect, script, may_be_interrupted=may_be_interrupted)

    async def run(self, token: CancelToken, said: str = "Go") -> RunResult:
        """Say something."""
        with self.listening(token) as listeners:
            return await self.agent.run(said, token=token, sink=self.sink, subscribers=listeners)

    async def go_on(self) -> None:
        """Say the next thing, undisturbed."""
        self.forget()
        self.transport.say()
        self.check_next(await self.run(CancelToken(), "And now?"))


def lang_of(transport: ScriptedTransport) -> Lang:
    make = Lang.openai_like if transport.dialect == "openai_chat" else Lang.anthropic
    return make(
        base_url=transport.base_url,
        model=transport.model,
        api_key=transport.api_key,
        transport=transport,
        retry=RetryPolicy(max_attempts=3),
    )


class Order:
    """Lets tools that run side by side end one after the other, so that a run is the same each time.

    A subscriber, too: it is told of a call's start just before the call's context is copied, and so gives each call
    its place. Nobody waits any more once the run has been stopped.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ended = 0
        self._stopped = False
        self._started = 0

    def append(self, entry: Entry, /) -> None:
        if isinstance(entry, ToolStarted):
            _place.set(self._started)
            self._started += 1
        elif isinstance(entry, ToolFinished) and entry.outcome in ("returned", "raised"):
            with self._changed:
                self._ended += 1
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_for_my_turn(self, token: CancelToken) -> None:
        place = _place.get()
        with token.on_cancel(self.stop), self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended >= place)


_effects: ContextVar[list[Effect]] = ContextVar("what the tools of the talk that runs them do")
_order: ContextVar[Order] = ContextVar("in which order they end")
_place: ContextVar[int] = ContextVar("which of them a call is")
_numbers = itertools.count()


@contextmanager
def working(effects: list[Effect], order: Order) -> Iterator[None]:
    """Where the tools of a run, which see a copy of our context, note what they do."""
    mine, theirs = _effects.set(effects), _order.set(order)
    try:
        yield
    finally:
        _effects.reset(mine)
        _order.reset(theirs)


def _begun(name: str) -> Effect:
    effect = Effect(name)
    _effects.get().append(effect)
    return effect


def _done(effect: Effect, what: str, token: CancelToken) -> str:
    _order.get().wait_for_my_turn(token)
    effect.returned = f"{what} {next(_numbers)}"
    return effect.returned


@tool
def read_page(*, token: CancelToken) -> str:
    """Looks at its token."""
    effect = _begun("read_page")
    for _ in token.iter(range(3)):
        pass
    return _done(effect, "page", token)


@tool
def search(*, token: CancelToken) -> str:
    """Fails."""
    effect = _begun("search")
    _order.get().wait_for_my_turn(token)
    effect.raised = True
    raise LookupError("nothing found")


@tool
def run(*, token: CancelToken) -> str:
    """Is done at once."""
    return _done(_begun("run"), "output", token)


TOOLS = (read_page, search, run)
