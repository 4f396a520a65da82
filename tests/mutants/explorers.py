"""The explorers that faults are shown to: each is a few explorations of the proof, and ends at the first alarm."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final

import anyio
import anyio.to_thread

from aiwrapper import AsyncChatAgent, Entry, tool
from aiwrapper.testing import Call, DialectName, Say, Script, ScriptedTransport, Turn
from cancel_token import Cancelled, CancelToken, _token
from cancel_token.aio import move_on_cancel
from cancel_token.testing import Backend, Limits, Outcome, Report, Violation, explore
from tests.proof.exploring import (
    CUT,
    LIMITS,
    ONE_TOOL,
    SPOKEN,
    TALKATIVE,
    TARGETS,
    explore_loop,
    explore_threads,
)
from tests.proof.talks import Ear, Subject, lang_of
from tests.proof.test_bytes import SHORT, given_bytes, stop_at

ROTTEN: Final = (AttributeError, NameError, TypeError)
"""What a fault raises that no longer fits the code: it breaks it, in a way that nobody had in mind."""


class Alarm(KeyboardInterrupt):
    """The oracle has found something. It passes through every exploration, and so ends it at once."""


@contextmanager
def _hasty() -> Iterator[None]:
    """Have the oracle of the proof end the exploration at its first alarm."""
    patient = Subject.check

    def hasty(subject: Subject[Any], outcome: Outcome) -> None:  # Any: whatever agent it has
        if isinstance(outcome.exception, ROTTEN):
            raise Alarm(type(outcome.exception).__name__)
        try:
            patient(subject, outcome)
        except Violation as violation:
            raise Alarm(violation.name) from violation
        except AssertionError as error:
            raise Alarm("the oracle") from error

    Subject.check = hasty  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Subject.check = patient  # type: ignore[method-assign]


def alarm(explorer: str) -> str | None:
    """What an explorer finds in the code as it is now: the first rule, or an error's name, or None for nothing.

    Raises:
        AssertionError: it could not explore.
    """
    try:
        with _hasty():
            for report in EXPLORERS[explorer]():
                if report.failures:
                    return report.failures[0].name
                assert not report.errors, str(report)
                assert report.valid >= 0.9 * report.planned, str(report)
    except Alarm as found:
        return str(found)
    except BaseExceptionGroup as group:
        found_in, rest = group.split(Alarm)
        if found_in is not None and rest is None:
            return str(found_in.exceptions[0])
        if not isinstance(group, ExceptionGroup):
            raise
        return type(group.exceptions[0]).__name__  # as below
    except Violation as violation:
        return violation.name
    except AssertionError as error:
        if str(error).startswith(("UNRESOLVED", "ERROR")):
            raise
        return "the oracle"
    except Exception as error:  # of the code itself, where nobody was to raise anything
        return type(error).__name__
    return None


def _sync() -> Iterator[Report]:
    for dialect in ("openai_chat", "anthropic"):
        for script in (ONE_TOOL, TALKATIVE, CUT):
            yield explore_threads(dialect, script)


def _twice() -> Iterator[Report]:
    yield explore_threads("anthropic", SPOKEN, depth=2)


def _line() -> Iterator[Report]:
    yield explore_threads("anthropic", ONE_TOOL, backend="line", targets=TARGETS, select="per-site")


def _bytes() -> Iterator[Report]:
    for dialect in ("openai_chat", "anthropic"):
        for script in (SHORT, CUT):
            _stop_at_bytes(dialect, script)
    yield from ()


def _stop_at_bytes(dialect: DialectName, script: Script) -> None:
    for byte in range(0, given_bytes(dialect, script), 16):
        try:
            stop_at(dialect, script, byte, CancelToken.cancel)
        except Cancelled as error:
            raise Violation("S6", "a stop came out as an exception") from error


def _trio() -> Iterator[Report]:
    for script in (ONE_TOOL, TALKATIVE, CUT):
        yield explore_loop("anthropic", script, backend="trio")


def _asyncio() -> Iterator[Report]:
    for script in (ONE_TOOL, TALKATIVE, CUT):
        yield explore_loop("anthropic", script, backend="asyncio")


LONG: Final = Script((Turn((Say(("word ",) * 70),)),))
"""More entries than a task takes without letting others run."""


class Reading:
    """A reader of a run that is over, who is stopped and reads on: so it goes the same way each time."""

    def __init__(self) -> None:
        self.ear = Ear()
        self.read: list[Entry] = []
        agent = AsyncChatAgent(lang_of(ScriptedTransport("anthropic", LONG)))
        self.handle = agent.start("Go", subscribers=[self.ear])

    @classmethod
    async def of_a_run_that_is_over(cls) -> "Reading":
        reading = cls()
        await reading.handle.wait()
        return reading

    async def run(self, token: CancelToken) -> None:
        entries = aiter(self.handle)
        with move_on_cancel(token):
            async for entry in entries:
                self.read.append(entry)
        async for entry in entries:
            self.read.append(entry)

    def check(self, outcome: Outcome) -> None:
        assert outcome.legal("returned")
        if self.read != self.ear.log:
            raise Violation("E1", "an entry was lost to a reader")


async def _leave_a_stream_whose_tool_goes_on() -> None:
    begun, release = threading.Event(), threading.Event()

    @tool
    def stubborn() -> str:
        begun.set()
        release.wait()
        return "at last"

    transport = ScriptedTransport("anthropic", (Turn((Call("stubborn", ("{}",)),)),))
    agent = AsyncChatAgent(lang_of(transport), [stubborn], tool_grace_seconds=3600.0)
    busy_when_left: list[bool] = []
    let_out: list[Cancelled] = []

    async def read() -> None:
        try:
            async with aclosing(agent.stream("Go")) as entries:
                async for _ in entries:
                    pass
        except Cancelled as stop:
            let_out.append(stop)
        finally:
            busy_when_left.append(agent.busy)
            begun.set()  # or a run that fails at once would be waited for here, and not seen

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            release.set()
            await anyio.wait_all_tasks_blocked()
    if let_out:
        raise Violation("S9", "the runtime cancelled the task, and a token's stop came out of it")
    if busy_when_left != [False]:
        raise Violation("R1", "a stream was left, and its run had not ended")


def _reading() -> Iterator[Report]:
    loops: tuple[Backend, ...] = ("trio", "asyncio")
    for loop in loops:
        yield explore(
            Reading.of_a_run_that_is_over,
            Reading.run,
            Reading.check,
            backend=loop,
            limits=Limits(points=None, ticks=None),  # it reads on after the stop
        )
        anyio.run(_leave_a_stream_whose_tool_goes_on, backend=loop)


class Armed:
    """Code whose stop depends on its callback."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.cancelled_inside = False

    def run(self, token: CancelToken) -> None:
        with token.on_cancel(self.called.set):
            self.cancelled_inside = token.cancelled

    def check(self, outcome: Outcome) -> None:
        assert outcome.legal("returned")
        if self.cancelled_inside and not self.called.is_set():
            raise Violation("T-S4", "the token is cancelled, and the callback was not called")


def _arming() -> Iterator[Report]:
    yield explore(Armed, Armed.run, Armed.check, backend="line", targets=[_token], limits=LIMITS)


EXPLORERS: Final[Mapping[str, Callable[[], Iterator[Report]]]] = {
    "sync": _sync,
    "twice": _twice,
    "line": _line,
    "bytes": _bytes,
    "trio": _trio,
    "asyncio": _asyncio,
    "reading": _reading,
    "arming": _arming,
}
"""By name: at every point in threads, a second stop, every line, bytes, the two loops, a loop's readers, callbacks."""
