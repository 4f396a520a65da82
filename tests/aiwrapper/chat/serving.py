"""A program that serves the ChatApp, as a process of its own that a test can kill.

usage: serving.py STORE PORT WHERE

It answers with the model that is at the base URL in the file WHERE at that moment, so that each test can have a
provider of its own. Its tools are `wait`, which only a stop ends, `ignore`, which nothing ends, and `double`. Beside
the application it answers `GET /memory` with what is in memory. Its last line says in JSON what it has left behind:
threads by their names, and what is open that was not before.
"""

import json
import sys
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from attrs import asdict, evolve
from starlette.responses import JSONResponse

from aiwrapper import ChatAgent, Lang, RetryPolicy, tool
from aiwrapper.chat._security import Message, Receive, Send
from aiwrapper.chat.app import ChatApp
from aiwrapper.chat.data import ChatAppData
from aiwrapper.chat.serve import Place, serve
from aiwrapper.chat.wrap import WrapChatAgent
from aiwrapper.terminal.serve import TOOL_GRACE_SECONDS
from aiwrapper.transport import HttpRequest, HttpTransport
from cancel_token import CancelToken
from tests.cancel_token.stalling import open_descriptors
from tests.memory import Memory

NOWHERE = "http://provider.invalid"
KEY = "sk-fake-0123456789abcdef"


class Moving:
    """A transport to a provider whose address stands in a file."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._http = HttpTransport()

    def close(self) -> None:
        """End the connections that are kept for further requests."""
        self._http.close()

    def open(self, request: HttpRequest, token: CancelToken, /) -> AbstractContextManager[Iterable[bytes]]:
        return self._http.open(
            evolve(request, url=request.url.replace(NOWHERE, self._where.read_text())), token
        )


class WithMemory(ChatApp):
    """The application, and beside it an address that tells what is in memory."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/memory":
            await JSONResponse(asdict(Memory.now()))(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@tool
def wait(what: str, *, token: CancelToken) -> str:
    """Wait for something that never comes."""
    token.wait()
    token.check()
    return what


@tool
def ignore() -> str:
    """Do not care."""
    threading.Event().wait()
    return "never"


@tool
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def main(store: str, port: str, where: str) -> None:
    before = open_descriptors()
    moving = Moving(Path(where))
    lang = Lang.anthropic(
        base_url=NOWHERE,
        model="fake-model",
        api_key=KEY,
        transport=moving,
        retry=RetryPolicy(first_wait_seconds=0.0, max_retry_after_seconds=600.0),
    )
    agent = ChatAgent(lang, [wait, ignore, double], tool_grace_seconds=TOOL_GRACE_SECONDS)
    with ChatAppData(store) as data, WrapChatAgent(data, agent, models={"other": lang}) as wrapped:
        app = WithMemory(wrapped, hosts=("127.0.0.1",))
        serve(app, Place(port=int(port)), ready=lambda url: print(url, flush=True))
    moving.close()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    descriptors = [what for number, what in open_descriptors().items() if number not in before]
    print(json.dumps({"threads": threads, "descriptors": descriptors}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
