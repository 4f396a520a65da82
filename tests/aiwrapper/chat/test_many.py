"""Four pages at once send, stop, edit, regenerate and continue at random moments; then everything is looked at.

They do 48 sends together; `AIWRAPPER_CHAT_SENDS=1000 pytest -s tests/aiwrapper/chat/test_many.py` does 1,008, and says
what the server's memory was.

Memory is what is in use, and not what the process has: that is the allocator's affair, and said only.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, async_playwright, expect

from aiwrapper._core.conversation import State, fold
from aiwrapper._core.log_json import dump_entry, load_entry
from aiwrapper._core.validity import validate
from aiwrapper.store import Store
from aiwrapper.testing import Call, Delivery, FakeProvider, Say, Think, Turn
from aiwrapper.testing.oracle import refused_next
from tests.aiwrapper.chat.browsing import ARGUMENTS, chromium_path
from tests.aiwrapper.chat.servers import Json, Server
from tests.memory import COUNTED

pytestmark = pytest.mark.browser

PAGES = 4
PARTS = 4  # the server's memory is looked at in between
SENDS = int(os.environ.get("AIWRAPPER_CHAT_SENDS", "48"))
SENDS_A_PAGE = -(-SENDS // (PAGES * PARTS))  # in one part
SENDS_A_CHAT = 7
NEVER = 1_000_000  # a page does not change so often

GROWTH_KIB = 1024
"""How much more memory may be in use after the last part than after the second; the first fills what is kept of chats
and of the file. Chosen by hand: between the two, 504 runs are to leave less than 2.1 KiB each."""

# Two promises: the `moment` at which the page has changed so many times since the run began, or a tool runs (it may be
# the one that only a stop ends), or the run has ended; and that it has `ended`. The page is watched from before it is
# asked, so that nothing is too quick. Where `early` is a key or a button, it is pressed as soon as the page believes in
# a run: the request that asks for it is under way then, and can't have been answered.
_WATCH = """([changes, early]) => {
    const button = document.getElementById("send");
    let live = false;
    let left = changes;
    const promise = name => new Promise(resolve => { window[name + "Is"] = resolve; });
    window.moment = promise("moment");
    window.ended = promise("ended");
    const press = {
        Escape: () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true })),
        Stop: () => button.click(),
    };
    new MutationObserver((records, observer) => {
        const phase = button.dataset.phase;
        const over = ["idle", "stopped"].includes(phase);
        if (!live && !over && early) press[early]();
        live ||= !over;
        if (!live) return;
        left -= records.length;
        if (left <= 0 || over || phase === "running_tool") window.momentIs(phase);
        if (!over) return;
        observer.disconnect();
        window.endedIs();
    }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def turns() -> Iterator[Turn]:
    """What the model says, without an end."""
    draw = random.Random(1)
    for number in range(1_000_000):
        words = Say(tuple(f"word{number}.{index} " for index in range(draw.randrange(1, 30))))
        doubled = Call("double", (f'{{"number": {number}}}',))
        waiting = Call("wait", ('{"what":', ' "rain"}'))
        blocks = draw.choice(
            [(words,), (Think(("Hm, ", "well.")), words), (words, doubled), (doubled, waiting)]
        )
        yield Turn(blocks, delivery=Delivery(events_per_second=draw.choice((None, 100.0, 1000.0))))


class Person:
    """Somebody in a hurry, at a page.

    Args:
        page: the page.
        seed: of all that is done there.
    """

    def __init__(self, page: Page, seed: int) -> None:
        self._page = page
        self._draw = random.Random(seed)
        self.errors: list[str] = []
        self.pressed: Counter[str] = Counter()
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    async def ask_and_perhaps_stop(self, times: int) -> None:
        for number in range(times):
            if number % SENDS_A_CHAT == 0:
                await self._page.locator("#new-chat").click()
                await expect(self._page.locator("article")).to_have_count(0)
            await self._ask_and_perhaps_stop()

    async def _ask_and_perhaps_stop(self) -> None:
        changes = self._draw.choice((1, 1 + self._draw.randrange(40), 1 + self._draw.randrange(40), NEVER))
        early = self._draw.choice((*[None] * 6, "Escape", "Stop"))
        await self._page.evaluate(_WATCH, [changes, early])
        await self._ask()
        if early is not None:
            self.pressed["stop before the answer to the request"] += 1
        elif await self._page.evaluate("window.moment") not in ("idle", "stopped"):
            await self._stop()
        await self._page.evaluate("window.ended")
        assert not await self._page.locator("#problem").is_visible()

    async def _ask(self) -> None:
        """Mostly, say something."""
        what = self._draw.choice(("send", "send", "send", "edit", "Regenerate", "Continue"))
        self.pressed[what] += 1
        last = self._page.locator("article").last
        if what == "edit" and await self._page.locator("article.user").count():
            await self._page.get_by_role("button", name="Edit this message").last.click()
            await _say(self._page.get_by_role("textbox", name="Edit your message"), "Or rather: tell me.")
        elif what in ("Regenerate", "Continue") and await _is_there(
            button := last.get_by_role("button", name=what)
        ):
            await button.click()
        else:
            await _say(self._page.get_by_role("textbox", name="Message", exact=True), "Tell me something.")

    async def _stop(self) -> None:
        """By key or by mouse. If the run has ended meanwhile, it is Send, and there is nothing to be sent."""
        self.pressed["stop"] += 1
        if self._draw.randrange(2):
            await self._page.keyboard.press("Escape")
            return
        await self._page.locator("#send").click(
            force=True
        )  # else Playwright waits until there is something to send


async def _say(field: Locator, text: str) -> None:
    await field.fill(text)
    await field.press("Enter")


async def _is_there(button: Locator) -> bool:
    return await button.count() == 1 and await button.is_visible()


async def work(server: Server) -> tuple[list[Person], list[Json]]:
    """The pages at work; the server's memory after each part."""
    memory: list[Json] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        context = await browser.new_context()
        people = [Person(await context.new_page(), seed) for seed in range(PAGES)]
        for person in people:
            await person._page.goto(server.address)
        for _ in range(PARTS):
            await asyncio.gather(*(person.ask_and_perhaps_stop(SENDS_A_PAGE) for person in people))
            memory.append(server.client.get("memory").json())
        await browser.close()
    return people, memory


@pytest.mark.timeout(3600)
def test_many_sends_and_stops_on_four_pages_leave_every_conversation_valid_and_nothing_running(
    tmp_path: Path,
) -> None:
    with FakeProvider("anthropic", turns()) as provider, Server.moving(tmp_path, **COUNTED) as server:
        server.ask(provider)
        people, memory = asyncio.run(work(server))
        running = [each["id"] for each in server.client.get("api/chats").json()["chats"] if each["running"]]
    with Store(tmp_path / "chats.db") as store:
        chats = [summary.id for summary in store.list()]
        states: dict[str, State] = {chat_id: store.load(chat_id) for chat_id in chats}
        logs = {chat_id: [entry for _, entry in store.entries(chat_id)] for chat_id in chats}
    ends = Counter((run.status, run.reason) for state in states.values() for run in state.runs)
    wheres = Counter(run.where for state in states.values() for run in state.runs if run.status == "stopped")
    pressed = sum((person.pressed for person in people), Counter[str]())
    print(f"\n{ends.total()} runs in {len(chats)} chats: {dict(ends)}; pressed: {dict(pressed)}")
    print(f"stopped: {dict(wheres)}; left: {server.left}")
    for name in memory[0]:
        print(f"{name}: {[each[name] for each in memory]}")

    assert [] == [error for person in people for error in person.errors]
    assert [] == running
    assert PAGES * PARTS * SENDS_A_PAGE == ends.total()
    assert {("completed", None), ("stopped", "user")} == set(ends)
    assert all(request.status in (None, 200) for request in provider.requests)
    for chat_id, state in states.items():
        assert state.run is None
        assert [] == validate(state.conversation)
        assert [] == refused_next(state.conversation)
        assert state == fold(load_entry(dump_entry(entry)) for entry in logs[chat_id])
    # Idle, and the process's own: the service thread of deadlines, and the threads that trio keeps for a while.
    assert {"cancel_token service", "Trio thread"} >= {
        name.rstrip(" 0123456789") for name in server.left["threads"]
    }
    assert [] == server.left["descriptors"]
    assert memory[-1]["in_use_kib"] - memory[1]["in_use_kib"] <= GROWTH_KIB
