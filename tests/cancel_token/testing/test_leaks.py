import os
import subprocess
import sys
import tempfile
import threading
from typing import IO

import pytest

from cancel_token import CancelToken
from cancel_token.testing import explore, leaks
from tests.cancel_token.testing.toys import Box, anything_goes


def test_a_descriptor_that_is_left_is_named() -> None:
    before = leaks.snapshot("fds")
    fd = os.open(os.devnull, os.O_RDONLY)
    left = leaks.left_since(before)
    os.close(fd)

    assert 1 == len(left)
    assert str(fd) in left[0]
    assert () == leaks.left_since(before)


def test_a_descriptor_that_was_there_before_is_none() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    before = leaks.snapshot("fds")
    os.close(fd)

    assert () == leaks.left_since(before)


def test_a_descriptor_that_waits_for_the_garbage_collector_is_left(without_gc: None) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.file: IO[bytes] = os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb", closefd=True)
            self.number = self.file.fileno()

        def __del__(self) -> None:
            self.file.close()

    before = leaks.snapshot("fds")
    Cycle()
    left = leaks.left_since(before)

    assert left[0].endswith("(until the next run of the garbage collector)")
    assert () == leaks.left_since(before)


def test_a_thread_that_stays_is_left_and_one_that_ends_is_not() -> None:
    stay = threading.Event()
    before = leaks.snapshot("threads")
    stays = threading.Thread(target=stay.wait, name="stays")
    ends = threading.Thread(target=int, name="ends")
    stays.start()
    ends.start()
    ends.join()
    left = leaks.left_since(before, grace_seconds=0.01)
    stay.set()
    stays.join()

    assert ("threads: stays",) == left
    assert () == leaks.left_since(before)


@pytest.mark.skipif(sys.platform != "linux", reason="lists children by /proc")
def test_a_child_process_that_is_left_is_named() -> None:
    before = leaks.snapshot("children")
    child = subprocess.Popen(["sleep", "60"])
    left = leaks.left_since(before)
    child.kill()
    child.wait()

    assert (f"child processes: {child.pid}",) == left
    assert () == leaks.left_since(before)


def test_registrations_are_counted_in_the_whole_tree() -> None:
    token = CancelToken()
    child = token.child()
    kept = [token.on_cancel(int), child.on_cancel(int), child.child().on_cancel(int)]

    assert 3 == leaks.registrations(token)
    for each in kept:
        each.unregister()
    assert 0 == leaks.registrations(token)


def test_an_unknown_resource_is_refused() -> None:
    with pytest.raises(ValueError, match="'sockets'"):
        leaks.snapshot("sockets")  # type: ignore[arg-type]  # what a type checker would refuse


def test_a_descriptor_left_open_by_a_stop_is_found() -> None:
    def faulty(box: Box, token: CancelToken) -> None:
        fd = os.open(os.devnull, os.O_RDONLY)
        opened.append(fd)
        token.check()
        os.close(fd)
        opened.remove(fd)

    def mended(box: Box, token: CancelToken) -> None:
        with open(os.devnull, "rb"):
            token.check()

    opened: list[int] = []
    report = explore(Box, faulty, anything_goes)
    for fd in opened:
        os.close(fd)

    assert {"leak of file descriptors"} == {failure.name for failure in report.failures}
    assert {"before", "check"} == {
        each.plan.points[0].kind for failure in report.failures for each in failure.attempts
    }
    explore(Box, mended, anything_goes).assert_ok()


def test_what_a_raised_stop_holds_on_to_is_let_go_before_the_look(without_gc: None) -> None:
    def run(box: Box, token: CancelToken) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by whoever drops the traceback last
        token.check()
        file.close()

    with pytest.warns(ResourceWarning):
        explore(Box, run, anything_goes, at=["check"]).assert_ok()


def test_a_watch_says_what_has_come_since_it_looked_last() -> None:
    watch = leaks.Watch("fds")
    fd = os.open(os.devnull, os.O_RDONLY)
    first, second = watch.look(), watch.look()
    os.close(fd)

    assert 1 == len(first)
    assert str(fd) in first[0]
    assert () == second == watch.look()


def test_a_temporary_file_left_by_a_stop_is_found() -> None:
    def faulty(box: Box, token: CancelToken) -> None:
        fd, name = tempfile.mkstemp(prefix="left-")
        os.close(fd)
        token.check()
        os.unlink(name)

    def mended(box: Box, token: CancelToken) -> None:
        with tempfile.NamedTemporaryFile():
            token.check()

    before = tempfile.gettempdir(), os.environ.get("TMPDIR")
    report = explore(Box, faulty, anything_goes, leaks=["temp_files"])
    clean = explore(Box, mended, anything_goes, leaks=["temp_files"])

    assert {"leak of temporary files"} == {failure.name for failure in report.failures}
    assert "left-" in report.failures[0].detail
    clean.assert_ok()
    assert before == (tempfile.gettempdir(), os.environ.get("TMPDIR"))


def test_processes_have_the_private_directory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    program = "import tempfile; print(tempfile.gettempdir())"
    with leaks.private_temp_dir() as directory:
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert directory == child.stdout.strip()
    assert not os.path.exists(directory)
    assert tempfile.gettempdir() == os.environ["TMPDIR"]
