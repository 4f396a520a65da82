"""The loop of `aiwrapper chat` with a store that another process writes."""

import io
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from aiwrapper import ChatAgent, Conversation, Lang, RunResult, settle, tool
from aiwrapper.store import Store
from aiwrapper.terminal.chat import _Chat, _Patience, _show_conversation
from aiwrapper.terminal.render import AnswerView
from aiwrapper.testing import Call, FakeProvider, Say, Turn
from cancel_token import CancelToken


class Noticed(_Patience):
    """Tells when an entry has to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def __call__(self, seconds: float) -> None:
        self.waits.set()
        super().__call__(seconds)


def test_a_stop_ends_the_wait_for_the_store_and_the_chat_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    out, path = io.StringIO(), tmp_path / "chats.db"
    console = Console(file=out, width=200)
    patience = Noticed()
    with (
        FakeProvider("openai_chat") as provider,
        Store(path) as store,
        store.open(store.create(), wait=patience) as log,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        AnswerView(console, clock=lambda: 0.0) as view,
    ):
        lang = Lang.openai_like(base_url=provider.base_url, model=provider.model, api_key=provider.api_key)

        def agent_from_store() -> ChatAgent:
            return ChatAgent(lang, sink=log, conversation=settle(store.load(log.conversation_id)))

        def stop_when_it_waits() -> None:
            patience.waits.wait()
            patience.token.cancel()

        def said() -> Iterator[str]:
            yield "One"
            other.execute("BEGIN IMMEDIATE")
            stopper = threading.Thread(target=stop_when_it_waits)
            stopper.start()
            yield "Two"
            stopper.join()
            other.execute("ROLLBACK")
            yield "Three"
            yield "/quit"

        lines = said()
        chat = _Chat(agent_from_store, patience, console, view)
        chat.run(lambda: next(lines))

        assert chat.conversation == settle(store.load(log.conversation_id))
    asked = [[m["content"] for m in request.json()["messages"]] for request in provider.requests]
    assert ["One"] == asked[0]
    assert ["One", "Three"] == asked[1][::2]
    assert "Not all of it was kept" in out.getvalue()


@pytest.mark.parametrize("times", [1, 2])
def test_a_ctrl_c_for_an_answer_that_has_just_ended_is_one_at_the_prompt(times: int) -> None:
    """It comes behind the block that turns it into a stop."""
    out = io.StringIO()
    console = Console(file=out, width=200)
    with FakeProvider("openai_chat") as provider, AnswerView(console, clock=lambda: 0.0) as view:
        lang = Lang.openai_like(base_url=provider.base_url, model=provider.model, api_key=provider.api_key)
        chat = Struck(lambda: ChatAgent(lang), _Patience(), console, view)
        at_the_prompt = [KeyboardInterrupt] * (times - 1)
        lines = iter(["One", "Two", "/quit"])

        def read() -> str:
            if chat.struck and at_the_prompt:
                raise at_the_prompt.pop()
            return next(lines)

        chat.run(read)

    asked = [request.json()["messages"][-1]["content"] for request in provider.requests]
    assert (["One", "Two"] if times == 1 else ["One"]) == asked
    assert out.getvalue().count("Once more") == 1


@pytest.mark.parametrize(
    ("said", "is_sent"),
    [
        ("/exit", False),
        ("/nonsense with words", False),
        ("/help me", False),
        ("/etc/passwd is what?", True),
        ("/ is the root?", True),
        ("What is /exit?", True),
    ],
)
def test_a_command_that_there_is_not_is_said_to_the_person_and_not_to_the_model(
    said: str, *, is_sent: bool
) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    with FakeProvider("openai_chat") as provider, AnswerView(console, clock=lambda: 0.0) as view:
        lang = Lang.openai_like(base_url=provider.base_url, model=provider.model, api_key=provider.api_key)
        lines = iter([said, "/quit"])
        _Chat(lambda: ChatAgent(lang), _Patience(), console, view).run(lambda: next(lines))

    assert is_sent == bool(provider.requests)
    assert is_sent != (f"unknown command {said!r}: /help" in out.getvalue())


def transcript(conversation: Conversation) -> list[str]:
    out = io.StringIO()
    _show_conversation(Console(file=out, width=200), conversation)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_what_tools_have_done_is_printed_again_as_it_was_while_they_ran() -> None:
    @tool
    def look(place: str) -> str:
        """Look."""
        return f"{place} is\x1b[2J fine"

    out = io.StringIO()
    console = Console(file=out, width=200)
    with FakeProvider("openai_chat") as provider, AnswerView(console, clock=lambda: 0.0) as view:
        lang = Lang.openai_like(base_url=provider.base_url, model=provider.model, api_key=provider.api_key)
        calls = Call("look", ('{"place": "Rome"}',)), Call("look", ("{}",)), Call("find", ("{}",))
        provider.add(Turn(calls), Turn((Say(("All is well.",)),)))
        chat = _Chat(lambda: ChatAgent(lang, [look]), _Patience(), console, view)
        lines = iter(["Look around", "/quit"])
        chat.run(lambda: next(lines))
        ran = [line.rstrip() for line in out.getvalue().splitlines()]

    shown = transcript(chat.conversation)
    assert "you> Look around" == shown[0]
    assert '▶ look {"place": "Rome"}' in shown
    assert "✓ look done Rome is[2J fine" in shown
    assert sorted(ran) == sorted(shown[1:])


def test_a_tool_that_was_stopped_is_printed_again_with_the_stop() -> None:
    stop_button = CancelToken()

    @tool
    def sleep(*, token: CancelToken) -> str:
        """Sleep until it is stopped."""
        stop_button.cancel()
        token.check()
        return "Good morning"

    with FakeProvider("openai_chat") as provider:
        lang = Lang.openai_like(base_url=provider.base_url, model=provider.model, api_key=provider.api_key)
        provider.add(Turn((Call("sleep", ("{}",)),)))
        agent = ChatAgent(lang, [sleep])
        agent.run("Sleep", token=stop_button)

    assert [
        "you> Sleep",
        "▶ sleep {}",
        "✗ sleep was stopped while it ran",
        "■ stopped",
        "■ not answered: /continue asks for the answer",
    ] == transcript(agent.conversation)


class Struck(_Chat):
    """A Ctrl-C comes when the first answer has ended."""

    struck = False

    def _answer(self, run: Callable[[CancelToken], RunResult]) -> None:
        super()._answer(run)
        if not self.struck:
            self.struck = True
            raise KeyboardInterrupt
