"""Points: where in a run a cancel can come, how they are numbered.

A point is (lane, ordinal in the lane, kind). A lane is a thread or a task by descent: `0` runs the work, `0.2` is the
second one that it started. Racing threads reach their points in another global order every time, and each of
them in the same order of its own; so there are no global numbers.

`_probe.py` passes them.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import PurePath
from types import CodeType
from typing import Any, ClassVar, Literal
from zlib import crc32

import attrs

from cancel_token._token import CancelToken

Kind = Literal[
    "before",  # the token is cancelled before the work begins
    "check",  # it is about to be asked: `cancelled`, `check()`, the iteration guards
    "arm",  # a callback is about to be registered
    "disarm",  # a callback is about to be taken back
    "park",  # a wait is about to begin; in a loop: of a task
    "wake",  # a wait has ended, its caller does not know yet: the instant of completion
    "line",  # a line of the code under test is about to run
    "byte",  # so many bytes have been sent by the other end of a connection, which is silent from here on; see net.py
    "deadline",  # as any of the others, but the token's own clock does it
    "late",  # the work has ended: nothing may happen any more
]

Mark = tuple[Kind, CodeType | None, int]  # one point of a trace: what, and the code and line it is in

FLAG: Any = CancelToken.__dict__["cancelled"]  # the real one, whatever stands in the class while we explore
is_cancelled: Callable[[CancelToken], bool] = FLAG.__get__

GIVE_WAY_SECONDS = 0.05  # chosen by hand: a thread that computes for longer without passing a point is rare
SHOWN_LANES = 5  # chosen by hand: the first of them is the work itself
MAX_POINTS = 1_000_000  # chosen by hand: more than any run that ends within a test's patience


@attrs.frozen
class Point:
    """A place in a run where a cancel came, or may come.

    Args:
        lane: Which thread or task, by descent: `0` runs the work.
        ordinal: Its number in the lane, from 0.
        kind: What it was about to do.
        site: Where in the source, for people; two points are equal without it.
    """

    lane: str
    ordinal: int
    kind: Kind
    site: str = attrs.field(default="", eq=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.lane}.{self.ordinal}{self.kind}"


def site_of(mark: Mark) -> str:
    """Say where a point is: file, line and function."""
    kind, code, line = mark
    if code is None:
        return f"{kind} {line}" if kind == "byte" else kind
    return f"{_name_of(code.co_filename)}:{line} {code.co_qualname}"


@lru_cache  # asked for every point on the way to every cancel
def _name_of(file: str) -> str:
    return PurePath(file).name


def fingerprint(trace: Sequence[Mark]) -> int:
    """Sixteen bits of the way that led to a point: a replay must have come the same way."""
    return crc32("\n".join(f"{mark[0]} {site_of(mark)}" for mark in trace).encode()) & 0xFFFF


def first_difference(expected: Sequence[Mark], trace: Sequence[Mark]) -> str | None:
    """Say where `trace` leaves `expected`, of which it may be the beginning."""
    if list(expected[: len(trace)]) == list(trace):
        return None
    for ordinal, (was, now) in enumerate(zip(expected, trace, strict=False)):
        if was != now:
            return f"point {ordinal}: was {was[0]} at {site_of(was)}, is {now[0]} at {site_of(now)}"
    return (
        f"point {len(expected)}: was the end, is {trace[len(expected)][0]} at {site_of(trace[len(expected)])}"
    )


class Runaway(BaseException):
    """A run passes points without end; raised inside it to get out."""


class Lane:
    """One thread or task of the work, and the points it has passed."""

    __slots__ = (
        "after_lines",
        "after_points",
        "after_ticks",
        "at_rest",
        "children",
        "foreign",
        "name",
        "recording",
        "started",
        "target",
        "trace",
    )

    def __init__(self, name: str, recording: Recording) -> None:
        self.name = name
        self.recording = recording
        self.trace: list[Mark] = []
        self.target = -1  # the ordinal at which something is to happen
        self.children = 0
        self.started = True  # False while a thread is about to have it started
        self.at_rest = False  # it waits, as far as those know that wait for it; see Recording.give_way()
        self.after_points = 0  # how often it looked at a cancelled token after the cancel
        self.after_lines = 0
        self.after_ticks = 0  # how often its task has begun to wait since
        self.foreign: list[int] = []  # where another token than the explored one was asked after the cancel
        recording.lanes[name] = self
        recording.aim(self)

    def child(self) -> Lane:
        """Make the lane of the next thread, job or task that this one starts."""
        self.children += 1
        return Lane(f"{self.name}.{self.children}", self.recording)

    def reach(self, kind: Kind, code: CodeType | None, line: int, token: CancelToken | None = None) -> None:
        """Pass a point; if it is the one that is waited for, do there what is to be done."""
        recording = self.recording
        if not recording.open:
            return
        recording.give_way(self)
        ordinal = len(self.trace)
        self.trace.append((kind, code, line))
        if recording.unasked and token is not None:
            recording.note_asked(token)
        if ordinal == self.target:
            recording.arrive(self, token)
        elif recording.fired:
            if kind == "line":
                self.after_lines += 1
            elif token is not None:
                if kind in ("check", "park") and is_cancelled(token):
                    self.after_points += 1
                if recording.is_foreign(token):
                    self.foreign.append(ordinal)
            elif kind == "park":
                self.after_ticks += 1
        if ordinal >= recording.max_points:
            recording.ran_away = True
            raise Runaway


class _Here(threading.local):
    lane: Lane | None = None
    in_submit = False  # a pool's own threads get no lane: their jobs do


here = _Here()


@contextmanager
def outside_lanes() -> Iterator[None]:
    """What this thread does in the block is no step of the work: it passes no points, and starts no lanes."""
    lane, here.lane = here.lane, None
    try:
        yield
    finally:
        here.lane = lane


class Recording:
    """One attempt: the points of its lanes, and what is to happen at some of them.

    Args:
        steps: Where to act, one after the other; a second one is reached on the cancelled path.
        act: What to do there; it is given the step's place in `steps` and the token that is asked there.
        expected: How lanes came to their points before: a lane that comes another way has diverged, and
            nothing is done. None where nothing is known.
        fingerprint: Of the way to the last step, where that is known: another way has diverged, too.
        own: The explored token: whether it is asked is noted in `unasked`, and at which points others are asked after
            the cancel in `Lane.foreign`.
        watch: Entered by every thread of the work, around the work: for line events.
        max_points: A lane that passes more of them is a runaway.
        serialise: Threads give way to what they start.
        patience_seconds: How long the other end of a connection waits for a cancelled reader to hang up.
    """

    current: ClassVar[Recording | None] = None  # the one of the attempt under way

    def __init__(
        self,
        steps: Sequence[Point] = (),
        act: Callable[[int, CancelToken | None], object] = lambda step, asked: None,
        expected: Mapping[str, Sequence[Mark]] | None = None,
        fingerprint: int | None = None,
        own: CancelToken | None = None,
        watch: Callable[[], AbstractContextManager[object]] = nullcontext,
        max_points: int = MAX_POINTS,
        serialise: bool = False,
        patience_seconds: float = math.inf,
    ) -> None:
        self.steps = steps
        self.act = act
        self.expected = expected
        self.expected_fingerprint = fingerprint
        self.own = own
        self.unasked = own is not None  # until somebody looks at it, or at one below it
        self.watch = watch
        self.max_points = max_points
        self.lanes: dict[str, Lane] = {}
        self.waited: set[tuple[str, int]] = (
            set()
        )  # file and line of what has waited in a loop, outer lines too
        self.threads: set[Lane] = set()  # threads and jobs of pools that have not ended
        self.tasks: set[Lane] = set()  # tasks that threads have started, likewise
        self.loop_thread: int | None = None
        self.rest = (
            threading.Condition() if serialise else None
        )  # notified when one of these ends or comes to rest
        self.when_quiet: Callable[[], object] = int  # called, in whichever thread, when the last of them has
        self.open = False
        self.ran_away = False
        self.fired: list[Point] = []
        self.fingerprint: int | None = None  # of the way to the last point fired
        self.lengths: dict[str, int] = {}  # of all traces, when the last point was fired
        self.diverged: str | None = None
        self.cancel_error: BaseException | None = None  # raised by what was done at a point
        self.begun = False  # the work, or it never will
        self._waiting: list[threading.Event] = []  # for that
        self.last_byte = threading.Lock()  # held by a peer from its last byte to the point behind that
        self.deaf = False  # a peer has waited in vain for the work to hang up
        self.patience_seconds = patience_seconds
        self._roots = itertools.count(1)
        self.main = Lane("0", self)

    def new_root(self) -> Lane:
        """Make a lane of somebody who is not of the work: the other end of a connection."""
        return Lane(str(next(self._roots)), self)

    def aim(self, lane: Lane) -> None:
        """Tell the lane where to act, if the next step is in it."""
        if len(self.fired) < len(self.steps):
            step = self.steps[len(self.fired)]
            if step.lane == lane.name and step.ordinal >= len(lane.trace):
                lane.target = step.ordinal

    def arrive(self, lane: Lane, asked: CancelToken | None) -> None:
        """The lane stands at the point of the next step: look at the way it came, then act."""
        lane.target = -1
        ordinal = len(lane.trace) - 1
        mark = lane.trace[ordinal]
        if self.expected is not None:
            difference = first_difference(self.expected.get(lane.name, ()), lane.trace)
            if difference is not None:
                self.diverged = f"lane {lane.name}, {difference}"
                return
        step = self.steps[len(self.fired)]
        if step.kind not in (mark[0], "deadline"):
            self.diverged = f"{step} is now {mark[0]} at {site_of(mark)}"
            return
        way = fingerprint(lane.trace)
        is_last = len(self.fired) + 1 == len(self.steps)
        if is_last and self.expected_fingerprint not in (None, way):
            self.diverged = f"the way to {step} is another one now"
            return
        self.fingerprint = way
        self.lengths = {name: len(each.trace) for name, each in list(self.lanes.items())}
        for each in list(self.lanes.values()):
            each.after_points = each.after_lines = each.after_ticks = 0
        self.fired.append(attrs.evolve(step, site=site_of(mark)))
        self.quietly(self.act, len(self.fired) - 1, asked)
        for each in list(self.lanes.values()):
            self.aim(each)

    def quietly(self, fn: Callable[..., object], *args: object) -> None:
        """Call it outside of all lanes: what callbacks look at is no step of the work. Keeps what it raises."""
        try:
            with outside_lanes():
                fn(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.cancel_error = error

    def thread_ended(self, lane: Lane) -> None:
        """A thread or job of the work can't do anything any more."""
        self.threads.discard(lane)
        self.tell_rest()
        if not self.threads:
            self.when_quiet()

    def task_ended(self, lane: Lane) -> None:
        """A task that a thread of the work has started likewise."""
        self.tasks.discard(lane)
        self.tell_rest()

    def tell_rest(self, *lanes: Lane) -> None:
        """These wait now; and something may have changed for who gives way."""
        if self.rest is not None:
            with self.rest:
                for lane in lanes:
                    lane.at_rest = True
                self.rest.notify_all()

    def give_way(self, lane: Lane) -> None:
        """Let what this thread has started go on until it has ended or waits.

        It waits if it waits on a token, or if its loop does; else, if nothing was heard of it for a while: that costs
        a while, once for each wait. A wrong guess makes an order of events another one, and so is seen.
        """
        rest = self.rest
        if rest is None:
            return
        lane.at_rest = False
        if threading.get_ident() == self.loop_thread:
            return  # a task that gave way would hold up all the others
        below = f"{lane.name}."
        with rest:
            while running := [
                each
                for each in (*self.threads, *self.tasks)
                if not each.at_rest and each.name.startswith(below)
            ]:
                if not rest.wait(GIVE_WAY_SECONDS):
                    for each in running:
                        each.at_rest = True

    def is_foreign(self, token: CancelToken) -> bool:
        """Is it a token that the cancel did not reach, and that can be cancelled?"""
        return self.own is not None and token is not CancelToken.never() and not token.is_within(self.own)

    def note_asked(self, token: CancelToken) -> None:
        """Somebody looks at a token, or waits on it or listens to it."""
        if self.own is not None and token.is_within(self.own):
            self.unasked = False

    def begin(self) -> None:
        """From here on points count."""
        self.open = True
        self.let_peers_go()

    def wait_until_begun(self) -> None:
        """Block until the work begins, or never will."""
        begun = threading.Event()
        self._waiting.append(begun)
        if not self.begun:  # published, so look again
            begun.wait()

    def let_peers_go(self) -> None:
        """End `wait_until_begun()`."""
        self.begun = True
        for begun in self._waiting:
            begun.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the points of this thread as those of lane 0, and of the threads it starts as theirs."""
        self.begin()
        here.lane = self.main
        try:
            with self.watch():
                yield
        finally:
            here.lane = None

    def reached(self) -> Iterator[tuple[str, int]]:
        """File and line of the points passed since the last step, but those of lines; all where there was none."""
        yield from self.waited
        for lane in list(self.lanes.values()):
            for kind, code, line in lane.trace[self.lengths.get(lane.name, 0) :]:
                if code is not None and kind != "line":
                    yield code.co_filename, line

    def last_points(self) -> str:
        """Where those who are of the work were seen last, for people."""
        found = [
            f"{lane.name}.{len(lane.trace) - 1}{lane.trace[-1][0]}"
            + (f" at {site_of(lane.trace[-1])}" if lane.trace[-1][1] is not None else "")
            for lane in list(self.lanes.values())
            if lane.trace
        ]
        return (
            f"last point of each lane: {', '.join(found[:SHOWN_LANES])}" if found else "no point was passed"
        )

    def traces(self) -> dict[str, list[Mark]]:
        """What each lane has passed so far."""
        return {name: list(lane.trace) for name, lane in list(self.lanes.items())}
