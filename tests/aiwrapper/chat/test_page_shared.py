"""Several pages of one browser beside each other, all visible: they share what they hear and the connections."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from aiwrapper.testing import FakeProvider, Say, Turn
from tests.aiwrapper.chat.browsing import ChatServer, Visitor, show, visit

pytestmark = pytest.mark.browser

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))
WHOLE = "Once upon a time there was a river."

# Another page of the application, which leads the chat without a word: `leading` resolves when nobody else does, and
# `joined` when a page says that it follows.
_LEAD = """chat => {
    const name = `aiwrapper stream of ${chat}`;
    window.channel = new BroadcastChannel(name);
    window.joined = new Promise(joined => {
        window.channel.onmessage = ({ data }) => data.what === "join" && joined();
    });
    window.leading = new Promise(leading => {
        navigator.locks.request(name, () => new Promise(end => { window.end = end; leading(); }));
    });
}"""

# Say that one follows the chat: resolves to the answer.
_JOIN = """chat => new Promise(answered => {
    const channel = new BroadcastChannel(`aiwrapper stream of ${chat}`);
    channel.onmessage = ({ data }) => answered(data);
    channel.postMessage({ what: "join" });
})"""


class Streams:
    """The streams that the pages of a browser ask for, from now on."""

    def __init__(self, context: BrowserContext) -> None:
        self.pages: list[Page] = []
        context.on("request", self._note)

    def _note(self, request: Request) -> None:
        if "/events" in request.url:
            self.pages.append(request.frame.page)


def chat_of(visitor: Visitor) -> str:
    return visitor.page.url.partition("#")[2]


def six_pages(visitor: Visitor, context: BrowserContext) -> list[Visitor]:
    """The visitor's chat, in which something has been said, on six pages."""
    visitor.say("Hello?")
    expect(visitor.answer).to_contain_text("Hello from the fake.")
    visitor.expect_phase("idle")
    others = [visit(context, visitor.page.url) for _ in range(5)]
    for other in others:
        expect(other.answer).to_contain_text("Hello from the fake.")
    return [visitor, *others]


def test_six_pages_of_a_chat_see_a_send_its_text_and_its_stop_over_one_stream(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    visitors = six_pages(visitor, context)
    streams = Streams(context)
    provider.add(STORY)
    provider.hold_at("mid_body")

    visitors[2].say("Tell me a story")

    for each in visitors:
        expect(each.messages.get_by_text("Tell me a story")).to_be_visible()
        expect(each.answer).to_contain_text("Once upon")
        each.expect_phase("streaming")
    assert 1 == len(streams.pages)

    visitors[-1].button.click()

    for each in visitors:
        each.expect_phase("stopped")
        expect(each.outcome).to_have_text("Stopped by you")
    assert [] == [error for each in visitors for error in each.errors]


def test_six_pages_of_a_chat_see_an_answer_to_its_end(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    visitors = six_pages(visitor, context)
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitors[-1].say("Tell me a story")
    for each in visitors:
        each.expect_phase("streaming")

    hold.release()

    for each in visitors:
        expect(each.answer.locator(".prose")).to_have_text(WHOLE)
        each.expect_phase("idle")


def close(visitor: Visitor) -> None:
    visitor.page.close()


def hide(visitor: Visitor) -> None:
    show(visitor, "hidden")


def go_elsewhere(visitor: Visitor) -> None:
    visitor.page.get_by_role("button", name="New chat").click()


@pytest.mark.parametrize("leave", [close, hide, go_elsewhere])
def test_when_the_page_that_has_the_stream_leaves_another_one_goes_on_without_a_gap_or_a_double(
    visitor: Visitor,
    provider: FakeProvider,
    context: BrowserContext,
    leave: Callable[[Visitor], None],
) -> None:
    visitors = six_pages(visitor, context)
    streams = Streams(context)
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitors[0].say("Tell me a story")
    for each in visitors:
        expect(each.answer).to_contain_text("Once upon")
    (leader,) = (each for each in visitors if each.page in streams.pages)
    visitors.remove(leader)

    with context.expect_event("request", lambda request: "/events" in request.url):
        leave(leader)
    hold.release()

    for each in visitors:
        expect(each.answer.locator(".prose")).to_have_text(WHOLE)
        each.expect_phase("idle")
    assert leader.page not in streams.pages[1:]


def test_a_page_that_opens_in_mid_answer_hears_the_rest_from_the_one_that_has_the_stream(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    streams = Streams(context)
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    other = visit(context, visitor.page.url)
    expect(other.answer).to_contain_text("Once upon")
    other.expect_phase("streaming")
    assert [visitor.page] == streams.pages

    hold.release()

    expect(other.answer.locator(".prose")).to_have_text(WHOLE)
    other.expect_phase("idle")


def test_a_page_that_was_not_told_everything_asks_for_what_it_has_missed(
    server: ChatServer, visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    silent = context.new_page()
    silent.goto(f"{server.url}static/icon.svg")
    silent.evaluate(_LEAD, chat_of(visitor))
    with visitor.page.expect_event("requestfailed", lambda request: "/events" in request.url):
        show(visitor, "hidden")
    silent.evaluate("window.leading")
    show(visitor, "visible")
    silent.evaluate("window.joined")

    hold.release()
    with visitor.page.expect_response(lambda response: response.url.endswith(chat_of(visitor))):
        silent.evaluate(
            """channel.postMessage({ what: "event", kind: "change", event: { position: 1e6 }, since: 1e6 })"""
        )
    silent.evaluate("window.end()")

    expect(visitor.answer.locator(".prose")).to_have_text(WHOLE)
    visitor.expect_phase("idle")


def test_a_page_that_begins_to_follow_is_told_where_the_one_with_the_stream_is(
    server: ChatServer, visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    provider.add(STORY)
    provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    other = context.new_page()
    other.goto(f"{server.url}static/icon.svg")

    told = other.evaluate(_JOIN, chat_of(visitor))

    assert {"position": told["since"]} == told["event"]
    assert told["since"] > 0


def test_all_pages_of_a_chat_say_that_the_connection_is_lost_and_go_on_when_it_is_back(
    browser: Browser, provider: FakeProvider, context: BrowserContext, tmp_path: Path
) -> None:
    first = ChatServer(tmp_path)
    first.ask(provider.base_url)
    visitor = visit(context, first.url)
    provider.add(STORY)
    with provider.hold_at("mid_body"):
        visitor.say("Tell me a story")
        expect(visitor.answer).to_contain_text("Once upon")
        visitors = [visitor, visit(context, visitor.page.url), visit(context, visitor.page.url)]
        for each in visitors:
            each.expect_phase("streaming")
        first.kill()
        for each in visitors:
            expect(each.page.get_by_text("The connection is lost.")).to_be_visible()

        second = ChatServer(tmp_path, port=first.port)

        for each in visitors:
            expect(each.outcome).to_have_text("Stopped: the server went away in the middle")
            expect(each.page.get_by_text("The connection is lost.")).to_be_hidden()
    assert 0 == second.terminate()


def test_with_runs_in_seven_chats_on_seven_pages_stop_arrives_on_each(
    server: ChatServer, visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    """A browser opens six connections to a server over HTTP/1.1, and each open stream keeps one."""
    visitors = [visitor, *(visit(context, server.url) for _ in range(6))]
    for each in visitors:
        provider.add(STORY)
        provider.hold_at("mid_body")
        each.say("Tell me a story")
        expect(each.answer).to_contain_text("Once upon")

    for each in visitors:
        each.button.click()

        each.expect_phase("stopped")
        expect(each.outcome).to_have_text("Stopped by you")
