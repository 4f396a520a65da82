"""How long the page's Stop takes, from the click until the run has settled and until the button is idle.

    python -m benchmarks.bench_chatapp [--repeats 30] [--others 200]

A real Chromium on this machine clicks Stop while a model speaks (a word each 20 ms), and while one is silent; first
with nothing else going on, then with 200 other chats being answered, each at the same pace. Beside it stands an empty
POST's round trip in the same browser, server and load, in turn with the clicks. A run has settled when its end is in
the store.

It ends with status 1 if a p95 is over its limit: 3 x the p95 of the round trip, or 25 ms until settled and 40 ms until
idle, whichever is more.

Browser and server share the machine, so both clocks are one. Left out: the time on a network; a page whose stream goes
through a proxy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from attrs import frozen
from playwright.sync_api import Browser, Page

from benchmarks._phases import describe_machine
from tests.aiwrapper.chat.browsing import chromium

SETTLED_LIMIT_MS: Final = 25.0
IDLE_LIMIT_MS: Final = 40.0
ROUND_TRIPS: Final = 3

_CLICK: Final = """() => new Promise(done => {
    const button = document.getElementById("send");
    const now = () => performance.timeOrigin + performance.now();
    let clicked;
    const observer = new MutationObserver(() => {
        if (!["idle", "stopped"].includes(button.dataset.phase)) return;
        observer.disconnect();
        done([clicked, now()]);
    });
    observer.observe(button, { attributes: true });
    clicked = now();
    button.click();
})"""

_ROUND_TRIP: Final = """async () => {
    const before = performance.now();
    await fetch("empty", { method: "POST" });
    return performance.now() - before;
}"""


@frozen
class Times:
    """Milliseconds, sorted."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        return self.values[min(len(self.values) - 1, round(0.95 * len(self.values)))]

    def __str__(self) -> str:
        return f"{self.median:7.1f} /{self.p95:7.1f}"


@frozen
class Row:
    """One model under one load."""

    name: str
    round_trip: Times
    settled: Times
    idle: Times

    @property
    def is_within_limits(self) -> bool:
        allowed = ROUND_TRIPS * self.round_trip.p95
        return self.settled.p95 <= max(allowed, SETTLED_LIMIT_MS) and self.idle.p95 <= max(
            allowed, IDLE_LIMIT_MS
        )


class Server:
    """The server, and what it tells."""

    def __init__(self, told: IO[str]) -> None:
        self._told = told
        self.url = self.next("url")["url"] + "/"

    def next(self, what: str) -> dict[str, Any]:  # Any: JSON
        """What it tells next of this kind."""
        for line in self._told:
            facts: dict[str, Any] = json.loads(line)
            if what in facts:
                return facts
        raise SystemExit("the server has gone away")


@contextmanager
def serving(others: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks._chat_server", str(others)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Server(process.stdout)
        process.terminate()
        process.stdout.read()


def measure(browser: Browser, server: Server, name: str, *, silent: bool, repeats: int) -> Row:
    page = browser.new_page()
    page.goto(server.url)
    round_trips, settled, idle = [], [], []
    for _ in range(repeats):
        round_trips.append(page.evaluate(_ROUND_TRIP))
        to_settled, to_idle = stop_once(page, server, silent=silent)
        settled.append(to_settled)
        idle.append(to_idle)
    page.close()
    return Row(name, *(Times(sorted(values)) for values in (round_trips, settled, idle)))


def stop_once(page: Page, server: Server, *, silent: bool) -> tuple[float, float]:
    """Milliseconds from the click until the run has settled, and until the button is idle."""
    # A chat of its own each time, so that no row is slowed by the length of its conversation.
    page.locator("#new-chat").click()
    if silent:
        page.get_by_role("button", name="Settings of this chat").click()
        page.get_by_label("Model").select_option("silent")
        page.get_by_role("button", name="Save").click()
    page.get_by_role("textbox", name="Message", exact=True).fill("Speak")
    page.locator("#send").click()
    server.next("asked")
    page.locator("#send[data-phase=starting]" if silent else "article.answer .block").wait_for()
    clicked, became_idle = page.evaluate(_CLICK)
    settled = 1000 * server.next("settled")["at"]
    return settled - clicked, became_idle - clicked


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long the page's Stop takes.")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--others", type=int, default=200)
    options = parser.parse_args()

    print(describe_machine(), f"{os.cpu_count()} cores", f"{options.repeats} clicks a row", sep=", ")
    print("milliseconds, p50 / p95")
    print(f"{'':32}{'empty POST':>17}{'run settled':>17}{'button idle':>17}")
    rows = []
    with chromium() as browser:
        for others in (0, options.others):
            with serving(others) as server:
                for silent in (False, True):
                    name = f"{'silent' if silent else 'streaming'}, {others} others"
                    row = measure(browser, server, name, silent=silent, repeats=options.repeats)
                    mark = "" if row.is_within_limits else "  over the limit"
                    print(
                        f"{name:32}{row.round_trip!s:>17}{row.settled!s:>17}{row.idle!s:>17}{mark}",
                        flush=True,
                    )
                    rows.append(row)
    return 0 if all(row.is_within_limits for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
