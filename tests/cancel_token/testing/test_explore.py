"""Each fault must be found, and each program mended of it must pass: an explorer that never fails proves nothing."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cancel_token import Cancelled, CancelReason, CancelToken
from cancel_token.testing import (
    Backend,
    JumpingClock,
    Outcome,
    explore,
)
from tests.cancel_token.testing.toys import (
    Box,
    ChecksAfterItIsDone,
    Downloader,
    LeavesHalfAFile,
    anything_goes,
    leaves_no_half_file,
    three_checks,
)

BACKENDS: tuple[Backend, ...] = ("sync", "line")


# A downloader that leaves no half file


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_good_downloader_passes_at_every_point(backend: Backend, tmp_path: Path) -> None:
    report = explore(
        lambda: Downloader(tmp_path / "out"),
        lambda downloader, token: downloader.fetch(token),
        leaves_no_half_file,
        backend=backend,
        depth=2,
        restart=lambda downloader: downloader.fetch(CancelToken()),
    )

    report.assert_ok()
    assert report.planned == report.run == report.valid > 10
    assert 5 == report.points["check"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("faulty", [LeavesHalfAFile, ChecksAfterItIsDone])
def test_a_faulty_downloader_is_found(backend: Backend, faulty: type[Downloader], tmp_path: Path) -> None:
    report = explore(
        lambda: faulty(tmp_path / "out"),
        lambda downloader, token: downloader.fetch(token),
        leaves_no_half_file,
        backend=backend,
    )

    assert "FAIL" == report.verdict
    assert {'assert downloader.path.exists() == (outcome.kind == "returned")'} == {
        failure.name for failure in report.failures
    }
    with pytest.raises(AssertionError, match=r"ct1:.*~[0-9a-f]{4}"):
        report.assert_ok()


# Points and attempts


def test_every_point_is_cancelled_once_and_only_there() -> None:
    seen: list[tuple[str, list[str]]] = []

    def check(box: Box, outcome: Outcome) -> None:
        seen.append((outcome.kind, box.log))

    report = explore(Box, three_checks, check)

    undisturbed = ("returned", ["0", "1", "2"])
    assert [undisturbed, undisturbed] == seen[:2]
    assert [("cancelled", ["0", "1", "2"][:n]) for n in (0, 0, 1, 2)] == seen[2:6]
    assert [undisturbed] == seen[6:], "the late cancel"
    assert ["0.0before", "0.1check", "0.2check", "0.3check", "0.4late"] == [
        str(attempt.plan.points[0]) for attempt in report.attempts[2:]
    ]


def test_all_kinds_of_points_are_met() -> None:
    def run(box: Box, token: CancelToken) -> None:
        with token.on_cancel(box.log.append, "callback"):
            token.wait(0)
        if token.on_cancel(int).unregister():
            token.sleep(0)

    report = explore(Box, run, anything_goes)

    report.assert_ok()
    assert {"before": 1, "arm": 2, "park": 2, "wake": 2, "disarm": 2, "late": 1} == report.points


class Garbage:
    """In a cycle, so that its finalizer runs wherever enough has been made for a collection."""

    finalized = 0

    def __init__(self) -> None:
        self.me = self
        self.token = CancelToken()

    def __del__(self) -> None:
        self.token.check()
        Garbage.finalized += 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_finalizers_of_garbage_pass_no_points_of_the_work(backend: Backend) -> None:
    """Perhaps it is what another test has left."""

    def make() -> Box:
        made.append(None)
        if len(made) > 2:
            Garbage()
        return Box()

    def run(box: Box, token: CancelToken) -> None:
        kept: list[object] = [[] for _ in range(2 * gc.get_threshold()[0])]
        token.check()
        box.log.append(str(len(kept)))

    made: list[None] = []
    before = Garbage.finalized
    gc.collect()
    report = explore(Box, run, anything_goes, backend=backend)
    littered = explore(make, run, anything_goes, backend=backend)
    gc.collect()

    report.assert_ok()
    littered.assert_ok()
    assert report.points == littered.points
    assert len(made) - 2 == Garbage.finalized - before


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_finalizers_of_garbage_pass_no_points_when_the_work_has_just_ended(
    backend: Backend, collected_at_once: None
) -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.check()
        Garbage()

    before = Garbage.finalized
    report = explore(Box, run, anything_goes, backend=backend, targets=[Garbage])

    report.assert_ok()
    assert [] == [
        point.site
        for attempt in report.attempts
        for point in attempt.plan.points
        if "__del__" in str(point.site)
    ]
    assert Garbage.finalized > before


@pytest.fixture
def collected_at_once() -> Iterator[None]:
    """Garbage is collected as soon as anything is made."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_reading_the_flag_in_a_loop_is_a_point_as_much_as_check() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for _ in range(3):
            if token.cancelled:
                return

    assert 3 == explore(Box, run, anything_goes).points["check"]


def test_a_wait_that_has_succeeded_is_not_taken_back_by_a_later_cancel() -> None:
    def run(box: Box, token: CancelToken) -> None:
        box.log.append(str(token.wait(0)))

    def check(box: Box, outcome: Outcome) -> None:
        stopped = bool(outcome.fired) and outcome.fired[0].kind in ("before", "park")
        assert box.log == [str(stopped)]

    explore(Box, run, check).assert_ok()


def test_a_subject_that_is_a_context_manager_is_judged_before_it_is_torn_down() -> None:
    boxes: list[Box] = []

    @contextmanager
    def make() -> Iterator[Box]:
        box = Box()
        box.open = True
        yield box
        box.open = False
        boxes.append(box)

    def check(box: Box, outcome: Outcome) -> None:
        assert box.open

    report = explore(make, three_checks, check)

    report.assert_ok()
    assert 2 + report.run == len(boxes)


def test_the_token_is_whole_again_afterwards() -> None:
    before = dict(vars(CancelToken))

    explore(Box, three_checks, anything_goes)

    assert before == dict(vars(CancelToken))
    token = CancelToken()
    token.cancel()
    assert token.cancelled


def test_explorations_do_not_nest() -> None:
    def run(box: Box, token: CancelToken) -> None:
        explore(Box, three_checks, anything_goes)

    def check(box: Box, outcome: Outcome) -> None:
        assert isinstance(outcome.exception, RuntimeError)

    report = explore(Box, run, check, at=["before", "late"])

    report.assert_ok()


# Other stops


def test_the_stop_may_be_the_subjects_own_method() -> None:
    class Service(Box):
        def __init__(self) -> None:
            super().__init__()
            self.inner = CancelToken()

        def stop(self) -> None:
            assert not self.log, "stopped twice"
            self.log.append("stop")
            self.inner.cancel()

    def run(service: Service, token: CancelToken) -> None:
        for _ in range(3):
            service.inner.check()

    def check(service: Service, outcome: Outcome) -> None:
        if outcome.fired and outcome.fired[0].kind != "late":
            assert isinstance(outcome.exception, Cancelled)

    once = explore(Service, run, check, stop=lambda service, token: service.stop())
    twice = explore(Service, run, check, stop=lambda service, token: service.stop(), depth=2)

    once.assert_ok()
    assert {"cancel raised"} == {failure.name for failure in twice.failures}


def test_a_deadline_at_every_point_says_that_it_was_one() -> None:
    reasons: set[str] = set()

    def check(box: Box, outcome: Outcome) -> None:
        if outcome.kind == "cancelled":
            assert isinstance(outcome.exception, Cancelled)
            assert isinstance(outcome.exception.reason, CancelReason)
            reasons.add(outcome.exception.reason.kind)

    report = explore(Box, three_checks, check, at=["deadline"])

    report.assert_ok()
    assert (4, {"deadline"}) == (report.valid, reasons)


def test_on_a_jumping_clock_backing_off_takes_no_time() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for seconds in (10, 100, 1000):
            token.sleep(seconds)

    report = explore(Box, run, anything_goes, clock=JumpingClock, at=["park", "wake", "deadline"])

    report.assert_ok()
    assert 3 + 3 + 7 == report.valid


def test_a_program_that_takes_a_deadline_for_a_failure_is_found() -> None:
    def run(box: Box, token: CancelToken) -> None:
        try:
            three_checks(box, token)
        except Cancelled as stop:
            if stop.reason is not None and stop.reason.kind == "deadline":
                raise TimeoutError from stop
            raise

    explore(Box, run, anything_goes).assert_ok()
    assert "FAIL" == explore(Box, run, anything_goes, at=["deadline"]).verdict


# A second stop while cleaning up


def test_a_clean_up_that_its_own_shield_may_cut_short_is_found() -> None:
    def run(box: Box, token: CancelToken) -> None:
        shield = CancelToken()
        box.open = True
        try:
            token.check()
        finally:
            shield.check()
            box.open = False

    def mended(box: Box, token: CancelToken) -> None:
        shield = CancelToken()
        box.open = True
        try:
            token.check()
        finally:
            if not shield.cancelled:
                box.log.append("said goodbye")
            CancelToken.never().check()  # nobody can cancel that
            box.open = False

    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired:
            assert not box.open

    explore(Box, run, check).assert_ok()
    report = explore(Box, run, check, depth=2, second="foreign")
    assert "FAIL" == report.verdict
    assert 2 == len(report.failures[0].attempts[0].plan.points)
    found = explore(Box, mended, check, depth=2, second="foreign")
    found.assert_ok()
    twice = [attempt.plan.points for attempt in found.attempts if len(attempt.plan.points) == 2]
    assert [["0.0before", "0.2check"], ["0.1check", "0.2check"]] == [list(map(str, each)) for each in twice]


def test_latency_counts_from_the_last_stop() -> None:
    def run(box: Box, token: CancelToken) -> None:
        try:
            token.check()
        finally:
            for _ in range(3):
                box.open = token.cancelled

    def check(box: Box, outcome: Outcome) -> None:
        if len(outcome.fired) == 2 and outcome.fired[-1].kind == "check":
            assert outcome.after.points == 4 - outcome.fired[-1].ordinal

    report = explore(Box, run, check, depth=2, at=["check"])

    report.assert_ok()
    assert 4 + 3 + 2 + 1 == report.valid
