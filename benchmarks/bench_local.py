"""How long the local model takes to start, to speak, to fall silent and to come back.

    python benchmarks/bench_local.py [--repeats N] [--model FILE.gguf]

Every figure stands beside one of the same run: the start of an empty Python, or the time of one token. Left out: the
quality of what it says, and other loads on the machine. Needs the model (`aiwrapper model get`).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import requests

from aiwrapper.local import SAMPLING, Endpoint, LocalModel, find_model
from cancel_token import CancelToken

LONG_PROMPT = "The quick brown fox jumps over the lazy dog and says a number. " * 200  # about 3,000 tokens
TOKENS = 150


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--model", type=Path, default=find_model())
    options = parser.parse_args()
    if options.model is None:
        parser.error("there is no model yet: aiwrapper model get")
    print(f"{platform.platform()}, {psutil.cpu_count()} cores, CPython {platform.python_version()}")
    print(f"{options.model.name}, {options.repeats} repeats\n")
    print(f"{'':44}{'median ms':>10}{'max ms':>10}   beside")
    Bench(options.model, options.repeats).run()


class Bench:
    def __init__(self, model: Path, repeats: int) -> None:
        self._model = model
        self._repeats = repeats

    def run(self) -> None:
        empty = self._times(lambda: spawn("pass"))
        self._show("an empty Python", empty, "", 0)
        self._show(
            "... that imports the runtime", self._times(lambda: spawn("import xllamacpp")), "empty", empty
        )
        self._show("spawn until it is ready", self._times(self._start_and_close), "empty", empty)
        with LocalModel(self._model) as local:
            endpoint = local.start(CancelToken())
            for _ in ask(endpoint, "Hello", max_tokens=5):  # the first request of all pays for cold caches
                pass
            first, per_token = self._speed(endpoint)
            self._show("one token", [per_token], "", 0)
            self._show("first token of an answer", first, "token", [per_token])
            self._show(
                "at rest after closing the stream", self._rests(local, after_tokens=10), "token", [per_token]
            )
            self._show(
                "... while it evaluates a long prompt",
                self._rests(local, after_tokens=0),
                "token",
                [per_token],
            )
            kills, restarts = self._kill_and_restart(local)
            self._show("kill in mid-answer", kills, "token", [per_token])
            self._show("ready again after the kill", restarts, "empty", empty)
            memory = psutil.Process(local.pid).memory_info().rss
            print(f"\n{1000 / per_token:.0f} tokens/s; {memory / 2**20:.0f} MiB, the mapped model included")

    def _times(self, work: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(self._repeats):
            start = time.perf_counter()
            work()
            times.append(milliseconds_since(start))
        return times

    def _start_and_close(self) -> None:
        with LocalModel(self._model) as local:
            local.start(CancelToken())

    def _speed(self, endpoint: Endpoint) -> tuple[list[float], float]:
        firsts, each = [], []
        for number in range(self._repeats):
            start = time.perf_counter()
            words = ask(endpoint, f"Tell me story number {number}.", max_tokens=TOKENS)
            next(words)
            firsts.append(milliseconds_since(start))
            start = time.perf_counter()
            count = sum(1 for _ in words)
            if count:
                each.append(milliseconds_since(start) / count)
        return firsts, statistics.median(each)

    def _rests(self, local: LocalModel, *, after_tokens: int) -> list[float]:
        times = []
        for number in range(self._repeats):
            prompt = f"Tell me story number {number}." if after_tokens else f"{number}: {LONG_PROMPT}"
            response = post(local.start(CancelToken()), prompt, max_tokens=2000)
            words = spoken(response)
            for _ in range(after_tokens):
                next(words)
            start = time.perf_counter()
            response.close()
            rest = local.bring_to_rest(CancelToken(), wait_seconds=30, grace_seconds=30)
            times.append(milliseconds_since(start))
            assert rest == "idle", rest
        return times

    def _kill_and_restart(self, local: LocalModel) -> tuple[list[float], list[float]]:
        kills, restarts = [], []
        for number in range(self._repeats):
            words = ask(local.start(CancelToken()), f"Tell me story number {number}.", max_tokens=2000)
            next(words)
            assert local.pid is not None
            child = psutil.Process(local.pid)
            start = time.perf_counter()
            child.kill()
            child.wait()
            kills.append(milliseconds_since(start))
            start = time.perf_counter()
            local.start(CancelToken())
            restarts.append(milliseconds_since(start))
        return kills, restarts

    def _show(self, name: str, times: list[float], unit: str, beside: list[float] | int) -> None:
        median = statistics.median(times)
        ratio = f"{median / statistics.median(beside):.1f} x {unit}" if isinstance(beside, list) else ""
        print(f"{name:44}{median:10.1f}{max(times):10.1f}   {ratio}")


def spawn(program: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


def post(endpoint: Endpoint, prompt: str, *, max_tokens: int) -> requests.Response:
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "max_tokens": max_tokens,
        **SAMPLING,
    }
    session = requests.Session()
    session.trust_env = False
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    response = session.post(f"{endpoint.base_url}/chat/completions", json=body, headers=headers, stream=True)
    response.raise_for_status()
    return response


def spoken(response: requests.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if line.startswith(b"data: {"):
            text = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"].get("content")
            if text:
                yield text


def ask(endpoint: Endpoint, prompt: str, *, max_tokens: int) -> Iterator[str]:
    return spoken(post(endpoint, prompt, max_tokens=max_tokens))


def milliseconds_since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
