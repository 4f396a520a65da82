"""How long the page's Stop takes, from the click until the run has settled and until the button is idle; and how long a
server takes to leave.

    python -m benchmarks.bench_chatapp [--repeats 30] [--others 200] [--leaves 5]

A real Chromium on this machine clicks Stop while a model speaks (a word each 20 ms), and while one is silent; first
with nothing else going on, then with 200 other chats being answered, each at the same pace. Beside it stands an empty
POST's round trip in the same browser, server and load, in turn with the clicks. A run has settled when its end is in
the store.

Then servers get SIGTERM: with nothing going on, which is the baseline; while pages follow an answer; while a tool runs
that nothing stops; with the 200 others; with all of it.

It ends with status 1 if a p95 is over its limit: 3 x the p95 of the round trip, or 25 ms until settled and 40 ms until
idle, whichever is more; or if a server takes longer to leave than docs/chatapp.md promises.

Browser and server share the machine, so both clocks are one. Left out: the time on a network; a page whose stream goes
through a proxy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from attrs import frozen
from playwright.sync_api import Browser, BrowserContext, Page

from aiwrapper.chat.serve import LEAVE_SECONDS
from benchmarks._phases import describe_machine
from tests.aiwrapper.chat.browsing import chromium

SETTLED_LIMIT_MS: Final = 25.0
IDLE_LIMIT_MS: Final = 40.0
ROUND_TRIPS: Final = 3
OPEN_PAGES: Final = 4

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


@frozen(kw_only=True)
class Leaving:
    """What goes on when a server is told to leave.

    Args:
        name: for people.
        pages: how many follow an answer.
        deaf: whether a tool runs that nothing stops.
        others: how many other chats are being answered.
    """

    name: str
    pages: int = 0
    deaf: bool = False
    others: int = 0


class Server:
    """The server, and what it tells."""

    def __init__(self, process: "subprocess.Popen[str]", told: IO[str]) -> None:
        self._process = process
        self._told = told
        self.url = self.next("url")["url"] + "/"

    def next(self, what: str) -> dict[str, Any]:  # Any: JSON
        """What it tells next of this kind."""
        for line in self._told:
            facts: dict[str, Any] = json.loads(line)
            if what in facts:
                return facts
        raise SystemExit("the server has gone away")

    def leave(self) -> float:
        """Tell it to leave; the milliseconds that it took."""
        before = time.perf_counter()
        self._process.terminate()
        if self._process.wait() != 0:
            raise SystemExit(f"the server has left with {self._process.returncode}")
        return 1000 * (time.perf_counter() - before)


@contextmanager
def serving(others: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks._chat_server", str(others)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Server(process, process.stdout)
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
        choose(page, "silent")
    say(page)
    server.next("asked")
    page.locator("#send[data-phase=starting]" if silent else "article.answer .block").wait_for()
    clicked, became_idle = page.evaluate(_CLICK)
    settled = 1000 * server.next("settled")["at"]
    return settled - clicked, became_idle - clicked


def choose(page: Page, model: str) -> None:
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("Model").select_option(model)
    page.get_by_role("button", name="Save").click()


def say(page: Page) -> None:
    page.get_by_role("textbox", name="Message", exact=True).fill("Speak")
    page.locator("#send").click()


def leave_once(context: BrowserContext, leaving: Leaving) -> float:
    """Milliseconds from SIGTERM until the process is no more."""
    with serving(leaving.others) as server:
        for _ in range(leaving.pages):
            page = context.new_page()
            page.goto(server.url)
            say(page)
            page.locator("article.answer .block").wait_for()
        if leaving.deaf:
            page = context.new_page()
            page.goto(server.url)
            choose(page, "deaf")
            say(page)
            page.locator(".tool[data-state=running]").wait_for()
        return server.leave()


def measure_leaving(browser: Browser, leaving: Leaving, repeats: int) -> Times:
    times: list[float] = []
    for _ in range(repeats):
        context = browser.new_context()
        times.append(leave_once(context, leaving))
        context.close()
    return Times(sorted(times))


def clicks(browser: Browser, others: int, repeats: int) -> bool:
    """Whether all clicks are within their limits."""
    print(f"milliseconds, p50 / p95 of {repeats} clicks")
    print(f"{'':32}{'empty POST':>17}{'run settled':>17}{'button idle':>17}")
    kept = True
    for load in (0, others):
        with serving(load) as server:
            for silent in (False, True):
                name = f"{'silent' if silent else 'streaming'}, {load} others"
                row = measure(browser, server, name, silent=silent, repeats=repeats)
                mark = "" if row.is_within_limits else "  over the limit"
                print(f"{name:32}{row.round_trip!s:>17}{row.settled!s:>17}{row.idle!s:>17}{mark}", flush=True)
                kept = kept and row.is_within_limits
    return kept


def leavings(browser: Browser, others: int, repeats: int) -> bool:
    """Whether all servers have left in time."""
    print(f"milliseconds from SIGTERM to the exit, p50 / longest of {repeats}, {LEAVE_SECONDS:g} s allowed")
    kept = True
    for leaving in (
        Leaving(name="nothing goes on"),
        Leaving(name=f"{OPEN_PAGES} pages follow", pages=OPEN_PAGES),
        Leaving(name="a deaf tool runs", deaf=True),
        Leaving(name=f"{others} others", others=others),
        Leaving(name="all of it", pages=OPEN_PAGES - 1, deaf=True, others=others),
    ):
        times = measure_leaving(browser, leaving, repeats)
        is_in_time = times.values[-1] <= 1000 * LEAVE_SECONDS
        print(
            f"{leaving.name:32}{times.median:7.0f} /{times.values[-1]:7.0f}"
            f"{'' if is_in_time else '  over the limit'}",
            flush=True,
        )
        kept = kept and is_in_time
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long the page's Stop takes, and leaving.")
    parser.add_argument("--repeats", type=int, default=30, help="clicks a row; 0 for none")
    parser.add_argument("--others", type=int, default=200)
    parser.add_argument("--leaves", type=int, default=5, help="servers a row; 0 for none")
    options = parser.parse_args()

    print(describe_machine(), f"{os.cpu_count()} cores", sep=", ")
    kept = True
    with chromium() as browser:
        if options.repeats:
            kept = clicks(browser, options.others, options.repeats)
        if options.leaves:
            kept = leavings(browser, options.others, options.leaves) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
