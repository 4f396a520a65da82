"""A run whose socket the loop reads: no thread while the model speaks, and every end that a run can have."""

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from types import coroutine
from typing import Any
from weakref import ref

import anyio
import anyio.lowlevel
import pytest
import trio

from aiwrapper import (
    AsyncChatAgent,
    AsyncLang,
    CancelToken,
    Conversation,
    Entry,
    RetryWaiting,
    RunFailed,
    RunFinished,
    RunResult,
    RunStopped,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    tool,
)
from aiwrapper._agent import Beginning
from aiwrapper._core.turns import OpenTurn
from aiwrapper._run import Run
from aiwrapper.drivers import aio
from aiwrapper.drivers._streamed import StreamedRun
from aiwrapper.drivers.aio import SECOND_READER, AsyncEntries
from aiwrapper.testing import Call, FakeProvider, Say, Turn
from aiwrapper.testing._holds import Hold
from aiwrapper.testing.scripts import Cut, Delivery
from aiwrapper.transport import SILENCE_TIMEOUT_SECONDS
from cancel_token.aio import run_sync, wait_cancelled
from cancel_token.testing import ManualClock
from tests.aiwrapper.running import HELLO, KEY, Acting, lang_at
from tests.cancel_token.loops import (
    WITHOUT_DESCRIPTORS,
    NewLoop,
    living_tasks,
    on_each_loop_of_asyncio,
    on_each_runtime,
    run_on,
    settled,
)

BEHIND_HEL = 603
"""Where the event with the first words ends in the body of `HELLO`."""

SUM = Turn((Say(("It is 10.",)),))


@contextmanager
def silent_fake(*, turn: Turn = HELLO) -> Iterator[tuple[FakeProvider, Hold]]:
    """A model that falls silent in the middle of its first answer."""
    with FakeProvider("openai_chat", [turn]) as fake, fake.hold_at(BEHIND_HEL) as hold:
        yield fake, hold


def agent_at(fake: FakeProvider) -> AsyncChatAgent:
    return AsyncChatAgent(lang_at(fake))


def run_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("aiwrapper run")]


async def in_the_loop() -> None:
    """Wait until the thread of the run has handed it over; it ends with that."""
    for thread in run_threads():
        await run_sync(thread.join)


async def spoken(entries: AsyncEntries, kind: type[Entry] = TextDelta) -> list[Entry]:
    """Read the first words of an answer; what comes next is the loop's to read."""
    taken = []
    async for entry in entries:
        taken.append(entry)
        if isinstance(entry, kind):
            break
    await in_the_loop()
    return taken


async def rest_of(entries: AsyncEntries) -> list[Entry]:
    return [entry async for entry in entries]


def over(entries: AsyncEntries) -> CancelToken:
    assert entries._run is not None
    return entries._run.over


def stop_of(agent: AsyncChatAgent) -> tuple[str, str]:
    """By whom the last run was stopped, and what it had said."""
    result = agent.last_result
    assert result is not None
    assert result.stop is not None
    return result.stop.reason, result.text


async def hung_up(fake: FakeProvider) -> None:
    await run_sync(fake.requests[0].hung_up.wait)


async def goes_on(agent: AsyncChatAgent) -> None:
    assert not agent.busy
    assert isinstance((await rest_of(agent.stream("Go on")))[-1], RunFinished)


# reading


@on_each_runtime
async def test_no_thread_of_the_run_is_there_while_it_streams() -> None:
    with silent_fake() as (fake, hold), fake.hold_at("end") as end:
        agent = agent_at(fake)
        async with aclosing(agent.stream("Hi")) as entries:
            await spoken(entries)
            hold.release()
            async for entry in entries:
                assert [] == run_threads()
                if isinstance(entry, TurnFinished):
                    end.release()

    assert agent.last_result is not None
    assert (agent.last_result.status, agent.last_result.text) == ("completed", "Hello")


def kept_of_runs() -> Counter[str]:
    """What stands for a run's beginning, its thread, and its states, as far as anybody holds it."""
    gc.collect()
    kinds = {Beginning, OpenTurn, threading.Thread}
    kept = [each for each in gc.get_objects() if type(each) in kinds]
    return Counter(
        type(each).__name__
        for each in kept
        if not isinstance(each, threading.Thread) or each.name.startswith("aiwrapper run")
    )


@on_each_runtime
async def test_a_stream_that_goes_on_keeps_nothing_but_where_it_is() -> None:
    with silent_fake() as (fake, hold), fake.hold_at("end") as end:
        agent = agent_at(fake)
        before = kept_of_runs()
        async with aclosing(agent.stream("Hi")) as entries:
            await spoken(entries)
            hold.release()
            assert isinstance(await anext(entries), TextDelta)
            assert {"OpenTurn": 1} == kept_of_runs() - before
            end.release()
            assert isinstance((await rest_of(entries))[-1], RunFinished)


def waited_for(fake: FakeProvider, how: str, token: CancelToken) -> Awaitable[RunResult]:
    """The same question, by a reader who wants no entry."""
    if how == "run":
        return agent_at(fake).run("Hi", token=token)
    asked = AsyncLang.openai_like(base_url=fake.base_url, model=fake.model, api_key=KEY)
    return asked.ask("Hi", token=token)


@pytest.mark.parametrize("how", ["run", "ask"])
@on_each_runtime
async def test_no_thread_of_the_run_is_there_while_its_end_is_waited_for(how: str) -> None:
    results = []
    with silent_fake() as (fake, hold):

        async def wait() -> None:
            results.append(await waited_for(fake, how, CancelToken()))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await run_sync(hold.reached.wait)
            await in_the_loop()
            assert [] == run_threads()
            hold.release()

    assert [("completed", "Hello")] == [(result.status, result.text) for result in results]


@pytest.mark.parametrize("how", ["run", "ask"])
@on_each_runtime
async def test_a_stop_ends_a_run_whose_end_is_waited_for_in_the_loop(how: str) -> None:
    results, token = [], CancelToken()
    with silent_fake() as (fake, hold):

        async def wait() -> None:
            results.append(await waited_for(fake, how, token))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await run_sync(hold.reached.wait)
            await in_the_loop()
            token.cancel("enough")
        await hung_up(fake)
        hold.release()

    assert ["enough"] == [result.stop and result.stop.message for result in results]
    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
async def test_a_stream_of_a_task_that_is_cancelled_already_asks_nobody_and_keeps_what_was_said() -> None:
    with FakeProvider("openai_chat", [HELLO]) as fake:
        agent = agent_at(fake)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(agent.stream("Hi"))

        assert scope.cancelled_caught
        assert not fake.requests
        assert ("runtime", "") == stop_of(agent)
        assert 1 == len(agent.conversation.messages)
        await goes_on(agent)


@on_each_runtime
async def test_tools_run_in_threads_and_the_loop_reads_the_next_answer_again() -> None:
    seen: list[int] = []

    @tool
    def add() -> str:
        seen.append(len(run_threads()))
        return "10"

    with FakeProvider("openai_chat", [Turn((Call("add", ("{}",)),)), HELLO]) as fake:
        agent = AsyncChatAgent(lang_at(fake), [add])
        with fake.hold_at("end") as first:
            entries = agent.stream("3 and 7?")
            await spoken(entries, TurnFinished)
            with fake.hold_at(BEHIND_HEL) as second:
                first.release()
                results = [entry for entry in await spoken(entries) if isinstance(entry, ToolFinished)]
                second.release()
                rest = await rest_of(entries)

    assert [1] == seen
    assert ["10"] == [entry.content for entry in results]
    assert isinstance(rest[-1], RunFinished)


@on_each_runtime
async def test_a_bell_that_rings_late_does_not_take_the_next_wake_up_away() -> None:
    go_on = [threading.Event(), threading.Event()]

    @tool
    def work(n: int) -> str:
        go_on[n].wait()
        return str(n)

    calls = (Call("work", ('{"n": 0}',)), Call("work", ('{"n": 1}',)))
    with FakeProvider("openai_chat", [Turn(calls), HELLO]) as fake:
        entries = AsyncChatAgent(lang_at(fake), [work]).stream("Hi")
        taken: list[Entry] = []

        async def read() -> None:
            async for entry in entries:
                taken.append(entry)
                if isinstance(entry, ToolFinished):
                    go_on[1].set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while sum(isinstance(entry, ToolStarted) for entry in taken) < 2:
                await anyio.lowlevel.checkpoint()
            await settled()  # both calls are under way, and the reader sleeps
            assert entries._run is not None
            # The thread took the hook for an entry before this wait, and comes to call it only now.
            entries._run._pipe.bell.ring()
            await settled()
            go_on[0].set()

    assert ["0", "1"] == [entry.content for entry in taken if isinstance(entry, ToolFinished)]
    assert isinstance(taken[-1], RunFinished)


@on_each_runtime
async def test_no_thread_of_an_agent_that_is_a_tool_is_there_while_it_streams() -> None:
    results = []
    asks = Turn((Call("research", ('{"message": "Hi"}',)),))
    with FakeProvider("openai_chat", [asks, HELLO]) as fake, silent_fake() as (inner, hold):
        agent = AsyncChatAgent(lang_at(fake), [agent_at(inner).as_tool("research", "Looks things up.")])

        async def wait() -> None:
            results.append(await agent.run("Go"))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await run_sync(hold.reached.wait)
            own, *of_the_tool = run_threads()
            for thread in of_the_tool:
                await run_sync(thread.join)  # it has handed its run over, or is about to
            assert [own] == run_threads()
            hold.release()

    assert ["completed"] == [result.status for result in results]


@on_each_runtime
async def test_where_others_are_told_they_are_told_in_the_thread_of_the_run() -> None:
    where: list[str] = []
    told = Acting(lambda entry: True, lambda: where.append(threading.current_thread().name))
    with FakeProvider("openai_chat", [HELLO, HELLO]) as fake, fake.hold_at(BEHIND_HEL) as hold:
        agent = agent_at(fake)
        for others in ({"subscribers": [told]}, {"sink": told}):
            entries = agent.stream("Hi", **others)
            async for entry in entries:
                if isinstance(entry, TextDelta):
                    hold.release()

    assert told.log
    assert all(name.startswith("aiwrapper run") for name in where)


@on_each_runtime
async def test_a_model_says_all_and_keeps_the_line_and_the_run_ends_all_the_same() -> None:
    with FakeProvider("openai_chat", [HELLO]) as fake, fake.hold_at("end"):
        agent = agent_at(fake)
        entries = await rest_of(agent.stream("Hi"))

    assert isinstance(entries[-1], RunFinished)


@on_each_runtime
async def test_an_answer_that_breaks_before_it_has_begun_is_asked_for_again_in_a_thread() -> None:
    broken = Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(10, "rst")))
    with FakeProvider("openai_chat", [broken, HELLO]) as fake, fake.hold_at("first_byte") as hold:
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries, TurnStarted)
        hold.release()
        rest = await rest_of(entries)

    assert [RetryWaiting] == [type(entry) for entry in rest if isinstance(entry, RetryWaiting)]
    assert isinstance(rest[-1], RunFinished)


@on_each_runtime
async def test_an_answer_that_breaks_in_the_middle_fails_and_keeps_what_was_said() -> None:
    broken = Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(BEHIND_HEL, "rst")))
    with silent_fake(turn=broken) as (fake, hold):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries)
        hold.release()
        rest = await rest_of(entries)
        failed = rest[-1]

        assert isinstance(failed, RunFailed)
        assert failed.error == "network"
        assert agent.last_result is not None
        assert agent.last_result.text == "Hel"
        await goes_on(agent)


@on_each_runtime
async def test_a_model_that_is_silent_for_too_long_fails_the_run() -> None:
    clock = ManualClock()
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi", token=CancelToken(clock=clock))
        await spoken(entries)
        rest: list[Entry] = []

        async def read() -> None:
            rest.extend(await rest_of(entries))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            clock.advance(SILENCE_TIMEOUT_SECONDS)

    failed = rest[-1]
    assert isinstance(failed, RunFailed)
    assert failed.error == "network"
    assert "did not answer in time" in failed.message


@on_each_runtime
async def test_a_model_that_speaks_again_may_be_silent_again_for_as_long() -> None:
    clock = ManualClock()
    with silent_fake() as (fake, hold), fake.hold_at("end") as end:
        agent = agent_at(fake)
        entries = agent.stream("Hi", token=CancelToken(clock=clock))
        await spoken(entries)
        rest: list[Entry] = []

        async def read() -> None:
            async for entry in entries:
                rest.append(entry)
                if isinstance(entry, TextDelta):
                    told.set()

        told = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            clock.advance(SILENCE_TIMEOUT_SECONDS - 1)
            hold.release()
            await told.wait()
            clock.advance(2.0)
            end.release()

    assert isinstance(rest[-1], RunFinished)


@on_each_runtime
async def test_a_second_reader_is_refused_and_the_first_reads_on() -> None:
    with silent_fake() as (fake, hold):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries)
        rest: list[Entry] = []

        async def read() -> None:
            rest.extend(await rest_of(entries))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task"):
                await anext(entries)
            hold.release()

    assert isinstance(rest[-1], RunFinished)


@on_each_runtime
async def test_a_second_reader_is_refused_while_the_first_is_about_to_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[str] = []

    async def meanwhile() -> None:
        monkeypatch.undo()
        with pytest.raises(RuntimeError) as error:
            await anext(entries)
        refused.append(str(error.value))
        await anyio.lowlevel.checkpoint_if_cancelled()

    with FakeProvider("openai_chat", [HELLO]) as fake:
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        monkeypatch.setattr(anyio.lowlevel, "checkpoint_if_cancelled", meanwhile)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(entries)

        assert [SECOND_READER] == refused
        assert scope.cancelled_caught
        assert not fake.requests
        assert ("runtime", "") == stop_of(agent)
        await goes_on(agent)


@on_each_runtime
async def test_a_second_reader_is_refused_while_the_first_lets_others_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused: list[str] = []

    async def meanwhile() -> None:
        with pytest.raises(RuntimeError) as error:
            await anext(entries)
        refused.append(str(error.value))

    with FakeProvider("openai_chat", [HELLO]) as fake:
        entries = agent_at(fake).stream("Hi")
        await anext(entries)
        monkeypatch.setattr(aio, "ENTRIES_BETWEEN_CHECKPOINTS", 1)
        with monkeypatch.context() as patch:
            patch.setattr(anyio.lowlevel, "checkpoint", meanwhile)
            await anext(entries)
        rest = await rest_of(entries)

    assert [SECOND_READER] == refused
    assert isinstance(rest[-1], RunFinished)


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_a_task_that_is_thrown_away_when_it_was_about_to_begin_has_begun_nothing(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @coroutine
    def cancelled_soon() -> Iterator[None]:
        yield

    with FakeProvider("openai_chat", [HELLO]) as fake:
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        with monkeypatch.context() as patch:
            patch.setattr(anyio.lowlevel, "checkpoint_if_cancelled", cancelled_soon)
            taking = entries.__anext__()
            taking.send(None)
            taking.close()  # as a loop that is closed does

        assert not agent.busy
        assert isinstance(anyio.run(rest_of, entries, backend=runtime)[-1], RunFinished)


# ends


def cancel_here(token: CancelToken) -> None:
    token.cancel("enough")


def cancel_elsewhere(token: CancelToken) -> None:
    thread = threading.Thread(target=cancel_here, args=(token,))
    thread.start()
    thread.join()


def cancel_later(token: CancelToken) -> None:
    token.cancel_soon("enough")


ways_to_cancel = pytest.mark.parametrize("cancel", [cancel_here, cancel_elsewhere, cancel_later])


@ways_to_cancel
@on_each_runtime
async def test_a_stop_ends_a_stream_whose_reader_waits_for_the_socket(
    cancel: Callable[[CancelToken], None],
) -> None:
    with silent_fake() as (fake, _):
        agent, token = agent_at(fake), CancelToken()
        entries = agent.stream("Hi", token=token)
        await spoken(entries)
        rest: list[Entry] = []

        async def read() -> None:
            rest.extend(await rest_of(entries))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            cancel(token)
        await hung_up(fake)

        assert isinstance(rest[-1], RunStopped)
        assert ("user", "Hel") == stop_of(agent)
        assert (token.stats().children, token.stats().registrations) == (0, 0)
        await goes_on(agent)


@ways_to_cancel
@on_each_runtime
async def test_a_stop_ends_a_stream_that_nobody_reads_just_now(
    cancel: Callable[[CancelToken], None],
) -> None:
    with silent_fake() as (fake, _):
        agent, token = agent_at(fake), CancelToken()
        entries = agent.stream("Hi", token=token)
        await spoken(entries)
        cancel(token)
        await wait_cancelled(over(entries))
        await hung_up(fake)

        assert ("user", "Hel") == stop_of(agent)
        assert [RunStopped] == [type(entry) for entry in await rest_of(entries)]
        assert (token.stats().children, token.stats().registrations) == (0, 0)
        await goes_on(agent)


@on_each_runtime
async def test_a_stop_between_the_thread_and_the_loop_ends_the_run() -> None:
    """The thread has begun to wait for words, and nobody has looked since."""
    with FakeProvider("openai_chat", [HELLO]) as fake, fake.hold_at("first_byte") as hold:
        agent, token = agent_at(fake), CancelToken()
        entries = agent.stream("Hi", token=token)
        await anext(entries)
        await run_sync(hold.reached.wait)
        token.cancel("enough")
        await wait_cancelled(over(entries))

        assert ("user", "") == stop_of(agent)
        await goes_on(agent)


@on_each_runtime
async def test_the_runtimes_cancellation_ends_a_run_that_the_loop_reads() -> None:
    with silent_fake() as (fake, _):
        agent, token = agent_at(fake), CancelToken()
        entries = agent.stream("Hi", token=token)
        await spoken(entries)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(rest_of, entries)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        await hung_up(fake)

        assert scope.cancelled_caught
        assert not token.cancelled
        assert ("runtime", "Hel") == stop_of(agent)
        assert (token.stats().children, token.stats().registrations) == (0, 0)
        await goes_on(agent)


@on_each_runtime
async def test_a_stream_that_is_closed_has_ended_its_run_when_that_shows() -> None:
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries)
        await entries.aclose()

        assert ("closed", "Hel") == stop_of(agent)
        await hung_up(fake)
        await goes_on(agent)


@on_each_runtime
async def test_a_stream_that_is_closed_by_another_task_ends_for_its_reader() -> None:
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries)
        rest: list[Entry] = []

        async def read() -> None:
            rest.extend(await rest_of(entries))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await entries.aclose()

        assert isinstance(rest[-1], RunStopped)
        assert ("closed", "Hel") == stop_of(agent)
        await goes_on(agent)


@on_each_runtime
async def test_a_stream_that_is_dropped_has_ended_its_run() -> None:
    with silent_fake() as (fake, _):
        agent, tasks = agent_at(fake), living_tasks()
        entries = agent.stream("Hi")
        await spoken(entries)
        del entries
        gc.collect()

        assert ("closed", "Hel") == stop_of(agent)
        await settled()
        assert tasks == living_tasks()
        await hung_up(fake)
        await goes_on(agent)


@on_each_loop_of_asyncio
def test_a_loop_that_is_closed_by_hand_ends_the_run_that_it_reads(new_loop: NewLoop) -> None:
    """asyncio says nothing to the task that waits for the socket; and somebody may keep that."""
    loop = new_loop()
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        loop.run_until_complete(spoken(entries))
        reading = loop.create_task(rest_of(entries))
        loop.run_until_complete(anyio.wait_all_tasks_blocked())
        loop.close()

        assert ("runtime", "Hel") == stop_of(agent)
        assert not reading.done()
        fake.requests[0].hung_up.wait()
        # Or Python would complain of the coroutine, and asyncio of the task.
        reading.get_coro().close()
        loop.set_exception_handler(lambda loop, context: None)


@on_each_loop_of_asyncio
def test_a_task_that_is_thrown_away_ends_the_run_that_it_reads(new_loop: NewLoop) -> None:
    loop = new_loop()
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        loop.run_until_complete(spoken(entries))
        reading = rest_of(entries)
        waiting = loop.create_task(reading)
        loop.run_until_complete(anyio.wait_all_tasks_blocked())
        reading.close()

        assert ("closed", "Hel") == stop_of(agent)
        fake.requests[0].hung_up.wait()
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            loop.run_until_complete(waiting)
    loop.close()


@on_each_runtime
async def test_an_interruption_while_the_loop_drives_ends_the_run_and_goes_on() -> None:
    times: list[float] = []

    def now() -> float:
        times.append(0.0)
        if armed:
            armed.clear()
            raise KeyboardInterrupt
        return 1.0

    armed: list[None] = []
    with silent_fake() as (fake, hold):
        agent = AsyncChatAgent(lang_at(fake), now=now)
        entries = agent.stream("Hi")
        await spoken(entries)
        armed.append(None)  # for the end of the run, which asks for the time
        hold.release()
        with pytest.raises(KeyboardInterrupt):
            await rest_of(entries)

        assert agent.last_result is not None
        assert not agent.busy
        assert agent.last_result.text == "Hello"
        await goes_on(agent)


@on_each_runtime
async def test_a_run_that_gets_no_further_thread_fails() -> None:
    @tool
    def add() -> str:
        return "10"

    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with (
        FakeProvider("openai_chat", [Turn((Call("add", ("{}",)),)), HELLO]) as fake,
        fake.hold_at("end") as hold,
    ):
        agent = AsyncChatAgent(lang_at(fake), [add])
        entries = agent.stream("3 and 7?")
        await spoken(entries, TurnFinished)
        hold.release()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            rest = await rest_of(entries)

        failed = rest[-1]
        assert isinstance(failed, RunFailed)
        assert "can't start new thread" in failed.message
        await goes_on(agent)


@on_each_runtime
async def test_subscribers_are_never_told_in_the_loops_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of the end of a run that was stopped before its thread had begun."""
    begin, told = threading.Event(), []
    in_thread = StreamedRun._in_thread

    def late(run: StreamedRun) -> None:
        assert begin.wait(60)
        in_thread(run)

    class Watcher:
        def append(self, entry: Entry, /) -> None:
            told.append(threading.current_thread() is threading.main_thread())

    monkeypatch.setattr(StreamedRun, "_in_thread", late)
    with silent_fake() as (fake, _):
        entries = agent_at(fake).stream("Hi", subscribers=[Watcher()])
        async with anyio.create_task_group() as group:
            group.start_soon(rest_of, entries)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            begin.set()

    assert {False} == set(told)


@on_each_loop_of_asyncio
def test_a_loop_that_is_closed_while_a_thread_has_the_run_ends_it(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands_over, closed = threading.Event(), threading.Event()
    take = StreamedRun._take_what_may_block

    def late(run: StreamedRun) -> bool:
        handed_over = take(run)
        hands_over.set()
        assert closed.wait(60)
        return handed_over

    monkeypatch.setattr(StreamedRun, "_take_what_may_block", late)
    loop = new_loop()
    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        reading = loop.create_task(rest_of(entries))
        loop.run_until_complete(asyncio.to_thread(hands_over.wait))
        loop.close()
        closed.set()
        for thread in run_threads():
            thread.join()

        assert not agent.busy
        assert "runtime" == stop_of(agent)[0]
        reading._log_destroy_pending = False  # type: ignore[attr-defined]  # as it is meant


@on_each_runtime
@pytest.mark.parametrize("where", ["_advance", "end_here"])
async def test_a_ctrl_c_behind_the_turn_ends_the_run(where: str) -> None:
    """Between taking the turn and the first step: trio raises it there, in the main task."""

    class Turn(list[None]):
        def pop(self, *_: object) -> None:
            super().pop()
            assert run is not None
            run._turn = [*self]
            raise KeyboardInterrupt

    with silent_fake() as (fake, _):
        agent = agent_at(fake)
        entries = agent.stream("Hi")
        await spoken(entries)
        run = entries._run
        assert run is not None
        run._turn = Turn(run._turn)
        leaving = rest_of(entries) if where == "_advance" else entries.aclose()
        with pytest.raises(KeyboardInterrupt):
            await leaving

        assert not agent.busy


@on_each_runtime
@pytest.mark.parametrize("how", ["run", "ask"])
async def test_a_ctrl_c_when_the_thread_has_just_begun_ends_the_run(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `Thread.start()`, which waits for the thread."""
    start = threading.Thread.start
    token = CancelToken()

    with FakeProvider("openai_chat", [HELLO]) as fake, fake.hold_at("headers") as hold:

        def interrupted(self: threading.Thread) -> None:
            start(self)
            if self.name.startswith("aiwrapper run"):
                hold.reached.wait()
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await waited_for(fake, how, token)
        await hung_up(fake)
        hold.release()

    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
@pytest.mark.parametrize("how", ["run", "ask"])
async def test_a_ctrl_c_before_the_start_leaves_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind all that is made for a run, and before its thread."""

    def interrupted(self: StreamedRun) -> None:
        raise KeyboardInterrupt

    token = CancelToken()
    with FakeProvider("openai_chat", [HELLO]) as fake:
        monkeypatch.setattr(StreamedRun, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await waited_for(fake, how, token)

        assert not fake.requests
    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
async def test_a_run_that_is_cancelled_is_waited_for_without_a_further_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with silent_fake() as (fake, hold):
        agent = AsyncChatAgent(lang_at(fake), sink=Acting())
        async with anyio.create_task_group() as group:
            group.start_soon(agent.run, "Hi")
            await run_sync(hold.reached.wait)
            run = agent._run
            assert run is not None
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_more)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await wait_cancelled(run.token)
                    await anyio.wait_all_tasks_blocked()

    assert "runtime" == stop_of(agent)[0]
    assert not agent.busy


@on_each_runtime
async def test_nothing_of_a_run_that_has_ended_is_left_to_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[ref[Run]] = []
    begin = Run.__init__

    def noted(self: Run, *args: Any, **kwargs: Any) -> None:  # Any: whatever a run takes
        begin(self, *args, **kwargs)
        begun.append(ref(self))

    monkeypatch.setattr(Run, "__init__", noted)
    with FakeProvider("openai_chat", [HELLO]) as fake:
        agent = agent_at(fake)
        gc.disable()
        try:
            await agent.run("Hi", conversation=Conversation())
            await rest_of(agent.stream("Hi", conversation=Conversation()))
            left = [each() for each in begun]
        finally:
            gc.enable()

    assert [None, None] == left


def test_a_result_that_is_there_is_not_thrown_away_where_the_cancellation_comes_again() -> None:
    results = []

    async def main() -> None:
        with FakeProvider("openai_chat", [HELLO]) as fake, trio.CancelScope() as scope:
            cancel = partial(
                trio.from_thread.run_sync, scope.cancel, trio_token=trio.lowlevel.current_trio_token()
            )
            at_the_end = Acting(lambda entry: isinstance(entry, RunFinished), cancel)
            results.append(
                await agent_at(fake).run("Hi", conversation=Conversation(), subscribers=[at_the_end])
            )
            await trio.lowlevel.checkpoint()
            raise AssertionError("it did not come again")

    trio.run(main)

    assert ["completed"] == [result.status for result in results]


def test_in_a_loop_that_waits_for_no_descriptors_a_stream_keeps_its_thread_and_is_stopped_the_same() -> None:
    async def main() -> None:
        with silent_fake() as (fake, _):
            agent, token = agent_at(fake), CancelToken()
            async with aclosing(agent.stream("Hello", token=token)) as entries:
                async for entry in entries:
                    if isinstance(entry, TextDelta):
                        break
                assert 1 == len(run_threads())
                token.cancel()
                rest = await rest_of(entries)
            assert isinstance(rest[-1], RunStopped)
            assert ("user", "Hel") == stop_of(agent)
            await hung_up(fake)

    run_on(WITHOUT_DESCRIPTORS, main)
