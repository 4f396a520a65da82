"""The agent: a model, its tools and one conversation, for code that blocks.

    agent = ChatAgent(Lang.openai(model="...", api_key="..."), tools=[read_page])
    result = agent.run("Compare these two pages", token=token)     # token.cancel() from anywhere stops it

A stop is a result and never an exception. Whatever happened, `agent.conversation` is valid, and the next run goes on.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType

from aiwrapper._core.conversation import Conversation, State, continue_, settle
from aiwrapper._core.errors import Busy
from aiwrapper._core.log import Entry, Sink, UserMessageAdded
from aiwrapper._core.tools import Tool, tool
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers._tool_threads import DEFAULT_GRACE_SECONDS, ToolThreads
from aiwrapper.drivers.threads import complete, driving
from aiwrapper.lang import Lang, Said, new_id, user_message
from cancel_token import CancelToken

DEFAULT_MAX_TURNS = 50
"""Chosen by hand: more than any task of ours needed, few enough that an agent in a circle ends."""


class ChatAgent:
    """An agent and its conversation.

    One run at a time on the agent's own conversation; any number, from any threads, with `conversation=...`.

    Args:
        lang: the model.
        tools: what it may call: made with `@tool`, or plain functions, which are made tools.
        instructions: the system prompt.
        sink: has every entry of the agent's own conversation before anybody else, such as a conversation of the
            store. If it fails, the run fails.
        conversation: what was said before; None to begin a new one.
        max_turns: how often the model may be asked in one run, before the run fails with kind `limit`.
        tool_grace_seconds: how long after a stop a tool may take to return before its thread is left behind.
        now: wall-clock seconds, for the log.

    Raises:
        ValueError: two tools have the same name, or a tool's name is none that providers take.
        TypeError: a tool is `async def`, or its signature cannot be a schema.
    """

    def __init__(
        self,
        lang: Lang,
        tools: Iterable[Tool[..., object] | Callable[..., object]] = (),
        *,
        instructions: str = "",
        sink: Sink | None = None,
        conversation: Conversation | None = None,
        max_turns: int = DEFAULT_MAX_TURNS,
        tool_grace_seconds: float = DEFAULT_GRACE_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.lang = lang
        self.tools: Mapping[str, Tool[..., object]] = MappingProxyType(_by_name(tools))
        self._model = lang.call(instructions, self.tools.values())
        self._executor = ToolThreads(self.tools, tool_grace_seconds)
        self._sink = sink
        self._max_turns = max_turns
        self._now = now
        # The id of the run that has the agent's own conversation, at 0. Claimed by one atomic `setdefault` and not
        # under a lock, so that a Ctrl-C at any bytecode finds it claimed or free, and never a lock that nobody frees.
        self._claim: dict[int, str] = {}
        self._state = State(Conversation() if conversation is None else conversation)
        self._run: Run | None = None  # the run of the agent's own conversation
        self._last_result: RunResult | None = None

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
        return self._last_result

    def run(
        self,
        said: Said,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Say something and wait until the model has answered, its tools have run, or it was stopped.

        Args:
            said: what the user says.
            token: stops it, from anywhere. None: it cannot be stopped.
            conversation: answer in this conversation instead of the agent's own, which stays as it is; the result
                has what came of it. The agent's sink is not used then.
            sink: has every entry of this run, instead of the agent's.
            subscribers: told of every entry of this run. One that raises is told nothing more, and the run goes on.

        Returns:
            What became of it: completed, stopped or failed.

        Raises:
            Busy: the agent's own conversation is being run.
            ValueError: there is nothing in what the user says.
            KeyboardInterrupt: or another exception of the caller's thread, with the run settled on the way.
        """
        return self._complete(user_message(said), token, conversation, sink, subscribers)

    def stream(
        self,
        said: Said,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> Generator[Entry, None, None]:
        """Like `run`, and watch the log grow: each entry as soon as it has been appended, the terminal one last.

        The run goes on only while entries are taken, in the thread that takes them. A stop ends it at once all the
        same: the sockets and the tools are stopped where they are, and what is taken next are the closing entries.
        Closing the iterator early stops the run, with the reason `closed`, and leaves nothing; leave a `for` loop
        early only inside `with contextlib.closing(...)`.

        Args:
            said: as for `run`.
            token: as for `run`.
            conversation: as for `run`.
            sink: as for `run`.
            subscribers: as for `run`.

        Raises:
            Busy: on taking the first entry: the agent's own conversation is being run.
            ValueError: there is nothing in what the user says.
        """
        return self._entries(user_message(said), token, conversation, sink, subscribers)

    def continue_(
        self,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Let the model go on by itself, for instance after a stop.

        After the user's message or tool results it simply answers. After an answer, a `synthetic` message of the
        user's asks it to go on. The arguments, the result and the errors are those of `run`.

        Raises:
            Busy: the agent's own conversation is being run.
            ValueError: nothing has been said yet.
        """
        before = self.conversation if conversation is None else conversation
        if before.head is None:
            raise ValueError("nothing has been said yet that the model could go on from")
        message = continue_(before)
        added = None
        if message is not None:
            added = UserMessageAdded(
                message.id, message.parts, parent_id=message.parent_id, synthetic=True, at=self._now()
            )
        return self._complete(added, token, conversation, sink, subscribers)

    def _complete(
        self,
        message: UserMessageAdded | None,
        token: CancelToken | None,
        conversation: Conversation | None,
        sink: Sink | None,
        subscribers: Iterable[Sink],
    ) -> RunResult:
        run_id = new_id()
        try:
            run = self._begin(run_id, message, token, conversation, sink, subscribers)
            return complete(run, self._model, self._executor)
        except BaseException as error:
            self._give_up(run_id, error)
            raise

    def _entries(
        self,
        message: UserMessageAdded,
        token: CancelToken | None,
        conversation: Conversation | None,
        sink: Sink | None,
        subscribers: Iterable[Sink],
    ) -> Generator[Entry, None, None]:
        appended: deque[Entry] = deque()
        run_id = new_id()
        try:
            run = self._begin(run_id, message, token, conversation, sink, (*subscribers, appended))
            with driving(run, self._model, self._executor) as steps:
                for _ in steps:
                    while appended:
                        yield appended.popleft()
        except BaseException as error:
            self._give_up(run_id, error)
            raise
        while appended:  # what was appended while it ended
            yield appended.popleft()

    def _begin(
        self,
        run_id: str,
        message: UserMessageAdded | None,
        token: CancelToken | None,
        conversation: Conversation | None,
        sink: Sink | None,
        subscribers: Iterable[Sink],
    ) -> Run:
        own = conversation is None
        if own and self._claim.setdefault(0, run_id) != run_id:
            raise Busy("the agent is running: wait for the run or stop it, or pass a conversation of its own")
        run = Run(
            self._state if conversation is None else State(conversation),
            run_id,
            user_message=message,
            token=CancelToken.never() if token is None else token,
            max_turns=self._max_turns,
            sink=sink if sink is not None or not own else self._sink,
            subscribers=subscribers,
            now=self._now,
            settled=self._settled,
        )
        if own:
            self._run = run
        return run

    def _give_up(self, run_id: str, error: BaseException) -> None:
        """End the run if an exception has kept it from ending itself: no Ctrl-C makes the agent busy for ever."""
        if self._claim.get(0) != run_id:
            return
        run = self._run
        if run is None:
            self._claim.pop(0)
        else:
            run.interrupt(error)
            run.close(error)

    def _settled(self, run: Run) -> None:
        """The run has ended. May be interrupted and called again."""
        if self._claim.get(0) == run.run_id:
            self._last_result = run.result()
            self._state = run.state
            self._run = None  # after the state, so that whoever reads in between sees one of the two
            self._claim.pop(0)


def _by_name(tools: Iterable[Tool[..., object] | Callable[..., object]]) -> dict[str, Tool[..., object]]:
    by_name: dict[str, Tool[..., object]] = {}
    for given in tools:
        made = given if isinstance(given, Tool) else tool(given)
        if made.is_async:
            raise TypeError(
                f"the tool {made.name!r} is async def, which an agent for blocking code cannot run"
            )
        if made.name in by_name:
            raise ValueError(f"two tools have the name {made.name!r}")
        by_name[made.name] = made
    return by_name
