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
    """Let the terminal show what is typed, or not, inside the block. It does nothing where nothing is drawn on one.

    An answer is being drawn: an echoed `^C`, or a line typed ahead, would end up in the middle of it.
    What is typed meanwhile is read by the next prompt.

    Where it is off, Ctrl-C no longer throws away what a slow terminal has not shown yet, as it does by default: that
    is a piece of the answer, and half a move of the cursor. Linux does not even wake a thread then that waits to write
    more, and it would draw no more.
    """
    terminal = _drawn_on()
    if sys.platform == "win32" or terminal is None:
        yield
        return
    ours = termios.ECHO | termios.NOFLSH
    before = termios.tcgetattr(terminal)[3] & ours
    _set(terminal, ours, before | termios.ECHO if on else before & ~termios.ECHO | termios.NOFLSH)
    try:
        yield
    finally:
        _set(terminal, ours, before)


def _drawn_on() -> int | None:
    """The terminal that our output goes to, if it is ours to set.

    One that we don't draw on may belong to a pager that reads what we write, or to an editor; and the kernel stops a
    program in the background that tries.
    """
    if sys.platform == "win32" or not sys.stdout.isatty():
        return None
    terminal = sys.stdout.fileno()
    try:
        ours = os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it controls no session of ours, which leaves it to whoever asks
        return terminal
    return terminal if ours else None


def _set(terminal: int, which: int, flags: int) -> None:
    """Set some of its local flags, and leave the others as whoever else may have set them by now."""
    if sys.platform != "win32":
        now = termios.tcgetattr(terminal)
        now[3] = now[3] & ~which | flags
        termios.tcsetattr(terminal, termios.TCSADRAIN, now)


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
