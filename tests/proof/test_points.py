"""An agent is stopped at every point, in threads and in event loops: every rule is kept, and it goes on.

Each attempt is judged by the conversation oracle, by the strict provider that gets the next message, and by the
harness: latency in points, lines and ticks; threads, tasks, file descriptors and registrations left behind.
"""

from collections import Counter

import pytest

from aiwrapper.testing import DialectName, Script
from cancel_token.testing import Backend
from tests.proof.exploring import (
    CUT,
    ONE_TOOL,
    REFUSED,
    SPOKEN,
    TALKATIVE,
    TARGETS,
    explore_loop,
    explore_threads,
    judged,
    with_every_script,
)
from tests.proof.profiles import PROFILE
from tests.proof.talks import DIALECTS

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
every_loop = pytest.mark.parametrize("loop", ["trio", "asyncio"])


@every_dialect
def test_it_may_be_stopped_at_every_point(dialect: DialectName, explored: Counter[str]) -> None:
    def hold(script: Script) -> None:
        judged(explore_threads(dialect, script), explored, "threads: at a point")

    with_every_script(PROFILE.blocking, hold, TALKATIVE, ONE_TOOL, CUT)


@every_dialect
def test_it_may_be_stopped_by_another_thread_at_every_point(
    dialect: DialectName, explored: Counter[str]
) -> None:
    report = explore_threads(dialect, TALKATIVE, who="thread")

    judged(report, explored, "threads: at a point, from another thread")


@every_dialect
def test_it_may_be_stopped_before_every_line(dialect: DialectName, explored: Counter[str]) -> None:
    def hold(script: Script) -> None:
        report = explore_threads(dialect, script, backend="line", targets=TARGETS, select="per-site")
        judged(report, explored, "threads: before a line, from another thread")

    with_every_script(PROFILE.lines, hold, ONE_TOOL, REFUSED)


@every_dialect
def test_a_deadline_may_pass_at_every_point(dialect: DialectName, explored: Counter[str]) -> None:
    def hold(script: Script) -> None:
        judged(explore_threads(dialect, script, at=["deadline"]), explored, "threads: by a deadline")

    with_every_script(PROFILE.deadline, hold, TALKATIVE)


@every_dialect
def test_it_may_be_stopped_twice(dialect: DialectName, explored: Counter[str]) -> None:
    def hold(script: Script) -> None:
        report = explore_threads(dialect, script, depth=2)
        judged(report, explored, "threads: twice", racing=script is not SPOKEN)

    with_every_script(PROFILE.twice, hold, SPOKEN, ONE_TOOL)


@every_loop
@every_dialect
def test_a_task_may_be_stopped_at_every_point(
    dialect: DialectName, loop: Backend, explored: Counter[str]
) -> None:
    def hold(script: Script) -> None:
        judged(explore_loop(dialect, script, backend=loop), explored, f"{loop}: at a point")

    with_every_script(PROFILE.loops, hold, TALKATIVE)


@every_loop
@every_dialect
def test_a_task_may_be_stopped_by_a_thread_at_every_point(
    dialect: DialectName, loop: Backend, explored: Counter[str]
) -> None:
    report = explore_loop(dialect, ONE_TOOL, backend=loop, who="thread")

    judged(report, explored, f"{loop}: at a point, from another thread")


@every_loop
@every_dialect
def test_a_task_may_be_cancelled_by_its_runtime_at_every_point(
    dialect: DialectName, loop: Backend, explored: Counter[str]
) -> None:
    def hold(script: Script) -> None:
        report = explore_loop(dialect, script, backend=loop, stop="runtime")
        judged(report, explored, f"{loop}: by the runtime")

    with_every_script(PROFILE.loops, hold, TALKATIVE)


@every_loop
@every_dialect
def test_a_deadline_may_pass_at_every_point_of_a_task(
    dialect: DialectName, loop: Backend, explored: Counter[str]
) -> None:
    report = explore_loop(dialect, ONE_TOOL, backend=loop, at=["deadline"])

    judged(report, explored, f"{loop}: by a deadline")


@every_loop
@every_dialect
@pytest.mark.parametrize("second", ["same", "foreign"])
def test_a_task_may_be_stopped_twice(
    dialect: DialectName, loop: Backend, second: str, explored: Counter[str]
) -> None:
    report = explore_loop(dialect, SPOKEN, backend=loop, depth=2, second=second)

    judged(report, explored, f"{loop}: twice, the second time by the {second}", racing=True)
