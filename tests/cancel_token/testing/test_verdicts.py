"""What counts as a failure, and what is known of an attempt that was not made as planned."""

import gc
import json
import pickle
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from xml.etree import ElementTree

import anyio
import pytest
from attrs import evolve

from cancel_token import Cancelled, CancelToken
from cancel_token._lines import bound_token
from cancel_token.http import use_token
from cancel_token.testing import (
    Backend,
    Kind,
    Limits,
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


def test_an_oracle_that_fails_the_undisturbed_run_ends_the_exploration() -> None:
    def check(box: Box, outcome: Outcome) -> None:
        raise Violation("always", "whatever happens")

    report = explore(Box, three_checks, check)

    assert ("FAIL", 0, "undisturbed") == (report.verdict, report.planned, report.failures[0].site)


def test_a_broken_oracle_is_an_error_and_no_failure() -> None:
    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired:
            raise KeyError("oracle")

    report = explore(Box, three_checks, check)

    assert ("ERROR", 0) == (report.verdict, report.valid)
    assert "check raised KeyError" in str(report)


def test_an_oracle_that_answers_instead_of_raising_is_an_error() -> None:
    def unheard(box: Box, outcome: Outcome) -> bool:
        return outcome.legal("returned")

    def heard_at_first(box: Box, outcome: Outcome) -> bool | None:
        return outcome.legal("returned") if outcome.fired else None

    async def awaited(box: Box, outcome: Outcome) -> bool:
        return False

    report = explore(Box, three_checks, unheard)

    assert ("ERROR", 0) == (report.verdict, report.planned)
    assert "check returned True: it must return nothing, and raise AssertionError" in str(report)
    late = explore(Box, three_checks, heard_at_first)
    assert ("ERROR", 5, 0) == (late.verdict, late.planned, late.valid)
    assert "check returned False" in str(late)
    for backend in ("trio", "asyncio"):
        assert "check returned False" in str(explore(Box, three_checks, awaited, backend=backend))


def test_a_make_that_breaks_is_an_error() -> None:
    def make() -> Box:
        raise OSError("no box")

    assert "ERROR" == explore(make, three_checks, anything_goes).verdict


def test_work_that_goes_another_way_each_time_is_unresolved() -> None:
    attempts = iter(range(100))

    def run(box: Box, token: CancelToken) -> None:
        for _ in range(next(attempts) % 3):
            token.check()
            box.log.append("")
        token.check()

    report = explore(Box, run, anything_goes)

    assert "UNRESOLVED" == report.verdict
    assert report.valid < report.run
    assert "the undisturbed run is another one each time" in str(report)
    with pytest.raises(AssertionError, match="UNRESOLVED"):
        report.assert_ok()


def test_work_that_is_longer_the_second_time_is_unresolved() -> None:
    lengths = iter([1, 2, *[1] * 10])

    def run(box: Box, token: CancelToken) -> None:
        for _ in range(next(lengths)):
            token.check()

    report = explore(Box, run, anything_goes)

    assert "UNRESOLVED" == report.verdict
    assert (3, 3) == (report.planned, report.valid)


def test_points_that_were_not_met_again_have_the_id_of_the_way_to_them() -> None:
    lengths = iter([3, 3, 3, *[1] * 10])

    def run(box: Box, token: CancelToken) -> None:
        for _ in range(next(lengths)):
            token.check()

    report = explore(Box, run, anything_goes, at=["check"])

    passed, *others = report.attempts[2:]
    assert ["UNRESOLVED", "UNRESOLVED"] == [attempt.verdict for attempt in others]
    assert "is late at late" in others[0].note
    assert "the point was not met" == others[1].note
    lengths = iter([3])
    assert "PASS" == replay(others[0].plan.id, Box, run, anything_goes).verdict
    assert "PASS" == passed.verdict


@pytest.mark.parametrize("where", ["make", "run", "check", "restart", "stop"])
@pytest.mark.parametrize("seconds", [None, 60])
def test_ctrl_c_ends_the_exploration_wherever_it_strikes(where: str, seconds: float | None) -> None:
    def strike(here: str) -> None:
        if here == where:
            raise KeyboardInterrupt

    def make() -> Box:
        strike("make")
        return Box()

    def run(box: Box, token: CancelToken) -> None:
        token.check()
        strike("run")

    before = dict(vars(CancelToken))
    with pytest.raises(KeyboardInterrupt):
        explore(
            make,
            run,
            lambda box, outcome: strike("check"),
            restart=lambda box: strike("restart"),
            stop=lambda box, token: strike("stop"),
            limits=Limits(seconds=seconds),
        )
    assert before == dict(vars(CancelToken))


def test_violations_show_and_pickle_well() -> None:
    for violation, text in ((Violation("C1", "no answer"), "C1: no answer"), (Violation("C1"), "C1")):
        again = pickle.loads(pickle.dumps(violation))
        assert text == str(violation) == str(again)
        assert (violation.name, violation.detail) == (again.name, again.detail)
    assert "gone" == str(pickle.loads(pickle.dumps(StaleReplayId("gone"))))


def test_work_that_never_looks_at_its_token_proves_nothing() -> None:
    def run(box: Box, token: CancelToken) -> None:
        box.log.append("busy")

    report = explore(Box, run, anything_goes)

    assert "UNRESOLVED" == report.verdict
    assert "Was the token handed on?" in str(report)


def looks_at_another(box: Box, token: CancelToken) -> None:
    other = CancelToken()
    for _ in range(9):
        other.check()


@pytest.mark.parametrize("backend", ["sync", "trio", "asyncio"])
@pytest.mark.parametrize("at", [None, ["check"], ["deadline"]])
def test_work_that_looks_at_a_token_of_its_own_proves_nothing(
    backend: Backend, at: Sequence[Kind] | None
) -> None:
    report = explore(Box, looks_at_another, anything_goes, backend=backend, at=at)

    assert "UNRESOLVED" == report.verdict
    assert "nobody looked at the token that was given" in str(report)
    assert report.planned == report.valid >= 9


def test_work_that_something_else_stops_need_not_know_of_the_token() -> None:
    def stop(box: Box, token: CancelToken) -> None:
        box.log.append("stopped")

    explore(Box, looks_at_another, anything_goes, stop=stop).assert_ok()
    explore(Box, looks_at_another, anything_goes, backend="line").assert_ok()
    explore(Box, looks_at_another, anything_goes, at=["before", "late"]).assert_ok()
    for backend in ("trio", "asyncio"):
        explore(Box, looks_at_another, anything_goes, backend=backend, stop="runtime").assert_ok()


@pytest.mark.parametrize("backend", ["sync", "trio", "asyncio"])
def test_a_token_that_is_made_of_the_one_that_was_given_is_as_good(backend: Backend) -> None:
    def below(box: Box, token: CancelToken) -> None:
        with token.child(timeout=3600) as child:
            child.child().check()

    def joined(box: Box, token: CancelToken) -> None:
        CancelToken.any(CancelToken(), token.child(), timeout=3600).check()

    def bound(box: Box, token: CancelToken) -> None:
        with use_token(token):
            bound_token().check()

    def linked(box: Box, token: CancelToken) -> None:
        other = CancelToken()
        with token.on_cancel(other.cancel):
            other.check()

    def check(box: Box, outcome: Outcome) -> None:
        assert isinstance(outcome.exception, Cancelled | None)

    for run in (below, joined, bound, linked):
        explore(Box, run, check, backend=backend).assert_ok()


def test_a_thread_that_is_not_of_the_work_may_be_who_looks_at_its_token() -> None:
    class Service:
        def __init__(self) -> None:
            self.asked: SimpleQueue[CancelToken | None] = SimpleQueue()
            self.answered: SimpleQueue[bool] = SimpleQueue()

        def serve(self) -> None:
            while (token := self.asked.get()) is not None:
                self.answered.put(token.cancelled)

    @contextmanager
    def serving() -> Iterator[Service]:
        service = Service()
        thread = threading.Thread(target=service.serve)
        thread.start()
        yield service
        service.asked.put(None)
        thread.join()

    def run(service: Service, token: CancelToken) -> bool:
        CancelToken().check()  # the service's own, so to speak
        service.asked.put(token)
        return service.answered.get()

    explore(serving, run, anything_goes).assert_ok()


def test_a_stop_reported_as_an_error_is_found() -> None:
    def run(box: Box, token: CancelToken) -> None:
        try:
            three_checks(box, token)
        except Cancelled as stop:
            raise ValueError("failed") from stop

    report = explore(Box, run, anything_goes)

    assert 4 == len([attempt for attempt in report.attempts if attempt.kind == "raised"])
    assert "FAIL" == report.verdict


# What the work raised


def test_the_report_says_what_the_work_raised_and_where() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.check()
        json.loads("{")  # inside a library, which is not the place to look at

    report = explore(Box, run, anything_goes)

    (failure,) = report.failures
    assert 2 == len(failure.attempts)
    line = run.__code__.co_firstlineno + 2
    assert (
        "  the work raised json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: "
        f"line 1 column 2 (char 1)\n    at test_verdicts.py:{line} {run.__qualname__}"
    ) in str(report)
    assert "JSONDecodeError" in json.loads(report.to_json())["failures"][0]["raised"]["text"]
    assert "JSONDecodeError" in report.to_junit("one")


def test_work_that_cannot_be_called_was_nowhere() -> None:
    def run(box: Box) -> None:
        pass

    report = explore(Box, run, anything_goes)  # type: ignore[arg-type]  # the mistake that is meant

    assert "takes 1 positional argument but 2 were given" in str(report).splitlines()[-1]


def test_what_a_clean_up_raises_is_told() -> None:
    def run(box: Box, token: CancelToken) -> None:
        try:
            token.check()
        except Cancelled:
            box.shut()  # type: ignore[attr-defined]  # the mistake that is meant
            raise

    report = explore(Box, run, anything_goes, at=["check"])

    (failure,) = report.failures
    assert failure.raised is not None
    assert "AttributeError: 'Box' object has no attribute 'shut'" == failure.raised.text
    assert f"test_verdicts.py:{run.__code__.co_firstlineno + 4} {run.__qualname__}" == failure.raised.site


def test_attempts_that_raised_another_thing_are_told_apart_whatever_it_says() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for n in range(4):
            try:
                token.check()
            except Cancelled:
                if n == 2:
                    raise KeyError(n) from None
                raise ValueError(n) from None

    report = explore(Box, run, anything_goes, at=["check"])

    assert [("builtins.ValueError", 3), ("builtins.KeyError", 1)] == [
        (failure.raised and failure.raised.type, len(failure.attempts)) for failure in report.failures
    ]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_of_a_group_what_is_no_stop_is_told(backend: Backend) -> None:
    async def obeys(token: CancelToken) -> None:
        token.check()

    async def fails(token: CancelToken) -> None:
        if token.cancelled:
            raise ValueError("this one")

    async def run(box: Box, token: CancelToken) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(obeys, token)
            group.start_soon(fails, token)

    report = explore(Box, run, anything_goes, backend=backend, at=["before"])

    raised = report.failures[0].raised
    assert raised is not None
    assert raised.text.startswith("ValueError: this one\nin BaseExceptionGroup: ")
    assert f"test_verdicts.py:{fails.__code__.co_firstlineno + 2} {fails.__qualname__}" == raised.site


def test_a_long_text_is_shortened() -> None:
    def run(box: Box, token: CancelToken) -> None:
        raise ValueError("long " * 10_000)

    report = explore(Box, run, anything_goes)

    assert "ValueError: long long" in str(report)
    assert len(str(report)) < 1000


def test_an_oracle_that_breaks_on_what_was_raised_says_both() -> None:
    def run(box: Box, token: CancelToken) -> str:
        raise ValueError("no text")

    def check(box: Box, outcome: Outcome) -> None:
        assert outcome.value.strip()  # type: ignore[attr-defined]  # as careless as meant

    report = explore(Box, run, check)

    assert "ERROR" == report.verdict
    assert "the work raised ValueError: no text\n" in str(report)


def test_what_was_raised_keeps_no_subject(collected_never: None) -> None:
    boxes: list[weakref.ref[Box]] = []
    alive: list[weakref.ref[Box]] = []

    def make() -> Box:
        alive.extend(box for box in boxes if box() is not None)
        box = Box()
        boxes.append(weakref.ref(box))
        return box

    def run(box: Box, token: CancelToken) -> None:
        try:
            three_checks(box, token)
        except Cancelled as stop:
            try:
                box.shut()  # type: ignore[attr-defined]  # the mistake that is meant
            except AttributeError as error:
                raise BaseExceptionGroup("both", [error, stop]) from None

    report = explore(make, run, anything_goes)

    assert 4 == len([attempt for attempt in report.attempts if attempt.raised])
    assert [] == alive


@pytest.fixture
def collected_never() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_the_stop_of_another_token_is_not_ours() -> None:
    other = CancelToken()
    other.cancel()

    def run(box: Box, token: CancelToken) -> None:
        token.check()
        other.check()

    kinds: list[str] = []

    def check(box: Box, outcome: Outcome) -> None:
        kinds.append(outcome.kind)

    explore(Box, run, check, at=["check"]).assert_ok()

    assert ["raised", "raised", "cancelled", "raised"] == kinds


def test_a_stop_that_nobody_asked_for_is_never_legal() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.cancel("by myself")
        token.check()

    report = explore(Box, run, anything_goes)

    assert ("FAIL", "undisturbed") == (report.verdict, report.failures[0].site)


def test_a_callback_that_raises_is_found() -> None:
    def run(box: Box, token: CancelToken) -> None:
        with token.on_cancel(box.log.remove, "what is not there"):
            token.check()

    report = explore(Box, run, anything_goes, at=["check"])

    assert ["cancel raised"] == [failure.name for failure in report.failures]


def test_what_a_callback_looks_at_is_no_step_of_the_work() -> None:
    def run(box: Box, token: CancelToken) -> None:
        def look() -> None:
            for _ in range(9):
                box.open = token.cancelled

        with token.on_cancel(look):
            token.check()

    explore(Box, run, anything_goes, at=["check"]).assert_ok()


def test_a_callback_left_behind_is_found_and_fails_when_it_is_late() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.on_cancel(box.log.append, "stopped")
        token.check()

    def check(box: Box, outcome: Outcome) -> None:
        if outcome.kind == "returned":
            assert box.log == []

    report = explore(Box, run, check, leaks=())
    leaky = explore(Box, run, anything_goes)

    assert ["late"] == [failure.site for failure in report.failures]
    assert ["leak of registrations"] == [failure.name for failure in leaky.failures]


def test_work_that_goes_on_after_the_stop_is_too_slow() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for _ in range(9):
            box.open = token.cancelled

    report = explore(Box, run, anything_goes, limits=Limits(points=3))

    assert {"latency"} == {failure.name for failure in report.failures}
    assert 9 == report.slowest.points
    explore(Box, run, anything_goes, limits=Limits(points=9)).assert_ok()


def test_work_that_cannot_be_done_again_is_found() -> None:
    def run(box: Box, token: CancelToken) -> None:
        assert not box.open
        box.open = True
        token.check()
        box.open = False

    report = explore(Box, run, anything_goes, restart=lambda box: run(box, CancelToken()))

    assert [("restart", "0.0before"), ("restart", "0.1check")] == [
        (failure.name, str(failure.attempts[0].plan.points[0])) for failure in report.failures
    ]


def test_work_that_turns_in_circles_after_the_stop_hangs() -> None:
    def run(box: Box, token: CancelToken) -> None:
        while token.cancelled:
            box.open = not box.open

    report = explore(Box, run, anything_goes)

    assert {"hung"} == {failure.name for failure in report.failures}
    assert ["before", "check"] == [failure.attempts[0].plan.points[0].kind for failure in report.failures]


def test_work_that_blocks_for_ever_hangs_and_is_freed_by_its_token() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.wait()

    report = explore(Box, run, anything_goes, limits=Limits(seconds=0.01))

    assert ["hung", "hung"] == [attempt.kind for attempt in report.attempts]
    assert "FAIL" == report.verdict


PATIENT = Limits(seconds=3)  # on a busy machine, too, it has long come to where it hangs


def test_a_hang_says_where_its_thread_stood_and_what_it_had_passed() -> None:
    def run(box: Box, token: CancelToken) -> None:
        token.check()
        if box.open:
            token.wait()

    def stop(box: Box, token: CancelToken) -> None:
        box.open = True

    report = explore(Box, run, anything_goes, limits=PATIENT, at=["check"], stop=stop)

    (failure,) = report.failures
    line = f"test_verdicts.py:{run.__code__.co_firstlineno + 3} {run.__qualname__}"
    assert f"stood at {line}\nlast point of each lane: 0.2park at {line}" == failure.detail
    assert f"\n  stood at {line}\n" in str(report)


def test_an_attempt_that_cannot_be_freed_ends_the_exploration() -> None:
    free = threading.Event()

    def run(box: Box, token: CancelToken) -> None:
        token.check()
        if token.cancelled:
            free.wait()

    report = explore(Box, run, anything_goes, limits=evolve(PATIENT, cancel_seconds=0.01), at=["check"])
    free.set()

    assert "ERROR" == report.verdict
    assert report.run < report.planned
    first = run.__code__.co_firstlineno
    check, wait = (f"test_verdicts.py:{first + n} {run.__qualname__}" for n in (2, 3))
    assert report.errors[0].startswith("ct1:sync:0.2check~")
    assert report.errors[0].endswith(
        f" {check}: an attempt hangs and cannot be freed, at {wait}; "
        f"last point of each lane: 0.2check at {check}; the exploration ended there"
    )


def test_junit_is_told_of_what_is_unresolved_or_broken() -> None:
    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired:
            raise KeyError("oracle")

    def unasked(box: Box, token: CancelToken) -> None:
        pass

    broken = ElementTree.fromstring(explore(Box, three_checks, check).to_junit("broken"))
    unresolved = ElementTree.fromstring(explore(Box, unasked, anything_goes).to_junit("unresolved"))

    assert ("7", "5") == (broken.attrib["tests"], broken.attrib["errors"])
    assert "Was the token handed on?" in str(unresolved.findall("testcase")[-1][0].attrib["message"])
