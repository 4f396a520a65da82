"""The parent's side of the local model: starts the child process, says where it is, brings it to rest.

One child serves one request after the other. It is started by the first `start()`, and again by the next one after
it has ended, whatever ended it; the key stays the same and so does the port, if nobody took it in between.
The child leaves at the end of its stdin, of which we hold the other end: it can't outlive us, not even a kill -9.
"""

import contextlib
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import attrs
import msgspec

from cancel_token import Cancelled, CancelToken
from cancel_token.http import BearerAuth, Session

from ._model_file import ModelError

Rest: TypeAlias = Literal[
    "idle",  # the child computes nothing (or does not run at all); it is ready for the next request
    "killed",  # it would not stop in time; the next start makes a new one
    "busy",  # it still computes, but other requests are open and it was left alone
]

SAMPLING: Final[Mapping[str, float]] = MappingProxyType(
    # Found by trying SmolLM2-135M: without the penalty it repeats itself within a hundred words, and from a
    # temperature of 0.7 on it drifts off the subject.
    {"temperature": 0.4, "repeat_penalty": 1.15, "repeat_last_n": 256}
)
"""Fields to add to a chat request, so that a model this small does not go round in circles."""

_CHILD = Path(__file__).with_name("_child.py")
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}  # an idle thread sleeps instead of spinning
_MAX_THREADS = 8  # chosen by hand: a model of this size gains nothing from more
# Between two questions whether it is at rest. A generation ends within the short ones. After them it is evaluating a
# prompt, and must be left in peace for more than a second: llama.cpp looks for a closed connection when it has waited
# one second for a result, and the answer to a question of ours, to whomever, starts that second again. Asked every
# 100 ms, it evaluated to the end. The long pause is that second and one batch of a slow machine, chosen by hand.
_PAUSES_SECONDS = (0.005, 0.02, 0.08)
_LONG_PAUSE_SECONDS = 1.65


@attrs.frozen
class Endpoint:
    """Where the local model answers, as any OpenAI-compatible host.

    Args:
        base_url: ends in `/v1`.
        api_key: random, made for this `LocalModel`; in no repr.
    """

    base_url: str
    api_key: str = attrs.field(repr=False)


class LocalModel:
    """A model file, served by a child process of ours on 127.0.0.1.

    Thread-safe. Leaving its `with` block closes it; entering starts nothing.

        with LocalModel(path) as local:
            with local.request(token) as endpoint:
                ...                                  # POST {endpoint.base_url}/chat/completions
            if token.cancelled:
                local.bring_to_rest(CancelToken())

    Args:
        model: a GGUF file.
        context_tokens: how much of a conversation it can see; the memory it takes grows with it.
        threads: how many compute; by default all cores but one, so that there is one left to press Stop on.
    """

    def __init__(self, model: Path, *, context_tokens: int = 4096, threads: int | None = None) -> None:
        self.model = model
        self._api_key = secrets.token_urlsafe(32)
        self._context_tokens = context_tokens
        self._threads = threads if threads is not None else max(1, min(_cores() - 1, _MAX_THREADS))
        # Guards the fields below; held for assignments only, and never taken in a token's callback: that may run in
        # a signal handler, in the very thread that holds it.
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._starting: Future[None] | None = (
            None  # set while one thread starts the child; the others wait for it
        )
        self._open_requests = 0
        self._closed = False
        self._port = 0  # the last one, asked for again after a restart

    def __repr__(self) -> str:
        child = self._child
        where = f"at {child.endpoint.base_url}" if child is not None and child.alive else "not running"
        return f"<LocalModel {self.model.name!r} {where}>"

    @property
    def api_key(self) -> str:
        """The key that the child asks for: the same for the life of this object."""
        return self._api_key

    @property
    def base_url(self) -> str:
        """Where the child answers, ending in `/v1`. After a restart it is the same, unless somebody took the port.

        Raises:
            ModelError: it has never been started.
        """
        if not self._port:
            raise ModelError(f"the local model {self.model.name!r} has not been started")
        return _base_url(self._port)

    @property
    def pid(self) -> int | None:
        """The process id of the child, None if none is running."""
        child = self._child
        return child.process.pid if child is not None and child.alive else None

    def start(self, token: CancelToken) -> Endpoint:
        """Make sure the child runs, and return where it answers. Call it before every request: it is cheap.

        Blocks while the model is loaded (about half a second for 100 MB); several threads may call it at once, and one
        child is started. It may end at any moment afterwards: then a request fails, and the next start makes a new one.

        Args:
            token: stops the start (of this caller: another one that waits for it tries itself) and kills the child
                that was being started. It has no say over the child once this has returned.

        Returns:
            Where it answers.

        Raises:
            Cancelled: the token was cancelled.
            ModelError: the model can't be served: a file that is none, no runtime; or this object is closed.
        """
        while True:
            token.check()
            with self._lock:
                if self._closed:
                    raise ModelError(f"the local model {self.model.name!r} is closed")
                child = self._child
                if child is not None and child.alive:
                    return child.endpoint
                others = self._starting
                if others is None:
                    mine = self._starting = Future[None]()
                    break
            _wait(others, token)
        try:
            new = self._spawn(token)
            self._adopt(new)
        finally:
            with self._lock:
                self._starting = None
            mine.set_result(None)
        return new.endpoint

    @contextlib.contextmanager
    def request(self, token: CancelToken) -> Iterator[Endpoint]:
        """Start the child if need be and count a request as open while the block runs.

        `bring_to_rest` leaves the child alone while any is open, so that the stop of one conversation never costs
        another one its answer. Without such blocks it can't know of others.

        Args:
            token: as for `start`.

        Yields:
            Where the model answers.

        Raises:
            Cancelled: the token was cancelled during the start.
            ModelError: as for `start`.
        """
        with self._lock:
            self._open_requests += 1
        try:
            yield self.start(token)
        finally:
            with self._lock:
                self._open_requests -= 1

    def bring_to_rest(self, token: CancelToken, *, grace_seconds: float = 4.0) -> Rest:
        """Wait until the child computes no more, and kill it if it does not get there. Call it after a stop.

        A closed connection is all the child needs: it notices within about 20 ms while it generates, and within a
        second and a batch while it evaluates a prompt. A new child takes half a second to start and has to evaluate
        the whole conversation again, so be patient. Blocks no longer than the grace time.
        An open request keeps the child from being killed, so leave its `request` block first. The answer is about
        now: a request that starts in this moment is nobody's fault.

        Args:
            token: not the one that was cancelled. If this one is, the waiting ends and the child is killed at once.
            grace_seconds: how long to wait before it is killed.

        Returns:
            What came of it.

        Raises:
            Cancelled: the token was cancelled; nothing is being computed then (unless other requests are open).
        """
        child = self._child
        if child is None:
            return "idle"
        with token.child(timeout=grace_seconds, name="the local model's grace") as grace:
            if child.wait_idle(grace):
                return "idle"
        with self._lock:
            left_alone = self._open_requests > 0
            ours = not left_alone and self._child is child  # else another thread has ended it, or is about to
            if ours:
                self._child = None
        if ours:
            child.end()
        token.check()
        return "busy" if left_alone else "killed"

    def close(self) -> None:
        """End the child, whatever it does. Safe to call twice; a start under way elsewhere ends with an error."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _adopt(self, new: "_Child") -> None:
        with self._lock:
            if not self._closed:
                dead, self._child, self._port = self._child, new, new.port
            else:
                dead = new
        if dead is not None:
            dead.end()
        if dead is new:
            raise ModelError(f"the local model {self.model.name!r} was closed while it started")

    def _spawn(self, token: CancelToken) -> "_Child":
        settings: dict[str, str | int] = {
            "model": str(self.model.absolute()),
            "api_key": self._api_key,
            "context_tokens": self._context_tokens,
            "threads": self._threads,
            "port": self._port,
        }
        # Errors go to a file without a name: a pipe would need somebody to read it for as long as the child lives.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],  # -P: nothing of the current directory is imported
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **_ENVIRONMENT},  # before the library is loaded, or it does not look
                start_new_session=True,  # Ctrl-C of the terminal is ours to obey
            )
            try:
                with token.on_cancel(process.kill):
                    answer = _ask(process, settings)
                token.check()
                if "url" not in answer:
                    status = process.wait()
                    raise ModelError(f"can't serve {str(self.model)!r}: " + _failure(answer, errors, status))
            except BaseException:  # Ctrl-C, too
                _end(process)
                raise
        port = urlsplit(answer["url"]).port
        assert port is not None
        return _Child(process, port, Endpoint(_base_url(port), self._api_key))


@attrs.frozen(eq=False)
class _Child:
    """One running child. Whoever takes it out of `LocalModel._child` ends it."""

    process: subprocess.Popen[bytes]
    port: int
    endpoint: Endpoint

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        _end(self.process)

    def wait_idle(self, token: CancelToken) -> bool:
        """Ask the child until it says that it computes nothing. False if the token was cancelled before.

        There is nothing to wait on: the server tells its state to those who ask.
        """
        url = f"http://127.0.0.1:{self.port}/slots"
        with Session() as session:
            session.trust_env = False  # a proxy of the environment is not for loopback
            for pause in itertools.chain(_PAUSES_SECONDS, itertools.repeat(_LONG_PAUSE_SECONDS)):
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


def _failure(answer: Mapping[str, str], errors: IO[bytes], status: int) -> str:
    if answer.get("error"):
        return answer["error"]
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    # llama.cpp marks its errors so, and its first one is the cause; Python's last line is its exception.
    logged = [line.partition(" E ")[2] for line in lines if " E " in line]
    reasons = logged[:1] or lines[-1:]
    return " ".join(reasons[0].split()) if reasons else f"its process ended with status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and give back what we held of it. It has nothing to save; asking it first would only take time."""
    process.kill()
    process.wait()
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # settings that were never read
        process.stdin.close()
    process.stdout.close()


def _wait(future: Future[None], token: CancelToken) -> None:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    with token.on_cancel(done.set):
        done.wait()


def _base_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))  # a container's share, not the machine
    return os.cpu_count() or 1
