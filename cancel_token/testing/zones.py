"""Dead zones: stretches of code that run without a look at any token, and so cannot be stopped.

A cancel at every check proves nothing about a loop without one. Lines are counted, not seconds: they are the same on
every machine, so a test can hold them below a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs

from cancel_token._token import CancelToken
from cancel_token.testing._clock import ManualClock
from cancel_token.testing._lines import LineEvents, Target
from cancel_token.testing._plans import Plan
from cancel_token.testing._points import Mark, site_of
from cancel_token.testing._probe import installed
from cancel_token.testing._trial import Make, Scenario, Trial, watch

S = TypeVar("S")

LOOKS = ("check", "park", "wake")  # a stop that came before one of these has its effect there


@attrs.frozen(kw_only=True)
class DeadZone:
    """Lines that one thread ran without a look at a token.

    Args:
        lane: The thread, by descent: `0` is the one that runs the work.
        lines: How many, repeated ones each time.
        sites: Which, each once, in the order in which they were first met.
    """

    lane: str
    lines: int
    sites: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.lines} lines in lane {self.lane} from {self.sites[0]} to {self.sites[-1]}"


def dead_zones(
    make: Make[S],
    run: Callable[[S, CancelToken], object],
    *,
    targets: Sequence[Target] | None = None,
    clock: Callable[[], ManualClock] | None = None,
) -> tuple[DeadZone, ...]:
    """Run the work once, undisturbed, and measure the stretches between its looks at a token.

    A look is a check, the beginning of a wait, and its end. The way to the first and from the last one count, too.

    Args:
        make: As for `explore()`.
        run: As for `explore()`.
        targets: Whose lines count; by default those of the files of `run` and of the subject's class.
        clock: As for `explore()`.

    Returns:
        All of them, the longest first.

    Raises:
        RuntimeError: An exploration is going on in this process, or `make` or the teardown failed.
    """
    scenario = Scenario(make=make, run=run, check=lambda subject, outcome: None, clock=clock, targets=targets)
    lines = LineEvents((run,) if targets is None else targets)
    trial = Trial(scenario, Plan("line"), lines, None, watch(()), None)
    with installed(), lines.installed():
        attempt = trial.perform()
    if attempt.verdict == "ERROR":
        raise RuntimeError(f"no dead zones could be measured: {attempt.note}")
    zones = [zone for lane, trace in trial.recording.traces().items() for zone in _zones(lane, trace)]
    return tuple(sorted(zones, key=lambda zone: -zone.lines))


def _zones(lane: str, trace: Sequence[Mark]) -> Iterator[DeadZone]:
    marks: list[Mark] = []
    for mark in (*trace, ("late", None, 0)):
        if mark[0] == "line":
            marks.append(mark)
        elif marks and (mark[0] in LOOKS or mark[0] == "late"):
            yield DeadZone(lane=lane, lines=len(marks), sites=tuple(dict.fromkeys(map(site_of, marks))))
            marks = []
