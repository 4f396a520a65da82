"""The agent as a step machine: what comes next, with no I/O, no clock and no entry of its own making.

    while not isinstance(next_step := machine.next_step(), Finished):
        match next_step:
            case CallModel():  # the driver asks the model and appends what it says
            case RunTools():   # the driver runs user code and appends what became of it

All that the machine knows is the state that the log folds to, so a driver that appends the same entries
gets the same steps: on threads, on trio, on asyncio, after a crash, from a recording.
"""

from typing import Literal, TypeAlias

from attrs import field, frozen

from aiwrapper._core.conversation import Conversation, OpenRun, RunReport, State, run_report, step
from aiwrapper._core.errors import ErrorKind
from aiwrapper._core.log import Entry
from aiwrapper._core.messages import ToolCall


@frozen
class CallModel:
    """Ask the model for a turn: append `TurnStarted`, then what `reply` says, up to `TurnFinished`.

    If it can't be had, append `RunFailed` or `RunStopped`; what arrived is kept.
    """

    run_id: str
    turn: int
    conversation: Conversation = field(kw_only=True)


@frozen
class PendingCall:
    """A call to be executed; `index` is the one its entries name."""

    index: int
    call: ToolCall


@frozen
class RunTools:
    """Execute these calls, in parallel if you like: append `ToolStarted` before and `ToolFinished` after each."""

    run_id: str
    turn: int
    calls: tuple[PendingCall, ...]


@frozen
class Finished:
    """The run is over.

    Args:
        run_id: the run.
        status: what became of it.
        report: how it ended, if the log says so already; None: it is for the driver to append `RunFinished`
            (completed), `RunFailed` with `error` and `message` (failed), or `RunStopped` (stopped, between two steps).
        error: the class of the failure.
        message: for people.
    """

    run_id: str
    status: Literal["completed", "stopped", "failed"]
    report: RunReport | None = field(default=None, kw_only=True)
    error: ErrorKind | None = field(default=None, kw_only=True)
    message: str = field(default="", kw_only=True)


Step: TypeAlias = CallModel | RunTools | Finished


class AgentMachine:
    """One run. Not thread-safe: whoever appends (under the run's lock) also asks for the next step.

    Args:
        state: what the log says so far.
        run_id: the run; its `RunStarted` is in the log already, or is appended first.
        max_turns: how often the model is asked before the run fails with `limit`; at least 1.

    Raises:
        ValueError: `max_turns` is less than 1.
    """

    def __init__(self, state: State, run_id: str, *, max_turns: int) -> None:
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns!r}")
        self._state = state
        self._run_id = run_id
        self._max_turns = max_turns

    @property
    def state(self) -> State:
        """What the log says up to the last entry appended."""
        return self._state

    def append(self, entry: Entry) -> None:
        """Take one entry, of this run or of anybody."""
        self._state = step(self._state, entry)

    def next_step(self, *, winding_down: bool = False, refusal: str | None = None) -> Step:
        """What to do next. Looking changes nothing.

        Args:
            winding_down: the model is not to be asked again; the step under way is finished, its tools included, so
                that no call is left without its real result (S10).
            refusal: why the model is not to be asked again, since the budget is used up; None if it may be. The step
                under way is finished all the same (U3).

        Raises:
            RuntimeError: the last step is not done: a turn has begun and not ended, or a call was started
                and has no result. Append what became of it, or how the run ended.
        """
        run = self._state.run
        if run is None or run.run_id != self._run_id:
            return self._ended()
        if run.turn is not None:
            return self._within_turn(run)
        if not run.asks_again:
            return Finished(self._run_id, "completed")
        if winding_down:
            return Finished(self._run_id, "stopped")
        if refusal is not None:
            return Finished(self._run_id, "failed", error="budget", message=refusal)
        if run.turns >= self._max_turns:
            return Finished(
                self._run_id,
                "failed",
                error="limit",
                message=f"The model still asked for tools after {run.turns} turns, which is the limit (max_turns).",
            )
        return CallModel(self._run_id, run.last_turn + 1, conversation=self._state.conversation)

    def _within_turn(self, run: OpenRun) -> RunTools:
        turn = run.turn
        assert turn is not None
        if not turn.is_whole:
            raise RuntimeError(f"turn {turn.number} of run {run.run_id!r} has begun and not ended")
        calls = tuple(
            PendingCall(index, call)
            for index, call in turn.calls(run.run_id)
            if turn.outcome(index) is None and not turn.is_started(index)
        )
        if not calls:
            raise RuntimeError(f"calls of turn {turn.number} of run {run.run_id!r} have no result yet")
        return RunTools(self._run_id, turn.number, calls)

    def _ended(self) -> Finished:
        report = run_report(self._state, self._run_id)
        if report is None:
            raise RuntimeError(f"run {self._run_id!r} has not been started: append RunStarted first")
        assert report.status != "running"
        return Finished(self._run_id, report.status, report=report, error=None, message=report.message)
