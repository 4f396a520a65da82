"""The blocking driver and its tools, stopped in each phase: over real sockets, with real processes."""

import contextvars
import itertools
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
import trustme

from aiwrapper import (
    CancelToken,
    Entry,
    RetryWaiting,
    RunResult,
    RunStopped,
    StopReport,
    TextDelta,
    Tool,
    ToolCallReady,
    ToolDenied,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    tool,
    validate,
)
from aiwrapper._core.log import StopWhere
from aiwrapper.testing import Call, DialectName, HttpError, Say, Turn, render
from aiwrapper.testing._holds import Phase
from aiwrapper.testing.fakes import FakeProvider
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from aiwrapper.transport import HttpTransport
from cancel_token import Cancelled
from cancel_token.http import Session
from cancel_token.processes import run
from cancel_token.testing import ManualClock
from tests.aiwrapper.running import DIALECTS, Acting, Background, lang, lang_at, violations
from tests.aiwrapper.worlds import AgentFace, World

HELLO = Turn((Say(("Hel", "lo")),))


THREADS = World("threads")
"""Ctrl-C strikes in the thread that drives the run only where that is the caller's own."""

NO_JSON = "'object' cannot be given as JSON: 'object' is no JSON"
UNREADABLE = "'Unreadable' cannot be given as JSON: KeyError: 'lazy'"


def calls(*names: str) -> Turn:
    return Turn((Say(("Let me see.",)), *(Call(name, ("{}",)) for name in names)))


def stop_of(result: RunResult) -> StopReport:
    assert result.status == "stopped"
    assert result.error is None
    assert result.stop is not None
    assert validate(result.conversation) == []
    return result.stop


def outcomes(result: RunResult) -> list[str | None]:
    return [report.outcome for report in stop_of(result).tools]


# the model call


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("place", "wheres"),
    [
        # what the server knows of the client in these phases, and the other way round, is a step behind
        ("accept", {"connecting", "waiting_for_headers"}),
        ("upload", {"connecting", "waiting_for_headers"}),
        ("headers", {"waiting_for_headers"}),
        ("first_byte", {"waiting_for_headers", "streaming"}),
    ],
)
def test_a_stop_ends_a_request_that_waits_and_the_next_one_is_accepted(
    world: World, dialect: DialectName, place: Phase, wheres: set[StopWhere]
) -> None:
    with FakeProvider(dialect, [HELLO, HELLO]) as fake, fake.hold_at(place) as hold:
        agent = world.agent(lang_at(fake))
        token = CancelToken()
        running = Background(agent.run, "Hi", token=token)
        hold.reached.wait()
        token.cancel("the user pressed Stop")
        stopped = running.result()
        assert hold.connection is not None
        hold.connection.hung_up.wait()
        hold.release()
        after = agent.run("Go on")
        statuses = [request.status for request in fake.requests]

    stop = stop_of(stopped)
    assert (stop.reason, stop.message) == ("user", "the user pressed Stop")
    assert stop.where in wheres
    assert not stop.usage_complete
    assert stop.latency_seconds >= 0
    assert len(stopped.conversation.messages) == 1
    assert (after.status, statuses[-1]) == ("completed", 200)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stop_ends_a_silent_stream_and_what_was_said_is_kept(world: World, dialect: DialectName) -> None:
    between = render(HELLO, dialect).index(b'"lo"')
    with FakeProvider(dialect, [HELLO, HELLO]) as fake, fake.hold_at(between) as hold:
        agent = world.agent(lang_at(fake))
        token, heard = CancelToken(), threading.Event()
        acting = Acting(lambda entry: isinstance(entry, TextDelta), heard.set)
        running = Background(agent.run, "Hi", token=token, subscribers=[acting])
        hold.reached.wait()
        heard.wait()
        token.cancel()
        stopped = running.result()
        assert hold.request is not None
        hold.request.hung_up.wait()
        hold.release()
        after = agent.run("Go on")
        statuses = [request.status for request in fake.requests]

    assert stop_of(stopped).where == "streaming"
    assert stopped.text == "Hel"
    assert (after.status, statuses) == ("completed", [200, 200])


def test_a_stop_ends_a_tls_handshake(world: World) -> None:
    authority = trustme.CA()
    server, session = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Session()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    with (
        authority.cert_pem.tempfile() as trusted,
        FakeProvider("openai_chat", [HELLO], tls=server) as fake,
        fake.hold_at("tls") as hold,
    ):
        session.verify = trusted
        agent = world.agent(lang_at(fake, HttpTransport(session)))
        token = CancelToken()
        running = Background(agent.run, "Hi", token=token)
        hold.reached.wait()
        token.cancel()
        stopped = running.result()
        hold.release()
        after = agent.run("Go on")

    assert stop_of(stopped).where == "connecting"
    assert str(after.error) == "None"
    assert after.text == "Hello"


def test_a_stop_ends_a_long_wait_before_another_attempt(world: World) -> None:
    with FakeProvider("openai_chat", [HttpError(429, retry_after="0"), HttpError(429), HELLO]) as fake:
        agent = world.agent(lang_at(fake))
        token = CancelToken()
        acting = Acting(lambda entry: isinstance(entry, RetryWaiting) and entry.attempt == 2, token.cancel)
        stopped = agent.run("Hi", token=token, subscribers=[acting])
        asked = len(fake.requests)
        after = agent.run("Go on")

    assert stop_of(stopped).where == "backing_off"
    assert asked == 2
    assert after.text == "Hello"


def test_a_deadline_is_a_stop_with_its_own_reason(world: World) -> None:
    hold = Hold()
    agent = world.recorded_agent(RecordedTransport([Recording((hold,))]))
    clock = ManualClock()
    running = Background(agent.run, "Hi", token=CancelToken(60, clock=clock))
    hold.reached.wait()
    clock.advance(60)
    stop = stop_of(running.result())

    assert (stop.reason, stop.where) == ("deadline", "streaming")


def test_a_stop_of_a_parent_has_the_parents_reason(world: World) -> None:
    agent = world.recorded_agent(RecordedTransport([Recording((render(HELLO, "openai_chat"),))]))
    parent = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, TextDelta), lambda: parent.cancel("everybody home"))
    stop = stop_of(agent.run("Hi", token=parent.child().child(), subscribers=[acting]))

    assert (stop.reason, stop.message) == ("user", "everybody home")


# tools


def agent_with(
    world: World, *tools: Tool[..., object], grace_seconds: float = 30.0
) -> tuple[AgentFace, RecordedTransport]:
    """An agent whose model calls all the tools in its first turn and says hello afterwards."""
    names = [each.name for each in tools]
    turns = [calls(*names), HELLO, HELLO]
    transport = RecordedTransport([Recording((render(turn, "openai_chat"),)) for turn in turns])
    return world.recorded_agent(transport, tools, tool_grace_seconds=grace_seconds), transport


def results_told(agent: AgentFace, subscribers: list[Acting] | None = None) -> list[tuple[str, str]]:
    acting = Acting()
    agent.run("Go", subscribers=[acting, *(subscribers or [])])
    return [(entry.outcome, entry.content) for entry in acting.log if isinstance(entry, ToolFinished)]


def goes_on(agent: AgentFace) -> None:
    """The next request is one that both providers take, and is answered."""
    for dialect in DIALECTS:
        assert violations(dialect, agent, agent.conversation) == []
    assert agent.run("Go on").status == "completed"
    for dialect in DIALECTS:
        assert violations(dialect, agent, agent.conversation) == []


@pytest.mark.parametrize("when", [ToolCallReady, TurnFinished])
def test_a_tool_is_not_started_after_a_stop(world: World, when: type[Entry]) -> None:
    called: list[str] = []

    @tool
    def note() -> None:
        called.append("note")

    agent, _ = agent_with(world, note)
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, when), token.cancel)
    result = agent.run("Go", token=token, subscribers=[acting])

    assert called == []
    assert outcomes(result) == ["not_started"]
    assert not any(isinstance(entry, ToolStarted) for entry in acting.log)
    goes_on(agent)


def test_a_tool_that_was_about_to_start_does_not(world: World) -> None:
    called: list[str] = []

    @tool
    def note() -> None:
        called.append("note")

    agent, _ = agent_with(world, note)
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, ToolStarted), token.cancel)
    result = agent.run("Go", token=token, subscribers=[acting])

    assert called == []
    assert outcomes(result) == ["interrupted_running"]
    assert stop_of(result).where == "running_tools"
    goes_on(agent)


def test_a_loop_is_stopped_by_its_check(world: World) -> None:
    turning = threading.Event()

    @tool
    def spin(*, until: CancelToken) -> None:
        for _ in until.iter(itertools.count()):
            turning.set()

    agent, _ = agent_with(world, spin)
    token = CancelToken()
    running = Background(agent.run, "Go", token=token)
    turning.wait()
    token.cancel()

    assert outcomes(running.result()) == ["interrupted_running"]
    goes_on(agent)


def test_a_subprocess_is_stopped_with_its_tool(world: World) -> None:
    code = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); time.sleep(3600)"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        @tool
        def sleep_long(*, token: CancelToken) -> int:
            return run([sys.executable, "-c", code, port], token=token).returncode

        agent, _ = agent_with(world, sleep_long)
        token = CancelToken()
        running = Background(agent.run, "Go", token=token)
        child, _ = listener.accept()
        token.cancel()
        result = running.result()
        with child:
            last_words = child.recv(1)

    assert outcomes(result) == ["interrupted_running"]
    assert last_words == b""
    assert psutil.Process().children(recursive=True) == []
    goes_on(agent)


@contextmanager
def silent_server() -> Iterator[tuple[str, Callable[[], socket.socket]]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", lambda: listener.accept()[0]


def test_a_request_of_a_tool_is_stopped_also_if_the_tool_knows_no_token(world: World) -> None:
    with silent_server() as (url, accept):

        @tool
        def fetch() -> str:
            with Session() as session:
                return str(session.get(url).text)

        agent, _ = agent_with(world, fetch)
        token = CancelToken()
        running = Background(agent.run, "Go", token=token)
        with accept() as connection:
            while b"\r\n\r\n" not in connection.recv(65_536):
                pass
            token.cancel()
            result = running.result()
            end = connection.recv(1)

    assert outcomes(result) == ["interrupted_running"]
    assert end == b""
    goes_on(agent)


def test_of_two_tools_the_finished_one_keeps_its_result(world: World) -> None:
    @tool
    def quick() -> str:
        return "the real result"

    @tool
    def slow(*, token: CancelToken) -> None:
        token.wait()
        token.check()

    agent, transport = agent_with(world, quick, slow)
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, ToolFinished), token.cancel)
    result = agent.run("Go", token=token, subscribers=[acting])
    goes_on(agent)

    assert outcomes(result) == ["returned", "interrupted_running"]
    assert b"the real result" in transport.requests[1].body


def test_a_result_that_comes_with_the_stop_is_not_thrown_away(world: World) -> None:
    @tool
    def last_word(*, token: CancelToken) -> str:
        token.wait()
        return "saved what there was"

    agent, _ = agent_with(world, last_word)
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, ToolStarted), threading.Timer(0, token.cancel).start)
    result = agent.run("Go", token=token, subscribers=[acting])

    assert outcomes(result) in (
        ["returned"],
        ["interrupted_running"],
    )  # the stop may come before the handler's call
    goes_on(agent)


def test_calls_of_one_turn_run_side_by_side(world: World) -> None:
    meeting = threading.Barrier(2)

    @tool
    def one() -> str:
        return f"place {meeting.wait()}"

    @tool
    def two() -> str:
        return f"place {meeting.wait()}"

    agent, _ = agent_with(world, one, two)

    assert sorted(results_told(agent)) == [("returned", "place 0"), ("returned", "place 1")]


def test_a_tool_that_will_not_stop_is_left_behind_and_cannot_do_anything_any_more(world: World) -> None:
    begun, release, done = threading.Event(), threading.Event(), threading.Event()

    @tool
    def stubborn() -> str:
        begun.set()
        release.wait()
        done.set()
        return "far too late"

    agent, transport = agent_with(world, stubborn, grace_seconds=0.0)
    token = CancelToken()
    acting = Acting()
    running = Background(agent.run, "Go", token=token, subscribers=[acting])
    begun.wait()
    token.cancel()
    result = running.result()
    left = [thread for thread in threading.enumerate() if thread.name == "aiwrapper tool stubborn"]
    goes_on(agent)
    release.set()
    for thread in left:
        thread.join()
    goes_on(agent)

    assert [call.name for call in stop_of(result).abandoned] == ["stubborn"]
    assert outcomes(result) == ["interrupted_running"]
    assert isinstance(acting.log[-1], RunStopped)
    assert done.is_set()
    assert len(left) == 1
    assert left[0].daemon
    assert all(b"far too late" not in request.body for request in transport.requests)


def test_the_grace_time_is_given_to_tools_that_need_it_and_counts_as_latency(world: World) -> None:
    clock = ManualClock()
    begun, stopping = threading.Event(), threading.Event()

    @tool
    def tidy(*, token: CancelToken) -> str:
        begun.set()
        token.wait()
        stopping.wait()
        return "tidied up"

    agent, _ = agent_with(world, tidy, grace_seconds=10.0)
    token = CancelToken(clock=clock)
    running = Background(agent.run, "Go", token=token)
    begun.wait()
    token.cancel()
    clock.advance(2)
    stopping.set()
    result = running.result()

    assert outcomes(result) == ["returned"]
    assert stop_of(result).latency_seconds == 2.0
    assert stop_of(result).abandoned == ()


class Marked(str):
    """As those are that hold HTML which is known to be safe."""


def test_texts_of_ones_own_kind_are_texts(world: World) -> None:
    @tool
    def title() -> str:
        return Marked("<b>A river</b>")

    agent, transport = agent_with(world, title)
    acting = Acting()
    result = agent.run(Marked("Go"), subscribers=[acting])

    assert "completed" == result.status
    assert b"<b>A river</b>" in transport.requests[1].body
    assert [str] == [type(entry.content) for entry in acting.log if isinstance(entry, ToolFinished)]
    goes_on(agent)


# what a tool may do


def test_what_a_tool_raises_is_told_to_the_model_and_the_run_goes_on(world: World) -> None:
    @tool
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    @tool
    def leave() -> None:
        sys.exit("bye")

    @tool
    def refuse() -> None:
        raise ToolDenied("The user said no.")

    @tool
    def stop_myself() -> None:
        own = CancelToken()
        own.cancel("my own timeout")
        own.check()

    @tool
    def stop_my_token(*, token: CancelToken) -> None:
        token.cancel("mine alone")
        token.check()

    @tool
    def give_back() -> object:
        return object()

    agent, _ = agent_with(world, fail, leave, refuse, stop_myself, stop_my_token, give_back)

    assert sorted(results_told(agent)) == [
        ("denied", "The user said no."),
        ("raised", "Cancelled: mine alone (user)"),
        ("raised", "Cancelled: my own timeout (user)"),
        ("raised", "SystemExit: bye"),
        (
            "raised",
            f"The tool ran to its end, but what it returned is lost: {NO_JSON}.",
        ),
        ("raised", "ZeroDivisionError: by zero"),
    ]
    assert agent.last_result is not None
    assert agent.last_result.status == "completed"


class Mute(ToolDenied):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Unreadable:
    def model_dump(self, *, mode: str) -> object:
        raise KeyError("lazy")


def test_whatever_a_tool_gives_back_or_says_the_call_has_a_result_and_the_run_goes_on(world: World) -> None:
    @tool
    def give_back() -> object:
        return Unreadable()

    @tool
    def refuse() -> None:
        raise Mute

    agent, _ = agent_with(world, give_back, refuse)

    assert sorted(results_told(agent)) == [
        (
            "raised",
            f"The tool ran to its end, but what it returned is lost: {UNREADABLE}.",
        ),
        ("raised", "ZeroDivisionError"),
    ]
    assert agent.last_result is not None
    assert agent.last_result.status == "completed"


def test_an_error_that_the_stop_caused_is_the_stop(world: World) -> None:
    begun = threading.Event()

    @tool
    def fragile(*, token: CancelToken) -> None:
        begun.set()
        token.wait()
        raise ConnectionResetError("the line was cut")

    agent, _ = agent_with(world, fragile)
    token = CancelToken()
    running = Background(agent.run, "Go", token=token)
    begun.wait()
    token.cancel()

    assert outcomes(running.result()) == ["interrupted_running"]


def test_wrong_calls_are_answered_without_calling_anything(world: World) -> None:
    called: list[int] = []

    @tool
    def note(number: int) -> None:
        called.append(number)

    turn = Turn(
        (Call("note", ('{"number": "3"}',)), Call("delete_everything", ("{}",)), Call("note", ("{}",)))
    )
    transport = RecordedTransport([Recording((render(each, "openai_chat"),)) for each in (turn, HELLO)])

    assert results_told(world.recorded_agent(transport, [note])) == [
        ("invalid_arguments", "The tool was not called: Expected `int`, got `str` - at `$.number`"),
        ("unknown_tool", "There is no tool 'delete_everything'. The tools are: note."),
        ("invalid_arguments", "The tool was not called: Object missing required field `number`"),
    ]
    assert called == []


where_am_i: contextvars.ContextVar[str] = contextvars.ContextVar("where_am_i", default="nowhere")


def test_context_variables_are_seen_and_not_changed_by_a_tool(world: World) -> None:
    @tool
    def look() -> str:
        seen = where_am_i.get()
        where_am_i.set("in a tool")
        return seen

    agent, _ = agent_with(world, look)
    reset = where_am_i.set("in the test")
    results = results_told(agent)
    after = where_am_i.get()
    where_am_i.reset(reset)

    assert results == [("returned", "in the test")]
    assert after == "in the test"


def test_a_turn_without_threads_to_give_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def no_more(self: threading.Thread) -> None:
        if self.name.startswith("aiwrapper tool"):
            raise RuntimeError("can't start new thread")
        start(self)

    @tool
    def note() -> None: ...

    agent, _ = agent_with(world, note)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        results = results_told(agent)

    assert results == [("raised", "The tool could not be started: can't start new thread")]


# what is nobody's failure


def test_ctrl_c_passes_through_and_the_run_has_ended() -> None:
    transport = RecordedTransport([Recording((render(HELLO, "openai_chat"),))] * 2)
    agent = THREADS.recorded_agent(transport)
    acting = Acting(lambda entry: isinstance(entry, TextDelta), lambda: signal.raise_signal(signal.SIGINT))
    seen = Acting()
    with pytest.raises(KeyboardInterrupt):
        agent.run("Hi", subscribers=[seen, acting])

    assert agent.last_result is not None
    assert stop_of(agent.last_result).reason == "signal"
    assert isinstance(seen.log[-1], RunStopped)
    assert transport.open_now == 0
    goes_on(agent)


class CtrlC:
    """Raises KeyboardInterrupt in the main thread, once for each `press`.

    A signal that comes just before a wait begins does not end the wait, in any Python program: the person presses
    again. So does this one, until the handler has run.
    """

    def __init__(self) -> None:
        self._pressed = threading.Event()

    def __enter__(self) -> "CtrlC":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def press(self) -> None:
        self._pressed.clear()
        main = threading.main_thread().ident
        assert main is not None
        while not self._pressed.wait(0.01):
            signal.pthread_kill(main, signal.SIGINT)

    def _handle(self, number: int, frame: object) -> None:
        if not self._pressed.is_set():
            self._pressed.set()
            raise KeyboardInterrupt


def test_ctrl_c_ends_the_tools_too() -> None:
    with CtrlC() as ctrl_c:

        @tool
        def interrupted(*, token: CancelToken) -> None:
            ctrl_c.press()
            token.wait()
            token.check()

        agent, _ = agent_with(THREADS, interrupted)
        with pytest.raises(KeyboardInterrupt):
            agent.run("Go")

    assert agent.last_result is not None
    assert outcomes(agent.last_result) == ["interrupted_running"]
    assert stop_of(agent.last_result).where == "running_tools"
    goes_on(agent)


def test_a_second_ctrl_c_ends_the_waiting_for_tools() -> None:
    release = threading.Event()
    with CtrlC() as ctrl_c:

        @tool
        def stubborn(*, token: CancelToken) -> None:
            ctrl_c.press()
            token.wait()
            ctrl_c.press()
            release.wait()

        agent, _ = agent_with(THREADS, stubborn, grace_seconds=3600.0)
        with pytest.raises(KeyboardInterrupt):
            agent.run("Go")
    release.set()

    assert agent.last_result is not None
    assert [call.name for call in stop_of(agent.last_result).abandoned] == ["stubborn"]
    goes_on(agent)


def test_ctrl_c_while_a_failed_log_waits_for_tools_passes_through_and_the_run_has_ended() -> None:
    release = threading.Event()
    with CtrlC() as ctrl_c:

        @tool
        def quick() -> None: ...

        @tool
        def stubborn(*, token: CancelToken) -> None:
            token.wait()
            ctrl_c.press()
            release.wait()

        class Full:
            def append(self, entry: Entry, /) -> None:
                if isinstance(entry, ToolFinished):
                    raise OSError("the disk is full")

        agent, _ = agent_with(THREADS, quick, stubborn, grace_seconds=3600.0)
        with pytest.raises(KeyboardInterrupt):
            agent.run("Go", sink=Full())
    release.set()

    assert agent.last_result is not None
    assert stop_of(agent.last_result).reason == "signal"
    goes_on(agent)


class Leaving(BaseException):
    """Such as a runtime's own cancellation."""


def test_a_runtimes_own_exception_passes_through_and_the_run_has_ended(world: World) -> None:
    def leave() -> None:
        raise Leaving

    agent, _ = agent_with(world)
    with pytest.raises(Leaving):
        agent.run("Hi", subscribers=[Acting(lambda entry: isinstance(entry, TurnStarted), leave)])

    assert agent.last_result is not None
    assert stop_of(agent.last_result).reason == "runtime"
    goes_on(agent)


class OtherTokens:
    """A transport that works under a token of its own, which somebody cancels."""

    @contextmanager
    def open(self, request: object, token: CancelToken, /) -> Iterator[Iterator[bytes]]:
        other = CancelToken()
        other.cancel("not yours")
        other.check()
        yield iter(())


def test_a_stop_of_somebody_elses_token_is_not_taken_for_ours(world: World) -> None:
    agent = world.agent(lang("openai_chat", "http://elsewhere/v1", OtherTokens()))
    with pytest.raises(Cancelled, match="not yours"):
        agent.run("Hi")

    assert agent.last_result is not None
    assert stop_of(agent.last_result).reason == "runtime"
