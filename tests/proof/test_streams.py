"""A stream that the loop reads is stopped at every point of the reading: every rule is kept, and its agent goes on."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from functools import partial

import pytest
from attrs import evolve

from aiwrapper import (
    AsyncChatAgent,
    CancelToken,
    Entry,
    RunFinished,
    RunStopped,
    TextDelta,
    TurnStarted,
    validate,
)
from aiwrapper._core.conversation import fold, settle
from aiwrapper.testing import DialectName, Say, Script, Think, Turn
from aiwrapper.testing.scripted import ScriptedTransport
from aiwrapper.transport import HttpRequest
from cancel_token import CancelReason
from cancel_token.aio import run_sync
from cancel_token.http import NothingArrived
from cancel_token.testing import Backend, Outcome, explore
from cancel_token.testing._trial import Who
from tests.proof.exploring import LIMITS, MOST_POINTS_OF_A_TASK, judged
from tests.proof.talks import DIALECTS, lang_of

STREAM_LIMITS = evolve(LIMITS, points=MOST_POINTS_OF_A_TASK)

SPOKEN = Script((Turn((Think(("Hm",)), Say(("It is", " é", ".")))),))


class ArrivingTransport(ScriptedTransport):
    """One whose bodies an event loop can read: before each piece, it is waited for at a socket that can be read."""

    def __init__(self, dialect: DialectName, script: Script) -> None:
        super().__init__(dialect, script.answers)
        self.ours, self._theirs = socket.socketpair()
        self._theirs.send(b"there is always something")

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()

    def open(self, request: HttpRequest, token: CancelToken, /) -> "AbstractContextManager[Arriving]":  # type: ignore[override]  # a body of another kind
        return self._opened(super().open(request, token), token)

    @contextmanager
    def _opened(
        self, opened: AbstractContextManager[Iterator[bytes]], token: CancelToken
    ) -> Iterator["Arriving"]:
        with opened as pieces:
            yield Arriving(pieces, self.ours.fileno(), token)


class Arriving:
    def __init__(self, pieces: Iterator[bytes], descriptor: int, token: CancelToken) -> None:
        self._pieces = pieces
        self._nothing = NothingArrived(descriptor, None)
        self._token = token

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def iter_nowait(self) -> Iterator[bytes | NothingArrived]:
        yield self._nothing
        for piece in self._pieces:
            yield piece
            yield self._nothing
            self._token.check()


class Stream:
    """A stream that the loop has: what happened before was a race with the thread that began it."""

    def __init__(self, dialect: DialectName) -> None:
        self.transport = ArrivingTransport(dialect, SPOKEN)
        self.agent = AsyncChatAgent(lang_of(self.transport))
        self.token = CancelToken()
        self.entries = self.agent.stream("Go", token=self.token)
        self.log: list[Entry] = []
        self.entered = False

    @classmethod
    async def that_has_begun(cls, dialect: DialectName) -> "Stream":
        stream = cls(dialect)
        while not isinstance(entry := await anext(stream.entries), TurnStarted):
            stream.log.append(entry)
        stream.log.append(entry)
        for thread in threading.enumerate():
            if thread.name.startswith("aiwrapper run"):
                await run_sync(thread.join)
        return stream

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.transport.close()

    async def run(self, token: CancelToken) -> None:
        with token.on_cancel(self.token.cancel, CancelReason("user", "the stop of the exploration")):
            self.entered = True
            async with aclosing(self.entries) as entries:
                async for entry in entries:
                    self.log.append(entry)

    async def check(self, outcome: Outcome) -> None:
        assert outcome.kind in ("returned", "cancelled"), outcome
        if not self.entered:  # asyncio cancels a task before its first step, and nobody has left the stream
            await self.entries.aclose()
        assert (self.agent.busy, self.transport.open_now) == (False, 0)
        result = self.agent.last_result
        assert result is not None
        assert (self.token.stats().children, self.token.stats().registrations) == (0, 0)
        told = settle(fold(self.log))
        if outcome.kind == "returned":
            assert isinstance(self.log[-1], RunFinished | RunStopped)
            assert told == result.conversation
        assert [] == validate(result.conversation)
        assert result.status == "completed" or result.stop is not None
        said = "".join(entry.text for entry in self.log if isinstance(entry, TextDelta))
        assert "It is é.".startswith(result.text)
        assert result.text.startswith(said.strip()) or outcome.kind == "returned"

    async def go_on(self) -> None:
        """Say the next thing, undisturbed."""
        self.transport.say()
        rest = [entry async for entry in self.agent.stream("And now?")]
        assert isinstance(rest[-1], RunFinished)
        assert [] == [broken for request in self.transport.requests for broken in request.violations]


@pytest.mark.parametrize("who", ["inline", "thread"])
@pytest.mark.parametrize("loop", ["trio", "asyncio"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_may_be_stopped_at_every_point(
    dialect: DialectName, loop: Backend, who: Who, explored: Counter[str]
) -> None:
    report = explore(
        partial(Stream.that_has_begun, dialect),
        Stream.run,
        Stream.check,
        backend=loop,
        who=who,
        restart=Stream.go_on,
        limits=STREAM_LIMITS,
    )

    judged(report, explored, f"{loop}: a stream in the loop")


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_may_be_cancelled_by_its_runtime_at_every_point(
    dialect: DialectName, loop: Backend, explored: Counter[str]
) -> None:
    report = explore(
        partial(Stream.that_has_begun, dialect),
        Stream.run,
        Stream.check,
        backend=loop,
        stop="runtime",
        restart=Stream.go_on,
        limits=STREAM_LIMITS,
    )

    judged(report, explored, f"{loop}: a stream in the loop, by the runtime")
