"""A hundred thousand runs in one process: what is there at the end that was not there at the beginning.

    python -m benchmarks.bench_endurance [--runs 100000]

Runs of blocking agents and of agents on trio and asyncio, with tools; whole, stopped at a random entry by a token, by a
handle in each of its modes, by the runtime's own cancellation; streams that are left early. All of them stand below one
token that lives on. One run in `EVERY` is asked over a real connection to a strict fake, the others are answered from
memory. After each tenth it prints what is there. It ends with status 1 if registrations, threads, file descriptors,
Python's objects or the memory in use are not where they were after the first tenth, which warms up. What the process
holds beyond what is in use is the allocator's affair; it may grow by `RESIDENT_GROWTH_KIB`.

Left out: the store, the local model, TLS; many runs at once, which `bench_many` has.
"""

import argparse
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
from tests.memory import COUNTED, Memory

EVERY: Final = 20
GROWTH_KIB: Final = 256
"""Chosen by hand: the addresses that `OBJECTS` speaks of, some 1.3 KiB each. Without them, 100,000 runs that left 3
bytes each would be over it."""

RESIDENT_GROWTH_KIB: Final = 4096
"""Chosen by hand: what lies free between what is in use."""

OBJECTS: Final = 128
"""How many objects more or fewer are no run's: `urllib.parse` remembers so many addresses; each fake has others."""

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
    memory: Memory

    @classmethod
    def now(cls, root: CancelToken) -> "Left":
        memory = Memory.now()
        stats = root.stats()
        return cls(
            stats.registrations + stats.children + stats.waiting,
            threading.active_count(),
            len(open_descriptors()),
            memory,
        )

    def is_like(self, first: "Left") -> bool:
        """Whether nothing has been left since."""
        return (
            (self.registrations, self.threads, self.descriptors)
            == (first.registrations, first.threads, first.descriptors)
            and abs(self.memory.objects - first.memory.objects) <= OBJECTS
            and (self.memory.in_use_kib or 0) - (first.memory.in_use_kib or 0) <= GROWTH_KIB
            and self.memory.resident_kib - first.memory.resident_kib <= RESIDENT_GROWTH_KIB
        )

    def __str__(self) -> str:
        memory = self.memory
        return (
            f"{self.registrations:13} {self.threads:8} {self.descriptors:12} {memory.objects:9}"
            f" {memory.in_use_kib or '?':>11} {memory.resident_kib:13}"
        )


def endure(count: int) -> Sequence[Left]:
    """Make so many runs, and print what there is after each tenth.

    Args:
        count: how many.

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
        print(f"{done:8} {left} {time.perf_counter() - began_at:8.1f}", flush=True)
    print(f"what became of them: {dict(sorted(runs.statuses.items()))}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make many runs and see what they leave.")
    parser.add_argument("--runs", type=int, default=100_000)
    options = parser.parse_args()
    if not COUNTED.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **COUNTED})
    print(describe_machine(), flush=True)
    print(
        f"{'runs':>8} {'registrations':>13} {'threads':>8} {'descriptors':>12} {'objects':>9} {'KiB in use':>11}"
        f" {'resident':>13} {'seconds':>8}"
    )
    found = endure(options.runs)
    return 0 if found[-1].is_like(found[0]) else 1


if __name__ == "__main__":
    sys.exit(main())
