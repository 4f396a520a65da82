"""The official SDKs' blocking clients as they come, stopped in each phase of a call.

They have no stop but `close()` from another thread, of the stream where there is one, else of the client. Where that
frees nobody, the wait ends after 2 seconds, and their threads stay behind until this process ends.
"""

import threading
import time
from collections.abc import Iterator

from attrs import frozen

from aiwrapper.testing import DialectName
from benchmarks._phases import Certificates, Times
from benchmarks._sdk_phases import HOSTS, Asking, new_client
from benchmarks._stages import PLAIN, StallPhase, stall_phases

CAP_SECONDS = 2.0
SETTLE_SECONDS = (
    0.02  # longer than ours: their `close()` wins if it comes before the thread has entered `recv`
)


@frozen
class Alone:
    """What was measured of an SDK without us."""

    caller: Times | None  # of those calls that came back
    blocked: int  # how many had not after the cap
    repeats: int

    def __str__(self) -> str:
        words = f"{self.blocked} of {self.repeats} blocked after {CAP_SECONDS:.0f} s" if self.blocked else ""
        return f"{self.caller or f'{chr(45):>8} {chr(45):>8}'} {words}"


def print_alone(dialect: DialectName, certificates: Certificates, repeats: int, only: str) -> None:
    """Stop an SDK as it comes, each time from the beginning: a blocked one can't be used again."""
    for phase in stall_phases(PLAIN):
        what = f"{HOSTS[dialect]:9} {'alone':8} {PLAIN.name:8} {phase.name:22}"
        if only in what:
            freed = list(_freed(phase, dialect, certificates, repeats))
            print(f"{what:50} {Alone(Times.of(freed), repeats - len(freed), repeats)}", flush=True)


def _freed(
    phase: StallPhase, dialect: DialectName, certificates: Certificates, repeats: int
) -> Iterator[float]:
    for _ in range(repeats):
        seconds = _stop_once(phase, dialect, certificates)
        if seconds is not None:
            yield seconds


def _stop_once(phase: StallPhase, dialect: DialectName, certificates: Certificates) -> float | None:
    ended = threading.Event()
    ended_at: list[float] = []
    with phase.open(dialect, PLAIN, certificates) as stage:
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
        wait_until_stalled(asking.signs)
        time.sleep(SETTLE_SECONDS)
        stopped_at = time.perf_counter()
        threading.Thread(target=stop, daemon=True).start()
        freed = ended.wait(CAP_SECONDS)
    return ended_at[0] - stopped_at if freed else None
