"""How a run ends whatever its sink does, and that what is stored is what is in memory."""

import errno
import sys
import threading
import time
from collections.abc import Callable, Set
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from aiwrapper import (
    CancelReason,
    CancelToken,
    Entry,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    RunStopped,
    StopReceipt,
    StoreError,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnStarted,
    UserMessageAdded,
    _audience,
    _run,
    agents,
    tool,
    validate,
)
from aiwrapper._core.conversation import Conversation, State, fold, settle
from aiwrapper._run import Run
from aiwrapper.drivers import _tool_calls, threads
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.threads import complete
from aiwrapper.model_spec import user_message
from aiwrapper.store import Store
from aiwrapper.testing import Call, Say, Turn, render
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from cancel_token import Cancelled
from tests.aiwrapper.running import KEY, Acting, Background, violations
from tests.aiwrapper.worlds import AgentFace, World

THREADS = World("threads")
"""A signal handler runs in the thread that drives the run only where that is the caller's own."""

ADDING = Turn((Say(("Let me see.",)), Call("add", ('{"a": 1, "b": 2}',))))
SUM = Turn((Say(("It is ", "3.")),))


class Failing:
    """A sink that takes some entries and then fails at one."""

    def __init__(self, place: int, fail: Callable[[], object]) -> None:
        self.log: list[Entry] = []
        self._place = place
        self._fail = fail

    def append(self, entry: Entry, /) -> None:
        if len(self.log) + 1 == self._place:
            self._place = 0
            self._fail()
        self.log.append(entry)


class Added:
    """An agent with one tool, and how often that was called."""

    def __init__(self, world: World) -> None:
        self.calls = 0

        @tool
        def add(a: int, b: int) -> int:
            self.calls += 1
            return a + b

        turns = [ADDING, SUM, SUM]
        self.transport = RecordedTransport([Recording((render(turn, "openai_chat"),)) for turn in turns])
        self.agent = world.recorded_agent(self.transport, [add])


def whole_log() -> list[Entry]:
    acting = Acting()
    Added(THREADS).agent.run("Go", subscribers=[acting])
    return acting.log


def fail_with(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


PLACES = range(1, len(whole_log()) + 1)


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_ends_the_run_at_any_entry_and_costs_nothing_said(world: World, place: int) -> None:
    it, acting = Added(world), Acting()
    sink = Failing(place, fail_with(OSError(errno.ENOSPC, "No space left on device")))
    result = it.agent.run("Go", sink=sink, subscribers=[acting])
    refused = type(whole_log()[place - 1])

    assert result.status == "failed"
    assert "No space left on device" in str(result.error)
    assert [type(entry) for entry in sink.log] == [type(entry) for entry in whole_log()[: place - 1]]
    assert len(acting.log) == len(set(acting.log))  # nothing is told twice
    assert isinstance(acting.log[-1], RunFailed)
    assert acting.log[-1].error == "store"
    assert [isinstance(entry, RunFailed | RunFinished | RunStopped) for entry in acting.log].count(True) == 1
    assert validate(result.conversation) == []
    assert violations("openai_chat", it.agent, result.conversation) == []
    assert len(it.transport.requests) == sum(isinstance(entry, TurnStarted) for entry in sink.log)
    assert it.calls == any(isinstance(entry, ToolStarted) for entry in sink.log)
    assert result.conversation.messages[0].id
    if refused is ToolStarted:
        assert "not_started" in repr(result.conversation)
    assert not it.agent.busy
    assert it.agent.run("Go on").status in ("completed", "failed")


def test_a_defect_in_a_sink_is_not_called_a_full_disk(world: World) -> None:
    it, acting = Added(world), Acting()
    error = ZeroDivisionError("a bug")
    result = it.agent.run("Go", sink=Failing(4, fail_with(error)), subscribers=[acting])

    assert result.error is error
    assert isinstance(acting.log[-1], RunFailed)
    assert acting.log[-1].error == "internal"


def test_a_stop_that_cannot_be_written_is_a_stop_all_the_same(world: World) -> None:
    it = Added(world)
    token = CancelToken()

    class Full:
        def append(self, entry: Entry, /) -> None:
            if isinstance(entry, RunStopped):
                raise StoreError("the disk is full")

    stopping = Acting(lambda entry: isinstance(entry, TextDelta), token.cancel)
    result = it.agent.run("Go", token=token, sink=Full(), subscribers=[stopping])

    assert result.status == "stopped"
    assert isinstance(result.error, StoreError)
    assert "store" == result.error.kind
    assert isinstance(stopping.log[-1], RunStopped)


@pytest.mark.parametrize("place", PLACES)
def test_a_stop_while_the_sink_waits_leaves_both_with_the_same_log(world: World, place: int) -> None:
    it, acting, token = Added(world), Acting(), CancelToken()

    def stopped_while_waiting() -> None:
        token.cancel()
        token.check()

    sink = Failing(place, stopped_while_waiting)
    begun = place > 2
    terminal = place == len(whole_log())
    if terminal:
        # what ends a run is waited for whatever the token says, so here it is somebody else's exception
        with pytest.raises(Cancelled):
            it.agent.run("Go", token=token, sink=sink, subscribers=[acting])
    else:
        result = it.agent.run("Go", token=token, sink=sink, subscribers=[acting])
        assert result.status == "stopped"
        assert (result.error is None) == begun
        assert validate(result.conversation) == []
        assert result.conversation == settle(fold(acting.log))
        assert len(result.conversation.messages) >= 1
        if begun:
            assert sink.log == acting.log

    assert not it.agent.busy


def test_ctrl_c_in_a_sink_passes_through_and_the_run_has_ended(world: World) -> None:
    for place in PLACES:
        it, acting = Added(world), Acting()
        with pytest.raises(KeyboardInterrupt):
            it.agent.run("Go", sink=Failing(place, fail_with(KeyboardInterrupt())), subscribers=[acting])

        assert not it.agent.busy
        assert isinstance(acting.log[-1], RunStopped | RunFinished)
        assert it.agent.conversation == settle(fold(acting.log))


def test_the_log_and_its_effects_are_in_order(world: World) -> None:
    """Write-ahead: what permits an effect is with the sink before the effect."""
    it = Added(world)

    class Watching:
        def __init__(self) -> None:
            self.seen: list[tuple[type[Entry], int, int]] = []

        def append(self, entry: Entry, /) -> None:
            self.seen.append((type(entry), len(it.transport.requests), it.calls))

    sink = Watching()
    it.agent.run("Go", sink=sink)
    before = {kind: (requests, calls) for kind, requests, calls in reversed(sink.seen)}

    assert before[UserMessageAdded] == before[RunStarted] == before[TurnStarted] == (0, 0)
    assert before[ToolStarted] == (1, 0)
    assert before[ToolFinished] == (1, 1)


# with the store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "chats.db")


def agent_of(world: World, store: Store, conversation_id: str, transport: RecordedTransport) -> AgentFace:
    agent = world.recorded_agent(transport)
    return world.agent(agent.lang, conversation=store.load(conversation_id).conversation)


def test_what_is_stored_is_what_is_in_memory_after_every_ending(world: World, store: Store) -> None:
    body = render(SUM, "openai_chat")
    recordings = [
        Recording((body,)),
        Recording((body,)),
        Recording((body[: len(body) // 2],)),
        Recording((body,)),
    ]
    statuses: list[str] = []
    with store:
        conversation_id = store.create()
        with store.open(conversation_id) as log:
            agent = agent_of(world, store, conversation_id, RecordedTransport(recordings))
            for _ in recordings:
                token = CancelToken()
                stopping = Acting(
                    lambda entry: isinstance(entry, TextDelta) and len(statuses) == 1, token.cancel
                )
                statuses.append(agent.run("Go", token=token, sink=log, subscribers=[stopping]).status)
        loaded = store.load(conversation_id)

    assert statuses == ["completed", "stopped", "failed", "completed"]
    assert loaded.conversation == agent.conversation
    assert loaded.run is None


def test_a_conversation_is_gone_on_with_after_a_reload(world: World, store: Store) -> None:
    body = render(SUM, "openai_chat")
    with store:
        conversation_id = store.create()
        for _ in range(2):
            transport = RecordedTransport([Recording((body,))])
            with store.open(conversation_id) as log:
                agent_of(world, store, conversation_id, transport).run("Go", sink=log)
        loaded = store.load(conversation_id).conversation

    assert len(loaded.messages) == 4
    assert b"It is 3." in transport.requests[0].body


def test_the_key_is_in_no_entry_error_repr_or_file(world: World, store: Store, tmp_path: Path) -> None:
    hold = Hold()
    answers = [
        Recording((b'{"error": {"message": "wrong key: ' + KEY.encode() + b'"}}',), status=401),
        Recording((b'data: {"error": {"message": "wrong key: ' + KEY.encode() + b'"}}\n\n',)),
        Recording(refuse=f"no connection with {KEY}"),
        Recording((render(SUM, "openai_chat")[:200], hold)),
    ]
    transport = RecordedTransport(answers)
    results: list[RunResult] = []
    acting = Acting()
    with store:
        conversation_id = store.create()
        with store.open(conversation_id) as log:
            agent = agent_of(world, store, conversation_id, transport)
            results = [agent.run("Go", sink=log, subscribers=[acting]) for _ in answers[:2]]
            token = CancelToken()
            running = Background(agent.run, "Go", token=token, sink=log, subscribers=[acting])
            hold.reached.wait()
            token.cancel()
            results.append(running.result())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert [result.status for result in results] == ["failed", "failed", "stopped"]
    assert len(transport.requests) == 4
    assert KEY not in repr((acting.log, results, [str(result.error) for result in results]))
    assert KEY not in repr((agent, agent.lang, agent.conversation.messages, transport.requests))
    assert KEY.encode() not in written
    assert b"wrong key: [the key]" in written


# the cut


def test_a_stop_from_a_signal_handler_passes_whatever_it_interrupts() -> None:
    """The handler may run in the thread that holds the run's lock: then that has to be a lock it may take again.

    It strikes at every line that the run executes on its way through the log, one line a run.
    """
    lines = 0
    struck = True
    while struck:
        it, token, acting = Added(THREADS), CancelToken(), Acting()
        striking = AtLine(lines, token.cancel)
        with striking:
            result = it.agent.run("Go", token=token, subscribers=[acting])
        struck = striking.struck
        lines += 1

        assert result.status in ("stopped", "completed")
        assert not struck or token.cancelled
        assert result.conversation == settle(fold(acting.log))
        assert validate(result.conversation) == []
        assert (token.stats().children, token.stats().registrations) == (0, 0)
        assert not it.agent.busy

    assert lines > 200


@pytest.mark.parametrize("ending", ["completed", "failed"])
def test_the_receipt_of_a_stop_from_a_signal_handler_is_kept_whatever_it_interrupts(ending: str) -> None:
    """It strikes in the thread that drives, which may be about to accept the very entry that ends the run."""
    seen: set[tuple[StopReceipt, str]] = set()
    lines = 0
    struck = True
    while struck:
        body = render(SUM, "openai_chat")
        transport = RecordedTransport(
            [Recording((body if ending == "completed" else body[: len(body) // 2],))]
        )
        run = Run(
            State(Conversation()),
            "r",
            user_message=user_message("Go"),
            token=CancelToken.never(),
            max_turns=1,
            sink=None,
            subscribers=(),
            now=time.time,
            settled=lambda run: None,
        )
        model = THREADS.recorded_agent(transport).lang.call()
        receipts: list[StopReceipt] = []
        striking = AtLine(lines, lambda: receipts.append(run.stop(CancelReason("user"))))  # noqa: B023  # called here
        with striking:
            status = complete(run, model, ToolCalls({})).status
        struck = striking.struck
        seen.update((receipt, status) for receipt in receipts)
        lines += 1

    assert seen == {("accepted", "stopped"), ("already_finished", ending)}
    assert lines > 100


def test_a_sink_that_fails_at_one_late_result_keeps_no_other_from_being_told() -> None:
    both = threading.Barrier(3)

    def late(*, token: CancelToken) -> str:
        both.wait()
        token.wait()
        return "late"

    turn = Turn((Call("one", ("{}",)), Call("two", ("{}",))))
    transport = RecordedTransport([Recording((render(turn, "openai_chat"),))])
    agent = THREADS.recorded_agent(transport, [tool(name="one")(late), tool(name="two")(late)])
    token, told = CancelToken(), Acting()

    class Full:
        def append(self, entry: Entry, /) -> None:
            if isinstance(entry, ToolFinished):
                raise StoreError("the disk is full")

    running = Background(agent.run, "Go", token=token, sink=Full(), subscribers=[told])
    both.wait()
    token.cancel()
    result = running.result()

    assert result.stop is not None
    assert [report.outcome for report in result.stop.tools] == ["returned", "returned"]
    assert isinstance(result.error, StoreError)
    assert sum(isinstance(entry, ToolFinished) for entry in told.log) == 2


def test_ctrl_c_at_any_line_ends_the_run_once_and_leaves_the_agent_free() -> None:
    lines = 0
    struck = True
    while struck:
        it, acting = Added(THREADS), Acting()
        striking = AtLine(lines, fail_with(KeyboardInterrupt()), DRIVING)
        interrupted = False
        with striking:
            try:
                it.agent.run("Go", subscribers=[acting])
            except KeyboardInterrupt:
                interrupted = True
        struck = striking.struck
        lines += 1
        ends = [isinstance(entry, RunStopped | RunFinished) for entry in acting.log]

        assert interrupted == struck
        assert not it.agent.busy
        assert ends[-1:] in ([True], [])  # []: before the run has begun
        assert ends.count(True) <= 1
        assert it.agent.conversation == settle(fold(acting.log))
        assert validate(it.agent.conversation) == []

    assert lines > 300


RUN = frozenset({_run.__file__})
DRIVING = RUN | {_audience.__file__, agents.__file__, threads.__file__, _tool_calls.__file__}


class AtLine:
    """Does something before one line of some files in this thread, as a signal handler would."""

    def __init__(self, number: int, action: Callable[[], object], files: Set[str] = RUN) -> None:
        self.struck = False
        self._left = number
        self._action = action
        self._files = files

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:  # the interpreter's own signature
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line" and not self.struck:
            self._left -= 1
            if self._left < 0:
                self.struck = True
                self._action()
        return self._trace
