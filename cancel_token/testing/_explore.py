"""Cancel at every point: count them in one run, then run again and cancel at each.

The laws of it:

1.  The oracle judges every attempt, the undisturbed one too, before the subject is torn down.
2.  A replay must come to its point on the way it came before. One that does not is UNRESOLVED, never a pass.
3.  An exploration that met no point has proved nothing, and says so; so has one that met those of other tokens only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from cancel_token._token import CancelToken
from cancel_token.testing import leaks as _leaks
from cancel_token.testing._clock import JumpingClock, ManualClock
from cancel_token.testing._lines import LineEvents, Target
from cancel_token.testing._outcomes import Attempt, Limits, Outcome
from cancel_token.testing._plans import Backend, Plan, Select, select
from cancel_token.testing._points import (
    MAX_POINTS,
    Kind,
    Mark,
    Point,
    Recording,
    first_difference,
    site_of,
)
from cancel_token.testing._probe import installed
from cancel_token.testing._report import Report, joined
from cancel_token.testing._runtime import Stuck
from cancel_token.testing._trial import Make, Scenario, Second, Stop, Trial, Who, runtime_of, watch

S = TypeVar("S")

_TOKEN_KINDS: tuple[Kind, ...] = ("check", "arm", "disarm")
_ASKING_KINDS: tuple[Kind, ...] = (*_TOKEN_KINDS, "park", "wake", "deadline")
_KINDS: tuple[Kind, ...] = ("before", *_TOKEN_KINDS, "park", "wake", "byte", "late")
AT: Mapping[Backend, tuple[Kind, ...]] = {
    "sync": _KINDS,
    "line": ("before", "line", "byte", "late"),
    "trio": _KINDS,
    "asyncio": _KINDS,
}
LEAKS: tuple[_leaks.Resource, ...] = ("threads", "tasks", "fds", "registrations")

Traces = dict[str, list[Mark]]


class TrialOptions(TypedDict, Generic[S], total=False):
    """How each attempt is made: what `explore()` and `replay()` take besides their own arguments.

    Args:
        stop: How a stop is asked for; by default `token.cancel()`. `"runtime"`: the work's task is cancelled by its
            loop's own means, a scope around it or `task.cancel()`.
        second: What the second stop is: the same once more, or `"foreign"`, another. In a loop that is the runtime's
            cancellation, or the token where the first was the runtime's. In blocking code it is the token that is
            asked at that point, where it is one that the first stop did not reach.
        who: Who stops: `"inline"`, whoever comes to the point; `"thread"`, a second thread, while it stands still. The
            `"line"` backend always takes the second, the runtime's own cancellation always the first.
        serialise: At its points a thread waits until the threads and tasks that it has started have ended or wait. For
            work whose order of events is a race, which would make each attempt another one.
        restart: Another operation on the subject, which must work whatever happened before.
        clock: Makes the token's clock for an attempt; by default the system's, and a `JumpingClock` for
            deadlines.
        limits: What an attempt may take.
        leaks: What must not be left behind. With `"temp_files"` the exploration has a directory of its own for them.
        targets: For lines: modules, classes and functions whose files are the code under test; by default
            those of `run` and of the subject's class.
    """

    stop: Stop[S]
    second: Second
    who: Who
    serialise: bool
    restart: Callable[[S], object] | None
    clock: Callable[[], ManualClock] | None
    limits: Limits
    leaks: Sequence[_leaks.Resource]
    targets: Sequence[Target] | None


def explore(
    make: Make[S],
    run: Callable[[S, CancelToken], object],
    check: Callable[[S, Outcome], object],
    *,
    backend: Backend | Sequence[Backend] = "sync",
    at: Sequence[Kind] | None = None,
    depth: int = 1,
    select: Select = "auto",
    max_points: int | None = None,
    **options: Unpack[TrialOptions[S]],
) -> Report:
    """Run `run` once undisturbed, then once for each of its points, cancelled there; judge all of it by `check`.

    An attempt is: `make`, `run` under a token of its own, `check`, `restart`, teardown, look for leaks.
    One exploration at a time in a process. What `run` does must not depend on anything but the point of the
    cancel (no clocks, no dice): an attempt that goes another way is UNRESOLVED.

    In a loop all four functions may be `async def`.

    Args:
        make: Makes the subject, fresh for every attempt. If that is a context manager it is entered, and
            leaving it is the teardown.
        run: The work. May return, raise, or start threads and tasks.
        check: The oracle. Raises AssertionError, best a `Violation`, for what must not be, and returns nothing: what
            it returns is an error, since a False would be lost. It sees the subject before the teardown; an attempt
            that hung is a failure without being shown to it.
        backend: `"sync"`: blocking code; who comes to the point calls `cancel()`. `"line"`: the same code, but a
            second thread does, while the first is frozen before a line. `"trio"`, `"asyncio"`: in a loop. Or several.
        at: Kinds of points to cancel at; by default all that the backend has. `"deadline"` tries each of the token's
            points once more with the token's own deadline.
        depth: 2 for a second cancel at each point that is passed after the first, while cleaning up.
        select: Which points to try: `"all"`, `"per-site"` (the first three and the last two of each line of
            source, and a sample), or `"auto"`: all of up to 400, else per site.
        max_points: So many attempts with one cancel at most, and so many with two: the first point of each line of
            source comes before the second of any. None for no limit.
        **options: See `TrialOptions`.

    Raises:
        ValueError: The arguments do not go together.
        TypeError: One of the functions waits, and the backend has no loop.
        RuntimeError: An exploration is going on in this process.
    """
    backends: Sequence[Backend] = (backend,) if isinstance(backend, str) else backend
    for each in backends:
        if each not in AT:
            raise ValueError(f"there is no backend {each!r}, only {', '.join(AT)}")
        for kind in at or ():
            if kind not in (*AT[each], *(AT["sync"] if each == "line" else ()), "deadline"):
                raise ValueError(f"the {each!r} backend has no points of kind {kind!r}")
        if options.get("stop") == "runtime" and each not in ("trio", "asyncio"):
            raise ValueError(f"the {each!r} backend has no cancellation of its own")
    if depth not in (1, 2):
        raise ValueError(f"depth must be 1 or 2, not {depth!r}")
    scenario = _scenario(make, run, check, options, timed="deadline" in (at or ()))
    with installed():
        return joined(
            _Exploration(scenario, each, tuple(at or AT[each]), select, max_points).explore(depth)
            for each in backends
        )


class StaleReplayId(LookupError):
    """The code has changed since the id was printed: its point is not there any more, or on another way.

    Do not take it for a pass: explore again.
    """


def replay(
    id: str,  # noqa: A002  # it is what everybody calls it
    make: Make[S],
    run: Callable[[S, CancelToken], object],
    check: Callable[[S, Outcome], object],
    **options: Unpack[TrialOptions[S]],
) -> Report:
    """Make the one attempt that an id from a report names, for instance under a debugger.

    Args:
        id: Such as `"ct1:sync:0.24check~9f2c"`.
        make: As for `explore()`.
        run: As for `explore()`.
        check: As for `explore()`.
        **options: The same as for the exploration; see `TrialOptions`.

    Raises:
        ValueError: It is no id.
        StaleReplayId: The code has changed.
        TypeError: As for `explore()`.
        RuntimeError: An exploration is going on in this process.
    """
    plan = Plan.parse(id)
    timed = any(point.kind == "deadline" for point in plan.points)
    scenario = _scenario(make, run, check, options, timed=timed)
    with installed():
        exploration = _Exploration(scenario, plan.backend, (), "all")
        with exploration.watching():
            trial = exploration.attempt(plan)
    recording = trial.recording
    if len(recording.fired) < len(plan.points):
        raise StaleReplayId(f"{id}: {recording.diverged or 'its point is not met any more'}; explore again")
    return Report(attempts=tuple(exploration.attempts), planned=1)


def _scenario(
    make: Make[S],
    run: Callable[[S, CancelToken], object],
    check: Callable[[S, Outcome], object],
    options: TrialOptions[S],
    *,
    timed: bool,
) -> Scenario[S]:
    if timed and options.get("clock") is None:
        options["clock"] = JumpingClock
    options.setdefault("leaks", LEAKS)
    scenario: Scenario[S] = Scenario(make=make, run=run, check=check, **options)
    return scenario


class _Exploration(Generic[S]):
    """The attempts of one backend."""

    def __init__(
        self,
        scenario: Scenario[S],
        backend: Backend,
        at: tuple[Kind, ...],
        how: Select,
        max_points: int | None = None,
    ) -> None:
        self.scenario = scenario
        self.backend = backend
        self.at = at
        self.how = how
        self.max_points = max_points
        self.lines: LineEvents | None = None
        if backend == "line":
            self.lines = LineEvents((scenario.run,) if scenario.targets is None else scenario.targets)
        self.host: Any = None  # of the runtime
        self.leaks = watch(())
        self.attempts: list[Attempt] = []
        self.planned = 0
        self.points: Counter[Kind] = Counter()
        self.unresolved: list[str] = []
        self.sources: tuple[Target, ...] = tuple(scenario.targets or (scenario.run,))
        self.reached: set[tuple[str, int]] = set()  # file and line of each point passed
        self.unasked = True  # the token that was given, and all below it, in every attempt so far

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What attempts share."""
        with (
            nullcontext() if self.lines is None else self.lines.installed(),
            _leaks.private_temp_dir() if "temp_files" in self.scenario.leaks else nullcontext(),
            runtime_of(self.backend).host() as self.host,
        ):
            self.leaks = watch(self.scenario.leaks)
            yield

    def attempt(self, plan: Plan, expected: Traces | None = None) -> Trial[S]:
        # A cancel may lead to longer ways than the undisturbed one, but not to endlessly longer ones.
        limit = MAX_POINTS if expected is None else 1000 + 10 * sum(map(len, expected.values()))
        trial = Trial(self.scenario, plan, self.lines, expected, self.leaks, self.host, max_points=limit)
        self.attempts.append(trial.perform())
        if not self.reached and self.scenario.targets is None and trial.subject_type is not None:
            self.sources += (trial.subject_type,)
        self.reached.update(trial.recording.reached())
        self.unasked = self.unasked and trial.recording.unasked
        return trial

    def explore(self, depth: int) -> Report:
        errors: list[str] = []
        try:
            with self.watching():
                self._explore(depth)
        except Stuck as error:
            errors.append(f"{error}; the exploration ended there")
        return Report(
            attempts=tuple(self.attempts),
            planned=self.planned,
            points=dict(self.points),
            sources=self.sources,
            reached=frozenset(self.reached),
            unresolved=tuple(self.unresolved),
            errors=tuple(errors),
        )

    def _explore(self, depth: int) -> None:
        traces = self.attempt(Plan(self.backend)).recording.traces()
        again = self.attempt(Plan(self.backend)).recording.traces()
        self.points.update(mark[0] for trace in traces.values() for mark in trace)
        if any(attempt.verdict != "PASS" for attempt in self.attempts):
            return  # what fails undisturbed would fail everywhere
        for lane in sorted({*traces, *again}):
            if not any(self._points({lane: each.get(lane, [])}, {}, ()) for each in (traces, again)):
                continue  # nothing is cancelled there, so it may go as it likes
            difference = first_difference(again.get(lane, ()), traces.get(lane, ()))
            if difference is not None or len(traces.get(lane, ())) != len(again.get(lane, ())):
                difference = difference or "it has ended later or earlier"
                self.unresolved.append(
                    f"the undisturbed run is another one each time: lane {lane}, {difference}"
                )
        wanted = set(self.at) - {"before", "late", "deadline"}
        if self.backend in ("trio", "asyncio") and self.scenario.stop is None:
            wanted &= {*_TOKEN_KINDS, "byte"}  # a task waits whether it knows of a token or not
        nothing_met = bool(wanted) and not any(self.points[kind] for kind in wanted)
        if nothing_met:
            kinds = ", ".join(sorted(wanted))
            self.unresolved.append(f"no point of these kinds was met: {kinds}. Was the token handed on?")

        firsts = [(site, (point,)) for site, point in self._points(traces, {}, ())]
        chosen = select(firsts, self.how, self.max_points)
        self.planned += len(chosen)
        pairs: list[tuple[object, tuple[Plan, Traces]]] = []
        for points in chosen:
            trial = self.attempt(Plan(self.backend, points), traces)
            if depth == 2 and trial.recording.fired:
                after = trial.recording.traces()
                pairs += [
                    ((points[0].site, site), (Plan(self.backend, (*points, point)), after))
                    for site, point in self._seconds(trial.recording, after)
                ]
        seconds = select(pairs, self.how, self.max_points)
        self.planned += len(seconds)
        for plan, after in seconds:
            self.attempt(plan, after)
        # Where something else is stopped, or only lines and bytes are tried, the work need not know of the token.
        asking = self.scenario.stop is None and not set(self.at).isdisjoint(_ASKING_KINDS)
        if asking and self.unasked and not nothing_met:
            self.unresolved.append(
                "nobody looked at the token that was given, or at one made of it. Was the token handed on?"
            )

    def _seconds(self, recording: Recording, traces: Traces) -> Iterator[tuple[str, Point]]:
        for site, point in self._points(traces, recording.lengths, ("before", "deadline")):
            anywhere = self.scenario.second == "same" or self.backend in ("trio", "asyncio")
            if anywhere or point.ordinal in recording.lanes[point.lane].foreign:
                yield site, point

    def _points(
        self, traces: Traces, starts: Mapping[str, int], without: Sequence[Kind]
    ) -> list[tuple[str, Point]]:
        """The points to cancel at, with their sites, of all lanes, from each lane's start on."""
        found: list[tuple[str, Point]] = []
        kinds = [kind for kind in self.at if kind not in without]
        for lane in sorted(traces):
            for ordinal, mark in enumerate(traces[lane]):
                if ordinal < starts.get(lane, 0):
                    continue
                site = site_of(mark)
                if mark[0] in kinds:
                    found.append((site, Point(lane, ordinal, mark[0], site=site)))
                if "deadline" in kinds and mark[0] not in ("line", "byte", "late"):
                    found.append((site, Point(lane, ordinal, "deadline", site=site)))
        return found
