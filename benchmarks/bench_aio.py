"""What a token costs tasks of trio and asyncio, as ratios to the runtimes' own means in the same run.

    python -m benchmarks.bench_aio [--quick]

A block is timed with its statements unrolled, a wake-up from the call in a thread to the first statement behind the
block; subject and baseline take turns. Of blocks the fastest round counts, since noise only ever adds; of wake-ups the
mean (see `_wake_ups.py`). It ends with status 1 if a row is over its limit; rows without a limit are for information.

Left out: loops that are busy, where a wake-up waits its turn, whoever sent it.
"""

import argparse
import asyncio
import platform
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import anyio
import anyio.to_thread
import trio

from benchmarks._wake_ups import mean_of_most, without_precedence
from benchmarks.bench_token import Timed, statements
from cancel_token import CancelToken
from cancel_token.aio import move_on_cancel, run_sync

PARK_SECONDS = 0.0005  # until the loop sleeps; what wakes it then is measured

AnyScope = AbstractContextManager[object]
Wake = Callable[[], object]


class Alarm:
    """A thread that wakes the loop on request, a little later."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Wake | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve)
        self.woken_at = 0.0

    def __enter__(self) -> "Alarm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join()

    def request(self, wake: Wake) -> None:
        self._requests.put(wake)

    def _serve(self) -> None:
        while (wake := self._requests.get()) is not None:
            time.sleep(PARK_SECONDS)
            self.woken_at = time.perf_counter()
            wake()


async def wake_latency(alarm: Alarm, scope: AnyScope, wake: Wake) -> float:
    with scope:
        alarm.request(wake)
        await anyio.sleep_forever()
    return time.perf_counter() - alarm.woken_at


async def wake_latencies(new_bare: Callable[[], tuple[AnyScope, Wake]], repeats: int) -> tuple[float, float]:
    """Mean seconds by a token, and by the loop's own thread-safe entry; a coin decides which of them goes first."""
    coin = random.Random(0)
    ours: list[float] = []
    bare: list[float] = []

    def new_ours() -> tuple[AnyScope, Wake]:
        token = CancelToken()
        return move_on_cancel(token), token.cancel

    ways = [(ours, new_ours), (bare, new_bare)]
    with without_precedence(), Alarm() as alarm:
        for _ in range(repeats):
            coin.shuffle(ways)
            for seconds, new in ways:
                seconds.append(await wake_latency(alarm, *new()))
    return mean_of_most(ours), mean_of_most(bare)


def bare_trio() -> tuple[AnyScope, Wake]:
    scope, entry = trio.CancelScope(), trio.lowlevel.current_trio_token()
    return scope, lambda: entry.run_sync_soon(scope.cancel)


def bare_asyncio() -> tuple[AnyScope, Wake]:
    scope, loop = anyio.CancelScope(), asyncio.get_running_loop()
    return scope, lambda: loop.call_soon_threadsafe(scope.cancel)


def nothing(*, token: CancelToken) -> None:
    pass


async def thread_seconds(call: Callable[[], Awaitable[object]], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(what: str, subject: float, baseline: float, limit: float | None) -> bool:
    ratio = subject / baseline
    kept = limit is None or ratio <= limit
    shown = "" if limit is None else f"{limit:7.2f}  {'kept' if kept else 'BROKEN'}"
    print(f"{what:66} {subject:10,.1f} {baseline:10,.1f} us {ratio:7.2f} {shown}", flush=True)
    return kept


async def measure(runtime: str, *, quick: bool) -> bool:
    rounds, count, repeats = (10, 50, 200) if quick else (40, 200, 2000)
    on_trio = runtime == "trio"
    root, child, never = CancelToken(), CancelToken().child(), CancelToken.never()
    names: dict[str, object] = {
        "move_on_cancel": move_on_cancel, "CancelScope": trio.CancelScope if on_trio else anyio.CancelScope,
        "root": root, "child": child, "never": never,
    }  # fmt: skip
    bare = Timed("with CancelScope(): pass", names)

    def block(token: str) -> tuple[float, float]:
        ours = Timed(f"with move_on_cancel({token}): pass", names)
        subject, baseline = statements(ours, bare, rounds, count)
        return subject / 1e3, baseline / 1e3

    name = "trio.CancelScope()" if on_trio else "anyio.CancelScope()"
    entry = "run_sync_soon" if on_trio else "call_soon_threadsafe"
    kept = [row(f"{runtime}: with move_on_cancel(token) / {name}", *block("root"), 1.6 if on_trio else None)]
    row(f"{runtime}: the same, of a child, pinning it", *block("child"), None)
    row(f"{runtime}: the same, of CancelToken.never()", *block("never"), None)
    ours_seconds, bare_seconds = await wake_latencies(bare_trio if on_trio else bare_asyncio, repeats)
    kept.append(
        row(f"{runtime}: wake a task from a thread / {entry}(scope.cancel)",
            ours_seconds * 1e6, bare_seconds * 1e6, 1.1)
    )  # fmt: skip
    row(
        f"{runtime}: run_sync(fn) / anyio.to_thread.run_sync(fn), of its pool",
        await thread_seconds(lambda: run_sync(nothing, token=root), repeats) * 1e6,
        await thread_seconds(lambda: anyio.to_thread.run_sync(lambda: None), repeats) * 1e6,
        None,
    )
    return all(kept)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a token costs tasks.")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}")
    print(f"{'':66} {'token':>10} {'baseline':>10}    {'ratio':>7} {'limit':>7}")

    async def run(runtime: str) -> bool:
        return await measure(runtime, quick=options.quick)

    kept = [anyio.run(run, runtime, backend=runtime) for runtime in ("trio", "asyncio")]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
