"""What a model says is hostile input: nothing of it runs, nothing of it loads anything from elsewhere."""

import pytest
from playwright.sync_api import Error, Page, expect

from aiwrapper.testing import Call, FakeProvider, Say, Think, Turn
from tests.aiwrapper.chat.browsing import ChatServer, Visitor
from tests.aiwrapper.chat.hostile import HOSTILE, OUTSIDE

pytestmark = pytest.mark.browser

NOT_ITS_OWN = "script, iframe, object, embed, form, input, img, math, style, link, meta, base"
"""What no answer may put on the page."""


def watch(page: Page, url: str) -> list[str]:
    """What the page asks for elsewhere, and what it asks the reader, from now on."""
    seen: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:")) else seen.append(request.url),
    )
    page.on("dialog", lambda dialog: seen.append(dialog.message))
    page.on("popup", lambda popup: seen.append(popup.url))
    return seen


def on_the_wire() -> dict[str, str]:
    """The payloads as a provider can send them: instead of half a character, a byte that is no UTF-8."""
    return {name: payload.replace("\ud800", "\udcff") for name, payload in HOSTILE.items()}


def test_no_payload_runs_or_loads_anything(
    visitor: Visitor, provider: FakeProvider, server: ChatServer
) -> None:
    seen = watch(visitor.page, server.url)

    for number, (name, payload) in enumerate(on_the_wire().items(), 1):
        provider.add(Turn((Think((payload,)), Say((payload, f"\n\nEnd of {name}.")))))
        visitor.say(f"Say {name}")
        expect(visitor.messages.get_by_text(f"End of {name}.")).to_be_visible()
        visitor.expect_phase("idle")
        for details in visitor.answer.locator("details").all():
            details.locator("summary").click()

        assert [] == seen, name
        assert visitor.page.evaluate("window.hacked === undefined"), name
        assert 0 == visitor.messages.locator(NOT_ITS_OWN).count(), name
        assert number == visitor.page.locator("article.answer").count()


def test_no_link_leads_anywhere_but_to_the_web_and_none_takes_the_page_along(
    visitor: Visitor, provider: FakeProvider, server: ChatServer
) -> None:
    provider.add(Turn((Say(("\n\n".join([*on_the_wire().values(), f"[outside]({OUTSIDE}/page)"]),)),)))
    visitor.say("Links, please")
    expect(visitor.answer.get_by_role("link", name="outside", exact=True)).to_be_visible()

    for link in visitor.messages.locator("a").all():
        href = link.get_attribute("href")
        assert href is None or href.startswith(("http:", "https:", "mailto:"))
        assert ("noopener noreferrer", "_blank") == (link.get_attribute("rel"), link.get_attribute("target"))


def test_what_a_tool_and_an_error_say_is_text(
    visitor: Visitor, provider: FakeProvider, server: ChatServer
) -> None:
    seen = watch(visitor.page, server.url)
    payload = HOSTILE["image_onerror"]
    provider.add(Turn((Call(payload, (f'{{"number": "{payload}"}}',)),)))

    visitor.say("Call it")

    expect(visitor.tool("finished")).to_contain_text("does not exist")
    visitor.tool("finished").locator("summary").click()
    assert visitor.page.evaluate("window.hacked === undefined")
    assert 0 == visitor.messages.locator("img").count()
    assert [] == seen


def test_a_title_is_text(visitor: Visitor, provider: FakeProvider, server: ChatServer) -> None:
    visitor.say(HOSTILE["image_onerror"])
    expect(visitor.answer).to_contain_text("Hello from the fake.")

    expect(visitor.page.get_by_role("heading", level=1)).to_have_text(HOSTILE["image_onerror"])
    assert 0 == visitor.page.locator("img").count()


def test_the_policy_refuses_what_a_sanitiser_would_have_let_through(
    visitor: Visitor, server: ChatServer
) -> None:
    """The second wall, by itself: markup from a string, inline script, and every load from elsewhere."""
    page = visitor.page
    for sink in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'window.hacked = 1')",
        "eval('1')",
        "setTimeout('1')",
        "new Function('1')",
    ):
        attempt = f"try {{ {sink}; done(false) }} catch {{ done(true) }}"
        # In a task of its own: what a debugger runs itself may use eval.
        assert page.evaluate(f"() => new Promise(done => setTimeout(() => {{ {attempt} }}))"), sink
    page.evaluate(
        """async outside => {
            const missing = new Set(["img-src", "frame-src", "style-src-elem", "connect-src"]);
            const all = new Promise(resolve =>
                addEventListener("securitypolicyviolation", event => {
                    missing.delete(event.effectiveDirective);
                    if (missing.size === 0) resolve();
                }));
            const add = (tag, properties) =>
                document.body.append(Object.assign(document.createElement(tag), properties));
            add("img", { src: outside + "/i.png" });
            add("iframe", { src: outside + "/frame" });
            add("style", { textContent: "* { color: red }" });
            add("link", { rel: "stylesheet", href: outside + "/s.css" });
            fetch(outside).catch(() => {});
            await all;
        }""",
        OUTSIDE,
    )


@pytest.mark.parametrize("name", ["rendered-by-the-server", "default", "another"])
def test_nobody_else_can_make_a_policy(visitor: Visitor, name: str) -> None:
    with pytest.raises(Error, match=r"disallowed|already exists"):
        visitor.page.evaluate("name => trustedTypes.createPolicy(name, {}) && null", name)
