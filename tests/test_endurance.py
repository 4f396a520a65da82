"""Many runs leave nothing. `benchmarks/bench_endurance.py` says what they are, and makes 100,000 of them."""

import os
import subprocess
import sys

RUNS = int(os.environ.get("AIWRAPPER_ENDURANCE_RUNS", "600"))


def test_many_runs_leave_no_registration_no_thread_no_descriptor_no_object_and_no_memory() -> None:
    # In a process of its own, in which nothing else takes memory, and all that is taken is counted.
    endurance = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_endurance", "--runs", str(RUNS)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert endurance.returncode == 0, endurance.stdout + endurance.stderr
