"""Who writes what when: what a transaction takes, and what happens when the flusher is late or a log is just closed."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from aiwrapper._core.errors import StoreError
from aiwrapper._core.log import RunStarted, TextDelta
from aiwrapper._log_file import Batch, LogFile, Row
from aiwrapper._log_writer import LATE_SECONDS, MAX_WAITING_ROWS, TRANSACTION_ROWS, LogWriter, Queue
from aiwrapper.store import Store, Written

PATIENCE_SECONDS = 60.0  # for things that do happen: only a hang takes so long
WORD = TextDelta("r1", 1, text="word ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chats.db"
    Store(path).close()
    return path


@pytest.fixture
def elsewhere(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, as far as the store can see."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_those_who_wait_for_the_file_are_written_together(path: Path, elsewhere: sqlite3.Connection) -> None:
    told: list[Mapping[str, Written]] = []
    waiting = [threading.Event(), threading.Event()]
    free = threading.Event()

    def append(place: int) -> None:
        def wait(seconds: float) -> None:
            waiting[place].set()
            free.wait(PATIENCE_SECONDS)

        with store.open(ids[place], wait=wait) as log:
            log.append(RunStarted("r1"))

    with Store(path, on_written=told.append) as store:
        ids = [store.create(), store.create()]
        elsewhere.execute("begin immediate")
        threads = [threading.Thread(target=append, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        for each in waiting:
            assert each.wait(PATIENCE_SECONDS)
        elsewhere.execute("rollback")
        free.set()
        for thread in threads:
            thread.join()

    assert [dict.fromkeys(ids, Written(1, [RunStarted("r1")]))] == told


class Clock:
    """Time that stands still until it is told to move, so that nothing is due or late by itself."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Writing:
    """A writer on a clock of its own, and queues of new conversations."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.told: list[Mapping[str, Batch]] = []
        self._file = LogFile(path, busy_seconds=PATIENCE_SECONDS)
        self.writer = LogWriter(self._file, self.told.append, now=self.clock)
        self.queues: list[Queue] = []

    def queue(self) -> Queue:
        name = f"c{len(self.queues)}"
        self._file.add_conversation(name, [])
        number = self._file.conversation_number(name)
        assert number is not None
        queue = Queue(number, name, written=0)
        self.writer.add(queue)
        self.queues.append(queue)
        return queue

    def say(self, queue: Queue, wait: Callable[[float], object] = time.sleep) -> None:
        self.writer.append(queue, Row(WORD, b"word", None, False), may_wait=True, wait=wait)

    def close(self) -> None:
        for queue in self.queues:
            self.writer.remove(queue)
        self.writer.close()
        self._file.close()


@pytest.fixture
def writing(path: Path) -> Iterator[Writing]:
    writing = Writing(path)
    yield writing
    writing.close()


def test_whoever_waits_is_written_first_and_not_behind_all_that_others_have_said(writing: Writing) -> None:
    speaking = [writing.queue() for _ in range(4)]
    asking = writing.queue()
    for queue in speaking:
        for _ in range(TRANSACTION_ROWS // 2):
            writing.say(queue)
    writing.writer.append(asking, Row(RunStarted("r1"), b"now", None, True), may_wait=False, wait=time.sleep)

    (told,) = writing.told
    assert {"c4": 1, "c0": TRANSACTION_ROWS // 2, "c1": TRANSACTION_ROWS // 2} == {
        each: batch.last for each, batch in told.items()
    }


def test_text_that_is_not_written_does_not_pile_up(writing: Writing) -> None:
    queue = writing.queue()
    for _ in range(MAX_WAITING_ROWS - 1):
        writing.say(queue)
    before = queue.written
    writing.say(queue)

    assert (0, MAX_WAITING_ROWS) == (before, queue.written)


def test_one_of_those_who_bring_text_helps_a_flusher_that_is_late(
    writing: Writing, elsewhere: sqlite3.Connection
) -> None:
    queues = [writing.queue() for _ in range(3)]
    elsewhere.execute("begin immediate")

    def wait(seconds: float) -> None:
        writing.say(queues[2])  # while another one helps, this only brings its text
        elsewhere.execute("rollback")

    writing.say(queues[0])
    writing.clock.now = LATE_SECONDS
    writing.say(queues[1], wait)

    assert [1, 1, 1] == [queue.written for queue in queues]


def test_text_that_comes_as_its_log_is_closed_is_written_or_refused(path: Path) -> None:
    with Store(path) as store:
        for _ in range(100):
            log = store.open(store.create())
            begun = threading.Event()
            returned = 0

            def speak() -> None:
                nonlocal returned
                while True:
                    try:
                        log.append(WORD)  # noqa: B023 - the thread ends with the round
                    except StoreError:
                        return
                    returned += 1
                    begun.set()  # noqa: B023

            thread = threading.Thread(target=speak)
            thread.start()
            assert begun.wait(PATIENCE_SECONDS)
            log.close()
            thread.join()

            assert returned == len(list(store.entries(log.conversation_id)))
