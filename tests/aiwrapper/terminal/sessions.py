"""The program in a pseudo-terminal, with somebody at the keyboard and a screen to look at."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from types import TracebackType
from typing import Any, Self

import pexpect
import pyte

PROGRAM = str(Path(sys.executable).with_name("aiwrapper"))
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
PATIENCE_SECONDS = 60


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests is found."""
    kept = {name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_START") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "PYTHONWARNINGS": "error",
        "PYTHONFAULTHANDLER": "1",  # what does not come to an end says where it is, see `Terminal`
        **more,
    }


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A host that answers one question so; its base URL."""
    with create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_SECONDS)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    received = connection.recv(65536)
                    if not received:
                        return
                    asked += received
                head = f"HTTP/1.1 {status} So\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            thread.join()


class _Screen(pyte.Screen):
    """One that answers when it is asked where its cursor is."""

    def __init__(self, answer: Callable[[str], None]) -> None:
        super().__init__(100, 40)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Terminal:
    """`aiwrapper` in a pseudo-terminal of 100 columns and 40 lines, as a context manager.

    Args:
        arguments: of the command.
        environment: of the process.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._screen = _Screen(self.press)
        self._stream = pyte.Stream(self._screen)
        self.output = ""
        self._child = pexpect.spawn(
            PROGRAM,
            list(arguments),
            env=dict(environment),
            dimensions=(40, 100),
            encoding="utf-8",
            codec_errors="replace",
            timeout=PATIENCE_SECONDS,
        )
        self._child.delaybeforesend = None
        self._child.logfile_read = self

    def write(self, text: str) -> None:
        """Show what the program printed."""
        self.output += text
        self._stream.feed(text)

    def flush(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        pid: int = self._child.pid
        return pid

    @property
    def lines(self) -> list[str]:
        """What stands on the screen: the lines that are not blank."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def wait_for(self, text: str) -> None:
        """Wait until the program prints this, after whatever was waited for before."""
        self._expect(text)

    def wait_for_prompt(self) -> None:
        """Wait until the prompt takes keys: the program has asked for bracketed paste, as prompt_toolkit does last."""
        self._expect("\x1b[?2004h")
        self._expect("you>")

    def press(self, keys: str) -> None:
        self._child.send(keys)

    def type(self, line: str) -> None:
        self._child.send(line + ENTER)

    def wait_for_exit(self) -> int:
        """Wait until it has ended, and return its exit status; minus the signal if one ended it."""
        self._expect(pexpect.EOF)
        self._child.close()
        if self._child.exitstatus is not None:
            return int(self._child.exitstatus)
        return -int(self._child.signalstatus)

    def _expect(self, what: Any) -> None:  # Any: text, or pexpect.EOF
        try:
            self._child.expect_exact(what)
        except pexpect.TIMEOUT:
            before = len(self.output)
            self._child.kill(signal.SIGABRT)  # Python's fault handler prints the stack of each thread
            self._child.expect_exact(pexpect.EOF)
            raise AssertionError(
                f"waited for {what!r}; printed had been\n{self.output[:before][-2000:]!r}\n"
                f"it stood here:\n{self.output[before:]}"
            ) from None
