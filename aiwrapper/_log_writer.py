"""Who writes what when: the store's write-ahead, shared by all open conversations of one file.

What waits belongs to its conversation's queue and stays there until it is written. A transaction takes what
somebody waits for, and with it the text that has waited longest, of all queues. So a hundred streams cost hardly more
transactions a second than one does, and callers who wait for the disk at the same time wait for it together: the
first takes the others' rows along, and they find that there is nothing left to do. A transaction is short, so that
whoever waits for the disk does not wait for other people's text.

Two locks, in this order:

1. `LogFile.writing`, held during a transaction: whoever has it decides what is taken and sees it written;
2. `LogWriter._lock`, for the fields named beside it, held for assignments only.

Text that waits is written by the flusher, a thread that is there while text is arriving and for a moment longer. If it
is late, because the machine is busy, one of those who bring text helps, and only one at a time.

Text is brought without a lock: a thread that had to sleep for one has it before it has the interpreter's, and keeps
all others waiting for both; at ten thousand pieces a second that was most of what a store did. So whoever
brings text *publishes it first and then looks* whether somebody will see it, and whoever takes text or leaves *says so
first and then looks* what there is. At least one of them sees the other.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from aiwrapper._core.errors import StoreError
from aiwrapper._log_file import Batch, LogFile, NumberTaken, Row

BATCH_SECONDS = 0.03
"""How long text may wait for neighbours. The promise is 50 ms; the rest is for waking up and for writing."""

LATE_SECONDS = 0.04
"""With text that has waited so long the flusher is helped; by hand, between the two."""

TRANSACTION_ROWS = 64
"""With so many rows a transaction takes no further queue, unless somebody waits for it. Chosen by hand: about a
millisecond."""

MAX_WAITING_ROWS = 1_000
"""How much text of one conversation may wait for a disk that does not keep up. Chosen by hand: some 100 KB."""

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
        # Rows come without a lock, and leave only with `LogFile.writing` and the writer's `_lock`, so that those a
        # transaction has taken are still its first ones when the transaction has succeeded.
        self.waiting: list[Row] = []
        self.since: float = 0.0  # when the first of them began to wait, or a little later
        # Guarded by the writer's `_lock`, but for looks:
        self.written = written
        self.closed = False
        self.taken_over = False

    @property
    def appended(self) -> int:
        """The number of the last entry, in the file or on its way there. To be asked with the writer's `_lock`."""
        return self.written + len(self.waiting)

    @property
    def ended(self) -> bool:
        """Whether nothing can be appended any more."""
        return self.closed or self.taken_over

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
        on_written: called after a transaction with no lock held: what was written of each conversation, by its id.
        now: monotonic seconds.
    """

    def __init__(
        self,
        file: LogFile,
        on_written: Callable[[Mapping[str, Batch]], object] | None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._on_written = on_written
        self._now = now
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        # Queues with rows, about by `since`. They come without a lock, and leave with it.
        self._waiting: dict[Queue, None] = {}
        # Guarded by `_lock`, but for looks:
        self._queues: dict[int, Queue] = {}  # by the conversation's number
        self._awaited: dict[Queue, None] = {}  # those whose rows somebody waits for
        self._flusher: threading.Thread | None = None
        self._on_duty = False  # the flusher will look at what waits before it rests
        self._late_at = math.inf  # when it is to be helped
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
        """Queue a row and, unless it `may_wait`, have it written.

        Raises:
            StoreError: the row is not in the log. What was appended before it still is, or is still waiting.
            BaseException: what `wait` raised; the row is not in the log, or it was written in this very moment.
        """
        self._file.check_not_forked()
        queue.check()
        queue.waiting.append(row)
        now = self._now()
        if queue not in self._waiting:
            queue.since = now
            self._waiting[queue] = None
        if may_wait and self._is_written_in_time(queue, now):
            return
        with self._lock:
            number = queue.appended
            may_wait = may_wait and len(queue.waiting) < MAX_WAITING_ROWS and self._has_flusher()
            if may_wait and now < self._late_at and not queue.ended:
                return
            if may_wait:
                self._late_at = now + LATE_SECONDS  # we go to write, and nobody else for so long
            else:
                self._awaited[queue] = None
        if queue.ended:  # between our looking and our publishing
            if self._withdraw(queue, row) or queue.taken_over:
                queue.check()
            return  # it has been written with the last ones
        try:
            self._write(wait, lambda: not may_wait and queue.written >= number)
        except StoreError:
            if self._withdraw(queue, row):  # pragma: no branch - a race's look again
                raise
            # Otherwise another thread has written it meanwhile, and all is well.
        except BaseException:
            self._withdraw(queue, row)
            raise
        if queue.taken_over:
            queue.check()

    def _is_written_in_time(self, queue: Queue, now: float) -> bool:
        """Whether the flusher sees to text that has just been published. Without a lock."""
        return (
            self._on_duty
            and now < self._late_at
            and len(queue.waiting) < MAX_WAITING_ROWS
            and not queue.ended
        )

    def flush(self, queue: Queue, wait: Callable[[float], object]) -> None:
        """Have all in the file that was appended to this queue.

        Raises:
            StoreError: it could not be written, and waits on.
        """
        self._file.check_not_forked()
        queue.check()
        with self._lock:
            number = queue.appended
            if queue.waiting:
                self._awaited[queue] = None
        self._write(wait, lambda: queue.written >= number)
        if queue.taken_over:
            queue.check()

    def _write(self, wait: Callable[[float], object], is_written: Callable[[], bool]) -> None:
        """Write what is awaited and what has waited longest, unless another thread has done so when it is our turn.

        Args:
            wait: for other processes.
            is_written: whether there is nothing left to do; called with `_lock`.

        Raises:
            StoreError: nothing was written, and all of it still waits.
        """
        taken: dict[Queue, Batch] = {}
        next_since = math.inf  # of what is left

        def take() -> Sequence[Batch]:
            nonlocal next_since
            taken.clear()
            next_since = self._now()
            with self._lock:
                if is_written():
                    return ()
                rows = 0
                for queue in [*self._awaited, *self._waiting]:  # a copy, since queues come without a lock
                    if rows >= TRANSACTION_ROWS and queue not in self._awaited:
                        next_since = queue.since
                        break
                    if queue.conversation not in self._queues:  # it came after it was removed
                        self._forget(queue)
                    elif queue not in taken:
                        batch = Batch(queue.conversation, queue.written, tuple(queue.waiting))
                        taken[queue] = batch
                        rows += len(batch.rows)
                return [*taken.values()]

        def written() -> None:
            with self._lock:
                self._failing = False
                self._late_at = next_since + LATE_SECONDS
                for queue, batch in taken.items():
                    del queue.waiting[: len(batch.rows)]
                    queue.written = batch.last
                    self._forget(queue)
                    if queue.waiting:  # said, so look: what has come meanwhile
                        queue.since = next_since
                        self._waiting[queue] = None
                if self._waiting:  # text, if it could not be written before
                    self._has_flusher()

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
                self._on_duty = False
            raise
        except BaseException:  # from `wait`: the file is all right, and others' rows may be due
            with self._lock:
                self._has_flusher()
            raise
        if taken and self._on_written is not None:
            self._on_written({queue.conversation_id: batch for queue, batch in taken.items()})

    def remove(self, queue: Queue) -> None:
        """Write what waits, and take no more of this queue.

        Raises:
            StoreError: what still waited is lost.
        """
        try:
            with self._lock:
                queue.closed = True
                if queue.waiting:  # said, so look: what comes from here on is taken back by whoever brings it
                    self._awaited[queue] = None
            if queue.waiting:
                self._write(time.sleep, lambda: not queue.waiting)
        except StoreError as exc:
            with self._file.writing, self._lock:
                queue.waiting.clear()
            exc.add_note(f"Conversation {queue.conversation_id} was closed without its last entries.")
            raise
        finally:
            with self._lock:
                self._forget(queue)
                del self._queues[queue.conversation]

    def close(self) -> None:
        """Let the flusher end, and wait for it. The queues have been removed."""
        with self._lock:
            self._closing = True
            self._wake.notify()
            flusher = self._flusher
        if flusher is not None:
            flusher.join()

    def _has_flusher(self) -> bool:
        """See to it that text is written in time; False if whoever appends it has to. Called with `_lock`."""
        if self._failing or self._closing:
            return False
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush_in_time, name=f"flusher of {self._file.path.name}")
            try:
                flusher.start()
            except RuntimeError:  # there are no more threads, or the interpreter is shutting down
                return False
            self._flusher = flusher
        if not self._on_duty:
            self._on_duty = True
            self._late_at = self._now() + LATE_SECONDS
            self._wake.notify()
        return True

    def _flush_in_time(self) -> None:
        """The flusher. It is no daemon: a program that forgets to close loses no text when it ends."""
        try:
            while self._stays():
                try:
                    self._write(time.sleep, lambda: False)
                except StoreError:
                    pass  # the rows still wait; the next append, or closing, tries again and tells its caller
        except BaseException:  # `on_written` raised, which it must not: the next text gets another flusher
            with self._lock:
                self._on_duty = False
                self._flusher = None
            raise

    def _stays(self) -> bool:
        """Wait until text is due; False if the flusher has to leave."""
        with self._lock:
            if not self._waiting and not self._closing:
                self._on_duty = False
                if not self._waiting:  # said, so look
                    self._wake.wait(LINGER_SECONDS)
            while True:
                if not self._waiting or self._failing:
                    self._on_duty = False
                waiting = [*self._waiting]  # said, so look
                if not waiting or self._failing:
                    self._flusher = None
                    return False
                self._on_duty = True
                seconds = waiting[0].since + BATCH_SECONDS - self._now()
                if seconds <= 0:
                    return True
                self._late_at = waiting[0].since + LATE_SECONDS
                self._wake.wait(seconds)

    def _withdraw(self, queue: Queue, row: Row) -> bool:
        """Take back a row that could not be written; False if it was written after all."""
        with self._file.writing, self._lock:
            for index in reversed(range(len(queue.waiting))):
                if queue.waiting[index] is row:
                    del queue.waiting[index]
                    if not queue.waiting:
                        self._forget(queue)
                    return True
        return False

    def _set_aside(self, conversation: int) -> None:
        with self._file.writing, self._lock:
            queue = self._queues[conversation]
            queue.taken_over = True
            self._drop(queue)

    def _drop(self, queue: Queue) -> None:
        """Forget what waits. Called with `LogFile.writing` and `_lock`."""
        queue.waiting.clear()
        self._forget(queue)

    def _forget(self, queue: Queue) -> None:
        """Nothing waits there. Called with `_lock`."""
        self._waiting.pop(queue, None)
        self._awaited.pop(queue, None)
