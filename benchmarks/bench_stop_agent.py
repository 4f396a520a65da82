"""How fast an agent stops, whatever it is doing, beside a bare `shutdown` and beside the official clients.

    python benchmarks/bench_stop_agent.py [--repeats N] [--dialect openai_chat] [--without-official]

For each phase a fake provider in this process holds the agent there; then the token is cancelled. The columns:
*control*, until `agent.run()` has returned; *hang-up*, until the server has seen the end of the connection; *late*,
characters of the answer recorded after `cancel()` had returned; *left*, threads, descriptors and child processes that
are more than before; *next*, whether the same agent's next request was accepted.

The limits: median max(2 ms, 5 x a bare shutdown), p95 max(5 ms, 5 x its p95), nothing late, nothing left; for the
subprocess, a bare terminate takes the place of the shutdown.
Left out: a network between the two, and a server that does not share our interpreter's lock, which would be kinder.
The official clients have no stop but `close()` from another thread; where that frees nobody, the wait ends after
2 seconds, and their threads stay behind until this process ends.
"""

import argparse
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, get_args

import anthropic
import openai
import psutil
from attrs import frozen

from aiwrapper._core.log import (
    Entry,
    RetryWaiting,
    TextDelta,
    ToolCallArguments,
    ToolStarted,
)
from aiwrapper._core.messages import AssistantMessage, Reasoning, Text, ToolCall
from aiwrapper.agents import ChatAgent
from aiwrapper.lang import Lang
from aiwrapper.testing import (
    Answer,
    Call,
    Delivery,
    DialectName,
    FakeProvider,
    FakeRequest,
    Hold,
    HttpError,
    Place,
    Say,
    Turn,
    render,
)
from cancel_token import CancelToken, processes
from cancel_token import http as stoppable_http

PATIENCE_SECONDS = 30.0
OFFICIAL_REPEATS = 5
OFFICIAL_CAP_SECONDS = 2.0
SETTLE_SECONDS = 0.02
"""From the sign that a thread is about to wait to the cut: nothing tells when it has entered `recv`."""

SLEEPER = (sys.executable, "-c", "import time; print(1, flush=True); time.sleep(1000)")

OURS_TO_LEAVE = ("cancel_token", "fake provider")
"""Threads that may be there: the token's service thread, and the servers of this benchmark."""

SPOKEN = Turn((Say(("first", " second", " thé rest", " of it")),))
CALLING = Turn((Call("spin", ('{"turns"', ": 1", "}")),))
ENDLESS = 2_000_000
"""Events of a stream that is stopped long before its end."""


@frozen(kw_only=True)
class Phase:
    """Where an agent is stopped.

    Args:
        name: for people.
        answers: what the provider says.
        hold: where the provider is held; None if it is not.
        sign: the entry that shows that the agent is there; None if the hold does.
        in_flight: whether a request to the provider is on its way then, whose hang-up is seen.
        tool: the tool that has to have begun.
        said: how large the user's message is.
    """

    name: str
    answers: Callable[[DialectName], Iterable[Answer]]
    hold: Callable[[DialectName], Place] | None = None
    sign: type[Entry] | None = None
    in_flight: bool = True
    tool: str | None = None
    said: str = "Hi"


def after(text: str, turn: Turn = SPOKEN, *, to_the_end: bool = False) -> Callable[[DialectName], int]:
    """The place behind a text of a body; or behind the event that it stands in."""

    def place(dialect: DialectName) -> int:
        body = render(turn, dialect)
        at = body.index(text.encode()) + len(text.encode())
        return body.index(b"\n\n", at) + 2 if to_the_end else at

    return place


def mid_character(dialect: DialectName) -> int:
    return render(SPOKEN, dialect).index("é".encode()) + 1


def call_of(name: str) -> Callable[[DialectName], Iterable[Answer]]:
    return lambda dialect: [Turn((Call(name, ("{}",)),))]


def paced(rate: float) -> Callable[[DialectName], Iterable[Answer]]:
    turn = Turn((Say((" x",) * ENDLESS),), delivery=Delivery(events_per_second=rate))
    return lambda dialect: [turn]


PHASES = (
    Phase(name="upload", answers=lambda _: (), hold=lambda _: "upload", said="x" * 20_000_000),
    Phase(name="headers", answers=lambda _: (), hold=lambda _: "headers"),
    Phase(name="first byte", answers=lambda _: (), hold=lambda _: "first_byte"),
    Phase(name="mid-line", answers=lambda _: [SPOKEN], hold=after("th", SPOKEN), sign=TextDelta),
    Phase(name="mid-character", answers=lambda _: [SPOKEN], hold=mid_character, sign=TextDelta),
    Phase(
        name="between events",
        answers=lambda _: [SPOKEN],
        hold=after(" second", to_the_end=True),
        sign=TextDelta,
    ),
    Phase(
        name="inside tool arguments",
        answers=lambda _: [CALLING],
        hold=after("turns", CALLING, to_the_end=True),
        sign=ToolCallArguments,
    ),
    Phase(name="100,000 events/s", answers=paced(100_000), sign=TextDelta),
    Phase(name="one event/s", answers=paced(1), sign=TextDelta),
    Phase(
        name="429, Retry-After: 30",
        answers=lambda _: [HttpError(429, retry_after="30")],
        sign=RetryWaiting,
        in_flight=False,
    ),
    Phase(name="500, back-off", answers=lambda _: [HttpError(500)], sign=RetryWaiting, in_flight=False),
    Phase(name="tool: a loop", answers=call_of("loop"), sign=ToolStarted, in_flight=False, tool="loop"),
    Phase(
        name="tool: a subprocess",
        answers=call_of("subprocess"),
        sign=ToolStarted,
        in_flight=False,
        tool="subprocess",
    ),
    Phase(name="tool: HTTP", answers=call_of("fetch"), sign=ToolStarted, in_flight=False, tool="fetch"),
)


class Watcher:
    """A subscriber that waits for an entry of a kind."""

    def __init__(self, sign: type[Entry] | None) -> None:
        self.seen = threading.Event()
        self._sign = sign

    def append(self, entry: Entry, /) -> None:
        if self._sign is not None and isinstance(entry, self._sign):
            self.seen.set()


class Tools:
    """Three tools, each of which says when it is in the middle of its work."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.far = FakeProvider("openai_chat")
        self.session = stoppable_http.Session()

    def loop(self, *, token: CancelToken) -> str:
        """Computes for ever, and asks now and then."""
        self.begun.set()
        number = 0
        while True:
            token.check()
            number = sum(range(number % 100))

    def subprocess(self, *, token: CancelToken) -> str:
        """Sleeps in another process."""
        with processes.Process(SLEEPER, token=token) as process:
            for _ in process:
                self.begun.set()
        return "done"

    def fetch(self, *, token: CancelToken) -> str:
        """Asks a server that does not answer."""
        with self.far.hold_at("headers") as hold:
            threading.Thread(target=self._begin_when, args=(hold,), name="fake provider watch").start()
            return self.session.get(self.far.base_url, token=token).text

    def _begin_when(self, hold: Hold) -> None:
        if hold.reached.wait(PATIENCE_SECONDS):
            self.begun.set()


@frozen
class Stop:
    """One stop, in seconds from the cut."""

    control: float
    hang_up: float | None
    late: int
    next_accepted: bool


@frozen
class Left:
    """What a process holds."""

    threads: int
    descriptors: int
    children: int

    @classmethod
    def now(cls) -> "Left":
        me = psutil.Process()
        threads = [t for t in threading.enumerate() if not t.name.startswith(OURS_TO_LEAVE)]
        return cls(len(threads), me.num_fds(), len(me.children(recursive=True)))

    def minus(self, before: "Left") -> int:
        return (
            max(0, self.threads - before.threads)
            + max(0, self.descriptors - before.descriptors)
            + max(0, self.children - before.children)
        )


def said_so_far(agent: ChatAgent) -> int:
    """How many characters of answers the conversation holds, cut calls included."""
    count = 0
    for message in agent.conversation.messages:
        if isinstance(message, AssistantMessage):
            count += sum(len(cut.arguments) for cut in message.cut_calls)
            for part in message.parts:
                match part:
                    case Text(text) | Reasoning(text):
                        count += len(text)
                    case ToolCall():
                        count += len(part.arguments)
    return count


def lang_for(fake: FakeProvider) -> Lang:
    if fake.dialect == "anthropic":
        return Lang.anthropic(model=fake.model, api_key=fake.api_key, base_url=fake.base_url)
    return Lang.openai_like(model=fake.model, api_key=fake.api_key, base_url=fake.base_url)


class Bench:
    """Stops agents.

    Args:
        dialect: which provider.
        repeats: how often in each phase.
    """

    def __init__(self, dialect: DialectName, repeats: int) -> None:
        self._dialect = dialect
        self._repeats = repeats

    def bare(self) -> tuple[list[float], list[float]]:
        """A blocked `recv` that is freed by `shutdown`: what no stop can be faster than."""
        controls, hang_ups = [], []
        with FakeProvider(self._dialect) as fake:
            for _ in range(max(20, self._repeats)):
                hold = fake.hold_at("accept")
                with socket.create_connection(fake.address) as sock:
                    returned: list[float] = []
                    reader = threading.Thread(target=lambda: returned.append(_received_at(sock)))  # noqa: B023
                    reader.start()
                    hold.reached.wait(PATIENCE_SECONDS)
                    time.sleep(SETTLE_SECONDS)
                    cut_at = time.monotonic()
                    sock.shutdown(socket.SHUT_RDWR)
                    reader.join()
                connection = fake.connections[-1]
                connection.hung_up.wait(PATIENCE_SECONDS)
                controls.append(returned[0] - cut_at)
                hang_ups.append((connection.hung_up_at or 0.0) - cut_at)
        return controls, hang_ups

    def bare_terminate(self) -> list[float]:
        """A child process that is told to terminate and is waited for."""
        times = []
        for _ in range(self._repeats):
            with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE, start_new_session=True) as child:
                assert child.stdout is not None
                child.stdout.readline()
                time.sleep(SETTLE_SECONDS)
                cut_at = time.monotonic()
                child.terminate()
                child.wait()
                times.append(time.monotonic() - cut_at)
        return times

    def phase(self, phase: Phase) -> tuple[list[Stop], int, int]:
        """All timed stops in one phase, how many characters came late in as many more, and what all left behind."""
        with ExitStack() as stack:
            fake = stack.enter_context(FakeProvider(self._dialect))
            tools = Tools()
            stack.enter_context(tools.far)
            stack.enter_context(tools.session)
            lang = lang_for(fake)
            self._stop(
                phase, fake, tools, lang
            )  # the first pays for imports and for the session's connection
            before = Left.now()
            stops = [self._stop(phase, fake, tools, lang) for _ in range(self._repeats)]
            looked_at = [self._stop(phase, fake, tools, lang, counting=True) for _ in range(self._repeats)]
            for connection in fake.connections[:-1]:
                connection.closed.wait(PATIENCE_SECONDS)
            return stops, sum(stop.late for stop in looked_at), Left.now().minus(before)

    def _stop(
        self, phase: Phase, fake: FakeProvider, tools: Tools, lang: Lang, *, counting: bool = False
    ) -> Stop:
        tools.begun.clear()
        agent = ChatAgent(lang, [tools.loop, tools.subprocess, tools.fetch])
        fake.add(*phase.answers(self._dialect))
        token, watcher = CancelToken(), Watcher(phase.sign)
        held = None if phase.hold is None else fake.hold_at(phase.hold(self._dialect))
        ended: list[float] = []

        def work() -> None:
            agent.run(phase.said, token=token, subscribers=[watcher])
            ended.append(time.monotonic())

        requests_before, far_before = len(fake.requests), len(tools.far.requests)
        worker = threading.Thread(target=work)
        worker.start()
        there = [watcher.seen] if phase.sign else []
        there += [] if held is None else [held.reached]
        there += [] if phase.tool is None else [tools.begun]
        if not all(event.wait(PATIENCE_SECONDS) for event in there):
            raise RuntimeError(f"{phase.name}: the agent did not get there")
        time.sleep(SETTLE_SECONDS)
        cut_at = time.monotonic()
        token.cancel("the benchmark stops")
        # Looking at a long conversation takes the interpreter's lock from the thread that is to come back: a stop is
        # either timed or looked at.
        said = said_so_far(agent) if counting else 0
        worker.join()
        late = said_so_far(agent) - said if counting else 0

        watched: FakeRequest | None = None
        if phase.in_flight:
            watched = fake.requests[requests_before]
        elif len(tools.far.requests) > far_before:
            watched = tools.far.requests[far_before]
        hang_up = None
        if watched is not None and watched.hung_up.wait(PATIENCE_SECONDS):
            hang_up = (watched.hung_up_at or 0.0) - cut_at
        following = agent.run("And now?")
        return Stop(ended[0] - cut_at, hang_up, late, following.status == "completed")


def _received_at(sock: socket.socket) -> float:
    sock.recv(1)
    return time.monotonic()


# --- the official clients --------------------------------------------------------------------------------


class Official:
    """The official client in a thread, stopped as its documentation says: by closing."""

    def __init__(self, fake: FakeProvider) -> None:
        self._fake = fake
        self._stream: Any = None  # either client's stream
        self._client: Any = (
            anthropic.Anthropic(base_url=fake.base_url, api_key=fake.api_key)
            if fake.dialect == "anthropic"
            else openai.OpenAI(base_url=fake.base_url, api_key=fake.api_key)
        )
        self.first = threading.Event()
        self.ended = threading.Event()
        self.ended_at = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask and read to the end, whatever that is."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            if self._fake.dialect == "anthropic":
                create = self._client.messages.create
                self._stream = create(model=self._fake.model, messages=messages, stream=True, max_tokens=100)
            else:
                create = self._client.chat.completions.create
                self._stream = create(model=self._fake.model, messages=messages, stream=True)
            for _ in self._stream:
                self.first.set()
        except Exception as error:  # whatever it is, the caller has control again
            self.error = error
        self.ended_at = time.monotonic()
        self.ended.set()

    def stop(self) -> None:
        """What one can do from another thread."""
        (self._client if self._stream is None else self._stream).close()


def official(dialect: DialectName, phase: Phase) -> list[float | None]:
    """Seconds until the official client's caller has control; None where it has not after the cap."""
    times: list[float | None] = []
    for _ in range(OFFICIAL_REPEATS):
        with FakeProvider(dialect, phase.answers(dialect)) as fake:
            held = None if phase.hold is None else fake.hold_at(phase.hold(dialect))
            client = Official(fake)
            threading.Thread(target=client.run, daemon=True).start()
            fake.wait_for_requests(1, timeout_seconds=PATIENCE_SECONDS)
            for event in ([client.first] if phase.sign is TextDelta else []) + (
                [held.reached] if held else []
            ):
                event.wait(PATIENCE_SECONDS)
            if phase.sign is RetryWaiting:
                fake.requests[0].done.wait(PATIENCE_SECONDS)
            time.sleep(SETTLE_SECONDS)
            cut_at = time.monotonic()
            threading.Thread(target=client.stop, daemon=True).start()
            freed = client.ended.wait(OFFICIAL_CAP_SECONDS)
            times.append(client.ended_at - cut_at if freed else None)
    return times


# --- the table -------------------------------------------------------------------------------------------


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def pair(values: list[float]) -> str:
    if not values:
        return f"{'-':>9}{'-':>9}"
    return f"{statistics.median(values) * 1000:9.2f}{p95(values) * 1000:9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dialect", choices=get_args(DialectName), default="openai_chat")
    parser.add_argument("--without-official", action="store_true")
    options = parser.parse_args()
    bench = Bench(options.dialect, options.repeats)
    print(f"{platform.platform()}, {psutil.cpu_count()} cores, CPython {platform.python_version()}")
    print(f"{options.dialect}, {options.repeats} stops a phase; milliseconds, median and p95\n")
    print(f"{'':24}{'control':>18}{'hang-up seen':>18}{'late':>6}{'left':>6}{'next':>9}  limits")
    controls, hang_ups = bench.bare()
    print(f"{'a bare shutdown':24}{pair(controls)}{pair(hang_ups)}")
    terminated = bench.bare_terminate()
    print(f"{'a bare terminate':24}{pair(terminated)}")
    for phase in PHASES:
        floor = terminated if phase.tool == "subprocess" else controls
        median_limit = max(0.002, 5 * statistics.median(floor))
        p95_limit = max(0.005, 5 * p95(floor))
        stops, late, left = bench.phase(phase)
        times = [stop.control for stop in stops]
        seen = [stop.hang_up for stop in stops if stop.hang_up is not None]
        accepted = sum(stop.next_accepted for stop in stops)
        kept = (
            statistics.median(times) <= median_limit
            and p95(times) <= p95_limit
            and late == left == 0
            and accepted == len(stops)
        )
        print(
            f"{phase.name:24}{pair(times)}{pair(seen)}{late:6}{left:6}"
            f"{f'{accepted}/{len(stops)}':>9}  {'kept' if kept else 'MISSED'}",
            flush=True,
        )
    if options.without_official:
        return
    print(f"\nthe official client, closed from another thread; {OFFICIAL_REPEATS} repeats")
    for phase in PHASES:
        if phase.tool is not None or phase.name in ("upload", "inside tool arguments"):
            continue
        freed = [seconds for seconds in official(options.dialect, phase) if seconds is not None]
        blocked = OFFICIAL_REPEATS - len(freed)
        words = (
            f"{blocked} of {OFFICIAL_REPEATS} still blocked after {OFFICIAL_CAP_SECONDS:g} s"
            if blocked
            else ""
        )
        print(f"{phase.name:24}{pair(freed)}  {words}", flush=True)


if __name__ == "__main__":
    main()
