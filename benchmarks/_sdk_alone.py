"""The official SDKs' blocking clients, stopped in each phase of a call: as they come, and with our transport below.

    python -m benchmarks.bench_stop_official [--sdk anthropic] [--repeats 5] [--only headers]

As they come, they have no stop but `close()` from another thread, of the stream where there is one, else of the client.
Where that frees nobody, the wait ends after 2 seconds, and their threads stay behind until this process ends. With
`cancel_token.httpx` they are stopped by a token, as in `bench_stop.py`, which also holds them to its limits.
"""

import argparse
import threading
import time
from collections.abc import Mapping

from attrs import frozen

from aiwrapper.testing import DialectName
from benchmarks import _phases
from benchmarks._sdk_phases import HOSTS, Asking, SdkPhase, new_client, sdk_case, sdk_phases

CAP_SECONDS = 2.0
SETTLE_SECONDS = (
    0.02  # longer than ours: their `close()` wins if it comes before the thread has entered `recv`
)
DIALECTS: Mapping[str, DialectName] = {name: dialect for dialect, name in HOSTS.items()}


@frozen
class Alone:
    """What was measured of an SDK without us."""

    caller: _phases.Times | None  # of those calls that came back
    blocked: int  # how many had not after the cap
    repeats: int

    def __str__(self) -> str:
        words = f"{self.blocked} of {self.repeats} blocked" if self.blocked else ""
        return f"{self.caller or f'{chr(45):>8} {chr(45):>8}'} {words:>15}"


def alone(phase: SdkPhase, dialect: DialectName, certificates: _phases.Certificates, repeats: int) -> Alone:
    """Stop an SDK as it comes, again and again, each time from the beginning: a blocked one can't be used again."""
    freed = [
        seconds
        for seconds in (_alone_once(phase, dialect, certificates) for _ in range(repeats))
        if seconds is not None
    ]
    return Alone(_phases.Times.of(freed), repeats - len(freed), repeats)


def _alone_once(phase: SdkPhase, dialect: DialectName, certificates: _phases.Certificates) -> float | None:
    ended = threading.Event()
    ended_at: list[float] = []
    with phase.open(dialect, certificates) as stage:
        asking = Asking(new_client(stage, ours=False), dialect, stage.fake.model, phase.said)

        def run() -> None:
            try:
                asking.run()
            except Exception as error:  # whatever it is, the caller has control again
                asking.error = error
            ended_at.append(time.perf_counter())
            ended.set()

        def stop() -> None:
            (asking.client if asking.stream is None else asking.stream).close()

        wait_until_stalled = stage.arm()
        threading.Thread(target=run, daemon=True).start()
        wait_until_stalled(asking)
        time.sleep(SETTLE_SECONDS)
        stopped_at = time.perf_counter()
        threading.Thread(target=stop, daemon=True).start()
        freed = ended.wait(CAP_SECONDS)
    return ended_at[0] - stopped_at if freed else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Stop the official SDKs, without us and with us.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sdk", choices=sorted(DIALECTS), default="openai")
    parser.add_argument("--only", default="", help="phases whose name contains this")
    options = parser.parse_args()
    dialect = DIALECTS[options.sdk]

    print(_phases.describe_machine(), options.sdk, f"{options.repeats} repeats", sep=", ")
    print(f"{'':24} {'without us':>33} | {'with us':>17} | {'peer sees it':>17}")
    heads = f"{'median':>8} {'p95':>8}"
    print(f"{'phase':24} {heads} {'after 2 s':>15} | {heads} | {heads}  (milliseconds)")
    with _phases.certificates() as certificates:
        for phase in sdk_phases():
            if options.only not in phase.name:
                continue
            without = alone(phase, dialect, certificates, options.repeats)
            row = _phases.measure(sdk_case(phase, dialect, certificates), options.repeats)
            dash = f"{'-':>8} {'-':>8}"
            left = row.left or ", ".join(f"{count} {name}" for name, count in row.counts.items() if count)
            print(
                f"{phase.name:24} {without} | {row.caller or dash} | {row.peer or dash}  {left}", flush=True
            )


if __name__ == "__main__":
    main()
