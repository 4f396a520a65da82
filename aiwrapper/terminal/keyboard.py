"""The keyboard while a run is on: what is typed is not shown, and a question can be asked and stopped."""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.text import Text

from aiwrapper.terminal.printing import printable
from cancel_token import CancelToken

if sys.platform != "win32":
    import termios


@contextmanager
def echo(*, on: bool) -> Iterator[None]:
    """Let the terminal show what is typed, or not, inside the block. Without a terminal it does nothing.

    An answer is being drawn: an echoed `^C`, or a line typed ahead, would end up in the middle of it.
    What is typed meanwhile is read by the next prompt.

    Where it is off, Ctrl-C no longer throws away what a slow terminal has not shown yet, as it does by default: that
    is a piece of the answer, and half a move of the cursor.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    wanted = termios.tcgetattr(terminal)
    wanted[3] = wanted[3] | termios.ECHO if on else wanted[3] & ~termios.ECHO | termios.NOFLSH
    termios.tcsetattr(terminal, termios.TCSADRAIN, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Asker:
    """A `Confirm` for the toolbox, called from a tool's thread.

    The line is read by `poll` beside a pipe that the token writes to, so that Ctrl-C, which the main thread
    turns into a cancel, ends the question, too. Without a terminal the answer is no.

    Args:
        console: where the question is shown.
        hands_off: gives a block that holds everybody else off the terminal while the question stands.
    """

    def __init__(self, console: Console, hands_off: Callable[[], AbstractContextManager[None]]) -> None:
        self._console = console
        self._hands_off = hands_off

    def __call__(self, what: str, token: CancelToken) -> bool:
        """Whether the person said yes.

        Raises:
            Cancelled: the token was cancelled before there was an answer.
        """
        if not sys.stdin.isatty():
            return False
        with self._hands_off(), echo(on=True):
            token.check()
            forget_what_was_typed()
            self._console.print(Text(f"The model wants to {printable(what)}", style="bold"))
            self._console.print("Allow it? [y/N] ", end="", markup=False, highlight=False)
            return _read_line(sys.stdin.fileno(), token).strip().lower() in (b"y", b"yes")


def forget_what_was_typed() -> None:
    """Throw away what nobody has read: a line typed before a question is no answer to it, one before Ctrl-C is void."""
    if sys.platform != "win32" and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def _read_line(terminal: int, token: CancelToken) -> bytes:
    """The next line typed; needs the terminal in its usual, line-wise mode."""
    woken, wake = os.pipe()
    try:
        with token.on_cancel(os.write, wake, b"x"):
            poll = select.poll()
            poll.register(terminal, select.POLLIN)
            poll.register(woken, select.POLLIN)
            poll.poll()
            token.check()
            return os.read(terminal, 4096)
    finally:
        os.close(woken)
        os.close(wake)
