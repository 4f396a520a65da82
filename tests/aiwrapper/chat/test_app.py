"""The app through `aiwrapper serve`: a real server, a real client, a fake provider."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from aiwrapper.testing import FakeProvider, Say, Turn
from tests.aiwrapper.chat.servers import PATIENCE_SECONDS, Server

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


@pytest.fixture
def server(provider: FakeProvider, tmp_path: Path) -> Iterator[Server]:
    with Server(provider, tmp_path) as running:
        yield running


def test_an_answer_comes_by_the_stream(provider: FakeProvider, server: Server) -> None:
    provider.add(STORY)
    chat = server.new_chat()
    with chat.page() as page:
        run_id = chat.send("Tell me a story")
        page.follow_until(run_id, "completed")

    assert ["user", "assistant"] == [message["role"] for message in page.path]
    assert "Once upon a time there was a river." in page.text
    assert page.chat["run"] is None


def test_a_stop_in_mid_stream_keeps_what_was_said_and_the_next_message_works(
    provider: FakeProvider, server: Server
) -> None:
    provider.add(STORY)
    chat = server.new_chat()
    with provider.hold_at("mid_body") as hold, chat.page() as page:
        run_id = chat.send("Tell me a story")
        page.follow_text("Once upon")
        receipt = chat.done("stop", run_id=run_id)
        ended = page.follow_until(run_id, "stopped")
        assert hold.request is not None
        assert hold.request.hung_up.wait(PATIENCE_SECONDS)

        assert receipt == {"state": "stopping", "status": None, "running": run_id}
        assert ("user", "streaming") == (ended["reason"], ended["where"])
        assert page.path[-1]["state"] == "stopped"
        assert "river" not in page.text

        page.follow_until(chat.send("Just say hello"), "completed")
    assert "Hello from the fake." in page.text
    assert all(request.status == 200 for request in provider.requests)


def test_a_stop_before_the_start_is_for_exactly_that_run(provider: FakeProvider, server: Server) -> None:
    chat = server.new_chat()
    stopped, answered = str(uuid4()), str(uuid4())
    receipt = chat.done("stop", run_id=stopped)
    chat.done("send", run_id=stopped, text="Never mind")
    with chat.page() as page:
        ended = page.follow_until(stopped, "stopped")
        chat.done("send", run_id=answered, text="Hello?")
        page.follow_until(answered, "completed")

    assert receipt == {"state": "remembered", "status": None, "running": None}
    assert ("user", "before_start") == (ended["reason"], ended["where"])
    assert len(provider.requests) == 1
