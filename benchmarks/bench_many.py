"""Thousands of answers at once in one process: what each costs, and how long it takes to stop them all.

    python -m benchmarks.bench_many [--streams 1000 4000] [--only stream] [--rounds 3] [--seconds 5]

A server in another process (`_paced_server.py`) streams to all at a pace; each contender has a fresh process and a
fresh server. It prints CPU per event, memory per run, and the time from one parent token's `cancel()` until all runs
have settled and the server has seen every hang-up, beside the same of the official async OpenAI client, whose tasks are
cancelled. Everybody has his turn in each round, the official client first. Judged are the medians of the rounds' ratios
and the most memory of all rounds: all are stopped once in a round, within a second or two, and one ratio of two such
seconds is mostly what else the machine did in them. It ends with status 1 if a run that a task of ours reads or waits
for, which is what the official client's tasks do, is over a limit: half of its CPU, 64 KiB a run, and with 4,000
streams or more half of its time to stop them. With fewer the time is shown and not judged: both take a fraction of a
second. Blocking runs, which have a thread each, are shown beside them and not judged; docs/design.md says what they
cost.

Both sides do what their users do: ours keeps a log and a conversation, the official client makes an object of each
event, of which the text is kept. The soft limit of open files is raised to the hard one, in each process. Left out:
TLS, which costs both the same; a network; the memory that the kernel has for sockets.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

import attrs

from benchmarks._files import raise_file_limit
from benchmarks._many_clients import CONTENDERS, WARM_UP_STREAMS
from benchmarks._phases import describe_machine

MEMORY_LIMIT_KIB = 64.0
RATIO_LIMIT = 0.5
JUDGED_STOP_STREAMS = 4_000
"""From how many streams on the time to stop them is held to its limit."""
BASELINE = "official"


@attrs.frozen
class Row:
    """What was measured of one contender."""

    name: str
    streams: int
    events: int
    cpu_microseconds: float  # an event
    memory_kib: float  # a run, when all have begun
    memory_after_kib: float  # and after the seconds in which they were read
    settled_ms: float
    hung_up_ms: float
    server_load: float  # CPU seconds a second of the server

    @property
    def stop_ms(self) -> float:
        return max(self.settled_ms, self.hung_up_ms)

    @property
    def is_judged(self) -> bool:
        """Whether it is held to the limits: tasks are."""
        return self.name != "threads"

    def cpu_ratio(self, baseline: "Row") -> float:
        return self.cpu_microseconds / baseline.cpu_microseconds

    def stop_ratio(self, baseline: "Row") -> float:
        return self.stop_ms / baseline.stop_ms

    def shown(self, baseline: "Row") -> str:
        cpu, stop = "", ""
        if self is not baseline:
            cpu, stop = f"{self.cpu_ratio(baseline):6.2f}", f"{self.stop_ratio(baseline):6.2f}"
        return (
            f"{self.streams:7} {self.name:16} {self.cpu_microseconds:9.1f} {cpu:6} | {self.memory_kib:7.1f}"
            f" {self.memory_after_kib:7.1f} | {self.settled_ms:9.1f} {self.hung_up_ms:9.1f} {stop:6} |"
            f" {self.events:8} {self.server_load:6.2f}"
        )


@attrs.frozen
class Verdict:
    """What all rounds say of one contender.

    Args:
        rows: its own, one a round.
        baselines: the official client's, of the same rounds.
    """

    rows: Sequence[Row]
    baselines: Sequence[Row]

    @property
    def cpu_ratio(self) -> float:
        return median(map(Row.cpu_ratio, self.rows, self.baselines))

    @property
    def memory_kib(self) -> float:
        return max(max(row.memory_kib, row.memory_after_kib) for row in self.rows)

    @property
    def stop_ratio(self) -> float:
        return median(map(Row.stop_ratio, self.rows, self.baselines))

    @property
    def is_kept(self) -> bool:
        """Whether it keeps the limits, or is not held to them."""
        first = self.rows[0]
        return not first.is_judged or (
            self.cpu_ratio <= RATIO_LIMIT
            and self.memory_kib <= MEMORY_LIMIT_KIB
            and (first.streams < JUDGED_STOP_STREAMS or self.stop_ratio <= RATIO_LIMIT)
        )

    @property
    def shown(self) -> str:
        first = self.rows[0]
        word = ("kept" if self.is_kept else "BROKEN") if first.is_judged else "shown"
        return (
            f"{first.streams:7} {first.name:16} {'':9} {self.cpu_ratio:6.2f} | {'':7} {self.memory_kib:7.1f} |"
            f" {'':19} {self.stop_ratio:6.2f} |  {word}"
        )


def measured(name: str, streams: int, seconds: float, events_per_second: float) -> Row:
    """Run one contender against a server of its own."""
    with ExitStack() as stack:
        server = stack.enter_context(_process("benchmarks._paced_server", str(events_per_second)))
        port = _line(server).strip()
        client = stack.enter_context(
            _process("benchmarks._many_clients", name, str(streams), str(seconds), port)
        )
        assert server.stdin is not None
        server.stdin.write(_line(client))
        server.stdin.flush()
        found = json.loads(_line(client))
        while (seen := json.loads(_line(server)))["hang_ups"] < streams + WARM_UP_STREAMS:
            pass
        for process in (client, server):
            process.communicate()  # the end of its input is its sign to end
        if seen["passed_over"]:
            print(f"{name}: the server passed over {seen['passed_over']} events: its readers were behind")
        return Row(
            name,
            streams,
            found["events"],
            1e6 * found["cpu_seconds"] / found["events"],
            (found["memory"] - found["memory_before"]) / 1024 / streams,
            (found["memory_after"] - found["memory_before"]) / 1024 / streams,
            1e3 * (found["settled_at"] - found["stopped_at"]),
            1e3 * (seen["at"] - found["stopped_at"]),
            seen["load"],
        )


def _process(module: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the benchmark ended with status {process.wait()}")
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure thousands of answers at once.")
    parser.add_argument("--streams", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--only", default="", help="contenders of ours whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the CPU is counted")
    parser.add_argument(
        "--events-per-second",
        type=float,
        default=2000.0,
        help="of all streams together; more than the official client can take makes its figures better than they are",
    )
    options = parser.parse_args()
    print(
        f"{describe_machine()}, {options.events_per_second:.0f} events/s in all; "
        f"the soft limit of open files was raised to {raise_file_limit()}"
    )
    print(f"{'':24} {'CPU us/event':>16} | {'KiB a run':>15} | {'ms until all stopped':>26} |")
    print(
        f"{'streams':>7} {'':16} {'':9} {'ratio':6} | {'begun':>7} {'later':>7} | {'settled':>9} {'hung up':>9}"
        f" {'ratio':6} | {'events':>8} {'server':>6}"
    )
    if options.rounds < 1:
        parser.error("there has to be a round")
    ours = [name for name in CONTENDERS if name != BASELINE and options.only in name]
    if not ours:
        parser.error(f"no contender's name contains {options.only!r}")
    kept = True
    for streams in options.streams:
        rows: dict[str, list[Row]] = {name: [] for name in (BASELINE, *ours)}
        for _ in range(options.rounds):
            for name, of_name in rows.items():
                of_name.append(measured(name, streams, options.seconds, options.events_per_second))
                print(of_name[-1].shown(rows[BASELINE][-1]), flush=True)
        print(f"of all rounds ({options.rounds}): the medians of the ratios, the most memory")
        for name in ours:
            verdict = Verdict(rows[name], rows[BASELINE])
            print(verdict.shown, flush=True)
            kept = kept and verdict.is_kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
