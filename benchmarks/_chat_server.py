"""The server that `bench_chatapp.py` measures: the ChatApp in a process of its own, with models that need no network.

usage: python -m benchmarks._chat_server OTHERS

The chats' model says a word each 20 ms; the one named `silent` never says any; the one named `deaf` calls a tool that
nothing stops. Before it listens, OTHERS chats have begun to be answered by another, which goes on for ever. What it
knows goes to standard output, one JSON object a line: `{"url"}` once it listens, `{"asked"}` when a model is asked, and
`{"settled": run_id, "at": wall-clock seconds}` when a run has ended and its end is in the store.
"""

import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from attrs import frozen

from aiwrapper import ChatAgent, Lang, tool
from aiwrapper.chat import ChatApp, ChatAppData, WrapChatAgent
from aiwrapper.chat._security import Message, Receive, Send
from aiwrapper.chat._state import ChatState, Configuration
from aiwrapper.chat.serve import Place, serve
from aiwrapper.terminal.serve import TOOL_GRACE_SECONDS
from aiwrapper.transport import HttpRequest, Transport
from cancel_token import CancelToken

WORD_SECONDS = 0.02
"""Between two words of the model: 50 tokens a second, as many hosted models speak."""


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


class Speaking:
    """A transport to a model that speaks for ever.

    Args:
        pause_seconds: between two words; None for one that never says the first.
        asked: whether to tell when it is asked.
    """

    def __init__(self, pause_seconds: float | None, *, asked: bool = True) -> None:
        self._pause_seconds = pause_seconds
        self._asked = asked

    @contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[Iterator[bytes]]:
        if self._asked:
            tell(asked=request.url)
        yield self._speak(token)

    def _speak(self, token: CancelToken) -> Iterator[bytes]:
        if self._pause_seconds is None:
            token.wait()
            token.check()
        while self._pause_seconds is not None:
            yield chunk({"content": "word "})
            token.sleep(self._pause_seconds)


class Calling:
    """A transport to a model that calls the tool."""

    @contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[Iterator[bytes]]:
        call = {"index": 0, "id": "c1", "function": {"name": "ignore", "arguments": "{}"}}
        yield iter([chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), b"data: [DONE]\n\n"])


def chunk(delta: object, finish_reason: str | None = None) -> bytes:
    """A piece of an answer, as OpenAI's chat completions stream it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


@tool
def ignore() -> str:
    """Do not care."""
    threading.Event().wait()
    return "never"


class WithBaseline(ChatApp):
    """The application, and beside it an address that answers a POST with nothing."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/empty":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await super().__call__(scope, receive, send)


def lang(transport: Transport) -> Lang:
    return Lang.openai_like(base_url="http://memory/v1", model="m", api_key="k", transport=transport)


@frozen
class News:
    """What an observer was told, and when."""

    chat_id: str
    number: int
    at: float


def report_ends(data: ChatAppData, changed: "queue.SimpleQueue[News | None]") -> None:
    """Tell of each run that has ended, at the time at which its end was in the store; None ends it."""
    states: dict[str, ChatState] = {}
    while news := changed.get():
        known = states.get(news.chat_id, ChatState())
        state = data.state_at(
            news.chat_id, news.number
        )  # and not as of now, which may be later than the news
        if state is None or state.position <= known.position:
            continue
        for place in range(len(known.log.runs), len(state.log.runs)):
            tell(settled=state.log.runs[place].run_id, at=news.at)
        states[news.chat_id] = state


def main(others: int) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        data = stack.enter_context(ChatAppData(Path(folder) / "chats.db"))
        models = {
            "silent": lang(Speaking(None)),
            "deaf": lang(Calling()),
            "other": lang(Speaking(WORD_SECONDS, asked=False)),
        }
        speaking = lang(Speaking(WORD_SECONDS))
        agent = ChatAgent(speaking, [ignore], tool_grace_seconds=TOOL_GRACE_SECONDS)
        wrapped = stack.enter_context(WrapChatAgent(data, agent, models=models))
        chats = frozenset(data.create(Configuration(model="other")) for _ in range(others))
        for chat_id in chats:
            data.send_message(chat_id, "Speak")
        changed: queue.SimpleQueue[News | None] = queue.SimpleQueue()

        def observe(chat_id: str, number: int) -> None:
            if chat_id not in chats:
                changed.put(News(chat_id, number, time.time()))

        data.subscribe(observe)
        reporter = threading.Thread(target=report_ends, args=(data, changed), name="reporter")
        reporter.start()
        serve(WithBaseline(wrapped, hosts=("127.0.0.1",)), Place(port=0), ready=lambda url: tell(url=url))
        changed.put(None)
        reporter.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
