"""The app inside somebody else's application, on both runtimes, with an owner for each chat."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import hypercorn.asyncio
import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from aiwrapper import ChatAgent, RunStarted, Text, UserMessageAdded
from aiwrapper.chat import ChatApp, ChatAppData, WrapChatAgent
from aiwrapper.store import Store
from aiwrapper.testing import FakeProvider, Say, Turn
from cancel_token import CancelToken
from cancel_token.aio import wait_cancelled
from tests.aiwrapper.chat.servers import PATIENCE_SECONDS, SAME_ORIGIN, ChatClient
from tests.aiwrapper.running import lang_at

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


def user(request: Request) -> str:
    """Who asks, as an application around the app would know it."""
    name = request.headers.get("x-user", "")
    if not name:
        raise HTTPException(401, "sign in first")
    return name


async def told(leave: CancelToken) -> None:
    await wait_cancelled(leave)


def on_asyncio(app: Any, config: Config, leave: CancelToken) -> None:  # Any: as in serve.py
    asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=partial(told, leave)))


def on_trio(app: Any, config: Config, leave: CancelToken) -> None:  # Any: as in serve.py
    trio.run(partial(hypercorn.trio.serve, app, config, shutdown_trigger=partial(told, leave)))


@contextmanager
def serving(app: object, runtime: Callable[[Any, Config, CancelToken], None]) -> Iterator[str]:
    """Serve in a thread; the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = PATIENCE_SECONDS  # only a stream that does not end uses it up
    leave = CancelToken()
    thread = threading.Thread(target=runtime, args=(app, config, leave))
    thread.start()
    try:
        yield address
    finally:
        leave.cancel()
        thread.join()


@pytest.fixture(params=[on_asyncio, on_trio])
def runtime(request: pytest.FixtureRequest) -> Callable[[Any, Config, CancelToken], None]:
    chosen: Callable[[Any, Config, CancelToken], None] = request.param
    return chosen


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


def test_an_application_mounts_the_chats_for_its_users(
    provider: FakeProvider, tmp_path: Path, runtime: Callable[[Any, Config, CancelToken], None]
) -> None:
    provider.add(STORY)
    with (
        ChatAppData(tmp_path / "chats.db") as data,
        WrapChatAgent(data, ChatAgent(lang_at(provider))) as wrapped,
        serving(Starlette(routes=[Mount("/talk", ChatApp(wrapped, owner=user))]), runtime) as address,
        httpx.Client(base_url=f"{address}talk/", headers=SAME_ORIGIN, timeout=PATIENCE_SECONDS) as client,
    ):
        nobody = client.get("api/chats")
        client.headers["x-user"] = "ada"
        chat = ChatClient(client, client.post("api/chats", json={}).json()["id"])
        with provider.hold_at("mid_body"), chat.page() as page:
            run_id = chat.send("Tell me a story")
            page.follow_text("Once upon")
            client.headers["x-user"] = "eve"
            foreign = [
                client.get(f"api/chats/{chat.id}"),
                client.get(f"api/chats/{chat.id}/events"),
                chat.post("stop", run_id=run_id),
                chat.post("send", run_id=str(uuid4()), text="Hello?"),
                chat.post("delete"),
            ]
            unknown = client.get(f"api/chats/{'0' * 32}")
            listed = client.get("api/chats").json()["chats"]
            client.headers["x-user"] = "ada"
            chat.done("stop", run_id=run_id)
            page.follow_until(run_id, "stopped")
            page.follow_until(chat.send("And now?"), "completed")
            data.leave()
            rest = page.next_event()

    assert (401, "token") == (nobody.status_code, nobody.json()["error"])
    assert {(404, unknown.text)} == {(answer.status_code, answer.text) for answer in foreign}
    assert [] == listed
    assert rest is None


def test_a_stream_is_never_silent_and_sees_what_other_programs_write(
    provider: FakeProvider, tmp_path: Path, runtime: Callable[[Any, Config, CancelToken], None]
) -> None:
    with (
        ChatAppData(tmp_path / "chats.db") as data,
        WrapChatAgent(data, ChatAgent(lang_at(provider))) as wrapped,
        serving(ChatApp(wrapped, heartbeat_seconds=0.05), runtime) as address,
        httpx.Client(base_url=address, headers=SAME_ORIGIN, timeout=PATIENCE_SECONDS) as client,
        Store(tmp_path / "chats.db") as other,  # it tells nobody, as `aiwrapper chat` does not
    ):
        chat = ChatClient(client, client.post("api/chats", json={}).json()["id"])
        with chat.page() as page:
            page.next_event()
            with other.open(chat.id) as log:
                log.append(UserMessageAdded("m", (Text("Hello?"),)))
                log.append(RunStarted("r"))
                while page.chat["run"] is None:
                    page.next_event()
            crashed = page.follow_until("r", "stopped")  # whoever ran it is gone
            data.leave()
            while page.next_event() is not None:
                pass

    assert page.comments
    assert "crash" == crashed["reason"]
