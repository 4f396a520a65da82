"""What every exploration of the proof shares: the scripts that are always tried, the limits, and how it is judged."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from attrs import evolve
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from aiwrapper import _agent, _audience, _model_call, _run, agents
from aiwrapper._core import reply
from aiwrapper.drivers import _run_thread, _tool_calls, aio, threads
from aiwrapper.testing import Call, DialectName, HttpError, Redacted, Say, Script, Think, Turn
from aiwrapper.testing.strategies import provider_scripts
from cancel_token.testing import JumpingClock, Limits, Report, explore
from cancel_token.testing._lines import Target
from tests.proof import profiles
from tests.proof.talks import AsyncTalk, Talk

TARGETS: Final[tuple[Target, ...]] = (
    _run,
    _agent,
    _audience,
    _model_call,
    agents,
    reply,
    threads,
    aio,
    _run_thread,
    _tool_calls,
)
"""The code whose lines are points: all that a run goes through but what is pure."""

TALKATIVE: Final = Script(
    (
        HttpError(429, retry_after="1"),
        Turn(
            (
                Think(("Hm", ".")),
                Say(("Let me", " see: é🙂.")),
                Call("read_page", ("{", "}")),
                Call("search", ("{}",)),
                Call("run", ("{}",)),
            )
        ),
        Turn((Redacted("fake/sealed"), Say(("It is ", "done.")), Call("nobody_has_this", ("{}",)))),
        Turn((Say(("Good", "bye.")),), usage_at="with_finish"),
    )
)
"""A bit of everything: a retry, reasoning, three tools side by side, a wrong call, an answer."""

ONE_TOOL: Final = Script(
    (
        Turn((Think(("So",), signature=""), Say(("See",)), Call("read_page", ("{}",)))),
        Turn((Say(("Do", "ne.")),), usage_at="every_event"),
    )
)
"""Short, with one tool."""

SPOKEN: Final = Script((HttpError(500), Turn((Think(("Hm",)), Say(("It is ", "é", "."))))))
"""Without tools, so that it goes the same way after a stop, too."""

REFUSED: Final = Script((HttpError(400),))
"""It fails, so that a stop meets a run that fails."""

CUT: Final = Script(
    (Turn((Say(("Let me",)), Call("run", ("{}",)), Call("read_page", ('{"a',))), finish="length"),)
)
"""The provider itself cuts it, in a call's arguments."""

MOST_POINTS: Final = 4
"""How often a stopped run may look at a token: a tool, its child token, the executor and the run."""

MOST_POINTS_OF_A_TASK: Final = 5
"""As above, and the bridge between the loop and the run's thread."""

MOST_LINES: Final = 600
"""How many lines of `TARGETS` it may still run: nearly all of them tell the end to everybody who listens."""

MOST_TICKS: Final = 2

MOST_TICKS_OF_A_CANCELLED_TRIO_TASK: Final = 3
"""Cancelled by its runtime: trio waits twice where it asks for that, and it waits once for the run's thread, if that
has not ended yet.
"""

LIMITS: Final = Limits(
    points=MOST_POINTS,
    lines=MOST_LINES,
    ticks=MOST_TICKS,
    freeze_seconds=0.1,  # a stop waits for the lock of a run that stands still at a point below it
)


def scripts() -> st.SearchStrategy[Script]:
    """Scripts whose calls our tools take."""
    return provider_scripts(max_answers=3, arguments=st.just({}))


def with_every_script(number: int, hold: Callable[[Script], object], *always: Script) -> None:
    """Try scripts: those that are `always` tried, and so many drawn ones; the same ones each time but at night."""
    night = profiles.NAME == "night"
    phases = [Phase.explicit, *([Phase.generate] if number else []), *([Phase.shrink] if night else [])]

    def holds(script: Script) -> None:
        hold(script)

    for script in always:
        holds = example(script=script)(holds)
    settings(
        max_examples=max(number, 1),
        phases=phases,
        derandomize=not night,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(given(script=scripts())(holds))()


def judged(report: Report, explored: Counter[str], driver: str, *, racing: bool = False) -> None:
    """Fail unless every attempt passed; count those that were judged.

    Args:
        report: of an exploration.
        explored: where they are counted.
        driver: under which name.
        racing: threads raced on the way to the second stop, so that some of the second points were met on another
            way, or not at all. They are not counted, and must be few.
    """
    explored[driver] += report.valid
    if not racing:
        report.assert_ok()
    assert report.verdict in ("PASS", "UNRESOLVED"), str(report)
    assert not report.unresolved
    assert report.valid >= 0.9 * report.planned, str(report)


def explore_threads(dialect: DialectName, script: Script, **options: object) -> Report:
    """Stop a blocking agent at every point; it can go on afterwards."""
    return explore(
        partial(Talk, dialect, script),
        Talk.run,
        Talk.check,
        restart=Talk.go_on,
        clock=JumpingClock,
        limits=LIMITS,
        **options,  # type: ignore[arg-type]  # explore() judges them
    )


def explore_loop(dialect: DialectName, script: Script, **options: object) -> Report:
    """Stop an agent in an event loop at every point; it can go on afterwards."""
    interrupted = "runtime" in options.values() or "foreign" in options.values()
    ticks = (
        MOST_TICKS_OF_A_CANCELLED_TRIO_TASK if interrupted and options["backend"] == "trio" else MOST_TICKS
    )
    return explore(
        partial(AsyncTalk, dialect, script, may_be_interrupted=interrupted),
        AsyncTalk.run,
        AsyncTalk.check,
        restart=AsyncTalk.go_on,
        clock=JumpingClock,
        limits=evolve(LIMITS, points=MOST_POINTS_OF_A_TASK, ticks=ticks),
        **options,  # type: ignore[arg-type]  # explore() judges them
    )
