"""A hundred thousand runs in one process: what is there at the end that was not there at the beginning.

    python -m benchmarks.bench_endurance [--runs 100000]

Runs of blocking agents and of agents on trio and asyncio, with tools; whole, stopped at a random entry by a token, by a
handle in each of its modes, by the runtime's own cancellation; streams that are left early. All of them stand below one
token that lives on. One run in `EVERY` is asked over a real connection to a strict fake, the others are answered from
memory. After each tenth it prints what is there. It ends with status 1 if registrations, threads, file descriptors or
Python's objects are not where they were after the first tenth, which warms up, or if the memory of the process has
grown by more than `GROWTH_KIB`.

Left out: the store, the local model, TLS; many runs at once, which `bench_many` has.
"""

import argparse
import ctypes
import gc
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Final

import anyio
import anyio.lowlevel
import attrs
import psutil

from aiwrapper import (
    AsyncChatAgent,
    CancelToken,
    ChatAgent,
    Conversation,
    Entry,
    Lang,
    RunResult,
    StopMode,
    tool,
)
from aiwrapper.testing import Call, FakeProvider, RecordedTransport, Recording, Say, Turn, render
from aiwrapper.transport import HttpTransport, Transport
from benchmarks._phases import describe_machine
from tests.cancel_token.stalling import open_descriptors

EVERY: Final = 20
GROWTH_KIB: Final = 4096.0
"""Chosen by hand: the allocator's fragments. Of 100,000 runs that left 50 bytes each it would be over."""

OBJECTS: Final = 200
"""How many objects more or fewer are the interpreter's own affair. Chosen by hand: its caches; far below a run each."""

WINDOWS: Final = 10
MODES: Final[tuple[StopMode, ...]] = ("now", "after_step", "after_turn")
SCRIPT: Final = (
    Turn((Say(("It", " rains", " in", " Bern", ".")),)),
    Turn((Say(("Let me see.",)), Call("weather", ('{"ci', 'ty": "Bern"}')))),
    Turn(
        (
            Say(
                ("It", " still", " rains."),
            ),
        )
    ),
)


@tool
def weather(city: str, *, token: CancelToken) -> str:
    """Say what the weather is in a city."""
    token.check()
    return f"rain in {city}"


@tool(name="weather")
async def weather_awaited(city: str) -> str:
    """Say what the weather is in a city."""
    await anyio.lowlevel.checkpoint()
    return f"rain in {city}"


class At:
    """A subscriber that does something at one entry of its run.

    Args:
        place: which one, from 0.
        action: what.
    """

    def __init__(self, place: int, action: Callable[[], object]) -> None:
        self._left = place
        self._action = action

    def append(self, entry: Entry, /) -> None:
        if self._left == 0:
            self._action()
        self._left -= 1


@attrs.define
class Runs:
    """Runs of all kinds, one after the other, below one token."""

    root: CancelToken
    random: random.Random
    statuses: Counter[str] = attrs.field(factory=Counter)

    def told(self, result: RunResult) -> None:
        """Count what became of a run; one that failed is a failure of this benchmark."""
        if result.error is not None and result.status == "failed":
            raise result.error
        self.statuses[result.status] += 1

    def place(self) -> int:
        """Where a run is stopped; some end before that."""
        return self.random.randrange(14)

    def block(self, lang: Lang, count: int) -> None:
        """Runs that block."""
        agent = ChatAgent(lang, [weather])
        for kind in itertools.islice(itertools.cycle(range(4)), count):
            with self.root.child() as token:
                if kind == 0:
                    self.told(agent.run("Hi", token=token, conversation=Conversation()))
                elif kind == 1:
                    stop = At(self.place(), token.cancel)
                    self.told(agent.run("Hi", token=token, conversation=Conversation(), subscribers=[stop]))
                elif kind == 2:
                    with closing(agent.stream("Hi", token=token, conversation=Conversation())) as entries:
                        for _ in itertools.islice(entries, self.place()):
                            pass
                    self.statuses["left early"] += 1
                else:
                    run = agent.start("Hi", token=token, conversation=Conversation())
                    for _ in itertools.islice(run, self.place()):
                        pass
                    run.stop("enough", mode=self.random.choice(MODES))
                    self.told(run.wait())

    async def await_(self, lang: Lang, count: int) -> None:
        """Runs that are awaited."""
        agents = [AsyncChatAgent(lang, [made]) for made in (weather, weather_awaited)]
        for number, kind in enumerate(itertools.islice(itertools.cycle(range(5)), count)):
            agent = agents[number % 2]
            with self.root.child() as token:
                if kind == 0:
                    self.told(await agent.run("Hi", token=token, conversation=Conversation()))
                elif kind == 1:
                    stop = At(self.place(), token.cancel)
                    self.told(
                        await agent.run("Hi", token=token, conversation=Conversation(), subscribers=[stop])
                    )
                elif kind == 2:
                    entries = agent.stream("Hi", token=token, conversation=Conversation())
                    async with aclosing(entries):
                        await _take(entries, self.place())
                    self.statuses["left early"] += 1
                elif kind == 3:
                    async with agent.start("Hi", token=token, conversation=Conversation()) as run:
                        await _take(aiter(run), self.place())
                        run.stop("enough", mode=self.random.choice(MODES))
                        self.told(await run.wait())
                else:
                    with anyio.CancelScope() as scope:
                        entries = agent.stream("Hi", token=token, conversation=Conversation())
                        async with aclosing(entries):
                            await _take(entries, self.place())
                            scope.cancel()
                            await _take(entries, 100)
                    self.statuses["cancelled by the runtime"] += 1


async def _take(entries: AsyncIterator[Entry], count: int) -> None:
    for _ in range(count):
        try:
            await anext(entries)
        except StopAsyncIteration:
            return


@contextmanager
def from_memory() -> Iterator[Lang]:
    """A model whose answers are in memory."""
    transport = RecordedTransport(
        Recording((render(turn, "openai_chat"),)) for turn in itertools.cycle(SCRIPT)
    )
    yield _lang("http://recorded/v1", transport)
    assert transport.open_now == 0


@contextmanager
def over_sockets() -> Iterator[Lang]:
    """A model that is asked over real connections."""
    with (
        FakeProvider("openai_chat", itertools.cycle(SCRIPT)) as fake,
        closing(HttpTransport()) as transport,
    ):
        yield _lang(fake.base_url, transport)


def _lang(base_url: str, transport: Transport) -> Lang:
    return Lang.openai_like(
        base_url=base_url, model="fake-model", api_key="sk-fake-0123456789abcdef", transport=transport
    )


@attrs.frozen
class Left:
    """What there is in the process."""

    registrations: int
    threads: int
    descriptors: int
    objects: int
    memory_kib: float

    @classmethod
    def now(cls, root: CancelToken) -> "Left":
        gc.collect()
        _give_back_free_memory()
        stats = root.stats()
        return cls(
            stats.registrations + stats.children + stats.waiting,
            threading.active_count(),
            len(open_descriptors()),
            len(gc.get_objects()),
            psutil.Process().memory_info().rss / 1024,
        )

    def is_like(self, first: "Left") -> bool:
        """Whether nothing has been left since."""
        return (
            (self.registrations, self.threads, self.descriptors)
            == (first.registrations, first.threads, first.descriptors)
            and abs(self.objects - first.objects) <= OBJECTS
            and self.memory_kib - first.memory_kib <= GROWTH_KIB
        )


def _give_back_free_memory() -> None:
    """Let the process's memory be what is in use: glibc keeps what thousands of threads have freed, in their arenas."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def endure(count: int, say: Callable[[str], object]) -> Sequence[Left]:
    """Make so many runs.

    Args:
        count: how many.
        say: told a line after each tenth.

    Returns:
        What there was after each tenth.
    """
    runs = Runs(CancelToken(), random.Random(5))
    found: list[Left] = []
    done = 0
    for _ in range(WINDOWS):
        began_at = time.perf_counter()
        for model, share in ((from_memory, EVERY - 1), (over_sockets, 1)):
            each = max(1, count * share // (EVERY * WINDOWS * 3))
            with model() as lang:
                runs.block(lang, each)
            for backend in ("trio", "asyncio"):
                with model() as lang:
                    anyio.run(runs.await_, lang, each, backend=backend)
            done += 3 * each
        found.append(left := Left.now(runs.root))
        say(
            f"{done:8} {left.registrations:13} {left.threads:8} {left.descriptors:12} {left.objects:9}"
            f" {left.memory_kib:11,.0f} {time.perf_counter() - began_at:8.1f}"
        )
    say(f"what became of them: {dict(sorted(runs.statuses.items()))}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make many runs and see what they leave.")
    parser.add_argument("--runs", type=int, default=100_000)
    options = parser.parse_args()
    if "MALLOC_ARENA_MAX" not in os.environ:
        # glibc keeps an arena for each of the threads that were alive at once, and each grows for itself: what they
        # keep free would be measured, and not what the runs have left.
        os.execve(sys.executable, sys.orig_argv, os.environ | {"MALLOC_ARENA_MAX": "1"})
    print(describe_machine(), flush=True)
    print(
        f"{'runs':>8} {'registrations':>13} {'threads':>8} {'descriptors':>12} {'objects':>9} {'memory KiB':>11}"
        f" {'seconds':>8}"
    )
    found = endure(options.runs, lambda line: print(line, flush=True))
    return 0 if found[-1].is_like(found[0]) else 1


if __name__ == "__main__":
    sys.exit(main())
