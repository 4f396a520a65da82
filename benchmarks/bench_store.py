"""What an append costs, by durability, beside a bare SQLite insert in its own transaction on the same disk.

    python benchmarks/bench_store.py [--folder DIRECTORY] [pyperf's options]

Rows: `batch` (text: queued, written by the flusher or the next entry), `flush` (one transaction each),
`commit` (synced to the disk each), a turn of 500 words as a model says it, and loading a log of 10,000
entries. The floors: the same JSON inserted by `sqlite3` in WAL mode, one transaction each, unsynced and synced.

It leaves out other processes that write, and the fold.
"""

import argparse
import itertools
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pyperf

from aiwrapper._core.log import (
    Configured,
    Entry,
    RunFinished,
    RunStarted,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from aiwrapper._core.log_json import dump_entry
from aiwrapper._core.messages import Producer
from aiwrapper.store import Store

WORDS = 500
LONG = 10_000

BATCH: Entry = TextDelta("r1", 1, text=" word")
FLUSH: Entry = TurnFinished("r1", 1, finish_reason="stop")
COMMIT: Entry = Configured('{"model": "a"}')
TURN: tuple[Entry, ...] = (
    RunStarted("r1"),
    TurnStarted("r1", 1, producer=Producer("openai_chat", "127.0.0.1", model="a")),
    *(TextDelta("r1", 1, text=" word") for _ in range(WORDS)),
    TurnFinished("r1", 1, finish_reason="stop"),
    RunFinished("r1"),
)


def append(folder: Path, entries: tuple[Entry, ...]) -> Callable[[int], float]:
    def run(loops: int) -> float:
        with (
            tempfile.TemporaryDirectory(dir=folder) as name,
            Store(Path(name) / "a.db") as store,
            store.open(store.create()) as log,
        ):
            begun = perf_counter()
            for _ in itertools.repeat(None, loops):
                for entry in entries:
                    log.append(entry)
            log.flush()
            return perf_counter() - begun

    return run


def bare(folder: Path, entries: tuple[Entry, ...], synchronous: str) -> Callable[[int], float]:
    """One insert an entry, each in a transaction of its own: what a store without batches would do."""

    def run(loops: int) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            connection = sqlite3.connect(Path(name) / "a.db", isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma synchronous = {synchronous}")
            connection.execute("create table entry (number integer primary key, body blob)")
            begun = perf_counter()
            for _ in itertools.repeat(None, loops):
                for entry in entries:
                    connection.execute("insert into entry (body) values (?)", (dump_entry(entry),))
            seconds = perf_counter() - begun
            connection.close()
            return seconds

    return run


def read(folder: Path) -> Callable[[int], float]:
    def run(loops: int) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as name, Store(Path(name) / "a.db") as store:
            conversation_id = store.create()
            with store.open(conversation_id) as log:
                for _ in range(LONG):
                    log.append(BATCH)
            begun = perf_counter()
            for _ in itertools.repeat(None, loops):
                assert sum(1 for _ in store.entries(conversation_id)) == LONG
            return perf_counter() - begun

    return run


def main() -> None:
    def keep_folder(command: list[str], options: argparse.Namespace) -> None:
        command += ["--folder", str(options.folder)]

    runner = pyperf.Runner(processes=3, values=3, warmups=1, add_cmdline_args=keep_folder)
    runner.argparser.add_argument(
        "--folder", type=Path, default=Path.cwd(), help="on which disk; default: here"
    )
    folder = runner.parse_args().folder
    results = {
        name: runner.bench_time_func(name, run, inner_loops=count)
        for name, run, count in (
            ("bare insert", bare(folder, (FLUSH,), "normal"), 1),
            ("bare insert, synced", bare(folder, (FLUSH,), "full"), 1),
            ("append batch", append(folder, (BATCH,)), 1),
            ("append flush", append(folder, (FLUSH,)), 1),
            ("append commit", append(folder, (COMMIT,)), 1),
            ("turn, bare inserts", bare(folder, TURN, "normal"), len(TURN)),
            ("turn, appended", append(folder, TURN), len(TURN)),
            ("read an entry", read(folder), LONG),
        )
    }
    if runner.args.worker:
        return
    print()
    for name, beside in (
        ("append batch", "bare insert"),
        ("append flush", "bare insert"),
        ("append commit", "bare insert, synced"),
        ("turn, appended", "turn, bare inserts"),
    ):
        of, floor = results[name], results[beside]
        if of is not None and floor is not None:
            print(f"{name:16} {of.mean() / floor.mean():5.2f} x {beside}")


if __name__ == "__main__":
    main()
