"""One running child process: how it is started, asked whether it computes, and ended."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
import msgspec

from cancel_token import Cancelled, CancelToken
from cancel_token.http import BearerAuth, Session

from ._model_file import ModelError

_CHILD = Path(__file__).with_name("_child.py")
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}  # an idle thread sleeps instead of spinning

_REASON_SECONDS: Final = 5.0
"""How long to wait for why a model is not served. Chosen by hand: a busy machine needs some."""


@attrs.frozen
class Endpoint:
    """Where the local model answers, as any OpenAI-compatible host.

    Args:
        base_url: ends in `/v1`.
        api_key: random, made for this `LocalModel`; in no repr.
    """

    base_url: str
    api_key: str = attrs.field(repr=False)


def spawn(
    model: Path, api_key: str, *, port: int, context_tokens: int, threads: int, token: CancelToken
) -> "Child":
    """Start a child and wait until it serves.

    Args:
        model: the file it serves.
        api_key: what it is to ask for.
        port: the one to listen on if it is free; 0 for any.
        context_tokens: how much of a conversation it can see.
        threads: how many compute.
        token: kills it while it starts; it has no say over it afterwards.

    Raises:
        Cancelled: the token was cancelled.
        ModelError: it does not serve, and why.
    """
    settings: dict[str, str | int] = {
        "model": str(model.absolute()),
        "api_key": api_key,
        "context_tokens": context_tokens,
        "threads": threads,
        "port": port,
    }
    process = subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],  # -P: nothing of the current directory is imported
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **_ENVIRONMENT},  # before the library is loaded, or it does not look
        start_new_session=True,  # Ctrl-C of the terminal is ours to obey
    )
    try:
        with token.on_cancel(process.kill):
            answer = _ask(process, settings)
        token.check()
        if "url" not in answer:
            reason = answer.get("error") or _reason(process, token)
            advice = ": delete it and fetch it again" if "incomplete" in reason else ""
            raise ModelError(f"can't serve {str(model)!r}: {reason}{advice}")
    except BaseException:  # Ctrl-C, too
        _end(process)
        raise
    assert process.stderr is not None
    process.stderr.close()  # the child has left it, too
    port = urlsplit(answer["url"]).port or 0
    return Child(process, port, Endpoint(base_url(port), api_key))


def base_url(port: int) -> str:
    """Where a child on this port answers."""
    return f"http://127.0.0.1:{port}/v1"


@attrs.frozen(eq=False)
class Child:
    """One running child. Whoever takes it out of `LocalModel._child` ends it."""

    process: subprocess.Popen[bytes]
    port: int
    endpoint: Endpoint

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def end(self) -> None:
        """Kill it."""
        _end(self.process)

    def wait_idle(self, token: CancelToken, pauses_seconds: Iterable[float]) -> bool:
        """Ask the child until it says that it computes nothing. False if the token was cancelled before.

        There is nothing to wait on: the server tells its state to those who ask.

        Args:
            token: ends the waiting.
            pauses_seconds: how long to wait before each further question; when they run out, the answer is False.
        """
        url = f"http://127.0.0.1:{self.port}/slots"
        with Session() as session:
            session.trust_env = False  # a proxy of the environment is not for loopback
            for pause in pauses_seconds:
                try:
                    response = session.get(url, auth=BearerAuth(self.endpoint.api_key), token=token)
                    slots = msgspec.json.decode(response.content, type=list[_Slot])
                    if not any(slot.is_processing for slot in slots):
                        return True
                except Cancelled:
                    return False
                except (OSError, msgspec.DecodeError):  # what requests raises is an OSError
                    if not self.alive:
                        return True  # gone by itself: as idle as can be
                if token.wait(pause):
                    break
        return False


class _Slot(msgspec.Struct):
    is_processing: bool


def _ask(process: subprocess.Popen[bytes], settings: Mapping[str, str | int]) -> dict[str, str]:
    """Send the settings and read the one answer; empty if the child ended without."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already: so will its stdout
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.flush()
    line = process.stdout.readline()
    return msgspec.json.decode(line, type=dict[str, str]) if line.endswith(b"\n") else {}


def _reason(process: subprocess.Popen[bytes], token: CancelToken) -> str:
    """What the child writes about its failure, or how it has ended.

    The library writes in a thread of its own, when it gets round to it, so we wait for the child's words.

    Raises:
        Cancelled: the token was cancelled.
    """
    assert process.stderr is not None
    last = ""
    with token.child(timeout=_REASON_SECONDS) as patience, patience.on_cancel(process.kill):
        for written in process.stderr:
            line = written.decode(errors="replace")
            # llama.cpp marks its errors so, and its first one is the cause; Python's last line is its exception.
            _, is_error, logged = line.partition(" E ")
            last = " ".join((logged or line).split())
            if is_error:
                return last
        token.check()
        says_nothing = patience.cancelled
    if says_nothing and not last:
        return "its runtime does not say why"
    return last or f"its process ended with status {process.wait()}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and give back what we held of it. It has nothing to save; asking it first would only take time."""
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(BrokenPipeError):  # settings that were never read
        process.stdin.close()
    process.stdout.close()
    process.stderr.close()
