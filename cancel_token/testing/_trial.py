"""One attempt: make, run under a fresh token, cancel where the plan says, judge, tear down.

It is written once, as a coroutine, and a `Runtime` runs it: blocking code, trio, asyncio.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from cancel_token._token import CancelToken
from cancel_token.testing import leaks
from cancel_token.testing._clock import ManualClock
from cancel_token.testing._garbage import garbage_left
from cancel_token.testing._lines import LineEvents, Target
from cancel_token.testing._outcomes import After, Attempt, Breach, Limits, Outcome, Raised, Verdict
from cancel_token.testing._plans import Backend, Plan
from cancel_token.testing._points import MAX_POINTS, Mark, Recording, fingerprint
from cancel_token.testing._runtime import NeedsLoop, Runtime, Stuck, collect

S = TypeVar("S")

Make: TypeAlias = (
    Callable[[], AbstractAsyncContextManager[S]]
    | Callable[[], AbstractContextManager[S]]
    | Callable[[], Coroutine[Any, Any, S]]
    | Callable[[], S]
)

Stop: TypeAlias = Callable[[S, CancelToken], object] | Literal["runtime"] | None
Second = Literal[
    "same",  # the same stop once more
    "foreign",  # another: the token that the clean-up asks there; in a loop, the runtime's own cancellation
]
Who = Literal[
    "inline",  # the work itself, where it stands
    "thread",  # a second thread, while the work stands still
]

DEADLINE_SECONDS = 1e6  # of a manual clock: more than any sleeps of a run together


@attrs.frozen(kw_only=True)
class Scenario(Generic[S]):
    """What is explored, and how an attempt is made; see `explore()`."""

    make: Make[S]
    run: Callable[[S, CancelToken], object]
    check: Callable[[S, Outcome], object]
    stop: Stop[S] = None
    second: Second = "same"
    who: Who = "inline"
    serialise: bool = False
    restart: Callable[[S], object] | None = None
    clock: Callable[[], ManualClock] | None = None
    limits: Limits = attrs.field(factory=Limits)
    leaks: Sequence[leaks.Resource] = ()
    targets: Sequence[Target] | None = None


def watch(resources: Sequence[leaks.Resource]) -> leaks.Watch:
    """Watch those that belong to no token and no loop."""
    return leaks.Watch(*(each for each in resources if each not in ("registrations", "tasks")))


def runtime_of(backend: Backend) -> type[Runtime]:
    """Where a backend runs attempts. A loop's module is loaded by whoever explores it."""
    match backend:
        case "trio":
            from cancel_token.testing._trio import TrioRuntime

            return TrioRuntime
        case "asyncio":
            from cancel_token.testing._asyncio import AsyncioRuntime

            return AsyncioRuntime
        case "sync" | "line":
            from cancel_token.testing._sync import BlockingRuntime

            return BlockingRuntime


class Trial(Generic[S]):
    """One attempt while it is under way.

    Args:
        scenario: What is explored.
        plan: Where to cancel.
        lines: Whose lines are points.
        expected: How lanes came to their points before.
        watch: Looks for leaks; has looked when the last attempt ended.
        host: Of the runtime; see `Runtime.host()`.
        max_points: A lane that passes more of them is a runaway.
    """

    def __init__(
        self,
        scenario: Scenario[S],
        plan: Plan,
        lines: LineEvents | None,
        expected: Mapping[str, Sequence[Mark]] | None,
        watch: leaks.Watch,
        host: Any,
        *,
        max_points: int = MAX_POINTS,
    ) -> None:
        self.watch = watch
        self.host = host
        self.scenario = scenario
        self.plan = plan
        self.lines = lines
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
            serialise=scenario.serialise,
            patience_seconds=scenario.limits.cancel_seconds,
        )
        self.subject_type: type | None = None
        self.breaches: list[Breach] = []
        self.raised: Raised | None = None
        self.note = ""
        self.cancellers: list[threading.Thread] = []
        self._stop: Callable[[], object] = self.token.cancel

    def perform(self) -> Attempt:
        """Do it all.

        Raises:
            Stuck: It hangs and could not be freed.
        """
        try:
            error, outcome = self._perform()  # the subject and the loop are gone when it returns
        except Stuck as stuck:
            plan = self._fired_plan()
            raise Stuck(f"{plan.id} {plan.site}: {stuck}; {self.recording.last_points()}") from None
        self._join_cancellers()
        self.breaches += [Breach(f"leak of {text.partition(':')[0]}", text) for text in self.watch.look()]
        verdict: Verdict = "PASS"
        if error:
            verdict, self.note = "ERROR", error if self.raised is None else f"{error}; {self.raised}"
        elif self.breaches:
            verdict = "FAIL"
        elif len(self.recording.fired) < len(self.plan.points):
            verdict = "UNRESOLVED"
            self.note = self.recording.diverged or "the point was not met"
        plan = self._fired_plan()
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
            raised=self.raised,
            note=self.note,
            after=After() if outcome is None else outcome.after,
        )

    def _fired_plan(self) -> Plan:
        recording = self.recording
        return attrs.evolve(self.plan, points=tuple(recording.fired), fingerprint=recording.fingerprint)

    def _perform(self) -> tuple[str, Outcome | None]:
        self._runtime = runtime_of(self.plan.backend)(
            self.recording, self.token, self.scenario.limits, self.host
        )
        Recording.current = self.recording
        try:
            return self._runtime.run(self._attempt)
        finally:
            Recording.current = None
            del self._runtime

    async def _attempt(self) -> tuple[str, Outcome | None]:
        result = await self._live()
        tasks = await self._runtime.left_tasks()
        if tasks and "tasks" in self.scenario.leaks:
            self.breaches.append(Breach("leak of tasks", f"tasks: {', '.join(tasks)}"))
        return result

    async def _live(self) -> tuple[str, Outcome | None]:
        """Everything between `make` and the end of the teardown; says what broke, and how the work ended."""
        scenario, runtime = self.scenario, self._runtime
        doing = "make"
        outcome: Outcome | None = None
        refused = ""
        subject: Any = None
        try:
            async with AsyncExitStack() as stack:
                subject = await runtime.finish(scenario.make())
                if isinstance(subject, AbstractAsyncContextManager):
                    subject = await stack.enter_async_context(subject)
                elif isinstance(subject, AbstractContextManager):
                    subject = stack.enter_context(subject)
                self.subject_type = type(subject)
                if self.lines is not None and scenario.targets is None:
                    self.lines.add(type(subject))
                if scenario.stop == "runtime":
                    self._stop = runtime.cancel
                elif scenario.stop is not None:
                    self._stop = partial(scenario.stop, subject, self.token)
                doing = "run"
                outcome = await self._run(subject)
                self.raised = runtime.raised_by(outcome)
                doing = "check"
                refused = await self._judge(subject, outcome)
                doing = "teardown"
        except (KeyboardInterrupt, NeedsLoop, Stuck):
            raise
        except BaseException as error:
            return f"{doing} raised {error!r}", None
        else:
            return refused, attrs.evolve(outcome, value=None, exception=None)
        finally:
            # The traceback of what the work raised leads back to this frame: without this, a cycle would keep
            # the subject, and whatever the work held open, until the next run of the garbage collector.
            del subject, outcome, stack

    async def _run(self, subject: S) -> Outcome:
        recording = self.recording
        with garbage_left():
            outcome = await self._recorded(subject)
        lanes = list(recording.lanes.values())
        after = After(
            points=max(lane.after_points for lane in lanes),
            lines=max(lane.after_lines for lane in lanes),
            ticks=max(lane.after_ticks for lane in lanes),
        )
        try:
            return attrs.evolve(outcome, fired=tuple(recording.fired), after=after)
        finally:
            del outcome  # for the reason given in _live()

    async def _recorded(self, subject: S) -> Outcome:
        """Do the work; from its beginning to the end of this, points count."""
        recording, runtime = self.recording, self._runtime
        outcome = await runtime.work(partial(self.scenario.run, subject, self.token))
        if recording.ran_away or recording.deaf or runtime.hung:
            outcome = Outcome(kind="hung")
        if "registrations" in self.scenario.leaks and (count := leaks.registrations(self.token)):
            self.breaches.append(
                Breach("leak of registrations", f"{count} callbacks are armed after the end")
            )
        if outcome.kind != "hung":
            with recording.last_byte:
                pass  # the work may have ended with it, and the point behind it is one of the work all the same
            fired = len(recording.fired)
            recording.main.reach("late", None, 0)
            if len(recording.fired) > fired:
                await runtime.settle()
        recording.open = False
        try:
            return outcome
        finally:
            del outcome  # for the reason given in _live()

    async def _judge(self, subject: S, outcome: Outcome) -> str:
        """Find what does not hold; says why the oracle is none, or nothing."""
        refused = ""
        if self.recording.cancel_error is not None:
            self.breaches.append(Breach("cancel raised", repr(self.recording.cancel_error)))
            self.recording.cancel_error = None  # its traceback holds the subject
        if outcome.kind == "hung":  # whatever the oracle thinks of it; its subject is in the middle of things
            stood = self._runtime.stood
            self.breaches.append(
                Breach("hung", (f"stood at {stood}\n" if stood else "") + self.recording.last_points())
            )
            return ""
        limits, after = self.scenario.limits, outcome.after  # nothing, where nothing was cancelled
        for unit, took, limit in (
            ("points", after.points, limits.points),
            ("lines", after.lines, limits.lines),
            ("ticks", after.ticks, limits.ticks),
        ):
            if limit is not None and took > limit:
                self.breaches.append(Breach("latency", f"went on for {took} {unit}, allowed are {limit}"))
        try:
            answer = await self._runtime.finish(self.scenario.check(subject, outcome))
            if answer is not None:  # a word that nobody hears is taken for a pass
                refused = (
                    f"check returned {answer!r:.80}: "
                    "it must return nothing, and raise AssertionError, as `assert` does"
                )
        except AssertionError as error:
            self.breaches.append(Breach.of(error))
        if self.scenario.restart is not None:
            try:
                await self._runtime.finish(self.scenario.restart(subject))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.breaches.append(Breach("restart", f"raised {error!r}"))
        return refused

    # What happens at a point

    def _act(self, step: int, asked: CancelToken | None) -> None:
        action, own = self._stop, self._runtime.cancel
        if self.plan.points[step].kind == "deadline":
            assert self.clock is not None, "planned for a manual clock only"
            action = partial(self.clock.advance, 2 * DEADLINE_SECONDS)
        elif step and self.scenario.second == "foreign":
            if self._runtime.can_cancel:
                action = self.token.cancel if action == own else own
            elif asked is not None:
                action = partial(asked.cancel, "explored: the clean-up's own token")
        if action == own or (self.plan.backend != "line" and self.scenario.who == "inline"):
            action()
            return
        raised: list[BaseException] = []
        canceller = threading.Thread(target=collect, args=(action, raised), name="canceller", daemon=True)
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
