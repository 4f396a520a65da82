"""Three real tools to try Stop on: `shell` (a subprocess), `python` (a loop), `fetch` (an HTTP request).

They show the three ways to obey a token: hand it to something that takes one, check it in a loop, let a
hook shut the socket. `shell` and `python` do what they are told with the rights of this process, so they
ask a person before they run, through the function they were made with.
"""

import ast
import io
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeAlias

import requests

from aiwrapper._core.tools import Tool, ToolDenied, tool
from cancel_token import CancelToken
from cancel_token.http import Session
from cancel_token.processes import run

Confirm: TypeAlias = Callable[[str, CancelToken], bool]
"""Asks a person whether this may be done; raises `Cancelled` if the token is cancelled meanwhile."""

MAX_RESULT_CHARACTERS = 20_000
"""Chosen by hand: about 5,000 tokens, which leaves room in the smallest context windows in use."""

_READ_BYTES = 4 * MAX_RESULT_CHARACTERS
"""What is kept of an output at all: four bytes are the most that one character takes."""


def toolbox(confirm: Confirm) -> Mapping[str, Tool[..., str]]:
    """The three tools by name.

    Args:
        confirm: asked before `shell` and `python` do anything.
    """

    @tool
    def shell(command: str, *, token: CancelToken) -> str:
        """Run a shell command and return its exit status and its output."""
        _ask(confirm, f"run in the shell: {command}", token)
        done = run(["sh", "-c", command], token=token, max_output_bytes=_READ_BYTES)
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        return _bounded(f"exit status {done.returncode}\n{output}")

    @tool
    def python(code: str, *, token: CancelToken) -> str:
        """Run Python code and return what it printed and the value of its last expression."""
        _ask(confirm, f"run as Python in this process:\n{code}", token)
        return _bounded(_run_python(code, token))

    @tool
    def fetch(url: str, *, token: CancelToken) -> str:
        """Fetch a web page over HTTP and return its text."""
        with Session() as session:
            response = session.get(url, token=token, stream=True, timeout=60)
            with response:
                return _bounded(f"HTTP {response.status_code}\n{_text(response)}")

    return {each.name: each for each in (shell, python, fetch)}


def _ask(confirm: Confirm, what: str, token: CancelToken) -> None:
    if not confirm(what, token):
        raise ToolDenied("The user was asked and refused; nothing was run.")


def _bounded(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n[cut here: there is more]"


def _run_python(code: str, token: CancelToken) -> str:
    """Execute in this thread, the token checked before every line.

    A call that never comes back to Python (`time.sleep(100)`) can't be stopped this way: the executor leaves
    its thread behind and says so.
    """
    tree = ast.parse(code, "<tool>")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    printed = io.StringIO()

    def print_here(
        *values: object, sep: str = " ", end: str = "\n", file: object = None, flush: bool = False
    ) -> None:
        print(*values, sep=sep, end=end, file=printed)

    def trace(frame: FrameType, event: str, argument: Any) -> Any:  # the interpreter's own signature
        token.check()
        return trace

    names: dict[str, object] = {"__name__": "__tool__", "print": print_here}
    program = compile(tree, "<tool>", "exec")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        exec(program, names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<tool>", "eval"), names)
            if value is not None:
                print(repr(value), file=printed)
    finally:
        sys.settrace(before)
    return printed.getvalue()


def _text(response: requests.Response) -> str:
    body = bytearray()
    for chunk in response.iter_content(chunk_size=None):
        body += chunk
        if len(body) > _READ_BYTES:
            break
    return body.decode(response.encoding or "utf-8", "replace")
