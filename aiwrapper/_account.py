"""What a tool call uses of models: whatever is asked in its handler counts for the run that has made the call.

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


class CallAccount:
    """What one call uses. A subscriber of the runs that have joined it.

    Args:
        refusal: why the run that has made the call may use no more; None if it may. Asked from any thread.
        changed: told that there may be more; called in the threads of the runs.
    """

    def __init__(self, refusal: Callable[[], str | None], changed: Callable[[], object]) -> None:
        self._refusal = refusal
        self._changed = changed
        self._spendings: list[Callable[[], Spent]] = []  # appended to by any thread
        self._closed: Spent | None = None

    def join(self, spent: Callable[[], Spent]) -> None:
        """One more run is begun in the call; `spent` says what it has used so far, to any thread."""
        self._spendings.append(spent)

    @property
    def spent(self) -> Spent:
        """What the call has used so far."""
        if self._closed is not None:
            return self._closed
        total = NOTHING_SPENT
        for spent in tuple(self._spendings):
            total = total.plus(spent())
        return total

    def refusal(self) -> str | None:
        """Why no more may be used; None if more may."""
        return None if self._closed is not None else self._refusal()

    def close(self) -> None:
        """The call is over. A run that outlives it counts up to here, and is on its own."""
        self._closed = self.spent
        self._spendings.clear()

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

    __slots__ = ("_budget", "_calls", "_run", "payers")  # there may be thousands

    def __init__(self, run: Spender, budget: Budget | None) -> None:
        self._run = run
        self._budget = budget
        self._calls: tuple[CallAccount, ...] = ()  # replaced by the run's thread
        payer = _account.get()
        self.payers: tuple[CallAccount, ...] = () if payer is None else (payer,)
        """Who has to be told of the run's entries: the call that it is begun in, if there is one."""
        for payer in self.payers:
            payer.join(self.spent)

    def call(self, changed: Callable[[], object]) -> CallAccount:
        """The account of a call that is about to be made.

        Args:
            changed: told, in any thread, that there may be more on it.
        """
        call = CallAccount(self.refusal, changed)
        self._calls += (call,)
        return call

    def close(self) -> None:
        """The run has ended. Lets go of it, so that it goes when nobody holds it any more."""
        self._run = _Ended(self._run.run_id, self._run.state)
        self._calls = ()

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
        for call in self._calls:  # and not the log, which hears of it a moment later
            spent = spent.plus(call.spent)
        return evolve(spent, usage=evolve(spent.usage, complete=False))
