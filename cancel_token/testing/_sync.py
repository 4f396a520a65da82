"""One attempt at blocking code: make, run under a fresh token, cancel where the plan says, judge, tear down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import attrs

from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.testing import leaks
from cancel_token.testing._clock import ManualClock
from cancel_token.testing._lines import LineEvents
from cancel_token.testing._outcomes import After, Attempt, Breach, Limits, Outcome, Verdict
from cancel_token.testing._plans import Plan
from cancel_token.testing._points import MAX_POINTS, Mark, Recording, fingerprint

S = TypeVar("S")

Second = Literal[
    "same",  # the same stop once more
    "foreign",  # the token that the clean-up asks there, if it is another: a shield's deadline, the caller's stop
]

DEADLINE_SECONDS = 1e6  # of a manual clock: more than any sleeps of a run together


@attrs.frozen(kw_only=True)
class Scenario(Generic[S]):
    """What is explored; the arguments of `explore()`."""

    make: Callable[[], AbstractContextManager[S]] | Callable[[], S]
    run: Callable[[S, CancelToken], object]
    check: Callable[[S, Outcome], object]
    stop: Callable[[S, CancelToken], object] | None = None
    restart: Callable[[S], object] | None = None
    second: Second = "same"
    clock: Callable[[], ManualClock] | None = None
    limits: Limits = attrs.field(factory=Limits)
    leaks: tuple[leaks.Resource, ...] = ()


class Stuck(Exception):
    """A hung attempt cannot be freed; what it still does would disturb all others."""


class Trial(Generic[S]):
    """One attempt while it is under way."""

    def __init__(
        self,
        scenario: Scenario[S],
        plan: Plan,
        lines: LineEvents | None,
        expected: Mapping[str, Sequence[Mark]] | None,
        *,
        max_points: int = MAX_POINTS,
        watch_subject: bool = True,
    ) -> None:
        self.scenario = scenario
        self.plan = plan
        self.lines = lines
        self.watch_subject = watch_subject
        self.clock = None if scenario.clock is None else scenario.clock()
        timed = any(point.kind == "deadline" for point in plan.points)
        self.token = CancelToken(DEADLINE_SECONDS if timed else None, "explored", self.clock)
        self.recording = Recording(
            plan.points,
            self._act,
            expected=expected,
            fingerprint=plan.fingerprint,
            own=self.token,
            watch=nullcontext if lines is None else lines.in_thread,
            max_points=max_points,
        )
        self.breaches: list[Breach] = []
        self.note = ""
        self.cancellers: list[threading.Thread] = []
        self._stop: Callable[[], object] = self.token.cancel

    def perform(self) -> Attempt:
        """Do it all.

        Raises:
            Stuck: It hangs and could not be freed.
        """
        watched = tuple(each for each in self.scenario.leaks if each != "registrations")
        before = leaks.snapshot(*watched)
        error, outcome = self._live()  # the subject is gone when it returns
        self._join_cancellers()
        self.breaches += [
            Breach(f"leak of {text.partition(':')[0]}", text) for text in leaks.left_since(before)
        ]
        verdict: Verdict = "PASS"
        if error:
            verdict, self.note = "ERROR", error
        elif self.breaches:
            verdict = "FAIL"
        elif len(self.recording.fired) < len(self.plan.points):
            verdict = "UNRESOLVED"
            self.note = self.recording.diverged or "the point was not met"
        plan = attrs.evolve(
            self.plan, points=tuple(self.recording.fired), fingerprint=self.recording.fingerprint
        )
        if verdict == "UNRESOLVED":  # the point it was meant for, and the way that would have led there
            plan = self.plan
            if self.recording.expected is not None:
                last = plan.points[-1]
                way = self.recording.expected[last.lane][: last.ordinal + 1]
                plan = attrs.evolve(plan, fingerprint=fingerprint(way))
        return Attempt(
            plan=plan,
            verdict=verdict,
            kind=None if outcome is None else outcome.kind,
            breaches=tuple(self.breaches),
            note=self.note,
            after=After() if outcome is None else outcome.after,
        )

    def _live(self) -> tuple[str, Outcome | None]:
        """Everything between `make` and the end of the teardown; says what broke, and how the work ended."""
        scenario = self.scenario
        doing = "make"
        outcome: Outcome | None = None
        subject: Any = None
        try:
            with ExitStack() as stack:
                subject = scenario.make()
                if isinstance(subject, AbstractContextManager):
                    subject = stack.enter_context(subject)
                if self.lines is not None and self.watch_subject:
                    self.lines.add(type(subject))
                if scenario.stop is not None:
                    self._stop = partial(scenario.stop, subject, self.token)
                doing = "run"
                outcome = self._run(subject)
                doing = "check"
                self._judge(subject, outcome)
                doing = "teardown"
        except (KeyboardInterrupt, Stuck):
            raise
        except BaseException as error:
            return f"{doing} raised {error!r}", None
        else:
            return "", attrs.evolve(outcome, value=None, exception=None)
        finally:
            # The traceback of what the work raised leads back to this frame: without this, a cycle would keep
            # the subject, and whatever the work held open, until the next run of the garbage collector.
            del subject, outcome

    def _run(self, subject: S) -> Outcome:
        recording, seconds = self.recording, self.scenario.limits.seconds
        if seconds is None:
            outcome = self._call(subject)
        else:
            outcomes: list[Outcome] = []
            raised: list[BaseException] = []  # a KeyboardInterrupt: everything else is an outcome
            action = partial(_append_result, outcomes, self._call, subject)
            worker = threading.Thread(target=_collect, args=(action, raised), name="explored", daemon=True)
            worker.start()
            worker.join(seconds)
            if worker.is_alive():
                recording.open = False  # what it does from here on counts for nothing
                self.token.cancel_soon("the attempt hangs")
                worker.join(seconds)
                if worker.is_alive():
                    raise Stuck(f"{self.plan.id} hangs and cannot be freed")
                outcomes = [Outcome(kind="hung")]
            if raised:
                raise raised[0]
            outcome = outcomes.pop()
            del action
        if recording.ran_away:
            outcome = Outcome(kind="hung")
        if "registrations" in self.scenario.leaks and (count := leaks.registrations(self.token)):
            self.breaches.append(
                Breach("leak of registrations", f"{count} callbacks are armed after the end")
            )
        if outcome.kind != "hung":
            recording.main.reach("late", None, 0)
        recording.open = False
        lanes = list(recording.lanes.values())
        after = After(max(lane.after_points for lane in lanes), max(lane.after_lines for lane in lanes))
        try:
            return attrs.evolve(outcome, fired=tuple(recording.fired), after=after)
        finally:
            del outcome  # for the reason given in _live()

    def _call(self, subject: S) -> Outcome:
        try:
            with self.recording.running():
                self.recording.main.reach("before", None, 0)
                return Outcome(kind="returned", value=self.scenario.run(subject, self.token))
        except KeyboardInterrupt:
            raise
        except Cancelled as error:
            own = error.token is None or error.token.is_within(self.token)
            return Outcome(kind="cancelled" if own else "raised", exception=error)
        except BaseException as error:
            return Outcome(kind="raised", exception=error)

    def _judge(self, subject: S, outcome: Outcome) -> None:
        if self.recording.cancel_error is not None:
            self.breaches.append(Breach("cancel raised", repr(self.recording.cancel_error)))
            self.recording.cancel_error = None  # its traceback holds the subject
        if outcome.kind == "hung":  # whatever the oracle thinks of it; its subject is in the middle of things
            self.breaches.append(Breach("hung"))
            return
        limits, after = self.scenario.limits, outcome.after  # nothing, where nothing was cancelled
        for unit, took, limit in (
            ("points", after.points, limits.points),
            ("lines", after.lines, limits.lines),
        ):
            if limit is not None and took > limit:
                self.breaches.append(Breach("latency", f"went on for {took} {unit}, allowed are {limit}"))
        try:
            self.scenario.check(subject, outcome)
        except AssertionError as error:
            self.breaches.append(Breach.of(error))
        if self.scenario.restart is not None:
            try:
                self.scenario.restart(subject)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.breaches.append(Breach("restart", f"raised {error!r}"))

    # What happens at a point

    def _act(self, step: int, asked: CancelToken | None) -> None:
        if self.plan.points[step].kind == "deadline":
            assert self.clock is not None, "planned for a manual clock only"
            action: Callable[[], object] = partial(self.clock.advance, 2 * DEADLINE_SECONDS)
        elif step and self.scenario.second == "foreign" and asked is not None:
            action = partial(asked.cancel, "explored: the clean-up's own token")
        else:
            action = self._stop
        if self.plan.backend == "sync":
            action()
            return
        raised: list[BaseException] = []
        canceller = threading.Thread(target=_collect, args=(action, raised), name="canceller", daemon=True)
        canceller.start()
        canceller.join(self.scenario.limits.freeze_seconds)
        if canceller.is_alive():
            self.cancellers.append(canceller)
        if raised:
            raise raised[0]

    def _join_cancellers(self) -> None:
        for canceller in self.cancellers:  # the work has ended: nothing may hold them up any more
            canceller.join(self.scenario.limits.cancel_seconds)
            if canceller.is_alive():
                self.breaches.append(
                    Breach("cancel deadlocked", "cancel() has not returned after the work's end")
                )


def _append_result(results: list[Outcome], fn: Callable[[S], Outcome], argument: S) -> None:
    results.append(fn(argument))


def _collect(action: Callable[[], object], raised: list[BaseException]) -> None:
    try:
        action()
    except BaseException as error:
        raised.append(error)
