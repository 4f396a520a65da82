"""What a person can do on the page, besides stopping."""

import base64
import os
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, expect

from aiwrapper.testing import Call, FakeProvider, HttpError, Say, Think, Turn
from tests.aiwrapper.chat.browsing import ChatServer, HeldRequests, Visitor, show, visit

pytestmark = pytest.mark.browser

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DOT = FilePayload(name="dot.png", mimeType="image/png", buffer=PIXEL)
NOTES = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"the river is long")
STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


def ask(visitor: Visitor, provider: FakeProvider, text: str, answer: str) -> None:
    """One whole turn."""
    provider.add(Turn((Say((answer,)),)))
    visitor.say(text)
    expect(visitor.answer).to_contain_text(answer)
    visitor.expect_phase("idle")


def test_a_failed_answer_says_why_and_retry_asks_again(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(HttpError(400, message="the moon is in the wrong place"))
    visitor.say("Hello?")
    expect(visitor.outcome).to_contain_text("the moon is in the wrong place")
    visitor.expect_phase("idle")

    visitor.action("Retry").click()

    expect(visitor.answer).to_contain_text("Hello from the fake.")


def test_an_answer_is_regenerated_on_a_branch_and_both_can_be_seen(
    visitor: Visitor, provider: FakeProvider
) -> None:
    ask(visitor, provider, "A number?", "It is one.")
    provider.add(Turn((Say(("It is two.",)),)))

    visitor.action("Regenerate").click()

    expect(visitor.answer).to_contain_text("It is two.")
    expect(visitor.answer.get_by_role("group", name="Versions")).to_contain_text("2/2")
    visitor.answer.get_by_role("button", name="Previous version").click()
    expect(visitor.answer).to_contain_text("It is one.")
    expect(visitor.answer.get_by_role("group", name="Versions")).to_contain_text("1/2")


def test_an_edited_message_is_a_branch_and_the_old_one_stays(
    visitor: Visitor, provider: FakeProvider
) -> None:
    ask(visitor, provider, "About tea?", "Tea is a leaf.")
    ask(visitor, provider, "Thanks", "Any time.")
    first = visitor.page.locator("article.user").first
    first.hover()
    first.get_by_role("button", name="Edit this message").click()
    editor = visitor.page.get_by_role("textbox", name="Edit your message")
    expect(editor).to_be_focused()
    provider.add(Turn((Say(("Coffee is a bean.",)),)))

    editor.fill("About coffee?")
    editor.press("Enter")

    expect(visitor.answer).to_contain_text("Coffee is a bean.")
    expect(visitor.field).to_be_focused()
    expect(visitor.messages).not_to_contain_text("Any time.")
    expect(first).to_contain_text("About coffee?")
    first.get_by_role("button", name="Previous version").click()
    expect(visitor.messages).to_contain_text("Any time.")
    expect(first).to_contain_text("About tea?")


def test_escape_leaves_an_edit_and_changes_nothing(visitor: Visitor, provider: FakeProvider) -> None:
    ask(visitor, provider, "About tea?", "Tea is a leaf.")
    first = visitor.page.locator("article.user").first
    first.hover()
    first.get_by_role("button", name="Edit this message").click()

    visitor.page.get_by_role("textbox", name="Edit your message").press("Escape")

    expect(first.get_by_role("button", name="Edit this message")).to_be_focused()
    expect(first).to_contain_text("About tea?")


def test_reasoning_is_folded_and_can_be_opened(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(Turn((Think(("First I *weigh* it.",)), Say(("Ten.",)))))
    visitor.say("How heavy?")
    expect(visitor.answer).to_contain_text("Ten.")
    thought = visitor.page.get_by_text("First I weigh it.")
    expect(thought).to_be_hidden()

    visitor.page.get_by_text("What it thought").click()

    expect(thought).to_be_visible()


def test_a_tool_shows_what_it_was_asked_and_what_it_answered(
    visitor: Visitor, provider: FakeProvider
) -> None:
    provider.add(Turn((Call("double", ('{"num', 'ber": 21}')),)), Turn((Say(("It is 42.",)),)))

    visitor.say("Twice 21?")

    expect(visitor.answer).to_contain_text("It is 42.")
    tool = visitor.tool("finished")
    expect(tool).to_contain_text("double")
    expect(tool).to_contain_text("done")
    tool.locator("summary").click()
    expect(tool.get_by_label("Arguments")).to_have_text('{ "number": 21 }')
    expect(tool.get_by_label("Result")).to_have_text("42")


def test_a_tool_that_fails_says_so(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(Turn((Call("double", ('{"number": "many"}',)),)))

    visitor.say("Twice many?")

    expect(visitor.tool("finished")).to_contain_text("was called with arguments it does not take")


def test_attachments_are_sent_and_shown(visitor: Visitor, provider: FakeProvider) -> None:
    with visitor.page.expect_file_chooser() as chooser:
        visitor.page.get_by_role("button", name="Attach").click()
    chooser.value.set_files([DOT, NOTES])
    attached = visitor.page.get_by_role("list", name="Attachments")
    expect(attached.get_by_role("listitem")).to_have_text(["dot.png", "notes.txt"])

    visitor.say("What is this?")

    expect(visitor.answer).to_contain_text("Hello from the fake.")
    expect(attached).to_be_hidden()
    image = visitor.messages.get_by_role("img", name="Attached image")
    expect(image).to_be_visible()
    assert 1 == image.evaluate("image => image.naturalWidth")
    expect(visitor.messages).to_contain_text("notes.txt")
    sent = str(provider.requests[0].json())
    assert base64.b64encode(PIXEL).decode() in sent
    assert "the river is long" in sent


def test_an_edit_keeps_the_attachments(visitor: Visitor, provider: FakeProvider) -> None:
    visitor.page.locator("#files").set_input_files([DOT, NOTES])
    expect(visitor.page.get_by_role("list", name="Attachments").get_by_role("listitem")).to_have_count(2)
    ask(visitor, provider, "What is this?", "A dot.")
    first = visitor.page.locator("article.user").first
    first.hover()
    first.get_by_role("button", name="Edit this message").click()
    editor = visitor.page.get_by_role("textbox", name="Edit your message")
    provider.add(Turn((Say(("A river.",)),)))

    editor.fill("And this?")
    editor.press("Enter")

    expect(visitor.answer).to_contain_text("A river.")
    expect(visitor.messages.get_by_role("img", name="Attached image")).to_be_visible()
    sent = str(provider.requests[1].json())
    assert base64.b64encode(PIXEL).decode() in sent
    assert "the river is long" in sent


def test_an_attachment_can_be_taken_away_again(visitor: Visitor) -> None:
    visitor.page.locator("#files").set_input_files(NOTES)
    visitor.page.get_by_role("button", name="Remove notes.txt").click()

    expect(visitor.page.locator("#attachments")).to_be_hidden()
    expect(visitor.field).to_be_focused()


def test_an_attachment_that_is_refused_says_why(visitor: Visitor) -> None:
    no_picture = FilePayload(name="picture.png", mimeType="image/png", buffer=b"this is no picture")

    visitor.page.locator("#files").set_input_files(no_picture)

    expect(visitor.page.get_by_role("alert")).to_be_visible()
    expect(visitor.page.locator("#attachments")).to_be_hidden()


def test_a_chat_is_called_after_its_first_words_and_can_be_renamed(
    visitor: Visitor, provider: FakeProvider
) -> None:
    ask(visitor, provider, "About tea?", "Tea is a leaf.")
    heading = visitor.page.get_by_role("heading", level=1)
    expect(heading).to_have_text("About tea?")

    visitor.page.get_by_role("button", name="Rename this chat").click()
    field = visitor.page.get_by_role("textbox", name="Title of this chat")
    field.fill("Leaves")
    field.press("Enter")

    expect(heading).to_have_text("Leaves")
    expect(visitor.page.get_by_role("navigation").get_by_role("link", name="Leaves")).to_be_visible()
    visitor.page.reload()
    expect(heading).to_have_text("Leaves")


def test_a_chat_that_is_deleted_is_no_longer_listed(visitor: Visitor, provider: FakeProvider) -> None:
    ask(visitor, provider, "A chat to be deleted", "So be it.")
    link = visitor.page.get_by_role("navigation").get_by_role("link", name="A chat to be deleted")
    expect(link).to_be_visible()

    visitor.page.get_by_role("button", name="Delete this chat").click()
    visitor.page.get_by_role("dialog").get_by_role("button", name="Delete").click()

    expect(link).to_have_count(0)
    expect(visitor.page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()


@pytest.mark.parametrize("address", ["#no-such-chat", "#a/b?c"])
def test_an_address_of_no_chat_says_so_and_what_is_written_begins_a_new_one(
    visitor: Visitor, provider: FakeProvider, address: str
) -> None:
    heading = visitor.page.get_by_role("heading", level=1)
    ask(visitor, provider, "About tea?", "Tea is a leaf.")

    visitor.page.goto(visitor.url + address)

    expect(visitor.page.get_by_role("alert")).to_contain_text("This chat does not exist (any more).")
    expect(heading).to_have_text("New chat")
    expect(visitor.page.get_by_role("button", name="Delete this chat")).to_be_hidden()
    ask(visitor, provider, "About coffee?", "Coffee is a bean.")
    expect(heading).to_have_text("About coffee?")
    expect(visitor.page.get_by_role("alert")).to_be_hidden()
    visitor.page.go_back()
    expect(heading).to_have_text("New chat")
    visitor.page.go_back()
    expect(heading).to_have_text("About tea?")


def test_a_chat_that_is_deleted_elsewhere_keeps_what_is_being_written_for_a_new_one(
    visitor: Visitor, provider: FakeProvider, browser: Browser
) -> None:
    """Nothing tells a page of another browser while no run lives: it finds out when it sends."""
    heading = visitor.page.get_by_role("heading", level=1)
    ask(visitor, provider, "About tea?", "Tea is a leaf.")
    context = browser.new_context()
    other = visit(context, visitor.page.url)
    other.page.get_by_role("button", name="Delete this chat").click()
    other.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(other.page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    context.close()

    visitor.say("And coffee?")

    expect(visitor.page.get_by_role("alert")).to_contain_text("This chat does not exist (any more).")
    expect(heading).to_have_text("New chat")
    expect(visitor.field).to_have_value("And coffee?")
    visitor.field.press("Enter")
    expect(visitor.answer).to_contain_text("Hello from the fake.")
    expect(heading).to_have_text("And coffee?")


def test_one_goes_from_chat_to_chat_and_back_with_the_browser(
    visitor: Visitor, provider: FakeProvider
) -> None:
    ask(visitor, provider, "The first chat", "One.")
    visitor.page.get_by_role("button", name="New chat").click()
    expect(visitor.field).to_be_focused()
    ask(visitor, provider, "The second chat", "Two.")

    visitor.page.get_by_role("link", name="The first chat").click()
    expect(visitor.answer).to_contain_text("One.")
    visitor.page.go_back()

    expect(visitor.answer).to_contain_text("Two.")


def test_an_answer_goes_on_while_one_looks_at_another_chat(visitor: Visitor, provider: FakeProvider) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("A long story")
    expect(visitor.answer).to_contain_text("Once upon")
    visitor.page.get_by_role("button", name="New chat").click()
    visitor.expect_phase("idle")
    ask(visitor, provider, "Meanwhile", "Something else.")

    visitor.page.get_by_role("link", name="A long story").click()
    visitor.expect_phase("streaming")
    hold.release()

    expect(visitor.answer).to_contain_text("a river.")
    visitor.expect_phase("idle")


def test_settings_hold_from_the_next_message_on(visitor: Visitor, provider: FakeProvider) -> None:
    visitor.page.get_by_role("button", name="Settings of this chat").click()
    dialog = visitor.page.get_by_role("dialog", name="Settings of this chat")
    dialog.get_by_label("Instructions").fill("Rhyme.")
    dialog.get_by_label("wait").uncheck()
    dialog.get_by_label("Model").select_option("other")
    dialog.get_by_role("button", name="Save").click()

    ask(visitor, provider, "Hello?", "No.")

    asked = provider.requests[0].json()
    assert "Rhyme." in str(asked["system"])
    assert ["ignore", "double"] == [each["name"] for each in asked["tools"]]
    visitor.page.get_by_role("button", name="Settings of this chat").click()
    expect(dialog.get_by_label("Instructions")).to_have_value("Rhyme.")
    expect(dialog.get_by_label("wait")).not_to_be_checked()
    expect(dialog.get_by_label("Model")).to_have_value("other")


def test_a_server_that_is_killed_and_started_again_goes_on_where_it_was(
    browser: object, provider: FakeProvider, context: BrowserContext, tmp_path: Path
) -> None:
    first = ChatServer(tmp_path)
    first.ask(provider.base_url)
    visitor = visit(context, first.url)
    provider.add(STORY)
    with provider.hold_at("mid_body"):
        visitor.say("Tell me a story")
        expect(visitor.answer).to_contain_text("Once upon")
        first.kill()
        # Not a word of the answer: it does not go on, and the page can't know.
        lost = visitor.page.get_by_text(
            "The connection is lost. Trying to reach the server again…", exact=True
        )
        expect(lost).to_be_visible()

        second = ChatServer(tmp_path, port=first.port)

        expect(visitor.outcome).to_have_text("Stopped: the server went away in the middle")
    expect(lost).to_be_hidden()
    expect(visitor.answer).to_contain_text("Once upon")
    visitor.say("Go on")
    expect(visitor.answer).to_contain_text("Hello from the fake.")
    assert 0 == second.terminate()


def test_a_server_that_is_told_to_leave_stops_what_runs_and_says_so(
    browser: object, provider: FakeProvider, context: BrowserContext, tmp_path: Path
) -> None:
    server = ChatServer(tmp_path)
    server.ask(provider.base_url)
    visitor = visit(context, server.url)
    provider.add(STORY)
    with provider.hold_at("mid_body"):
        visitor.say("Tell me a story")
        expect(visitor.answer).to_contain_text("Once upon")

        assert 0 == server.terminate()

        expect(visitor.outcome).to_have_text("Stopped: the server was shut down")
    visitor.expect_phase("stopped")


def test_what_was_said_while_the_network_was_away_is_there_when_it_is_back(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")

    context.set_offline(True)
    hold.release()
    context.set_offline(False)

    expect(visitor.answer.locator(".prose")).to_have_text("Once upon a time there was a river.")
    visitor.expect_phase("idle")


def test_a_message_that_can_not_be_sent_stays_in_the_field(visitor: Visitor, context: BrowserContext) -> None:
    context.set_offline(True)

    visitor.say("Do not lose me")

    expect(visitor.page.get_by_role("alert")).to_contain_text("The server can't be reached.")
    expect(visitor.field).to_have_value("Do not lose me")
    visitor.expect_phase("idle")
    context.set_offline(False)
    visitor.field.press("Enter")
    expect(visitor.answer).to_contain_text("Hello from the fake.")


def test_a_hidden_page_closes_its_stream_and_sees_all_when_it_is_shown_again(
    visitor: Visitor, provider: FakeProvider, context: BrowserContext
) -> None:
    provider.add(STORY)
    hold = provider.hold_at("mid_body")
    visitor.say("Tell me a story")
    expect(visitor.answer).to_contain_text("Once upon")
    with visitor.page.expect_event("requestfailed", lambda request: "/events" in request.url):
        show(visitor, "hidden")

    hold.release()
    show(visitor, "visible")

    expect(visitor.answer.locator(".prose")).to_have_text("Once upon a time there was a river.")
    visitor.expect_phase("idle")


def test_no_stream_is_open_while_nothing_runs(visitor: Visitor, provider: FakeProvider) -> None:
    with visitor.page.expect_event("requestfailed", lambda request: "/events" in request.url):
        ask(visitor, provider, "Hello?", "No.")
    streams: list[str] = []
    visitor.page.on(
        "request", lambda request: streams.append(request.url) if "/events" in request.url else None
    )

    visitor.page.reload()

    expect(visitor.answer).to_contain_text("No.")
    assert [] == streams


def test_everything_is_done_with_the_keyboard_alone(visitor: Visitor, provider: FakeProvider) -> None:
    press = visitor.page.keyboard.press
    visitor.page.keyboard.type("Two lines,")
    press("Shift+Enter")
    visitor.page.keyboard.type("one message")
    provider.add(STORY)
    with provider.hold_at("mid_body"):
        press("Enter")
        expect(visitor.answer).to_contain_text("Once upon")
        press("Tab")
        press("Tab")
        expect(visitor.button).to_be_focused()
        press("Enter")
        visitor.expect_phase("stopped")
    expect(visitor.messages).to_contain_text("Two lines,\none message")
    expect(visitor.button).to_be_focused()

    for _ in range(4):  # the message field, then backwards through the actions of the answer
        press("Shift+Tab")
        if visitor.action("Regenerate").evaluate("button => button === document.activeElement"):
            break
    press("Shift+Tab")
    expect(visitor.action("Continue")).to_be_focused()
    press("Enter")

    expect(visitor.answer).to_contain_text("Hello from the fake.")
    expect(visitor.field).to_be_focused()


def test_a_screen_reader_finds_names_for_everything(visitor: Visitor, provider: FakeProvider) -> None:
    ask(visitor, provider, "Hello?", "No.")

    for role in ("button", "textbox", "link", "combobox"):
        for each in visitor.page.get_by_role(role).all():
            assert "" != (each.get_attribute("aria-label") or each.inner_text()).strip()
    expect(visitor.page.get_by_role("navigation", name="Chats")).to_be_visible()
    expect(visitor.page.get_by_role("main")).to_be_visible()
    expect(visitor.page.get_by_role("log", name="Conversation").get_by_role("article")).to_have_count(2)


def test_a_screen_reader_is_told_of_states_and_not_of_tokens(
    visitor: Visitor, provider: FakeProvider
) -> None:
    visitor.page.evaluate(
        """() => {
            window.told = [];
            const announcer = document.getElementById("announcer");
            new MutationObserver(() => window.told.push(announcer.textContent))
                .observe(announcer, { childList: true, characterData: true, subtree: true });
        }"""
    )
    provider.add(Turn((Say(tuple(f"word{number} " for number in range(100))),)))

    visitor.say("Talk")

    expect(visitor.page.get_by_role("status").filter(has_text="The answer is complete")).to_have_count(1)
    told = visitor.page.evaluate("window.told")
    assert "The answer is complete" == told[-1]
    assert set(told) <= {"Waiting for the model…", "Answering…", "The answer is complete"}
    assert len(told) <= 3


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_is_wider_than_the_screen(
    server: ChatServer, provider: FakeProvider, browser: Browser, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    visitor = visit(context, server.url)
    wide = f"{'w' * 400}\n\n| {' | '.join(['column'] * 30)} |\n|{'---|' * 30}\n\n```\n{'x' * 400}\n```\n"
    provider.add(Turn((Say((wide,)),)))

    visitor.say("W" * 400)

    expect(visitor.answer.get_by_role("table")).to_be_visible()
    for element in ("body", "#scroller"):
        assert visitor.page.locator(element).evaluate("e => e.scrollWidth <= e.clientWidth")
    context.close()


def test_on_a_phone_the_list_of_chats_is_a_drawer(
    server: ChatServer, provider: FakeProvider, browser: Browser
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    visitor = visit(context, server.url)
    ask(visitor, provider, "A chat on a phone", "Yes.")
    expect(visitor.page.get_by_role("navigation")).to_have_count(0)

    visitor.page.get_by_role("button", name="Show the list of chats").tap()
    expect(visitor.page.get_by_role("button", name="Close the list of chats")).to_be_focused()
    visitor.page.keyboard.press("Escape")

    expect(visitor.page.get_by_role("navigation")).to_have_count(0)
    expect(visitor.page.get_by_role("button", name="Show the list of chats")).to_be_focused()
    context.close()


def test_the_page_is_dark_and_still_if_the_reader_wants_it_so(
    server: ChatServer, provider: FakeProvider, browser: Browser
) -> None:
    context = browser.new_context(color_scheme="dark", reduced_motion="reduce")
    visitor = visit(context, server.url)
    background = "e => getComputedStyle(e).backgroundColor"
    with provider.hold_at("headers"):
        visitor.say("Hello?")

        expect(visitor.page.locator(".dots")).to_be_visible()
        assert "rgb(22, 24, 22)" == visitor.page.locator("body").evaluate(background)
        assert [] == visitor.page.evaluate("document.getAnimations().map(each => String(each.animationName))")
    context.close()


LOOKS = """## Tea, in short

All true tea comes from **one plant**, *Camellia sinensis*.

| Kind | Oxidised | Water |
|:-----|--------:|------:|
| Green | 0 % | 70–80 °C |
| Black | 100 % | 95–100 °C |

1. Warm the pot.
2. Use about `2 g` of leaves.

```python
def steep(leaves: Leaves, *, token: CancelToken) -> Tea:
    token.sleep(180)  # a stop ends the waiting at once
```

> The first cup moistens my lips.
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_how_it_looks_is_kept_for_people_to_see(
    server: ChatServer,
    provider: FakeProvider,
    browser: Browser,
    tmp_path: Path,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    """`AIWRAPPER_SCREENSHOTS` names the folder; without it they go with the test's other files."""
    folder = Path(os.environ.get("AIWRAPPER_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    visitor = visit(context, server.url)

    def keep(state: str) -> None:
        picture = visitor.page.screenshot(animations="disabled")
        (folder / f"{state}-{width}-{scheme}.png").write_bytes(picture)

    keep("empty")
    provider.add(
        Turn((Think(("Tea is a plant.",)), Say((LOOKS,)))),
        Turn((Say(("I look at the clock.",)), Call("wait", ('{"what": "tea"}',)))),
        HttpError(401),
    )
    visitor.say("Tell me about tea, please.")
    expect(visitor.answer.get_by_role("table")).to_be_visible()
    visitor.expect_phase("idle")
    keep("answered")
    visitor.say("How long must it steep?")
    expect(visitor.tool("running")).to_be_visible()
    keep("tool")
    held = HeldRequests(visitor.page, "**/stop")
    visitor.button.click()
    visitor.expect_phase("stopping")
    keep("stopping")
    held.release()
    visitor.expect_phase("stopped")
    keep("stopped")
    visitor.say("And now?")
    expect(visitor.outcome).to_contain_text("API key")
    keep("failed")
    context.close()

    assert 6 == len(list(folder.glob(f"*-{width}-{scheme}.png")))
