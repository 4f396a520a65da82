"""What a token costs, as ratios to the standard library measured in the same run.

    python -m benchmarks.bench_token [--quick] [--peers]

A pass times each row in rounds that alternate between the subject and its baseline, statements unrolled so that the
loop costs nothing; its ratio is that of the two fastest rounds, since noise only ever adds. There are five passes, one
after the other over all rows: the ratio shown is their median, beside the lowest and the highest. No pass is left out,
however busy the machine was. It ends with status 1 if a row is over its limit. Left out: what callbacks do, sockets
(bench_stop.py), and contention of more than two threads.

The limits were set for CPython 3.11. `threading.Event()` became four times cheaper with 3.12, so that a limit that is a
share of it became four times narrower, and the two rows about making a token are over theirs there. `is_set()` became
cheaper, too, and about 0.3 of it is the read of an attribute. A row "at least" says how much is the language's: an
attribute of any object; an object whose `__init__` has the same arguments and does nothing, the containers of a token's
state (without a lock they must be there from the start), and for a child the weak reference with a callback by which
its parent forgets it.

In the row about waking, a coin decides in each pair which of the two goes first, the thread has slept for a random time
when it is woken, neither thread is given precedence, and means are compared (why: `_wake_ups.py`; by the kernel's
choice alone the ratio went from 0.7 to 1.9). Its "at least" is a bare lock, released and acquired in the same
structure. On a busy machine, where both wait for a processor, the ratio goes to one.

With `--peers`, the peers on the index are installed, each with what it needs into a virtual environment of its own that
is thrown away afterwards: the distribution `cancel-token` has our import name.
"""

from __future__ import annotations

import argparse
import gc
import platform
import queue
import random
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence, Sized
from operator import attrgetter
from weakref import ref

import attrs

from benchmarks import _token_peers
from benchmarks._wake_ups import mean_of_most, without_precedence
from cancel_token import CancelToken

UNROLLED = 50
PASSES = 5
NAP_SECONDS = (50e-6, 300e-6)
"""For how long a thread has slept, at least and at most, when it is woken."""


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
    seen = all(map(attrgetter("cancelled"), children))
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
        self.nap = random.Random(0)
        self.thread = threading.Thread(target=self._sleep)
        self.thread.start()

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.waits.put(None)
        self.thread.join()

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
        wake_at = time.perf_counter() + self.nap.uniform(*NAP_SECONDS)
        while (start := time.perf_counter()) < wake_at:  # awake, as whoever stops something is
            pass
        wake()
        return self.woken.get() - start


def wake_token(sleeper: Sleeper) -> float:
    token = CancelToken()
    return sleeper.latency(token.wait, token.cancel, lambda: token._held)


def wake_event(sleeper: Sleeper) -> float:
    event = threading.Event()
    waiters: Sized = event._cond._waiters  # type: ignore[attr-defined]  # the only way to see that it waits
    return sleeper.latency(event.wait, event.set, lambda: waiters)


def wake_lock(sleeper: Sleeper) -> float:
    lock, parked = threading.Lock(), threading.Event()
    lock.acquire()

    def wait() -> None:
        parked.set()
        lock.acquire()

    return sleeper.latency(wait, lock.release, parked.is_set)


def wake_latencies(subject: Callable[[Sleeper], float], repeats: int) -> tuple[float, float]:
    """Mean nanoseconds for the subject and for an event, measured in pairs on the same thread."""
    coin = random.Random(0)
    subject_seconds, event_seconds = [], []
    with without_precedence(), Sleeper() as sleeper:
        for _ in range(repeats):
            if coin.random() < 0.5:
                subject_seconds.append(subject(sleeper))
                event_seconds.append(wake_event(sleeper))
            else:
                event_seconds.append(wake_event(sleeper))
                subject_seconds.append(subject(sleeper))
    return 1e9 * mean_of_most(subject_seconds), 1e9 * mean_of_most(event_seconds)


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


class Empty:
    """What Python asks for any object whose `__init__` is written in Python."""

    __slots__ = ("__weakref__", "attribute")

    attribute: bool

    def __init__(self, timeout: float | None = None, name: str | None = None, clock: object = None) -> None:
        pass


@attrs.frozen
class Row:
    """Something that is measured beside a baseline.

    Args:
        what: For people.
        measure: One pass: what the subject takes, and what the baseline takes.
        limit: The highest ratio that is allowed; None for a row that says what can't be undercut.
        unit: Of both figures.
    """

    what: str
    measure: Callable[[], tuple[float, float]]
    limit: float | None
    unit: str = "ns"

    def report(self, passes: Sequence[tuple[float, float]]) -> bool:
        """Print the medians; return whether the limit is kept."""
        subject, baseline = (statistics.median(each) for each in zip(*passes, strict=True))
        ratios = sorted(each / base for each, base in passes)
        ratio = statistics.median(ratios)
        kept = self.limit is None or ratio <= self.limit
        verdict = "" if self.limit is None else f"{self.limit:6.2f}  {'kept' if kept else 'OVER'}"
        print(
            f"{self.what:56} {subject:11,.1f} {baseline:11,.1f} {self.unit:2} "
            f"{ratio:7.2f} {ratios[0]:7.2f} {ratios[-1]:7.2f} {verdict}"
        )
        return kept


def rows(*, quick: bool) -> list[Row]:
    # Rounds are short, a millisecond or two: on a busy machine a longer one never runs through undisturbed.
    rounds, count = (10, 80) if quick else (80, 80)
    event = threading.Event()
    token, chain = deep_token(1000)
    many = CancelToken.any(*(CancelToken() for _ in range(50)))
    crowded = CancelToken()
    crowd = [crowded.on_cancel(print) for _ in range(1000)]
    parent, root, plain = CancelToken(), CancelToken(), Empty()
    plain.attribute = False
    names: dict[str, object] = {
        "Event": threading.Event, "CancelToken": CancelToken, "event": event, "token": token, "many": many,
        "root": root, "parent": parent, "crowded": crowded, "fn": id, "key": object(),
        "child": parent.child(), "Empty": Empty, "ref": ref, "chain": chain, "crowd": crowd, "plain": plain,
    }  # fmt: skip
    is_set = Timed("e.is_set()", names, "e = event")
    new_event = Timed("Event()", names)
    entry = Timed("d[k] = fn; del d[k]", names, "d = {}; k = key")
    containers = "a = {}; b = {}; c = []"
    children = 10_000 if quick else 100_000
    wakes = 300 if quick else 2000

    def row(what: str, statement: str, setup: str, baseline: Timed, limit: float | None) -> Row:
        subject = Timed(statement, names, setup)
        return Row(what, lambda: statements(subject, baseline, rounds, count), limit)

    def cancel_all() -> tuple[float, float]:
        subject, baseline = alternate(lambda: cancel_many(children), lambda: set_many(children), 5)
        return subject * 1e3, baseline * 1e3

    return [
        row("token.cancelled, 1,000 deep / Event.is_set()", "t.cancelled", "t = token", is_set, 0.3),
        row("  at least: an attribute in a slot", "o.attribute", "o = plain", is_set, None),
        row("token.check(), 1,000 deep / Event.is_set()", "t.check()", "t = token", is_set, 1.3),
        row("token.check(), 50 parents / Event.is_set()", "t.check()", "t = many", is_set, 1.3),
        row("CancelToken() / Event()", "CancelToken()", "pass", new_event, 0.25),
        row("  at least: an empty __init__, two dicts, a list", f"Empty(); {containers}", "pass", new_event, None),
        row("child() and close() / Event()", "p.child().close()", "p = parent", new_event, 0.5),
        row("  at least: the same, a weak reference",
            f"o = Empty(); {containers}; d[ref(o, gone)] = 0; d.clear()", "d = {}; gone = fn", new_event, None),
        row("register + unregister / dict set + delete", "t.on_cancel(fn).unregister()", "t = root", entry, 8),
        row("the same beside 1,000 others", "t.on_cancel(fn).unregister()", "t = crowded", entry, 8),
        row("the same, first of a child, pinning it", "t.on_cancel(fn).unregister()", "t = child", entry, 20),
        Row(f"cancel {children:,} children / set as many events", cancel_all, 0.35, "ms"),
        Row("wake a blocked thread / Event", lambda: wake_latencies(wake_token, wakes), 0.95),
        Row("  at least: a bare lock", lambda: wake_latencies(wake_lock, wakes), None),
        Row("memory of a token / bytes allowed", lambda: (bytes_each(CancelToken), 350), 1, "B"),
        Row("memory of a linked child / bytes allowed", lambda: (bytes_each(parent.child), 550), 1, "B"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="What a token costs, as ratios.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds; for trying things out")
    parser.add_argument(
        "--peers", action="store_true", help="install the peers on the index, and measure them"
    )
    options = parser.parse_args()
    python = f"CPython {platform.python_version()}"
    print(f"{python}, {platform.system()} {platform.machine()}\n")
    table = rows(quick=options.quick)
    gc.disable()  # its runs fall on whoever allocates at the time
    passes = [[row.measure() for row in table] for _ in range(PASSES)]
    print(f"{'':56} {'subject':>11} {'baseline':>11}    {'ratio':>7} {'lowest':>7} {'highest':>7}  limit")
    over = [
        row.what
        for row, measured in zip(table, zip(*passes, strict=True), strict=True)
        if not row.report(measured)
    ]
    if options.peers:
        _token_peers.print_table()
    print(f"\n{python}: " + (f"over the limit: {'; '.join(over)}" if over else "all limits kept"))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
