"""Where an agent runs: a thread, a task of trio, a task of asyncio. `WORLDS` says how to start a run in each.

In a task there are two ways: a run with a subscriber has a thread, and the task waits for it; a run that the task reads
itself is driven by the loop while the model speaks.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import frozen

from aiwrapper import AsyncChatAgent, ChatAgent
from aiwrapper._core.log import Sink
from aiwrapper.drivers.aio import AsyncEntries
from benchmarks import bench_aio
from benchmarks._phases import Times, Work
from cancel_token import CancelToken
from tests.cancel_token.stalling import Call

AnyAgent = ChatAgent | AsyncChatAgent
Start = Callable[[AnyAgent, str, CancelToken | None, Sequence[Sink]], Work]


@frozen
class World:
    """A way to run agents.

    Args:
        name: For people.
        agent: Their class.
        open: Gives what starts a run; the loop, where there is one, is there for all of them.
        wake_up: What its loop takes to wake up, and nothing else: of so many repeats; None where there is no loop.
    """

    name: str
    agent: type[ChatAgent] | type[AsyncChatAgent]
    open: Callable[[], contextlib.AbstractContextManager[Start]]
    wake_up: Callable[[int], Times] | None = None


@contextlib.contextmanager
def in_threads() -> Iterator[Start]:
    def start(agent: AnyAgent, said: str, token: CancelToken | None, subscribers: Sequence[Sink]) -> Work:
        assert isinstance(agent, ChatAgent)
        return Call(partial(agent.run, said, token=token, subscribers=subscribers))

    yield start


class Task:
    """A run that is awaited in a loop, and when that was over."""

    def __init__(self, portal: BlockingPortal, run: Callable[[], Awaitable[Any]]) -> None:
        self.ended_at = 0.0  # time.perf_counter
        self._run = run
        self._portal = portal
        self._future: Future[Any] = portal.start_task_soon(self._await)

    async def _await(self) -> Any:
        try:
            return await self._run()
        finally:
            self.ended_at = time.perf_counter()

    def join(self) -> "Task":
        self.result = self._future.result()
        # Two turns of the loop later it has closed what it waits with for the descriptors of its tasks (`Readiness`).
        self._portal.call(anyio.wait_all_tasks_blocked)
        return self


@contextlib.contextmanager
def in_a_loop(backend: str, *, read: bool) -> Iterator[Start]:
    with start_blocking_portal(backend) as portal:

        def start(agent: AnyAgent, said: str, token: CancelToken | None, subscribers: Sequence[Sink]) -> Work:
            assert isinstance(agent, AsyncChatAgent)
            if read:
                return Task(portal, partial(_read, agent.stream(said, token=token), subscribers))
            return Task(portal, partial(agent.run, said, token=token, subscribers=subscribers))

        yield start


async def _read(entries: AsyncEntries, told: Sequence[Sink]) -> None:
    async with contextlib.aclosing(entries):
        async for entry in entries:
            for each in told:
                each.append(entry)


def loop_wake_up(backend: str, repeats: int) -> Times:
    """From a thread that calls the loop's own thread-safe entry to the task behind its scope."""
    new_bare = bench_aio.bare_trio if backend == "trio" else bench_aio.bare_asyncio

    async def measure() -> list[float]:
        with bench_aio.Alarm() as alarm:
            return [await bench_aio.wake_latency(alarm, *new_bare()) for _ in range(repeats)]

    times = Times.of(anyio.run(measure, backend=backend))
    assert times is not None
    return times


def _in_tasks(backend: str) -> Iterator[World]:
    wake_up = partial(loop_wake_up, backend)
    yield World(backend, AsyncChatAgent, partial(in_a_loop, backend, read=False), wake_up)
    yield World(f"{backend}, read", AsyncChatAgent, partial(in_a_loop, backend, read=True), wake_up)


WORLDS = (World("threads", ChatAgent, in_threads), *_in_tasks("trio"), *_in_tasks("asyncio"))
