"""Tasks that wait for descriptors: one descriptor of the loop's serves them all."""

import asyncio
import errno
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import pytest
import trio

from cancel_token._aio_binding import current_binding
from cancel_token._aio_readiness import IS_SUPPORTED
from cancel_token.loops import Sleeper
from tests.cancel_token.loops import NewLoop, on_each_loop_of_asyncio, on_each_runtime, settled
from tests.cancel_token.stalling import open_descriptors

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="there is no epoll")


def never_lost() -> None:
    raise AssertionError("nobody closes this loop")


@contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def read(sock: socket.socket) -> bytes:
    sleeper = Sleeper()
    try:
        while True:
            try:
                return sock.recv(100)
            except BlockingIOError:
                await sleeper.wait_readable(sock.fileno(), never_lost)
    finally:
        sleeper.leave_readiness()


@on_each_runtime
async def test_a_task_is_woken_when_its_descriptor_can_be_read() -> None:
    said = []

    async def listen(sock: socket.socket) -> None:
        said.append(await read(sock))

    with a_pair() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, ours)
            await settled()
            assert [] == said
            theirs.send(b"hello")

    assert [b"hello"] == said


@on_each_runtime
async def test_one_descriptor_serves_all_and_goes_with_the_last() -> None:
    with a_pair() as (first, at_first), a_pair() as (second, at_second):
        current_binding()  # the loop's bell stays
        gc.collect()  # what other tests have left is not to go meanwhile
        before = set(open_descriptors())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, first)
            tasks.start_soon(read, second)
            await settled()
            assert 1 == len(set(open_descriptors()) - before)
            at_first.send(b"1")
            await settled()
            assert 1 == len(set(open_descriptors()) - before)
            at_second.send(b"2")
        await settled()
        assert before == set(open_descriptors())


@on_each_runtime
async def test_who_is_cancelled_is_not_woken_any_more() -> None:
    with a_pair() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, ours)
            await settled()
            tasks.cancel_scope.cancel()
        theirs.send(b"too late")
        await settled()

        assert b"too late" == await read(ours)


@on_each_runtime
async def test_a_number_that_was_given_away_wakes_who_has_it_now() -> None:
    said = []

    async def listen(sock: socket.socket) -> None:
        said.append(await read(sock))

    with a_pair() as (kept, at_kept):  # so that what they share is not closed between the two
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, kept)
            with a_pair() as (old, at_old), old.dup():  # which keeps the old one armed
                number = old.fileno()
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(read, old)
                    await settled()
                    waiting.cancel_scope.cancel()
                with a_pair() as (new, theirs):
                    os.dup2(new.fileno(), old.detach())
                    with socket.socket(fileno=number) as ours:
                        tasks.start_soon(listen, ours)
                        await settled()
                        at_old.send(b"for the old one")
                        await settled()
                        assert [] == said
                        theirs.send(b"for the new one")
                        await settled()
            at_kept.send(b"done")

    assert [b"for the new one"] == said


@on_each_runtime
async def test_who_is_woken_by_others_may_wait_again() -> None:
    said = []
    sleeper: list[Sleeper] = []

    async def listen(sock: socket.socket) -> None:
        sleeper.append(Sleeper())
        await sleeper[0].wait_readable(sock.fileno(), never_lost)
        said.append("woken")
        await sleeper[0].wait_readable(sock.fileno(), never_lost)
        said.append("readable")
        sleeper[0].leave_readiness()

    with a_pair() as (ours, theirs):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, ours)
            await settled()
            sleeper[0].wake()
            await settled()
            assert ["woken"] == said
            theirs.send(b"x")

    assert ["woken", "readable"] == said


@on_each_loop_of_asyncio
def test_who_waits_in_a_loop_that_is_closed_by_hand_is_told(new_loop: NewLoop) -> None:
    lost = []
    gc.collect()  # as above
    before = set(open_descriptors())

    async def wait(sock: socket.socket) -> None:
        await Sleeper().wait_readable(sock.fileno(), lambda: lost.append("lost"))

    with a_pair() as (ours, _):
        loop = new_loop()
        task = loop.create_task(wait(ours))
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert ["lost"] == lost
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # as it is meant
        del task, loop

    assert before == set(open_descriptors())


@on_each_loop_of_asyncio
def test_a_ctrl_c_while_some_are_woken_loses_nobody(new_loop: NewLoop) -> None:
    woken = []

    async def wait(sock: socket.socket) -> None:
        sleeper = Sleeper()
        await sleeper.wait_readable(sock.fileno(), never_lost)
        woken.append(sock)
        sleeper.leave_readiness()

    with a_pair() as (first, at_first), a_pair() as (second, at_second):

        async def main() -> None:
            waiting = [asyncio.create_task(wait(sock)) for sock in (first, second)]
            await settled()
            readiness = current_binding()._wake_ups.readiness
            assert readiness is not None
            struck = next(iter(readiness.users))
            wake = struck.wake

            def strike() -> None:
                struck.wake = wake
                wake()
                raise KeyboardInterrupt

            struck.wake = strike
            for sock in (at_first, at_second):
                sock.send(b"x")
            await asyncio.wait(waiting)

        loop = new_loop()
        try:
            task = loop.create_task(main())
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(task)
            loop.run_until_complete(task)
        finally:
            loop.close()

        assert {first, second} == set(woken)


def test_a_loop_that_once_takes_no_descriptor_may_take_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the system watches enough")

    async def main() -> None:
        with a_pair() as (ours, theirs):
            with monkeypatch.context() as context:
                context.setattr(asyncio.get_running_loop(), "add_reader", full)
                with pytest.raises(OSError, match="watches enough"):
                    await read(ours)
            theirs.send(b"now")
            sleeper = Sleeper()
            await sleeper.wait_readable(ours.fileno(), never_lost)
            sleeper.leave_readiness()
            assert b"now" == ours.recv(10)

    asyncio.run(main())


def test_a_shielded_task_waits_on_while_trio_ends() -> None:
    woken = []

    with a_pair() as (ours, theirs):

        async def wait() -> None:
            with trio.CancelScope(shield=True):
                for _ in range(2):  # the first may end for no reason at all
                    await Sleeper().wait_readable(ours.fileno(), never_lost)
                woken.append(ours.recv(10))

        async def goodbye() -> None:
            try:
                await trio.sleep_forever()
            finally:
                theirs.send(b"x")

        async def main() -> None:
            trio.lowlevel.spawn_system_task(wait)
            trio.lowlevel.spawn_system_task(goodbye)
            await settled()

        trio.run(main)

    assert [b"x"] == woken
