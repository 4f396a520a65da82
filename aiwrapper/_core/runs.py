"""What is known of a run besides its messages: while it is open, and how it ended."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from attrs import field, frozen

from aiwrapper._core.budget import NOTHING_SPENT, Spent
from aiwrapper._core.log import StopWhere
from aiwrapper._core.messages import ToolCall, ToolOutcome, Usage
from aiwrapper._core.turns import OpenTurn
from aiwrapper._core.versions import Versions

RunStatus: TypeAlias = Literal["running", "completed", "stopped", "failed"]
"""What became of a run. A crash is a stop that nobody announced: `stopped`, with the reason `crash`."""


@frozen
class CallReport:
    """What became of one call.

    Args:
        call: the call.
        outcome: None while it is not known.
        started: whether its handler was called, so that it may have had an effect.
    """

    call: ToolCall
    outcome: ToolOutcome | None = field(kw_only=True)
    started: bool = field(kw_only=True)


@frozen
class RunReport:
    """How a run stands, or how it ended.

    Args:
        run_id: the run.
        status: what became of it.
        turns: how many times a model was asked, also by agents that it called as tools.
        usage: the sum over all of these turns (U2); complete only if the provider's last count of each was seen (U1).
        calls: every call that the provider finished, in order.
        reason: why it was stopped, `crash` if nobody said; the class of the failure if it failed; else None.
        message: for people.
        where: what it was doing when it was stopped.
    """

    run_id: str
    status: RunStatus = field(kw_only=True)
    turns: int = field(kw_only=True)
    usage: Usage = field(kw_only=True)
    calls: tuple[CallReport, ...] = field(kw_only=True)
    reason: str | None = field(default=None, kw_only=True)
    message: str = field(default="", kw_only=True)
    where: StopWhere | None = field(default=None, kw_only=True)

    @property
    def spent(self) -> Spent:
        """What it has used of models."""
        return Spent(turns=self.turns, usage=self.usage)


@frozen
class OpenRun:
    """A run that has not said how it ended.

    Args:
        run_id: the run.
        turn: the turn that is open: being said, or its tools being run.
        last_turn: the number of the last turn begun, 0 before the first.
        turns: how many were begun.
        asks_again: whether the last closed turn had calls, so that the model has to be asked again.
        usage: the sum over all requests but the last turn's last one.
        turn_usage: that one's, as far as reported.
        calls: the calls of all closed turns.
        called: what calls have used of models so far, by turn and index. Never changed, only replaced.
    """

    run_id: str
    turn: OpenTurn | None = None
    last_turn: int = 0
    turns: int = 0
    asks_again: bool = True
    usage: Usage = field(default=NOTHING_SPENT.usage)
    turn_usage: Usage | None = None
    calls: Versions[CallReport] = field(factory=Versions)
    called: Mapping[tuple[int, int], Spent] = field(factory=dict, hash=False)

    def with_turn(self, turn: OpenTurn) -> "OpenRun":
        """The run with its turn a bit further."""
        # Not attrs.evolve: this happens at every delta, and evolve asks every field for its name first.
        return OpenRun(
            self.run_id,
            turn,
            self.last_turn,
            self.turns,
            self.asks_again,
            self.usage,
            self.turn_usage,
            self.calls,
            self.called,
        )

    def with_turn_closed(self, calls: Versions[CallReport]) -> "OpenRun":
        """The run without its turn; `calls` are those of all closed turns, that one included."""
        # Not attrs.evolve either: thousands may be stopped together.
        return OpenRun(
            self.run_id,
            None,
            self.last_turn,
            self.turns,
            len(calls) > len(self.calls),
            self.usage,
            self.turn_usage,
            calls,
            self.called,
        )

    @property
    def spent_itself(self) -> Spent:
        """What its own turns have used."""
        usage = self.usage.plus(self.turn_usage or Usage()) if self.turns else self.usage
        return Spent(turns=self.turns, usage=usage)

    @property
    def spent(self) -> Spent:
        """What its own turns and its calls have used."""
        spent = self.spent_itself
        for of_a_call in self.called.values():
            spent = spent.plus(of_a_call)
        return spent
