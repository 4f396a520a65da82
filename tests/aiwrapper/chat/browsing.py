"""A real browser on the real page: who visits, and the server that is visited."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

ROOT = Path(__file__).parents[3]
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

Phase = Literal["idle", "starting", "streaming", "running_tool", "stopping", "stopped"]

expect.set_options(timeout=30_000)  # as long as Playwright waits elsewhere: the machines are shared


def chromium_path() -> str:
    """Where the browser is; without one the test is skipped, but never in CI, which installs it."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: .ci/run has to install it")
        pytest.skip("no Chromium on this machine")
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; while it lives, its thread has a running event loop."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class ChatServer:
    """The ChatApp in a process of its own.

    Args:
        folder: where the store is, and the file that says where the provider is.
        port: 0 for a free one.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self._where = folder / "provider"
        command = (sys.executable, "-m", "tests.aiwrapper.chat.serving")
        self._process = subprocess.Popen(
            [*command, str(folder / "store"), str(port), str(self._where)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip() + "/"
        assert self.url.startswith("http"), "the server did not come up; its standard error says why"

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def ask(self, base_url: str) -> None:
        """Ask this provider from now on."""
        self._where.write_text(base_url)

    def kill(self) -> None:
        """As a crash does."""
        self._process.kill()
        self._leave()

    def terminate(self) -> int:
        """Tell it to leave, as an operating system does; the exit status."""
        self._process.terminate()
        return self._leave()

    def _leave(self) -> int:
        assert self._process.stdout is not None
        status = self._process.wait()
        self._process.stdout.close()
        return status


class Visitor:
    """Somebody with a page open.

    Args:
        page: the page.
        url: of the application.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.field = page.get_by_role("textbox", name="Message", exact=True)
        self.button = page.locator("#send")
        self.messages = page.get_by_role("log")
        self.answer = page.locator("article.answer").last
        self.outcome = self.answer.locator(".outcome")

    def open(self, url: str | None = None) -> "Visitor":
        self.page.goto(self.url if url is None else url)
        expect(self.field).to_be_visible()
        return self

    def say(self, text: str) -> None:
        self.field.fill(text)
        self.field.press("Enter")

    def expect_phase(self, *phases: Phase) -> None:
        selector = ", ".join(f"#send[data-phase={phase}]" for phase in phases)
        expect(self.page.locator(selector)).to_be_visible()

    def tool(self, state: str) -> Locator:
        return self.page.locator(f".tool[data-state={state}]")

    def action(self, name: str) -> Locator:
        return self.page.locator("article").last.get_by_role("button", name=name, exact=True)


class HeldRequests:
    """Requests of a page that do not leave it until they are released.

    Args:
        page: the page.
        url: a pattern.
    """

    def __init__(self, page: Page, url: str) -> None:
        self._page = page
        self._url = url
        self._routes: list[Route] = []
        page.route(url, self._hold)

    def _hold(self, route: Route) -> None:
        self._routes.append(route)

    def release(self) -> None:
        """Let them go, and those that come."""
        for route in self._routes:
            route.continue_()
        self._page.unroute(self._url)


def visit(context: BrowserContext, url: str) -> Visitor:
    """Open the page in a new tab."""
    return Visitor(context.new_page(), url).open()


def show(visitor: Visitor, state: str) -> None:
    """As when another tab is chosen: a headless browser shows every page, so the page is told."""
    visitor.page.evaluate(
        """state => {
            Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )
