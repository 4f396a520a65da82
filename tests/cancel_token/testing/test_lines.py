"""A second, real thread cancels while the first stands before a line."""

import functools
import sys
import threading
from functools import partial

import pytest

import tests.cancel_token
from cancel_token import CancelToken
from cancel_token.testing import Limits, Outcome, explore
from tests.cancel_token.testing import toys
from tests.cancel_token.testing.toys import Box, anything_goes, three_checks


class Arming(Box):
    """Asks first and registers afterwards, without looking again: a cancel in between is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.flag = False
        self.callbacks: list[str] = []
        self.told: list[str] = []

    def cancel(self) -> None:
        self.flag = True
        while self.callbacks:
            self.told.append(self.callbacks.pop())

    def arm(self) -> None:
        if not self.flag:
            self.callbacks.append("callback")
        else:
            self.told.append("callback")


class LookingAgain(Arming):
    def arm(self) -> None:
        self.callbacks.append("callback")
        if self.flag and self.callbacks:
            self.told.append(self.callbacks.pop())


def test_a_callback_that_is_lost_between_two_lines_is_found() -> None:
    def check(arming: Arming, outcome: Outcome) -> None:
        assert arming.told == (["callback"] if outcome.fired else [])

    def explored(make: type[Arming]) -> str:
        report = explore(
            make,
            lambda arming, token: arming.arm(),
            check,
            backend="line",
            stop=lambda arming, token: arming.cancel(),
        )
        return report.verdict

    assert "FAIL" == explored(Arming)
    assert "PASS" == explored(LookingAgain)


def test_it_is_another_thread_that_cancels() -> None:
    threads: list[threading.Thread] = []

    def run(box: Box, token: CancelToken) -> None:
        with token.on_cancel(lambda: threads.append(threading.current_thread())):
            box.open = True

    explore(Box, run, anything_goes, backend="line", at=["line"]).assert_ok()

    assert ["canceller", "canceller"] == [
        each.name for each in threads if each is not threading.main_thread()
    ]


def test_a_lock_that_the_frozen_thread_holds_for_a_moment_is_no_deadlock() -> None:
    lock = threading.Lock()

    def stop(box: Box, token: CancelToken) -> None:
        with lock:
            token.cancel()

    def run(box: Box, token: CancelToken) -> None:
        with lock:
            box.open = True
        token.check()

    limits = Limits(freeze_seconds=0.01)
    report = explore(Box, run, anything_goes, backend="line", at=["line"], stop=stop, limits=limits)

    report.assert_ok()


def test_a_cancel_that_never_returns_is_a_deadlock() -> None:
    never = threading.Event()
    limits = Limits(freeze_seconds=0.01, cancel_seconds=0.01)

    def stop(box: Box, token: CancelToken) -> None:
        never.wait()

    report = explore(
        Box,
        three_checks,
        anything_goes,
        backend="line",
        at=["line"],
        stop=stop,
        limits=limits,
        leaks=(),
    )
    never.set()

    assert {"cancel deadlocked"} == {failure.name for failure in report.failures}
    explore(Box, three_checks, anything_goes, backend="line", at=["line"]).assert_ok()


def test_lines_are_those_of_the_targets_in_all_threads_of_the_work() -> None:
    def run(box: Box, token: CancelToken) -> None:
        toys.in_threads(lambda: three_checks(box, token))

    report = explore(Box, run, anything_goes, backend="line", targets=[three_checks])

    report.assert_ok()
    lanes = {p.lane for attempt in report.attempts for p in attempt.plan.points if p.kind == "line"}
    assert {"0", "0.1"} == lanes
    sites = {p.site for attempt in report.attempts for p in attempt.plan.points if p.kind == "line"}
    assert all(site.startswith("toys.py:") for site in sites)


def test_latency_is_counted_in_lines_where_nothing_is_asked() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.check()
        for _ in range(50):
            box.open = not box.open
        token.check()

    report = explore(Box, run, anything_goes, backend="line")

    report.assert_ok()
    assert report.slowest.lines > 100


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="only 3.11 traces, later ones monitor")
def test_a_tracer_that_was_there_is_put_back() -> None:
    def tracer(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        explore(Box, three_checks, anything_goes, backend="line").assert_ok()
        assert tracer is sys.gettrace()
    finally:
        sys.settrace(before)


def test_the_other_checks_may_be_cancelled_from_a_second_thread_too() -> None:
    report = explore(Box, three_checks, anything_goes, backend="line", at=["check"])

    report.assert_ok()
    assert 3 == report.valid


def test_a_package_is_a_target_with_all_that_is_below_it() -> None:
    report = explore(Box, three_checks, anything_goes, backend="line", targets=[tests.cancel_token])

    report.assert_ok()
    assert report.points["line"] > 6


def test_targets_may_be_wrapped_or_built_in() -> None:
    for run in (partial(three_checks), functools.wraps(three_checks)(lambda *args: three_checks(*args))):
        report = explore(Box, run, anything_goes, backend="line")
        report.assert_ok()
        assert report.points["line"] > 6
    nothing = explore(Box, three_checks, anything_goes, backend="line", targets=[len, int, sys])
    assert "UNRESOLVED" == nothing.verdict
