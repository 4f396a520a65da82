"""Kill -9 of a writing process at random moments: what is left is valid, and next to nothing is lost.

`AIWRAPPER_KILLS` says how often; 200 by default, which takes half a minute.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from time import monotonic

import pytest
from attrs import Factory, define

from aiwrapper._core.conversation import fold, settle
from aiwrapper._core.validity import repair, validate
from aiwrapper._log_writer import BATCH_SECONDS
from aiwrapper.store import Store
from tests.aiwrapper.store_writer import (
    ALIVE,
    EFFECT,
    RETURNED,
    WITNESS_SECONDS,
    WRITTEN,
    Order,
    Told,
    order_line,
    read_told,
    script,
)

KILLS = int(os.environ.get("AIWRAPPER_KILLS", "200"))
ROUNDS_A_CONVERSATION = 10
PROMISE_SECONDS = 0.050

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the nursery forks")


class Nursery:
    """Where the writers come from: see `store_writer.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.aiwrapper.store_writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self.pid = 0
        self._opened = False

    def start(self, line: str) -> int:
        """Start a writer, and return its pid as soon as it is there; that is before it has opened anything."""
        self._stdin.write(line)
        self._stdin.flush()
        self.pid, self._opened = 0, False
        while not self.pid:
            self._take()
        return self.pid

    def wait_until_open(self) -> None:
        while not self._opened:
            self._take()

    def kill(self) -> float:
        """Kill the writer, wait until it is gone, and return a moment just before its death."""
        before = monotonic()
        os.kill(self.pid, signal.SIGKILL)
        while self.pid:
            self._take()
        return before

    def _take(self) -> None:
        match self._stdout.readline().split():
            case ["open"]:
                self._opened = True
            case ["gone", code]:
                self.pid = 0
                assert str(-signal.SIGKILL) == code, "the writer ended before it was killed"
            case [pid]:
                self.pid = int(pid)
            case other:
                raise AssertionError(f"the nursery said {other!r}")

    def close(self) -> None:
        if self.pid:  # the test has failed before it came to that
            os.kill(self.pid, signal.SIGKILL)
        self._stdin.close()
        self._process.wait()
        self._stdout.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@define
class Counts:
    kills: int = 0
    while_opening: int = 0
    in_a_run: int = 0
    entries: int = 0
    effects: int = 0
    lost_ages: list[float] = Factory(list)
    stalls: int = 0

    def __str__(self) -> str:
        ages = sorted(self.lost_ages) or [0.0]
        return (
            f"{self.kills} kills ({self.while_opening} while opening, {self.in_a_run} inside a run), "
            f"{self.entries} entries kept, {self.effects} effects all recorded; text lost in {len(self.lost_ages)}, "
            f"at most {ages[-1] * 1000:.1f} ms of it (median {ages[len(ages) // 2] * 1000:.1f}), "
            f"{self.stalls} judged by a stalled machine"
        )


@pytest.mark.timeout(60 + KILLS)
def test_after_every_kill_the_log_is_valid_whole_and_at_most_50_ms_short(
    nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BATCH_SECONDS < PROMISE_SECONDS
    chance = random.Random()
    counts = Counts()
    path = tmp_path / "chats.db"
    for seed in range(KILLS):
        if seed % ROUNDS_A_CONVERSATION == 0:
            with Store(path) as store:
                conversation_id = store.create()
        before = _number_of_entries(path, conversation_id)
        told_path = tmp_path / f"told-{seed}"
        nursery.start(order_line(Order(str(path), conversation_id, str(told_path), seed)))
        if chance.random() < 0.1:
            seconds = chance.uniform(0, 0.01)
        else:
            nursery.wait_until_open()
            seconds = chance.uniform(0, 0.15)
        # Nothing is waited *for* here: the moment of death is what is drawn.
        threading.Event().wait(seconds)
        died_at = nursery.kill()
        told = read_told(told_path) if told_path.exists() else []
        _check(path, conversation_id, before, seed, told, died_at, counts)

    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()
    with capsys.disabled():
        print(f"\n{counts}")
    assert counts.kills == KILLS
    assert counts.in_a_run > KILLS / 4  # or the kills did not hit what they were meant to


def _number_of_entries(path: Path, conversation_id: str) -> int:
    with Store(path) as store:
        return sum(1 for _ in store.entries(conversation_id))


def _check(
    path: Path, conversation_id: str, before: int, seed: int, told: list[Told], died_at: float, counts: Counts
) -> None:
    with Store(path) as store:
        numbered = list(store.entries(conversation_id))
    entries = [entry for number, entry in numbered if number > before]
    state = fold(entry for _, entry in numbered)
    conversation = settle(state)

    assert list(range(1, len(numbered) + 1)) == [number for number, _ in numbered]
    assert list(islice(script(seed), len(entries))) == entries, (
        "what is kept is a prefix of what was appended"
    )
    assert validate(conversation) == []
    assert conversation is repair(conversation)

    expected = list(islice(script(seed), max((t.number for t in told), default=0)))
    must_be_there = [
        t.number
        for t in told
        if t.what in (EFFECT, WRITTEN)
        or (t.what == RETURNED and expected[t.number - 1].durability != "batch")
    ]
    assert max(must_be_there, default=0) <= len(entries), (
        "an effect, or an entry said to be written, is missing"
    )

    lost = [t for t in told if t.what == RETURNED and t.number > len(entries)]
    if lost:
        age = died_at - lost[0].at
        counts.lost_ages.append(age)
        if age > PROMISE_SECONDS:
            counts.stalls += 1
            # Time in which the machine did not run the writer at all is not the writer's.
            assert age <= PROMISE_SECONDS + _stalled_seconds(told, died_at)

    counts.kills += 1
    counts.while_opening += not told
    counts.in_a_run += state.run is not None
    counts.entries += len(entries)
    counts.effects += sum(t.what == EFFECT for t in told)


def _stalled_seconds(told: list[Told], died_at: float) -> float:
    alive = [t.at for t in told if t.what == ALIVE and t.at > died_at - 1] + [died_at]
    return sum(max(0.0, later - earlier - 2 * WITNESS_SECONDS) for earlier, later in pairwise(alive))


@pytest.mark.timeout(60 + KILLS)
def test_a_process_killed_while_it_makes_a_store_leaves_one_that_opens(
    nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random()
    found: list[int] = []
    for kill in range(max(10, KILLS // 10)):
        folder = tmp_path / str(kill)
        nursery.start(json.dumps({"folder": str(folder)}) + "\n")
        nursery.wait_until_open()
        threading.Event().wait(chance.uniform(0, 0.03))
        nursery.kill()
        stores = sorted(folder.glob("*.db"), key=lambda path: int(path.stem))
        for number, path in enumerate(stores):
            with Store(path) as store:
                titles = [summary.title for summary in store.list()]
                store.create("another")

            assert titles == ["a title"] or (titles == [] and number == len(stores) - 1)
        found.append(len(stores))

    with capsys.disabled():
        print(f"\n{len(found)} kills while making stores, {sum(found)} stores found and usable")
