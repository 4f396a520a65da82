"""`aiwrapper ask` where a shell started it: beside other programs on one terminal."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from aiwrapper.testing import FakeProvider, Say, Turn
from tests.aiwrapper.terminal.sessions import CTRL_C, ENTER, PATIENCE_SECONDS, PROGRAM, environment

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))

# What a pager does: it takes the keys one by one as soon as there is something to show, until it is left.
PAGER = """
import sys, termios, tty

terminal = open("/dev/tty", "r+b", buffering=0)
shown = sys.stdin.read(1)
tty.setcbreak(terminal)
terminal.write(b"pager: ready\\n")
shown += sys.stdin.read()
by_line = termios.tcgetattr(terminal)[3] & termios.ICANON
terminal.write(b"pager: keys come by line\\n" if by_line else b"pager: keys come one by one\\n")
"""


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat", [STORY]) as fake:
        yield fake


def ask(provider: FakeProvider) -> str:
    return shlex.join([PROGRAM, "ask", "--host", provider.base_url, "--model", provider.model, "A story"])


@contextmanager
def shell(provider: FakeProvider, home: Path) -> Iterator[Any]:  # Any: pexpect has no types
    child = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        env=environment(home, AIWRAPPER_API_KEY=provider.api_key, PS1="", PS2=""),
        cwd=str(home),
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
    )
    try:
        yield child
    finally:
        child.close(force=True)


@pytest.mark.parametrize("output", ["", ">answer"], ids=["on the terminal", "in a file"])
def test_in_the_background_it_answers_and_leaves_the_terminal_alone(
    provider: FakeProvider, tmp_path: Path, output: str
) -> None:
    with shell(provider, tmp_path) as typed:
        typed.send(f'{ask(provider)} {output} & wait $!; echo "its status: $?."{ENTER}')
        typed.expect(r"its status: (\d+)\.")

    assert "0" == typed.match[1]


def test_the_mode_that_a_pager_has_given_the_terminal_is_left_to_it(
    provider: FakeProvider, tmp_path: Path
) -> None:
    pager = tmp_path / "pager.py"
    pager.write_text(PAGER)
    with shell(provider, tmp_path) as typed, provider.hold_at("mid_body") as hold:
        typed.send(f"{ask(provider)} | {sys.executable} {pager}{ENTER}")
        typed.expect_exact("pager: ready")
        hold.release()
        typed.expect("pager: keys come (one by one|by line)")

    assert "one by one" == typed.match[1]


def test_ctrl_c_is_not_shown_in_an_answer_to_a_question_from_a_pipe(
    provider: FakeProvider, tmp_path: Path
) -> None:
    with shell(provider, tmp_path) as typed, provider.hold_at("mid_body") as hold:
        typed.send(f'echo "A story?" | {ask(provider)}; echo "its status: $?."{ENTER}')
        typed.expect_exact("Once upon")
        assert hold.reached.wait(PATIENCE_SECONDS)
        typed.send(CTRL_C)
        typed.expect(r"its status: (\d+)\.")

    assert "130" == typed.match[1]
    assert "^C" not in typed.before
