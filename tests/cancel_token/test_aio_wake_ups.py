"""How threads wake the tasks of a loop: one rings for all of them, and whatever comes in between loses no wake-up."""

import asyncio
import contextvars
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from weakref import ref

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import uvloop
from trio._core._wakeup_socketpair import WakeupSocketpair

from cancel_token import CancelToken
from cancel_token._aio_asyncio import HAS_EVENTFD, AsyncioWakeUps, BellWakeUps, _Bell, _Eventfd
from cancel_token._aio_binding import Binding, current_binding, nobody
from cancel_token.aio import move_on_cancel, wait_cancelled
from cancel_token.loops import Sleeper
from tests.cancel_token.injection import Injector, Place, bytecodes, monitoring
from tests.cancel_token.loops import (
    LOOPS,
    WITHOUT_DESCRIPTORS,
    NewLoop,
    on_asyncio,
    on_each_loop_of_asyncio,
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


async def bind() -> Binding:
    return current_binding()


async def what_a_task_does_that_cancels_itself() -> list[str]:
    done: list[str] = []
    token = CancelToken()
    with move_on_cancel(token) as scope:
        token.cancel()
        await asyncio.sleep(0)
        done.append("passed a checkpoint")
    if scope.cancelled_caught:
        done.append("cancelled")
    return done


def bell_of(binding: Binding) -> _Bell:
    wake_ups = binding._wake_ups
    assert isinstance(wake_ups, BellWakeUps)
    bell = wake_ups._bell()
    assert bell is not None
    return bell


async def places_of(operation: Callable[[], object], thread: str) -> list[Place]:
    places: list[Place] = []
    await run_in(thread, lambda: places.extend(bytecodes(lambda: operation)))
    return places


def count_rings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    rings: list[None] = []
    ways: list[tuple[object, str]] = [
        (trio.lowlevel.TrioToken, "run_sync_soon"),
        (asyncio.BaseEventLoop, "call_soon_threadsafe"),
        (uvloop.Loop, "call_soon_threadsafe"),
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
async def test_what_fails_each_time_is_tried_once_more_and_takes_nobody_elses_with_it() -> None:
    woken: list[str] = []
    first, second = current_binding(), current_binding()
    second.wake = lambda: woken.append("second")

    def fail() -> None:
        woken.append("first")
        raise ArithmeticError("a defect")

    first.wake = fail
    first.release()
    second.release()
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            first._wake_ups.serve()
    await come_by()

    assert ["first", "first", "second"] == woken
    first.wake = nobody
    first.release()
    await come_by()
    assert first._wake_ups.struck is None


@on_each_way_to_ring
async def test_who_is_interrupted_while_waking_others_goes_on_afterwards() -> None:
    """By whatever a signal handler raises."""
    woken: list[int] = []

    def prepare() -> Callable[[], object]:
        woken.clear()
        for number in range(2):
            binding = current_binding()
            binding.wake = partial(woken.append, number)
            binding._wake_ups.due.append(binding)
        return binding._wake_ups.serve

    def interrupt() -> None:
        raise TimeoutError

    with monitoring():
        for place in bytecodes(prepare)[1:]:  # the first is that of its `try`
            await come_by()
            serve = prepare()
            with pytest.raises(TimeoutError):
                Injector(place, interrupt).run(serve)
            await come_by()

            assert {0, 1} == set(woken)


@on_each_way_to_ring
async def test_who_comes_in_between_any_two_bytecodes_of_waking_others_is_woken() -> None:
    woken: set[str] = set()

    def bound(name: str) -> Binding:
        binding = current_binding()
        binding.wake = lambda: woken.add(name)
        return binding

    def prepare() -> Callable[[], object]:
        """As it is when somebody has rung."""
        first = bound("first")
        first._wake_ups.silent = False
        first._wake_ups.due.append(first)
        return first._wake_ups.serve

    with monitoring():
        for place in bytecodes(prepare):
            await come_by()
            serve, other = prepare(), bound("other")
            woken.clear()
            Injector(place, lambda: in_a_thread(other.release)).run(serve)  # noqa: B023  # at once
            await come_by()

            assert {"first", "other"} == woken


@on_each_way_to_ring
async def test_a_loop_that_serves_in_between_any_two_bytecodes_of_ringing_misses_nobody() -> None:
    woken: list[None] = []
    binding = current_binding()
    binding.wake = lambda: woken.append(None)
    wake_ups = binding._wake_ups

    def prepare() -> Callable[[], object]:
        wake_ups.silent = False  # as when somebody else has rung, who is about to be heard
        return binding.release

    with monitoring():
        for place in bytecodes(prepare):
            wake_ups.serve()
            woken.clear()
            Injector(place, wake_ups.serve).run(prepare())
            await come_by()

            assert woken


@on_each_way_to_ring
async def test_who_is_woken_again_and_again_leaves_the_loop_its_turns() -> None:
    binding = current_binding()
    woken: list[None] = []

    def wake() -> None:
        woken.append(None)
        if len(woken) < SLEEPERS:
            binding.release()

    binding.wake = wake
    binding.release()
    binding._wake_ups.serve()
    assert [None] == woken
    while len(woken) < SLEEPERS:
        await anyio.lowlevel.checkpoint()


def test_a_thread_may_ring_while_trio_serves_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left in its queue trio calls when it takes nothing more."""
    bindings: list[Binding] = []

    async def main() -> None:
        bindings.extend((current_binding(), current_binding()))
        bindings[0].wake = lambda: in_a_thread(bindings[1].release)
        await come_by()

    wait_woken = WakeupSocketpair.wait_woken

    async def ring_when_it_ends(self: WakeupSocketpair) -> None:
        try:
            await wait_woken(self)
        except trio.Cancelled:
            in_a_thread(bindings[0].release)
            raise

    monkeypatch.setattr(WakeupSocketpair, "wait_woken", ring_when_it_ends)
    trio.run(main)

    assert not bindings[0]._wake_ups.due


@pytest.mark.parametrize("runtime", ["trio", *LOOPS])
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


@on_asyncio
async def test_in_the_loops_own_thread_a_stop_comes_at_the_next_checkpoint() -> None:
    assert ["cancelled"] == await what_a_task_does_that_cancels_itself()


@on_each_loop_of_asyncio
def test_in_a_loop_that_goes_on_in_another_thread_it_does_so_too(new_loop: NewLoop) -> None:
    async def main() -> None:
        done.append(await what_a_task_does_that_cancels_itself())

    done: list[list[str]] = []
    loop = new_loop()
    loop.run_until_complete(main())
    in_a_thread(lambda: loop.run_until_complete(main()))
    loop.close()

    assert [["cancelled"]] * 2 == done


@on_asyncio
async def test_the_loop_keeps_nothing_of_whoever_uses_a_token_first(without_gc: None) -> None:
    """asyncio keeps the context in which it was asked to wait for a descriptor."""

    class Request:
        pass

    async def serve() -> ref[Request]:
        request = Request()
        variable.set(request)
        sleeper = Sleeper()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"x")
            if sleeper.can_wait_readable:
                await sleeper.wait_readable(ours.fileno(), nobody)
        return ref(request)

    variable: contextvars.ContextVar[Request] = contextvars.ContextVar("the request")
    request = await asyncio.create_task(serve())
    await come_by()

    assert request() is None


@with_bells
@on_asyncio
async def test_a_bell_that_was_heard_is_silent_and_no_child_process_inherits_it() -> None:
    awake: list[None] = []
    binding = current_binding()
    binding.wake = lambda: awake.append(None)
    in_a_thread(binding.release)
    await come_by()
    number = bell_of(binding).fileno()

    assert [None] == awake
    with pytest.raises(BlockingIOError):
        os.eventfd_read(number)
    assert not os.get_inheritable(number)


@with_bells
@on_asyncio
async def test_who_rings_while_others_are_woken_is_heard_next() -> None:
    awake: list[str] = []
    first, second = current_binding(), current_binding()

    def wake_first() -> None:
        awake.append("first")
        in_a_thread(second.release)

    first.wake, second.wake = wake_first, lambda: awake.append("second")
    in_a_thread(first.release)
    await come_by()

    assert ["first", "second"] == awake


@with_bells
@on_asyncio
@pytest.mark.parametrize("when", ["before it is rung", "when it is rung"])
async def test_a_bell_that_is_taken_away_is_done_without(when: str) -> None:
    """By whoever closes a descriptor and then has the loop read its number no more, when that is the bell's."""
    awake: list[None] = []
    binding = current_binding()
    binding.wake = lambda: awake.append(None)
    number = bell_of(binding).fileno()
    if when == "when it is rung":
        in_a_thread(binding.release)
    asyncio.get_running_loop().remove_reader(number)
    if when == "before it is rung":
        in_a_thread(binding.release)
    await come_by()

    assert [None] == awake


@with_bells
@on_each_loop_of_asyncio
def test_a_loop_that_is_closed_when_it_is_rung_is_not_kept(new_loop: NewLoop, without_gc: None) -> None:
    loop = new_loop()
    binding = loop.run_until_complete(bind())
    in_a_thread(binding.release)
    loop.close()
    closed = ref(loop)
    del binding, loop

    assert closed() is None


@with_bells
def test_a_number_is_given_back_only_when_nobody_can_ask_for_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    class Watched(_Eventfd):
        __slots__ = ()

        def __del__(self) -> None:
            with monkeypatch.context() as context:
                context.setattr(os, "close", self.watch)
                super().__del__()

        def watch(self, number: int) -> None:
            seen.append(self.number)
            close(number)

    close = os.close
    eventfd = Watched(os.eventfd(0), asyncio.run(bind())._wake_ups)
    del eventfd

    assert [-1] == seen


@with_bells
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_leaves_what_was_rung_to_its_parent() -> None:
    program = """
import asyncio, os, threading, warnings
from cancel_token._aio_binding import current_binding

warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*multi-threaded.*")

async def main():
    awake = []
    binding = current_binding()
    binding.wake = lambda: awake.append(None)
    thread = threading.Thread(target=binding.release)
    thread.start()
    thread.join()
    process = os.fork()
    if process != 0:
        assert 0 == os.waitpid(process, 0)[1]
    for _ in range(5):
        await asyncio.sleep(0)
    if process == 0:
        os._exit(len(awake))
    assert [None] == awake

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@with_bells
@on_asyncio
async def test_a_ctrl_c_while_the_loop_hears_the_bell_loses_nobody() -> None:
    woken: list[None] = []

    def ring() -> Callable[[], object]:
        """Ring in another thread; the loop has not heard it when this returns."""
        binding = current_binding()
        binding.wake = lambda: woken.append(None)
        in_a_thread(binding.release)
        return bell_of(binding)

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
@on_each_loop_of_asyncio
def test_the_bell_goes_when_its_loop_is_closed_and_whoever_rings_late_writes_to_nobody_else(
    new_loop: NewLoop,
) -> None:
    before = set(open_descriptors())
    loop = new_loop()
    binding = loop.run_until_complete(bind())
    number = bell_of(binding).fileno()
    loop.close()
    assert before == set(open_descriptors())

    another = os.memfd_create("another")
    if another != number:
        os.dup2(another, number)
        os.close(another)
    in_a_thread(binding.release)
    assert 0 == os.fstat(number).st_size
    os.close(number)

    assert not binding._wake_ups.due


@with_bells
@on_each_loop_of_asyncio
def test_a_loop_that_is_closed_while_somebody_rings_keeps_the_number_until_then(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(number: int, value: int) -> None:
        loop.close()
        open_meanwhile.append(number in open_descriptors())
        write(number, value)

    open_meanwhile: list[bool] = []
    write = os.eventfd_write
    before = set(open_descriptors())
    loop = new_loop()
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
    bell, wake_ups = bell_of(binding), binding._wake_ups
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
    binding._wake_ups.due.append(binding)
    bell_of(binding)()

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
@on_each_loop_of_asyncio
def test_a_loop_that_goes_on_in_another_thread_is_woken_there(new_loop: NewLoop) -> None:
    async def wait() -> None:
        with move_on_cancel(token) as scope:
            waiting.set()
            await asyncio.sleep(60)
        assert scope.cancelled_caught
        ended.append("caught")

    token, waiting, ended = CancelToken(), threading.Event(), list[str]()
    loop = new_loop()
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
