"""`aiwrapper chat`: a conversation in the terminal. Ctrl-C stops an answer; the next message goes on from it."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final

from prompt_toolkit import PromptSession
from rich.console import Console
from rich.text import Text

from aiwrapper._core.conversation import Conversation, settle
from aiwrapper._core.errors import StoreError
from aiwrapper._core.log import Entry, Sink
from aiwrapper._core.messages import AssistantMessage, ToolMessage, UserMessage
from aiwrapper._core.messages import Text as TextPart
from aiwrapper._run import RunResult
from aiwrapper.agents import ChatAgent
from aiwrapper.store import Store
from aiwrapper.terminal.chats import SHOWN_ID_CHARACTERS, advise, check_store, command, find_chat, store_path
from aiwrapper.terminal.choose import choose_or_leave
from aiwrapper.terminal.keyboard import Asker, echo, forget_what_was_typed
from aiwrapper.terminal.printing import printable
from aiwrapper.terminal.render import AnswerView, call_line, result_line
from aiwrapper.toolbox import toolbox
from cancel_token import CancelToken
from cancel_token.signals import cancel_on_sigint

HELP = """\
Ctrl-C while it answers stops the answer; what was said stays.
/continue lets it go on, /help shows this, /quit leaves (or Ctrl-D, or Ctrl-C twice)."""

_GO_ON = "/continue tries again, and goes on from what was said."
_ADVICE: Final = {"network": _GO_ON, "overloaded": _GO_ON, "provider": _GO_ON, "rate_limit": _GO_ON}
"""What to do about a failure that may be none the next time, by its class."""

_COMMAND = re.compile(r"/\w[\w-]*(?=\s|$)")
"""What begins a line that is meant for us: a path has another slash, and is said to the model."""


def chat(options: argparse.Namespace) -> int:
    """Chat until the person leaves.

    Returns:
        0; 130 if the chat was stopped before it began.
    """
    console = Console()
    if options.resume is not None:
        check_store(options.resume, options.store)
    with ExitStack() as resources:
        store = resources.enter_context(Store(store_path(options.store)))
        chat_id = None if options.resume is None else find_chat(store, options.resume, options.store).id
        choice = choose_or_leave(options, resources)
        if isinstance(choice, int):
            return choice
        if chat_id is None:
            chat_id = store.create()
        patience = _Patience()
        log = resources.enter_context(store.open(chat_id, wait=patience))
        view = resources.enter_context(
            AnswerView(console, clock=time.monotonic, advice=_ADVICE | {"authentication": choice.key_advice})
        )
        tools = toolbox(Asker(console, view.hands_off))

        def agent_from_store() -> ChatAgent:
            return ChatAgent(
                choice.lang,
                [tools[name] for name in options.tool],
                instructions=options.instructions,
                sink=log,
                conversation=settle(store.load(log.conversation_id)),
            )

        session = _Chat(agent_from_store, patience, console, view)
        console.print(Text(f"Talking to {printable(choice.description)}. {HELP}", style="dim"))
        _show_conversation(console, session.conversation)
        session.run(_Terminal() if sys.stdin.isatty() else _Pipe(console))
    if session.conversation.head is not None:
        go_on = f"chat --continue {chat_id[:SHOWN_ID_CHARACTERS]}"
        advise(console, f"Go on with this: {command(go_on, options.store)}", style="dim")
    return 0


class _Patience:
    """How long an entry waits while other processes write: until the answer's token is cancelled."""

    def __init__(self) -> None:
        self.token = CancelToken.never()

    def __call__(self, seconds: float) -> None:
        self.token.sleep(seconds)


class _Chat:
    """The loop between a person and an agent.

    Args:
        new_agent: makes an agent that remembers what the store has.
        patience: is told the token of the answer.
        console: where the loop itself speaks.
        view: where the answers are drawn.
    """

    def __init__(
        self, new_agent: Callable[[], ChatAgent], patience: _Patience, console: Console, view: AnswerView
    ) -> None:
        self._new_agent = new_agent
        self._agent = new_agent()
        self._patience = patience
        self._console = console
        self._subscribers: Iterable[Sink] = (_ToView(view),)

    @property
    def conversation(self) -> Conversation:
        """What has been said so far."""
        return self._agent.conversation

    def run(self, read: Callable[[], str]) -> None:
        """Read and answer until there is nothing more to read, or Ctrl-C comes twice in a row.

        A Ctrl-C may come anywhere: one for an answer that has just ended is one at the prompt.
        """
        interrupted = False
        while True:
            try:
                said = read().strip()
                interrupted = False
                if said == "/quit":
                    return
                self._obey(said)
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                self._console.print(Text("Once more, or Ctrl-D, to leave.", style="dim"))

    def _obey(self, said: str) -> None:
        match said:
            case "":
                pass
            case "/help":
                self._console.print(Text(HELP, style="dim"))
            case "/continue" if self._agent.conversation.head is None:
                self._console.print(Text("Nothing has been said yet.", style="yellow"))
            case "/continue":
                self._answer(lambda token: self._agent.continue_(token=token, subscribers=self._subscribers))
            case _ if _COMMAND.match(said):
                self._console.print(
                    Text(f"unknown command {said[:60]!r}: /help alone shows what there is", style="yellow")
                )
            case _:
                self._answer(lambda token: self._agent.run(said, token=token, subscribers=self._subscribers))

    def _answer(self, run: Callable[[CancelToken], RunResult]) -> None:
        self._patience.token = token = CancelToken(name="answer")
        try:
            with (
                cancel_on_sigint(token, watcher=True),
                echo(on=False),
                token.on_cancel(forget_what_was_typed),
            ):
                result = run(token)
        except KeyboardInterrupt:  # a second Ctrl-C, while tools were given their grace: the run is settled
            self._console.print(Text("■ stopped without waiting", style="yellow"))
            return
        if isinstance(result.error, StoreError):
            # What could not be written is forgotten here, too: the next message goes on from what a restart would find.
            if result.status == "stopped":
                self._console.print(
                    Text(f"Not all of it was kept: {printable(str(result.error))}.", style="yellow")
                )
            self._agent = self._new_agent()
        for error in result.subscriber_errors:  # the terminal is gone, or drawing has a defect
            raise error
        if result.stop is not None and result.stop.abandoned:
            names = ", ".join(printable(call.name) for call in result.stop.abandoned)
            self._console.print(Text(f"{names} did not stop and was left behind.", style="yellow"))


class _ToView:
    """A sink that draws."""

    def __init__(self, view: AnswerView) -> None:
        self._view = view

    def append(self, entry: Entry, /) -> None:
        self._view.show(entry)


class _Terminal:
    """Reads what a person types."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession()

    def __call__(self) -> str:
        return self._session.prompt("you> ")


class _Pipe:
    """Reads lines from something that is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        self._console.print(Text(f"you> {printable(line.rstrip())}"))
        return line


_STOPPED: Final = Text("■ stopped", style="yellow")
_STOPPED_OUTCOMES: Final = frozenset({"interrupted_running", "not_started"})
_NEVER_BEGUN: Final = frozenset({"not_started", "unknown_tool", "invalid_arguments"})


def _show_conversation(console: Console, conversation: Conversation) -> None:
    """Print what was said before, and what was done, with the marks that it had while it was."""
    asked: AssistantMessage | None = None
    for message in conversation.messages:
        match message:
            case UserMessage():
                said = "".join(part.text for part in message.parts if isinstance(part, TextPart))
                console.print(Text(f"you> {printable(said)}", style="dim"))
            case AssistantMessage():
                asked = message
                if message.text:
                    console.print(Text(printable(message.text), style="dim"))
                if message.stopped and not message.calls:
                    console.print(_STOPPED)
            case ToolMessage():
                assert asked is not None  # a conversation that is valid (C1)
                for call, result in zip(asked.calls, message.results, strict=True):
                    if result.outcome not in _NEVER_BEGUN:
                        console.print(call_line(call.name, call.arguments))
                    words = "" if result.outcome in _STOPPED_OUTCOMES else result.content
                    console.print(result_line(call.name, result.outcome, words))
                if asked.stopped or any(result.outcome in _STOPPED_OUTCOMES for result in message.results):
                    console.print(_STOPPED)
    if isinstance(conversation.head, UserMessage | ToolMessage):
        console.print(Text("■ not answered: /continue asks for the answer", style="yellow"))
