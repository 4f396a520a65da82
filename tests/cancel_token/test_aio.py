"""Scopes and waits of tasks; each test runs on trio and on asyncio."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from cancel_token import Cancelled, CancelReason, CancelToken
from cancel_token.aio import fail_on_cancel, move_on_cancel, outlast, wait_cancelled
from tests.cancel_token.loops import everywhere, on_each_runtime

CancelSomewhere = Callable[[CancelToken], Callable[[], None]]


# Waking


@everywhere
@on_each_runtime
async def test_a_waiting_task_is_woken_and_goes_on_behind_the_block(
    cancel_somewhere: CancelSomewhere,
) -> None:
    token = CancelToken()
    with move_on_cancel(token) as scope:
        clean_up = cancel_somewhere(token)
        await anyio.sleep_forever()
    clean_up()

    assert scope.cancel_called
    assert scope.cancelled_caught
    assert scope.token is token
    assert 0 == token.stats().waiting


@everywhere
@on_each_runtime
async def test_fail_on_cancel_raises_the_tokens_cancelled(cancel_somewhere: CancelSomewhere) -> None:
    token = CancelToken()
    scope = fail_on_cancel(token)

    async def work() -> None:
        with scope:
            clean_up.append(cancel_somewhere(token))
            await anyio.sleep_forever()

    clean_up: list[Callable[[], None]] = []
    with pytest.raises(Cancelled) as caught:
        await work()
    clean_up[0]()

    assert caught.value.token is token
    assert caught.value.reason == token.reason
    assert scope.cancelled_caught
    assert 0 == token.stats().waiting


@everywhere
@on_each_runtime
async def test_wait_cancelled_says_why(cancel_somewhere: CancelSomewhere) -> None:
    token = CancelToken()
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            reasons.append(await wait_cancelled(token))

        reasons: list[CancelReason] = []
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        clean_up = cancel_somewhere(token)
    clean_up()

    assert [token.reason] == reasons
    assert 0 == token.stats().waiting


@on_each_runtime
async def test_a_parents_stop_and_a_deadline_wake_a_task_too() -> None:
    parent = CancelToken()
    child = parent.child(timeout=0.001)
    with move_on_cancel(child) as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert child.reason is not None
    assert "deadline" == child.reason.kind
    assert (0, 0) == (child.stats().waiting, parent.stats().waiting)


@on_each_runtime
async def test_all_tasks_of_the_block_are_woken() -> None:
    token = CancelToken()
    woken = []

    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            woken.append(number)

    with move_on_cancel(token) as scope:
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            token.cancel()

    assert scope.cancelled_caught
    assert list(range(10)) == sorted(woken)


@on_each_runtime
async def test_a_thousand_tasks_wait_for_one_token() -> None:
    token = CancelToken()
    stopped = []

    async def wait(number: int) -> None:
        with move_on_cancel(token) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        stopped.append(number)

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(wait, number)
        await anyio.wait_all_tasks_blocked()
        assert 1000 == token.stats().waiting
        thread = threading.Thread(target=token.cancel)
        thread.start()
    thread.join()

    assert 1000 == len(stopped)
    assert 0 == token.stats().waiting


async def wait_for(token: CancelToken, woken: list[str], name: str) -> None:
    with move_on_cancel(token):
        await anyio.sleep_forever()
    woken.append(name)


@on_each_runtime
async def test_tasks_are_woken_before_callbacks_run_and_after_the_whole_tree_is_flagged() -> None:
    """T-S1; a callback that takes its time holds up the one who cancels, and not those who wait."""
    token = CancelToken()
    child = token.child()
    woken: list[str] = []
    everybody_woke = threading.Event()

    def slow() -> None:
        everybody_woke.wait()
        woken.append("callback")

    token.on_cancel(slow)
    thread = threading.Thread(target=token.cancel)
    async with anyio.create_task_group() as group:
        group.start_soon(wait_for, token, woken, "task")
        group.start_soon(wait_for, child, woken, "child's task")
        await anyio.wait_all_tasks_blocked()
        thread.start()
    everybody_woke.set()
    thread.join()

    assert ["callback", "child's task", "task"] == sorted(woken)
    assert "callback" == woken[-1]


@on_each_runtime
async def test_a_task_keeps_its_token_linked_to_the_parents(without_gc: None) -> None:
    """T-S7: a child that only a waiting task knows is pinned, and let go of when the task leaves."""
    token = CancelToken()
    woken: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(wait_for, token.child().child(), woken, "grandchild")
        await anyio.wait_all_tasks_blocked()
        assert 1 == token.stats().children
        token.cancel()
    del group

    assert ["grandchild"] == woken
    assert 0 == token.stats().children


# The token was cancelled before


@on_each_runtime
async def test_a_token_cancelled_before_lets_the_block_run_to_its_first_wait() -> None:
    token = CancelToken()
    token.cancel()
    steps = []
    with move_on_cancel(token) as scope:
        steps.append("begun")
        assert scope.cancel_called
        await anyio.lowlevel.checkpoint()
        steps.append("waited")

    assert ["begun"] == steps
    assert scope.cancelled_caught


@on_each_runtime
async def test_a_token_cancelled_before_does_not_spoil_a_block_that_waits_for_nothing() -> None:
    token = CancelToken()
    token.cancel()
    with fail_on_cancel(token) as scope:
        result = "done"

    assert "done" == result
    assert not scope.cancelled_caught
    await anyio.lowlevel.checkpoint()  # and nothing comes after it


@on_each_runtime
async def test_wait_cancelled_returns_for_a_token_cancelled_before() -> None:
    token = CancelToken()
    token.cancel("early")

    assert "early" == (await wait_cancelled(token)).message


# A normal end


@on_each_runtime
async def test_a_normal_end_does_not_cancel_the_token() -> None:
    """T-A3: what forwards a stop also ends when the work does."""
    token = CancelToken()
    with move_on_cancel(token) as scope, fail_on_cancel(token):
        await anyio.lowlevel.checkpoint()

    assert not token.cancelled
    assert not scope.cancel_called
    assert 0 == token.stats().waiting


@on_each_runtime
async def test_an_error_passes_and_does_not_cancel_the_token() -> None:
    token = CancelToken()
    error = ValueError("of the block")
    for scope in move_on_cancel(token), fail_on_cancel(token):
        with pytest.raises(ValueError, match="of the block") as caught, scope:
            raise error
        assert caught.value is error

    assert not token.cancelled
    assert 0 == token.stats().waiting


@on_each_runtime
async def test_a_stop_after_the_block_reaches_nobody() -> None:
    """The wake-up may be on its way when the block is left: it must not land in the clean-up."""
    token = CancelToken()
    with move_on_cancel(token) as scope:
        token.cancel()  # the loop will be told behind the block
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.001)

    assert not scope.cancelled_caught


@on_each_runtime
async def test_stops_and_ends_at_the_same_moment_never_land_behind_the_block() -> None:
    """T-S15: a block that has finished has finished; one that was cut was cut; there is nothing in between."""
    ended = 0
    tokens = [CancelToken() for _ in range(300)]
    go = threading.Semaphore(0)

    def cancel_all() -> None:
        for token in tokens:
            go.acquire()
            token.cancel()

    thread = threading.Thread(target=cancel_all)
    thread.start()
    for number, token in enumerate(tokens):
        result = None
        with move_on_cancel(token) as scope:
            go.release()
            for _ in range(number % 7):
                await anyio.lowlevel.checkpoint()
            result = "done"
        await anyio.lowlevel.checkpoint()
        assert (result is None) == scope.cancelled_caught
        ended += 1
    thread.join()
    await anyio.lowlevel.checkpoint()

    assert 300 == ended
    assert [0] * 300 == [token.stats().waiting for token in tokens]


@on_each_runtime
async def test_clean_up_is_hurried_and_may_shield_itself() -> None:
    token = CancelToken()
    steps = []
    with move_on_cancel(token) as scope:
        try:
            token.cancel()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
                steps.append("shielded")
            try:
                await anyio.sleep_forever()
            finally:
                steps.append("hurried")

    assert ["shielded", "hurried"] == steps
    assert scope.cancelled_caught


# Several stops


@on_each_runtime
async def test_the_inner_token_ends_the_inner_block_only() -> None:
    outer, inner = CancelToken(), CancelToken()
    with move_on_cancel(outer) as outer_scope:
        with move_on_cancel(inner) as inner_scope:
            inner.cancel()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        went_on = True

    assert went_on
    assert inner_scope.cancelled_caught
    assert not outer_scope.cancelled_caught
    assert not outer.cancelled


@on_each_runtime
async def test_the_outer_token_ends_both_blocks() -> None:
    outer, inner = CancelToken(), CancelToken()
    with move_on_cancel(outer) as outer_scope:
        with fail_on_cancel(inner) as inner_scope:
            outer.cancel()
            await anyio.sleep_forever()
        raise AssertionError("the outer stop was swallowed by the inner block")

    assert outer_scope.cancelled_caught
    assert not inner_scope.cancelled_caught
    assert not inner.cancelled


@pytest.mark.parametrize("first", ["outer", "inner"])
@on_each_runtime
async def test_when_both_tokens_are_cancelled_the_outer_block_takes_it(first: str) -> None:
    outer, inner = CancelToken(), CancelToken()
    with move_on_cancel(outer) as outer_scope, fail_on_cancel(inner):
        for token in (outer, inner) if first == "outer" else (inner, outer):
            token.cancel()
        await anyio.sleep_forever()

    assert outer_scope.cancelled_caught
    await anyio.lowlevel.checkpoint()


@on_each_runtime
async def test_blocks_of_one_token_nest() -> None:
    token = CancelToken()
    with move_on_cancel(token) as outer:
        with move_on_cancel(token):
            token.cancel()
            await anyio.sleep_forever()
        await anyio.sleep_forever()

    assert outer.cancelled_caught


@on_each_runtime
async def test_the_runtimes_own_cancellation_passes_untouched() -> None:
    """T-A2: neither swallowed, nor turned into ours, nor passed on to the token."""
    token = CancelToken()
    with anyio.CancelScope() as runtimes, move_on_cancel(token) as moved, fail_on_cancel(token):
        runtimes.cancel()
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            kind = type(error)
            raise

    assert anyio.get_cancelled_exc_class() is kind
    assert runtimes.cancelled_caught
    assert not moved.cancelled_caught
    assert not moved.cancel_called
    assert not token.cancelled


@on_each_runtime
async def test_a_timeout_inside_the_block_stays_a_timeout() -> None:
    token = CancelToken()
    with fail_on_cancel(token), pytest.raises(TimeoutError), anyio.fail_after(0.001):
        await anyio.sleep_forever()

    assert not token.cancelled


# Checks inside


@pytest.mark.parametrize("below", [False, True], ids=["the token", "a closed child of it"])
@on_each_runtime
async def test_a_check_inside_the_block_ends_it_as_a_wait_does(below: bool) -> None:
    token = CancelToken()
    checked = token.child() if below else token
    with move_on_cancel(token) as scope:
        token.cancel()
        checked.close()
        checked.check()
    with pytest.raises(Cancelled) as caught, fail_on_cancel(token) as failed:
        checked.check()

    assert scope.cancelled_caught
    assert failed.cancelled_caught
    assert caught.value.token is checked


@on_each_runtime
async def test_another_tokens_cancelled_passes() -> None:
    token, other = CancelToken(), CancelToken()
    other.cancel()
    token.cancel()
    for scope in move_on_cancel(token), fail_on_cancel(token):
        with pytest.raises(Cancelled) as caught, scope:
            other.check()
        assert caught.value.token is other
        assert not scope.cancelled_caught


@on_each_runtime
async def test_the_runtimes_cancelled_and_ours_in_one_group_end_together() -> None:
    token = CancelToken()

    async def wait() -> None:
        await anyio.sleep_forever()

    async def check() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            token.check()

    for scope in move_on_cancel(token), move_on_cancel(token):  # the second is entered cancelled
        with scope:
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(check)
                await anyio.lowlevel.checkpoint()
                token.cancel()
        assert scope.cancelled_caught


@on_each_runtime
async def test_nothing_but_stops_in_a_group_is_raised_as_one_cancelled() -> None:
    token = CancelToken()
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"), fail_on_cancel(token):
        raise BaseExceptionGroup("tasks", [Cancelled(token), BaseExceptionGroup("more", [Cancelled(token)])])


@on_each_runtime
async def test_an_error_beside_a_stop_is_not_lost() -> None:
    token = CancelToken()
    token.cancel()
    error = ValueError("real")
    error.__context__ = KeyError("its context")
    stopped = Cancelled(token)
    with pytest.raises(BaseExceptionGroup) as moved, move_on_cancel(token) as scope:
        raise BaseExceptionGroup("tasks", [stopped, error])
    with pytest.raises(BaseExceptionGroup) as failed, fail_on_cancel(token):
        raise BaseExceptionGroup("tasks", [stopped, error])

    assert scope.cancelled_caught
    assert (error,) == moved.value.exceptions
    assert moved.value.__context__ is None
    assert (stopped, error) == failed.value.exceptions


@on_each_runtime
async def test_an_error_beside_the_runtimes_cancelled_is_not_lost() -> None:
    token = CancelToken()

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("real")

    async def work(scope: move_on_cancel | fail_on_cancel) -> None:
        with scope:
            async with anyio.create_task_group() as group:
                group.start_soon(fail)
                group.start_soon(anyio.sleep_forever)
                await anyio.wait_all_tasks_blocked()
                token.cancel()

    for scope in move_on_cancel(token), fail_on_cancel(token):
        with pytest.raises(BaseExceptionGroup) as caught:
            await work(scope)
        assert [ValueError] == [type(error) for error in caught.value.exceptions]


# Iteration guards


@on_each_runtime
async def test_a_guarded_iteration_never_takes_an_item_and_drops_it() -> None:
    """T-S17"""
    token = CancelToken()
    send, receive = anyio.create_memory_object_stream[int](10)
    taken = []
    with send, receive:
        for number in range(10):
            send.send_nowait(number)
        with move_on_cancel(token) as scope:
            async for item in token.aiter(receive):
                taken.append(item)
                if item == 3:
                    token.cancel()

        assert scope.cancelled_caught
        assert [0, 1, 2, 3] == taken
        assert 4 == receive.receive_nowait()


@on_each_runtime
async def test_a_scope_wakes_a_guarded_iteration_that_waits() -> None:
    token = CancelToken()
    send, receive = anyio.create_memory_object_stream[int](1)
    with send, receive, move_on_cancel(token) as scope:
        send.send_nowait(1)
        async for _ in token.aiter(receive):
            thread = threading.Thread(target=token.cancel)
            thread.start()
            await anyio.sleep_forever()
    thread.join()

    assert scope.cancelled_caught


# Use and misuse


@on_each_runtime
async def test_a_scope_is_for_one_block() -> None:
    scope = move_on_cancel(CancelToken())
    with scope:
        pass
    with pytest.raises(RuntimeError, match="make another"), scope:
        raise AssertionError("entered twice")


@on_each_runtime
async def test_a_scope_left_in_the_wrong_order_takes_its_callback_along() -> None:
    token = CancelToken()
    scope = move_on_cancel(token)
    scope.__enter__()
    inner = anyio.CancelScope()
    inner.__enter__()
    with pytest.raises(RuntimeError):
        scope.__exit__(None, None, None)

    assert 0 == token.stats().waiting


@on_each_runtime
async def test_never_and_deep_children_work_in_scopes() -> None:
    token = root = CancelToken()
    for _ in range(1000):
        token = token.child()
    with move_on_cancel(CancelToken.never()) as never, move_on_cancel(token) as scope:
        root.cancel()
        await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert not never.cancel_called


@on_each_runtime
async def test_a_wait_that_is_cancelled_leaves_nothing_behind() -> None:
    token = CancelToken()
    with anyio.move_on_after(0.001) as scope:
        await wait_cancelled(token)

    assert scope.cancelled_caught
    assert 0 == token.stats().waiting
    assert not token.cancelled


@pytest.mark.parametrize("rounds", [2000])
@on_each_runtime
async def test_nothing_is_left_after_many_blocks(rounds: int) -> None:
    token = CancelToken()
    for _ in range(rounds):
        with move_on_cancel(token):
            pass
        with fail_on_cancel(token.child()):
            await anyio.lowlevel.checkpoint()

    stats = token.stats()
    assert (0, 0, 0) == (stats.registrations, stats.children, stats.waiting)


@on_each_runtime
async def test_who_outlasts_a_token_goes_on_when_it_is_cancelled_and_not_before() -> None:
    token, outlasted = CancelToken(), []

    async def wait() -> None:
        await outlast(token)
        outlasted.append(token.cancelled)
        await anyio.lowlevel.checkpoint()
        raise AssertionError("the cancellation did not come again")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert [] == outlasted
            token.cancel()

    assert [True] == outlasted
    assert token.stats().waiting == 0


def test_a_task_cancel_that_came_meanwhile_goes_on_behind_what_was_outlasted() -> None:
    token = CancelToken()

    async def main() -> None:
        task = asyncio.create_task(outlast(token))
        await asyncio.sleep(0)
        task.cancel("from outside")
        await asyncio.sleep(0)
        assert not task.done()
        token.cancel()
        with pytest.raises(asyncio.CancelledError, match="from outside"):
            await task

    asyncio.run(main())


@on_each_runtime
async def test_a_token_that_is_cancelled_already_is_outlasted_at_once() -> None:
    token = CancelToken()
    token.cancel()

    await outlast(token)

    assert token.stats().waiting == 0
