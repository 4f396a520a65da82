"""The agent for tasks of trio and asyncio: `ChatAgent` with the same names, awaited.

    agent = AsyncChatAgent(Lang.openai(model="...", api_key="..."), tools=[read_page])
    result = await agent.run("Compare these two pages", token=token)     # token.cancel() from anywhere stops it

A stop by the token is a result and never an exception. The runtime's own cancellation (a scope, a timeout, a
`task.cancel()`) ends the run as stopped with the reason `runtime` and goes on as what it is; what was said is kept.
`async def` tools run as tasks of the loop, `def` tools in threads, those of one turn side by side.
"""

from collections.abc import Callable, Iterable
from functools import partial

from aiwrapper._agent import Agent, Beginning, sub_agent_answer
from aiwrapper._core.conversation import Conversation
from aiwrapper._core.log import Sink
from aiwrapper._core.tools import Tool, tool
from aiwrapper._feed import Feed, Pipe
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers._streamed import StreamedRun
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.aio import AsyncEntries, AsyncRunHandle
from aiwrapper.model_spec import Said, user_message
from cancel_token import CancelReason, CancelToken
from cancel_token.loops import thread_context


class AsyncChatAgent(Agent):
    """An agent for tasks of trio and asyncio; what it is made of is said by `Agent`.

    It belongs to no loop: each run belongs to the one it was begun in. Sinks and subscribers are told in the run's
    thread; who wants the entries in the loop iterates `stream` or a handle. Where a task waits for a run or streams it
    and nobody else is told of it, no sink and no subscriber, the loop itself reads the model's answer from the socket,
    which costs less; all else, and every other run, has a thread.
    """

    async def run(
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
            token: stops it, from anywhere. None: only the runtime does.
            conversation: answer in this conversation instead of the agent's own, which stays as it is; the result
                has what came of it. The agent's sink is not used then.
            sink: has every entry of this run, instead of the agent's.
            subscribers: told of every entry of this run. One that raises is told nothing more, and the run goes on.

        Returns:
            What became of it: completed, stopped or failed.

        Raises:
            Busy: the agent's own conversation is being run.
            ValueError: there is nothing in what the user says.
            BaseException: what the runtime raises in a task that it cancels, with the run settled and nothing left of
                it. On asyncio also if the run was completed at the same moment: `last_result` knows of that, if it is
                the agent's own conversation.
        """
        beginning = Beginning(user_message(said), token, conversation, sink, tuple(subscribers))
        return await self._entries(beginning, read=False).complete()

    def stream(
        self,
        said: Said,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> AsyncEntries:
        """Like `run`, and watch the log grow: `async for entry in agent.stream(...)`. The terminal entry is the last.

        Taking the first entry begins the run. It is never far ahead of who reads it: if that is slow, the model's
        host is made to wait. A stop ends it at once all the same. Leaving the iteration early stops the run with the
        reason `closed`; wrap it in `contextlib.aclosing` to know when nothing of it is left. One task at a time may
        wait for an entry, in the loop in which the first was taken.

        Args:
            said: as for `run`.
            token: as for `run`.
            conversation: as for `run`.
            sink: as for `run`.
            subscribers: as for `run`.

        Raises:
            Busy: on taking the first entry: the agent's own conversation is being run.
            RuntimeError: on taking an entry: another task waits for one.
            ValueError: there is nothing in what the user says.
        """
        beginning = Beginning(user_message(said), token, conversation, sink, tuple(subscribers))
        return self._entries(beginning, read=True)

    async def continue_(
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
        beginning = Beginning(message, token, conversation, sink, tuple(subscribers))
        return await self._entries(beginning, read=False).complete()

    def start(
        self,
        said: Said,
        *,
        token: CancelToken | None = None,
        conversation: Conversation | None = None,
        sink: Sink | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> AsyncRunHandle:
        """Say something and go on at once, with the run in the hand: to watch it, to stop it, to wait for it.

        Not awaited: when it returns, the run has begun. The arguments are those of `run`.

        Raises:
            Busy: the agent's own conversation is being run.
            ValueError: there is nothing in what the user says.
            RuntimeError: the system has no thread left; or there are `async def` tools and this is no task.
        """
        beginning = Beginning(user_message(said), token, conversation, sink, tuple(subscribers))
        feed = Feed()
        return AsyncRunHandle(self._thread(beginning, feed, thread_context()), feed)

    def as_tool(
        self, name: str, description: str, *, started: Callable[[AsyncRunHandle], object] | None = None
    ) -> Tool[..., object]:
        """Offer this agent to another `AsyncChatAgent` as a tool, which is given a message and returns the answer.

        Each call is a run in a new conversation, under a child of the caller's token: stopping the caller stops it.
        Stopping it alone (by its handle) gives the caller a result that says so, and the caller goes on (S11).

        Args:
            name: what the other agent's model calls it.
            description: what that model reads about it: what this agent is good for.
            started: told of each run, which has a thread then: it may be stopped from anywhere.
        """

        async def handled(
            message: str, token: CancelToken, told: Callable[[AsyncRunHandle], object]
        ) -> RunResult:
            async with self.start(message, token=token, conversation=Conversation()) as run:
                told(run)
                return await run.wait()

        async def ask(message: str, *, token: CancelToken) -> str:
            if started is None:
                result = await self.run(message, token=token, conversation=Conversation())
            else:
                result = await handled(message, token, started)
            token.check()
            return sub_agent_answer(result)

        return tool(name=name, description=description)(ask)

    def _entries(self, beginning: Beginning, *, read: bool) -> AsyncEntries:
        """A run that begins when it is iterated, for one task.

        Args:
            beginning: what it begins with.
            read: whether the task wants the entries, or only their end.
        """
        return AsyncEntries(partial(self._begin_streamed, beginning, read))

    def _begin_streamed(
        self,
        beginning: Beginning,
        read: bool,
        stopped: CancelReason | None,
        own: Callable[[StreamedRun], None],
    ) -> None:
        # They are promised to be told in the run's thread, and may take their time.
        in_threads = bool(beginning.subscribers) or self._store_of(beginning) is not None
        pipe = Pipe()

        def streamed(run: Run, executor: ToolCalls) -> StreamedRun:
            if stopped is not None:
                run.stop(stopped)
            own(made := StreamedRun(run, self._model, executor, pipe, in_threads=in_threads))
            return made

        self._started(beginning, streamed, *(pipe,) if read else ())
