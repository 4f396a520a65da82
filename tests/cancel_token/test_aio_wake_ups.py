"""How threads wake the tasks of a loop: one rings for all of them, and whatever comes in between loses no wake-up."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from cancel_token import CancelToken
from cancel_token._aio_asyncio import HAS_EVENTFD, AsyncioWakeUps, BellWakeUps
from cancel_token._aio_binding import Binding, current_binding, nobody
from cancel_token.aio import Sleeper, move_on_cancel, wait_cancelled
from tests.cancel_token.injection import Injector, Place, bytecodes, monitoring
from tests.cancel_token.loops import (
    WITHOUT_DESCRIPTORS,
    on_asyncio,
    on_each_runtime,
    on_each_way_to_ring,
    run_on,
)
from tests.cancel_token.stalling import open_descriptors

SLEEPERS = 50

in_each_thread = pytest.mark.parametrize("thread", ["the loop's", "another"])
with_bells = pytest.mark.skipif(not HAS_EVENTFD, reason="there is no eventfd")


async def come_by() -> None:
    """Let the loop look at what other threads want of it."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


async def run_in(thread: str, fn: Callable[[], object]) -> None:
    if thread == "another":
        await anyio.to_thread.run_sync(fn)
    else:
        fn()


def in_a_thread(fn: Callable[[], object]) -> None:
    """Call it, and wait for it without the loop."""
    thread = threading.Thread(target=fn)
    thread.start()
    thread.join()


async def places_of(operation: Callable[[], object], thread: str) -> list[Place]:
    places: list[Place] = []
    await run_in(thread, lambda: places.extend(bytecodes(lambda: operation)))
    return places


def count_rings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    rings: list[None] = []
    ways: list[tuple[object, str]] = [
        (trio.lowlevel.TrioToken, "run_sync_soon"),
        (asyncio.BaseEventLoop, "call_soon_threadsafe"),
    ]
    if HAS_EVENTFD:
        ways.append((os, "eventfd_write"))
    for owner, name in ways:
        original: Callable[..., object] = getattr(owner, name)

        def ring(*arguments: object, original: Callable[..., object] = original, **options: object) -> object:
            rings.append(None)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, ring)
    return rings


@on_each_way_to_ring
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


@on_each_way_to_ring
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


@in_each_thread
@on_each_way_to_ring
async def test_an_interruption_while_ringing_loses_nobodys_wake_up(thread: str) -> None:
    """Others have seen the mark of the one who is interrupted, and rely on him."""
    woken: list[str] = []

    def bound(name: str) -> Binding:
        binding = current_binding()
        binding.wake = lambda: woken.append(name)
        return binding

    with monitoring():
        for place in await places_of(bound("first").release, thread):
            await come_by()
            woken.clear()
            first, other = bound("first"), bound("other")

            def interrupt(other: Binding = other) -> None:
                other.release()
                raise KeyboardInterrupt

            def be_interrupted(
                place: Place = place, first: Binding = first, interrupt: Callable[[], None] = interrupt
            ) -> None:
                with pytest.raises(KeyboardInterrupt):
                    Injector(place, interrupt).run(first.release)

            await run_in(thread, be_interrupted)
            await come_by()

            assert "other" in woken
            first.release()
            await come_by()
            assert "first" in woken


@in_each_thread
@on_each_way_to_ring
async def test_what_comes_in_between_any_two_bytecodes_is_woken_and_so_is_who_it_came_between(
    thread: str,
) -> None:
    woken: set[int] = set()

    def bound(number: int) -> Binding:
        binding = current_binding()
        binding.wake = lambda: woken.add(number)
        return binding

    with monitoring():
        for place in await places_of(bound(0).release, thread):
            await come_by()
            woken.clear()
            first, other = bound(0), bound(1)
            await run_in(thread, lambda: Injector(place, other.release).run(first.release))  # noqa: B023  # at once
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
        first.wake = nobody
        raise KeyboardInterrupt

    first.wake = fail
    first.release()
    second.release()
    with pytest.raises(KeyboardInterrupt):
        wake_ups.serve()
    await come_by()

    assert [None] == woken


@on_each_way_to_ring
async def test_what_fails_is_not_tried_again_and_takes_nobody_elses_with_it() -> None:
    woken: list[None] = []
    first, second = current_binding(), current_binding()
    second.wake = lambda: woken.append(None)

    def fail() -> None:
        raise ArithmeticError("a defect")

    first.wake = fail
    first.release()
    second.release()
    with pytest.raises(ArithmeticError):
        first._wake_ups.serve()
    await come_by()

    assert [None] == woken


@pytest.mark.parametrize("runtime", ["trio", "asyncio", WITHOUT_DESCRIPTORS])
def test_a_loop_that_has_ended_keeps_no_wake_ups(runtime: str) -> None:
    bindings: list[Binding] = []

    async def main() -> None:
        bindings.append(current_binding())

    run_on(runtime, main)
    (binding,) = bindings
    for _ in range(3):
        binding.release()
        in_a_thread(binding.release)

    assert not binding._wake_ups.due


@with_bells
@on_asyncio
async def test_a_ctrl_c_while_the_loop_hears_the_bell_loses_nobody() -> None:
    woken: list[None] = []

    def ring() -> Callable[[], object]:
        """Ring in another thread; the loop has not heard it when this returns."""
        binding = current_binding()
        binding.wake = lambda: woken.append(None)
        in_a_thread(binding.release)
        wake_ups = binding._wake_ups
        assert isinstance(wake_ups, BellWakeUps)
        bell = wake_ups._bell()
        assert bell is not None
        return bell

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monitoring():
        places = bytecodes(ring)
        for place in places:
            await come_by()
            woken.clear()
            bell = ring()
            with pytest.raises(KeyboardInterrupt):
                Injector(place, interrupt).run(bell)
            await come_by()

            assert woken


@with_bells
def test_the_bell_goes_when_its_loop_is_closed_and_whoever_rings_late_writes_to_nobody_else() -> None:
    async def bind() -> Binding:
        return current_binding()

    before = set(open_descriptors())
    loop = asyncio.new_event_loop()
    binding = loop.run_until_complete(bind())
    wake_ups = binding._wake_ups
    assert isinstance(wake_ups, BellWakeUps)
    bell = wake_ups._bell()
    assert bell is not None
    number = bell.fileno()
    del bell
    loop.close()
    assert before == set(open_descriptors())

    another = os.memfd_create("another")
    if another != number:
        os.dup2(another, number)
        os.close(another)
    in_a_thread(binding.release)
    assert 0 == os.fstat(number).st_size
    os.close(number)

    assert not wake_ups.due


@with_bells
def test_a_loop_that_is_closed_while_somebody_rings_keeps_the_number_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def bind() -> Binding:
        return current_binding()

    def write_slowly(number: int, value: int) -> None:
        loop.close()
        open_meanwhile.append(number in open_descriptors())
        write(number, value)

    open_meanwhile: list[bool] = []
    write = os.eventfd_write
    before = set(open_descriptors())
    loop = asyncio.new_event_loop()
    binding = loop.run_until_complete(bind())
    monkeypatch.setattr(os, "eventfd_write", write_slowly)
    in_a_thread(binding.release)

    assert [True] == open_meanwhile
    assert before == set(open_descriptors())


@with_bells
@on_asyncio
async def test_a_bell_that_has_been_finalized_wakes_nobody_and_harms_nobody() -> None:
    """As the finalizers of garbage come in any order."""
    binding = current_binding()
    wake_ups = binding._wake_ups
    assert isinstance(wake_ups, BellWakeUps)
    bell = wake_ups._bell()
    assert bell is not None
    number, bell.eventfd.number = bell.eventfd.number, -1
    in_a_thread(binding.release)
    bell.eventfd.number = number

    assert not wake_ups.due
    assert wake_ups.silent


@with_bells
@on_asyncio
async def test_a_bell_that_was_heard_already_serves_all_the_same() -> None:
    """As where a loop runs inside a callback of itself, and hears it first."""
    woken: list[None] = []
    binding = current_binding()
    binding.wake = lambda: woken.append(None)
    wake_ups = binding._wake_ups
    assert isinstance(wake_ups, BellWakeUps)
    bell = wake_ups._bell()
    assert bell is not None
    wake_ups.due.append(binding)
    bell()

    assert [None] == woken


@with_bells
def test_where_no_descriptor_is_left_the_loop_is_woken_by_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    async def main() -> None:
        token = CancelToken()
        with move_on_cancel(token) as scope:
            thread = threading.Thread(target=token.cancel)
            thread.start()
            await anyio.sleep_forever()
        thread.join()
        assert scope.cancelled_caught
        assert AsyncioWakeUps is type(current_binding()._wake_ups)

    monkeypatch.setattr(os, "eventfd", full)
    asyncio.run(main())


@with_bells
def test_a_loop_that_takes_no_descriptor_keeps_none_open() -> None:
    async def main() -> None:
        before = set(open_descriptors())
        assert AsyncioWakeUps is type(current_binding()._wake_ups)
        assert before == set(open_descriptors())

    run_on(WITHOUT_DESCRIPTORS, main)


@with_bells
def test_a_loop_that_goes_on_in_another_thread_is_woken_there() -> None:
    async def bind() -> None:
        current_binding()

    async def wait() -> None:
        with move_on_cancel(token) as scope:
            waiting.set()
            await asyncio.sleep(60)
        assert scope.cancelled_caught
        ended.append("caught")

    token, waiting, ended = CancelToken(), threading.Event(), list[str]()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(bind())
    thread = threading.Thread(target=loop.run_until_complete, args=(wait(),))
    thread.start()
    waiting.wait()
    token.cancel()  # here the loop was made
    thread.join()
    loop.close()

    assert ["caught"] == ended


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
