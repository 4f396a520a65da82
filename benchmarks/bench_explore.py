"""Attempts per second of CPU time, explorer by explorer, and faults found, beside `cancellens` and `detangle`.

    pip install -e '.[dev,peers]'
    python -m benchmarks.bench_explore [--rounds 5]

An attempt is a turn of the toy in `_turns.py`, its oracle, and a second turn that must succeed. It ends with status 1
where, on the same asyncio toy, either of the two is quicker or finds more of the faults.

All three cancel by the runtime's own means there, up to two times a turn. `detangle` draws where, as it does by
default, and gets as many attempts as we make; of these, those that went another way than all before count. Ours are
also shown with a token's stops, in blocking code, trio, asyncio and at every byte of a socket. Rounds alternate and the
median counts, since the machine does other things, too. Left out: what a wait on a real peer costs; everything here is
ready at once.
"""

import argparse
import asyncio
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import cancellens
import detangle
import trio

from benchmarks._turns import FAULTS, ITEMS, Turn, again, judge
from cancel_token import CancelToken
from cancel_token.aio import fail_on_cancel
from cancel_token.sockets import shutdown_on_cancel
from cancel_token.testing import Outcome, Report, explore
from cancel_token.testing.net import cut_socketpair

MAX_ATTEMPTS = 5_000  # of cancellens, which has limits by default; no turn has so many


# Three explorers of the same toy: each says how many different attempts it made, and whether it found something


def ours(kind: type[Turn]) -> tuple[int, bool]:
    async def run(turn: Turn, token: CancelToken) -> None:
        await turn.run()

    def check(turn: Turn, outcome: Outcome) -> None:
        judge(turn, outcome.exception)

    report = explore(
        kind, run, check, backend="asyncio", stop="runtime", depth=2, restart=again, select="all"
    )
    return len(report.attempts), report.verdict != "PASS"


def theirs_cancellens(kind: type[Turn]) -> tuple[int, bool]:
    async def make() -> Turn:
        return kind()

    async def check(turn: Turn, completion: cancellens.Completion) -> None:
        try:
            judge(turn, completion.exception)
            await again(turn)
        except AssertionError as error:
            raise cancellens.InvariantViolation(str(error)) from error

    async def tear_down(turn: Turn) -> None:
        if turn.clock is not None:
            turn.clock.cancel()

    case = cancellens.Case(make, lambda turn: turn.run(), check, tear_down)
    limits = cancellens.Limits(
        max_points=MAX_ATTEMPTS,
        max_attempts=MAX_ATTEMPTS,
        phase_timeout=0.05,
        total_timeout=60,
        cleanup_timeout=0.01,
    )
    report = asyncio.run(cancellens.sweep(case, limits=limits))
    return len(report.attempts), report.outcome.value != "PASS"


def theirs_detangle(attempts: int, kind: type[Turn]) -> tuple[int, bool]:
    async def attempt() -> None:
        turn = kind()
        task = asyncio.ensure_future(turn.run())
        for _ in range(2):
            detangle.inject_cancellation(task, points=ITEMS + 1)
        end: BaseException | None = None
        try:
            await task
        except (Exception, asyncio.CancelledError) as error:
            end = error
        judge(turn, end)
        await again(turn)

    try:
        stats = detangle.explore(attempt, runs=attempts, seed=0, shrink=False, database=False)
    except detangle.BugFound:
        return attempts, True
    return stats.distinct_schedules, False


# Our explorers of all kinds


class Blocking(Turn):
    def run_blocking(self, token: CancelToken) -> None:
        self.busy = True
        try:
            while self.source:
                token.check()
                self.kept.append(self.source.pop())
        finally:
            self.busy = False


def nothing_is_lost(turn: Turn, outcome: Outcome) -> None:
    assert outcome.legal("returned", "cancelled")
    assert sorted(turn.source + turn.kept) == list(range(ITEMS))
    assert not turn.busy


def run_blocking(turn: Blocking, token: CancelToken) -> None:
    turn.run_blocking(token)


async def run_trio(turn: Turn, token: CancelToken) -> None:
    with fail_on_cancel(token):
        while turn.source:
            await trio.lowlevel.checkpoint()
            turn.kept.append(turn.source.pop())


async def run_asyncio(turn: Turn, token: CancelToken) -> None:
    with fail_on_cancel(token):
        await turn.run()


class Lines:
    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.received = b""

    def run(self, token: CancelToken) -> None:
        with shutdown_on_cancel(self.sock, token):
            while more := self.sock.recv(4096):
                self.received += more
        token.check()


@contextmanager
def connected() -> Iterator[Lines]:
    with cut_socketpair(b"data: a line\r\n\r\n" * ITEMS) as sock:
        yield Lines(sock)


def run_lines(lines: Lines, token: CancelToken) -> None:
    lines.run(token)


def any_end(lines: Lines, outcome: Outcome) -> None:
    assert outcome.legal("returned", "cancelled")


OWN: Mapping[str, Callable[[], Report]] = {
    "blocking code, every check": lambda: explore(
        Blocking, run_blocking, nothing_is_lost, restart=lambda turn: turn.run_blocking(CancelToken())
    ),
    "blocking code, every line, from a second thread": lambda: explore(
        Blocking,
        run_blocking,
        nothing_is_lost,
        backend="line",
        targets=[Blocking],
        restart=lambda turn: turn.run_blocking(CancelToken()),
    ),
    "trio, every wait": lambda: explore(
        Turn, run_trio, nothing_is_lost, backend="trio", restart=lambda turn: run_trio(turn, CancelToken())
    ),
    "asyncio, every wait": lambda: explore(
        Turn,
        run_asyncio,
        nothing_is_lost,
        backend="asyncio",
        restart=lambda turn: run_asyncio(turn, CancelToken()),
    ),
    "blocking code, every byte of a socket": lambda: explore(connected, run_lines, any_end, at=["byte"]),
}


def rate(made: Callable[[], int]) -> float:
    begun = time.process_time()
    attempts = made()
    return attempts / (time.process_time() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()} on {platform.machine()}\n")

    print("attempts per second of CPU time")
    own: dict[str, list[float]] = {name: [] for name in OWN}
    for _ in range(arguments.rounds):
        for name, explored in OWN.items():
            report = explored()
            report.assert_ok()
            own[name].append(rate(lambda explored=explored: len(explored().attempts)))  # type: ignore[misc]
    for name, rates in own.items():
        print(f"  {name:50} {statistics.median(rates):8,.0f}")

    attempts, _ = ours(Turn)
    tools: dict[str, Callable[[type[Turn]], tuple[int, bool]]] = {
        "cancel_token.testing": ours,
        "cancellens": theirs_cancellens,
        "detangle": partial(theirs_detangle, attempts),
    }
    speeds: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(arguments.rounds):
        for name, tool in tools.items():
            speeds[name].append(rate(lambda tool=tool: tool(Turn)[0]))  # type: ignore[misc]
    found = {name: [fault for fault in FAULTS if tool(fault)[1]] for name, tool in tools.items()}
    alarms = [name for name, tool in tools.items() if tool(Turn)[1]]
    print("\nthe same asyncio toy, cancelled by its runtime up to twice")
    print(f"  {'':42} {'':>8} " + "".join(f"{name:>22}" for name in tools))
    print(
        f"  {'different attempts per second of CPU time':51} "
        + "".join(f"{statistics.median(speeds[name]):22,.0f}" for name in tools)
    )
    for fault in FAULTS:
        marks = "".join(f"{'found' if fault in found[name] else '-':>22}" for name in tools)
        print(f"  {fault.__name__:51} {marks}")
    print(f"  {'found':51} " + "".join(f"{len(found[name]):22}" for name in tools))
    for name in alarms:
        print(f"  a false alarm on the good turn: {name}")

    us, *others = (statistics.median(rates) for rates in speeds.values())
    first, *rest = map(len, found.values())
    ok = us >= max(others) and first > max(rest) and not alarms
    print("\nat least as quick, and more found" if ok else "\nNOT at least as quick with more found")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
