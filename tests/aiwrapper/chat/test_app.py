"""The app, route by route: a real server in a process of its own, a real client, a fake provider."""

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from aiwrapper.testing import Call, FakeProvider, HttpError, Place, Say, Turn
from tests.aiwrapper.chat.servers import PATIENCE_SECONDS, Page, Server

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server.moving(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def provider(served: Server) -> Iterator[FakeProvider]:
    with FakeProvider("anthropic") as fake:
        served.ask(fake)
        yield fake


@pytest.fixture
def server(served: Server, provider: FakeProvider) -> Server:
    return served


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

        assert receipt["state"] in ("stopping", "ended")  # it may be as quick as that
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


@pytest.mark.parametrize("place", ["accept", "upload", "headers", "first_byte", "mid_body"])
def test_a_stop_is_obeyed_wherever_the_run_is(provider: FakeProvider, server: Server, place: Place) -> None:
    provider.add(STORY)
    chat = server.new_chat()
    with provider.hold_at(place) as hold, chat.page() as page:
        run_id = chat.send("Tell me a story")
        assert hold.reached.wait(PATIENCE_SECONDS)
        chat.done("stop", run_id=run_id)
        page.follow_until(run_id, "stopped")
        again = chat.done("stop", run_id=run_id)
        page.follow_until(chat.send("And now?"), "completed")

    assert ("ended", "stopped", None) == (again["state"], again["status"], again["running"])
    assert all(request.status in (None, 200) for request in provider.requests)


def test_a_stop_while_the_next_attempt_is_waited_for_is_obeyed(
    provider: FakeProvider, server: Server
) -> None:
    provider.add(HttpError(429, retry_after="600"))
    chat = server.new_chat()
    with chat.page() as page:
        run_id = chat.send("Hello?")
        waiting = page.follow_until(run_id, "retrying")
        chat.done("stop", run_id=run_id)
        ended = page.follow_until(run_id, "stopped")

    assert 1 == waiting["retry"]["attempt"]
    assert "backing_off" == ended["where"]


def test_a_tool_that_runs_is_stopped_and_every_page_is_told(provider: FakeProvider, server: Server) -> None:
    provider.add(Turn((Call("wait", ('{"what": "rain"}',)),)))
    chat = server.new_chat()
    with chat.page() as here, chat.page() as there:
        run_id = chat.send("Wait for rain")
        for page in (here, there):
            page.follow_until(run_id, "running_tool")
        chat.done("stop", run_id=run_id)
        for page in (here, there):
            ended = page.follow_until(run_id, "stopped")
            (call,) = page.path[-1]["parts"]

            assert ("running_tools", "user") == (ended["where"], ended["reason"])
            assert ("wait", "finished") == (call["name"], call["state"])


def test_two_stops_at_once_are_one(provider: FakeProvider, server: Server) -> None:
    chat = server.new_chat()
    with provider.hold_at("headers") as hold, chat.page() as page:
        run_id = chat.send("Hello?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        receipts = [chat.done("stop", run_id=run_id)["state"] for _ in range(2)]
        page.follow_until(run_id, "stopped")

    assert set(receipts) <= {"stopping", "ended"}
    assert 1 == len(page.runs)


def test_a_stop_for_a_run_that_has_answered_leaves_the_next_one_alone(
    provider: FakeProvider, server: Server
) -> None:
    chat = server.new_chat()
    with chat.page() as page:
        first = chat.send("Hello?")
        page.follow_until(first, "completed")
        with provider.hold_at("headers") as hold:
            second = chat.send("And now?")
            assert hold.reached.wait(PATIENCE_SECONDS)
            receipt = chat.done("stop", run_id=first)
        page.follow_until(second, "completed")

    assert {"state": "ended", "status": "completed", "running": second} == receipt


def test_a_page_goes_on_from_the_last_event_it_has_seen(provider: FakeProvider, server: Server) -> None:
    provider.add(STORY, STORY)
    chat = server.new_chat()
    with provider.hold_at("mid_body") as hold:
        with chat.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
        hold.release()
    for query in (False, True):
        with chat.page(page.positions[-1], query=query) as again:
            page.kinds.clear()
            again.chat, again.runs, again.messages = page.chat, dict(page.runs), dict(page.messages)
            again.follow_until(run_id, "completed")

        assert "snapshot" not in again.kinds
        assert all(later > page.positions[-1] for later in again.positions[1:])
        assert "Once upon a time there was a river." in again.text
    whole = chat.snapshot()

    assert whole.messages == again.messages
    assert whole.chat == again.chat


@pytest.mark.parametrize("after", ["nowhere", "-1", "1.5", "99999", "9" * 400, "١"])
def test_a_position_that_means_nothing_here_gets_everything(server: Server, after: str) -> None:
    chat = server.new_chat()
    chat.done("title", title="Tea")
    with server.client.stream("GET", f"api/chats/{chat.id}/events", params={"after": after}) as response:
        page = Page(response.iter_lines())
        page.next_event()

    assert ["snapshot"] == page.kinds
    assert "Tea" == page.chat["title"]


def test_a_page_that_goes_away_stops_nothing(provider: FakeProvider, server: Server) -> None:
    provider.add(STORY)
    chat = server.new_chat()
    with provider.hold_at("mid_body"), chat.page() as page:
        run_id = chat.send("Tell me a story")
        page.follow_text("Once upon")
    with chat.page() as page:
        page.follow_until(run_id, "completed")

    assert not provider.requests[0].hung_up.is_set()


def test_many_streams_leave_room_for_a_stop(provider: FakeProvider, server: Server) -> None:
    provider.add(STORY)
    chat = server.new_chat()
    with ExitStack() as pages, provider.hold_at("mid_body"):
        following = [pages.enter_context(chat.page()) for _ in range(8)]
        run_id = chat.send("Tell me a story")
        for page in following:
            page.follow_text("Once upon")
        chat.done("stop", run_id=run_id)
        for page in following:
            page.follow_until(run_id, "stopped")

    assert 1 == len({page.text for page in following})


def test_what_is_said_can_be_edited_answered_anew_and_stepped_through(
    provider: FakeProvider, server: Server
) -> None:
    provider.add(*(Turn((Say((word,)),)) for word in ("One.", "Two.", "Three.", "Four.")))
    chat = server.new_chat()
    with chat.page() as page:
        page.follow_until(chat.send("Count"), "completed")
        first, answer = (message["id"] for message in page.path)
        for what, body in (
            ("edit", {"message_id": first, "text": "Count differently"}),
            ("retry", {"message_id": answer}),
            ("continue", {}),
        ):
            run_id = str(uuid4())
            asked = chat.done(what, run_id=run_id, **body)
            assert run_id == asked["run_id"]
            page.follow_until(run_id, "completed")
            assert page.runs[run_id]["message_id"] == asked["message_id"]
        said = page.text
        chat.done("switch", message_id=answer)
        while page.chat["head_id"] != answer:
            page.next_event()

    assert "Count<p>Three.</p>\nPlease go on.<p>Four.</p>\n" == said
    assert "Count<p>One.</p>\n" == page.text
    assert 2 == sum(message["parent_id"] is None for message in page.messages.values())


def test_a_chat_has_a_title_settings_and_an_end(server: Server) -> None:
    chat = server.new_chat(instructions="Be brief.")
    with chat.page() as page:
        chat.done("title", title="  Green\ntea ")
        chat.done("configure", tools=[])
        while page.chat.get("settings", {}).get("tools") is None:
            page.next_event()
        listed = server.client.get("api/chats").json()["chats"]
        listed = [each for each in listed if each["id"] == chat.id]
        chat.done("delete")
        while page.next_event() is not None:
            pass

    assert {"model": None, "instructions": "Be brief.", "tools": []} == page.chat["settings"]
    assert [("Green tea", False)] == [(each["title"], each["running"]) for each in listed]
    assert page.chat["deleted"]
    assert chat.id not in server.client.get("api/chats").text
    assert 404 == server.client.get(f"api/chats/{chat.id}").status_code


def test_attachments_are_sent_and_shown(provider: FakeProvider, server: Server) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    chat = server.new_chat()
    hashes = [
        chat.done("attachments", name=name, media_type=media_type, data=b64encode(content).decode())["hash"]
        for name, media_type, content in (
            ("river.png", "image/png", picture),
            ("notes.txt", "text/plain", b"It flows."),
        )
    ]
    with chat.page() as page:
        page.follow_until(chat.send("What is this?", attachments=hashes), "completed")
    image, file, text = page.path[0]["parts"]
    shown = server.client.get(image["url"])
    sent = provider.requests[0].json()["messages"][0]["content"]

    assert (picture, "image/png") == (shown.content, shown.headers["content-type"])
    assert {"kind": "file", "name": "notes.txt", "text": "It flows.", "hash": hashes[1]} == file
    assert hashes[0] == image["hash"]
    assert "What is this?" == text["text"]
    assert b64encode(picture).decode() == sent[0]["source"]["data"]
    assert "It flows." in sent[1]["text"]


def test_a_failure_is_told_and_can_be_tried_again(provider: FakeProvider, server: Server) -> None:
    provider.add(HttpError(401))
    chat = server.new_chat()
    with chat.page() as page:
        failed = page.follow_until(chat.send("Hello?"), "failed")
        run_id = str(uuid4())
        chat.done("retry", run_id=run_id, message_id=failed["message_id"])
        page.follow_until(run_id, "completed")

    assert "authentication" == failed["reason"]
    assert provider.api_key not in failed["message"]


def test_a_model_that_says_scripts_says_text(provider: FakeProvider, server: Server) -> None:
    provider.add(Turn((Say(("<script>alert(1)</script>", "![x](http://evil.example/?q=1)")),)))
    chat = server.new_chat()
    with chat.page() as page:
        page.follow_until(chat.send("Be evil"), "completed")

    assert "<script" not in page.text
    assert "<img" not in page.text


def test_the_options_say_what_is_offered(server: Server) -> None:
    options = server.client.get("api/options").json()

    assert (["wait", "ignore", "double"], ["other"]) == (options["tools"], options["models"])
    assert {"text_characters", "attachment_bytes", "attachments"} == set(options["limits"])
    assert "image/png" in options["attachment_types"]


def test_the_page_and_its_scripts_are_served(server: Server) -> None:
    page = server.client.get("")

    assert page.headers["content-type"].startswith("text/html")
    for script in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert 200 == server.client.get(script).status_code
