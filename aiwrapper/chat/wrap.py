"""An agent that answers in chats: one run a chat, one token a run, each in a thread of its own.

A run belongs to nobody who is connected: it goes on when a page is closed, and ends when it has answered, is stopped,
or the agent is closed.
"""

import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

from aiwrapper._agent import Agent
from aiwrapper._core.log import RunFailed, RunStarted, RunStopped, TerminalEntry
from aiwrapper._core.text import describe_exception
from aiwrapper._core.tools import Tool
from aiwrapper._run import Run, RunResult
from aiwrapper.chat._answering import Answering
from aiwrapper.chat._state import Configuration
from aiwrapper.chat.data import ChatAppData
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.threads import complete
from aiwrapper.model_spec import ModelSpec
from cancel_token import CancelReason
from cancel_token.aio import run_sync
from cancel_token.loops import Loop


class WrapChatAgent:
    """Answers in the chats of `data` with `agent`, as a context manager of either kind: `with` or `async with`.

    It answers what is asked for from now on, in this process: a message that is sent or edited, a retry, a
    continuation. It never begins by itself. `data.stop_message(chat_id, run_id)` stops a run.

    Args:
        data: the chats.
        agent: a `ChatAgent` or an `AsyncChatAgent`; its model, tools and instructions answer, in each chat's own
            conversation. The agent's conversation is not touched. Tools that are `async def` run as tasks of the loop
            in which the `async with` block is entered; without one, a run with such tools fails and says so.
        models: what a chat may be configured to be answered by instead of the agent's own model, by name.

    Raises:
        RuntimeError: another one answers in these chats already.
    """

    def __init__(
        self, data: ChatAppData, agent: Agent, *, models: Mapping[str, ModelSpec] | None = None
    ) -> None:
        self.data = data
        self.agent = agent
        self.models: Mapping[str, ModelSpec] = MappingProxyType(dict(models or {}))
        self._lock = threading.Lock()  # guards what follows
        self._threads: dict[threading.Thread, Answering] = {}
        self._closed: CancelReason | None = None
        self._loop: Loop | None = None  # for tools that are tasks
        data.answer_with(self._answer)

    def __enter__(self) -> "WrapChatAgent":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> "WrapChatAgent":
        self._loop = Loop()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the runs that are going on."""
        with self._lock:
            return tuple(answering.run_id for answering in self._threads.values())

    def configurable(self, settings: Configuration) -> None:
        """Refuse settings that no run could have.

        Raises:
            ValueError: there is no such model, or no such tool.
        """
        if settings.model is not None and settings.model not in self.models:
            raise ValueError(f"there is no model {settings.model!r}: choose one of {', '.join(self.models)}")
        for name in settings.tools or ():
            if name not in self.agent.tools:
                raise ValueError(
                    f"there is no tool {name!r}: choose from {', '.join(self.agent.tools) or 'none'}"
                )

    def close(self, reason: CancelReason | None = None) -> None:
        """Stop all runs and wait until each has ended and its end is in the store. Nothing is answered from then on.

        Blocks, at most as long as tools get to return after a stop. Calling it again waits, too.

        Args:
            reason: why the runs are stopped; None for the shutdown that it mostly is.
        """
        if reason is None:
            reason = CancelReason("shutdown", "the server was shut down")
        with self._lock:
            if self._closed is None:
                self._closed = reason
                self.data.answer_with(None)
            threads = tuple(self._threads.items())
        for _, answering in threads:
            answering.token.cancel_and_report(reason)
        for thread, _ in threads:
            thread.join()

    async def aclose(self, reason: CancelReason | None = None) -> None:
        """`close` for a task of trio or asyncio. Cancelling it does not shorten it: the runs are stopped already."""
        await run_sync(self.close, reason)

    def _answer(self, answering: Answering) -> None:
        if self._loop is None and any(made.needs_loop for made in self.agent.tools.values()):
            message = (
                "a tool is async def and has no loop to run in: enter the WrapChatAgent with `async with`"
            )
            _end(answering, RunFailed(answering.run_id, error="internal", message=message, at=time.time()))
            return
        thread = threading.Thread(
            target=self._run_to_the_end, args=(answering,), name=f"run {answering.run_id}"
        )
        with self._lock:
            closed = self._closed
            if closed is None:
                self._threads[thread] = answering
        if (
            closed is not None
        ):  # it was asked for just before, and nobody would wait for a thread that begins now
            _end(
                answering,
                RunStopped(answering.run_id, reason=closed.kind, message=closed.message, at=time.time()),
            )
            return
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            with self._lock:
                del self._threads[thread]
            message = describe_exception(error)
            _end(answering, RunFailed(answering.run_id, error="internal", message=message, at=time.time()))

    def _run_to_the_end(self, answering: Answering) -> None:
        try:
            self._run(answering)
        finally:
            try:
                answering.release()
            finally:
                with self._lock:
                    del self._threads[threading.current_thread()]

    def _run(self, answering: Answering) -> RunResult:
        settings = answering.state.configuration
        agent = self.agent
        lang = agent.lang if settings.model is None else self.models.get(settings.model, agent.lang)
        tools = _chosen(agent.tools, settings)
        run = Run(
            answering.state.log,
            answering.run_id,
            user_message=None,
            token=answering.token,
            max_turns=agent.max_turns,
            budget=agent.budget,
            sink=answering.log,
            subscribers=(),
            now=time.time,
            settled=_nobody,
        )
        instructions = agent.instructions if settings.instructions is None else settings.instructions
        executor = ToolCalls(tools, agent.tool_grace_seconds, self._loop)
        return complete(run, lang.call(instructions, tools.values()), executor)


def _chosen(
    tools: Mapping[str, Tool[..., object]], settings: Configuration
) -> Mapping[str, Tool[..., object]]:
    if settings.tools is None:
        return tools
    return {name: tools[name] for name in settings.tools if name in tools}


def _end(answering: Answering, ending: TerminalEntry) -> None:
    """End a run that nobody has begun."""
    try:
        answering.log.append(RunStarted(answering.run_id, at=time.time()))
        answering.log.append(ending)
    finally:
        answering.release()


def _nobody(run: Run) -> None:
    """Nobody waits for this run but those who follow the log."""
