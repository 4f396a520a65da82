"""Tokens of tasks seen from outside: loops that have ended, several loops, no loop at all."""

import contextvars
import signal
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import pytest
import trio

import cancel_token
from cancel_token import CancelToken
from cancel_token.aio import move_on_cancel
from cancel_token.loops import Loop
from tests.cancel_token.loops import on_each_runtime


def test_outside_of_a_task_the_scopes_say_what_they_need() -> None:
    token = CancelToken()
    with pytest.raises(RuntimeError, match="inside a task"), move_on_cancel(token):
        raise AssertionError("entered")

    assert 0 == token.stats().waiting


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_token_may_be_cancelled_when_the_loop_is_gone(backend: str) -> None:
    """T-S13: a callback that is still there finds a closed loop, and ignores it."""
    token = CancelToken()

    async def leave_open() -> None:
        scopes.append(move_on_cancel(token))
        scopes[0].__enter__()  # never left: what a torn-down loop leaves behind

    scopes: list[move_on_cancel] = []
    anyio.run(leave_open, backend=backend)
    assert 1 == token.stats().waiting

    assert token.cancel()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_one_token_stops_several_loops_and_threads(backend: str) -> None:
    token = CancelToken()
    ready = threading.Barrier(4)
    stopped = []

    async def in_task() -> None:
        with move_on_cancel(token) as scope:
            ready.wait()  # blocks this loop, which has no other task
            await anyio.sleep_forever()
        stopped.append(scope.cancelled_caught)

    def in_thread() -> None:
        with cancel_token.move_on_cancel(token) as scope:
            ready.wait()
            token.sleep(60)
        stopped.append(scope.cancelled_caught)

    threads = [
        threading.Thread(target=anyio.run, args=(in_task,), kwargs={"backend": backend}),
        threading.Thread(target=anyio.run, args=(in_task,), kwargs={"backend": "asyncio"}),
        threading.Thread(target=in_thread),
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    token.cancel()
    for thread in threads:
        thread.join()

    assert [True] * 3 == stopped


@pytest.mark.parametrize(("backend", "other"), [("asyncio", "trio"), ("trio", "anyio._backends._asyncio")])
def test_only_the_runtime_in_use_is_loaded(backend: str, other: str) -> None:
    program = f"""
import sys, threading
import anyio
from cancel_token import CancelToken
from cancel_token.aio import move_on_cancel, run_sync

async def main():
    token = CancelToken()
    await run_sync(lambda *, token: None, token=token)
    with move_on_cancel(token):
        token.cancel()
        await anyio.sleep_forever()

assert "trio" not in sys.modules
anyio.run(main, backend={backend!r})
assert {other!r} not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_ctrl_c_in_a_trio_task_is_left_alone() -> None:
    async def main() -> None:
        with move_on_cancel(token):
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

    token = CancelToken()
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)

    assert not token.cancelled
    assert 0 == token.stats().waiting


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_forked_child_does_not_call_into_its_parents_loop(backend: str) -> None:
    """T-S18: the loop's wake-up socket is the parent's, and a lock of it may be held by a thread that stayed there."""
    program = f"""
import asyncio, os, warnings
import anyio, anyio.lowlevel, trio
from cancel_token import CancelToken
from cancel_token.aio import move_on_cancel

warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*multi-threaded.*")

def refuse(*arguments, **options):
    os._exit(3)

async def main():
    token = CancelToken()
    with move_on_cancel(token) as scope:
        process = os.fork()
        if process == 0:
            trio.lowlevel.TrioToken.run_sync_soon = refuse
            asyncio.BaseEventLoop.call_soon_threadsafe = os.eventfd_write = refuse
            os._exit(0 if token.cancel() else 1)
        assert 0 == os.waitpid(process, 0)[1]
        await anyio.lowlevel.checkpoint()
        assert not token.cancelled
        token.cancel()
        await anyio.sleep_forever()
    assert scope.cancelled_caught

anyio.run(main, backend={backend!r})
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@on_each_runtime
async def test_a_task_that_another_thread_starts_runs_and_is_not_lost() -> None:
    loop, ran = Loop(), anyio.Event()
    lost: list[str] = []

    async def run() -> None:
        ran.set()

    def start() -> None:
        loop.start_soon(run, context=contextvars.copy_context(), name="it", lost=lambda: lost.append("it"))

    thread = threading.Thread(target=start)
    thread.start()
    await ran.wait()
    thread.join()
    await anyio.lowlevel.checkpoint()

    assert lost == []


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
@pytest.mark.parametrize("when", ["as it ends", "when it has ended"])
def test_a_task_that_its_loop_cannot_begin_any_more_is_lost(runtime: str, when: str) -> None:
    loops: list[Loop] = []
    lost: list[str] = []

    async def run() -> None:
        await anyio.sleep_forever()

    def start() -> None:
        loops[0].start_soon(
            run, context=contextvars.copy_context(), name="it", lost=lambda: lost.append("it")
        )

    async def start_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            start()

    async def main() -> None:
        loops.append(Loop())
        if when == "as it ends":
            if runtime == "trio":
                trio.lowlevel.spawn_system_task(start_at_the_end)
                await anyio.lowlevel.checkpoint()
            else:
                start()

    anyio.run(main, backend=runtime)
    if when == "when it has ended":
        start()

    assert lost == ["it"]
