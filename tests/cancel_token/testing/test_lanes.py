"""Points of several threads: numbered in each, whatever order they run in."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from queue import SimpleQueue

from cancel_token import CancelToken
from cancel_token.testing import Outcome, explore
from tests.cancel_token.testing.toys import Box, anything_goes, in_threads


def test_racing_threads_have_the_same_points_every_time() -> None:
    def run(box: Box, token: CancelToken) -> None:
        def work() -> None:
            for _ in range(5):
                token.check()

        in_threads(work, work)

    report = explore(Box, run, anything_goes)

    report.assert_ok()
    assert {"before": 1, "check": 10, "late": 1} == report.points
    assert {"0", "0.1", "0.2"} == {point.lane for attempt in report.attempts for point in attempt.plan.points}


def test_a_fault_in_one_thread_is_named_by_its_lane() -> None:
    def run(box: Box, token: CancelToken) -> None:
        def good() -> None:
            token.check()

        def bad() -> None:
            box.open = True
            token.check()
            box.open = False

        in_threads(good, bad)

    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired and outcome.fired[0].kind == "check" and outcome.fired[0].lane == "0.2":
            assert not box.open

    report = explore(Box, run, check, at=["check"])

    (failure,) = report.failures
    assert failure.site.endswith("bad")
    assert ["0.2.0check"] == [str(each.plan.points[0]) for each in failure.attempts]


def test_jobs_of_a_pool_are_lanes_whichever_thread_takes_them() -> None:
    def run(box: Box, token: CancelToken) -> None:
        def job() -> None:
            token.check()

        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(job) for _ in range(4)]
        for each in jobs:
            each.result()

    report = explore(Box, run, anything_goes)

    report.assert_ok()
    lanes = {p.lane for attempt in report.attempts for p in attempt.plan.points if p.kind == "check"}
    assert {"0.1", "0.2", "0.3", "0.4"} == lanes


def test_a_thread_that_the_work_did_not_start_has_no_points() -> None:
    asked, go = threading.Event(), threading.Event()
    tokens: list[CancelToken] = []

    def bystander() -> None:
        go.wait()
        for _ in range(10):
            tokens[0].check()
        asked.set()

    def run(box: Box, token: CancelToken) -> None:
        tokens[:] = [CancelToken()]
        go.set()
        asked.wait()
        token.check()

    thread = threading.Thread(target=bystander)
    thread.start()
    report = explore(Box, run, anything_goes)
    thread.join()

    report.assert_ok()
    assert 1 == report.points["check"]


def test_a_thread_that_turns_in_circles_after_the_stop_hangs() -> None:
    def run(box: Box, token: CancelToken) -> None:
        def work() -> None:
            while token.cancelled:
                box.open = not box.open

        in_threads(work)

    report = explore(Box, run, anything_goes)

    assert {"hung"} == {failure.name for failure in report.failures}


def test_a_point_that_a_thread_reaches_after_the_end_is_too_late_to_be_one() -> None:
    attempts = count()
    go = threading.Event()
    left: list[threading.Thread] = []

    def run(box: Box, token: CancelToken) -> None:
        def work() -> None:
            go.wait()
            box.open = token.cancelled

        thread = threading.Thread(target=work)
        thread.start()
        left.append(thread)
        if next(attempts) < 2:  # undisturbed; from then on it is left behind
            let_it_go(box)

    def let_it_go(box: Box) -> None:
        go.set()
        while left:
            left.pop().join()
        go.clear()

    report = explore(Box, run, anything_goes, at=["check"], restart=let_it_go)

    assert ("UNRESOLVED", 1, 0) == (report.verdict, report.planned, report.valid)


def test_threads_that_give_way_to_those_they_start_go_the_same_way_every_time() -> None:
    def run(box: Box, token: CancelToken) -> None:
        done: SimpleQueue[str] = SimpleQueue()

        def work(name: str) -> None:
            stopped = token.cancelled
            done.put(name + " stopped"[: 8 * stopped])

        for name in ("one", "two"):
            threading.Thread(target=work, args=(name,)).start()
        while len(box.log) < 2 and not box.open:
            box.open = token.cancelled
            box.log.append(done.get())
            while not done.empty():  # how often it looks at its token depends on how fast they are
                box.log.append(done.get())

    report = explore(Box, run, anything_goes, serialise=True, select="all")

    report.assert_ok()
    assert {"before": 1, "check": 3, "late": 1} == report.points


def test_a_thread_that_waits_for_who_has_started_it_does_not_hold_it_up_for_ever() -> None:
    def run(box: Box, token: CancelToken) -> None:
        go = threading.Event()
        waits_unseen = threading.Thread(target=go.wait)
        waits_on_token = threading.Thread(target=token.wait)
        waits_unseen.start()
        waits_on_token.start()
        box.open = token.cancelled
        token.cancel("enough")
        go.set()
        waits_unseen.join()
        waits_on_token.join()

    explore(Box, run, anything_goes, serialise=True, at=["check"]).assert_ok()
