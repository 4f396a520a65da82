"""Many runs leave nothing. `benchmarks/bench_endurance.py` says what they are, and makes 100,000 of them."""

import os

from benchmarks.bench_endurance import endure

RUNS = int(os.environ.get("AIWRAPPER_ENDURANCE_RUNS", "600"))


def test_many_runs_leave_no_registration_no_thread_no_descriptor_and_no_object() -> None:
    said: list[str] = []

    after = endure(RUNS, said.append)

    assert after[-1].is_like(after[0]), "\n".join(said)
