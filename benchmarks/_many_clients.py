"""Thousands of answers read at once in one process, by us and by the official client; a process of its own for
`bench_many`.

    python -m benchmarks._many_clients CONTENDER STREAMS SECONDS PORT

It prints a line when all answers have begun, by which the server lets them go on, and a line of JSON at the end. It
keeps its connections to itself until its standard input ends. CPU is the process's own, the kernel's work for it
included.
"""

import asyncio
import contextlib
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import attrs
import openai
import psutil
from openai import DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionMessageParam

from aiwrapper import AsyncChatAgent, CancelToken, ChatAgent, Conversation, Entry, Lang, TextDelta
from aiwrapper.transport import ArrivingBody, HttpRequest, HttpTransport
from benchmarks._files import raise_file_limit
from cancel_token.http import NothingArrived

T = TypeVar("T")

PROMPT: Final = "Say something long."
MODEL: Final = "fake-model"
KEY: Final = "sk-fake-0123456789abcdef"
WARM_UP_STREAMS: Final = 10
GROUP: Final = 50
"""So many are started at once: of a thousand together, the official client gives some up (its connect timeout)."""


class Reading:
    """What one reader has had so far; a subscriber of its run."""

    __slots__ = ("_begun", "events")

    def __init__(self, begun: Callable[[], object]) -> None:
        self.events = 0
        self._begun = begun

    def append(self, entry: Entry, /) -> None:
        if type(entry) is TextDelta:
            self.one_more()

    def one_more(self) -> None:
        self.events += 1
        if self.events == 1:
            self._begun()


class Crowd:
    """All readers at once, and what is to be known of them.

    Args:
        count: how many.
        port: the server's.
    """

    def __init__(self, count: int, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.readings = [Reading(self._one_begun) for _ in range(count)]
        self.all_begun = threading.Event()
        self.token = CancelToken()
        self.stop: Callable[[], object] = lambda: self.token.cancel("benchmark")
        self.settled_at = 0.0
        self._missing = iter(range(count - 1, -1, -1))
        self._begun = threading.Semaphore(0)

    def groups(self) -> Iterator[Sequence[Reading]]:
        """Whoever starts a group starts the next when `wait_begun` has returned."""
        for at in range(0, len(self.readings), GROUP):
            yield self.readings[at : at + GROUP]

    def wait_begun(self, group: Sequence[Reading]) -> None:
        """Wait until a group has begun to be answered."""
        for _ in group:
            self._begun.acquire()

    def _one_begun(self) -> None:
        self._begun.release()
        if next(self._missing) == 0:
            self.all_begun.set()

    @property
    def events(self) -> int:
        return sum(reading.events for reading in self.readings)


@attrs.frozen
class CountedBody:
    """A body that tells a reading of the events that pass; for runs whose entries nobody has."""

    body: ArrivingBody
    reading: Reading

    def __iter__(self) -> Iterator[bytes]:
        return self._counted(iter(self.body))

    def iter_nowait(self) -> Iterator[bytes | NothingArrived]:
        return self._counted(self.body.iter_nowait())

    def _counted(self, items: Iterator[T]) -> Iterator[T]:
        for item in items:
            if isinstance(item, bytes):
                for _ in range(item.count(b"data: ")):
                    self.reading.one_more()
            yield item


class Counting:
    """A transport whose answers are counted, each by the next reading of a crowd.

    Args:
        http: asks.
        crowd: whose readings.
    """

    def __init__(self, http: HttpTransport, crowd: "Crowd") -> None:
        self._http = http
        self._readings = iter(crowd.readings)

    @contextlib.contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[ArrivingBody]:
        with self._http.open(request, token) as body:
            yield CountedBody(body, next(self._readings))


def threads(crowd: Crowd) -> None:
    """Our blocking agent, a thread for each run."""
    with contextlib.closing(HttpTransport()) as transport:
        agent = ChatAgent(
            Lang.openai_like(base_url=crowd.base_url, model=MODEL, api_key=KEY, transport=transport)
        )

        def run(reading: Reading) -> None:
            agent.run(PROMPT, token=crowd.token, conversation=Conversation(), subscribers=[reading])

        running = []
        for group in crowd.groups():
            for reading in group:
                running.append(threading.Thread(target=run, args=(reading,)))
                running[-1].start()
            crowd.wait_begun(group)
        for thread in running:
            thread.join()
        crowd.settled_at = time.perf_counter()


def _tasks(backend: str, *, stream: bool) -> Callable[[Crowd], None]:
    async def run(agent: AsyncChatAgent, crowd: Crowd, reading: Reading) -> None:
        await agent.run(PROMPT, token=crowd.token, conversation=Conversation())

    async def read(agent: AsyncChatAgent, crowd: Crowd, reading: Reading) -> None:
        entries = agent.stream(PROMPT, token=crowd.token, conversation=Conversation())
        async with contextlib.aclosing(entries):
            async for entry in entries:
                reading.append(entry)

    async def main(crowd: Crowd) -> None:
        with contextlib.closing(HttpTransport()) as http:
            transport = http if stream else Counting(http, crowd)
            agent = AsyncChatAgent(
                Lang.openai_like(base_url=crowd.base_url, model=MODEL, api_key=KEY, transport=transport)
            )
            async with anyio.create_task_group() as tasks:
                for group in crowd.groups():
                    for reading in group:
                        tasks.start_soon(read if stream else run, agent, crowd, reading)
                    await anyio.to_thread.run_sync(crowd.wait_begun, group)
            crowd.settled_at = time.perf_counter()

    return lambda crowd: anyio.run(main, crowd, backend=backend)


def official(crowd: Crowd) -> None:
    """The official client on asyncio, whose tasks are cancelled. Its limit of 1,000 connections is taken away."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": PROMPT}]

    async def read(client: openai.AsyncOpenAI, reading: Reading) -> None:
        said = []
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        async with stream:
            async for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    said.append(text)
                    reading.one_more()

    async def main() -> None:
        limits = openai.DEFAULT_CONNECTION_LIMITS.__class__(
            max_connections=None, max_keepalive_connections=None
        )
        http = DefaultAsyncHttpxClient(limits=limits)
        async with openai.AsyncOpenAI(base_url=crowd.base_url, api_key=KEY, http_client=http) as client:
            tasks: list[asyncio.Task[None]] = []

            def cancel_all() -> None:
                for task in tasks:
                    task.cancel()

            loop = asyncio.get_running_loop()
            crowd.stop = lambda: loop.call_soon_threadsafe(cancel_all)
            async with asyncio.TaskGroup() as group:
                for readings in crowd.groups():
                    tasks += [group.create_task(read(client, reading)) for reading in readings]
                    await anyio.to_thread.run_sync(crowd.wait_begun, readings, abandon_on_cancel=True)
            crowd.settled_at = time.perf_counter()

    asyncio.run(main())


CONTENDERS: Final[Mapping[str, Callable[[Crowd], None]]] = {
    "threads": threads,
    "trio run": _tasks("trio", stream=False),
    "trio stream": _tasks("trio", stream=True),
    "asyncio run": _tasks("asyncio", stream=False),
    "asyncio stream": _tasks("asyncio", stream=True),
    "official": official,
}


def measure(crowd: Crowd, seconds: float) -> dict[str, float]:
    """Beside a crowd that is being read: memory when all have begun, CPU per event, and when it was stopped."""
    crowd.all_begun.wait()
    memory = psutil.Process().memory_info().rss
    if seconds:
        # What thousands of beginnings have left is some pass of the collector away, half a second long; of whoever is
        # measured just then, it would be a third of what his events cost.
        gc.collect()
        print("all have begun", flush=True)
    events, cpu = crowd.events, time.process_time()
    time.sleep(seconds)
    cpu, events = time.process_time() - cpu, crowd.events - events
    memory_after = psutil.Process().memory_info().rss
    stopped_at = time.perf_counter()
    crowd.stop()
    return {
        "memory": memory,
        "memory_after": memory_after,
        "events": events,
        "cpu_seconds": cpu,
        "stopped_at": stopped_at,
    }


def observed(read: Callable[[Crowd], None], crowd: Crowd, seconds: float) -> dict[str, float]:
    """Read and measure until all have settled."""
    found: dict[str, float] = {}
    observer = threading.Thread(target=lambda: found.update(measure(crowd, seconds)))
    observer.start()
    read(crowd)
    observer.join()
    return {**found, "settled_at": crowd.settled_at}


def main() -> None:
    name, streams, seconds, port = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    raise_file_limit()
    read = CONTENDERS[name]
    observed(read, Crowd(WARM_UP_STREAMS, port), 0.0)  # warms up: imports, caches, the first threads
    gc.collect()
    before = psutil.Process().memory_info().rss
    found = observed(read, Crowd(streams, port), seconds)
    print(json.dumps({**found, "memory_before": before}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
