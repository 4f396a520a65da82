"""Whether the official clients can be stopped, phase by phase: what `bench_stop.py` stands beside.

    python -m benchmarks.bench_stop_official [--dialect anthropic] [--repeats 5]

They have no stop but `close()` from another thread. Where that frees nobody, the wait ends after 2 seconds, and their
threads stay behind until this process ends.
"""

import argparse
import threading
import time
from typing import Any, get_args

import anthropic
import openai

from aiwrapper._core.log import RetryWaiting, TextDelta
from aiwrapper.testing import DialectName, FakeProvider
from benchmarks import _phases
from benchmarks._agent_phases import PATIENCE_SECONDS, PHASES, Phase

CAP_SECONDS = 2.0
SETTLE_SECONDS = (
    0.02  # longer than ours: their `close()` wins if it comes before the thread has entered `recv`
)


class Official:
    """The official client in a thread, stopped as its documentation says: by closing."""

    def __init__(self, fake: FakeProvider) -> None:
        self._fake = fake
        self._stream: Any = None  # either client's stream
        self._client: Any = (
            anthropic.Anthropic(base_url=fake.base_url, api_key=fake.api_key)
            if fake.dialect == "anthropic"
            else openai.OpenAI(base_url=fake.base_url, api_key=fake.api_key)
        )
        self.first = threading.Event()
        self.ended = threading.Event()
        self.ended_at = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask and read to the end, whatever that is."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            if self._fake.dialect == "anthropic":
                create = self._client.messages.create
                self._stream = create(model=self._fake.model, messages=messages, stream=True, max_tokens=100)
            else:
                create = self._client.chat.completions.create
                self._stream = create(model=self._fake.model, messages=messages, stream=True)
            for _ in self._stream:
                self.first.set()
        except Exception as error:  # whatever it is, the caller has control again
            self.error = error
        self.ended_at = time.monotonic()
        self.ended.set()

    def stop(self) -> None:
        """What one can do from another thread."""
        (self._client if self._stream is None else self._stream).close()


def official(dialect: DialectName, phase: Phase, repeats: int) -> list[float | None]:
    """Seconds until the official client's caller has control; None where it has not after the cap."""
    times: list[float | None] = []
    for _ in range(repeats):
        with FakeProvider(dialect, phase.answers(dialect)) as fake:
            held = None if phase.hold is None else fake.hold_at(phase.hold(dialect))
            client = Official(fake)
            threading.Thread(target=client.run, daemon=True).start()
            fake.wait_for_requests(1, timeout_seconds=PATIENCE_SECONDS)
            for event in ([client.first] if phase.sign is TextDelta else []) + (
                [held.reached] if held else []
            ):
                event.wait(PATIENCE_SECONDS)
            if phase.sign is RetryWaiting:
                fake.requests[0].done.wait(PATIENCE_SECONDS)
            time.sleep(SETTLE_SECONDS)
            cut_at = time.monotonic()
            threading.Thread(target=client.stop, daemon=True).start()
            freed = client.ended.wait(CAP_SECONDS)
            times.append(client.ended_at - cut_at if freed else None)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Try to stop the official clients.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dialect", choices=get_args(DialectName), default="openai_chat")
    options = parser.parse_args()
    print(_phases.describe_machine(), options.dialect, f"{options.repeats} repeats", sep=", ")
    print(f"{'phase':24} {'median':>8} {'p95':>8}  (milliseconds until the caller has control)")
    for phase in PHASES:
        if phase.tool is not None or phase.name in ("upload", "inside tool arguments"):
            continue  # no tools there; the upload is one system call to them
        freed = [
            seconds for seconds in official(options.dialect, phase, options.repeats) if seconds is not None
        ]
        blocked = options.repeats - len(freed)
        words = f"{blocked} of {options.repeats} still blocked after {CAP_SECONDS:g} s" if blocked else ""
        print(
            f"{phase.name:24} {_phases.Times.of(freed) or f'{chr(45):>8} {chr(45):>8}'}  {words}", flush=True
        )


if __name__ == "__main__":
    main()
