"""Where asyncio differs: one-shot cancellation, its accounts, subtasks, eager tasks, loops that are torn down."""

import asyncio
import selectors
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from cancel_token import CancelToken
from cancel_token.aio import fail_on_cancel, move_on_cancel, run_sync
from tests.cancel_token.loops import LoopWithoutDescriptors


class _Jumping(selectors.DefaultSelector):
    """Where the loop would sleep, its clock jumps instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.iterations = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.iterations += 1
        assert self.iterations < 10_000, "the loop spins"
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop without waiting that counts its iterations."""

    def __init__(self) -> None:
        self.clock = _Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


@pytest.fixture
def jumping_loop() -> Iterator[JumpingLoop]:
    loop = JumpingLoop()
    yield loop
    loop.close()


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


# The accounts: cancelling() says how many task.cancel() nobody has answered


def test_a_stop_leaves_no_request_open() -> None:
    async def main() -> None:
        token = CancelToken()
        with move_on_cancel(token):
            token.cancel()
            try:
                await asyncio.sleep(60)
            finally:
                for _ in range(3):  # told again at each wait, so several requests have been made
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        pass
        assert 0 == current_task().cancelling()
        await asyncio.sleep(0)  # and nothing is in the air

    asyncio.run(main())


def test_a_tasks_own_cancellation_passes_and_stays_counted() -> None:
    async def main() -> None:
        token = CancelToken()
        task = current_task()
        moved = move_on_cancel(token)

        async def work() -> None:
            with moved, fail_on_cancel(token):
                task.cancel()
                await asyncio.sleep(60)

        with pytest.raises(asyncio.CancelledError):
            await work()
        assert 0 == task.uncancel()
        assert not moved.cancelled_caught
        assert not token.cancelled

    asyncio.run(main())


@pytest.mark.parametrize("first", ["token", "task"])
def test_a_tasks_own_cancellation_passes_when_the_token_is_cancelled_too(first: str) -> None:
    """T-A2: asyncio folds both into one exception, and must not lose its own."""

    async def main() -> None:
        token = CancelToken()

        async def work() -> None:
            with move_on_cancel(token):
                await asyncio.sleep(60)
            raise AssertionError("the task's own cancellation was swallowed")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        for cancel in (token.cancel, task.cancel) if first == "token" else (task.cancel, token.cancel):
            cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert 1 == task.cancelling()
        assert 0 == token.stats().waiting

    asyncio.run(main())


def test_a_task_group_inside_the_block_ends_with_it_and_works_behind_it() -> None:
    async def main() -> None:
        token = CancelToken()
        ended = []

        async def wait() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                ended.append(1)

        with move_on_cancel(token) as scope:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(wait())
                await asyncio.sleep(0)
                token.cancel()
        assert scope.cancelled_caught
        assert 5 == len(ended)
        assert 0 == current_task().cancelling()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    asyncio.run(main())


def test_a_block_inside_a_task_group_does_not_disturb_it() -> None:
    async def main() -> None:
        token = CancelToken()
        caught = []

        async def work() -> str:
            with move_on_cancel(token) as scope:
                await asyncio.sleep(60)
            caught.append(scope.cancelled_caught)
            return "moved on"

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for _ in range(3)]
            await asyncio.sleep(0)
            token.cancel()
        assert ["moved on"] * 3 == [task.result() for task in tasks]
        assert [True] * 3 == caught

    asyncio.run(main())


def test_a_failing_task_group_stays_an_error_and_not_a_stop() -> None:
    async def main() -> None:
        token = CancelToken()

        async def fail() -> None:
            raise ValueError("real")

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                with move_on_cancel(token):
                    await asyncio.sleep(60)

        with pytest.raises(ExceptionGroup) as caught:
            await work()
        assert [ValueError] == [type(error) for error in caught.value.exceptions]
        assert 0 == current_task().cancelling()
        assert not token.cancelled

    asyncio.run(main())


def test_cancelled_of_several_tasks_of_a_group_ends_at_the_scope() -> None:
    """asyncio's `TaskGroup` collects what its tasks raise, and knows nothing of `Cancelled`."""

    async def main() -> None:
        token = CancelToken()

        async def check() -> None:
            await asyncio.sleep(0)
            token.check()

        with move_on_cancel(token) as scope:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(check())
                token.cancel()
        assert scope.cancelled_caught
        assert 0 == current_task().cancelling()

    asyncio.run(main())


@pytest.mark.parametrize("stopped", [False, True], ids=["timeout alone", "timeout and stop"])
def test_a_timeout_around_the_block_stays_a_timeout(jumping_loop: JumpingLoop, stopped: bool) -> None:
    async def main() -> None:
        token = CancelToken()

        async def work() -> None:
            async with asyncio.timeout(5) as timeout:
                with move_on_cancel(token):
                    if stopped:
                        asyncio.get_running_loop().call_at(timeout.when() or 0, token.cancel)
                    await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            await work()
        assert 0 == current_task().cancelling()

    jumping_loop.run_until_complete(main())


@pytest.mark.parametrize("expired", [False, True], ids=["stop alone", "stop and timeout"])
def test_a_stop_passes_a_timeout_inside_the_block(jumping_loop: JumpingLoop, expired: bool) -> None:
    async def main() -> None:
        token = CancelToken()
        outcome = []
        loop = asyncio.get_running_loop()
        with move_on_cancel(token) as scope:
            try:
                async with asyncio.timeout(5):
                    loop.call_later(5 if expired else 1, token.cancel)
                    await asyncio.sleep(60)
            except TimeoutError:
                outcome.append("timeout")
                await asyncio.sleep(60)
        assert scope.cancelled_caught
        assert 0 == current_task().cancelling()
        assert outcome in ([], ["timeout"] if expired else [])

    jumping_loop.run_until_complete(main())


def test_wait_for_inside_the_block_is_stopped() -> None:
    async def main() -> None:
        token = CancelToken()
        with move_on_cancel(token) as scope:
            asyncio.get_running_loop().call_soon(token.cancel)
            await asyncio.wait_for(asyncio.sleep(60), 120)
        assert scope.cancelled_caught
        assert 0 == current_task().cancelling()

    asyncio.run(main())


# Level-triggered, and patient


def test_a_finished_wait_keeps_its_result() -> None:
    """T-A4, T-S15: a result that is there when the stop comes reaches the task."""

    async def main() -> None:
        token = CancelToken()
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def finish_and_stop() -> None:
            future.set_result("finished")
            token.cancel()

        results = []
        with move_on_cancel(token) as scope:
            loop.call_soon(finish_and_stop)
            results.append(await future)
            await asyncio.sleep(60)
        assert ["finished"] == results
        assert scope.cancelled_caught

    asyncio.run(main())


def test_a_stop_does_not_land_in_the_clean_up_behind_the_block() -> None:
    """What a naive `task.cancel` as callback does: the shot hits whatever is waited for next."""

    async def main() -> None:
        token = CancelToken()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future_is_set = asyncio.Event()

        def finish_and_stop() -> None:
            future.set_result(None)
            future_is_set.set()
            token.cancel()

        loop.call_soon(finish_and_stop)
        try:
            with move_on_cancel(token) as scope:
                await future
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned_up = True
        assert cleaned_up
        assert not scope.cancelled_caught

    asyncio.run(main())


def test_a_task_that_swallows_does_not_make_the_loop_spin(jumping_loop: JumpingLoop) -> None:
    """It is told again and again, but two minutes cost some thousand iterations and not many millions."""
    swallowed = 0

    async def main() -> None:
        nonlocal swallowed
        token = CancelToken()
        loop = asyncio.get_running_loop()
        with move_on_cancel(token):
            token.cancel()
            while loop.time() < 120:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    swallowed += 1

    jumping_loop.run_until_complete(main())

    assert 1200 < swallowed < 1250
    assert jumping_loop.clock.iterations < 5000


def test_a_subtask_that_takes_its_time_does_not_make_the_loop_spin(jumping_loop: JumpingLoop) -> None:
    async def clean_up() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.shield(asyncio.sleep(10))
        return "never"

    async def main() -> None:
        token = CancelToken()
        with move_on_cancel(token) as scope:
            asyncio.get_running_loop().call_soon(token.cancel)
            async with asyncio.TaskGroup() as group:
                group.create_task(clean_up())
        assert scope.cancelled_caught
        assert 0 == current_task().cancelling()

    jumping_loop.run_until_complete(main())

    assert 10 <= jumping_loop.time() < 11
    assert jumping_loop.clock.iterations < 500


def test_clean_up_in_a_few_steps_is_hurried_through_without_a_pause(jumping_loop: JumpingLoop) -> None:
    async def main() -> None:
        token = CancelToken()
        loop = asyncio.get_running_loop()
        swallowed = 0
        with move_on_cancel(token):
            loop.call_soon(token.cancel)
            while swallowed < 5:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    swallowed += 1
        assert 0 == loop.time()

    jumping_loop.run_until_complete(main())


def test_patience_begins_anew_behind_a_shield(jumping_loop: JumpingLoop) -> None:
    async def main() -> None:
        token = CancelToken()
        loop = asyncio.get_running_loop()
        with move_on_cancel(token) as scope:
            try:
                token.cancel()
                await asyncio.sleep(60)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(10)
                await asyncio.sleep(60)
        assert scope.cancelled_caught
        assert 10 == loop.time()

    jumping_loop.run_until_complete(main())


# Eager tasks


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
@pytest.mark.parametrize("when", ["before", "in the task", "behind its first wait"])
def test_an_eager_task_is_stopped(when: str) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # new in 3.12
        token = CancelToken()
        steps = []

        async def work() -> bool:
            with move_on_cancel(CancelToken()) as left:  # entered and left in the eager part
                steps.append("begun")
            assert not left.cancel_called
            with move_on_cancel(token) as scope:
                if when == "in the task":
                    token.cancel()
                await asyncio.sleep(60)
            return scope.cancelled_caught

        if when == "before":
            token.cancel()
        task = asyncio.create_task(work())
        assert ["begun"] == steps
        token.cancel()
        assert await task
        assert 0 == task.cancelling()
        assert 0 == current_task().cancelling()
        assert 0 == token.stats().waiting

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_the_parent_of_an_eager_task_is_not_stopped_in_its_place() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # new in 3.12
        token, outer = CancelToken(), CancelToken()

        async def work() -> str:
            with move_on_cancel(token):
                token.cancel()
                await asyncio.sleep(60)
            return "moved on"

        with move_on_cancel(outer) as scope:
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            assert "moved on" == await task
        assert not scope.cancelled_caught

    asyncio.run(main())


# Blocking work


class Held:
    """Work in a thread that ends when the test lets it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self._has_begun: Callable[[], object] = lambda: loop.call_soon_threadsafe(self.begun.set)
        self.may_end = threading.Event()
        self.token = CancelToken()

    def obedient(self, *, token: CancelToken) -> str:
        self.token = token
        self._has_begun()
        token.wait()
        self.may_end.wait()
        token.check()
        return "unreachable"

    def stubborn(self, *, token: CancelToken) -> str:
        self.token = token
        self._has_begun()
        self.may_end.wait()
        return "finished"


def test_task_cancel_waits_for_the_thread_however_often_it_comes() -> None:
    """T-A2: anyio's shields do not hold against it."""

    async def main() -> None:
        token = CancelToken()
        held = Held()
        task = asyncio.create_task(run_sync(held.obedient, token=token))
        await held.begun.wait()
        for _ in range(5):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            assert not task.done()
        assert held.token.reason is not None
        assert "runtime" == held.token.reason.kind
        assert () == held.token.later_reasons  # the child was told once
        held.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not token.cancelled
        assert 0 == token.stats().children

    asyncio.run(main())


def test_task_cancel_is_raised_even_if_the_work_finishes() -> None:
    """asyncio would not repeat it, so the result can't be kept."""

    async def main() -> None:
        held = Held()
        task = asyncio.create_task(run_sync(held.stubborn, token=CancelToken()))
        await held.begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        held.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("first", ["scope", "task"])
def test_task_cancel_beside_a_scopes_cancellation_is_not_lost(first: str) -> None:
    async def main() -> None:
        held = Held()
        scope = anyio.CancelScope()

        async def work() -> None:
            with scope:
                await run_sync(held.stubborn, token=CancelToken())
            raise AssertionError("task.cancel() was swallowed")

        task = asyncio.create_task(work())
        await held.begun.wait()
        for cancel in (scope.cancel, task.cancel) if first == "scope" else (task.cancel, scope.cancel):
            cancel()
        await asyncio.sleep(0)
        held.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


def test_task_cancel_that_comes_after_a_scopes_is_not_lost() -> None:
    async def main() -> None:
        held = Held()
        token = CancelToken()

        async def work() -> None:
            with move_on_cancel(token):
                await run_sync(held.stubborn, token=token)
            raise AssertionError("task.cancel() was swallowed")

        task = asyncio.create_task(work())
        await held.begun.wait()
        token.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        held.may_end.set()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())


def test_a_timeout_around_blocking_work_is_a_timeout_when_the_thread_has_ended() -> None:
    async def main() -> None:
        held = Held()
        held.may_end.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await run_sync(held.obedient, token=CancelToken.never())
        assert 0 == current_task().cancelling()

    asyncio.run(main())


def test_a_failing_sibling_stops_blocking_work() -> None:
    async def main() -> None:
        held = Held()
        held.may_end.set()

        async def fail() -> None:
            await held.begun.wait()
            raise ValueError("real")

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(run_sync(held.obedient, token=CancelToken()))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await work()
        assert [ValueError] == [type(error) for error in caught.value.exceptions]

    asyncio.run(main())


def test_leaving_asyncio_run_waits_for_the_thread() -> None:
    ended = []

    def work(*, token: CancelToken) -> None:
        try:
            token.sleep(60)
        finally:
            ended.append(token.reason and token.reason.kind)

    async def main() -> None:
        task = asyncio.create_task(run_sync(work, token=CancelToken()))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())

    assert ["runtime"] == ended


def test_a_coroutine_that_is_thrown_away_stops_its_thread() -> None:
    """A loop that is torn down without cancelling its tasks; the thread then reports to a closed one."""
    tokens = []
    ended = threading.Event()

    def work(begun: Callable[[], object], *, token: CancelToken) -> None:
        tokens.append(token)
        begun()
        token.wait()
        ended.set()

    loop = asyncio.new_event_loop()
    begun = asyncio.Event()
    coroutine = run_sync(work, lambda: loop.call_soon_threadsafe(begun.set), token=CancelToken())
    task = loop.create_task(coroutine)
    loop.run_until_complete(begun.wait())
    coroutine.close()
    task.cancel()  # and now the task finds its coroutine gone
    loop.run_until_complete(asyncio.wait([task]))
    assert isinstance(task.exception(), RuntimeError)
    loop.close()
    ended.wait()

    assert tokens[0].cancelled


# Loops


def test_debug_mode_has_nothing_to_say() -> None:
    """It finds calls from the wrong thread."""

    async def main() -> None:
        token = CancelToken()
        thread = threading.Thread(target=token.cancel)
        with move_on_cancel(token) as scope:
            thread.start()
            await asyncio.sleep(60)
        thread.join()
        assert scope.cancelled_caught

    asyncio.run(main(), debug=True)


def test_outside_of_a_task_there_is_nothing_to_stop() -> None:
    def enter() -> None:
        try:
            with move_on_cancel(CancelToken()):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(enter)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    errors: list[str] = []
    asyncio.run(main())

    assert ["cancel_token.aio works inside a task of trio or asyncio only"] == errors


def test_an_error_of_the_loop_other_than_closed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops neither the stop nor the other wakers."""
    reported: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(str(report.exc_value)))

    async def main() -> None:
        token = CancelToken()
        loop = asyncio.get_running_loop()

        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("something else")

        monkeypatch.setattr(loop, "call_soon_threadsafe", refuse)
        with move_on_cancel(token):
            assert token.cancel()
            monkeypatch.delattr(loop, "call_soon_threadsafe")

    loop = LoopWithoutDescriptors()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()

    assert ["something else"] == reported
