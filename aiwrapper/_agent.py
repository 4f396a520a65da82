"""What every agent is, whoever drives its runs: a model, its tools, one conversation, and at most one run of that."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from types import MappingProxyType
from typing import Final, TypeVar

from attrs import evolve, frozen

from aiwrapper._core.budget import Budget
from aiwrapper._core.conversation import Conversation, State, continue_, settle
from aiwrapper._core.errors import Busy
from aiwrapper._core.log import Sink, UserMessageAdded
from aiwrapper._core.tools import Tool, tool
from aiwrapper._feed import Feed
from aiwrapper._run import Driver, Run, RunResult
from aiwrapper.drivers._run_thread import RunThread
from aiwrapper.drivers._streamed import StreamedRun
from aiwrapper.drivers._tool_calls import DEFAULT_GRACE_SECONDS, ToolCalls
from aiwrapper.drivers.threads import complete
from aiwrapper.model_spec import ModelSpec, new_id
from cancel_token import CancelToken
from cancel_token.loops import Loop

StartedT = TypeVar("StartedT", RunThread, StreamedRun)

DEFAULT_MAX_TURNS: Final = 50
"""Chosen by hand: more than any task of ours needed, few enough that an agent in a circle ends."""


@frozen
class Beginning:
    """What a run begins with.

    Args:
        message: what is to be answered; None if the conversation says so already.
        token: stops it; None for nobody.
        conversation: where; None for the agent's own.
        sink: has every entry first, instead of the agent's; None for the agent's, if it is the agent's conversation.
        subscribers: have every entry.

    Raises:
        TypeError: the token is none.
    """

    message: UserMessageAdded | None
    token: CancelToken | None
    conversation: Conversation | None
    sink: Sink | None
    subscribers: tuple[Sink, ...]

    def __attrs_post_init__(self) -> None:
        token: object = self.token  # whatever a program without types has passed
        if token is not None and not isinstance(token, CancelToken):
            raise TypeError(f"a run is stopped by a CancelToken, and {token!r} is none")


class Agent:
    """A model, its tools and one conversation. Use `ChatAgent` in code that blocks, `AsyncChatAgent` in tasks.

    One run at a time on the agent's own conversation; any number with `conversation=...`.

    Args:
        lang: the model.
        tools: what it may call: made with `@tool`, or plain functions, which are made tools.
        instructions: the system prompt.
        sink: has every entry of the agent's own conversation before anybody else, such as a conversation of the
            store. If it fails, the run fails.
        conversation: what was said before; None to begin a new one.
        max_turns: how often the model may be asked in one run, before the run fails with kind `limit`.
        budget: how much a conversation may use, over all of its runs, before a run of it fails with kind `budget`;
            None for no limit. May be set anew between runs, for the next one.
        tool_grace_seconds: how long after a stop a tool may take to return before it is left behind.
        now: wall-clock seconds, for the log.

    Raises:
        ValueError: two tools have the same name, or a tool's name is none that providers take.
        TypeError: the model is none; a tool's signature cannot be a schema, or it is `async def` and the agent blocks.
    """

    def __init__(
        self,
        lang: ModelSpec,
        tools: Iterable[Tool[..., object] | Callable[..., object]] = (),
        *,
        instructions: str = "",
        sink: Sink | None = None,
        conversation: Conversation | None = None,
        max_turns: int = DEFAULT_MAX_TURNS,
        budget: Budget | None = None,
        tool_grace_seconds: float = DEFAULT_GRACE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(lang, ModelSpec):
            raise TypeError(
                f"an agent needs a model such as Lang.openai(model=..., api_key=...), not {lang!r}"
            )
        self.lang = lang
        self.tools: Mapping[str, Tool[..., object]] = MappingProxyType(_by_name(tools))
        self.instructions = instructions
        self.max_turns = max_turns
        self.budget = budget
        self.tool_grace_seconds = tool_grace_seconds
        self._model = lang.call(instructions, self.tools.values())
        self._tool_calls = ToolCalls(self.tools, tool_grace_seconds)
        self._has_tasks = any(self._needs_loop(made) for made in self.tools.values())
        self._sink = sink
        self._now = now
        # The id of the run that has the agent's own conversation, at 0. Claimed by one atomic `setdefault` and not
        # under a lock, so that a Ctrl-C at any bytecode finds it claimed or free, and never a lock that nobody frees.
        self._claim: dict[int, str] = {}
        self._state = State(Conversation() if conversation is None else conversation)
        self._run: Run | None = None  # the run of the agent's own conversation
        # The second is what subscribers have raised, which grows until the last of them has the terminal entry.
        self._last: tuple[RunResult, Sequence[BaseException]] | None = None

    @property
    def conversation(self) -> Conversation:
        """What has been said, at any time valid. While it runs: as it would be if the run ended now."""
        run = self._run
        return settle(self._state if run is None else run.state)

    @property
    def busy(self) -> bool:
        """Whether the agent's own conversation is being run."""
        return bool(self._claim)

    @property
    def last_result(self) -> RunResult | None:
        """What became of the last run of the agent's own conversation; None before the first has ended."""
        if self._last is None:
            return None
        result, complaints = self._last
        if len(result.subscriber_errors) == len(complaints):
            return result
        return evolve(
            result, subscriber_errors=tuple(complaints)
        )  # raised at the terminal entry, or still to come

    def _needs_loop(self, made: Tool[..., object]) -> bool:
        """Whether a tool is run in an event loop.

        Raises:
            TypeError: this kind of agent cannot run it.
        """
        return made.needs_loop

    def _executor(self) -> ToolCalls:
        """What runs the tools of a run that is begun here."""
        return evolve(self._tool_calls, loop=Loop()) if self._has_tasks else self._tool_calls

    def _going_on(self, conversation: Conversation | None) -> UserMessageAdded | None:
        """The message that asks the model to go on by itself, if one is needed.

        Raises:
            ValueError: nothing has been said yet.
        """
        before = self.conversation if conversation is None else conversation
        if before.head is None:
            raise ValueError("nothing has been said yet that the model could go on from")
        message = continue_(before)
        if message is None:
            return None
        return UserMessageAdded(
            message.id, message.parts, parent_id=message.parent_id, synthetic=True, at=self._now()
        )

    def _store_of(self, beginning: Beginning) -> Sink | None:
        """What has every entry of a run first."""
        if beginning.sink is not None or beginning.conversation is not None:
            return beginning.sink
        return self._sink

    def _begin(self, run_id: str, beginning: Beginning, *readers: Sink) -> Run:
        """Begin a run, of which the readers are told last.

        Raises:
            Busy: it is the agent's own conversation, and that is being run.
        """
        own = beginning.conversation is None
        if own and self._claim.setdefault(0, run_id) != run_id:
            raise Busy("the agent is running: wait for the run or stop it, or pass a conversation of its own")
        run = Run(
            self._state if beginning.conversation is None else State(beginning.conversation),
            run_id,
            user_message=beginning.message,
            token=CancelToken.never() if beginning.token is None else beginning.token,
            max_turns=self.max_turns,
            budget=self.budget,
            sink=self._store_of(beginning),
            subscribers=(*beginning.subscribers, *readers),
            now=self._now,
            settled=self._settled,
        )
        if own:
            self._run = run
        return run

    def _thread(self, beginning: Beginning, feed: Feed, context: Context) -> RunThread:
        """Begin a run and have it driven in a thread.

        Args:
            beginning: what it begins with; the subscribers are told in the thread.
            feed: has every entry last.
            context: the context variables of the run and its tools.
        """

        def thread(run: Run, executor: ToolCalls) -> RunThread:
            # A lambda and no partial: a call through C costs a thread some 4 KiB of its stack.
            return RunThread(run, lambda: self._driven(run, executor), context, feed.end)

        return self._started(beginning, thread, feed)

    def _started(
        self, beginning: Beginning, make: Callable[[Run, ToolCalls], StartedT], *readers: Sink
    ) -> StartedT:
        """Begin a run and start what drives it.

        Args:
            beginning: what it begins with.
            make: makes what drives it.
            *readers: have every entry last.
        """
        run_id = new_id()
        executor = self._executor()
        run: Run | None = None
        try:
            run = self._begin(run_id, beginning, *readers)
            driver = make(run, executor)
            driver.start()
        except BaseException as error:
            self._give_up(run_id, run, error)
            raise
        return driver

    def _driven(self, run: Run, executor: ToolCalls) -> RunResult:
        """Drive a run to its end, whatever happens."""
        if not run.claim("thread"):
            raise RuntimeError(f"run {run.run_id!r} was given up before its thread had begun")
        try:
            return complete(run, self._model, executor)
        except BaseException as error:
            self._give_up(run.run_id, run, error, driver="thread")
            raise

    def _give_up(
        self, run_id: str, run: Run | None, error: BaseException, *, driver: Driver = "starter"
    ) -> None:
        """End the run if an exception has kept it from ending itself: no Ctrl-C makes the agent busy for ever.

        Args:
            run_id: the run.
            run: it, as far as the caller has it.
            error: the exception.
            driver: who gives it up. One that is driven by another is stopped, and ended by that one.
        """
        if run is None and self._claim.get(0) == run_id:
            run = self._run
            if run is None:
                self._claim.pop(0)
        if run is not None:
            run.give_up(driver, error)

    def _settled(self, run: Run) -> None:
        """The run has ended. May be interrupted and called again."""
        if self._claim.get(0) == run.run_id:
            self._last = run.result(), run.complaints
            self._state = run.state
            self._run = None  # after the state, so that whoever reads in between sees one of the two
            self._claim.pop(0)


def sub_agent_answer(result: RunResult) -> str:
    """What an agent that was called as a tool tells its caller (S11).

    Raises:
        Exception: why it failed.
    """
    if result.error is not None and result.stop is None:
        raise result.error
    if result.stop is None:
        return result.text
    why = f": {result.stop.message}" if result.stop.message else ""
    said = f" It had said: {result.text}" if result.text else " It had said nothing."
    return f"The agent was stopped before it had finished ({result.stop.reason}{why}).{said}"


def _by_name(tools: Iterable[Tool[..., object] | Callable[..., object]]) -> dict[str, Tool[..., object]]:
    by_name: dict[str, Tool[..., object]] = {}
    for given in tools:
        made = given if isinstance(given, Tool) else tool(given)
        if made.name in by_name:
            raise ValueError(f"two tools have the name {made.name!r}")
        by_name[made.name] = made
    return by_name
