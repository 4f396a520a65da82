"""Tasks of trio and asyncio: each fault is found, and the program mended of it passes."""

import asyncio
import contextvars
import gc
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import sniffio
import trio

from cancel_token import CancelToken
from cancel_token.aio import fail_on_cancel, move_on_cancel, run_sync, wait_cancelled
from cancel_token.loops import Loop, LoopCall
from cancel_token.testing import Backend, JumpingClock, Limits, Outcome, Violation, explore, replay
from cancel_token.testing._asyncio import _Host
from tests.cancel_token.testing.toys import Box, anything_goes, three_checks

LOOPS: tuple[Backend, ...] = ("trio", "asyncio")
on_each_loop = pytest.mark.parametrize("backend", LOOPS)


async def pause() -> None:
    await anyio.sleep(0)


async def three_waits(box: Box, token: CancelToken) -> None:
    with fail_on_cancel(token):
        for n in range(3):
            await pause()
            box.log.append(str(n))


# Points


@on_each_loop
def test_every_wait_is_two_points(backend: Backend) -> None:
    report = explore(Box, three_waits, anything_goes, backend=backend)

    report.assert_ok()
    assert {"before": 1, "check": 1, "park": 3, "wake": 3, "late": 1} == report.points
    assert report.planned == report.run == report.valid == 9


@on_each_loop
def test_a_stop_at_a_wait_ends_it_and_one_at_its_end_the_next(backend: Backend) -> None:
    logs: dict[str, list[str]] = {}

    def check(box: Box, outcome: Outcome) -> None:
        assert outcome.legal("returned", "cancelled")
        if outcome.fired:
            logs[str(outcome.fired[0])] = box.log

    explore(Box, three_waits, check, backend=backend, at=["park", "wake"]).assert_ok()

    expected = {"0.2park": 0, "0.3wake": 1, "0.4park": 1, "0.5wake": 2, "0.6park": 2, "0.7wake": 3}
    assert expected == {point: len(log) for point, log in logs.items()}


@on_each_loop
def test_the_point_names_the_line_that_waits(backend: Backend) -> None:
    report = explore(Box, three_waits, anything_goes, backend=backend, at=["park", "wake"])

    assert {"pause"} == {attempt.plan.site.split()[1] for attempt in report.attempts[2:]}


@on_each_loop
def test_a_look_that_a_scope_takes_is_one_of_the_line_that_made_it(backend: Backend) -> None:
    async def wait(box: Box, token: CancelToken) -> None:
        with move_on_cancel(token):
            await wait_cancelled(token.child())

    async def run(box: Box, token: CancelToken) -> None:
        with fail_on_cancel(CancelToken.any(token, timeout=0)):
            await wait(box, token)

    async def in_a_task_of_its_own(box: Box, token: CancelToken) -> None:
        token.cancel()
        if backend == "asyncio":
            await asyncio.create_task(wait_cancelled(token))
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_cancelled, token)

    def places(work: Callable[[Box, CancelToken], object]) -> list[str]:
        report = explore(Box, work, lambda box, outcome: None, backend=backend, at=["check"])
        return [attempt.plan.site for attempt in report.attempts[2:]]

    functions = [place.rpartition(".")[2] for place in places(run)]
    assert ["run", "wait", "wait"] == functions[:3]
    assert {"test_loops.py"} == {place.partition(":")[0] for place in places(run)}
    assert {"aio.py"} == {place.partition(":")[0] for place in places(in_a_task_of_its_own)}


@on_each_loop
def test_an_id_replays_its_attempt(backend: Backend) -> None:
    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired and outcome.fired[0].kind == "wake":
            raise Violation("no", f"after {box.log}")

    (failure,) = explore(Box, three_waits, check, backend=backend).failures
    again = replay(failure.ids[1], Box, three_waits, check)

    assert failure.ids[0].startswith(f"ct1:{backend}:0.3wake~")
    assert failure.ids[1:2] == again.failures[0].ids


@on_each_loop
def test_all_four_functions_may_wait(backend: Backend) -> None:
    torn_down: list[Box] = []

    @asynccontextmanager
    async def make() -> AsyncIterator[Box]:
        box = Box()
        await pause()
        yield box
        await pause()
        torn_down.append(box)

    async def check(box: Box, outcome: Outcome) -> None:
        await pause()
        assert box not in torn_down

    async def restart(box: Box) -> None:
        await three_waits(box, CancelToken())

    report = explore(make, three_waits, check, backend=backend, restart=restart, depth=2)

    report.assert_ok()
    assert len(report.attempts) == len(torn_down)


@on_each_loop
def test_a_subject_may_be_made_by_a_coroutine(backend: Backend) -> None:
    async def make() -> Box:
        await pause()
        return Box()

    explore(make, three_waits, anything_goes, backend=backend).assert_ok()


def test_what_waits_is_refused_where_there_is_no_loop() -> None:
    @types.coroutine
    def suspend() -> Iterator[None]:
        yield

    async def make() -> Box:
        return Box()

    @asynccontextmanager
    async def managed() -> AsyncIterator[Box]:
        await suspend()
        yield Box()

    async def check(box: Box, outcome: Outcome) -> None:
        pass

    with pytest.raises(TypeError, match="backend='trio'"):
        explore(Box, three_waits, anything_goes)
    with pytest.raises(TypeError, match="backend='trio'"):
        explore(make, three_checks, anything_goes)
    with pytest.raises(TypeError, match="backend='trio'"):
        explore(managed, three_checks, anything_goes)
    with pytest.raises(TypeError, match="backend='trio'"):
        explore(Box, three_checks, check)


@on_each_loop
def test_blocking_code_in_a_task_is_explored_as_well(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        for _ in range(3):
            token.check()

    report = explore(Box, run, anything_goes, backend=backend)

    report.assert_ok()
    assert 3 == report.points["check"]


@on_each_loop
def test_a_token_that_is_not_handed_on_proves_nothing(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        await pause()

    report = explore(Box, run, anything_goes, backend=backend)

    assert "UNRESOLVED" == report.verdict
    assert "Was the token handed on?" in str(report)


@on_each_loop
def test_work_that_goes_another_way_each_time_is_unresolved(backend: Backend) -> None:
    attempts = iter(range(100))

    async def run(box: Box, token: CancelToken) -> None:
        with fail_on_cancel(token):
            for _ in range(next(attempts) % 3):
                await pause()

    report = explore(Box, run, anything_goes, backend=backend)

    assert "UNRESOLVED" == report.verdict


# Faults


@on_each_loop
def test_a_result_that_is_lost_when_the_stop_comes_at_the_instant_of_completion_is_found(
    backend: Backend,
) -> None:
    """The item has left the queue: whoever waits once more before it is noted loses it."""

    class Queue(Box):
        def __init__(self) -> None:
            super().__init__()
            self.log = ["item"]
            self.taken: list[str] = []

    async def faulty(box: Queue, token: CancelToken) -> None:
        with move_on_cancel(token):
            item = box.log.pop()
            await pause()
            box.taken.append(item)

    async def mended(box: Queue, token: CancelToken) -> None:
        with move_on_cancel(token):
            await pause()
            box.taken.append(box.log.pop())

    def nothing_is_lost(box: Queue, outcome: Outcome) -> None:
        assert ["item"] == box.log + box.taken

    assert "FAIL" == explore(Queue, faulty, nothing_is_lost, backend=backend).verdict
    explore(Queue, mended, nothing_is_lost, backend=backend).assert_ok()


@on_each_loop
def test_a_clean_up_that_the_runtimes_own_cancellation_cuts_short_is_found(backend: Backend) -> None:
    async def faulty(box: Box, token: CancelToken) -> None:
        box.open = True
        try:
            with fail_on_cancel(token):
                await pause()
        finally:
            await pause()
            box.open = False

    async def mended(box: Box, token: CancelToken) -> None:
        box.open = True
        try:
            with fail_on_cancel(token):
                await pause()
        finally:
            box.open = False
            await pause()

    def is_closed(box: Box, outcome: Outcome) -> None:
        assert outcome.legal("returned", "cancelled")
        assert not box.open

    explore(Box, faulty, is_closed, backend=backend, depth=2).assert_ok()
    twice = explore(Box, faulty, is_closed, backend=backend, depth=2, second="foreign")
    assert "FAIL" == twice.verdict
    assert all(2 == len(each.plan.points) for failure in twice.failures for each in failure.attempts)
    again = replay(twice.failures[0].ids[0], Box, faulty, is_closed, second="foreign")
    assert "FAIL" == again.verdict
    explore(Box, mended, is_closed, backend=backend, depth=2, second="foreign").assert_ok()


@on_each_loop
def test_the_runtimes_own_cancellation_may_be_the_first_stop(backend: Backend) -> None:
    async def swallows(box: Box, token: CancelToken) -> None:
        try:
            await pause()
        except BaseException as error:
            raise ValueError("failed") from error

    kinds: set[str] = set()

    def check(box: Box, outcome: Outcome) -> None:
        kinds.add(outcome.kind)
        anything_goes(box, outcome)

    report = explore(Box, three_waits, check, backend=backend, stop="runtime", depth=2)
    foreign = explore(Box, three_waits, check, backend=backend, stop="runtime", depth=2, second="foreign")
    faulty = explore(Box, swallows, anything_goes, backend=backend, stop="runtime")

    report.assert_ok()
    foreign.assert_ok()
    assert {"returned", "cancelled"} == kinds
    assert "FAIL" == faulty.verdict


def test_at_the_instant_of_completion_asyncio_takes_the_result_away() -> None:
    """A future that is done, and its task cancelled before it runs: the wait has succeeded and raises all the same."""

    async def run(box: Box, token: CancelToken) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "result")
        try:
            box.log.append(await future)
        except asyncio.CancelledError:
            box.log.append(f"lost a {future.result()}")
            raise

    logs: list[list[str]] = []

    def check(box: Box, outcome: Outcome) -> None:
        logs.append(box.log)

    explore(Box, run, check, backend="asyncio", stop="runtime", at=["wake"]).assert_ok()

    assert ["lost a result"] == logs[-1]


@on_each_loop
def test_the_runtimes_own_cancellation_may_come_while_a_thread_is_at_a_point(backend: Backend) -> None:
    """It is the loop that cancels then: from another thread nothing of it is safe to call."""

    def blocking(box: Box, *, token: CancelToken) -> None:
        for _ in range(3):
            token.check()

    async def run(box: Box, token: CancelToken) -> None:
        await run_sync(blocking, box, token=token)

    report = explore(Box, run, anything_goes, backend=backend, stop="runtime", limits=Limits(points=4))

    report.assert_ok()
    assert {"0", "0.1"} == {point.lane for attempt in report.attempts for point in attempt.plan.points}


def test_blocking_code_has_no_cancellation_of_the_runtimes() -> None:
    with pytest.raises(ValueError, match="no cancellation of its own"):
        explore(Box, three_waits, anything_goes, stop="runtime")


@on_each_loop
def test_a_cancellation_nobody_asked_for_is_no_legal_end(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        token.check()
        if sniffio.current_async_library() == "asyncio":
            raise asyncio.CancelledError
        raise KeyError

    report = explore(Box, run, anything_goes, backend=backend)

    assert ("FAIL", "undisturbed") == (report.verdict, report.failures[0].site)
    assert "raised" == report.attempts[0].kind


@on_each_loop
def test_a_stop_that_leaves_a_nursery_as_a_group_is_a_stop(backend: Backend) -> None:
    async def child(box: Box, token: CancelToken) -> None:
        await pause()
        token.check()
        box.open = True

    async def run(box: Box, token: CancelToken) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child, box, token)

    explore(Box, run, anything_goes, backend=backend).assert_ok()


# Lanes


@on_each_loop
def test_each_task_is_a_lane(backend: Backend) -> None:
    async def child(box: Box) -> None:
        for _ in range(2):
            await pause()

    async def run(box: Box, token: CancelToken) -> None:
        with fail_on_cancel(token):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(child, box)

    report = explore(Box, run, anything_goes, backend=backend, depth=2, second="foreign", select="per-site")

    report.assert_ok()
    lanes = {point.lane for attempt in report.attempts for point in attempt.plan.points}
    assert {"0", "0.1", "0.2", "0.3"} == lanes


@on_each_loop
def test_a_fault_in_one_task_is_named_by_its_lane(backend: Backend) -> None:
    async def good() -> None:
        await pause()

    async def bad(box: Box) -> None:
        box.open = True
        await pause()
        box.open = False

    async def run(box: Box, token: CancelToken) -> None:
        with fail_on_cancel(token):
            async with anyio.create_task_group() as group:
                group.start_soon(good)
                group.start_soon(bad, box)

    def check(box: Box, outcome: Outcome) -> None:
        if outcome.fired and outcome.fired[0].lane == "0.2" and outcome.fired[0].kind == "park":
            assert not box.open

    report = explore(Box, run, check, backend=backend)

    assert ["0.2.1park"] == [str(f.attempts[0].plan.points[0]) for f in report.failures]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks from 3.12 on")
def test_eager_tasks_are_lanes_too() -> None:
    async def child(box: Box) -> None:
        box.log.append("begun")
        await pause()
        box.log.append("ended")

    async def run(box: Box, token: CancelToken) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # not on 3.11
        with fail_on_cancel(token):
            task = asyncio.create_task(child(box))
            box.log.append("started")
            try:
                await task
            finally:
                task.cancel()

    def check(box: Box, outcome: Outcome) -> None:
        anything_goes(box, outcome)
        assert box.log[:2] in ([], ["begun", "started"])

    report = explore(Box, run, check, backend="asyncio")

    report.assert_ok()
    assert (2, 3) == (report.points["park"], report.points["wake"])


@on_each_loop
def test_a_thread_that_a_task_starts_is_a_lane(backend: Backend) -> None:
    def blocking(token: CancelToken) -> None:
        for _ in range(3):
            token.check()

    async def run(box: Box, token: CancelToken) -> None:
        await run_sync(blocking, token=token)
        await run_sync(blocking, token=token)

    report = explore(Box, run, anything_goes, backend=backend)

    report.assert_ok()
    lanes = {p.lane for attempt in report.attempts for p in attempt.plan.points if p.kind == "check"}
    assert {"0", "0.1", "0.2"} == lanes


def test_jobs_of_trios_threads_are_lanes() -> None:
    def blocking(token: CancelToken) -> None:
        for _ in range(2):
            token.check()

    async def run(box: Box, token: CancelToken) -> None:
        for _ in range(2):
            await trio.to_thread.run_sync(blocking, token)

    report = explore(Box, run, anything_goes, backend="trio")

    report.assert_ok()
    lanes = {p.lane for attempt in report.attempts for p in attempt.plan.points if p.kind == "check"}
    assert {"0.1", "0.2"} == lanes


def test_jobs_of_asyncios_pools_are_lanes() -> None:
    def blocking(token: CancelToken) -> None:
        for _ in range(2):
            token.check()

    async def run(box: Box, token: CancelToken) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, blocking, token)
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, blocking, token)

    report = explore(Box, run, anything_goes, backend="asyncio")

    report.assert_ok()
    lanes = {p.lane for attempt in report.attempts for p in attempt.plan.points if p.kind == "check"}
    assert {"0.1", "0.2"} == lanes


@on_each_loop
def test_a_task_that_a_thread_starts_is_a_lane_of_the_threads(backend: Backend) -> None:
    async def in_loop() -> None:
        await pause()

    def blocking(loop: Loop, *, token: CancelToken) -> None:
        for _ in range(2):
            loop.start_soon(
                in_loop, context=contextvars.copy_context(), name="in the loop", lost=lambda: None
            )
            token.check()

    async def run(box: Box, token: CancelToken) -> None:
        await run_sync(blocking, Loop(), token=token)

    report = explore(Box, run, anything_goes, backend=backend, serialise=True)

    report.assert_ok()
    assert {"0", "0.1", "0.1.1", "0.1.2"} == {p.lane for each in report.attempts for p in each.plan.points}


# Latency


@on_each_loop
def test_work_that_waits_on_and_on_after_the_stop_is_too_slow(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        token.check()
        for _ in range(9):
            await pause()

    report = explore(Box, run, anything_goes, backend=backend, limits=Limits(ticks=5))

    assert {"latency"} == {failure.name for failure in report.failures}
    assert 8 == report.slowest.ticks
    explore(Box, run, anything_goes, backend=backend, limits=Limits(ticks=8)).assert_ok()


# Hangs, found without a clock


@on_each_loop
def test_a_task_that_waits_for_what_never_comes_hangs(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        try:
            with fail_on_cancel(token):
                await pause()
        except BaseException:
            await anyio.Event().wait()
            raise

    report = explore(Box, run, anything_goes, backend=backend)

    assert {"hung"} == {failure.name for failure in report.failures}
    assert ["before", "check", "park"] == [
        failure.attempts[0].plan.points[0].kind for failure in report.failures
    ]
    line = run.__code__.co_firstlineno + 5
    assert {f"park at test_loops.py:{line} {run.__qualname__}"} == {
        failure.detail.partition(".")[2].lstrip("0123456789") for failure in report.failures
    }


@on_each_loop
def test_a_shielded_hang_does_not_end_the_exploration(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        try:
            with fail_on_cancel(token):
                await pause()
        except BaseException:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.Event().wait)
            raise

    report = explore(Box, run, anything_goes, backend=backend)

    assert report.planned == report.run
    assert {"hung"} == {failure.name for failure in report.failures}


@on_each_loop
def test_a_lost_wake_up_of_a_thread_hangs(backend: Backend) -> None:
    """The thread ends while the loop waits for it to report: nobody else ever will."""

    async def run(box: Box, token: CancelToken) -> None:
        go = threading.Event()
        threading.Thread(target=go.wait).start()
        token.check()
        go.set()
        await anyio.Event().wait()

    report = explore(Box, run, anything_goes, backend=backend)

    assert ["hung", "hung"] == [attempt.kind for attempt in report.attempts]


@on_each_loop
def test_whoever_waits_for_a_thread_a_socket_or_a_deadline_does_not_hang(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        go = threading.Event()
        await run_sync(lambda token: go.wait(0), token=token)
        with move_on_cancel(CancelToken(timeout=0.001)):  # of the service thread's clock
            await anyio.sleep_forever()
        await anyio.sleep(0.001)

    explore(Box, run, anything_goes, backend=backend, at=["check"]).assert_ok()


@on_each_loop
def test_a_restart_that_hangs_is_found(backend: Backend) -> None:
    async def restart(box: Box) -> None:
        await anyio.Event().wait()

    report = explore(Box, three_waits, anything_goes, backend=backend, restart=restart)

    assert {"restart"} == {failure.name for failure in report.failures}
    assert "waits for ever" in report.failures[0].detail


@on_each_loop
def test_tasks_that_turn_in_circles_after_the_stop_hang(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        stopped = token.cancelled
        while stopped:
            await pause()

    report = explore(Box, run, anything_goes, backend=backend)

    assert {"hung"} == {failure.name for failure in report.failures}


@on_each_loop
def test_a_blocked_loop_is_freed_by_its_token(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        token.wait()

    report = explore(Box, run, anything_goes, backend=backend, limits=Limits(seconds=0.01))

    assert ["hung", "hung"] == [attempt.kind for attempt in report.attempts]


@on_each_loop
def test_an_attempt_that_takes_too_long_is_ended(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        token.check()
        await anyio.sleep(3600)

    report = explore(Box, run, anything_goes, backend=backend, limits=Limits(seconds=0.01))

    assert ["hung", "hung"] == [attempt.kind for attempt in report.attempts]


# Leaks


def test_an_asyncio_task_left_behind_is_found() -> None:
    async def stays() -> None:
        await asyncio.Event().wait()

    async def faulty(box: Box, token: CancelToken) -> None:
        task = asyncio.create_task(stays(), name="stays")
        with fail_on_cancel(token):
            await pause()
        task.cancel()

    async def mended(box: Box, token: CancelToken) -> None:
        task = asyncio.create_task(stays(), name="stays")
        try:
            with fail_on_cancel(token):
                await pause()
        finally:
            task.cancel()

    report = explore(Box, faulty, anything_goes, backend="asyncio")

    assert {"leak of tasks"} == {failure.name for failure in report.failures}
    assert "tasks: stays" == report.failures[0].detail
    explore(Box, mended, anything_goes, backend="asyncio").assert_ok()


def test_a_trio_task_left_behind_is_found() -> None:
    async def run(box: Box, token: CancelToken) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever, name="stays")
        token.check()

    report = explore(Box, run, anything_goes, backend="trio")

    assert "tasks: stays" == report.failures[0].detail


def test_what_is_left_in_an_asyncio_loop_does_not_disturb_the_next_attempt() -> None:
    """Attempts share a loop as long as nothing is left in it."""
    loops: set[asyncio.AbstractEventLoop] = set()

    async def run(box: Box, token: CancelToken) -> None:
        loop = asyncio.get_running_loop()
        loops.add(loop)
        if token.cancelled:
            loop.call_later(3600, box.log.append, "late")
            loop.set_debug(True)

    async def check(box: Box, outcome: Outcome) -> None:
        assert not asyncio.get_running_loop().get_debug() or outcome.fired

    report = explore(Box, run, check, backend="asyncio", at=["before", "check", "late"])

    report.assert_ok()
    assert 3 == len(loops)


# Who stops, and when


@on_each_loop
def test_a_second_thread_may_stop_while_the_loop_stands_still(backend: Backend) -> None:
    threads: set[str] = set()

    async def run(box: Box, token: CancelToken) -> None:
        with token.on_cancel(lambda: threads.add(threading.current_thread().name)):
            await three_waits(box, token)

    report = explore(Box, run, anything_goes, backend=backend, who="thread", at=["park", "wake"])

    report.assert_ok()
    assert {"canceller"} == threads


@on_each_loop
def test_a_deadline_comes_at_every_wait(backend: Backend) -> None:
    reasons: set[str] = set()

    async def run(box: Box, token: CancelToken) -> None:
        with token.on_cancel(lambda: reasons.add(token.reason.kind if token.reason else "")):
            await three_waits(box, token)

    report = explore(Box, run, anything_goes, backend=backend, at=["deadline"], clock=JumpingClock)

    report.assert_ok()
    assert {"deadline"} == reasons
    assert 10 == report.valid


@on_each_loop
def test_who_waits_for_the_token_is_woken_at_every_point(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        async def listen() -> None:
            await wait_cancelled(token)
            box.open = True

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            for _ in range(3):
                await pause()
            group.cancel_scope.cancel()

    explore(Box, run, anything_goes, backend=backend).assert_ok()


@on_each_loop
@pytest.mark.parametrize("where", ["make", "run", "check", "restart", "stop"])
@pytest.mark.parametrize("seconds", [None, 60])
def test_ctrl_c_ends_the_exploration_wherever_it_strikes(
    backend: Backend, where: str, seconds: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def strike(here: str) -> None:
        await pause()
        if here == where:
            raise KeyboardInterrupt

    async def make() -> Box:
        await strike("make")
        return Box()

    async def run(box: Box, token: CancelToken) -> None:
        token.check()
        async with anyio.create_task_group() as group:
            group.start_soon(strike, "run")

    def stop(box: Box, token: CancelToken) -> None:
        if where == "stop":
            raise KeyboardInterrupt

    before = dict(vars(CancelToken))
    with pytest.raises(KeyboardInterrupt):
        explore(
            make,
            run,
            lambda box, outcome: strike("check"),
            backend=backend,
            restart=lambda box: strike("restart"),
            stop=stop,
            at=["check"],
            limits=Limits(seconds=seconds),
        )
    gc.collect()
    assert before == dict(vars(CancelToken))
    assert [] == caplog.records  # no task is left whose end nobody has seen


def test_trio_is_as_random_as_before_afterwards() -> None:
    state = trio._core._run._r.getstate()

    explore(Box, three_waits, anything_goes, backend="trio").assert_ok()

    assert state == trio._core._run._r.getstate()


def test_several_loops_make_one_report() -> None:
    report = explore(Box, three_waits, anything_goes, backend=["trio", "asyncio"])

    report.assert_ok()
    assert {"trio", "asyncio"} == {attempt.plan.backend for attempt in report.attempts}


@on_each_loop
def test_the_subject_may_be_used_by_many_tasks(backend: Backend) -> None:
    async def work(lock: anyio.Lock, box: Box) -> None:
        async with lock:
            box.open = True
            await pause()
            box.open = False

    async def run(box: Box, token: CancelToken) -> None:
        lock = anyio.Lock()
        with fail_on_cancel(token):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(partial(work, lock, box))

    explore(Box, run, anything_goes, backend=backend).assert_ok()


# What threads say


@on_each_loop
def test_a_busy_loop_hears_a_thread(backend: Backend) -> None:
    async def run(box: Box, token: CancelToken) -> None:
        own = CancelToken()
        with fail_on_cancel(token):
            with move_on_cancel(own) as scope:
                thread = threading.Thread(target=own.cancel)
                thread.start()
                thread.join()
                while True:
                    await pause()
            assert scope.cancelled_caught
            box.log.append("stopped by the thread")

    def check(box: Box, outcome: Outcome) -> None:
        assert outcome.legal("returned", "cancelled")
        assert outcome.fired or box.log

    explore(Box, run, check, backend=backend).assert_ok()


def test_a_loop_in_which_a_wake_up_is_under_way_is_not_used_for_another_attempt() -> None:
    async def attempt() -> LoopCall:
        return LoopCall(int)

    with _Host() as host:
        call = host.loop.run_until_complete(attempt())
        assert host.loop.is_as_new()
        thread = threading.Thread(target=call.ask)
        thread.start()
        thread.join()
        assert not host.loop.is_as_new()
