"""A run that is driven in a thread of its own, and what everybody may do who holds it."""

import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

from aiwrapper._run import Run, RunResult, StopMode, StopReceipt
from cancel_token import CancelReason, CancelToken

BLOCK_LEFT: Final = "the block of the run was left"
"""Said of a stop that a context manager makes."""

STREAM_CLOSED: Final = "the stream was closed before its end"
"""Said of a stop by closing an iterator."""


class RunThread:
    """Drives a run.

    Args:
        run: it.
        work: drives it to its end, in the thread.
        context: the context variables that the run and its tools see.
        ended: called in the thread when nothing of the run is left but the thread, and `over` says so.
    """

    def __init__(
        self,
        run: Run,
        work: Callable[[], RunResult],
        context: contextvars.Context,
        ended: Callable[[], object],
    ) -> None:
        self.run = run
        self.over: CancelToken = CancelToken(name=f"run {run.run_id} is over")
        """Cancelled when nothing of the run is left. A token, because threads and tasks may wait for it alike."""
        self._work = work
        self._ended = ended
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._thread = threading.Thread(
            target=context.run,
            args=(self._drive,),
            name=f"aiwrapper run {run.run_id}",
            daemon=True,  # a program that leaves is not kept by an answer that nobody waits for
        )

    def start(self) -> None:
        """Begin.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    def check_wait(self, here: object) -> None:
        """Refuse to wait for the run where it waits itself.

        Args:
            here: the thread or the task that is about to wait.

        Raises:
            RuntimeError: it would wait for ever.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("the run's own thread cannot wait for the run: wait in another one")
        if here in self.run.waits_for:
            raise RuntimeError(
                "a tool cannot wait for its own run, which waits for it: return, and wait elsewhere"
            )

    def result(self) -> RunResult:
        """What became of the run; to be asked when it is over.

        Raises:
            BaseException: what is nobody's failure here and ended the driver, after the run was settled.
        """
        self._thread.join()  # a matter of microseconds
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)  # or each who asks would add to it
        assert self._result is not None
        return self._result

    def _drive(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error, self._traceback = error, error.__traceback__
        finally:
            del self._work  # what it refers to is not held by whoever holds the handle
            self.over.cancel_and_report("the run is over")
            self._ended()


class StartedRun:
    """What is the same for a run that was started, whoever waits for it."""

    def __init__(self, thread: RunThread) -> None:
        self._thread = thread

    @property
    def run_id(self) -> str:
        """Which run it is; its entries have the same."""
        return self._thread.run.run_id

    @property
    def ended(self) -> bool:
        """Whether nothing of the run is left, so that waiting for it would not block."""
        return self._thread.over.cancelled

    @property
    def stop_mode(self) -> StopMode | None:
        """How it has been asked to stop; None if it has not. Whoever has further messages waiting begins none then."""
        return self._thread.run.stop_mode

    def stop(
        self, reason: str | CancelReason = "the run was stopped", *, mode: StopMode = "now"
    ) -> StopReceipt:
        """Stop this run and no other. Never blocks; from any thread or task, a signal handler, a finalizer.

        Callbacks that tools have registered on their token run on the token's service thread; what they raise goes to
        `sys.unraisablehook`.

        Args:
            reason: what a person may read, or whole.
            mode: `now`: the request and the tools are stopped where they are. `after_step`: the model call under way
                is finished, and so are the tools that it asks for; the model is not asked again. `after_turn`: the
                answer to this message is finished; it is for whoever has further messages to begin none. A later
                stop may ask for less to happen, never for more.

        Returns:
            `accepted`: this stop counts. `now`: the run's status will be `stopped`, and no further entry of the
            answer is appended. `already_stopping`: an earlier one asks for as much or more, or the token was
            cancelled. `already_finished`: the answer was whole, or the run has ended otherwise.
        """
        return self._thread.run.stop(
            CancelReason("user", reason) if isinstance(reason, str) else reason, mode
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id}, {'ended' if self.ended else 'running'}>"
