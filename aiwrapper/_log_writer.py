"""Who writes what when: the store's write-ahead, shared by all open conversations of one file.

What waits belongs to its conversation's queue and stays there until it is written. One transaction takes
all that waits, of all queues. So a hundred streams cost as many transactions a second as one does, and
callers who wait for the disk at the same time wait for it together: the first takes the others' rows along.

Two locks, in this order:

1. `LogFile.writing`, held during a transaction: whoever has it decides what is taken and sees it written;
2. `LogWriter._lock`, for the fields named beside it, held for assignments only.

Text that waits is written by whoever writes next. Only for a stream that falls silent somebody has to
stay awake: the flusher, a thread that is there while text is arriving and for a moment longer.
"""

import threading
import time
from collections.abc import Callable, Sequence

from aiwrapper._core.errors import StoreError
from aiwrapper._log_file import Batch, LogFile, NumberTaken, Row

BATCH_SECONDS = 0.03
"""How long text may wait for neighbours. The promise is 50 ms; the rest is for waking up and for writing."""

LINGER_SECONDS = 0.25
"""How long the flusher stays when nothing more comes; by hand: longer than the pause between two words."""


class Queue:
    """One conversation's rows on their way into the file.

    Args:
        conversation: its number in the file.
        conversation_id: its id, for people and for `on_written`.
        written: the number of its last entry in the file.
    """

    def __init__(self, conversation: int, conversation_id: str, *, written: int) -> None:
        self.conversation = conversation
        self.conversation_id = conversation_id
        # Guarded by the writer's `_lock`; rows leave `waiting` only with `LogFile.writing` held as well, so
        # that those a transaction has taken are still its first ones when the transaction has succeeded.
        self.waiting: list[Row] = []
        self.written = written
        self.closed = False
        self.taken_over = False

    def check(self) -> None:
        """Raise if nothing can be appended any more."""
        if self.taken_over:
            raise StoreError(
                f"Somebody else has appended to conversation {self.conversation_id} while it was held here. "
                "Nothing was mixed: open it again to go on from what is there."
            )
        if self.closed:
            raise StoreError(f"The log of conversation {self.conversation_id} is closed. Open it again.")


class LogWriter:
    """Writes the rows of all queues of one file.

    Args:
        file: where to.
        on_written: called after a transaction, for each queue in it, with no lock held.
    """

    def __init__(self, file: LogFile, on_written: Callable[[str, int], object] | None) -> None:
        self._file = file
        self._on_written = on_written
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        # Guarded by `_lock`:
        self._queues: dict[int, Queue] = {}  # by the conversation's number
        self._due: float | None = None  # when what has waited longest must be written; None: nothing waits
        self._flusher: threading.Thread | None = None
        self._failing = (
            False  # the last transaction failed: then each append tries at once, and tells its caller
        )
        self._closing = False

    def add(self, queue: Queue) -> None:
        """Write this queue, too, from now on."""
        with self._lock:
            if self._closing:
                raise StoreError(f"The store {str(self._file.path)!r} is closed.")
            self._queues[queue.conversation] = queue

    def append(self, queue: Queue, row: Row, *, may_wait: bool, wait: Callable[[float], object]) -> None:
        """Queue a row and, unless it `may_wait`, write all that waits.

        Raises:
            StoreError: the row is not in the log. What was appended before it still is, or is still waiting.
            BaseException: what `wait` raised; the row is not in the log, or it was written in this very moment.
        """
        self._file.check_not_forked()
        with self._lock:
            queue.check()
            queue.waiting.append(row)
            if may_wait and self._somebody_writes_in_time():
                return
        try:
            self.write(wait)
        except StoreError:
            if self._withdraw(queue, row):  # pragma: no branch - a race's look again
                raise
            # Otherwise another thread has written it meanwhile, and all is well.
        except BaseException:
            self._withdraw(queue, row)
            raise
        if queue.taken_over:
            queue.check()

    def flush(self, queue: Queue, wait: Callable[[float], object]) -> None:
        """Write all that waits, in this queue and the others.

        Raises:
            StoreError: it could not be written, and waits on.
        """
        self._file.check_not_forked()
        queue.check()
        self.write(wait)
        if queue.taken_over:
            queue.check()

    def write(self, wait: Callable[[float], object]) -> None:
        """Write all that waits.

        Raises:
            StoreError: nothing was written, and all of it still waits.
        """
        taken: list[tuple[Queue, int]] = []

        def take() -> Sequence[Batch]:
            with self._lock:
                self._due = None
                taken[:] = [(queue, len(queue.waiting)) for queue in self._queues.values() if queue.waiting]
                return [Batch(queue.conversation, queue.written, tuple(queue.waiting)) for queue, _ in taken]

        def written() -> None:
            with self._lock:
                self._failing = False
                for queue, rows in taken:
                    del queue.waiting[:rows]
                    queue.written += rows

        try:
            while True:
                try:
                    self._file.append(take, written, wait)
                    break
                except NumberTaken as exc:
                    self._set_aside(exc.conversation)
        except StoreError:
            with self._lock:
                self._failing = True
            raise
        except BaseException:  # from `wait`: the file is all right, and others' rows were due
            with self._lock:
                self._somebody_writes_in_time()
            raise
        if self._on_written is not None:
            for queue, _ in taken:
                self._on_written(queue.conversation_id, queue.written)

    def remove(self, queue: Queue) -> None:
        """Write what waits, and take no more of this queue.

        Raises:
            StoreError: what still waited is lost.
        """
        with self._lock:
            queue.closed = True
            waits = bool(queue.waiting)
        try:
            if waits:
                self.write(time.sleep)
        except StoreError as exc:
            exc.add_note(f"Conversation {queue.conversation_id} was closed without its last entries.")
            raise
        finally:
            with self._file.writing, self._lock:
                queue.waiting.clear()
                del self._queues[queue.conversation]

    def close(self) -> None:
        """Let the flusher end, and wait for it. The queues have been removed."""
        with self._lock:
            self._closing = True
            self._wake.notify()
            flusher = self._flusher
        if flusher is not None:
            flusher.join()

    def _somebody_writes_in_time(self) -> bool:
        """Have what waits written in time by the flusher; False if the caller has to. Called with `_lock`."""
        if self._failing or self._closing:
            return False
        now = time.monotonic()
        if self._due is not None:
            # If it is overdue, the machine is busy and the flusher late: whoever comes by, writes.
            return now < self._due
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush_in_time, name=f"flusher of {self._file.path.name}")
            try:
                flusher.start()
            except RuntimeError:  # there are no more threads, or the interpreter is shutting down
                return False
            self._flusher = flusher
        else:
            self._wake.notify()
        self._due = now + BATCH_SECONDS
        return True

    def _flush_in_time(self) -> None:
        """The flusher. It is no daemon: a program that forgets to close loses no text when it ends."""
        try:
            self._write_when_due()
        except BaseException:  # `on_written` raised, which it must not: the next text gets another flusher
            with self._lock:
                self._flusher = None
            raise

    def _write_when_due(self) -> None:
        while True:
            with self._lock:
                if self._due is None and not self._closing:
                    self._wake.wait(LINGER_SECONDS)
                while self._due is not None and (seconds := self._due - time.monotonic()) > 0:
                    self._wake.wait(seconds)
                if self._due is None:
                    self._flusher = None  # in one step with looking: nobody may count on a thread that leaves
                    return
            try:
                self.write(time.sleep)
            except StoreError:
                pass  # the rows still wait; the next append, or closing, tries again and tells its caller

    def _withdraw(self, queue: Queue, row: Row) -> bool:
        """Take back a row that could not be written; False if it was written after all."""
        with self._file.writing, self._lock:
            for index in reversed(range(len(queue.waiting))):
                if queue.waiting[index] is row:
                    del queue.waiting[index]
                    return True
        return False

    def _set_aside(self, conversation: int) -> None:
        with self._file.writing, self._lock:
            queue = self._queues[conversation]
            queue.taken_over = True
            queue.waiting.clear()
