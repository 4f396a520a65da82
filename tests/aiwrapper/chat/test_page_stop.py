"""Stop on the real page, in every state of a run."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from aiwrapper.testing import Call, Delivery, FakeProvider, HttpError, Say, Think, Turn
from tests.aiwrapper.chat.browsing import HeldRequests, Visitor

pytestmark = pytest.mark.browser

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))
ENDLESS = Turn((Say(("And so on. ",) * 10_000),), delivery=Delivery(events_per_second=20))


def test_an_answer_grows_while_it_comes(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(STORY)
    with provider.hold_at("mid_body"):
        visitor.say("Tell me a story")
        expect(visitor.answer).to_contain_text("Once upon")
        visitor.expect_phase("streaming")

        expect(visitor.button).to_have_text("Stop")
    expect(visitor.answer).to_contain_text("Once upon a time there was a river.")
    visitor.expect_phase("idle")
    expect(visitor.button).to_have_text("Send")
    expect(visitor.outcome).to_be_hidden()


def requests_of(visitor: Visitor, end: str) -> list[str]:
    """The requests of addresses that end so, from now on."""
    urls: list[str] = []
    visitor.page.on(
        "request", lambda request: urls.append(request.url) if request.url.endswith(end) else None
    )
    return urls


def at_headers(visitor: Visitor, provider: FakeProvider) -> None:
    provider.hold_at("headers")
    visitor.say("Hello?")
    visitor.expect_phase("starting")
    assert provider.wait_for_requests(1, timeout_seconds=30)


def in_text(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(STORY)
    provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    visitor.expect_phase("streaming")


def in_reasoning(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(Turn((Think(("Let me ", "think ", "about it")), Say(("Well",)))))
    provider.hold_at(800)
    visitor.say("Think")
    expect(visitor.page.get_by_text("Thinking…")).to_be_visible()
    visitor.expect_phase("streaming")


def in_tool(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(Turn((Say(("I wait.",)), Call("wait", ('{"what": "rain"}',)))))
    visitor.say("Wait")
    expect(visitor.tool("running")).to_contain_text("is running")
    visitor.expect_phase("running_tool")


def in_back_off(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(HttpError(429, retry_after="500"))
    visitor.say("Hello?")
    expect(visitor.page.get_by_text("Trying again in").first).to_be_visible()


@pytest.mark.parametrize("reach", [at_headers, in_text, in_reasoning, in_tool, in_back_off])
def test_stop_ends_a_run_in_every_state_and_the_next_message_works(
    visitor: Visitor, provider: FakeProvider, reach: Callable[[Visitor, FakeProvider], None]
) -> None:
    reach(visitor, provider)

    visitor.button.click()

    visitor.expect_phase("stopped")
    expect(visitor.outcome).to_have_text("Stopped by you")
    expect(visitor.action("Regenerate")).to_be_visible()
    if reach in (at_headers, in_text, in_reasoning):
        assert provider.requests[0].hung_up.wait(timeout=30)
    visitor.say("And now?")
    expect(visitor.answer).to_contain_text("Hello from the fake.")
    visitor.expect_phase("idle")


def test_what_was_said_before_a_stop_stays_and_can_be_continued(
    visitor: Visitor, provider: FakeProvider
) -> None:
    in_text(visitor, provider)
    visitor.button.click()
    visitor.expect_phase("stopped")
    expect(visitor.answer).to_contain_text("Once upon")
    provider.add(Turn((Say(("and so it ended.",)),)))

    visitor.action("Continue").click()

    expect(visitor.answer).to_contain_text("and so it ended.")
    visitor.expect_phase("idle")
    expect(visitor.messages).to_contain_text("Once upon")


def test_a_tool_that_was_stopped_says_so(visitor: Visitor, provider: FakeProvider) -> None:
    in_tool(visitor, provider)

    visitor.button.click()

    expect(visitor.tool("finished")).to_contain_text("was stopped while it ran")


def test_escape_stops_like_the_button(visitor: Visitor, provider: FakeProvider) -> None:
    in_text(visitor, provider)

    visitor.page.keyboard.press("Escape")

    visitor.expect_phase("stopped")


def test_stopping_is_shown_at_the_click_and_stopped_only_when_the_log_says_so(
    visitor: Visitor, provider: FakeProvider
) -> None:
    in_text(visitor, provider)
    held = HeldRequests(visitor.page, "**/stop")

    with visitor.page.expect_request("**/stop"):
        visitor.button.click()

    visitor.expect_phase("stopping")
    expect(visitor.button).to_have_text("Stopping…")
    held.release()
    visitor.expect_phase("stopped")


def test_stopping_twice_is_stopping_once(visitor: Visitor, provider: FakeProvider) -> None:
    in_text(visitor, provider)
    stops = requests_of(visitor, "/stop")

    visitor.button.dblclick()
    visitor.page.keyboard.press("Escape")

    visitor.expect_phase("stopped")
    assert 1 == len(stops)
    expect(visitor.page.get_by_text("Stopped by you")).to_have_count(1)


def test_a_stop_before_the_server_has_taken_the_message_stops_that_run(
    visitor: Visitor, provider: FakeProvider
) -> None:
    held = HeldRequests(visitor.page, "**/send")
    with visitor.page.expect_request("**/send"):
        visitor.say("Hello?")
    visitor.expect_phase("starting")
    with visitor.page.expect_response("**/stop") as stop:
        visitor.button.click()
    visitor.expect_phase("stopping")
    assert "remembered" == stop.value.json()["state"]

    held.release()

    visitor.expect_phase("stopped")
    expect(visitor.outcome).to_have_text("Stopped by you")
    assert () == provider.requests


def test_a_stop_that_gets_lost_is_sent_again_until_the_run_has_ended(
    visitor: Visitor, provider: FakeProvider
) -> None:
    visitor.page.clock.install()
    in_text(visitor, provider)
    visitor.page.route("**/stop", lambda route: route.abort(), times=1)
    with visitor.page.expect_event("requestfailed", lambda request: request.url.endswith("/stop")):
        visitor.button.click()
    visitor.expect_phase("stopping")

    visitor.page.clock.fast_forward(2000)

    visitor.expect_phase("stopped")


def fails(route: Route) -> None:
    route.abort()


def gets_no_answer(route: Route) -> None:
    pass


@pytest.mark.parametrize("lost", [fails, gets_no_answer])
def test_a_stop_that_gets_lost_is_sent_again_while_the_answer_goes_on(
    visitor: Visitor, provider: FakeProvider, lost: Callable[[Route], None]
) -> None:
    """News come far more often than a stop is sent again; they must not put it off."""
    provider.add(ENDLESS)
    visitor.say("Go on for ever")
    expect(visitor.answer).to_contain_text("And so on.")
    stops = requests_of(visitor, "/stop")
    visitor.page.route("**/stop", lost, times=1)

    visitor.button.click()

    visitor.expect_phase("stopped")
    expect(visitor.outcome).to_have_text("Stopped by you")
    assert len(stops) >= 2


def test_a_stop_that_could_not_leave_leaves_when_the_network_is_back(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    visitor.page.clock.install(time=0)
    provider.add(ENDLESS)
    visitor.say("Go on for ever")
    expect(visitor.answer).to_contain_text("And so on.")
    visitor.page.clock.pause_at(60_000)  # from here, no time that passes sends it again
    context.set_offline(True)
    with visitor.page.expect_event("requestfailed", lambda request: request.url.endswith("/stop")):
        visitor.button.click()
    visitor.expect_phase("stopping")

    context.set_offline(False)

    visitor.expect_phase("stopped")


def test_a_stop_that_comes_after_the_end_changes_nothing(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    held = HeldRequests(visitor.page, "**/stop")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    with visitor.page.expect_request("**/stop"):
        visitor.button.click()
    hold.release()
    visitor.expect_phase("idle")

    with visitor.page.expect_response("**/stop") as stop:
        held.release()

    assert "ended" == stop.value.json()["state"]
    visitor.expect_phase("idle")
    expect(visitor.outcome).to_be_hidden()


def test_a_stop_at_the_instant_of_completion_ends_one_way_or_the_other(
    visitor: Visitor, provider: FakeProvider
) -> None:
    for count in range(1, 6):
        provider.add(STORY)
        hold = provider.hold_at("end")
        visitor.say("Tell me a story")
        expect(visitor.messages.get_by_text("a river.")).to_have_count(count)

        hold.release()
        visitor.page.keyboard.press("Escape")

        visitor.expect_phase("idle", "stopped")
    visitor.say("And now?")
    expect(visitor.answer).to_contain_text("Hello from the fake.")


def test_a_stop_in_one_tab_is_seen_in_the_other(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    in_text(visitor, provider)
    other = Visitor(context.new_page(), visitor.page.url).open()
    expect(other.answer).to_contain_text("Once upon")
    other.expect_phase("streaming")

    other.button.click()

    visitor.expect_phase("stopped")
    other.expect_phase("stopped")
    expect(visitor.outcome).to_have_text("Stopped by you")


def test_a_message_in_one_tab_is_seen_in_another_that_was_idle(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    visitor.say("First")
    visitor.expect_phase("idle")
    expect(visitor.answer).to_contain_text("Hello from the fake.")
    other = Visitor(context.new_page(), visitor.page.url).open()
    expect(other.answer).to_contain_text("Hello from the fake.")

    in_text(visitor, provider)

    expect(other.answer).to_contain_text("Once upon")
    other.expect_phase("streaming")


def test_with_seven_tabs_that_all_follow_a_run_stop_arrives(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    """A browser opens six connections to a server over HTTP/1.1, and each open stream keeps one."""
    in_text(visitor, provider)
    tabs = [Visitor(context.new_page(), visitor.page.url).open() for _ in range(6)]
    for tab in tabs:
        expect(tab.answer).to_contain_text("Once upon")
        tab.expect_phase("streaming")

    tabs[-1].button.click()

    for tab in (visitor, *tabs):
        tab.expect_phase("stopped")


def test_a_reload_in_mid_answer_goes_on_without_a_gap_or_a_double(
    visitor: Visitor, provider: FakeProvider
) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")

    visitor.page.reload()

    visitor.expect_phase("streaming")
    expect(visitor.answer).to_contain_text("Once upon")
    hold.release()
    expect(visitor.answer.locator(".prose")).to_have_text("Once upon a time there was a river.")
    visitor.expect_phase("idle")
    assert 1 == len(provider.requests)
