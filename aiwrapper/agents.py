"""The agent for code that blocks: a model, its tools and one conversation.

    agent = ChatAgent(Lang.openai(model="...", api_key="..."), tools=[read_page])
    result = agent.run("Compare these two pages", token=token)     # token.cancel() from anywhere stops it

A stop is a result and never an exception. Whatever happened, `agent.conversation` is valid, and the next run goes on.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextvars import copy_context

from aiwrapper._agent import Agent, Beginning, sub_agent_answer
from aiwrapper._core.conversation import Conversation
from aiwrapper._core.log import Entry, Sink
from aiwrapper._core.tools import Tool, tool
from aiwrapper._feed import Feed
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers.threads import RunHandle, complete, driving
from aiwrapper.model_spec import Said, new_id, user_message
from cancel_token import CancelToken


class ChatAgent(Agent):
    """An agent for code that blocks; what it is made of is said by `Agent`. May be used from any threads."""

    def _needs_loop(self, made: Tool[..., object]) -> bool:
        if made.is_async:
            raise TypeError(
                f"the tool {made.name!r} is async def, which an agent for blocking code cannot run: use AsyncChatAgent"
            )
        return False

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
        return self._complete(Beginning(user_message(said), token, conversation, sink, tuple(subscribers)))

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
        return self._entries(Beginning(user_message(said), token, conversation, sink, tuple(subscribers)))

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
        message = self._going_on(conversation)
        return self._complete(Beginning(message, token, conversation, sink, tuple(subscribers)))

    def start(
        self,
        said: Said,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunHandle:
        """Say something and go on at once, with the run in the hand: to watch it, to stop it, to wait for it.

        The run has a thread of its own, which sees a copy of the caller's context variables. The arguments are those of
        `run`; the sink and the subscribers are told in the run's thread, so a slow one delays the run, whereas who
        iterates the handle delays nobody.

        Raises:
            Busy: the agent's own conversation is being run.
            ValueError: there is nothing in what the user says.
            RuntimeError: the system has no thread left.
        """
        beginning = Beginning(user_message(said), token, conversation, sink, tuple(subscribers))
        feed = Feed()
        return RunHandle(self._thread(beginning, feed, copy_context()), feed)

    def as_tool(
        self, name: str, description: str, *, started: Callable[[RunHandle], object] | None = None
    ) -> Tool[..., str]:
        """Offer this agent to another one as a tool, which is given a message and returns the answer.

        Each call is a run in a new conversation, under a child of the caller's token: stopping the caller stops it.
        Stopping it alone (by its handle) gives the caller a result that says so, and the caller goes on (S11).

        Args:
            name: what the other agent's model calls it.
            description: what that model reads about it: what this agent is good for.
            started: told of each run.
        """

        def ask(message: str, *, token: CancelToken) -> str:
            with self.start(message, token=token, conversation=Conversation()) as run:
                if started is not None:
                    started(run)
                result = run.wait()
            token.check()
            return sub_agent_answer(result)

        return tool(name=name, description=description)(ask)

    def _complete(self, beginning: Beginning) -> RunResult:
        run_id = new_id()
        run: Run | None = None
        try:
            run = self._begin(run_id, beginning)
            return complete(run, self._model, self._tool_calls)
        except BaseException as error:
            self._give_up(run_id, run, error)
            raise

    def _entries(self, beginning: Beginning) -> Generator[Entry, None, None]:
        appended: deque[Entry] = deque()
        run_id = new_id()
        run: Run | None = None
        try:
            run = self._begin(run_id, beginning, appended)
            with driving(run, self._model, self._tool_calls) as steps:
                for _ in steps:
                    while appended:
                        yield appended.popleft()
        except BaseException as error:
            self._give_up(run_id, run, error)
            raise
        while appended:  # what was appended while it ended
            yield appended.popleft()
