"""A run that one task waits for: its loop drives it while the model's answer is on its way, threads for the rest.

Where a thread drives a run that a task reads, each event costs two wake-ups: the socket's of the thread, and the
thread's of the loop; and a thread that waits for a model costs memory, and an order to end of its own. So the thread
hands the run over when it would wait for the answer, and ends. The task waits for the socket itself and takes the run's
steps where it is, up to one that may block, with which the next thread begins.
What is driven is the same in all of them, `drive`: what it decides and appends, and how it ends, is written once.

1. *One at a time.* Whoever takes steps has popped `_turn`, a list of one item, and puts it back after them.
2. *Whose they are.* While `_lent` is set the loop takes no step of its own accord. It is set before a thread is
   started, and reset by that thread, as the last thing but one that it does.
3. *Back-pressure* needs nothing: the loop takes a step only for a reader who has no entry left.
4. *A stop* needs no reader: it has the loop end the run. Nothing in that blocks, since a stopped run begins nothing,
   and nobody but the reader is told of a run that is handed over.
5. *No stop is missed.* A thread puts `_turn` back and then looks whether the run was stopped; whoever stops it flags it
   and then tries to pop `_turn`. At least one of them ends the run.
"""

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

import anyio.lowlevel

from aiwrapper._core.log import Entry
from aiwrapper._feed import Pipe
from aiwrapper._model_call import ModelCall
from aiwrapper._run import Run
from aiwrapper._waiting import GIVING_WAY, IN_PLACE, Pause, Point
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.threads import drive, give_up
from cancel_token import CancelReason, CancelToken
from cancel_token.http import NothingArrived
from cancel_token.loops import LoopCall, Sleeper, thread_context


class StreamedRun:
    """Drives a run for its only reader, a task. Made in the task, like everything here but `_in_thread`.

    The run and its tools see the task's context variables.

    Args:
        run: it.
        model: whom it asks.
        tools: execute the calls.
        pipe: has the run's entries last, where the reader wants them.
        in_threads: whether the loop takes no step of it, not even its end: who is told of it may block.

    Raises:
        RuntimeError: this is no task of trio or asyncio.
    """

    def __init__(self, run: Run, model: ModelCall, tools: ToolCalls, pipe: Pipe, *, in_threads: bool) -> None:
        self.run = run
        self.over: CancelToken = CancelToken(name=f"run {run.run_id} is over")
        """Cancelled when nothing of the run is left."""
        self._sleeper = Sleeper()
        in_threads = in_threads or not self._sleeper.can_wait_readable
        self._steps = drive(run, model, tools, IN_PLACE if in_threads else GIVING_WAY)
        self._next = self._steps.__next__
        self._context = thread_context()
        self._pipe = pipe
        pipe.stopped = run.token
        self._turn: list[None] = [None]
        self._lent = False
        self._in_threads = in_threads
        self._thread: threading.Thread | None = None
        self._news = LoopCall(self._look)
        self._reader: Sleeper | None = None  # it, while somebody waits
        self._awaited: NothingArrived | None = None
        self._alarm: CancelToken | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: the system has no thread left. The run has ended.
            BaseException: a Ctrl-C. The run has ended, or it has been stopped and its thread ends it.
        """
        try:
            self._claim()  # first: from here on nobody else ends it
            if not self._in_threads:  # else the loop has no part in a stop
                self._news.follow(self.run.token)
            self._lend()
        except BaseException as error:
            try:
                self._turn.pop()
            except IndexError:  # its thread has begun
                self.stop(CancelReason("signal", "it was interrupted when it had just begun"))
            else:
                self._give_up(error)
            raise

    # For the reader

    @property
    def ended(self) -> bool:
        """Whether no entry comes any more."""
        return self._pipe.ended

    def take(self) -> Entry | None:
        """The next entry; None if there is none now."""
        return self._pipe.take()

    def step(self) -> bool:
        """Take a step of the run, if that does not block. False: `wait` first."""
        if self._lent:
            return False
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None  # 2 KiB and twenty objects, of which there may be thousands for minutes
        pause = self._advance(self._next)
        if pause is Point.MAY_BLOCK:
            self._go_on_in_a_thread()
        elif isinstance(pause, NothingArrived):
            self._awaited = pause
            return False
        return pause is not Point.READ

    async def wait(self) -> None:
        """Wait until it may have gone on, or may go on."""
        reader = self._reader = self._sleeper
        awaited, self._awaited = self._awaited, None
        try:
            if awaited is not None:
                self._set_alarm(awaited.until)
                await reader.wait_readable(awaited.descriptor, self._lost)
            elif self._lent:
                await self._wait_for_the_thread(reader)
            else:  # there is more to be read, and others have their turn
                await anyio.lowlevel.checkpoint()
        finally:
            self._reader = None

    async def _wait_for_the_thread(self, reader: Sleeper) -> None:
        bell, ask = self._pipe.bell, self._news.ask
        bell.hang(ask)
        try:
            if not self._lent or self._pipe.has_news:  # in between; a task that sleeps all the same
                ask()  # goes the same way each time
            await reader.sleep()
        finally:
            bell.forget(ask)

    def stop(self, reason: CancelReason) -> None:
        """Stop the run, for its reader, who has no use for it any more. Never blocks; also from a finalizer."""
        self._news.unfollow(self.run.token)  # who asks knows it
        self.run.token.cancel_soon(reason)

    def end_here(self) -> bool:
        """End the run, which has been stopped. False if a thread does so.

        Raises:
            BaseException: what is nobody's failure here came in the middle of it. The run has ended.
        """
        if self.over.cancelled:
            return True
        if self._in_threads:
            return False
        is_anothers = False
        try:
            try:
                self._turn.pop()
            except IndexError:
                is_anothers = True
                return False
            self._lent = False
            if self._reader is not None:
                self._reader.wake_here()
            if self.run.claim(
                "thread"
            ):  # else whoever was about to start it was interrupted, and has ended it
                self._context.run(self._take_the_rest)
            self._end()
        except BaseException as error:
            if not self.over.cancelled:
                self._give_up(error)
            raise
        finally:
            if not is_anothers and not self.over.cancelled:  # a second Ctrl-C: who comes next may try again
                self._turn[:] = [None]
        return True

    def leave(self) -> None:
        """Leave the run when it is over.

        Raises:
            BaseException: what is nobody's failure here and ended the driver, after the run was settled.
        """
        if self._thread is not None:
            self._thread.join()  # a matter of microseconds
        if self._reader is None:  # or who waits for an entry would not hear the last wake-up
            self._news.silence()  # and nothing of the run is left to the collector
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)  # or each who asks would add to it

    # In the loop

    def _advance(self, take: Callable[[], Pause | None]) -> Pause | None:
        """Take a step, and give why the run has given way."""
        try:
            self._turn.pop()  # inside, since a Ctrl-C may come behind any call
            return self._context.run(take)
        except StopIteration:
            self._end()
            return None
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._turn[:] = [None]

    def _look(self) -> None:
        """The run has been stopped, or there is something new: called by the loop."""
        if self.run.token.cancelled and not self._lent:
            self.end_here()
        elif self._reader is not None:
            self._reader.wake_here()  # also without news: a bell that rang late is to be hung again

    def _lost(self) -> None:
        """The loop was closed by hand, and nobody will go on with it. In whichever thread has found that."""
        self.run.token.cancel_and_report(CancelReason("runtime", "the event loop was closed"))
        self._reader = None
        self.end_here()

    def _set_alarm(self, until: float | None) -> None:
        """Have the reader woken at that time, or earlier: one alarm serves for all waits until it rings."""
        if until is None or (self._alarm is not None and not self._alarm.cancelled):
            return
        clock = self.run.token.clock
        self._alarm = CancelToken(max(until - clock.now(), 0.0), clock=clock)
        self._news.follow(self._alarm)

    def _go_on_in_a_thread(self) -> None:
        try:
            self._lend()
        except RuntimeError as error:  # the system has no thread left
            self._lent = False
            self._advance(partial(self._steps.throw, error))

    def _lend(self) -> None:
        self._lent = True
        self._sleeper.leave_readiness()
        thread = threading.Thread(
            target=self._in_thread,
            name=f"aiwrapper run {self.run.run_id}",
            daemon=True,  # a program that leaves is not kept by an answer that nobody waits for
        )
        thread.start()
        self._thread = thread

    # In a thread

    def _in_thread(self) -> None:
        while self._turn:
            try:
                self._turn.pop()
            except IndexError:  # the loop has ended the run in between
                return
            try:
                self._claim()
                handed_over = self._context.run(self._take_what_may_block)
            except BaseException as error:
                self._give_up(error)
                return
            if not handed_over:
                self._end()
                return
            self._turn.append(None)
            if not self.run.token.cancelled:  # published, so look: whoever stops it from here on may end it
                self._lent = False
                self._news.ask()
                if self._news.is_lost:
                    self._lost()
                return

    def _take_what_may_block(self) -> bool:
        """Take steps until the rest can be left to the loop. False: there is no rest."""
        return any(isinstance(pause, NothingArrived) for pause in self._steps)

    # In either

    def _claim(self) -> None:
        if not self.run.claim("thread"):
            raise RuntimeError(f"run {self.run.run_id!r} was given up before it had begun")

    def _take_the_rest(self) -> None:
        for _ in self._steps:
            pass

    def _give_up(self, error: BaseException) -> None:
        """An exception came out of the steps, or between them."""
        self._error, self._traceback = error, error.__traceback__
        try:
            self._context.run(give_up, self.run, self._steps, error)
        finally:
            self._end()

    def _end(self) -> None:
        """Nothing of the run is left."""
        self._news.unfollow(self.run.token)
        self._sleeper.leave_readiness()
        self._alarm = None
        self.over.cancel("the run is over")  # nothing hangs on it but who waits
        self._pipe.end()
