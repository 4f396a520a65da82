"""The state machine of the button, by itself, in a browser: every event in every state."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.aiwrapper.chat.browsing import Phase

pytestmark = pytest.mark.browser

Event = dict[str, Any]  # Any: JSON

SEND: Event = {"type": "send", "runId": "r1"}
TAKEN: Event = {"type": "taken", "runId": "r1"}
REFUSED: Event = {"type": "refused", "runId": "r1"}
STOP: Event = {"type": "stop"}
UNCONFIRMED: Event = {"type": "unconfirmed"}


def log(run: str | None = None, state: str = "", **ended: str) -> Event:
    """What the log says: the run that lives, and how others have ended."""
    return {"type": "log", "run": None if run is None else {"id": run, "state": state}, "ended": ended}


STREAMING, TOOL = log("r1", "streaming"), log("r1", "running_tool")
REACHED: dict[Phase, list[Event]] = {
    "idle": [],
    "starting": [SEND],
    "streaming": [SEND, TAKEN, STREAMING],
    "running_tool": [SEND, TAKEN, STREAMING, TOOL],
    "stopping": [SEND, TAKEN, STREAMING, STOP],
    "stopped": [SEND, TAKEN, STREAMING, STOP, log(r1="stopped")],
}
LIVE: tuple[Phase, ...] = ("starting", "streaming", "running_tool")


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that may import the module."""
    page = browser.new_page()
    source = (files("aiwrapper.chat") / "static/button.js").read_text(encoding="utf-8")
    page.route("http://page.test/", lambda route: route.fulfill(body="", content_type="text/html"))
    page.route(
        "http://page.test/button.js", lambda route: route.fulfill(body=source, content_type="text/javascript")
    )
    page.goto("http://page.test/")
    yield page
    page.close()


def run(page: Page, *events: Event) -> tuple[str, list[str]]:
    """The phase after these events, and the runs that were told to stop, in order."""
    phase, stops = page.evaluate(
        """async events => {
            const { IDLE, next } = await import("/button.js");
            let state = IDLE;
            const stops = [];
            for (const event of events) {
                const { state: after, stop } = next(state, event);
                if (!Object.isFrozen(after)) throw new Error("a state can be changed");
                state = after;
                if (stop !== null) stops.push(stop);
            }
            return [state.phase, stops];
        }""",
        list(events),
    )
    return phase, stops


@pytest.mark.parametrize("phase", REACHED)
def test_every_state_can_be_reached(page: Page, phase: Phase) -> None:
    assert phase == run(page, *REACHED[phase])[0]


@pytest.mark.parametrize("phase", LIVE)
def test_stopping_is_shown_at_the_click_and_the_stop_is_sent_at_once(page: Page, phase: Phase) -> None:
    assert ("stopping", ["r1"]) == run(page, *REACHED[phase], STOP)


@pytest.mark.parametrize("phase", LIVE)
def test_pressing_stop_again_sends_nothing(page: Page, phase: Phase) -> None:
    assert ("stopping", ["r1"]) == run(page, *REACHED[phase], STOP, STOP, STOP)


@pytest.mark.parametrize("phase", ["idle", "stopped"])
def test_there_is_nothing_to_stop_where_nothing_runs(page: Page, phase: Phase) -> None:
    before = run(page, *REACHED[phase])

    assert before == run(page, *REACHED[phase], STOP, UNCONFIRMED)


@pytest.mark.parametrize("phase", [*LIVE, "stopping"])
def test_nothing_is_sent_while_a_run_lives(page: Page, phase: Phase) -> None:
    before = run(page, *REACHED[phase])

    assert before == run(page, *REACHED[phase], {"type": "send", "runId": "r2"})


def test_a_stop_that_is_wanted_before_the_server_knows_the_run_is_sent_again_when_it_does(page: Page) -> None:
    assert ("stopping", ["r1", "r1"]) == run(page, SEND, STOP, TAKEN)


def test_a_stop_is_sent_again_as_long_as_the_log_does_not_say_that_the_run_has_ended(page: Page) -> None:
    again = [UNCONFIRMED, STREAMING, UNCONFIRMED, TOOL, UNCONFIRMED]

    assert ("stopping", ["r1"] * 4) == run(page, *REACHED["stopping"], *again)
    assert ("stopped", ["r1"]) == run(page, *REACHED["stopping"], log(r1="stopped"), UNCONFIRMED)


@pytest.mark.parametrize("state", ["starting", "streaming", "running_tool", "retrying", "stopping"])
def test_news_of_the_run_do_not_make_the_button_forget_the_stop(page: Page, state: str) -> None:
    assert "stopping" == run(page, *REACHED["stopping"], log("r1", state))[0]


@pytest.mark.parametrize(
    ("status", "phase"), [("completed", "idle"), ("failed", "idle"), ("stopped", "stopped")]
)
@pytest.mark.parametrize("before", [*LIVE, "stopping"])
def test_only_the_log_ends_it_and_says_how(page: Page, before: Phase, status: str, phase: Phase) -> None:
    assert phase == run(page, *REACHED[before], log(r1=status))[0]


@pytest.mark.parametrize("phase", [*LIVE, "stopping"])
def test_that_the_log_knows_of_no_run_does_not_end_it(page: Page, phase: Phase) -> None:
    """The request may be on its way, or the news may be."""
    assert phase == run(page, *REACHED[phase], log(r0="completed"))[0]


def test_a_request_that_is_refused_ends_it(page: Page) -> None:
    assert "idle" == run(page, SEND, REFUSED)[0]
    assert "idle" == run(page, SEND, STOP, REFUSED)[0]


def test_a_run_that_the_server_has_taken_is_not_refused_any_more(page: Page) -> None:
    assert "streaming" == run(page, SEND, STREAMING, REFUSED)[0]


def test_a_run_that_another_page_began_can_be_stopped_here(page: Page) -> None:
    assert ("stopping", ["r9"]) == run(page, log("r9", "streaming"), STOP)


def test_a_stop_of_one_run_is_not_a_stop_of_the_next(page: Page) -> None:
    assert ("streaming", ["r1"]) == run(page, *REACHED["stopping"], log("r2", "streaming", r1="stopped"))


def test_a_run_that_another_page_stops_is_shown_as_stopping(page: Page) -> None:
    assert ("stopping", []) == run(page, log("r9", "stopping"))


def test_an_answer_to_another_request_means_nothing(page: Page) -> None:
    assert ("streaming", []) == run(page, log("r9", "streaming"), TAKEN, REFUSED)


def test_news_that_come_twice_change_nothing(page: Page) -> None:
    ended = log(r1="stopped")

    assert run(page, *REACHED["stopped"]) == run(page, *REACHED["stopped"], ended, ended)
