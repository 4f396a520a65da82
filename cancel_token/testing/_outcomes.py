"""What came of an attempt: the work's outcome, which the oracle judges, and what the oracle found."""

from __future__ import annotations

import linecache
from pathlib import PurePath
from traceback import format_exception_only
from typing import Literal, Self

import attrs

from cancel_token.testing._places import frames_of, place_of
from cancel_token.testing._plans import Plan
from cancel_token.testing._points import Point

OutcomeKind = Literal[
    "returned",
    "cancelled",  # raised Cancelled, of the explored token or one below it; or what the runtime was told to raise
    "raised",  # anything else, also Cancelled of another token
    "hung",  # did not end within `Limits.seconds`, or passed points without end
]
Verdict = Literal[
    "PASS",
    "FAIL",  # something that must hold did not
    "UNRESOLVED",  # the point was not met, or met on another way: nothing is known about it
    "ERROR",  # make, the oracle or the teardown broke
]


SHOWN_CHARACTERS = 300  # chosen by hand, of an exception's text: four lines of a terminal


class Violation(AssertionError):
    """Raised by an oracle: something that must hold does not, and it has a name.

    A plain AssertionError does as well; it is named by its line of source. Failures are grouped by name.

    Args:
        name: Of what was violated.
        detail: What was found.
    """

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


@attrs.frozen
class Breach:
    """One thing that must hold and did not: a name to group by, and what was found."""

    name: str
    detail: str = ""

    @classmethod
    def of(cls, error: AssertionError) -> Self:
        """Read it from what an oracle raised."""
        if isinstance(error, Violation):
            return cls(error.name, error.detail)
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is None:
            return cls(str(error))
        file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        source = linecache.getline(file, line).strip()
        return cls(source or f"{PurePath(file).name}:{line}", str(error))


@attrs.frozen(kw_only=True)
class Raised:
    """What the work raised, in words: the exception itself would keep all that its traceback leads to.

    Args:
        type: The exception's class. Two of one class and from one place are the same, whatever they say.
        text: What it says, with its class; and the group that it was in.
        site: Where it was raised: the innermost line that is of no library we know; empty if nobody was called.
    """

    type: str
    text: str = attrs.field(eq=False)
    site: str

    @classmethod
    def of(cls, error: BaseException, group: BaseException | None = None) -> Self:
        """Read it from an exception.

        Args:
            error: The exception.
            group: The one that was raised, if this one was inside.
        """
        text = _shown(error) if group is None else f"{_shown(error)}\nin {_shown(group)}"
        kind = type(error)
        return cls(
            type=f"{kind.__module__}.{kind.__qualname__}",
            text=text,
            site=place_of(frames_of(error.__traceback__)),
        )

    def __str__(self) -> str:
        return f"the work raised {self.text}" + (f"\n  at {self.site}" if self.site else "")


def _shown(error: BaseException) -> str:
    text = "".join(format_exception_only(error)).strip()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


@attrs.frozen
class After:
    """How long the work went on after the last cancel: its latency, in counts that do not depend on the machine.

    Of several threads, each has its own count, and the highest stands here.

    Args:
        points: How often it looked at a cancelled token, by checking it or by starting to wait on it.
        lines: How many lines of the code under test ran; counted by the `"line"` backend only.
        ticks: How often a task began to wait again; counted by the loops only.
    """

    points: int = 0
    lines: int = 0
    ticks: int = 0


@attrs.frozen(kw_only=True)
class Limits:
    """What an attempt may take; None for no limit.

    Args:
        points: See `After`.
        lines: See `After`.
        ticks: See `After`. A clean-up under a shield may wait, too, and does not do so for ever.
        seconds: After so long an attempt counts as hung. Attempts then run in a thread of their own, which costs a
            little. Without it a run that blocks for ever blocks the exploration; only a loop in which nobody
            and nothing can wake a task any more is known to hang in no time.
        freeze_seconds: How long the `"line"` backend holds the work at a line while `cancel()` does not return. It may
            only wait for a lock that the work holds for a moment; so then the work goes on.
        cancel_seconds: How long `cancel()` may still take after the end of the work, before that is a failure; and
            how long an attempt that hangs may take to end when it is freed, before the exploration gives up.
    """

    points: int | None = 3
    lines: int | None = 2000
    ticks: int | None = 10  # chosen by hand: a clean-up with a handful of waits is no fault
    seconds: float | None = None
    freeze_seconds: float = 1.0  # this and the next: chosen by hand, for busy machines
    cancel_seconds: float = 10.0


@attrs.frozen(kw_only=True)
class Outcome:
    """How the work ended; for the oracle.

    Args:
        kind: Returned, cancelled, raised or hung.
        value: What it returned.
        exception: What it raised.
        fired: Where it was cancelled; empty for the undisturbed run.
        after: How long it went on after that.
    """

    kind: OutcomeKind
    value: object = None
    exception: BaseException | None = None
    fired: tuple[Point, ...] = ()
    after: After = After()

    def legal(self, *kinds: OutcomeKind) -> bool:
        """Is it one of these? An undisturbed run must return, whatever is listed, or raise if that is listed."""
        if not self.fired and self.kind == "cancelled":
            return False  # nobody asked it to
        return self.kind in kinds


@attrs.frozen(kw_only=True)
class Attempt:
    """One run from `make` to the teardown, and what is known of it."""

    plan: Plan
    verdict: Verdict
    kind: OutcomeKind | None = None
    breaches: tuple[Breach, ...] = ()
    raised: Raised | None = None  # where the kind is that
    note: str = ""
    after: After = After()
