"""The loop that obeys the step machine, for code that blocks. All that is decided is decided elsewhere.

The loop is a generator that gives way after every entry, so that one loop serves a caller who waits for the end
and a caller who watches the log grow. No thread of its own is needed for either; only a run that is to be held in the
hand while it goes on, a `RunHandle`, has one. It may also be told to give way where it would wait for the model: then
whoever drives it may be an event loop at times (`_streamed.py`).
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from threading import Lock, current_thread
from types import TracebackType
from typing import Self, TypeAlias, assert_never

from aiwrapper._core.agent import CallModel, Finished, RunTools
from aiwrapper._core.log import Entry
from aiwrapper._feed import Feed, FeedReader
from aiwrapper._model_call import ModelCall
from aiwrapper._run import Run, RunResult
from aiwrapper._waiting import IN_PLACE, Pause, Waiting
from aiwrapper.drivers._run_thread import BLOCK_LEFT, RunThread, StartedRun
from aiwrapper.drivers._tool_calls import ToolCalls
from cancel_token import CancelReason, CancelToken

Steps: TypeAlias = Generator[Pause | None, None, None]
"""A run as it is driven, step by step: None after each entry."""


def drive(run: Run, model: ModelCall, tools: ToolCalls, waiting: Waiting = IN_PLACE) -> Steps:
    """Drive a run to its end, giving way after each entry. Exhaust the iterator, or close it: that stops the run.

    The steps may be taken in different threads, one at a time. The first may block, and so may each that a pause
    announces; all may, if it waits in place.

    Whatever ends it, the terminal entry has been appended and nothing of the run is left when the iterator has ended.

    Raises:
        BaseException: what is nobody's failure here, such as KeyboardInterrupt, after the run has been settled.
    """
    try:
        run.begin()
        yield None
        while not isinstance(step := run.next_step(), Finished):
            yield from waiting.before_blocking
            run.token.check()
            match step:
                case CallModel():
                    with closing(model.entries(step, run.token, run.doing, waiting)) as entries:
                        for entry in run.token.iter(entries):
                            if isinstance(entry, Pause):
                                yield entry
                            else:
                                run.append(entry)
                                yield None
                case RunTools():
                    run.doing("running_tools")
                    yield from tools.execute(step, run)
                case _:
                    assert_never(step)
            run.doing("between_steps")
        run.finish(step)
    except BaseException as error:
        if not run.end(error):
            raise


def complete(run: Run, model: ModelCall, tools: ToolCalls) -> RunResult:
    """Drive a run to its end.

    Raises:
        BaseException: as for `drive`.
    """
    with driving(run, model, tools) as steps:
        for _ in steps:
            pass
    return run.result()


@contextmanager
def driving(run: Run, model: ModelCall, tools: ToolCalls) -> Iterator[Steps]:
    """`drive`, to be exhausted inside the block; leaving that early ends the run, whatever the reason."""
    steps = drive(run, model, tools)
    try:
        yield steps
    except BaseException as error:  # Ctrl-C may come between two steps, too, and before the first
        give_up(run, steps, error)
        raise


def give_up(run: Run, steps: Steps, error: BaseException) -> None:
    """End a run whose steps an exception has left."""
    run.interrupt(error)
    steps.close()
    run.close(error)


class RunHandle(StartedRun):
    """A run that goes on by itself in a thread, to be watched, stopped and waited for from any others.

        run = agent.start("Compare these two pages")
        stop_button.on_click(run.stop)
        for entry in run: ...
        result = run.wait()

    A program that ends meanwhile leaves the run behind like a crash. As a context manager it is stopped and waited
    for when the block is left: `with agent.start(...) as run: ...`.
    """

    def __init__(self, thread: RunThread, feed: Feed) -> None:
        super().__init__(thread)
        self._feed = feed

    def wait(self, *, token: CancelToken | None = None) -> RunResult:
        """Block until the run has ended and nothing of it is left.

        Args:
            token: stops the waiting, and not the run.

        Returns:
            What became of it; the same each time.

        Raises:
            Cancelled: the token was cancelled first.
            RuntimeError: this is the run's own thread, for instance that of a subscriber, or that of one of its tools.
            BaseException: what came through the run that was no failure of it, such as SystemExit of a subscriber.
        """
        self._thread.check_wait(current_thread())
        over = self._thread.over
        if not over.cancelled:
            with CancelToken.any(over, CancelToken.never() if token is None else token) as either:
                either.wait()
            if token is not None and not over.cancelled:
                token.check()
        return self._thread.result()

    def __iter__(self) -> Iterator[Entry]:
        """The run's log from its beginning, as it grows; the terminal entry is the last.

        Any number of threads may iterate at once, each at its own speed: none of them holds up the run, a stop, or
        another. Whoever has the terminal entry may start the next run.

        Raises:
            RuntimeError: as for `wait`, where the next entry would have to be waited for.
        """
        reader = FeedReader(self._feed)
        while True:
            ended = reader.ended  # before looking: what is there afterwards is all
            entry = reader.take()
            if entry is not None:
                yield entry
            elif ended:
                return
            else:
                self._thread.check_wait(current_thread())
                asleep = Lock()
                asleep.acquire()
                reader.bell.hang(asleep.release)
                try:
                    if not reader.has_news:
                        asleep.acquire()
                finally:
                    reader.bell.forget(asleep.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(CancelReason("signal" if isinstance(error, KeyboardInterrupt) else "closed", BLOCK_LEFT))
        self._thread.check_wait(current_thread())
        self._thread.over.wait()
