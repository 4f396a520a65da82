"""What the tests of tasks share: running on each runtime, cancelling from everywhere, proof that nothing is left.

anyio's own pytest plugin runs trio as a guest, which keeps a thread; here it has the main thread for itself.
"""

import asyncio
import functools
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio
import uvloop

from cancel_token import CancelToken
from cancel_token.signals import cancel_on_signals


def living_tasks() -> int:
    """How many tasks the current loop has, the runtime's own included."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def settled() -> None:
    """Let the loop do what it was asked for: what the last stream has left is given back in one of its next turns."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


class LoopWithoutDescriptors(asyncio.SelectorEventLoop):
    """Waits for none but its own, as do loops that others have written, and asyncio's on Windows."""

    def add_reader(self, *_: object) -> NoReturn:
        raise NotImplementedError


NewLoop = Callable[[], asyncio.AbstractEventLoop]

WITHOUT_DESCRIPTORS = "asyncio without descriptors"
LOOPS: dict[str, NewLoop] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    WITHOUT_DESCRIPTORS: LoopWithoutDescriptors,
}
"""What runs asyncio's tasks: its own loop; what most servers use, whose every part is written anew, in C; and the
least that there is.
"""

on_each_loop_of_asyncio = pytest.mark.parametrize(
    "new_loop", [LOOPS["asyncio"], LOOPS["uvloop"]], ids=["asyncio", "uvloop"]
)
"""For tests that close a loop by hand, or do with it what no runner does."""


def run_on(runtime: str, fn: Callable[[], Awaitable[None]]) -> None:
    """Run `fn` on `"trio"` or one of `LOOPS`; a task that it leaves behind is a failure."""

    async def checked() -> None:
        before = living_tasks()
        await fn()
        await settled()
        assert before == living_tasks()

    if runtime == "trio":
        anyio.run(checked, backend="trio")
    else:
        anyio.run(checked, backend="asyncio", backend_options={"loop_factory": LOOPS[runtime]})


def on_each_runtime(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of an async test one with three ids, `trio`, `asyncio` and `uvloop`."""
    return _on(["trio", "asyncio", "uvloop"], test)


def on_each_way_to_ring(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of an async test one with four ids: an asyncio loop is woken by a bell, or, if it must, by its entry."""
    return _on(["trio", *LOOPS], test)


def on_asyncio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of an async test one with two ids, `asyncio` and `uvloop`."""
    return _on(["asyncio", "uvloop"], test)


def _on(runtimes: list[str], test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*, runtime: str, **arguments: object) -> None:
        run_on(runtime, functools.partial(test, **arguments))

    signature = inspect.signature(test)
    runtime = inspect.Parameter("runtime", inspect.Parameter.KEYWORD_ONLY)
    decorated: Any = run
    decorated.__signature__ = signature.replace(parameters=[*signature.parameters.values(), runtime])
    made: Callable[..., None] = pytest.mark.parametrize("runtime", runtimes)(decorated)
    return made


def cancel_in_the_task(token: CancelToken) -> Callable[[], None]:
    token.cancel("from the task itself")
    return lambda: None


def cancel_in_the_loop(token: CancelToken) -> Callable[[], None]:
    if sniffio.current_async_library() == "trio":
        trio.lowlevel.current_trio_token().run_sync_soon(token.cancel)
    else:
        asyncio.get_running_loop().call_soon(token.cancel)
    return lambda: None


def cancel_in_a_thread(token: CancelToken) -> Callable[[], None]:
    thread = threading.Thread(target=token.cancel)
    thread.start()
    return thread.join


def cancel_in_a_signal_handler(token: CancelToken) -> Callable[[], None]:
    """The handler interrupts the main thread wherever it is, most likely where the loop waits for events."""
    block = cancel_on_signals(token, signal.SIGUSR1)
    block.__enter__()
    thread = threading.Thread(
        target=signal.pthread_kill, args=(threading.main_thread().ident, signal.SIGUSR1)
    )
    thread.start()

    def clean_up() -> None:
        thread.join()
        block.__exit__(None, None, None)

    return clean_up


def cancel_in_a_handler_of_this_line(token: CancelToken) -> Callable[[], None]:
    with cancel_on_signals(token, signal.SIGUSR1):
        signal.raise_signal(signal.SIGUSR1)
    return lambda: None


everywhere = pytest.mark.parametrize(
    "cancel_somewhere",
    [
        cancel_in_the_task,
        cancel_in_the_loop,
        cancel_in_a_thread,
        cancel_in_a_signal_handler,
        cancel_in_a_handler_of_this_line,
    ],
)
