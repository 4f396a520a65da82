"""The keyboard in a pseudo-terminal, where the kernel does what it does in a real one."""

import os
import select
import sys
from pathlib import Path

import pexpect

from tests.aiwrapper.terminal.sessions import CTRL_C, PATIENCE_SECONDS

# More than the kernel's line discipline takes at once (4,095 bytes): what waits behind that is thrown away by Ctrl-C.
LINES = 160
DRAWS_AND_WAITS_FOR_CTRL_C = f"""
import signal, sys
from aiwrapper.terminal.keyboard import echo

# Blocked and waited for: a handler could run before the wait, and leave it waiting.
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT}})
with echo(on=False):
    for number in range({LINES}):
        print(f"line {{number:03}} of what a slow terminal has not shown", flush=True)
    open(sys.argv[1], "w").close()
    signal.sigwait({{signal.SIGINT}})
"""


def test_ctrl_c_throws_nothing_away_that_a_slow_terminal_has_not_shown(tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    os.mkfifo(drawn)
    told = os.open(drawn, os.O_RDONLY | os.O_NONBLOCK)
    child = pexpect.spawn(
        sys.executable,
        ["-c", DRAWS_AND_WAITS_FOR_CTRL_C, str(drawn)],
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
    )
    try:
        poller = select.poll()
        poller.register(told)
        assert poller.poll(PATIENCE_SECONDS * 1000), "it has not drawn"
        child.send(CTRL_C)
        child.expect_exact(pexpect.EOF)
    finally:
        child.close(force=True)
        os.close(told)

    assert [f"line {number:03} of what a slow terminal has not shown" for number in range(LINES)] == (
        child.before.splitlines()
    )
