"""A run in the hand: watched, stopped and waited for from anywhere, alike in all worlds."""

import itertools
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import get_args

import attrs
import pytest

from aiwrapper import (
    Busy,
    CancelReason,
    CancelToken,
    ChatAgent,
    Entry,
    RunFinished,
    RunHandle,
    RunResult,
    RunStarted,
    RunStopped,
    StopMode,
    StopReceipt,
    TextDelta,
    ToolCallReady,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    tool,
    validate,
)
from aiwrapper._core.conversation import fold, settle
from aiwrapper.testing import Call, FakeProvider, Say, Turn, render
from aiwrapper.testing.recorded import RecordedTransport, Recording
from cancel_token import CancelKind, Cancelled
from tests.aiwrapper.running import (
    DIALECTS,
    HELLO,
    Acting,
    Background,
    lang_at,
    said,
    silent_after,
    violations,
)
from tests.aiwrapper.worlds import AgentFace, HandleFace, World


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADDING = Turn((Say(("Let me see.",)), Call("add", ('{"a": 1, "b": 2}',)), Call("add", ('{"a": 3, "b": 4}',))))
SUM = Turn((Say(("It is ", "3 and 7.")),))


def bytes_of(turn: Turn) -> bytes:
    return render(turn, "openai_chat")


class Stopping:
    """Stops a run at one of its entries, and keeps the log and the receipt."""

    def __init__(self, when: Callable[[Entry], bool], mode: StopMode = "now") -> None:
        self.log: list[Entry] = []
        self.receipts: list[StopReceipt] = []
        self.run: HandleFace | None = None
        self._when = when
        self._mode: StopMode = mode
        self.known = threading.Event()

    def append(self, entry: Entry, /) -> None:
        self.log.append(entry)
        if self._when(entry):
            self.known.wait()
            assert self.run is not None
            self.receipts.append(self.run.stop("enough", mode=self._mode))

    def start(self, agent: AgentFace) -> HandleFace:
        self.run = agent.start("Go", subscribers=[self])
        self.known.set()
        return self.run


def is_a(kind: type[Entry]) -> Callable[[Entry], bool]:
    return lambda entry: isinstance(entry, kind)


def nth(place: int) -> Callable[[Entry], bool]:
    counted = itertools.count(1)
    return lambda entry: next(counted) == place


# watching and waiting


def test_a_run_goes_on_by_itself_and_is_waited_for(world: World) -> None:
    agent = world.recorded_agent(said(ADDING, SUM), [add])
    run = agent.start("Go")
    result = run.wait()

    assert (result.status, result.text) == ("completed", "It is 3 and 7.")
    assert run.ended
    assert run.run_id == result.run_id
    assert run.wait() is result
    assert agent.last_result == result
    assert not agent.busy


def test_every_reader_gets_the_whole_log_at_its_own_speed(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    told = Acting()
    run = agent.start("Hi", subscribers=[told])
    slow, quick = iter(run), Background(list[Entry], run)
    first = next(slow)  # and for a long time nothing more
    hold.reached.wait()
    hold.release()
    run.wait()

    assert quick.result() == told.log
    assert [first, *slow] == told.log
    assert list(run) == told.log
    assert isinstance(told.log[-1], RunFinished)


def test_a_reader_who_takes_nothing_holds_up_no_stop(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    asleep = iter(run)
    next(asleep)
    hold.reached.wait()
    receipt = run.stop("enough")
    result = run.wait()

    assert receipt == "accepted"
    assert (result.status, result.text) == ("stopped", "Hel")
    assert isinstance([*asleep][-1], RunStopped)


def test_a_reader_who_leaves_early_leaves_the_run_alone(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    for entry in run:
        if isinstance(entry, TextDelta):
            break
    hold.release()

    assert run.wait().text == "Hello"


def test_a_subscriber_that_raises_loses_nothing_for_the_others(world: World) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    agent = world.recorded_agent(said(HELLO))
    run = agent.start("Hi", subscribers=[Acting(is_a(TextDelta), fail), ready := Acting()])
    result = run.wait()

    assert result.status == "completed"
    assert [type(error) for error in result.subscriber_errors] == [ZeroDivisionError]
    assert list(run) == ready.log


def test_the_next_run_may_be_started_from_the_last_entry(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    run = agent.start("Hi")
    following: list[HandleFace] = []
    for entry in run:
        if isinstance(entry, TextDelta):
            hold.reached.wait()
            run.stop()
        if isinstance(entry, RunStopped):
            following.append(agent.start("And then?"))

    assert following[0].wait().text == "It is 3 and 7."
    assert run.wait().status == "stopped"


def test_a_second_start_is_busy(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    with pytest.raises(Busy):
        agent.start("Hi, too")
    hold.release()

    assert run.wait().status == "completed"


def test_nothing_said_starts_nothing(world: World) -> None:
    agent = world.recorded_agent(said(HELLO))
    with pytest.raises(ValueError, match="something other than white space"):
        agent.start("")

    assert not agent.busy


@attrs.define
class Forward:
    """Compares equal to any other."""

    fails: bool = attrs.field(eq=False)
    log: list[Entry] = attrs.field(factory=list, eq=False)

    def append(self, entry: Entry, /) -> None:
        self.log.append(entry)
        if self.fails:
            raise ConnectionError("the browser has gone")


def test_a_subscriber_that_raises_is_told_nothing_more_and_one_that_equals_it_everything(
    world: World,
) -> None:
    healthy, failing = Forward(fails=False), Forward(fails=True)
    result = world.recorded_agent(said(HELLO)).run("Hi", subscribers=[healthy, failing])

    assert 1 == len(failing.log) == len(result.subscriber_errors)
    assert isinstance(healthy.log[-1], RunFinished)


def wait_for(run: RunHandle) -> None:
    run.wait()


def iterate(run: RunHandle) -> None:
    for _ in run:
        pass


def leave(run: RunHandle) -> None:
    with run:
        pass


@pytest.mark.parametrize("wait", [wait_for, iterate, leave])
def test_a_subscriber_cannot_wait_for_its_own_run(wait: Callable[[RunHandle], None]) -> None:
    agent = ChatAgent(World("threads").recorded_agent(said(HELLO)).lang)
    handles: SimpleQueue[RunHandle] = SimpleQueue()
    told = Acting(is_a(RunStarted), lambda: wait(handles.get()))
    run = agent.start("Hi", subscribers=[told])
    handles.put(run)
    result = run.wait()

    assert ["the run's own thread cannot wait for the run: wait in another one"] == [
        str(error) for error in result.subscriber_errors
    ]
    assert ("stopped" if wait is leave else "completed") == result.status


@pytest.mark.parametrize("wait", [wait_for, iterate])
def test_a_tool_cannot_wait_for_its_own_run(wait: Callable[[RunHandle], None]) -> None:
    handles: SimpleQueue[RunHandle] = SimpleQueue()

    @tool
    def waiting() -> None:
        wait(handles.get())

    transport = said(Turn((Call("waiting", ("{}",)),)), HELLO)
    agent = ChatAgent(World("threads").recorded_agent(transport).lang, tools=[waiting])
    run = agent.start("Go")
    handles.put(run)
    result = run.wait()

    assert result.status == "completed"
    assert b"a tool cannot wait for its own run" in transport.requests[1].body


def test_what_comes_through_a_run_is_raised_to_whoever_waits(world: World) -> None:
    def leave() -> None:
        sys.exit("a subscriber")

    agent = world.recorded_agent(said(HELLO, SUM))
    run = agent.start("Hi", subscribers=[Acting(is_a(TextDelta), leave)])
    with pytest.raises(SystemExit, match="a subscriber"):
        run.wait()

    assert agent.last_result is not None
    assert agent.last_result.status == "stopped"
    assert agent.run("Again").status == "completed"


# stopping


def test_a_stop_says_what_became_of_it_and_is_never_contradicted(world: World) -> None:
    """At every entry of a whole run: the receipt and the result agree."""
    whole = Acting()
    world.recorded_agent(said(ADDING, SUM), [add]).run("Go", subscribers=[whole])
    outcomes: list[tuple[StopReceipt, str]] = []
    for place in range(1, len(whole.log) + 1):
        agent = world.recorded_agent(said(ADDING, SUM, HELLO), [add])
        stopping = Stopping(nth(place))
        run = stopping.start(agent)
        result = run.wait()
        outcomes.append((stopping.receipts[0], result.status))

        assert result.conversation == settle(fold(stopping.log))
        assert validate(result.conversation) == []
        assert run.stop() == "already_finished"
        assert agent.run("Go on").status == "completed"

    assert (
        outcomes == [("accepted", "stopped")] * (len(whole.log) - 2) + [("already_finished", "completed")] * 2
    )


def test_a_stop_that_races_with_the_end_agrees_with_it(world: World) -> None:
    seen: set[tuple[StopReceipt, str]] = set()
    for _ in range(60):
        agent = world.recorded_agent(said(HELLO))
        gate = threading.Barrier(2)
        run = agent.start("Hi", subscribers=[Acting(is_a(TurnStarted), gate.wait)])
        gate.wait()
        receipt = run.stop()
        result = run.wait()
        seen.add((receipt, result.status))

    assert seen <= {("accepted", "stopped"), ("already_finished", "completed")}


def test_stopping_twice_is_stopping_once_and_says_so(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    hold.reached.wait()
    receipts = [run.stop("first"), run.stop(CancelReason("shutdown", "second"))]
    result = run.wait()
    receipts.append(run.stop("third"))

    assert receipts == ["accepted", "already_stopping", "already_finished"]
    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("user", "first")


@pytest.mark.parametrize("kind", get_args(CancelKind))
def test_a_stop_of_any_kind_is_a_stop(world: World, kind: CancelKind) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    hold.reached.wait()
    receipt = run.stop(CancelReason(kind, "enough"))
    result = run.wait()

    assert (receipt, result.error) == ("accepted", None)
    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == (kind, "enough")


def test_a_stop_of_a_whole_answer_is_too_late_whatever_its_token_says(world: World) -> None:
    token = CancelToken()
    stopping = Stopping(is_a(TurnFinished))
    agent = world.recorded_agent(said(HELLO))
    cancelling = Acting(is_a(TurnFinished), token.cancel)
    stopping.run = agent.start("Hi", token=token, subscribers=[cancelling, stopping])
    stopping.known.set()

    assert stopping.run.wait().status == "completed"
    assert stopping.receipts == ["already_finished"]


def test_a_stop_after_the_tokens_own_is_too_late_to_count(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    token = CancelToken()
    receipts: list[StopReceipt] = []
    run = agent.start("Hi", token=token)
    hold.reached.wait()
    with token.on_cancel(lambda: receipts.append(run.stop("by the handle"))):
        token.cancel("by the token")
    result = run.wait()

    assert receipts == ["already_stopping"]
    assert result.stop is not None
    assert result.stop.message == "by the token"


def test_a_stop_for_one_run_does_not_touch_the_next(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([Recording((bytes_of(HELLO),)), recording]))
    first = agent.start("Hi")
    first.wait()
    second = agent.start("Again")
    hold.reached.wait()
    receipt = first.stop()
    hold.release()

    assert receipt == "already_finished"
    assert second.wait().status == "completed"


def test_a_run_started_under_a_cancelled_token_asks_nobody_and_keeps_what_was_said(world: World) -> None:
    transport = said(HELLO)
    agent = world.recorded_agent(transport)
    token = CancelToken()
    token.cancel("never mind")
    run = agent.start("Hi", token=token)
    result = run.wait()

    assert (result.status, transport.requests) == ("stopped", [])
    assert result.stop is not None
    assert result.stop.where == "before_start"
    assert len(result.conversation.messages) == 1
    assert [type(entry) for entry in run][1:] == [RunStarted, RunStopped]
    assert agent.run("Again").status == "completed"


def test_a_stop_from_a_signal_handler_reaches_a_run_that_is_waited_for(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording]))
    run = agent.start("Hi")
    before = signal.signal(signal.SIGUSR1, lambda number, frame: run.stop(CancelReason("signal", "SIGUSR1")))
    try:
        hold.reached.wait()
        sender = threading.Thread(
            target=signal.pthread_kill, args=(threading.main_thread().ident, signal.SIGUSR1)
        )
        sender.start()
        result = run.wait()
        sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("signal", "SIGUSR1")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stop_reaches_a_real_server_and_the_next_message_is_taken(world: World, dialect: str) -> None:
    assert dialect in DIALECTS
    with (
        FakeProvider("openai_chat" if dialect == "openai_chat" else "anthropic", [HELLO, HELLO]) as fake,
        fake.hold_at("headers") as hold,
    ):
        agent = world.agent(lang_at(fake))
        run = agent.start("Hi")
        hold.reached.wait()
        receipt = run.stop("the user pressed Stop")
        result = run.wait()
        assert hold.connection is not None
        hold.connection.hung_up.wait()
        hold.release()
        after = agent.run("Go on")

    assert receipt == "accepted"
    assert result.stop is not None
    assert result.stop.message == "the user pressed Stop"
    assert after.status == "completed"


def test_a_mode_that_is_none_is_refused(world: World) -> None:
    agent = world.recorded_agent(said(HELLO))
    run = agent.start("Hi")
    with pytest.raises(ValueError, match="there is no mode 'soon'"):
        run.stop(mode="soon")  # type: ignore[arg-type]  # the point

    assert run.wait().status == "completed"


def test_ctrl_c_while_a_run_is_being_started_leaves_it_to_its_thread_alone(world: World) -> None:
    """The thread may drive it already, and two who end one run would end it twice."""
    recording, hold = silent_after(b'"Hel"')
    agent = world.recorded_agent(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    ended = threading.Event()
    told = Acting(is_a(RunStopped), ended.set)
    start = threading.Thread.start

    def interrupted(self: threading.Thread) -> None:
        start(self)
        hold.reached.wait()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agent.start("Hi", subscribers=[told])
    ended.wait()

    assert sum(isinstance(entry, RunStopped) for entry in told.log) == 1
    assert isinstance(told.log[-1], RunStopped)
    assert told.log[-1].reason == "signal"
    assert agent.run("Again").status == "completed"


# stopping later


def outcomes(result: RunResult) -> list[str | None]:
    assert result.stop is not None
    return [report.outcome for report in result.stop.tools]


@pytest.mark.parametrize("when", [TextDelta, ToolCallReady, TurnFinished, ToolStarted, ToolFinished])
def test_after_step_the_model_call_and_its_tools_are_finished_and_nothing_is_begun(
    world: World, when: type[Entry]
) -> None:
    transport = said(ADDING, SUM, HELLO)
    agent = world.recorded_agent(transport, [add])
    stopping = Stopping(is_a(when), "after_step")
    run = stopping.start(agent)
    result = run.wait()

    assert stopping.receipts[0] == "accepted"
    assert set(stopping.receipts[1:]) <= {"already_stopping"}
    assert result.stop is not None
    assert (result.stop.reason, result.stop.message, result.stop.where) == ("user", "enough", "between_steps")
    assert outcomes(result) == ["returned", "returned"]
    assert len(transport.requests) == 1
    for dialect in DIALECTS:
        assert violations(dialect, agent, result.conversation) == []
    assert agent.run("Go on").text == "It is 3 and 7."


def test_after_step_before_the_first_model_call_begins_none(world: World) -> None:
    transport = said(HELLO)
    agent = world.recorded_agent(transport)
    result = Stopping(is_a(RunStarted), "after_step").start(agent).wait()

    assert (result.status, transport.requests) == ("stopped", [])


def test_after_step_an_answer_without_tools_is_whole_and_completed(world: World) -> None:
    agent = world.recorded_agent(said(HELLO))
    stopping = Stopping(is_a(TextDelta), "after_step")
    result = stopping.start(agent).wait()

    assert stopping.receipts[0] == "accepted"
    assert (result.status, result.text, result.stop) == ("completed", "Hello", None)


def test_after_turn_the_whole_answer_is_finished_and_the_handle_says_to_begin_no_other(world: World) -> None:
    agent = world.recorded_agent(said(ADDING, SUM), [add])
    stopping = Stopping(is_a(ToolStarted), "after_turn")
    run = stopping.start(agent)
    result = run.wait()

    assert stopping.receipts == ["accepted", "already_stopping"]
    assert (result.status, result.text) == ("completed", "It is 3 and 7.")
    assert run.stop_mode == "after_turn"


def test_a_later_stop_may_ask_for_less_to_happen_and_never_for_more(world: World) -> None:
    recording, hold = silent_after(b'"Let me see."', ADDING)
    agent = world.recorded_agent(RecordedTransport([recording]), [add])
    run = agent.start("Go")
    hold.reached.wait()
    modes: list[StopMode | None] = [run.stop_mode]
    receipts: list[StopReceipt] = []
    for mode in ("after_turn", "after_turn", "after_step", "after_turn", "now", "after_step", "now"):
        receipts.append(run.stop(mode, mode=mode))
        modes.append(run.stop_mode)
    result = run.wait()

    assert modes[:6] == [None, "after_turn", "after_turn", "after_step", "after_step", "now"]
    assert receipts[:5] == ["accepted", "already_stopping", "accepted", "already_stopping", "accepted"]
    assert "accepted" not in receipts[5:]
    assert result.stop is not None
    assert (result.stop.message, result.text) == ("now", "Let me see.")


def test_an_error_after_a_stop_that_waits_is_an_error(world: World) -> None:
    body = bytes_of(ADDING)
    recording, hold = silent_after(b'"Let me see."', ADDING)
    cut = Recording((*recording.pieces[:2], body[len(body) // 2 : len(body) // 2 + 1]))
    agent = world.recorded_agent(RecordedTransport([cut]), [add])
    run = agent.start("Go")
    hold.reached.wait()
    run.stop(mode="after_step")
    hold.release()

    assert run.wait().status == "failed"


# the block of a run


def test_leaving_the_block_of_a_run_stops_it() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = ChatAgent(World("threads").recorded_agent(RecordedTransport([recording])).lang)
    with agent.start("Hi") as run:
        hold.reached.wait()
    result = run.wait()

    assert run.ended
    assert result.stop is not None
    assert (result.stop.reason, result.text) == ("closed", "Hel")


def test_ctrl_c_in_the_block_of_a_run_stops_it_and_passes_through() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = ChatAgent(World("threads").recorded_agent(RecordedTransport([recording])).lang)

    def in_the_block() -> None:
        with agent.start("Hi"):
            hold.reached.wait()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        in_the_block()

    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "signal"


def test_a_token_stops_the_waiting_and_not_the_run() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = ChatAgent(World("threads").recorded_agent(RecordedTransport([recording])).lang)
    impatient = CancelToken()
    run = agent.start("Hi")
    waiting = Background(waits_in_vain, run, impatient)
    hold.reached.wait()
    impatient.cancel("no patience")
    in_vain = waiting.result()
    hold.release()

    assert in_vain
    assert run.wait().status == "completed"
    assert run.wait(token=impatient).status == "completed"  # it is over, so nothing is waited for


def waits_in_vain(run: HandleFace, token: CancelToken) -> bool:
    try:
        run.wait(token=token)  # type: ignore[call-arg]  # only the blocking handle has it
    except Cancelled as stopped:
        return stopped.token is token
    return False


# agents as tools


def asking(*names: str) -> Turn:
    return Turn(tuple(Call(name, ('{"message": "Look it up"}',)) for name in names))


def test_an_agent_can_be_a_tool_of_another(world: World) -> None:
    researcher = world.recorded_agent(said(ADDING, SUM), [add])
    transport = said(asking("research"), HELLO)
    agent = world.recorded_agent(transport, [researcher.as_tool("research", "Looks things up.")])
    result = agent.run("Go")

    assert result.text == "Hello"
    assert b"It is 3 and 7." in transport.requests[1].body
    assert b"Looks things up." in transport.requests[0].body
    assert researcher.conversation.messages == ()  # each call is a conversation of its own


@pytest.mark.parametrize("in_the_hand", [True, False])
def test_stopping_an_agent_stops_the_agents_that_are_its_tools(world: World, in_the_hand: bool) -> None:
    recording, hold = silent_after(b'"Hel"')
    inner = RecordedTransport([recording])
    runs: SimpleQueue[HandleFace] = SimpleQueue()
    researcher = world.recorded_agent(inner)
    agent = world.recorded_agent(
        said(asking("research"), HELLO),
        [researcher.as_tool("research", "Looks up.", started=runs.put if in_the_hand else None)],
    )
    run = agent.start("Go")
    hold.reached.wait()
    run.stop("enough")
    result = run.wait()

    assert outcomes(result) == ["interrupted_running"]
    assert inner.open_now == 0
    if in_the_hand:
        stopped = runs.get().wait()
        assert stopped.stop is not None
        assert (stopped.stop.reason, stopped.stop.message) == ("user", "enough")
    assert agent.run("Go on").status == "completed"


def test_a_deaf_tool_of_an_agent_that_is_a_tool_is_left_behind_and_the_agent_is_not(world: World) -> None:
    begun, let_go = threading.Event(), threading.Event()

    @tool
    def deaf() -> str:
        begun.set()
        let_go.wait()
        return "at last"

    turn = Turn((Call("deaf", ("{}",)),))
    researcher = world.recorded_agent(said(turn), [deaf], tool_grace_seconds=0.05)
    agent = world.recorded_agent(
        said(asking("research"), HELLO),
        [researcher.as_tool("research", "Looks up.")],
        tool_grace_seconds=0.05,
    )
    run = agent.start("Go")
    begun.wait()
    run.stop("enough")
    result = run.wait()
    let_go.set()

    assert result.stop is not None
    assert ["deaf"] == [call.name for call in result.stop.abandoned]
    assert agent.run("Go on").status == "completed"


def test_stopping_an_agent_that_is_a_tool_gives_its_caller_a_result(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    researcher = world.recorded_agent(RecordedTransport([recording]))
    runs: SimpleQueue[HandleFace] = SimpleQueue()
    transport = said(asking("research"), SUM)
    agent = world.recorded_agent(transport, [researcher.as_tool("research", "Looks up.", started=runs.put)])
    run = agent.start("Go")
    hold.reached.wait()
    receipt = runs.get().stop("this one is not needed")
    result = run.wait()

    assert receipt == "accepted"
    assert (result.status, result.text) == ("completed", "It is 3 and 7.")
    assert b"was stopped before it had finished (user: this one is not needed)" in transport.requests[1].body
    assert b"It had said: Hel" in transport.requests[1].body


def test_an_agent_that_fails_as_a_tool_tells_its_caller_why(world: World) -> None:
    researcher = world.recorded_agent(RecordedTransport([Recording(status=401)]))
    transport = said(asking("research"), SUM)
    result = world.recorded_agent(transport, [researcher.as_tool("research", "Looks up.")]).run("Go")

    assert result.status == "completed"
    assert b"ModelCallError" in transport.requests[1].body


def test_an_agent_that_is_a_tool_has_ended_though_who_was_told_of_its_run_has_failed(world: World) -> None:
    recording, hold = silent_after(b'"Hel"')
    researcher = world.recorded_agent(RecordedTransport([recording]))
    runs: list[HandleFace] = []

    def fail(run: HandleFace) -> None:
        runs.append(run)
        hold.reached.wait()
        raise ZeroDivisionError

    transport = said(asking("research"), SUM)
    agent = world.recorded_agent(transport, [researcher.as_tool("research", "Looks up.", started=fail)])
    result = agent.run("Go")

    assert result.status == "completed"
    assert b"ZeroDivisionError" in transport.requests[1].body
    assert runs[0].ended
