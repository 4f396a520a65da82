"""Run the README's main command in a pseudo-terminal: fetch the model, ask, stop, ask again, leave.

usage: drive_start.py DIRECTORY COMMAND

What the terminal showed goes to standard output. It fails unless the model was fetched, answered, was stopped in
mid-answer, answered the next question, and the program left with status 0.
"""

import re
import sys

import pexpect

PROMPT = re.escape("\x1b[?2004h")  # bracketed paste: prompt_toolkit takes keys from here on
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


def main(directory: str, command: str) -> int:
    """Drive it, and return 0 if all went well; what did not is an exception."""
    child = pexpect.spawn(
        "bash", ["-c", command], cwd=directory, encoding="utf-8", timeout=600, dimensions=(40, 100)
    )
    child.delaybeforesend = None
    child.logfile_read = sys.stdout
    child.expect_exact("Fetch it now?")
    child.send("y" + ENTER)
    child.expect_exact("The model is here")
    child.timeout = 60
    child.expect(PROMPT)
    child.send("Tell me a very long story about a river." + ENTER)
    child.expect_exact("Waiting for the model")
    child.expect_exact("\x1b[?25h")  # the cursor is back: the spinner has made room for the answer
    child.expect(r"\w+ \w+ \w+")
    child.send(CTRL_C)
    child.expect_exact("■ stopped")
    child.expect(PROMPT)
    child.send("In one word: what was it about?" + ENTER)
    child.expect_exact("Waiting for the model")
    child.expect(PROMPT)
    child.send(CTRL_D)
    child.expect_exact("aiwrapper chat --continue")
    child.expect(pexpect.EOF)
    child.close()
    print(f"\nexit status {child.exitstatus}")
    return 0 if child.exitstatus == 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
