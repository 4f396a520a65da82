"""The log on disk: conversations that survive every stop, crash and kill.

    with Store("chats.db") as store:
        conversation_id = store.create()
        with store.open(conversation_id) as log:       # the lease: nobody else appends meanwhile
            log.append(entry)                          # a `Sink`: give it to an agent's run
        state = store.load(conversation_id)            # reading needs no lease, and writes nothing

What `append` promises when it returns, by the entry's `durability`:

- `commit`: the entry is on the disk, and survives a power cut. The effect that it permits may happen.
- `flush`: it is in the file, and survives the death of the process, `kill -9` too.
- `batch`: it is in the file within 50 ms, together with its neighbours.

Entries are written in the order in which they were appended, so what a crash leaves of a conversation is
a prefix of its log, and every prefix settles to a valid conversation (law L1).

Who writes when is the business of `_log_writer.py`, the file and its troubles of `_log_file.py`, the lease
of `_lease.py`.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import field, frozen

from aiwrapper._core.conversation import State, fold
from aiwrapper._core.errors import BadLog, StoreError
from aiwrapper._core.log import Deleted, Entry, RunFailed, RunFinished, RunStopped, Titled, UserMessageAdded
from aiwrapper._core.log_json import dump_entry, load_entry
from aiwrapper._core.messages import Text
from aiwrapper._lease import Lease
from aiwrapper._log_file import Batch, Heading, LogFile, Row
from aiwrapper._log_writer import LogWriter, Queue

PAGE_ENTRIES = 1_000
"""How many entries are read at a time: enough that the query costs nothing beside decoding them."""

PREVIEW_CHARACTERS = 80


class UnknownConversation(StoreError, LookupError):
    """There is no conversation of this id in this store."""


@frozen
class ConversationSummary:
    """What a list shows of a conversation.

    Args:
        id: for `open`, `load` and `entries`.
        title: the last one given, if one was.
        updated_at: when it was last written, in wall-clock seconds since the epoch.
        preview: the beginning of what the user said first, on one line; empty if nothing was said.
    """

    id: str
    title: str | None = field(kw_only=True)
    updated_at: float = field(kw_only=True)
    preview: str = field(kw_only=True)


@frozen
class Written:
    """What a transaction has written of a conversation.

    Args:
        number: of the last entry in it.
        entries: all of them, in order.
    """

    number: int
    entries: Sequence[Entry]


class Store:
    """The conversations in one file, opened by as many processes as like.

    Every method may be called from any thread. A forked child can't use its parent's store; it opens its own.
    Close it, or use it in a `with` block: what still waits is written then.

    Args:
        path: the file. It is made, readable by its owner alone, if it is not there; its folder too.
        busy_seconds: how long a call waits while other processes write, before it gives up with `StoreError`.
        on_written: called after each transaction with what it has written, by the conversation's id, on the thread
            that wrote. It lets a reader in this process follow without asking again and again. It must be
            quick, not raise, and not use the store. Calls from two threads may overtake each other: the
            numbers tell.

    Raises:
        StoreError: the file can't be used, is no store, is damaged, or was written by a newer version.
            The message says what to do. A file that is not ours was not changed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_seconds: float = 10.0,
        on_written: Callable[[Mapping[str, Written]], object] | None = None,
    ) -> None:
        self.path: Path = Path(path)
        self._on_written = on_written
        self._file = LogFile(self.path, busy_seconds=busy_seconds)
        self._writer = LogWriter(self._file, None if on_written is None else self._tell)
        self._lock = threading.Lock()  # guards `_logs`
        self._logs: set[ConversationLog] = set()  # the open ones

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, give all leases back, and close the file. Calling it again does nothing.

        Raises:
            StoreError: something that waited could not be written. All is closed nevertheless.
        """
        if self._file.forked:
            return  # a child leaving its parent's `with` block: all of it is the parent's
        with self._lock:
            logs = tuple(self._logs)
        failed: StoreError | None = None
        for log in logs:
            try:
                log.close()
            except StoreError as exc:
                failed = failed or exc  # the same disk fails for the same reason: one of them tells it
        self._writer.close()
        self._file.close()
        if failed is not None:
            raise failed

    def create(self, title: str | None = None) -> str:
        """Make a new conversation, durably, and return its id, which can't be guessed.

        Raises:
            StoreError: it could not be written.
        """
        conversation_id = secrets.token_hex(16)  # letters and digits only: it names a file, too
        self._file.add_conversation(conversation_id, [] if title is None else [_row(Titled(title))])
        return conversation_id

    def list(self) -> tuple[ConversationSummary, ...]:
        """All conversations that are not deleted, the one written last first.

        Raises:
            StoreError: the file could not be read.
        """
        return tuple(map(_summary, self._file.headings()))

    def entries(self, conversation_id: str, *, after: int = 0) -> Iterator[tuple[int, Entry]]:
        """The entries in the file with their numbers, in order; the first of a conversation has number 1.

        It ends at the last entry that is in the file when it gets there. Call it again with the last number
        as `after` for what came since, in this process or another. An entry that was seen stays as it is.

        Args:
            conversation_id: which conversation.
            after: the number behind which to begin.

        Raises:
            UnknownConversation: at once.
            StoreError: the file could not be read; also while iterating.
        """
        return self._entries(self._number(conversation_id), conversation_id, after)

    def load(self, conversation_id: str) -> State:
        """The conversation as the file has it. Nothing is written.

        A run that is open in it goes on in another process or thread, or has died: `settle(state)` is the
        conversation as if it had been stopped at this point, and is what to show and to send.

        Raises:
            UnknownConversation: there is none of this id.
            StoreError: the file could not be read.
        """
        return fold(entry for _, entry in self.entries(conversation_id))

    def open(
        self, conversation_id: str, *, wait: Callable[[float], object] = time.sleep
    ) -> "ConversationLog":
        """Hold a conversation, so that nobody else appends to it, and get the log to append to.

        Args:
            conversation_id: which conversation; a deleted one can be opened, too.
            wait: called with seconds while another process writes, a few milliseconds each time; it may
                return early. If it raises, the append ends with that exception, and the entry is not in the
                log unless another thread was just writing it. The entry that ends a run is always waited for
                with `time.sleep`, so that a stop which ends other waits can't lose the record of itself (P3).

        Raises:
            Busy: another process holds it, or another thread of this one.
            UnknownConversation: there is none of this id.
            StoreError: the lock file can't be made, or the file could not be read.
        """
        number = self._number(conversation_id)
        lease = Lease(Path(f"{self.path}-leases") / conversation_id)
        try:
            queue = Queue(number, conversation_id, written=self._file.last_number(number))
            self._writer.add(queue)
        except BaseException:
            lease.release()
            raise
        log = ConversationLog(self, queue, lease, wait)
        with self._lock:
            self._logs.add(log)
        return log

    def _tell(self, batches: Mapping[str, Batch]) -> None:
        assert self._on_written is not None
        self._on_written(
            {
                conversation_id: Written(batch.last, [row.entry for row in batch.rows])
                for conversation_id, batch in batches.items()
            }
        )

    def _close(self, log: "ConversationLog") -> None:
        if self._file.forked:
            return  # the lease is the parent's
        with self._lock:
            if log not in self._logs:
                return
            self._logs.remove(log)
        try:
            self._writer.remove(log._queue)
        finally:
            log._lease.release()

    def _number(self, conversation_id: str) -> int:
        number = self._file.conversation_number(conversation_id)
        if number is None:
            raise UnknownConversation(f"There is no conversation {conversation_id!r} in {str(self.path)!r}.")
        return number

    def _entries(self, number: int, conversation_id: str, after: int) -> Iterator[tuple[int, Entry]]:
        # Page by page, and no read transaction in between: a slow reader must not keep the WAL from being
        # emptied. Nothing is ever changed behind it, so the pages fit together.
        while page := self._file.bodies(number, after=after, limit=PAGE_ENTRIES):
            for after, body in page:
                try:
                    entry = load_entry(body)
                except BadLog as exc:
                    raise StoreError(
                        f"Entry {after} of conversation {conversation_id} in {str(self.path)!r} can't be read: {exc}. "
                        "Nothing was changed. If a newer version of this program wrote it, upgrade."
                    ) from exc
                yield after, entry


class ConversationLog:
    """A held conversation: a `Sink` that writes to the file. `Store.open` makes it; use it in a `with` block.

    It may be used from any thread; entries are in the order in which `append` was called. Not closing it
    keeps the conversation from everybody else until this process ends.
    """

    def __init__(self, store: Store, queue: Queue, lease: Lease, wait: Callable[[float], object]) -> None:
        self._store = store
        self._queue = queue
        self._lease = lease
        self._wait = wait

    @property
    def conversation_id(self) -> str:
        """The conversation that is held."""
        return self._queue.conversation_id

    @property
    def written(self) -> int:
        """The number of the last entry in the file; what was appended after it still waits."""
        return self._queue.written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, entry: Entry, /) -> None:
        """Append an entry; when this returns, it is as durable as `entry.durability` asks.

        Raises:
            StoreError: the entry is not in the log, and must not have its effect. What was appended before
                is in the file or still waits for it; once the cause is gone, the next append writes it, too.
            BaseException: what the `wait` given to `Store.open` raised.
        """
        # The end of a run is waited for whatever else is being stopped (P3).
        ends_run = isinstance(entry, RunFinished | RunStopped | RunFailed)
        self._store._writer.append(
            self._queue,
            _row(entry),
            may_wait=entry.durability == "batch",
            wait=time.sleep if ends_run else self._wait,
        )

    def flush(self) -> None:
        """Write what waits. When this returns, every entry appended before is in the file.

        Raises:
            StoreError: it could not be written, and waits on.
        """
        self._store._writer.flush(self._queue, self._wait)

    def close(self) -> None:
        """Write what waits and let others have the conversation. Calling it again does nothing.

        Raises:
            StoreError: the last entries could not be written and are lost. It is closed nevertheless.
        """
        self._store._close(self)


def _row(entry: Entry) -> Row:
    heading = None
    if isinstance(entry, Titled | Deleted) or (isinstance(entry, UserMessageAdded) and not entry.synthetic):
        heading = entry.kind
    return Row(entry, dump_entry(entry), heading, entry.durability == "commit")


def _summary(heading: Heading) -> ConversationSummary:
    titled = _entry(heading.titled)
    said = _entry(heading.user_message)
    return ConversationSummary(
        heading.id,
        title=titled.title if isinstance(titled, Titled) else None,
        updated_at=heading.updated_at,
        preview=_preview(said) if isinstance(said, UserMessageAdded) else "",
    )


def _entry(body: bytes | None) -> Entry | None:
    try:
        return None if body is None else load_entry(body)
    except BadLog:
        return None  # opening the conversation tells what is wrong; the list must not be lost for it


def _preview(said: UserMessageAdded) -> str:
    words = " ".join(part.text if isinstance(part, Text) else "[image]" for part in said.parts).split()
    line = " ".join(words)
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 1] + "…"
