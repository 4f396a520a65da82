"""How long a stop takes, phase by phase, beside a bare `shutdown` of the same run.

    python -m benchmarks.bench_stop [--repeats 50] [--only headers] [--parts agents sdks]

It prints, for each phase of a call and over each wire (plain, TLS, through an HTTP proxy, and TLS through a proxy), the
time from `token.cancel()` until the caller has control and until the peer has seen the hang-up, and what is left
behind. Its parts: `requests`, our transport alone; `agents`, whole agents in threads, trio and asyncio, there both
in a thread that a task waits for and read by the loop; `sdks`, the official SDKs with our transport below them;
`alone`, the same without us, which mostly never come back (5 repeats of 2 seconds); `local`, the local model, if it is
on this machine.

It ends with status 1 if a row is over its limits: median max(2 ms, 5 x bare), p95 max(5 ms, 5 x its p95), nothing left
behind, for agents nothing recorded after the stop, for SDKs nothing sent again, no next request refused. One bare
shutdown is made beside each stop, and the limits are those of all of them so far. In trio and asyncio the p95 may be
max(5 ms, 5 x a bare wake-up of the loop in the same run) above what the same phase takes in threads.

A row that is over its limits is measured on, to five times as many repeats, and judged by all of them.

Client and peer share one process and its interpreter lock, which costs both of them; real peers are farther away. Most
of the tail is that lock's: a thread that wants it while two others pass it to each other waits for the switch interval,
5 ms. With `sys.setswitchinterval(0.0005)` the p95 of 150 stops of a slow stream fell from 2.7 to 1.3 ms on trio, from
2.4 to 1.3 on asyncio (Linux, Python 3.11, November 2026). Not measured: the time on a network. On a busy machine the
p95 is the machine's, of the bare shutdown, too.
"""

import argparse
import math
import sys
from collections.abc import Iterator

from benchmarks import _agent_phases, _local_phases, _phases, _request_phases, _sdk_alone, _sdk_phases
from benchmarks._phases import Case, Certificates, Row, Times
from benchmarks._worlds import WORLDS
from cancel_token import CancelToken

PARTS = ("requests", "agents", "sdks", "alone", "local")
ALONE_REPEATS = 5


def cases(parts: list[str], certificates: Certificates) -> Iterator[Case]:
    if "requests" in parts:
        yield from _request_phases.request_cases(certificates)
    if "agents" in parts:
        yield from _agent_phases.agent_cases(certificates)
    if "sdks" in parts:
        yield from _sdk_phases.sdk_cases(certificates)
    if "local" in parts:
        yield from _local_phases.local_cases()


class Limits:
    """What each row is held to.

    Args:
        repeats: How often the bare cases are measured.
    """

    def __init__(self, repeats: int) -> None:
        self.bare = _phases.BareShutdowns()
        for _ in range(repeats):
            self.bare.measure()
        self.wake_ups = {world.name: world.wake_up(repeats) for world in WORLDS if world.wake_up is not None}
        self._p95: dict[tuple[str, str, str], float] = {}

    def of(self, case: Case) -> Times:
        wake_up = self.wake_ups.get(case.world)
        beside = self._p95.get((case.who, case.wire, case.phase))
        if wake_up is None or beside is None:
            return _phases.limits_from(self.bare.row())
        return Times(math.inf, beside + max(5.0, 5 * wake_up.p95))

    def note(self, case: Case, caller: Times | None) -> None:
        if case.world not in self.wake_ups and caller is not None:
            self._p95[case.who, case.wire, case.phase] = caller.p95


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long a stop takes.")
    parser.add_argument(
        "--repeats", type=int, default=20, help="of each row; 20 or more, or p95 says nothing"
    )
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--sdk", choices=sorted(_sdk_phases.HOSTS.values()), default="openai", help="for alone"
    )
    options = parser.parse_args()

    print(_phases.describe_machine(), f"{options.repeats} repeats", sep=", ")
    _phases.print_heads()
    limits = Limits(10 * options.repeats)
    CancelToken().cancel_soon()  # starts the process's one service thread, which no row leaves behind
    limits.bare.row().show(None)
    for name, wake_up in limits.wake_ups.items():
        print(f"{f'a bare wake-up of the loop of {name}':50} {wake_up} |", flush=True)
    over = []
    with _phases.certificates() as certificates:
        for case in cases(options.parts, certificates):
            if options.only in str(case):

                def is_kept(row: Row, case: Case = case) -> bool:
                    return row.keeps(limits.of(case))

                row = _phases.measure(case, options.repeats, limits.bare.measure, is_kept)
                limits.note(case, row.caller)
                row.show(limits.of(case))
                if not is_kept(row):
                    over.append(row.what)
        if "alone" in options.parts:
            (dialect,) = (key for key, name in _sdk_phases.HOSTS.items() if name == options.sdk)
            _sdk_alone.print_alone(dialect, certificates, ALONE_REPEATS, options.only)
    limits.bare.row().show(None)
    for what in over:
        print(f"over: {what}")
    print("a row is over its limits" if over else "all rows are within their limits")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
