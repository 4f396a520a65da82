"""One run: what it appends, who is told, and how it ends. A driver drives it; everything decided about it is here.

1. *One way in.* Every entry goes the same way: it is accepted (the state moves), then the sink has it, durable as it
   asks, then the subscribers. All of that happens in the thread of the driver, so everybody sees one order.
2. *The cut.* Accepting an entry and the stop's arrival are ordered by one short lock, held for the assignment only.
   When `token.cancel()` has returned, no further entry of the answer is accepted, only closing ones: results of
   tools that ended, and the terminal entry. What was accepted before is told to everybody, also after the cut.
3. *One end.* Exactly one terminal entry ends the run (S1). If the answer was whole before the stop arrived, the run
   is completed (S2), else stopped; an error that the stop itself caused is no error (S6). The same lock orders this
   decision and the stop, so that the receipt of a stop never contradicts the result.
4. *Nothing left.* When the terminal entry is told, the run holds no socket, no registration and no thread but the
   abandoned ones that its report lists (R1), and its agent is free for the next run (E3).

The lock is an RLock because a stop may come from a signal handler or a finalizer in the very thread that holds it.
Then the entry that was being accepted counts as accepted before the stop.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

from attrs import evolve

from aiwrapper._account import RunAccount
from aiwrapper._audience import Audience, SinkFailed
from aiwrapper._core.agent import AgentMachine, Finished, Step
from aiwrapper._core.budget import Budget
from aiwrapper._core.conversation import State, run_report, step
from aiwrapper._core.errors import AiwrapperError, ErrorKind, ModelCallError, StoreError
from aiwrapper._core.log import (
    Entry,
    RunEntry,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sink,
    StopWhere,
    TerminalEntry,
    ToolStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import ToolCall
from aiwrapper._core.text import describe_exception, well_formed
from aiwrapper._run_result import RunResult as RunResult
from aiwrapper._run_result import StopMode as StopMode
from aiwrapper._run_result import StopReceipt as StopReceipt
from aiwrapper._run_result import StopReport as StopReport
from aiwrapper._run_result import last_text
from cancel_token import CancelKind, Cancelled, CancelReason, CancelToken

_FORCE: Final[dict[StopMode | None, int]] = {None: 0, "after_turn": 1, "after_step": 2, "now": 3}


Driver: TypeAlias = Literal["starter", "thread"]
"""Who drives a run: whoever has begun it, or the thread that was made for it."""


class Run:
    """One run. Made by an agent, driven by a driver; all methods but `stop` belong to the driver's thread.

    Args:
        state: what the log says before the run.
        run_id: a new one.
        user_message: what is to be answered; None if the conversation says so already.
        token: stops it. The run works under a child of it, so that ending the run ends nothing else (S5).
        max_turns: how often the model may be asked.
        budget: how much the conversation may use; None for no limit.
        sink: has every entry before anybody else, and may fail the run.
        subscribers: have every entry; may fail only themselves.
        now: wall-clock seconds.
        settled: called once, when the run has ended and before anybody is told.
    """

    def __init__(
        self,
        state: State,
        run_id: str,
        *,
        user_message: UserMessageAdded | None,
        token: CancelToken,
        max_turns: int,
        sink: Sink | None,
        subscribers: Iterable[Sink],
        now: Callable[[], float],
        settled: Callable[["Run"], None],
        budget: Budget | None = None,
    ) -> None:
        self.run_id = run_id
        self.token: CancelToken = token.child(name=f"run {run_id}")
        self._machine = AgentMachine(state, run_id, max_turns=max_turns)
        self._max_turns = max_turns
        self._user_message = (
            None if user_message is None else evolve(user_message, parent_id=state.conversation.head_id)
        )
        self.account: RunAccount = RunAccount(self, budget)
        self._audience = Audience(sink, (*subscribers, *self.account.payers))
        self._before = state  # what the entry that is being told came after
        self._accepting: Entry | None = None  # for a stop that comes in the middle of it, in the same thread
        # Who drives it, at 0: claimed by one atomic `setdefault`, as in `_agent.py` and for the same reason.
        self._driver: dict[int, Driver] = {}
        self._ending: TerminalEntry | None = None
        self._is_settled = False
        self._now = now
        self._settled = settled
        # Orders `_machine`'s next state, the stop's arrival and the decision how the run ends.
        self._lock = threading.RLock()
        self._stop_mode: StopMode | None = None
        self._later: CancelReason | None = None  # of a stop that lets something happen first
        self._where: StopWhere = "before_start"
        self._stopped_where: StopWhere | None = None
        self._abandoned: list[ToolCall] = []
        self.waits_for: set[object] = set()
        """The threads and tasks in which its tools run at this moment, which so cannot wait for it."""
        self._error: Exception | None = None
        self._foreign: Cancelled | None = None  # not our stop, so it has to go on
        self._failure: CancelReason | None = None  # our own word for "another part of the run has failed"
        self._begun_at = self.token.clock.now()
        self._latency_seconds = 0.0
        self._registration = self.token.on_cancel(self._on_stop)

    # While it runs

    @property
    def state(self) -> State:
        """What the log says so far. May be read from any thread."""
        return self._machine.state

    @property
    def ended(self) -> bool:
        """Whether the terminal entry has been accepted."""
        return self.run_id in self.state.runs

    @property
    def complaints(self) -> Sequence[BaseException]:
        """What subscribers have raised so far; grows."""
        return self._audience.errors

    @property
    def stop_mode(self) -> StopMode | None:
        """How it has been asked to stop; None if it has not. May be read from any thread."""
        return "now" if self.token.cancelled else self._stop_mode

    def claim(self, driver: Driver) -> bool:
        """Whether this one drives the run, to its end: the first who claims it, and no other after that."""
        return self._driver.setdefault(0, driver) == driver

    def give_up(self, driver: Driver, error: BaseException) -> None:
        """End the run if an exception has kept it from ending itself.

        Args:
            driver: who gives it up. A run that is driven by another is stopped, and ended by that one.
            error: the exception.
        """
        if self.claim(driver):
            self.interrupt(error)
            self.close(error)
        else:
            kind: CancelKind = "signal" if isinstance(error, KeyboardInterrupt) else "closed"
            self.stop(
                CancelReason(kind, f"whoever has begun it was interrupted: {describe_exception(error)}")
            )

    def next_step(self) -> Step:
        """What to do next."""
        refusal = self.account.refusal()
        with self._lock:
            return self._machine.next_step(winding_down=self._stop_mode == "after_step", refusal=refusal)

    def doing(self, what: StopWhere) -> None:
        """Say what the run is doing now, for a truthful report."""
        self._where = what

    def begin(self) -> None:
        """Append what the user said and that the run has started: also if it has been stopped already (C9, S4).

        Raises:
            Cancelled: it has been stopped already.
        """
        self._go_on_beginning()
        self.token.check()
        self.doing("between_steps")

    def append(self, entry: RunEntry) -> None:
        """Append an entry of the answer, unless the stop has passed. When it returns, everybody has it.

        Raises:
            Cancelled: the stop has passed; the entry has not happened.
        """
        self._accept(entry, also_when_stopped=False)

    def append_closing(self, entry: Entry) -> None:
        """Append an entry that a stop does not keep out: it says what has happened already."""
        self._accept(entry, also_when_stopped=True)

    def abandon(self, call: ToolCall) -> None:
        """Report a call whose thread is left behind."""
        self._abandoned.append(call)
        self.account.leave_behind(call)

    def stop(self, reason: CancelReason, mode: StopMode = "now") -> StopReceipt:
        """Stop the run and nothing else (S5). Never blocks; from any thread, a signal handler, a finalizer.

        When a stop `now` was accepted, no further entry of the answer is; a stop that lets something happen first
        can be followed by one that lets less. Callbacks that tools have registered run on the token's service thread.

        Raises:
            ValueError: there is no such mode.
        """
        if mode not in _FORCE:
            raise ValueError(f"there is no mode {mode!r}: it is 'now', 'after_step' or 'after_turn'")
        with self._lock:
            entry, state = self._accepting, self.state
            if entry is not None:  # we have interrupted its acceptance, which goes on after us
                state = step(state, entry)
            if self.run_id in state.runs or _is_answered(state):
                return "already_finished"
            if self.token.cancelled:
                return "already_stopping"
            if self._ending is not None:
                return "already_finished"
            if _FORCE[mode] <= _FORCE[self._stop_mode]:
                return "already_stopping"
            if mode == "now":
                self._stopped_where = self._where
                # False: the caller's own token was cancelled at the same moment.
                return "accepted" if self.token.cancel_soon(reason) else "already_stopping"
            self._stop_mode = mode
            self._later = evolve(reason, at=self.token.clock.now())
            return "accepted"

    def interrupt(self, error: BaseException) -> None:
        """Stop what the run has going on, because of an exception that is on its way through the driver."""
        if self.ended:
            return
        match error:
            case Cancelled():
                if not self.token.cancelled:  # another token's: whoever has it is waiting for it
                    self._foreign = error
                    self._halt(CancelReason("runtime", f"another token was cancelled: {error}"))
            case GeneratorExit():
                self._halt(CancelReason("closed", "the stream was closed before its end"))
            case KeyboardInterrupt():
                self._halt(CancelReason("signal", "KeyboardInterrupt"))
            case Exception():
                if self._failure is None:
                    # With its time, so that nobody else's reason is equal to it.
                    self._failure = CancelReason(
                        "error", describe_exception(error), at=self.token.clock.now()
                    )
                self._halt(self._failure)
            case _:
                self._halt(CancelReason("runtime", describe_exception(error)))

    def _halt(self, reason: CancelReason) -> None:
        """Stop what is going on and wait until it has been told, for the driver's own thread."""
        try:
            self.token.cancel(reason)
        except BaseExceptionGroup as group:  # of a tool's own callbacks; all have run
            self._audience.errors.append(group)

    # Its end

    def finish(self, step: Finished) -> None:
        """Append the terminal entry that the step machine wants."""
        if step.error is not None:
            self._fail(step.error, ModelCallError(step.message, kind=step.error))
        elif step.status == "stopped":
            self._stopped()
        else:
            self._end(RunFinished(self.run_id, at=self._now()))

    def end(self, error: BaseException) -> bool:
        """Append the terminal entry that an exception in the driver means. Nothing else of the run is left by then.

        Args:
            error: what was raised.

        Returns:
            Whether that is all. False: the exception was not ours, and has to go on.
        """
        if self._ending is not None:  # it interrupted the end
            self._finish_ending()
            return False
        try:
            self._resume()
            self._go_on_beginning()  # so that there is a run that can end
        except SinkFailed as failed:
            self._error = _cause(failed)
            self._go_on_beginning()
        match error:
            case Cancelled() if self.token.cancelled and error is not self._foreign:
                self._stopped()
                return True
            case SinkFailed():
                cause = _cause(error)
                self._fail(_kind(cause), cause)
                return True
            case ModelCallError():
                self._fail(error.kind, error)
                return True
            case Exception():
                self._fail("internal", error)
                return True
            case _:
                self.interrupt(error)
                self._stopped()
                return False

    def close(self, error: BaseException) -> None:
        """End the run if it has not ended: an exception came before its first step, or while it was being ended."""
        if self._ending is None or self._audience.entry is not None or not self._is_settled:
            self.end(error)

    def result(self) -> RunResult:
        """What became of it.

        Raises:
            RuntimeError: it has not ended.
        """
        state = self.state
        report = run_report(state, self.run_id)
        if report is None or report.status == "running":
            raise RuntimeError(f"run {self.run_id!r} has not ended")
        stop = None
        if report.status == "stopped":
            stop = StopReport(
                reason=report.reason or "crash",
                message=report.message,
                where=report.where or "unknown",
                latency_seconds=self._latency_seconds,
                tools=report.calls,
                abandoned=tuple(self._abandoned),
                usage_complete=report.usage.complete,
            )
        return RunResult(
            run_id=self.run_id,
            status=report.status,
            conversation=state.conversation,
            text=last_text(state.conversation, self.run_id),
            usage=report.usage,
            stop=stop,
            error=self._error,
            subscriber_errors=tuple(self._audience.errors),
        )

    def _on_stop(self) -> None:
        # Taking the lock is the point: an entry is accepted before the stop has passed, or not at all.
        with self._lock:
            if self._stopped_where is None:
                self._stopped_where = self._where

    def _reason(self) -> CancelReason | None:
        """Why it was stopped from outside; None if it was not."""
        reason = self.token.reason
        if reason is None or reason == self._failure:
            return None
        return reason.cause or reason

    def _fail(self, kind: ErrorKind, error: Exception) -> None:
        failed = RunFailed(self.run_id, error=kind, message=_text(error), at=self._now())
        with self._lock:
            self._ending = failed  # first: a stop that interrupts us here comes too late, and is told so
            stopped = self._reason() is not None
            if stopped:
                self._ending = None
        if stopped:
            # Whoever shuts a socket expects the read to fail (S6). A log that fails is no consequence of a stop.
            self._error = error if isinstance(error, StoreError | OSError) else None
            self._stopped()
        else:
            self._error = error
            self._finish_ending()

    def _stopped(self) -> None:
        if _is_answered(self.state):
            self._end(RunFinished(self.run_id, at=self._now()))
            return
        with self._lock:
            reason = self._reason() or self._later
            if reason is None:  # Ctrl-C, while what a failure had left was waited for
                reason = self.token.later_reasons[0]
            if reason.at is not None:
                self._latency_seconds = self.token.clock.now() - max(reason.at, self._begun_at)
            self._ending = RunStopped(
                self.run_id,
                reason=reason.kind,
                message=well_formed(reason.message),
                where=self._stopped_where or self._where,
                at=self._now(),
            )
        self._finish_ending()

    def _end(self, entry: TerminalEntry) -> None:
        self._ending = entry
        self._finish_ending()

    def _finish_ending(self) -> None:
        """End the run; if that was interrupted, go on with it."""
        ending = self._ending
        assert ending is not None
        if not self.ended:
            self._before = self.state
            self._audience.announce(ending)
            with self._lock:
                self._machine.append(ending)
        self._registration.close()
        self.token.close()
        try:
            self._audience.tell_sink()
        except SinkFailed as failed:
            self._error = error = _cause(failed)
            if isinstance(ending, RunFinished):
                # Nobody has been told that it is completed, and after a restart nobody would be.
                self._take_back()
                self._end(RunFailed(self.run_id, error=_kind(error), message=_text(error), at=self._now()))
                return
        if not self._is_settled:
            self._settled(self)
            self.account.close()
            self._is_settled = True
        self._audience.tell_subscribers()

    def _go_on_beginning(self) -> None:
        """Append what stands at the beginning of a run, as far as it is not there."""
        message, run = self._user_message, self.state.run
        if message is not None and self.state.conversation.message(message.id) is None:
            self.append_closing(message)
        if run is None or run.run_id != self.run_id:
            self.append_closing(RunStarted(self.run_id, at=self._now()))

    def _accept(self, entry: Entry, *, also_when_stopped: bool) -> None:
        self._resume()
        self._before = self.state
        self._audience.announce(entry)
        with self._lock:
            self._accepting = entry
            accepted = also_when_stopped or not self.token.cancelled
            if accepted:
                self._machine.append(entry)
            self._accepting = None
        if not accepted:
            self._audience.forget()
            self.token.check()
        self._tell(entry)
        self._before = self.state  # what came before is of no use any more, and there may be thousands

    def _resume(self) -> None:
        """Go on with what an exception interrupted between an entry's being accepted and everybody's having it."""
        self._accepting = None
        entry = self._audience.entry
        if entry is None:
            return
        if self.state is self._before:  # it had not been accepted
            self._audience.forget()
        else:
            self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        try:
            self._audience.tell_sink()
        except SinkFailed:
            if isinstance(entry, ToolStarted):
                # The effect that it was to permit will not happen, so the call has not been started (C7).
                self._take_back()
            self._audience.tell_subscribers()
            raise
        except BaseException:
            # A stop or Ctrl-C, while the sink waited for somebody: it does not have the entry.
            if isinstance(entry, UserMessageAdded | RunStarted):
                self._audience.sink = None  # what the user said is kept here, if not there (C9)
                self._error = StoreError("the run was stopped before its beginning could be written")
                self._audience.tell_subscribers()
            else:
                self._take_back()
            raise
        self._audience.tell_subscribers()

    def _take_back(self) -> None:
        """Make the entry that is being told one that has not happened: only the sink was asked so far."""
        self._machine = AgentMachine(self._before, self.run_id, max_turns=self._max_turns)
        self._audience.forget()


def _is_answered(state: State) -> bool:
    run = state.run
    return run is not None and run.turn is None and not run.asks_again


def _cause(failed: SinkFailed) -> Exception:
    cause = failed.__cause__
    assert isinstance(cause, Exception)
    return cause


def _kind(error: Exception) -> ErrorKind:
    return "store" if isinstance(error, StoreError | OSError) else "internal"


def _text(error: Exception) -> str:
    return well_formed(str(error)) if isinstance(error, AiwrapperError) else describe_exception(error)
