"""Runs tools: a `def` in a thread of its own, an `async def` in a task of the loop, all calls of a turn side by side.

What is called decides which of the two it is, and not what is below its decorators.

A stop reaches a tool through its token, a child of the run's, and an `async def` also where it waits. What it does with
it is the tool's affair, so after the stop the tools are given a grace period. One that has not returned by then is left
behind in its thread or task, reported, and cannot do the conversation anything any more: its result has nowhere to go.

What became of a call is written by its thread or task into its `_Execution`; all entries are appended by the run's
thread.
"""

import contextvars
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

import anyio
from attrs import define, field, frozen

from aiwrapper._account import CallAccount, charging
from aiwrapper._audience import SinkFailed
from aiwrapper._core.agent import PendingCall, RunTools
from aiwrapper._core.budget import NOTHING_SPENT, Spent
from aiwrapper._core.log import ToolFinished, ToolStarted, ToolUsageReported
from aiwrapper._core.messages import ToolOutcome
from aiwrapper._core.schemas import result_text
from aiwrapper._core.text import describe_exception, leaves_of, well_formed
from aiwrapper._core.tools import InvalidArguments, Tool, ToolDenied
from aiwrapper._run import Run
from cancel_token import CancelReason, CancelToken
from cancel_token.aio import fail_on_cancel, run_sync
from cancel_token.http import use_token
from cancel_token.loops import Loop

DEFAULT_GRACE_SECONDS: Final = 3.0
"""Chosen by hand: a second more than `cancel_token.processes` gives a child between asking and killing."""


@frozen
class ToolCalls:
    """Executes the calls of a turn.

    Args:
        tools: what is offered, by name.
        grace_seconds: how long after a stop a call may take to return before it is left behind.
        loop: runs those that are `async def`; needed only if there are some.
    """

    tools: Mapping[str, Tool[..., object]]
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    loop: Loop | None = None

    def execute(self, step: RunTools, run: Run) -> Iterator[None]:
        """Execute all calls, giving way after each entry. Close the iterator if you leave it early.

        However it is left, each call has ended or is reported as abandoned.

        Raises:
            Cancelled: the run has been stopped; every result that came in time is in the log.
        """
        executions: list[_Execution] = []
        changes: SimpleQueue[None] = SimpleQueue()  # no Condition: a stop may come from a signal handler
        try:
            with run.token.on_cancel(changes.put, None):
                for pending in step.calls:
                    execution = self._begin(pending, step, run, changes)
                    if execution is not None:
                        executions.append(execution)
                        execution.start()
                    yield
                while any(not execution.logged for execution in executions):
                    changes.get()
                    for execution in executions:
                        if execution.log_result(run) or execution.log_usage(run):
                            yield
                    run.token.check()
        except BaseException as error:
            run.interrupt(error)
            self._wait_for_the_end(executions, changes, run)
            raise
        finally:  # a second Ctrl-C ends the waiting, not the truth
            for execution in executions:
                execution.leave(run)
            _log_results(executions, run)

    def _begin(
        self, pending: PendingCall, step: RunTools, run: Run, changes: "SimpleQueue[None]"
    ) -> "_Execution | None":
        """Make a call ready to run; one that can't be run is answered at once."""
        tool = self.tools.get(pending.call.name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            content = f"There is no tool {pending.call.name!r}. The tools are: {known}."
            run.append(_finished(step, pending, "unknown_tool", content))
            return None
        try:
            arguments = tool.arguments(pending.call.arguments)
        except InvalidArguments as error:
            run.append(_finished(step, pending, "invalid_arguments", f"The tool was not called: {error}"))
            return None
        run.append(ToolStarted(step.run_id, step.turn, pending.index))
        if self.loop is None or not tool.needs_loop:
            return _InThread(step, pending, tool, arguments, run, changes, self.grace_seconds)
        return _InTask(step, pending, tool, arguments, run, changes, self.grace_seconds, self.loop)

    def _wait_for_the_end(
        self, executions: "list[_Execution]", changes: "SimpleQueue[None]", run: Run
    ) -> None:
        """Wait until no call is running, at most the grace time; for one that waits for others, theirs after it."""

        def wait(for_whom: Collection[_Execution], seconds: float) -> None:
            grace = CancelToken(seconds, name="grace of tools", clock=run.token.clock)
            with grace.on_cancel(changes.put, None):
                while not grace.cancelled and any(execution.is_running for execution in for_whom):
                    changes.get()

        # Now: when our time is over, theirs may just be, and whoever waited for them be about to return.
        nested = {execution: execution.account.nested_grace for execution in executions}
        wait(executions, self.grace_seconds)
        if any(nested.values()):
            wait([execution for execution in executions if nested[execution]], max(nested.values()))


@define(eq=False)
class _Execution(ABC):
    """One call that is being run."""

    step: RunTools
    pending: PendingCall
    tool: Tool[..., object]
    arguments: dict[str, Any]  # Any: each value has its parameter's type
    run: Run
    changes: "SimpleQueue[None]"
    grace_seconds: float
    account: CallAccount = field(init=False)
    told: Spent = field(default=NOTHING_SPENT, init=False)
    """What is in the log of what it has used."""
    logged: bool = field(default=False, init=False)
    abandoned: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    """Set as the last word but one of its thread or task; then `result` is final."""
    result: ToolFinished | None = field(default=None, init=False)
    """None after `ended`: the stop interrupted it, so there is no result."""

    def __attrs_post_init__(self) -> None:
        self.account = self.run.account.call(partial(self.changes.put, None), self.grace_seconds)

    @property
    @abstractmethod
    def is_running(self) -> bool:
        """Whether its handler may be running."""

    @abstractmethod
    def start(self) -> None:
        """Call the handler, somewhere else."""

    def leave(self, run: Run) -> None:
        """Have done with it: leave it behind if its handler is still running."""
        if self.is_running:
            self.abandoned = True
            run.abandon(self.pending.call)
        for call in self.account.left_behind:
            run.abandon(call)

    def log_result(self, run: Run) -> bool:
        """Append what it has used and its result, if there is one that has not been appended."""
        if self.logged or not (self.ended or self.abandoned):
            return False
        self.account.close()
        self.log_usage(run)  # before the result, which may close the turn
        if self.result is not None and not self.abandoned:
            try:  # also after the stop: a finished result is not thrown away (C7)
                run.append_closing(self.result)
            except SinkFailed:  # everybody else has it
                self.logged = True
                raise
        self.logged = True
        return self.result is not None

    def log_usage(self, run: Run) -> bool:
        """Append what it has used of models, if that is more than the log says."""
        spent = self.account.spent
        if spent == self.told:
            return False
        step = self.step
        entry = ToolUsageReported(
            step.run_id, step.turn, self.pending.index, turns=spent.turns, usage=spent.usage
        )
        try:  # also after the stop: it has been used
            run.append_closing(entry)
        except SinkFailed:  # everybody else has it
            self.told = spent
            raise
        self.told = spent
        return True

    def end(self) -> None:
        """The last word of its thread or task: the result is final."""
        self.ended = True
        self.changes.put(None)

    def refuse(self, why: str) -> None:
        """It could not be started."""
        self.result = self.finished("raised", f"The tool could not be started: {why}")
        self.end()

    @contextmanager
    def token(self) -> Iterator[CancelToken]:
        """The token that the handler obeys, put in its place among the arguments."""
        with (
            self.run.token.child(name=f"tool {self.tool.name}") as token,
            use_token(token),
            charging(self.account),
        ):
            token.check()  # nothing begins after a stop, though the log says that it was about to
            if self.tool.token_parameter is not None:
                self.arguments[self.tool.token_parameter] = token
            yield token

    def returned(self, value: object) -> ToolFinished:
        """The result of a handler that has returned."""
        if inspect.iscoroutine(value):  # of an `async def` that the tool wraps; in a loop it has been awaited
            value.close()
            return self.finished(
                "raised", "The tool did nothing: it has to be awaited, and its agent blocks."
            )
        try:
            return self.finished("returned", result_text(value))
        except TypeError as error:
            return self.finished("raised", f"The tool ran to its end, but what it returned is lost: {error}.")

    def raised(self, error: BaseException) -> ToolFinished | None:
        """The result of a handler that has raised."""
        leaves = list(leaves_of(error))  # of a task group, as far as it is one
        if all(isinstance(leaf, ToolDenied) for leaf in leaves):
            why = " ".join(filter(None, map(str, leaves)))
            return self.finished("denied", well_formed(why) or "The user refused.")
        if self.run.token.cancelled:
            return None  # the stop, or what came of it: it may have partly executed
        return self.finished("raised", describe_exception(error))

    def finished(self, outcome: ToolOutcome, content: str) -> ToolFinished:
        return _finished(self.step, self.pending, outcome, content)


@define(eq=False)
class _InThread(_Execution):
    """A call of a `def`."""

    thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        context = contextvars.copy_context()
        self.thread = threading.Thread(
            target=context.run,
            args=(self._work,),
            name=f"aiwrapper tool {self.tool.name}",
            daemon=True,  # one that is left behind must not keep the process alive
        )

    @property
    def is_running(self) -> bool:
        return not self.ended and self.thread.ident is not None

    def start(self) -> None:
        try:
            self.thread.start()
        except RuntimeError as error:  # the system has no thread left
            self.refuse(str(error))

    def leave(self, run: Run) -> None:
        super().leave(run)
        if self.ended and self.thread.ident is not None:
            self.thread.join()

    def _work(self) -> None:
        self.run.waits_for.add(self.thread)
        try:
            self.result = self._called()
        except BaseException as error:  # of an exception's own methods
            # Without a result the run could not go on.
            self.result = self.finished("raised", describe_exception(error))
        finally:
            self.run.waits_for.discard(self.thread)
            self.end()

    def _called(self) -> ToolFinished | None:
        try:
            with self.token():
                value = self.tool.handler(**self.arguments)
        except BaseException as error:  # also SystemExit: a tool can't end more than itself
            return self.raised(error)
        return self.returned(value)


@define(eq=False)
class _InTask(_Execution):
    """A call of an `async def`, or of a `def` around one."""

    loop: Loop
    begun: bool = field(default=False, init=False)

    @property
    def is_running(self) -> bool:
        return self.begun and not self.ended

    def start(self) -> None:
        self.begun = True
        self.loop.start_soon(
            self._work,
            context=contextvars.copy_context(),
            name=f"aiwrapper tool {self.tool.name}",
            lost=partial(self.refuse, "the event loop has ended"),
            left=self._left,
        )

    def _left(self) -> None:
        """The loop was closed while the handler waited, and will never go on with it."""
        self.run.stop(CancelReason("runtime", "the event loop was closed"))
        self.end()

    async def _work(self) -> None:
        task = anyio.get_current_task()
        self.run.waits_for.add(task)
        try:
            self.result = await self._called()
        except anyio.get_cancelled_exc_class() as error:
            if self._loop_ends():
                raise
            self.result = self.raised(error)
        except BaseException as error:  # of an exception's own methods
            self.result = self.finished("raised", describe_exception(error))
        finally:
            self.run.waits_for.discard(task)
            self.end()

    async def _called(self) -> ToolFinished | None:
        try:
            with self.token() as token, fail_on_cancel(token):
                if self.tool.is_async:
                    value: object = self.tool.handler(**self.arguments)
                else:  # it may block
                    value = await run_sync(self._in_thread)
                if inspect.isawaitable(value):
                    value = await value
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            self._loop_ends()  # perhaps this is of a clean-up
            return self.raised(error)
        return self.returned(value)

    def _in_thread(self) -> object:
        thread = threading.current_thread()
        self.run.waits_for.add(thread)
        try:
            return self.tool.handler(**self.arguments)
        finally:
            self.run.waits_for.discard(thread)

    def _loop_ends(self) -> bool:
        """Whether the loop is ending, and so does the run."""
        ends = self.loop.has_cancelled_task()
        if ends:
            self.run.stop(CancelReason("runtime", "the event loop was ended"))
        return ends


def _log_results(executions: Iterable[_Execution], run: Run) -> None:
    """Append what has not been; a sink that fails at one keeps no other from being told (C7).

    Raises:
        SinkFailed: the sink did not take the first of them.
    """
    failed: SinkFailed | None = None
    for execution in executions:
        try:
            execution.log_result(run)
        except SinkFailed as error:
            failed = error  # only once: it is told nothing more
            execution.log_result(run)  # if it was the usage that failed
    if failed is not None:
        raise failed


def _finished(step: RunTools, pending: PendingCall, outcome: ToolOutcome, content: str) -> ToolFinished:
    return ToolFinished(step.run_id, step.turn, pending.index, outcome=outcome, content=content)
