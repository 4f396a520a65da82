"""A process that writes to a store until it is killed, and tells what it did in a file that outlives it.

`python -m tests.aiwrapper.store_writer` is a nursery: for each line of JSON on its input it forks one such
process, says its pid, and says when it is gone. Forking skips the imports, so that a round costs milliseconds.
"""

import itertools
import json
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from attrs import asdict, frozen

from aiwrapper._core.log import (
    Entry,
    ReasoningDelta,
    ReasoningFinished,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.messages import Producer, Text, Usage
from aiwrapper.store import Store

PRODUCER = Producer("openai_chat", "127.0.0.1", model="a")

RECORD = struct.Struct("<cxxxxxxxQQ")
RETURNED, EFFECT, WRITTEN, ALIVE = b"r", b"e", b"w", b"a"

WITNESS_SECONDS = 0.005
LONGEST_LIFE_SECONDS = 60


@frozen
class Order:
    """What a writer is to do."""

    store: str
    conversation_id: str
    told: str
    seed: int


@frozen
class Told:
    """One record: what happened to the entry of this number (from 1, in this writer), and when."""

    what: bytes
    number: int
    at: float


def read_told(path: Path) -> list[Told]:
    data = path.read_bytes()
    assert len(data) % RECORD.size == 0
    return [Told(what, number, ns / 1e9) for what, number, ns in RECORD.iter_unpack(data)]


def script(seed: int) -> Iterator[Entry]:
    """Runs without end, always the same ones for a seed."""
    chance = random.Random(seed)
    for count in itertools.count():
        run_id = f"r{seed}-{count}"
        yield UserMessageAdded(f"u{seed}-{count}", (Text(f"question {count}"),))
        yield RunStarted(run_id)
        for turn in range(1, chance.randint(1, 3) + 1):
            yield from _turn(chance, run_id, turn)
        yield chance.choice(
            (
                RunFinished(run_id),
                RunStopped(run_id, reason="user"),
                RunFailed(run_id, error="limit", message="turns"),
            )
        )


def _turn(chance: random.Random, run_id: str, turn: int) -> Iterator[Entry]:
    yield TurnStarted(run_id, turn, producer=PRODUCER)
    if chance.random() < 0.3:
        for _ in range(chance.randrange(20)):
            yield ReasoningDelta(run_id, turn, text="hm ")
        yield ReasoningFinished(run_id, turn)
    for word in range(chance.randrange(80)):
        yield TextDelta(run_id, turn, text=f"word{word} ")
    calls = chance.choice((0, 0, 1, 2))
    for index in range(calls):
        yield ToolCallStarted(run_id, turn, index, name="tool")
        for piece in ('{"a"', ": 1", "}"):
            yield ToolCallArguments(run_id, turn, index, text=piece)
        yield ToolCallReady(run_id, turn, index, name="tool", arguments='{"a": 1}')
    yield UsageReported(run_id, turn, usage=Usage(input_tokens=10, output_tokens=20, complete=True))
    yield TurnFinished(run_id, turn, finish_reason="tool_calls" if calls else "stop")
    for index in range(calls):
        yield ToolStarted(run_id, turn, index)
        yield ToolFinished(run_id, turn, index, outcome="returned", content="done")


def write(order: Order) -> None:
    """Append the script for as long as we live."""
    told = os.open(order.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(what: bytes, number: int) -> None:
        os.write(told, RECORD.pack(what, number, time.monotonic_ns()))  # outlives us, once it has returned

    def witness() -> None:
        # Shows when the machine did not let us run: nobody can write in time then.
        nothing = threading.Event()
        while not nothing.wait(WITNESS_SECONDS):
            tell(ALIVE, 0)

    threading.Thread(target=witness, daemon=True).start()
    before = 0
    chance = random.Random(-order.seed)
    pause_seconds = chance.choice((0.0, 0.0005, 0.005))
    with (
        Store(
            order.store, on_written=lambda told: tell(WRITTEN, told[order.conversation_id].number - before)
        ) as store,
        store.open(order.conversation_id) as log,
    ):
        before = log.written
        _say(b"open")
        for number, entry in enumerate(script(order.seed), 1):
            log.append(entry)
            tell(RETURNED, number)
            if isinstance(entry, RunStarted | TurnStarted | ToolStarted):
                tell(EFFECT, number)
            if chance.random() < 0.01:
                time.sleep(0.08)  # the stream falls silent
            elif pause_seconds:
                time.sleep(pause_seconds)


def make_stores(folder: Path) -> None:
    """Make one store after the other for as long as we live."""
    _say(b"open")
    for number in itertools.count():
        with Store(folder / f"{number}.db") as store:
            store.create("a title")


def _say(word: bytes) -> None:
    os.write(1, word + b"\n")


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.alarm(LONGEST_LIFE_SECONDS)  # nobody may be left to kill us
            try:
                if "folder" in order:
                    make_stores(Path(order["folder"]))
                else:
                    write(Order(**order))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # in any case: they write until they are killed
        _say(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        _say(b"gone %d" % os.waitstatus_to_exitcode(status))


def order_line(order: Order) -> str:
    return json.dumps(asdict(order)) + "\n"


if __name__ == "__main__":
    main()
