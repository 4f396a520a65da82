"""What a tool call uses of models: whatever is asked in its handler counts for the run that has made the call.

So does what it leaves behind, and the time that it takes to come to rest.

An agent that is a tool, `agent.run` or `lang.ask` in a handler: each is a run, and a run that is begun in the context
of a call joins that call's account. Nothing is handed on from run to run. Who wants to know what a call has used adds
up what its runs say at that moment, so the sum is exact however deep they are nested and however many work side by
side, and none of them waits for another.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from attrs import evolve, frozen

from aiwrapper._core.budget import NOTHING_SPENT, Budget, Spent
from aiwrapper._core.conversation import State
from aiwrapper._core.log import (
    Entry,
    RunFailed,
    RunFinished,
    RunStopped,
    ToolUsageReported,
    TurnStarted,
    UsageReported,
)
from aiwrapper._core.messages import ToolCall


class CallAccount:
    """What one call uses. A subscriber of the runs that have joined it.

    Args:
        refusal: why the run that has made the call may use no more; None if it may. Asked from any thread.
        changed: told that there may be more; called in the threads of the runs.
        grace_seconds: how long after a stop the call may take to return.
    """

    def __init__(
        self, refusal: Callable[[], str | None], changed: Callable[[], object], grace_seconds: float
    ) -> None:
        self._refusal = refusal
        self._changed = changed
        self._grace_seconds = grace_seconds
        self._runs: list[RunAccount] = []  # appended to by any thread
        self._closed: Spent | None = None
        self.left_behind: list[ToolCall] = []
        """Calls of its runs, and of theirs, that were left behind; appended to by the threads of the runs."""

    def join(self, run: "RunAccount") -> None:
        """One more run is begun in the call."""
        self._runs.append(run)

    @property
    def spent(self) -> Spent:
        """What the call has used so far."""
        if self._closed is not None:
            return self._closed
        total = NOTHING_SPENT
        for run in tuple(self._runs):
            total = total.plus(run.spent())
        return total

    @property
    def is_open(self) -> bool:
        """Whether the call is not over."""
        return self._closed is None

    @property
    def grace(self) -> float:
        """How many seconds it may take after a stop until nothing of the call is left."""
        return self._grace_seconds + self.nested_grace

    @property
    def nested_grace(self) -> float:
        """How many seconds the calls of its runs may take, for which it waits."""
        return max(
            (call.grace for run in tuple(self._runs) for call in run.calls if call.is_open), default=0.0
        )

    def refusal(self) -> str | None:
        """Why no more may be used; None if more may."""
        return None if self._closed is not None else self._refusal()

    def close(self) -> None:
        """The call is over. A run that outlives it counts up to here, and is on its own."""
        self._closed = self.spent
        self._runs.clear()

    def append(self, entry: Entry, /) -> None:
        """Told of the entries of a run that has joined."""
        match entry:
            case (
                TurnStarted()
                | UsageReported()
                | ToolUsageReported()
                | RunFinished()
                | RunStopped()
                | RunFailed()
            ):
                self._changed()
            case _:
                pass


_account: ContextVar[CallAccount | None] = ContextVar(
    "the account of the call that is worked for", default=None
)


@contextmanager
def charging(account: CallAccount) -> Iterator[None]:
    """What is asked of models inside the block, and in what copies its context, is on this account."""
    before = _account.set(account)
    try:
        yield
    finally:
        _account.reset(before)


class Spender(Protocol):
    """A run, as far as it is asked what it has used."""

    @property
    def run_id(self) -> str:
        """Which it is."""

    @property
    def state(self) -> State:
        """What the log of the run says so far; from any thread."""


@frozen
class _Ended:
    run_id: str
    state: State


class RunAccount:
    """What one run uses, its calls included, and whether it may use more. Everything may be asked from any thread.

    A run that is begun in a tool joins the account of the call.

    Args:
        run: it.
        budget: how much its conversation may use; None for no limit.
    """

    __slots__ = ("_budget", "_run", "calls", "payers")  # there may be thousands

    def __init__(self, run: Spender, budget: Budget | None) -> None:
        self._run = run
        self._budget = budget
        self.calls: tuple[CallAccount, ...] = ()  # replaced by the run's thread
        payer = _account.get()
        self.payers: tuple[CallAccount, ...] = () if payer is None else (payer,)
        """Who has to be told of the run's entries: the call that it is begun in, if there is one."""
        for payer in self.payers:
            payer.join(self)

    def call(self, changed: Callable[[], object], grace_seconds: float) -> CallAccount:
        """The account of a call that is about to be made.

        Args:
            changed: told, in any thread, that there may be more on it.
            grace_seconds: how long after a stop the call may take to return.
        """
        call = CallAccount(self.refusal, changed, grace_seconds)
        self.calls += (call,)
        return call

    def leave_behind(self, call: ToolCall) -> None:
        """Tell whoever pays of a call that still runs."""
        for payer in self.payers:
            payer.left_behind.append(call)

    def close(self) -> None:
        """The run has ended. Lets go of it, so that it goes when nobody holds it any more."""
        self._run = _Ended(self._run.run_id, self._run.state)
        self.calls = ()

    def spent(self) -> Spent:
        """What the run has used so far; not complete before it has ended."""
        return self._spent(self._run.state)

    def refusal(self) -> str | None:
        """Why no model may be asked any more, by the budget or by that of whoever pays; None if one may."""
        if self._budget is not None:
            state = self._run.state
            spent = state.conversation.spent  # that of the run, too, once it has ended
            if self._run.run_id not in state.runs:
                spent = spent.plus(self._spent(state))
            refusal = self._budget.refusal(spent)
            if refusal is not None:
                return refusal
        return next(filter(None, (payer.refusal() for payer in self.payers)), None)

    def _spent(self, state: State) -> Spent:
        run = state.run
        if run is None or run.run_id != self._run.run_id:
            report = state.runs.get(self._run.run_id)
            return NOTHING_SPENT if report is None else report.spent
        spent = run.spent_itself
        for call in self.calls:  # and not the log, which hears of it a moment later
            spent = spent.plus(call.spent)
        return evolve(spent, usage=evolve(spent.usage, complete=False))
