"""Reports name each failing attempt, and the name makes it again."""

import json

import pytest

from cancel_token import CancelToken
from cancel_token.testing import (
    Backend,
    Outcome,
    StaleReplayId,
    Violation,
    explore,
    replay,
)
from tests.cancel_token.testing.toys import (
    Box,
    anything_goes,
    three_checks,
)

BACKENDS: tuple[Backend, ...] = ("sync", "line")


def test_failures_are_grouped_by_name_and_site_smallest_first() -> None:
    def check(box: Box, outcome: Outcome) -> None:
        if outcome.kind == "cancelled" and outcome.fired[0].kind == "check":
            raise Violation("never stop", f"after {box.log}")

    report = explore(Box, three_checks, check)

    (failure,) = report.failures
    assert ("never stop", "after []") == (failure.name, failure.detail)
    assert failure.site.endswith("three_checks")
    assert ["0.1check", "0.2check", "0.3check"] == [str(each.plan.points[0]) for each in failure.attempts]
    written = json.loads(report.to_json())
    assert ("FAIL", 5, 5, 5) == tuple(written[key] for key in ("verdict", "planned", "run", "valid"))
    assert list(failure.ids) == written["failures"][0]["ids"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_id_replays_its_attempt(backend: Backend, depth: int) -> None:
    def check(box: Box, outcome: Outcome) -> None:
        if len(outcome.fired) == depth and outcome.fired[0].kind in ("check", "line"):
            raise Violation("no", f"after {box.log}")

    report = explore(Box, three_checks, check, backend=backend, depth=depth)
    failure = report.failures[-1]
    again = replay(failure.ids[0], Box, three_checks, check)

    assert failure.ids[:1] == again.failures[0].ids
    assert failure.detail == again.failures[0].detail


def test_an_id_of_code_that_has_changed_is_stale() -> None:
    def shorter(box: Box, token: CancelToken) -> None:
        token.check()

    report = explore(Box, three_checks, anything_goes)
    ids = [attempt.plan.id for attempt in report.attempts if attempt.plan.points]

    for stale in ids[1:]:
        with pytest.raises(StaleReplayId, match="explore again"):
            replay(stale, Box, shorter, anything_goes)


def test_an_id_whose_kind_was_edited_is_stale() -> None:
    report = explore(Box, three_checks, anything_goes, at=["check"])
    edited = report.attempts[-1].plan.id.replace("check", "arm")

    with pytest.raises(StaleReplayId, match="is now check"):
        replay(edited, Box, three_checks, anything_goes)


def test_an_id_with_a_deadline_is_replayed_on_a_manual_clock() -> None:
    report = explore(Box, three_checks, anything_goes, at=["deadline"])

    assert "PASS" == replay(report.attempts[-1].plan.id, Box, three_checks, anything_goes).verdict


def test_two_backends_make_one_report() -> None:
    report = explore(Box, three_checks, anything_goes, backend=["sync", "line"])

    report.assert_ok()
    assert {"sync", "line"} == {attempt.plan.backend for attempt in report.attempts}


def test_arguments_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="no points of kind 'line'"):
        explore(Box, three_checks, anything_goes, at=["line"])
    with pytest.raises(ValueError, match="depth"):
        explore(Box, three_checks, anything_goes, depth=3)


def test_a_backend_that_there_is_not_is_refused_with_the_names_of_those_that_there_are() -> None:
    for at in (None, ["check"]):
        with pytest.raises(ValueError, match="no backend 'threads', only sync, line, trio, asyncio"):
            explore(Box, three_checks, anything_goes, backend="threads", at=at)  # type: ignore[arg-type]  # meant
