"""Runs for tasks of trio and asyncio.

There is one loop that obeys the step machine (`threads.py`), and it blocks: a run has a thread, in which it works, is
written down and ends, exactly as in code that blocks. What a task does is to wait for that thread, to take the
entries that it hands over, and to stop it when the runtime cancels the task. `async def` tools run in the event loop.

So an event loop does nothing for a run that nobody watches but to be woken at its end, and a slow disk, a slow parser
or a deaf tool holds up no other task. A run that one task waits for, and nobody else is told of, is the exception: the
event loop itself takes those of its steps that block on nothing (`_streamed.py`).
"""

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.lowlevel

from aiwrapper._core.log import Entry
from aiwrapper._feed import Feed, FeedReader
from aiwrapper._run import RunResult
from aiwrapper.drivers._run_thread import BLOCK_LEFT, STREAM_CLOSED, RunThread, StartedRun
from aiwrapper.drivers._streamed import StreamedRun
from cancel_token import CancelKind, CancelReason, CancelToken
from cancel_token.aio import comes_again, outlast, wait_cancelled
from cancel_token.loops import Sleeper

ENTRIES_BETWEEN_CHECKPOINTS: Final = 64
"""How many entries that are there already a task may take in a row. Chosen by hand: some 100 us of work."""

SECOND_READER: Final = "another task is waiting for the next entry of this stream"

READER_CANCELLED: Final = "the task that waited for the run was cancelled"
"""Said of a stop by the runtime."""


class AsyncRunHandle(StartedRun):
    """A run that goes on by itself in a thread, to be watched, stopped and waited for from tasks and threads.

        run = agent.start("Compare these two pages")
        async for entry in run: ...
        result = await run.wait()

    It outlives the task that has started it. Where it shall not, use it as a context manager: it is stopped and
    waited for when the block is left, `async with agent.start(...) as run: ...`.
    """

    def __init__(self, thread: RunThread, feed: Feed) -> None:
        super().__init__(thread)
        self._feed = feed

    async def wait(self) -> RunResult:
        """Wait until the run has ended and nothing of it is left. A task that is cancelled meanwhile stops waiting.

        Returns:
            What became of it; the same each time.

        Raises:
            RuntimeError: this is the task of one of the run's own tools.
            BaseException: what came through the run that was no failure of it, such as SystemExit of a subscriber.
        """
        self._thread.check_wait(anyio.get_current_task())
        await wait_cancelled(self._thread.over)
        return self._thread.result()

    def __aiter__(self) -> AsyncIterator[Entry]:
        """The run's log from its beginning, as it grows; the terminal entry is the last.

        Any number of tasks may iterate at once, each at its own speed: none of them holds up the run, a stop, or
        another. Whoever has the terminal entry may start the next run. Leaving the iteration early leaves the run
        alone.

        Raises:
            RuntimeError: as for `wait`, where the next entry would have to be waited for.
        """
        return _Entries(FeedReader(self._feed), self._thread)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(
            error, GeneratorExit
        ):  # the task was thrown away, and cannot wait for anything any more
            self.stop(CancelReason("closed", BLOCK_LEFT))
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        cancelled = isinstance(error, anyio.get_cancelled_exc_class())
        self.stop(CancelReason("signal" if interrupted else "runtime" if cancelled else "closed", BLOCK_LEFT))
        self._thread.check_wait(anyio.get_current_task())
        await _wait_through(self._thread.over)


class AsyncEntries(AsyncIterator[Entry]):
    """A run and its log as it grows: what `AsyncChatAgent.stream` gives. Taking the first entry begins the run.

    Leaving the iteration early stops the run with the reason `closed`. `await entries.aclose()`, and so
    `contextlib.aclosing`, also waits until nothing of it is left.

    Args:
        begin: begins the run; given a reason, one that has been stopped before it could ask anybody. The second
            argument is to be told of what drives the run before that starts, so that it is never nobody's.
    """

    def __init__(self, begin: Callable[[CancelReason | None, Callable[[StreamedRun], None]], object]) -> None:
        self._begin = begin
        self._run: StreamedRun | None = None
        self._is_read = False  # while a task takes an entry, and perhaps waits for it
        self._in_a_row = 0
        self._closed = False

    async def __anext__(self) -> Entry:
        if self._closed:
            raise StopAsyncIteration
        if self._is_read:
            raise RuntimeError(SECOND_READER)
        try:
            self._is_read = True
            run = self._run
            if run is None:
                run = await self._started()
                await run.wait()  # for its thread
            while True:
                if self._in_a_row == ENTRIES_BETWEEN_CHECKPOINTS:
                    self._in_a_row = 0
                    await anyio.lowlevel.checkpoint()  # before one is taken, so that none is lost
                ended = run.ended  # before looking: what is there afterwards is all
                entry = run.take()
                self._in_a_row += 1
                if entry is not None:
                    return entry
                if ended:
                    break
                if not run.step():
                    self._in_a_row = 0
                    await run.wait()
        except GeneratorExit:  # the task was thrown away, and cannot wait for anything any more
            self._drop()
            raise
        except BaseException as error:
            await self._leave(error)
            raise
        finally:
            self._is_read = False
        await self.aclose()
        raise StopAsyncIteration

    async def complete(self) -> RunResult:
        """Let the run go on to its end, for a reader who wants no entry.

        Returns:
            What became of it; also if the runtime cancels the task when the run has just ended, and does so again.
        """
        try:
            async for _ in self:
                pass
        except GeneratorExit:
            self._drop()
            raise
        except BaseException as error:  # a Ctrl-C may come out here, too
            if not self._closed:
                await self._leave(error)
            result = self._result()
            if result is None or _stopped_by_runtime(result) or not comes_again(error):
                raise
            return result
        result = self._result()
        assert result is not None
        return result

    def _result(self) -> RunResult | None:
        return self._run.run.result() if self._run is not None and self._run.run.ended else None

    async def _started(self) -> StreamedRun:
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
        except GeneratorExit:  # outside of any loop, which the next line asks for
            raise
        except anyio.get_cancelled_exc_class():
            # What the user has said is kept (S4), and nobody is asked.
            self._begin(CancelReason("runtime", READER_CANCELLED), self._own)
            raise
        self._begin(None, self._own)
        del self._begin  # what a run begins with is of no use to it, perhaps for minutes
        assert self._run is not None
        return self._run

    def _own(self, run: StreamedRun) -> None:
        self._run = run

    async def _leave(self, error: BaseException) -> None:
        """Close it because of an exception of the task's, which goes on."""
        kind: CancelKind = "signal" if isinstance(error, KeyboardInterrupt) else "runtime"
        await self._close(CancelReason(kind, READER_CANCELLED))

    async def aclose(self) -> None:
        """Stop the run if it has not ended, and wait until nothing of it is left.

        Raises:
            BaseException: what came through the run that was no failure of it.
        """
        await self._close(CancelReason("closed", STREAM_CLOSED))

    async def _close(self, reason: CancelReason) -> None:
        self._closed = True
        run = self._run
        if run is None:
            return
        if not run.over.cancelled:
            run.stop(reason)
            if not run.end_here():
                await _wait_through(run.over)
        run.leave()

    def _drop(self) -> None:
        """Stop the run and don't wait for it."""
        if self._run is not None and not self._closed:
            self._closed = True
            self._run.stop(CancelReason("closed", STREAM_CLOSED))
            self._run.end_here()

    def __del__(self) -> None:
        self._drop()


class _Entries(AsyncIterator[Entry]):
    """The entries that a reader is given, awaited."""

    def __init__(self, reader: FeedReader, thread: RunThread) -> None:
        self._reader = reader
        self._thread = thread
        self._in_a_row = 0

    async def __anext__(self) -> Entry:
        reader = self._reader
        if self._in_a_row == ENTRIES_BETWEEN_CHECKPOINTS:
            self._in_a_row = 0
            await anyio.lowlevel.checkpoint()  # before one is taken, so that none is lost
        while True:
            ended = reader.ended  # before looking: what is there afterwards is all
            entry = reader.take()
            if entry is not None:
                self._in_a_row += 1
                return entry
            if ended:
                raise StopAsyncIteration
            self._thread.check_wait(anyio.get_current_task())
            sleeper = Sleeper()
            reader.bell.hang(sleeper.wake)
            try:
                if not reader.has_news:
                    self._in_a_row = 0
                    await sleeper.sleep()
            finally:
                reader.bell.forget(sleeper.wake)


def _stopped_by_runtime(result: RunResult) -> bool:
    return result.stop is not None and result.stop.reason == "runtime"


async def _wait_through(over: CancelToken) -> None:
    """Wait for a run that has been stopped, whatever the runtime wants of the task meanwhile."""
    if not over.cancelled:
        await outlast(over)
