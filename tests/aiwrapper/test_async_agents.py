"""What only tasks can do to a run: be cancelled by their runtime, run tools in the loop, drop an iterator."""

import asyncio
import contextvars
import functools
import gc
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from aiwrapper import (
    AsyncChatAgent,
    AsyncLang,
    AsyncRunHandle,
    Busy,
    CancelToken,
    ChatAgent,
    Lang,
    RunFinished,
    RunStopped,
    TextDelta,
    ToolDenied,
    ToolFinished,
    ToolStarted,
    UserMessageAdded,
    tool,
    validate,
)
from aiwrapper._core.conversation import Conversation, fold, settle
from aiwrapper._feed import PIPE_ENTRIES
from aiwrapper.testing import Call, FakeProvider, Say, Turn, render
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from cancel_token.aio import fail_on_cancel, move_on_cancel, run_sync
from tests.aiwrapper.running import (
    DIALECTS,
    HELLO,
    KEY,
    Acting,
    lang,
    lang_at,
    said,
    silent_after,
    violations,
)
from tests.cancel_token.loops import NewLoop, living_tasks, on_each_loop_of_asyncio, on_each_runtime, run_on

SUM = Turn((Say(("It is ", "3 and 7.")),))


def bytes_of(turn: Turn) -> bytes:
    return render(turn, "openai_chat")


def calls(*names: str) -> Turn:
    return Turn(tuple(Call(name, ("{}",)) for name in names))


def agent_at(transport: RecordedTransport, *tools: object, grace_seconds: float = 30.0) -> AsyncChatAgent:
    made = [each for each in tools if callable(each)]
    return AsyncChatAgent(
        lang("openai_chat", "http://recorded/v1", transport), made, tool_grace_seconds=grace_seconds
    )


async def reached(hold: Hold) -> None:
    """Wait in a thread, so that the loop goes on."""
    await run_sync(hold.reached.wait)


async def goes_on(agent: AsyncChatAgent) -> None:
    for dialect in DIALECTS:
        assert violations(dialect, agent, agent.conversation) == []
    assert (await agent.run("Go on")).status == "completed"


# the runtime's own cancellation


@on_each_runtime
async def test_the_runtimes_cancellation_ends_the_run_and_goes_on_as_what_it_is() -> None:
    recording, hold = silent_after(b'"Hel"')
    transport = RecordedTransport([recording, Recording((bytes_of(SUM),))])
    agent = agent_at(transport)
    token = CancelToken()
    returned = False
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            nonlocal returned
            await agent.run("Hi", token=token)
            returned = True

        group.start_soon(ask)
        await reached(hold)
        group.cancel_scope.cancel()

    assert not returned
    assert not token.cancelled
    assert (token.stats().children, token.stats().registrations) == (0, 0)
    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert (agent.last_result.stop.reason, agent.last_result.text) == ("runtime", "Hel")
    assert transport.open_now == 0
    await goes_on(agent)


@on_each_runtime
async def test_a_timeout_around_a_run_is_a_timeout() -> None:
    recording, _ = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await agent.run("Hi")

    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "runtime"
    await goes_on(agent)


@on_each_runtime
async def test_a_task_that_is_cancelled_already_asks_nobody_and_keeps_what_was_said() -> None:
    transport = said(HELLO, SUM)
    agent = agent_at(transport)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await agent.run("Hi")

    assert scope.cancelled_caught
    assert transport.requests == []
    assert len(agent.conversation.messages) == 1
    assert agent.last_result is not None
    assert agent.last_result.status == "stopped"
    await goes_on(agent)


@on_each_runtime
async def test_the_token_and_the_runtime_at_once_leave_one_end() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    token, acting = CancelToken(), Acting()
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            await agent.run("Hi", token=token, subscribers=[acting])

        group.start_soon(ask)
        await reached(hold)
        token.cancel("the user pressed Stop")
        group.cancel_scope.cancel()

    assert [isinstance(entry, RunStopped | RunFinished) for entry in acting.log].count(True) == 1
    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "user"
    await goes_on(agent)


@on_each_runtime
async def test_tokens_scopes_and_runs_fit_into_each_other() -> None:
    """A stop of an outer scope's token is the runtime's affair for the run inside."""
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    outer = CancelToken()

    async def stop() -> None:
        await reached(hold)
        outer.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(stop)
        with move_on_cancel(outer) as scope:
            await agent.run("Hi")

    assert scope.cancelled_caught
    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "runtime"
    await goes_on(agent)


def test_a_tasks_own_cancel_passes_with_asyncios_accounts_kept() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording, Recording((bytes_of(SUM),))]))

    async def main() -> None:
        task = asyncio.create_task(agent.run("Hi"))
        await asyncio.to_thread(hold.reached.wait)
        task.cancel("from outside")
        with pytest.raises(asyncio.CancelledError, match="from outside"):
            await task
        me = asyncio.current_task()

        assert me is not None
        assert (task.cancelled(), me.cancelling()) == (True, 0)
        assert agent.last_result is not None
        assert agent.last_result.status == "stopped"
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            again = group.create_task(agent.run("Go on"))
        assert again.result().status == "completed"

    asyncio.run(main())


def test_a_failing_sibling_in_a_task_group_of_asyncio_ends_the_run() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording]))

    async def fail() -> None:
        await asyncio.to_thread(hold.reached.wait)
        raise ZeroDivisionError

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run("Hi"))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]

    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "runtime"


@on_each_runtime
async def test_a_run_that_gets_no_thread_leaves_the_agent_free() -> None:
    agent = agent_at(said(HELLO))
    start = threading.Thread.start

    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await agent.run("Hi")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            agent.start("Hi, again")
    assert threading.Thread.start is start

    assert not agent.busy
    assert [message.id for message in agent.conversation.messages] != []
    await goes_on(agent)


# a stream


@on_each_runtime
async def test_a_stream_that_is_dropped_stops_its_run_without_a_warning() -> None:
    recording, _ = silent_after(b'"Hel"')
    transport = RecordedTransport([recording, Recording((bytes_of(SUM),))])
    agent = agent_at(transport)
    ended = threading.Event()
    told = Acting(lambda entry: isinstance(entry, RunStopped), ended.set)
    tasks = living_tasks()
    async for entry in agent.stream("Hi", subscribers=[told]):
        if isinstance(entry, TextDelta):
            break
    del entry
    gc.collect()
    await run_sync(ended.wait)

    assert tasks == living_tasks()
    assert isinstance(told.log[-1], RunStopped)
    assert told.log[-1].reason == "closed"
    await goes_on(agent)


@on_each_runtime
async def test_when_a_stream_has_been_closed_nothing_of_its_run_is_left() -> None:
    recording, _ = silent_after(b'"Hel"')
    transport = RecordedTransport([recording, Recording((bytes_of(SUM),))])
    agent = agent_at(transport)
    async with aclosing(agent.stream("Hi")) as entries:
        async for entry in entries:
            if isinstance(entry, TextDelta):
                break

    assert (transport.open_now, agent.busy) == (0, False)
    assert [] == [thread.name for thread in threading.enumerate() if thread.name.startswith("aiwrapper")]
    with pytest.raises(StopAsyncIteration):
        await anext(entries)
    await goes_on(agent)


@on_each_runtime
async def test_a_stream_whose_task_is_cancelled_has_ended_its_run_when_that_shows() -> None:
    recording, _ = silent_after(b'"Hel"')
    transport = RecordedTransport([recording, Recording((bytes_of(SUM),))])
    agent = agent_at(transport)
    with anyio.CancelScope() as scope:
        try:
            async for entry in agent.stream("Hi"):
                if isinstance(entry, TextDelta):
                    scope.cancel()
        finally:
            open_at_the_end = transport.open_now

    assert scope.cancelled_caught
    assert open_at_the_end == 0
    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert (agent.last_result.stop.reason, agent.last_result.text) == ("runtime", "Hel")
    await goes_on(agent)


@on_each_runtime
async def test_a_stream_is_not_far_ahead_of_its_reader_and_a_stop_does_not_wait_for_him() -> None:
    words = tuple("x" * (3 * PIPE_ENTRIES))
    agent = agent_at(said(Turn((Say(words),)), SUM))
    token, told = CancelToken(), Acting()
    full = threading.Event()
    counting = Acting(lambda entry: len(told.log) == PIPE_ENTRIES, full.set)
    entries = agent.stream("Hi", token=token, subscribers=[told, counting])
    first = await anext(entries)
    await run_sync(full.wait)
    held = settle(fold(told.log[: PIPE_ENTRIES + 1]))
    token.cancel("enough")
    rest = [entry async for entry in entries]

    assert isinstance(first, UserMessageAdded)
    assert isinstance(rest[-1], RunStopped)
    assert [first, *rest] == told.log
    assert len(told.log) <= PIPE_ENTRIES + 4  # the one taken, the one that waits for room, and the end
    assert validate(held) == []
    await goes_on(agent)


@on_each_runtime
async def test_a_stream_of_a_busy_agent_says_so_when_it_is_begun() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording]))
    run = agent.start("Hi")
    entries = agent.stream("Hi, too")
    with pytest.raises(Busy):
        await anext(entries)
    await entries.aclose()
    hold.release()

    assert (await run.wait()).status == "completed"


@on_each_runtime
async def test_what_comes_through_a_run_is_raised_by_its_stream() -> None:
    def leave() -> None:
        raise SystemExit("a subscriber")

    agent = agent_at(said(HELLO, SUM))
    with pytest.raises(SystemExit, match="a subscriber"):
        async for _ in agent.stream(
            "Hi", subscribers=[Acting(lambda entry: isinstance(entry, TextDelta), leave)]
        ):
            pass
    await goes_on(agent)


async def iterated(agent: AsyncChatAgent, told: Acting) -> None:
    async for _ in agent.stream("Hi", subscribers=[told]):
        pass


async def in_a_block(agent: AsyncChatAgent, told: Acting) -> None:
    async with agent.start("Hi", subscribers=[told]):
        await anyio.sleep_forever()


@pytest.mark.parametrize("use", [iterated, in_a_block])
def test_a_task_that_is_thrown_away_stops_its_run_without_a_warning(
    use: Callable[[AsyncChatAgent, Acting], Coroutine[Any, Any, None]],
) -> None:
    """What happens to a task that waits when its loop is closed, and to nobody's coroutine."""
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording]))
    ended = threading.Event()
    told = Acting(lambda entry: isinstance(entry, RunStopped), ended.set)
    task = use(agent, told)

    async def begin() -> None:
        task.send(None)  # up to where it waits, as a loop would
        await reached(hold)

    asyncio.run(begin())
    task.close()
    ended.wait()

    assert isinstance(told.log[-1], RunStopped)
    assert told.log[-1].reason == "closed"


# a handle


@on_each_runtime
async def test_a_task_that_stops_waiting_leaves_the_run_alone() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording]))
    run = agent.start("Hi")
    await reached(hold)
    with anyio.move_on_after(0) as scope:
        await run.wait()
    hold.release()

    assert scope.cancelled_caught
    assert (await run.wait()).status == "completed"


@on_each_runtime
async def test_the_block_of_a_run_that_is_cancelled_stops_it_and_waits() -> None:
    recording, hold = silent_after(b'"Hel"')
    transport = RecordedTransport([recording, Recording((bytes_of(SUM),))])
    agent = agent_at(transport)
    with anyio.CancelScope() as scope:
        async with agent.start("Hi") as run:
            await reached(hold)
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert (run.ended, transport.open_now) == (True, 0)
    result = await run.wait()
    assert result.stop is not None
    assert result.stop.reason == "runtime"
    await goes_on(agent)


@on_each_runtime
async def test_the_block_of_a_run_that_is_left_stops_it_and_waits() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording, Recording((bytes_of(SUM),))]))
    async with agent.start("Hi") as run:
        await reached(hold)

    assert run.ended
    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "closed"
    await goes_on(agent)


def test_a_handle_outlives_its_loop() -> None:
    recording, hold = silent_after(b'"Hel"')
    agent = agent_at(RecordedTransport([recording]))

    async def start() -> object:
        return agent.start("Hi")

    handles = [asyncio.run(start())]
    hold.release()

    async def wait() -> str:
        (handle,) = handles
        return (await handle.wait()).text  # type: ignore[attr-defined, no-any-return]  # an object for `handles`

    assert anyio.run(wait, backend="trio") == "Hello"


# tools in the loop


async def wait_for(run: AsyncRunHandle) -> None:
    await run.wait()


async def iterate(run: AsyncRunHandle) -> None:
    async for _ in run:
        pass


@pytest.mark.parametrize("wait", [wait_for, iterate])
@on_each_runtime
async def test_an_async_tool_cannot_wait_for_its_own_run(
    wait: Callable[[AsyncRunHandle], Coroutine[Any, Any, None]],
) -> None:
    refused: list[str] = []

    @tool
    async def waiting() -> str:
        with pytest.raises(RuntimeError) as error:
            await wait(run)
        refused.append(str(error.value))
        return "refused"

    agent = agent_at(said(calls("waiting"), HELLO), waiting)
    run = agent.start("Go")
    result = await run.wait()

    assert result.status == "completed"
    assert ["a tool cannot wait for its own run, which waits for it: return, and wait elsewhere"] == refused


@on_each_loop_of_asyncio
def test_a_loop_that_is_closed_by_hand_ends_the_runs_whose_tools_it_was_running(new_loop: NewLoop) -> None:
    """asyncio says nothing to the tasks of a loop that is closed, and so nothing to the tools."""
    begun = threading.Event()

    @tool
    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    agent = agent_at(said(calls("wait"), HELLO), wait)
    loop = new_loop()

    async def start() -> AsyncRunHandle:
        run = agent.start("Go")
        await run_sync(begun.wait)
        return run

    run = loop.run_until_complete(start())
    loop.close()
    result = anyio.run(run.wait, backend="trio")

    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("runtime", "the event loop was closed")
    assert [report.outcome for report in result.stop.tools] == ["interrupted_running"]
    assert not agent.busy


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@on_each_runtime
async def test_async_tools_run_in_the_loop_and_others_in_threads_side_by_side() -> None:
    both = threading.Barrier(2)
    seen: dict[str, object] = {}

    @tool
    async def in_the_loop(*, token: CancelToken) -> str:
        seen["loop"] = (threading.current_thread(), sniffio.current_async_library(), variable.get())
        await run_sync(both.wait)
        return "from the loop"

    @tool
    def in_a_thread() -> str:
        seen["thread"] = (threading.current_thread().name, variable.get())
        both.wait()
        return "from a thread"

    transport = said(calls("in_the_loop", "in_a_thread"), HELLO)
    agent = agent_at(transport, in_the_loop, in_a_thread)
    variable.set("set")
    told = Acting()
    result = await agent.run("Go", subscribers=[told])

    assert result.status == "completed"
    assert seen["loop"] == (threading.current_thread(), sniffio.current_async_library(), "set")
    assert seen["thread"] == ("aiwrapper tool in_a_thread", "set")
    body = transport.requests[1].body
    assert body.index(b"from the loop") < body.index(b"from a thread")  # in the order of the calls
    assert variable.get() == "set"


@on_each_runtime
async def test_a_stop_ends_an_async_tool_where_it_waits() -> None:
    begun = anyio.Event()
    cleaned = False

    @tool
    async def wait() -> None:
        nonlocal cleaned
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned = True

    agent = agent_at(said(calls("wait"), HELLO), wait)
    run = agent.start("Go")
    await begun.wait()
    receipt = run.stop("enough")
    result = await run.wait()

    assert receipt == "accepted"
    assert cleaned
    assert result.stop is not None
    assert [report.outcome for report in result.stop.tools] == ["interrupted_running"]
    assert result.stop.abandoned == ()
    await goes_on(agent)


@on_each_runtime
async def test_a_result_that_an_async_tool_saves_from_the_stop_is_kept() -> None:
    begun = anyio.Event()

    @tool
    async def save(*, token: CancelToken) -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():  # swallowing it is the point
            pass
        return "half of it"

    agent = agent_at(said(calls("save"), HELLO), save)
    run = agent.start("Go")
    await begun.wait()
    run.stop("enough")
    result = await run.wait()

    assert result.stop is not None
    assert [report.outcome for report in result.stop.tools] == ["returned"]
    await goes_on(agent)


@on_each_runtime
async def test_what_an_async_tool_raises_is_told_to_the_model() -> None:
    @tool
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError("by zero")

    @tool
    async def deny() -> None:
        raise ToolDenied("not today")

    @tool
    async def leave() -> None:
        raise SystemExit(3)

    agent = agent_at(said(calls("fail", "deny", "leave"), HELLO), fail, deny, leave)
    told = Acting()
    result = await agent.run("Go", subscribers=[told])
    outcomes = {entry.index: entry.outcome for entry in told.log if isinstance(entry, ToolFinished)}

    assert result.status == "completed"
    assert outcomes == {0: "raised", 1: "denied", 2: "raised"}


@on_each_runtime
async def test_an_async_tool_may_give_itself_a_limit_and_the_run_goes_on() -> None:
    @tool
    async def limited(*, token: CancelToken) -> None:
        with token.child(timeout=0) as limit:
            await run_sync(lambda token: token.wait(), token=limit)

    @tool
    async def scoped(*, token: CancelToken) -> None:
        with token.child() as limit, fail_on_cancel(limit):
            limit.cancel("of its own")
            await anyio.sleep_forever()

    @tool
    async def stopped(*, token: CancelToken) -> None:
        token.cancel("of its own")
        await anyio.sleep_forever()

    agent = agent_at(said(calls("limited", "scoped", "stopped"), HELLO), limited, scoped, stopped)
    told = Acting()
    result = await agent.run("Go", subscribers=[told])
    finished = {entry.index: entry for entry in told.log if isinstance(entry, ToolFinished)}

    assert result.status == "completed"
    assert ["raised"] * 3 == [finished[index].outcome for index in range(3)]
    assert "Cancelled: no time was left (deadline)" == finished[0].content
    assert "of its own" in finished[1].content
    assert "of its own" in finished[2].content


@on_each_runtime
async def test_what_is_raised_in_a_task_group_of_a_tool_is_told_to_the_model() -> None:
    async def fail() -> None:
        raise FileNotFoundError("no such file: a.txt")

    async def deny() -> None:
        raise ToolDenied("not today")

    @tool
    async def fails() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    @tool
    async def denies() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(deny)

    agent = agent_at(said(calls("fails", "denies"), HELLO), fails, denies)
    told = Acting()
    await agent.run("Go", subscribers=[told])
    finished = {entry.index: entry for entry in told.log if isinstance(entry, ToolFinished)}

    assert ("raised", "FileNotFoundError: no such file: a.txt") == (finished[0].outcome, finished[0].content)
    assert ("denied", "not today") == (finished[1].outcome, finished[1].content)


async def later() -> str:
    await anyio.lowlevel.checkpoint()
    return "from the loop"


def now() -> str:
    assert threading.current_thread() is not threading.main_thread()
    return "from a thread"


@functools.wraps(now)
async def made_async() -> str:
    return await run_sync(now)


@functools.wraps(later)
def made_blocking() -> str:
    return anyio.run(later)


@functools.wraps(later)
def passed_on() -> Coroutine[Any, Any, str]:
    return later()


@on_each_runtime
async def test_tools_may_be_made_async_or_blocking_by_what_wraps_them() -> None:
    tools = [
        tool(name="made_async")(made_async),
        tool(name="made_blocking")(made_blocking),
        tool(name="passed_on")(passed_on),
    ]
    agent = agent_at(said(calls("made_async", "made_blocking", "passed_on"), HELLO), *tools)
    told = Acting()
    await agent.run("Go", subscribers=[told])
    finished = {entry.index: entry.content for entry in told.log if isinstance(entry, ToolFinished)}

    assert {0: "from a thread", 1: "from the loop", 2: "from the loop"} == finished


def test_an_agent_that_blocks_runs_what_was_made_blocking_and_says_what_has_to_be_awaited() -> None:
    tools = [tool(name="made_blocking")(made_blocking), tool(name="passed_on")(passed_on)]
    transport = said(calls("made_blocking", "passed_on"), HELLO)
    agent = ChatAgent(lang("openai_chat", "http://recorded/v1", transport), tools)
    told = Acting()
    agent.run("Go", subscribers=[told])
    finished = {entry.index: entry.content for entry in told.log if isinstance(entry, ToolFinished)}

    assert {
        0: "from the loop",
        1: "The tool did nothing: it has to be awaited, and its agent blocks.",
    } == finished


@on_each_runtime
async def test_an_async_tool_that_will_not_stop_is_left_behind_and_cannot_do_anything_any_more() -> None:
    begun, let_go, gone = anyio.Event(), anyio.Event(), anyio.Event()

    @tool
    async def stubborn() -> str:
        begun.set()
        with anyio.CancelScope(shield=True):
            await let_go.wait()
        gone.set()
        return "too late"

    agent = agent_at(said(calls("stubborn"), HELLO, HELLO), stubborn, grace_seconds=0.05)
    run = agent.start("Go")
    await begun.wait()
    run.stop("enough")
    result = await run.wait()
    conversation = agent.conversation
    let_go.set()
    await gone.wait()
    await anyio.lowlevel.checkpoint()

    assert result.stop is not None
    assert [call.name for call in result.stop.abandoned] == ["stubborn"]
    assert [report.outcome for report in result.stop.tools] == ["interrupted_running"]
    assert agent.conversation is conversation
    await goes_on(agent)


@on_each_runtime
async def test_the_runtimes_cancellation_ends_async_tools_too() -> None:
    begun = anyio.Event()

    @tool
    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    agent = agent_at(said(calls("wait"), HELLO), wait)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.run, "Go")
        await begun.wait()
        group.cancel_scope.cancel()

    assert agent.last_result is not None
    assert agent.last_result.stop is not None
    assert agent.last_result.stop.reason == "runtime"
    await goes_on(agent)


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_a_loop_that_ends_ends_the_runs_whose_tools_it_was_running(runtime: str) -> None:
    begun = threading.Event()
    told = Acting()

    @tool
    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    agent = agent_at(said(calls("wait"), HELLO), wait)
    handles = []

    async def leave() -> None:
        handles.append(agent.start("Go", subscribers=[told]))
        await run_sync(begun.wait)

    anyio.run(leave, backend=runtime)
    result = anyio.run(handles[0].wait, backend="asyncio")

    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("runtime", "the event loop was ended")
    assert [report.outcome for report in result.stop.tools] == ["interrupted_running"]


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_a_loop_that_ends_ends_the_runs_also_of_tools_whose_clean_up_fails(runtime: str) -> None:
    begun = threading.Event()

    @tool
    async def wait() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    agent = agent_at(said(calls("wait"), HELLO), wait)
    handles = []

    async def leave() -> None:
        handles.append(agent.start("Go"))
        await run_sync(begun.wait)

    anyio.run(leave, backend=runtime)
    result = anyio.run(handles[0].wait, backend="asyncio")

    assert result.stop is not None
    assert (result.stop.reason, result.stop.message) == ("runtime", "the event loop was ended")


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_an_async_tool_without_its_loop_says_so(runtime: str) -> None:
    recording, hold = silent_after(b'"tool_calls"', calls("wait"))
    transport = RecordedTransport([recording, Recording((bytes_of(HELLO),))])

    @tool
    async def wait() -> None: ...

    agent = agent_at(transport, wait)
    handles = []

    async def leave() -> None:
        handles.append(agent.start("Go"))

    anyio.run(leave, backend=runtime)
    hold.release()
    result = anyio.run(handles[0].wait, backend="asyncio")

    assert result.status == "completed"
    assert b"The tool could not be started: the event loop has ended" in transport.requests[1].body


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_a_run_ends_though_the_loop_of_its_tools_ends_before_they_have_begun(runtime: str) -> None:
    transport = said(calls("wait", "quick"), HELLO)
    handed_over = threading.Event()
    second = Acting(lambda entry: isinstance(entry, ToolStarted) and entry.index == 1, handed_over.set)

    @tool
    async def wait() -> None:
        await anyio.sleep_forever()

    @tool
    def quick() -> None: ...

    agent = agent_at(transport, wait, quick)
    handles = []

    async def leave() -> None:
        handles.append(agent.start("Go", subscribers=[second]))
        handed_over.wait()  # and nothing else happens in the loop before it ends

    anyio.run(leave, backend=runtime)
    result = anyio.run(handles[0].wait, backend="asyncio")

    # trio may begin it and cancel it at once; asyncio cancels it before its first step.
    assert (result.status, len(transport.requests)) in (("completed", 2), ("stopped", 1))
    if result.stop is not None:
        assert (runtime, result.stop.message) == ("trio", "the event loop was ended")
    assert not agent.busy


def test_what_a_tool_awaits_may_have_been_cancelled_and_that_is_its_own_affair() -> None:
    @tool
    async def wait_in_vain() -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    agent = agent_at(said(calls("wait_in_vain"), HELLO), wait_in_vain)
    told = Acting()
    result = asyncio.run(agent.run("Go", subscribers=[told]))

    assert result.status == "completed"
    assert ["raised"] == [entry.outcome for entry in told.log if isinstance(entry, ToolFinished)]


def test_an_agent_with_async_tools_is_started_in_a_task() -> None:
    @tool
    async def wait() -> None: ...

    agent = agent_at(said(HELLO), wait)
    with pytest.raises(RuntimeError, match="inside a task"):
        agent.start("Go")

    assert not agent.busy


# without an agent


@on_each_runtime
async def test_a_question_is_stopped_by_its_token_and_says_so() -> None:
    with FakeProvider("openai_chat", [HELLO, HELLO]) as fake, fake.hold_at("headers") as hold:
        asked = AsyncLang.openai_like(base_url=fake.base_url, model=fake.model, api_key=KEY)
        token = CancelToken()
        results = []

        async def ask() -> None:
            results.append(await asked.ask_for_object("Hi", int, token=token))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await reached(hold)  # type: ignore[arg-type]  # both kinds of holds have `reached`
            token.cancel("enough")
        hold.release()

    assert results[0].value is None
    assert results[0].result.stop is not None
    assert results[0].result.stop.message == "enough"


@on_each_runtime
async def test_a_question_whose_task_is_cancelled_leaves_nothing() -> None:
    with FakeProvider("openai_chat", [HELLO, HELLO]) as fake, fake.hold_at("headers") as hold:
        asked = AsyncLang.openai_like(base_url=fake.base_url, model=fake.model, api_key=KEY)
        answered = False

        async def ask() -> None:
            nonlocal answered
            await asked.ask("Hi")
            answered = True

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await reached(hold)  # type: ignore[arg-type]  # both kinds of holds have `reached`
            group.cancel_scope.cancel()
        assert hold.connection is not None
        await run_sync(hold.connection.hung_up.wait)
        hold.release()

    assert not answered


@on_each_runtime
async def test_an_agent_for_tasks_takes_a_lang_of_either_kind() -> None:
    with FakeProvider("anthropic", [HELLO, HELLO]) as fake:
        blocking = lang_at(fake)
        assert isinstance(blocking, Lang)
        awaited = AsyncLang.anthropic(model=fake.model, api_key=KEY, base_url=fake.base_url)
        texts = [(await AsyncChatAgent(each).run("Hi")).text for each in (blocking, awaited)]

    assert texts == ["Hello", "Hello"]


def test_many_runs_at_once_are_stopped_by_one_token() -> None:
    async def main() -> None:
        token = CancelToken()
        recordings = [silent_after(b'"Hel"') for _ in range(50)]
        agent = agent_at(RecordedTransport([recording for recording, _ in recordings]))
        results = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                results.append(await agent.run("Hi", token=token, conversation=Conversation()))

            for _ in recordings:
                group.start_soon(ask)
            for _, hold in recordings:
                await reached(hold)
            token.cancel("all of them")

        assert [result.status for result in results] == ["stopped"] * 50
        assert (token.stats().children, token.stats().registrations) == (0, 0)

    for runtime in ("trio", "asyncio"):
        run_on(runtime, main)
