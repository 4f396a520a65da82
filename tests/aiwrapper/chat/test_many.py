"""Four clients at once send, stop, edit, retry and continue at random moments; then everything is looked at.

They do 112 sends together; `AIWRAPPER_CHAT_SENDS=1000 pytest -s tests/aiwrapper/chat/test_many.py` does 1,008, and
says what the server's memory was.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest

from aiwrapper._core.conversation import fold
from aiwrapper._core.log_json import dump_entry, load_entry
from aiwrapper._core.validity import validate
from aiwrapper.store import Store
from aiwrapper.testing import Call, Delivery, FakeProvider, Say, Think, Turn
from aiwrapper.testing.oracle import refused_next
from tests.aiwrapper.chat.servers import PATIENCE_SECONDS, SAME_ORIGIN, ChatClient, Page, Server

CLIENTS = 4
SENDS = int(os.environ.get("AIWRAPPER_CHAT_SENDS", "100"))
SENDS_A_CHAT = 10


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


class Client:
    """A person in a hurry.

    Attributes:
        ends: how the runs ended: status and reason.
        chats: the chats that were made.
        error: what ended it before its time.
    """

    def __init__(self, server: Server, seed: int, sends: int) -> None:
        self._server = server
        self._draw = random.Random(seed)
        self._sends = sends
        self.ends: Counter[tuple[str, str | None]] = Counter()
        self.chats: list[str] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            url = self._server.address
            with httpx.Client(base_url=url, headers=SAME_ORIGIN, timeout=PATIENCE_SECONDS) as client:
                for begun in range(0, self._sends, SENDS_A_CHAT):
                    chat = ChatClient(client, client.post("api/chats", json={}).json()["id"])
                    self.chats.append(chat.id)
                    with chat.page() as page:
                        for _ in range(min(SENDS_A_CHAT, self._sends - begun)):
                            self._send_and_perhaps_stop(chat, page)
        except BaseException as error:
            self.error = error

    def _send_and_perhaps_stop(self, chat: ChatClient, page: Page) -> None:
        run_id = str(uuid4())
        moment = self._draw.choice(("before", "at once", "later", "later", "never"))
        if moment == "before":
            chat.done("stop", run_id=run_id)
        what, body = self._what(page)
        chat.done(what, run_id=run_id, **body)
        if moment == "at once":
            chat.done("stop", run_id=run_id)
        left = self._draw.randrange(8) if moment == "later" else 1_000_000
        while run_id not in page.runs:
            run = page.chat.get("run")
            if left == 0 or (run is not None and run["id"] == run_id and run["state"] == "running_tool"):
                receipt = chat.done("stop", run_id=run_id)
                assert receipt["state"] in ("stopping", "ended")
                left = 1_000_000
            left -= 1
            assert page.next_event() is not None
        ended = page.runs[run_id]
        self.ends[ended["status"], ended["reason"]] += 1

    def _what(self, page: Page) -> tuple[str, dict[str, object]]:
        """What to do next: mostly to say something."""
        said = [message["id"] for message in page.messages.values() if message["role"] == "user"]
        what = self._draw.choice(("send", "send", "send", "edit", "retry", "continue")) if said else "send"
        match what:
            case "edit":
                return what, {"message_id": self._draw.choice(said), "text": "Or rather: tell me."}
            case "retry":
                return what, {"message_id": self._draw.choice(list(page.messages))}
            case "continue":
                return what, {}
            case _:
                return what, {"text": "Tell me something."}


@pytest.mark.timeout(3600)
def test_many_sends_and_stops_leave_every_conversation_valid_and_nothing_running(tmp_path: Path) -> None:
    with FakeProvider("anthropic", turns()) as provider, Server.moving(tmp_path) as server:
        server.ask(provider)
        process = psutil.Process(server.process.pid)
        memory: list[int] = []
        ends: Counter[tuple[str, str | None]] = Counter()
        chats: list[str] = []
        for part in range(4):  # memory is looked at in between
            clients = [
                Client(server, part * CLIENTS + seed, -(-SENDS // (4 * CLIENTS))) for seed in range(CLIENTS)
            ]
            for client in clients:
                client.thread.start()
            for client in clients:
                client.thread.join()
            for client in clients:
                if client.error is not None:
                    raise client.error
                ends += client.ends
                chats += client.chats
            memory.append(process.memory_info().rss // 1024)
        running = [each["id"] for each in server.client.get("api/chats").json()["chats"] if each["running"]]
    print(f"\n{sum(ends.values())} runs in {len(chats)} chats: {dict(ends)}; memory in KiB: {memory}")
    with Store(tmp_path / "chats.db") as store:
        states = {chat_id: store.load(chat_id) for chat_id in chats}
        logs = {chat_id: [entry for _, entry in store.entries(chat_id)] for chat_id in chats}

    assert [] == running
    assert {"completed", "stopped"} == {status for status, _ in ends}
    assert {None, "user"} == {reason for _, reason in ends}
    assert all(request.status in (None, 200) for request in provider.requests)
    for chat_id, state in states.items():
        assert state.run is None
        assert [] == validate(state.conversation)
        assert [] == refused_next(state.conversation)
        assert state == fold(load_entry(dump_entry(entry)) for entry in logs[chat_id])
    assert sum(ends.values()) == sum(len(state.runs) for state in states.values())
