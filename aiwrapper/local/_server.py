"""The parent's side of the local model: starts the child process, says where it is, brings it to rest.

One child serves one request after the other. It is started by the first `start()`, and again by the next one after
it has ended, whatever ended it; the key stays the same and so does the port, if nobody took it in between.
The child leaves at the end of its stdin, of which we hold the other end: it can't outlive us, not even a kill -9.
"""

import contextlib
import itertools
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Literal, TypeAlias

from cancel_token import CancelToken

from ._model_file import ModelError
from ._process import Child, Endpoint, base_url, spawn

Rest: TypeAlias = Literal[
    "idle",  # the child computes nothing (or does not run at all); it is ready for the next request
    "killed",  # it would not stop in time; the next start makes a new one
    "pending",  # it still computes, and is being watched: it will be idle, or killed at the end of the grace time
    "busy",  # it still computes, but other requests are open and it was left alone
]

SAMPLING: Final[Mapping[str, float]] = MappingProxyType(
    # Found by trying SmolLM2-135M: without the penalty it repeats itself within a hundred words, and from a
    # temperature of 0.7 on it drifts off the subject.
    {"temperature": 0.4, "repeat_penalty": 1.15, "repeat_last_n": 256}
)
"""Fields to add to a chat request, so that a model this small does not go round in circles."""

_MAX_THREADS = 8  # chosen by hand: a model of this size gains nothing from more
# Between two questions whether it is at rest. A generation ends within the short ones. After them it is evaluating a
# prompt, and must be left in peace for more than a second: llama.cpp looks for a closed connection when it has waited
# one second for a result, and the answer to a question of ours, to whomever, starts that second again. Asked every
# 100 ms, it evaluated to the end. The long pause is that second and one batch of a slow machine, chosen by hand.
_PAUSES_SECONDS = (0.005, 0.02, 0.08)
_LONG_PAUSE_SECONDS = 1.65


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

    def __init__(
        self, model: str | os.PathLike[str], *, context_tokens: int = 4096, threads: int | None = None
    ) -> None:
        self.model: Path = Path(model)
        self._api_key = secrets.token_urlsafe(32)
        self._context_tokens = context_tokens
        self._threads = threads if threads is not None else max(1, min(_cores() - 1, _MAX_THREADS))
        self._life = CancelToken(name="local model")  # cancelled by close()
        # Guards the fields below; held for assignments only, and never taken in a token's callback: that may run in
        # a signal handler, in the very thread that holds it.
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._starting: Future[None] | None = (
            None  # set while one thread starts the child; the others wait for it
        )
        self._watchers: dict[Child, threading.Thread] = {}  # see `bring_to_rest`; they take themselves out
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
        return base_url(self._port)

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
            new = spawn(
                self.model,
                self._api_key,
                port=self._port,
                context_tokens=self._context_tokens,
                threads=self._threads,
                token=token,
            )
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

    def bring_to_rest(
        self, token: CancelToken, *, wait_seconds: float = 0.2, grace_seconds: float = 4.0
    ) -> Rest:
        """See to it that the child computes no more: kill it if it does not get there by itself. Call it after a stop.

        A closed connection is all the child needs: it notices within about 20 ms while it generates, and within a
        second and a batch while it evaluates a prompt. The first is waited for here; the second nobody should have to
        wait for, so a thread of this object sees to it, and `close()` ends that. A new child has to load the model
        and to evaluate the whole conversation again: hence the long grace.

        An open request keeps the child from being killed, so leave its `request` block first. The answer is about
        now: a request that starts in this moment is nobody's fault.

        Args:
            token: not the one that was cancelled. If this one is, the waiting ends and the child is killed at once.
            wait_seconds: how long this call may block.
            grace_seconds: how long it may take altogether, before the child is killed.

        Returns:
            What came of it.

        Raises:
            Cancelled: the token was cancelled; nothing is being computed then (unless other requests are open).
        """
        child = self._child
        if child is None:
            return "idle"
        with token.child(
            timeout=min(wait_seconds, grace_seconds), name="rest of the local model"
        ) as patience:
            if child.wait_idle(
                patience, itertools.chain(_PAUSES_SECONDS, itertools.repeat(_LONG_PAUSE_SECONDS))
            ):
                return "idle"
        if grace_seconds > wait_seconds and not token.cancelled:
            self._watch(child, grace_seconds - wait_seconds)
            return "pending"
        rest = self._kill_unless_needed(child)
        token.check()
        return rest

    def close(self) -> None:
        """End the child, whatever it does. Safe to call twice; a start under way elsewhere ends with an error."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
            watchers = list(self._watchers.values())
        self._life.cancel("the local model was closed")
        if child is not None:
            child.end()
        for watcher in watchers:
            watcher.join()

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _adopt(self, new: "Child") -> None:
        with self._lock:
            if not self._closed:
                dead, self._child, self._port = self._child, new, new.port
            else:
                dead = new
        if dead is not None:
            dead.end()
        if dead is new:
            raise ModelError(f"the local model {self.model.name!r} was closed while it started")

    def _watch(self, child: Child, seconds: float) -> None:
        thread = threading.Thread(
            target=self._see_to_rest, args=(child, seconds), name="aiwrapper local model", daemon=True
        )
        with self._lock:
            if not self._closed and child not in self._watchers:
                self._watchers[child] = thread
                thread.start()

    def _see_to_rest(self, child: Child, seconds: float) -> None:
        try:
            with self._life.child(timeout=seconds, name="rest of the local model") as grace:
                # In peace first: it has been asked a moment ago.
                if not grace.wait(_LONG_PAUSE_SECONDS) and child.wait_idle(
                    grace, itertools.repeat(_LONG_PAUSE_SECONDS)
                ):
                    return
            if not self._life.cancelled:
                self._kill_unless_needed(child)
        finally:
            with self._lock:
                del self._watchers[child]

    def _kill_unless_needed(self, child: Child) -> Rest:
        with self._lock:
            left_alone = self._open_requests > 0
            ours = not left_alone and self._child is child  # else another thread has ended it, or is about to
            if ours:
                self._child = None
        if ours:
            child.end()
        return "busy" if left_alone else "killed"


def _wait(future: Future[None], token: CancelToken) -> None:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    with token.on_cancel(done.set):
        done.wait()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))  # a container's share, not the machine
    return os.cpu_count() or 1
