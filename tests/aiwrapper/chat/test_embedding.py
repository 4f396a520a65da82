"""The app inside somebody else's application, on each runtime, with an owner for each chat."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import httpx
import hypercorn.asyncio
import hypercorn.trio
import pytest
import trio
import uvicorn
import uvloop
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


Serve: TypeAlias = Callable[[Any, socket.socket, CancelToken], None]  # Any: as in serve.py


def on_asyncio(app: Any, listener: socket.socket, leave: CancelToken) -> None:
    config = hypercorn_config(listener)
    asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=partial(told, leave)))


def on_trio(app: Any, listener: socket.socket, leave: CancelToken) -> None:
    config = hypercorn_config(listener)
    trio.run(partial(hypercorn.trio.serve, app, config, shutdown_trigger=partial(told, leave)))


def on_uvloop(app: Any, listener: socket.socket, leave: CancelToken) -> None:
    """By uvicorn, as most applications on asyncio are served."""
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=PATIENCE_SECONDS)
    server = uvicorn.Server(config)
    with listener, leave.on_cancel(setattr, server, "should_exit", True):
        uvloop.run(server.serve(sockets=[listener]))


def hypercorn_config(listener: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = PATIENCE_SECONDS  # only a stream that does not end uses it up
    return config


@contextmanager
def serving(app: object, serve: Serve) -> Iterator[str]:
    """Serve in a thread; the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    leave = CancelToken()
    thread = threading.Thread(target=serve, args=(app, listener, leave))
    thread.start()
    try:
        yield address
    finally:
        leave.cancel()
        thread.join()


@pytest.fixture(params=[on_asyncio, on_trio, on_uvloop])
def serve(request: pytest.FixtureRequest) -> Serve:
    chosen: Serve = request.param
    return chosen


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


def test_an_application_mounts_the_chats_for_its_users(
    provider: FakeProvider, tmp_path: Path, serve: Serve
) -> None:
    provider.add(STORY)
    with (
        ChatAppData(tmp_path / "chats.db") as data,
        WrapChatAgent(data, ChatAgent(lang_at(provider))) as wrapped,
        serving(Starlette(routes=[Mount("/talk", ChatApp(wrapped, owner=user))]), serve) as address,
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
    provider: FakeProvider, tmp_path: Path, serve: Serve
) -> None:
    with (
        ChatAppData(tmp_path / "chats.db") as data,
        WrapChatAgent(data, ChatAgent(lang_at(provider))) as wrapped,
        serving(ChatApp(wrapped, heartbeat_seconds=0.05), serve) as address,
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
