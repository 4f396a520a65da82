"""`aiwrapper serve` as a process: it is told to leave, it is killed, it is one of two."""

import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trustme

from aiwrapper._core.validity import validate
from aiwrapper.chat import ChatAppData
from aiwrapper.chat.serve import DRAIN_SECONDS, LEAVE_SECONDS
from aiwrapper.store import Store
from aiwrapper.terminal.serve import TOOL_GRACE_SECONDS
from aiwrapper.testing import Call, FakeProvider, Say, Turn
from tests.aiwrapper.chat.servers import (
    PATIENCE_SECONDS,
    PROGRAM,
    SAME_ORIGIN,
    ChatClient,
    Server,
    environment,
)
from tests.aiwrapper.gguf import write_counter

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


def test_who_is_told_to_leave_stops_what_runs_and_says_so_to_the_pages(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(STORY)
    with Server.program(provider, tmp_path) as server, provider.hold_at("mid_body") as hold:
        chat = server.new_chat()
        with chat.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
            server.process.send_signal(signal.SIGTERM)
            ended = page.follow_until(run_id, "stopped")
            rest = page.next_event()
        status = server.process.wait(PATIENCE_SECONDS)
        assert hold.request is not None
        assert hold.request.hung_up.wait(PATIENCE_SECONDS)
    with Store(tmp_path / "chats.db") as store:
        state = store.load(chat.id)

    assert ("shutdown", "the server got SIGTERM") == (ended["reason"], ended["message"])
    assert rest is None
    assert 0 == status
    assert state.run is None
    assert "Once upon" in str(state.conversation.head)


def left_while_a_tool_ran(home: Path, call: Call, number: signal.Signals) -> dict[str, Any]:
    """The end of the run whose tool was running when the server got the signal; the server has left with 0."""
    with FakeProvider("anthropic", [Turn((call,))]) as provider, Server.moving(home) as server:
        server.ask(provider)
        chat = server.new_chat()
        with chat.page() as page:
            run_id = chat.send("Call it")
            page.follow_until(run_id, "running_tool")
            server.process.send_signal(number)
            ended = page.follow_until(run_id, "stopped")
        assert 0 == server.process.wait(PATIENCE_SECONDS)
    return ended


def test_who_gets_ctrl_c_stops_the_tools_that_run(tmp_path: Path) -> None:
    ended = left_while_a_tool_ran(tmp_path, Call("wait", ('{"what": "rain"}',)), signal.SIGINT)

    assert ("shutdown", "running_tools") == (ended["reason"], ended["where"])


def test_a_tool_that_ignores_its_stop_keeps_no_server_from_leaving(tmp_path: Path) -> None:
    ended = left_while_a_tool_ran(tmp_path, Call("ignore", ("{}",)), signal.SIGTERM)

    assert ("shutdown", "running_tools") == (ended["reason"], ended["where"])


def test_what_leaving_waits_for_fits_into_what_is_promised() -> None:
    """Those two are all that is waited for by the clock; the third second is for the disk and the interpreter."""
    assert TOOL_GRACE_SECONDS + DRAIN_SECONDS <= LEAVE_SECONDS - 1.0


def test_an_answer_whose_server_was_killed_is_stopped_and_nothing_begins_by_itself(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(STORY)
    with provider.hold_at("mid_body"), Server.program(provider, tmp_path) as server:
        chat = server.new_chat()
        with chat.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
            server.kill()
    seen = page.positions[-1]
    with Server.program(provider, tmp_path) as server:
        chat = server.chat(chat.id)
        with chat.page(seen) as again:
            again.chat, again.messages = page.chat, page.messages
            ended = again.follow_until(run_id, "stopped")
            again.follow_text("Once upon")
        kept = chat.snapshot()
        asked_before = len(provider.requests)
        with chat.page() as page:
            page.follow_until(chat.send("And now?"), "completed")

    assert "crash" == ended["reason"]
    assert "snapshot" not in again.kinds
    assert kept.messages == again.messages
    assert "stopped" == kept.path[-1]["state"]
    assert 1 == asked_before
    with ChatAppData(tmp_path / "chats.db") as data:
        assert [] == validate(data.state(chat.id).conversation)


def test_a_message_that_nobody_began_to_answer_waits_for_a_person(
    provider: FakeProvider, tmp_path: Path
) -> None:
    with ChatAppData(tmp_path / "chats.db") as data:  # a process that died between the message and its run
        chat_id = data.create()
        said = data.send_message(chat_id, "Hello?")
    with Server.program(provider, tmp_path) as server:
        chat = server.chat(chat_id)
        before = chat.snapshot()
        asked_before = len(provider.requests)
        with chat.page() as page:
            run_id = str(uuid4())
            chat.done("retry", run_id=run_id, message_id=said.message_id)
            page.follow_until(run_id, "completed")

    assert before.chat["run"] is None
    assert 0 == asked_before


def test_a_page_of_one_process_follows_and_stops_what_another_one_runs(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(STORY)
    with (
        Server.program(provider, tmp_path) as server,
        Server.program(provider, tmp_path) as other,
        provider.hold_at("mid_body"),
    ):
        chat = server.new_chat()
        there = other.chat(chat.id)
        with there.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
            refused = there.post("send", run_id=str(uuid4()), text="Me too")
            receipt = there.done("stop", run_id=run_id)
            ended = page.follow_until(run_id, "stopped")
            page.follow_until(there.send("And now?"), "completed")
            page.follow_until(chat.send("And here?"), "completed")

    assert (409, "running") == (refused.status_code, refused.json()["error"])
    assert ("stopping", run_id) == (receipt["state"], receipt["running"])
    assert "user" == ended["reason"]
    assert 6 == len(page.path)  # nothing was said twice, and nothing is missing
    assert 3 == len(provider.requests)


def test_a_run_whose_process_was_killed_can_be_followed_by_the_next_message_from_another(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(STORY)
    with Server.program(provider, tmp_path) as other, provider.hold_at("mid_body"):
        with Server.program(provider, tmp_path) as server:
            chat = server.new_chat()
            with chat.page() as page:
                run_id = chat.send("Tell me a story")
                page.follow_text("Once upon")
                server.kill()
        there = other.chat(chat.id)
        with there.page() as page:
            crashed = page.follow_until(run_id, "stopped")
            page.follow_until(there.send("And now?"), "completed")

    assert "crash" == crashed["reason"]


def test_a_model_on_this_computer_answers_is_stopped_and_goes_on(tmp_path: Path) -> None:
    model = write_counter(tmp_path / "counter.gguf")
    command = [PROGRAM, "--store", str(tmp_path / "chats.db"), "serve", "--port", "0", "--host", "local"]
    with Server([*command, "--model", str(model)], environment(tmp_path), 2) as server:
        chat = server.new_chat()
        with chat.page() as page:
            run_id = chat.send("Count")
            page.follow_until(run_id, "streaming")
            chat.done("stop", run_id=run_id)
            page.follow_until(run_id, "stopped")
            going_on = chat.send("Count")
            page.follow_until(going_on, "streaming")
            chat.done("stop", run_id=going_on)
            page.follow_until(going_on, "stopped")

    assert 2 == len(page.runs)


def test_an_address_that_others_can_reach_asks_for_a_token(provider: FakeProvider, tmp_path: Path) -> None:
    with Server.program(provider, tmp_path, "--listen", "0.0.0.0") as server:
        url, _, token = server.address.partition("?token=")
        port = url.rstrip("/").rpartition(":")[2]
        refused = httpx.get(f"http://127.0.0.1:{port}/api/chats")
        taken = httpx.get(f"http://127.0.0.1:{port}/api/chats", headers={"authorization": f"Bearer {token}"})

    assert len(token) >= 32
    assert (401, 200) == (refused.status_code, taken.status_code)


def test_a_terminal_is_told_which_process_answers_in_a_chat(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(STORY)
    with Server.program(provider, tmp_path) as server, provider.hold_at("mid_body"):
        chat = server.new_chat()
        with chat.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
            done = subprocess.run(
                [
                    *(PROGRAM, "--store", str(tmp_path / "chats.db"), "chat", "--continue", chat.id),
                    *("--host", provider.base_url, "--model", provider.model),
                ],
                env=environment(tmp_path, AIWRAPPER_API_KEY=provider.api_key),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            chat.done("stop", run_id=run_id)
            page.follow_until(run_id, "stopped")

    assert 1 == done.returncode
    assert f"aiwrapper: The conversation is open in process {server.process.pid}. " in done.stderr
    assert "terminal" not in done.stderr
    assert 1 == done.stderr.count("\n")


def served(tmp_path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """`aiwrapper serve` where it cannot serve."""
    return subprocess.run(
        [PROGRAM, "--store", str(tmp_path / "other.db"), "serve", "--host", "voice", *options],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_an_address_in_use_is_said_in_a_line(provider: FakeProvider, tmp_path: Path) -> None:
    with Server.program(provider, tmp_path) as server:
        port = server.address.rstrip("/").rpartition(":")[2]
        done = served(tmp_path, "--port", port)

    assert (1, "") == (done.returncode, done.stdout)
    assert f"can't listen at 127.0.0.1, port {port}: Address already in use. " in done.stderr
    assert 1 == done.stderr.count("\n")


def test_a_certificate_that_cannot_be_used_is_said_in_a_line(tmp_path: Path) -> None:
    mine, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    chain, key, junk = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "junk.pem"
    mine.cert_chain_pems[0].write_to_path(str(chain))
    other.private_key_pem.write_to_path(str(key))
    junk.write_text("no certificate")

    for wrong in (
        ("--certificate", str(tmp_path / "missing.pem"), "--key", str(key)),
        ("--certificate", str(junk), "--key", str(key)),
        ("--certificate", str(chain), "--key", str(key)),
        ("--certificate", str(chain)),
    ):
        done = served(tmp_path, "--port", "0", *wrong)

        assert (1, "") == (done.returncode, done.stdout)
        assert "can't speak HTTPS with" in done.stderr
        assert "want PEM files that belong together" in done.stderr
        assert 1 == done.stderr.count("\n")


def test_a_key_without_its_certificate_does_not_serve_in_clear(tmp_path: Path) -> None:
    done = served(tmp_path, "--port", "0", "--key", str(tmp_path / "key.pem"))

    assert (1, "") == (done.returncode, done.stdout)
    assert "--certificate" in done.stderr


@pytest.mark.parametrize("port", ["80000", "-1", "http"])
def test_what_is_no_port_is_wrong_usage(tmp_path: Path, port: str) -> None:
    done = served(tmp_path, f"--port={port}")

    assert (2, "") == (done.returncode, done.stdout)
    assert f"a port is a number from 0 to 65535, and {port!r} is none" in done.stderr


def test_with_a_certificate_it_speaks_https_and_http_2(provider: FakeProvider, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    files = ("--certificate", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"))
    with Server.program(provider, tmp_path, *files) as server:
        url = server.address.replace("127.0.0.1", "localhost")
        with httpx.Client(
            base_url=url, headers=SAME_ORIGIN, verify=context, http2=True, timeout=PATIENCE_SECONDS
        ) as client:
            made = client.post("api/chats", json={})
            chat = ChatClient(client, made.json()["id"])
            with ExitStack() as pages, provider.hold_at("headers") as hold:
                following = [pages.enter_context(chat.page()) for _ in range(7)]
                run_id = chat.send("Hello?")
                assert hold.reached.wait(PATIENCE_SECONDS)
                chat.done("stop", run_id=run_id)
                for page in following:
                    page.follow_until(run_id, "stopped")

    assert "HTTP/2" == made.http_version
