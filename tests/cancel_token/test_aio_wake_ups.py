"""How threads wake the tasks of a loop: one rings for all of them, and whatever comes in between loses no wake-up."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
import trio

from cancel_token import CancelToken
from cancel_token._aio_binding import Binding, current_binding
from cancel_token.aio import Sleeper, wait_cancelled
from tests.cancel_token.injection import Injector, bytecodes, monitoring
from tests.cancel_token.loops import on_each_runtime

SLEEPERS = 50


async def come_by() -> None:
    """Let the loop look at what other threads want of it."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def count_rings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    rings: list[None] = []
    for owner, name in (
        (trio.lowlevel.TrioToken, "run_sync_soon"),
        (asyncio.BaseEventLoop, "call_soon_threadsafe"),
    ):
        original: Callable[..., object] = getattr(owner, name)

        def ring(*arguments: object, original: Callable[..., object] = original, **options: object) -> object:
            rings.append(None)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, ring)
    return rings


@on_each_runtime
async def test_however_many_tasks_are_woken_together_the_loop_is_rung_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sleepers: list[Sleeper] = []
    awake: list[None] = []

    async def sleep() -> None:
        sleepers.append(Sleeper())
        await sleepers[-1].sleep()
        awake.append(None)

    rings = count_rings(monkeypatch)
    async with anyio.create_task_group() as tasks:
        for _ in range(SLEEPERS):
            tasks.start_soon(sleep)
        while len(sleepers) < SLEEPERS:
            await anyio.lowlevel.checkpoint()
        threads = [threading.Thread(target=sleeper.wake) for sleeper in sleepers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # the loop does nothing meanwhile
        assert 1 == len(rings)

    assert SLEEPERS == len(awake)


@on_each_runtime
async def test_the_next_wake_up_rings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rings = count_rings(monkeypatch)
    sleeper = Sleeper()
    for number in range(3):
        sleeper.wake()
        await sleeper.sleep()

        assert number + 1 == len(rings)


@on_each_runtime
async def test_a_wake_up_that_comes_when_nobody_sleeps_ends_no_other_wait() -> None:
    sleeper = Sleeper()
    sleeper.wake()
    sleeper.wake()
    await come_by()
    with anyio.move_on_after(0) as scope:
        await anyio.sleep_forever()
    with anyio.CancelScope() as sleeping:
        sleeping.cancel()
        await sleeper.sleep()

    assert scope.cancelled_caught
    assert sleeping.cancelled_caught
    sleeper.wake()
    await come_by()


@on_each_runtime
async def test_an_interruption_while_ringing_loses_nobodys_wake_up() -> None:
    """Others have seen the mark of the one who is interrupted, and rely on him."""
    woken: list[str] = []

    def bound(name: str) -> Binding:
        binding = current_binding()
        binding.wake = lambda: woken.append(name)
        return binding

    def prepare() -> Callable[[], object]:
        return bound("first").release

    with monitoring():
        places = bytecodes(prepare)
        for place in places:
            await come_by()
            woken.clear()
            first, other = bound("first"), bound("other")

            def interrupt(other: Binding = other) -> None:
                other.release()
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                Injector(place, interrupt).run(first.release)
            await come_by()

            assert "other" in woken
            first.release()
            await come_by()
            assert "first" in woken


@on_each_runtime
async def test_what_comes_in_between_any_two_bytecodes_is_woken_and_so_is_who_it_came_between() -> None:
    woken: set[int] = set()

    def bound(number: int) -> Binding:
        binding = current_binding()
        binding.wake = lambda: woken.add(number)
        return binding

    with monitoring():
        for place in bytecodes(lambda: bound(0).release):
            await come_by()
            woken.clear()
            Injector(place, bound(1).release).run(bound(0).release)
            await come_by()

            assert {0, 1} == woken


@on_each_runtime
async def test_a_task_whose_wake_up_raises_takes_nobody_elses_with_it() -> None:
    """Ctrl-C may come there on asyncio; whoever is due behind it is served all the same."""
    woken: list[None] = []
    first, second = current_binding(), current_binding()
    second.wake = lambda: woken.append(None)
    wake_ups = first._wake_ups

    def fail() -> None:
        raise KeyboardInterrupt

    first.wake = fail
    first.release()
    second.release()
    with pytest.raises(KeyboardInterrupt):
        wake_ups.serve()
    await come_by()

    assert [None] == woken


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_loop_that_has_ended_keeps_no_wake_ups(backend: str) -> None:
    async def main() -> Binding:
        return current_binding()

    binding = anyio.run(main, backend=backend)
    for _ in range(3):
        binding.release()

    assert not binding._wake_ups.due


@on_each_runtime
async def test_waiting_for_a_token_goes_on_after_a_wake_up_without_a_reason() -> None:
    token = CancelToken()
    waiting = anyio.Event()

    async def wait() -> None:
        waiting.set()
        await wait_cancelled(token)
        assert token.cancelled

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await waiting.wait()
        (binding,) = token._held
        assert isinstance(binding, Binding)
        binding.release()
        await come_by()
        assert 1 == token.stats().waiting
        token.cancel()
