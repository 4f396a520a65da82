"""How long a stop takes, phase by phase, beside a bare `shutdown` of the same run.

    python -m benchmarks.bench_stop [--repeats 50] [--only headers]

It prints, for each phase of a request over each wire, of a whole agent with each dialect, and of the official SDKs
with our transport below them, the time from `token.cancel()` until the caller has control and until the peer has seen
the hang-up, and what is left behind. It ends with status 1 if a row is over the limits: median max(2 ms, 5 x bare), p95
max(5 ms, 5 x its p95), nothing left; and for agents nothing recorded after the stop, for SDKs nothing sent again, and
for both no next request refused. `bench_stop_official.py` sets the SDKs beside themselves without us.

Client and peer share one process and its interpreter lock, which costs both of them; real peers are farther away. Not
measured: the time on a network.
"""

import argparse
import sys

from benchmarks import _agent_phases, _phases, _sdk_phases


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long a stop takes.")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--only", default="", help="phases or wires whose name contains this")
    options = parser.parse_args()

    print(_phases.describe_machine(), f"{options.repeats} repeats", sep=", ")
    bare = _phases.bare_shutdown(options.repeats * 4)
    with _phases.certificates() as certificates:
        rows = [
            _phases.measure(case, options.repeats)
            for case in (
                *_phases.transport_cases(certificates),
                *_agent_phases.agent_cases(certificates),
                *_sdk_phases.sdk_cases(certificates),
            )
            if options.only in f"{case.wire} {case.phase}"
        ]
    return 0 if _phases.print_table(rows, bare, _phases.limits_from(bare)) else 1


if __name__ == "__main__":
    sys.exit(main())
