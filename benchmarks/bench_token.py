"""What a token costs, as ratios to the standard library measured in the same run.

    python benchmarks/bench_token.py [--quick] [--peers DIR]

Each row is timed in rounds that alternate between the subject and its baseline, statements unrolled so that the
loop costs nothing; the ratio is that of the two fastest rounds, since noise only ever adds. Left out: what
callbacks do, sockets (bench_stop.py), and contention of more than two threads.

The limits were set for CPython 3.11. `threading.Event()` became two to four times cheaper with 3.12 and 3.13, and
a token did not, so that there the two rows about making one are beyond their limits: a token is two dicts and a
list, a child a weak reference more. Reading an attribute, 0.2 of `Event.is_set()` on 3.11, is 0.3 there.

In the row about waking, a coin decides in each round which of the two goes first: how deeply the other processor
sleeps depends on what came before, and that weighs more than all that either of them does. It is meant for a quiet
machine: of the 15 microseconds the calls themselves take less than one, the rest is the operating system's, and on
a busy machine, where both wait for a processor, the ratio goes to one.

Peers are looked for in DIR, which `pip install --no-deps --target DIR/NAME NAME` fills, one folder for each: the
distribution `cancel-token` has our import name, so each peer is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import platform
import queue
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sized
from pathlib import Path

import attrs

from cancel_token import CancelToken

UNROLLED = 50


@attrs.frozen
class Timed:
    """A statement, to be repeated `UNROLLED` times inside a loop."""

    statement: str
    names: dict[str, object]
    setup: str = "pass"

    def compile(self) -> Callable[[int], float]:
        lines = "\n".join(f"        {line}" for line in [self.statement] * UNROLLED)
        source = (
            "def run(count):\n"
            f"    {self.setup}\n"
            "    start = clock()\n"
            "    for _ in range(count):\n"
            f"{lines}\n"
            "    return clock() - start\n"
        )
        scope: dict[str, object] = {**self.names, "clock": time.perf_counter}
        exec(compile(source, "<benchmark>", "exec"), scope)
        run: Callable[[int], float] = scope["run"]  # type: ignore[assignment]  # exec has no types
        return run


def alternate(
    subject: Callable[[], float], baseline: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """The fastest round of each, taken in turn."""
    best_subject = best_baseline = float("inf")
    for _ in range(rounds):
        best_baseline = min(best_baseline, baseline())
        best_subject = min(best_subject, subject())
    return best_subject, best_baseline


def statements(subject: Timed, baseline: Timed, rounds: int, count: int) -> tuple[float, float]:
    """Nanoseconds for one statement each."""
    left, right = subject.compile(), baseline.compile()
    each = count * UNROLLED / 1e9
    seconds = alternate(lambda: left(count), lambda: right(count), rounds)
    return seconds[0] / each, seconds[1] / each


def deep_token(depth: int) -> tuple[CancelToken, list[CancelToken]]:
    token, chain = CancelToken(), []
    for _ in range(depth):
        chain.append(token)
        token = token.child()
    return token, chain


def cancel_many(count: int) -> float:
    root = CancelToken()
    children = [root.child() for _ in range(count)]
    start = time.perf_counter()
    root.cancel()
    seen = all(child.cancelled for child in children)
    seconds = time.perf_counter() - start
    assert seen
    return seconds


def set_many(count: int) -> float:
    events = [threading.Event() for _ in range(count)]
    start = time.perf_counter()
    for event in events:
        event.set()
    return time.perf_counter() - start


class Sleeper:
    """A thread that waits for one thing after the other, and says when it has been woken from each."""

    def __init__(self) -> None:
        self.waits: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.woken: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._sleep)
        self.thread.start()

    def _sleep(self) -> None:
        while (wait := self.waits.get()) is not None:
            wait()
            self.woken.put(time.perf_counter())

    def latency(
        self, wait: Callable[[], object], wake: Callable[[], object], parked: Callable[[], object]
    ) -> float:
        """Seconds from the call that wakes to the first statement of the woken thread."""
        self.waits.put(wait)
        while not parked():
            time.sleep(0)
        for _ in range(3):  # parked() says that it is about to block; this lets it
            time.sleep(0)
        start = time.perf_counter()
        wake()
        return self.woken.get() - start


def wake_latencies(repeats: int) -> tuple[float, float]:
    """Median nanoseconds for a token and for an event, measured in pairs on the same thread."""
    sleeper, coin = Sleeper(), random.Random(0)
    token_seconds, event_seconds = [], []
    for _ in range(repeats):
        token, event = CancelToken(), threading.Event()
        waiters = event._cond._waiters  # type: ignore[attr-defined]  # the only way to see that it waits

        def measure_token(token: CancelToken = token) -> None:
            token_seconds.append(sleeper.latency(token.wait, token.cancel, lambda: token._held))

        def measure_event(event: threading.Event = event, waiters: Sized = waiters) -> None:
            event_seconds.append(sleeper.latency(event.wait, event.set, lambda: waiters))

        pair: list[Callable[[], None]] = [measure_token, measure_event]
        coin.shuffle(pair)
        for measure in pair:
            measure()
    sleeper.waits.put(None)
    sleeper.thread.join()
    return sorted(token_seconds)[repeats // 2] * 1e9, sorted(event_seconds)[repeats // 2] * 1e9


def bytes_each(make: Callable[[], object], count: int = 10_000) -> float:
    made: list[object] = [None] * count
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(count):
        made[index] = make()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / count


def row(what: str, subject: float, baseline: float, limit: float, unit: str = "ns") -> bool:
    ratio = subject / baseline
    kept = ratio <= limit
    print(
        f"{what:58} {subject:12,.1f} {baseline:12,.1f} {unit:3} {ratio:8.2f} {limit:7.2f}  "
        f"{'kept' if kept else 'BROKEN'}"
    )
    return kept


def cost_table(*, quick: bool) -> bool:
    # Rounds are short, a millisecond or two: on a busy machine a longer one never runs through undisturbed.
    rounds, count = (40, 80) if quick else (400, 80)
    event = threading.Event()
    token, chain = deep_token(1000)
    many = CancelToken.any(*(CancelToken() for _ in range(50)))
    crowded = CancelToken()
    crowd = [crowded.on_cancel(print) for _ in range(1000)]
    parent, root = CancelToken(), CancelToken()
    fn = id
    names: dict[str, object] = {
        "Event": threading.Event, "CancelToken": CancelToken, "event": event, "token": token, "many": many,
        "root": root, "parent": parent, "crowded": crowded, "fn": fn, "key": object(),
        "child": parent.child(),
    }  # fmt: skip
    is_set = Timed("e.is_set()", names, "e = event")
    new_event = Timed("Event()", names)
    entry = Timed("d[k] = fn; del d[k]", names, "d = {}; k = key")

    def measure(statement: str, setup: str, baseline: Timed) -> tuple[float, float]:
        return statements(Timed(statement, names, setup), baseline, rounds, count)

    print(f"{'':58} {'token':>12} {'baseline':>12}     {'ratio':>8} {'limit':>7}")
    kept = [
        row("token.cancelled, 1,000 deep / Event.is_set()", *measure("t.cancelled", "t = token", is_set), 0.3),
        row("token.check(), 1,000 deep / Event.is_set()", *measure("t.check()", "t = token", is_set), 1.3),
        row("token.check(), 50 parents / Event.is_set()", *measure("t.check()", "t = many", is_set), 1.3),
        row("CancelToken() / Event()", *measure("CancelToken()", "pass", new_event), 0.25),
        row("child() and close() / Event()", *measure("p.child().close()", "p = parent", new_event), 0.5),
        row("register + unregister / dict set + delete",
            *measure("t.on_cancel(fn).unregister()", "t = root", entry), 8),
        row("the same beside 1,000 others",
            *measure("t.on_cancel(fn).unregister()", "t = crowded", entry), 8),
        row("the same, first of a child, pinning it",
            *measure("t.on_cancel(fn).unregister()", "t = child", entry), 20),
    ]  # fmt: skip
    children = 10_000 if quick else 100_000
    subject, baseline = alternate(lambda: cancel_many(children), lambda: set_many(children), 5)
    kept.append(
        row(f"cancel {children:,} children / set as many events", subject * 1e3, baseline * 1e3, 0.35, "ms")
    )
    subject, baseline = wake_latencies(1000 if quick else 10_000)
    kept.append(row("wake a blocked thread (median) / Event", subject, baseline, 0.95))
    kept.append(row("memory of a token / bytes allowed", bytes_each(CancelToken), 350, 1, "B"))
    kept.append(row("memory of a linked child / bytes allowed", bytes_each(parent.child), 550, 1, "B"))
    assert len(chain) == len(crowd) == 1000
    return all(kept)


# Each peer's own way to say: make one, ask it, check it, make one below it ("" where it has none).
PEERS = {
    "cantok": (
        "from cantok import SimpleToken as Token",
        "Token()", "t.cancelled", "t.check()", "t + Token()",
    ),
    "cancel-token": (
        "from cancel_token import CancellationToken as Token",
        "Token()", "t.cancelled", "", "",
    ),
    "cancelscope": (
        "from cancelscope import CancelScope as Token",
        "Token()", "t.cancelled", "", "",
    ),
    "hother-cancelable": (
        "from hother.cancelable import CancellationToken as Token",
        "Token()", "t.is_cancelled", "", "",
    ),
}  # fmt: skip

PEER_PROGRAM = """
import sys, threading, timeit
sys.path.insert(0, sys.argv[1])
names = {"Event": threading.Event}
exec(sys.argv[2], names)
def best(statement):
    timer = timeit.Timer("; ".join([statement] * 20), globals=names)
    return min(timer.repeat(15, 100)) / 2000 * 1e9
names["t"] = eval(sys.argv[3], names)
names["e"] = threading.Event()
event, is_set = best("Event()"), best("e.is_set()")
out = []
for statement, base in zip(sys.argv[3:], (event, is_set, is_set, event)):
    out.append(f"{best(statement) / base:.2f}" if statement else "-")
print(" ".join(out))
"""


def peers(folder: Path) -> None:
    print(
        f"\n{'peers (same baselines, each in its own process)':40} {'create':>8} {'ask':>8} {'check':>8} {'child':>8}"
    )
    ours = ("from cancel_token import CancelToken", "CancelToken()", "t.cancelled", "t.check()", "t.child()")
    for name, statements_ in {"ours": ours, **PEERS}.items():
        where = Path(__file__).parent.parent if name == "ours" else folder / name
        if not where.is_dir():
            print(f"{name:40} not installed: pip install --target {folder / name} {name}")
            continue
        done = subprocess.run(
            [sys.executable, "-I", "-c", PEER_PROGRAM, str(where), *statements_],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{name:40} does not run here: {done.stderr.strip().splitlines()[-1]}")
            continue
        print(f"{name:40} " + " ".join(f"{ratio:>8}" for ratio in done.stdout.split()))


def main() -> int:
    parser = argparse.ArgumentParser(description="What a token costs, as ratios.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds; for trying things out")
    parser.add_argument(
        "--peers", type=Path, default=Path(".peers"), help="folder with a folder for each peer"
    )
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    gc.disable()  # its runs fall on whoever allocates at the time
    kept = cost_table(quick=options.quick)
    peers(options.peers)
    print("\nall limits kept" if kept else "\na limit is broken")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
