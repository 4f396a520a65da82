"""`aiwrapper ask`: one question, one answer, made for pipes."""

import argparse
import os
import sys
import time
from contextlib import ExitStack, closing

from rich.console import Console

from aiwrapper._core.log import Entry
from aiwrapper._core.log_json import dump_entry
from aiwrapper.agents import ChatAgent
from aiwrapper.terminal.choose import choose
from aiwrapper.terminal.exit_status import ExitStatus
from aiwrapper.terminal.keyboard import Asker, echo
from aiwrapper.terminal.render import AnswerView
from aiwrapper.toolbox import toolbox
from cancel_token import Cancelled, CancelToken
from cancel_token.signals import cancel_on_sigint

_EXIT_STATUS = {"completed": ExitStatus.OK, "stopped": ExitStatus.STOPPED, "failed": ExitStatus.FAILED}


def ask(options: argparse.Namespace) -> int:
    """Ask once.

    The answer goes to standard output, everything about it to standard error.

    Returns:
        0; 1 if it failed; 2 without a question; 130 if it was stopped.
    """
    question = options.question
    if question is None:
        if sys.stdin.isatty():
            print("aiwrapper ask: a question is needed, as an argument or on standard input", file=sys.stderr)
            return ExitStatus.USAGE
        question = sys.stdin.read()
    if not question.strip():
        print("aiwrapper ask: the question is empty", file=sys.stderr)
        return ExitStatus.USAGE

    token = CancelToken(name="ask")
    with ExitStack() as resources:
        resources.enter_context(cancel_on_sigint(token, watcher=True))
        resources.enter_context(echo(on=False))
        try:
            choice = choose(
                options.host, options.model, environment=os.environ, token=token, resources=resources
            )
        except Cancelled:
            return ExitStatus.STOPPED
        if choice.is_voice:
            print(f"aiwrapper: this is {choice.description}", file=sys.stderr)
        view = resources.enter_context(
            AnswerView(
                Console(),
                notes=Console(stderr=True),
                clock=time.monotonic,
                advice={"authentication": choice.key_advice},
            )
        )
        tools = toolbox(Asker(Console(stderr=True), view.hands_off))
        agent = ChatAgent(
            choice.lang, [tools[name] for name in options.tool], instructions=options.instructions
        )
        show = _print_json if options.json else view.show
        with closing(agent.stream(question, token=token)) as entries:
            for entry in entries:
                show(entry)
    result = agent.last_result
    assert result is not None  # the stream has ended
    return _EXIT_STATUS[result.status]


def _print_json(entry: Entry) -> None:
    sys.stdout.buffer.write(dump_entry(entry) + b"\n")
    sys.stdout.buffer.flush()
