"""The log on disk: leases, durability, bad files, and that what is read is what was appended."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiwrapper._core.conversation import EMPTY, fold, settle
from aiwrapper._core.errors import Busy, StoreError
from aiwrapper._core.log import (
    Configured,
    Deleted,
    Entry,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    Titled,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import Image, Producer, Text
from aiwrapper._log_opening import APPLICATION_ID, SCHEMA_VERSION
from aiwrapper._log_writer import BATCH_SECONDS
from aiwrapper.store import ConversationLog, Store, UnknownConversation, Written
from aiwrapper.testing.logs import logs

PATIENCE_SECONDS = 60.0  # for things that do happen: only a hang takes so long
PRODUCER = Producer("openai_chat", "127.0.0.1", model="a")


def said(number: int, text: str = "hello") -> UserMessageAdded:
    return UserMessageAdded(f"u{number}", (Text(text),))


def delta(text: str) -> TextDelta:
    return TextDelta("r1", 1, text=text)


OPENING: tuple[Entry, ...] = (said(1), RunStarted("r1"), TurnStarted("r1", 1, producer=PRODUCER))


def append_all(log: ConversationLog, entries: "Iterator[Entry] | tuple[Entry, ...] | list[Entry]") -> None:
    for entry in entries:
        log.append(entry)


def read(store: Store, conversation_id: str) -> list[Entry]:
    return [entry for _, entry in store.entries(conversation_id)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        yield store


def elsewhere(program: str, *arguments: object) -> str:
    """Run a program in another process, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is written and read


def test_what_was_appended_is_read_with_numbers_from_one(store: Store) -> None:
    conversation_id = store.create()
    with store.open(conversation_id) as log:
        append_all(log, OPENING)

    assert list(store.entries(conversation_id)) == list(enumerate(OPENING, 1))


def test_a_reader_goes_on_behind_the_number_it_has_seen(store: Store) -> None:
    conversation_id = store.create()
    with store.open(conversation_id) as log:
        append_all(log, OPENING)
        log.append(delta("a"))
        log.flush()

        assert list(store.entries(conversation_id, after=3)) == [(4, delta("a"))]
        assert list(store.entries(conversation_id, after=4)) == []


def test_a_log_longer_than_a_page_is_read_whole_while_it_grows(store: Store) -> None:
    conversation_id = store.create()
    with store.open(conversation_id) as log:
        append_all(log, OPENING)
        append_all(log, [delta(str(number)) for number in range(2_500)])
        log.flush()
        reading = store.entries(conversation_id)
        first = next(reading)
        log.append(RunFinished("r1"))
        rest = list(reading)

    assert [first, *rest][-1] == (2_504, RunFinished("r1"))


def test_an_open_run_is_loaded_open_and_reading_writes_nothing(path: Path) -> None:
    with Store(path) as store:
        conversation_id = store.create()
        with store.open(conversation_id) as log:
            append_all(log, [*OPENING, delta("half an ans")])
    before = path.read_bytes()
    with Store(path) as store:
        state = store.load(conversation_id)

    assert state.run is not None
    assert settle(state).messages[-1].text == "half an ans"  # type: ignore[union-attr]  # an answer has text
    assert path.read_bytes() == before


def test_a_new_conversation_is_empty_and_its_title_is_an_entry(store: Store) -> None:
    assert store.load(store.create()) == EMPTY
    assert read(store, store.create("Tea")) == [Titled("Tea")]


def test_ids_are_never_the_same_and_hold_128_bits(store: Store) -> None:
    ids = {store.create() for _ in range(50)}

    assert len(ids) == 50
    assert {len(bytes.fromhex(conversation_id)) for conversation_id in ids} == {16}


@pytest.mark.parametrize("use", [Store.open, Store.load, Store.entries])
def test_an_unknown_conversation_is_said_at_once(store: Store, use: Callable[[Store, str], object]) -> None:
    with pytest.raises(UnknownConversation, match="no conversation 'nobody'"):
        use(store, "nobody")


def test_the_list_shows_the_latest_title_and_the_first_words_and_the_last_written_first(store: Store) -> None:
    older, newer, silent = store.create("First"), store.create(), store.create()
    with store.open(newer) as log:
        log.append(UserMessageAdded("u1", (Text("look\n at "), Image("image/png", "AA==")), at=1.0))
    with store.open(older) as log:
        append_all(log, [said(1, "word " * 40), Titled("Second"), said(2, "two")])
        log.append(UserMessageAdded("u3", (Text("go on"),), synthetic=True))

    first, second, third = store.list()
    assert (first.id, first.title) == (older, "Second")
    assert first.preview == ("word " * 40)[:79] + "…"
    assert (second.id, second.title, second.preview) == (newer, None, "look at [image]")
    assert (third.id, third.title, third.preview) == (silent, None, "")
    assert first.updated_at >= second.updated_at >= third.updated_at > 0


def test_a_deleted_conversation_is_not_listed_and_loses_nothing(store: Store) -> None:
    conversation_id = store.create("gone")
    with store.open(conversation_id) as log:
        log.append(said(1))
        log.append(Deleted())

    assert store.list() == ()
    assert read(store, conversation_id) == [Titled("gone"), said(1), Deleted()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log_=logs(), data=st.data())
def test_any_log_in_any_batches_and_sessions_reads_as_it_was_appended(
    store: Store, log_: list[Entry], data: st.DataObject
) -> None:
    conversation_id = store.create()
    left = list(log_)
    while left:
        session = left[: data.draw(st.integers(1, len(left)))]
        left = left[len(session) :]
        with store.open(conversation_id) as log:
            for entry in session:
                log.append(entry)
                if data.draw(st.booleans()):
                    log.flush()

    assert read(store, conversation_id) == log_
    assert store.load(conversation_id) == fold(log_)


# Durability


@pytest.mark.parametrize(
    "entry",
    [
        said(1),
        RunStarted("r1"),
        ToolStarted("r1", 1, 0),
        RunStopped("r1", reason="user"),
        Configured("{}"),
        ToolFinished("r1", 1, 0, outcome="returned", content="tea"),
        TurnFinished("r1", 1, finish_reason="stop"),
    ],
    ids=lambda entry: entry.kind,
)
def test_an_entry_that_permits_or_reports_an_effect_is_in_the_file_when_append_returns(
    store: Store, entry: Entry
) -> None:
    conversation_id = store.create()
    with store.open(conversation_id) as log:
        log.append(entry)

        assert read(store, conversation_id) == [entry]
        assert log.written == 1


def test_only_entries_that_permit_an_effect_wait_for_the_disk(store: Store) -> None:
    # Whether the disk was waited for can't be seen from outside without cutting the power, so this looks in.
    full, normal = 2, 1
    seen: list[int] = []
    with store.open(store.create()) as log:
        for entry in (*OPENING, delta("a"), RunFinished("r1"), delta("b")):
            log.append(entry)
            log.flush()
            seen.append(store._file._writer.execute("pragma synchronous").fetchone()[0])

    assert seen == [full, full, full, normal, full, normal]


def test_text_reaches_the_file_when_the_stream_falls_silent(path: Path) -> None:
    reached = threading.Event()

    def on_written(written: Mapping[str, Written]) -> None:
        if [4] == [each.number for each in written.values()]:
            reached.set()

    with Store(path, on_written=on_written) as store, store.open(store.create()) as log:
        append_all(log, OPENING)
        log.append(delta("and then nothing"))

        assert reached.wait(PATIENCE_SECONDS)
        assert BATCH_SECONDS <= 0.050
        assert read(store, log.conversation_id)[-1] == delta("and then nothing")


def test_one_thread_writes_late_text_of_all_conversations_and_leaves(store: Store) -> None:
    with store.open(store.create()) as one, store.open(store.create()) as two:
        assert not flushers()
        append_all(one, [delta("a"), delta("b")])
        append_all(two, [delta("c")])

        (flusher,) = flushers()
        flusher.join(PATIENCE_SECONDS)  # nothing more comes, so it goes
        assert not flusher.is_alive()
        assert (one.written, two.written) == (2, 1)

        append_all(one, [delta("d")])
        (flusher,) = flushers()
        flusher.join(PATIENCE_SECONDS)
        assert one.written == 3


def flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("flusher of")]


def test_an_entry_takes_everything_that_waits_along(path: Path) -> None:
    written: list[tuple[str, int]] = []
    with (
        Store(
            path, on_written=lambda told: written.extend((each, told[each].number) for each in told)
        ) as store,
        store.open(store.create()) as one,
        store.open(store.create()) as two,
    ):
        one.append(delta("a"))
        one.append(delta("b"))
        two.append(RunStarted("r1"))

        assert (one.written, two.written) == (2, 1)
        assert (one.conversation_id, 2) in written
        assert (two.conversation_id, 1) in written


def test_closing_a_log_or_the_store_writes_what_waits(path: Path) -> None:
    with Store(path) as store:
        first, second = store.create(), store.create()
        log = store.open(first)
        log.append(delta("a"))
        log.close()
        log.close()
        assert read(store, first) == [delta("a")]
        store.open(second).append(delta("b"))
    store.close()
    with Store(path) as store:
        assert read(store, second) == [delta("b")]
        store.open(second).close()  # its lease was given back


def test_a_program_that_forgets_to_close_loses_no_text(path: Path) -> None:
    conversation_id = elsewhere(
        """
        import sys
        from aiwrapper.store import Store
        from aiwrapper._core.log import TextDelta
        store = Store(sys.argv[1])
        log = store.open(store.create())
        log.append(TextDelta("r1", 1, text="last words"))
        print(log.conversation_id)
        """,
        path,
    ).strip()
    with Store(path) as store:
        assert read(store, conversation_id) == [TextDelta("r1", 1, text="last words")]


def test_threads_appending_together_lose_and_double_nothing(store: Store) -> None:
    threads, each = 4, 200
    start = threading.Barrier(threads)
    ids = [store.create() for _ in range(2)]
    opened = [store.open(conversation_id) for conversation_id in ids]

    def work(who: int) -> None:
        start.wait(PATIENCE_SECONDS)
        for number in range(each):
            text = f"{who}.{number}"
            opened[who % 2].append(delta(text) if number % 7 else Configured(text))

    workers = [threading.Thread(target=work, args=(who,)) for who in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for log in opened:
        log.close()

    for which, conversation_id in enumerate(ids):
        texts = [
            entry.text if isinstance(entry, TextDelta) else entry.settings
            for entry in read(store, conversation_id)
            if isinstance(entry, TextDelta | Configured)
        ]
        for who in (which, which + 2):
            assert [f"{who}.{number}" for number in range(each)] == [
                text for text in texts if text.startswith(f"{who}.")
            ]


def test_a_closed_log_and_a_closed_store_say_so(path: Path) -> None:
    with Store(path) as store:
        conversation_id = store.create()
        log = store.open(conversation_id)
        log.close()
        with pytest.raises(StoreError, match="closed"):
            log.append(said(1))
        with pytest.raises(StoreError, match="closed"):
            log.flush()
    with pytest.raises(StoreError, match="closed"):
        store.create()
    with pytest.raises(StoreError, match="closed"):
        store.list()
    with pytest.raises(StoreError, match="closed"):
        store.open(conversation_id)


# Leases


def test_a_second_opening_in_this_process_is_busy_and_reading_goes_on(store: Store) -> None:
    conversation_id = store.create()
    with store.open(conversation_id) as log:
        log.append(said(1))
        with pytest.raises(Busy, match="open already"):
            store.open(conversation_id)
        with Store(store.path) as another:
            with pytest.raises(Busy):
                another.open(conversation_id)
            assert read(another, conversation_id) == [said(1)]
    store.open(conversation_id).close()


HOLD = """
    import sys
    from aiwrapper.store import Store
    from aiwrapper._core.log import Titled
    store = Store(sys.argv[1])
    log = store.open(sys.argv[2])
    log.append(Titled("held"))
    print("held", flush=True)
    sys.stdin.read()
    """


def test_another_process_is_named_and_its_death_frees_the_lease(store: Store) -> None:
    conversation_id = store.create()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(store.path), conversation_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(Busy, match=f"in process {holder.pid}"):
                store.open(conversation_id)
            assert read(store, conversation_id) == [Titled("held")]
            other = store.create()
            with store.open(other) as log:  # only this conversation is held, not the store
                log.append(said(1))
        finally:
            holder.kill()
            holder.wait()
    with store.open(conversation_id) as log:
        log.append(said(1))

    assert read(store, conversation_id) == [Titled("held"), said(1)]


def test_leases_taken_and_given_back_in_turn_are_never_held_twice(store: Store) -> None:
    # The lock file is removed with the lease, so openers meet files that vanish between opening and locking.
    conversation_id = store.create()
    start = threading.Barrier(4)
    holding = threading.Lock()
    held: list[int] = []

    def work() -> None:
        start.wait(PATIENCE_SECONDS)
        for _ in range(100):
            try:
                log = store.open(conversation_id)
            except Busy:
                continue
            assert holding.acquire(blocking=False)
            held.append(1)
            holding.release()
            log.close()

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:
            failures.append(exc)

    workers = [threading.Thread(target=guarded) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert failures == []
    assert held
    assert list(Path(f"{store.path}-leases").iterdir()) == []


def test_a_writer_without_the_lease_mixes_nothing(store: Store) -> None:
    conversation_id, other = store.create(), store.create()
    with store.open(conversation_id) as log, store.open(other) as innocent:
        log.append(said(1))
        shutil.rmtree(f"{store.path}-leases")  # somebody tidies up, and the next one finds no lock
        with Store(store.path) as another, another.open(conversation_id) as intruder:
            intruder.append(Titled("mine"))
        innocent.append(delta("waits meanwhile"))
        with pytest.raises(StoreError, match="Somebody else"):
            log.append(said(2))
        with pytest.raises(StoreError, match="Somebody else"):
            log.append(delta("a"))
        with pytest.raises(StoreError, match="Somebody else"):
            log.flush()

    assert read(store, conversation_id) == [said(1), Titled("mine")]
    assert read(store, other) == [delta("waits meanwhile")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_can_neither_use_nor_keep_nor_free_what_the_parent_holds(path: Path) -> None:
    # In a process of its own: this one has threads, and forking it is deprecated.
    answer = elsewhere(
        """
        import os, sys
        from aiwrapper.store import Store
        from aiwrapper._core.errors import Busy, StoreError
        from aiwrapper._core.log import Titled
        path = sys.argv[1]
        go, wait = os.pipe(), os.pipe()
        with Store(path) as store:
            conversation_id = store.create()
            with store.open(conversation_id) as log:
                pid = os.fork()
                if pid == 0:
                    for use in (lambda: log.append(Titled("child")), log.flush, store.list, store.create):
                        try:
                            use()
                        except StoreError as exc:
                            assert "forked" in str(exc), exc
                        else:
                            raise AssertionError(use)
                    log.close()
                    store.close()
                    with Store(path) as own:
                        try:
                            own.open(conversation_id)
                        except Busy:
                            print("the child finds it busy", flush=True)
                    os.write(go[1], b"x")
                    os.read(wait[0], 1)
                    sys.exit()
                os.read(go[0], 1)
                log.append(Titled("parent"))
            with store.open(conversation_id) as log:   # the living child does not hold it
                log.append(Titled("again"))
                os.write(wait[1], b"x")
                assert os.waitpid(pid, 0)[1] == 0
                log.append(Titled("after the child"))
            print([entry.title for _, entry in store.entries(conversation_id)])
        """,
        path,
    )

    assert answer == "the child finds it busy\n['parent', 'again', 'after the child']\n"


# Files that are not as they should be


def test_the_store_and_all_beside_it_are_readable_by_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Store(tmp_path / "new" / "chats.db") as store, store.open(store.create()):
            found = {
                item.name: stat.S_IMODE(item.stat().st_mode)
                for item in [tmp_path / "new", *(tmp_path / "new").rglob("*")]
            }
            (lease,) = Path(f"{store.path}-leases").iterdir()
    finally:
        os.umask(before)

    assert found == {
        "new": 0o700,
        "chats.db": 0o600,
        "chats.db-wal": 0o600,
        "chats.db-shm": 0o600,
        "chats.db-leases": 0o700,
        lease.name: 0o600,
    }


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs two users")
def test_a_store_that_others_can_read_and_that_is_not_ours_is_refused(nobodys: Path) -> None:
    with Store(nobodys / "chats.db") as store:
        store.create("secret")
    said_to_nobody = as_nobody(nobodys, owner=0, mode=0o666)

    assert "can be read by others" in said_to_nobody


def test_a_store_that_others_can_read_is_closed_to_them(path: Path) -> None:
    Store(path).close()
    path.chmod(0o644)
    Store(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def foreign_text(path: Path) -> None:
    path.write_text("My dear diary, " * 100)


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table diary (page)")
    connection.close()


def newer_store(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    connection.close()


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (foreign_text, "is not a store"),
        (foreign_database, "another program's database"),
        (newer_store, "newer version"),
        (folder, "Name another file|name another file"),
        (pipe, "is no file"),
    ],
)
def test_a_file_that_is_no_store_of_ours_is_refused_and_not_changed(
    path: Path, make: Callable[[Path], None], told: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=told):
        Store(path)

    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    Store(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def test_a_store_without_its_tables_is_an_error(path: Path) -> None:
    with Store(path) as store:
        conversation_id = store.create()
    with sqlite3.connect(path) as connection:
        connection.execute("drop table entry")
    connection.close()
    with Store(path) as store:
        with pytest.raises(StoreError, match="could not be used: no such table"):
            store.list()
        for _ in range(2):  # the lease of the first one is not left behind
            with pytest.raises(StoreError, match="could not be used: no such table"):
                store.open(conversation_id)


def test_lock_files_that_cannot_be_made_are_said(store: Store) -> None:
    Path(f"{store.path}-leases").touch()
    with pytest.raises(StoreError, match=r"lock file .* can't be used: File exists"):
        store.open(store.create())


def test_half_a_file_is_an_error_that_says_what_to_do(path: Path) -> None:
    with Store(path) as store, store.open(store.create("x")) as log:
        append_all(log, [said(number, "words " * 500) for number in range(50)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    half = path.read_bytes()

    def read_all() -> None:
        with Store(path) as store:
            for summary in store.list():
                store.load(summary.id)

    with pytest.raises(StoreError, match="damaged"):
        read_all()
    assert path.read_bytes() == half


def test_an_entry_that_cannot_be_read_is_named_and_hides_no_other_conversation(path: Path) -> None:
    with Store(path) as store:
        good, bad = store.create("good"), store.create("bad")
    with sqlite3.connect(path) as connection:
        connection.execute('update entry set body = \'{"kind": "novel"}\' where conversation = 2')
    connection.close()
    with Store(path) as store:
        assert {(summary.id, summary.title) for summary in store.list()} == {(good, "good"), (bad, None)}
        with pytest.raises(StoreError, match=f"Entry 1 of conversation {bad}"):
            store.load(bad)


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A folder that belongs to whoever `as_nobody` runs as; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "folder"
        folder.mkdir()
        yield folder
        folder.chmod(0o755)


def as_nobody(folder: Path, *, owner: int = 65534, mode: int | None = None) -> str:
    """What opening the store in the folder says to somebody for whom rights mean something."""
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        for item in folder.iterdir():
            os.chown(item, owner, owner)
    if mode is not None:
        (folder / "chats.db").chmod(mode)
    return elsewhere(
        """
        import os, sys
        from aiwrapper.store import Store, StoreError   # before the right to read it goes
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            Store(sys.argv[1]).close()
            print("opened")
        except StoreError as exc:
            print(exc)
        """,
        folder / "chats.db",
    )


needs_rights = pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")


@needs_rights
def test_a_new_store_in_a_folder_that_is_not_writable_says_so(nobodys: Path) -> None:
    nobodys.chmod(0o555)

    assert "its folder writable" in as_nobody(nobodys)


@needs_rights
def test_a_store_that_is_not_writable_says_so(nobodys: Path) -> None:
    Store(nobodys / "chats.db").close()
    (nobodys / "chats.db").chmod(0o444)

    assert "can't be opened for writing" in as_nobody(nobodys)


@needs_rights
def test_a_store_whose_folder_is_not_writable_says_so(nobodys: Path) -> None:
    Store(nobodys / "chats.db").close()
    assert as_nobody(nobodys) == "opened\n"
    nobodys.chmod(0o555)

    assert "the files beside it and their folder writable" in as_nobody(nobodys)


FILL = """
    import sys
    import resource
    from aiwrapper.store import Store, StoreError
    from aiwrapper._core.log import Configured, RunFailed, RunStarted, TextDelta, Titled
    path, limit = sys.argv[1], int(sys.argv[2])
    def free():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            filler.unlink()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    else:
        import pathlib
        filler = pathlib.Path(path).with_name("filler")
        filler.write_bytes(bytes(300_000))
    with Store(path) as store:
        other, conversation_id = store.create(), store.create("before")
        with store.open(conversation_id) as log:
            kept = 0
            log.append(TextDelta("r", 1, text="waits"))
            try:
                while True:
                    log.append(Configured("x" * 20_000))
                    kept += 1
            except StoreError as exc:
                print(exc)
            log_is = len(list(store.entries(conversation_id)))
            store.open(other).close()  # holding a conversation needs no room
            for entry in (TextDelta("r", 1, text="y" * 20_000), RunFailed("r", error="store", message="z" * 20_000)):
                try:
                    log.append(entry)
                except StoreError:
                    pass
                else:
                    raise AssertionError("the disk was full")
            assert kept and len(list(store.entries(conversation_id))) == log_is == kept + 2
            free()
            log.append(Titled("after"))
        assert len(list(store.entries(conversation_id))) == kept + 3
    with Store(path) as store:
        assert store.list()[0].title == "after"
    """


def test_a_file_that_may_not_grow_is_said_and_what_was_said_before_is_kept(path: Path) -> None:
    pytest.importorskip("resource")
    answer = elsewhere(FILL, path, 400_000)

    assert "What was written before is kept" in answer


def test_a_full_disk_is_said_and_what_was_said_before_is_kept(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        answer = elsewhere(FILL, disk / "chats.db", 0)
    finally:
        subprocess.run(["umount", str(disk)], check=True)

    assert "The disk is full" in answer
    assert "What was written before is kept" in answer


# Other processes that write


@pytest.fixture
def writing_elsewhere(store: Store) -> Iterator[sqlite3.Connection]:
    """Another connection, in the middle of a transaction."""
    connection = sqlite3.connect(store.path, isolation_level=None)
    connection.execute("begin immediate")
    yield connection
    connection.close()


def test_an_append_waits_until_another_process_has_written(
    store: Store, writing_elsewhere: sqlite3.Connection
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 7:
            writing_elsewhere.execute("rollback")

    conversation_id = conversation_made_before(store, writing_elsewhere)
    with store.open(conversation_id, wait=wait) as log:
        log.append(said(1))

        assert read(store, conversation_id) == [said(1)]
    assert len(waits) == 7
    assert max(waits) <= 0.02


class Enough(BaseException):
    """What a cancelled wait may raise."""


def test_a_wait_that_raises_ends_the_append_and_the_entry_is_not_there(
    store: Store, writing_elsewhere: sqlite3.Connection
) -> None:
    def wait(seconds: float) -> None:
        raise Enough

    conversation_id = conversation_made_before(store, writing_elsewhere)
    with store.open(conversation_id, wait=wait) as log:
        log.append(delta("kept"))
        with pytest.raises(Enough):
            log.append(RunStarted("r1"))
        writing_elsewhere.execute("rollback")
        log.append(RunStarted("r2"))

    assert read(store, conversation_id) == [delta("kept"), RunStarted("r2")]


def test_the_record_of_a_stop_is_waited_for_though_every_other_wait_is_cancelled(path: Path) -> None:  # P3
    def wait(seconds: float) -> None:
        raise Enough

    with Store(path, busy_seconds=0.05) as store:
        conversation_id = store.create()
        connection = sqlite3.connect(path, isolation_level=None)
        with store.open(conversation_id, wait=wait) as log:
            connection.execute("begin immediate")
            with pytest.raises(Enough):
                log.append(RunStarted("r1"))
            with pytest.raises(StoreError, match="Another process"):  # it used its patience up
                log.append(RunStopped("r1", reason="user"))
            connection.execute("rollback")
            log.append(RunStopped("r1", reason="user"))
        connection.close()

        assert read(store, conversation_id) == [RunStopped("r1", reason="user")]


def test_text_that_others_were_waiting_to_have_written_survives_a_cancelled_wait(path: Path) -> None:
    reached = threading.Event()
    with Store(path, on_written=lambda *_: reached.set()) as store:
        one, two = store.create(), store.create()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("begin immediate")

        def wait(seconds: float) -> None:
            connection.execute("rollback")
            raise Enough

        with store.open(one) as silent, store.open(two, wait=wait) as stopped:
            silent.append(delta("and then nothing"))
            with pytest.raises(Enough):
                stopped.append(RunStarted("r1"))

            assert reached.wait(PATIENCE_SECONDS)
            assert read(store, one) == [delta("and then nothing")]
        connection.close()


def conversation_made_before(store: Store, writing: sqlite3.Connection) -> str:
    """A conversation, though somebody is writing: he is asked to pause."""
    writing.execute("rollback")
    conversation_id = store.create()
    writing.execute("begin immediate")
    return conversation_id


def test_patience_ends_and_the_entry_can_be_appended_later(path: Path) -> None:
    with Store(path, busy_seconds=0) as store:
        conversation_id = store.create()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("begin immediate")
        with store.open(conversation_id) as log:
            with pytest.raises(StoreError, match="Another process has been writing"):
                log.append(said(1))
            connection.execute("rollback")
            log.append(said(2))
        connection.close()

        assert read(store, conversation_id) == [said(2)]


def test_entries_that_could_not_be_written_to_the_end_are_said_to_be_lost(path: Path) -> None:
    with Store(path, busy_seconds=0) as store:
        conversation_id = store.create()
        connection = sqlite3.connect(path, isolation_level=None)
        log = store.open(conversation_id)
        connection.execute("begin immediate")
        log.append(delta("a"))
        with pytest.raises(StoreError) as caught:
            log.close()
        connection.close()

        assert caught.value.__notes__ == [
            f"Conversation {conversation_id} was closed without its last entries."
        ]
        assert read(store, conversation_id) == []
        store.open(conversation_id).close()  # the lease was given back all the same


def test_text_that_could_not_be_written_in_time_is_written_with_the_next(path: Path) -> None:
    with Store(path, busy_seconds=0) as store, store.open(store.create()) as log:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("begin immediate")
        log.append(delta("a"))
        for flusher in flushers():
            flusher.join(PATIENCE_SECONDS)  # it tries once and goes: asking again is the next one's affair
        assert log.written == 0
        with pytest.raises(StoreError, match="Another process"):
            log.append(delta("refused"))
        connection.close()
        log.append(delta("b"))

        assert read(store, log.conversation_id) == [delta("a"), delta("b")]


def test_closing_a_store_that_cannot_write_frees_everything_and_says_so(path: Path) -> None:
    store = Store(path, busy_seconds=0)
    connection = sqlite3.connect(path, isolation_level=None)
    one, two = store.create(), store.create()
    first, second = store.open(one), store.open(two)
    connection.execute("begin immediate")
    first.append(delta("a"))
    with pytest.raises(StoreError):
        second.append(RunStarted("r1"))
    with pytest.raises(StoreError, match="Another process"):
        store.close()
    connection.close()
    with Store(path) as again:
        again.open(one).close()
        again.open(two).close()


def test_an_entry_that_was_written_while_it_waited_is_not_written_twice(store: Store) -> None:
    connection = sqlite3.connect(store.path, isolation_level=None)
    one, two = store.create(), store.create()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        connection.execute("rollback")
        other.append(Titled("takes the others along"))
        if len(waits) > 1:
            raise Enough

    with store.open(one, wait=wait) as log, store.open(two) as other:
        connection.execute("begin immediate")
        log.append(RunStarted("r1"))
        connection.execute("begin immediate")
        with pytest.raises(Enough):
            log.append(RunStarted("r2"))
        log.append(RunStarted("r3"))
    connection.close()

    assert read(store, one) == [RunStarted("r1"), RunStarted("r2"), RunStarted("r3")]


def test_without_another_thread_text_is_written_at_once(store: Store) -> None:
    with store.open(store.create()) as log:
        before = threading.stack_size(1 << 46)  # more than there is: no thread can be started
        try:
            log.append(delta("a"))
        finally:
            threading.stack_size(before)

        assert log.written == 1


def test_an_observer_that_raises_costs_no_text(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: raised.set())
    bad = [RuntimeError("not mine")]

    def on_written(written: Mapping[str, Written]) -> None:
        if bad:
            raise bad.pop()

    with Store(path, on_written=on_written) as store, store.open(store.create()) as log:
        log.append(delta("a"))
        assert raised.wait(PATIENCE_SECONDS)
        for flusher in flushers():
            flusher.join(PATIENCE_SECONDS)
        log.append(delta("b"))
        for flusher in flushers():
            flusher.join(PATIENCE_SECONDS)

        assert log.written == 2


def test_many_processes_writing_their_own_conversations_all_get_through(path: Path) -> None:
    program = """
        import sys
        from aiwrapper.store import Store
        from aiwrapper._core.log import Configured, TextDelta
        with Store(sys.argv[1]) as store, store.open(store.create(sys.argv[2])) as log:
            sys.stdin.read(1)
            for number in range(100):
                log.append(TextDelta("r1", 1, text="a"))
                log.append(Configured(str(number)))
        """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), str(path), str(number)], stdin=subprocess.PIPE
        )
        for number in range(4)
    ]
    for process in processes:
        process.communicate(b"go", timeout=PATIENCE_SECONDS)

    assert [process.returncode for process in processes] == [0] * 4
    with Store(path) as store:
        assert {summary.title for summary in store.list()} == {"0", "1", "2", "3"}
        for summary in store.list():
            assert len(read(store, summary.id)) == 201


def test_the_example_in_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "store.md", "exec"), {})

    assert blocks
    assert (tmp_path / "chats.db").exists()
