"""Name lookups that are left behind (T-N4)."""

import os
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.sockets import resolve
from tests.cancel_token.stalling import Call


class Lookups:
    """Stands in for the operating system's resolver, which no test can stall: names below `.test` wait here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.answer = threading.Event()
        self.error: Exception | None = None
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: str, *args: int) -> object:
        if not host.endswith(".test"):
            return self._real(host, *args)
        if args[-1] & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked.put(host)
        self.answer.wait()
        if self.error is not None:
            raise self.error
        return self._real("127.0.0.1", *args)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    lookups = Lookups(monkeypatch)
    yield lookups
    lookups.answer.set()
    for thread in threading.enumerate():
        if thread.name.startswith("cancel_token resolver"):
            thread.join()  # or the next test would join its lookup


def test_a_number_needs_no_thread() -> None:
    before = threading.active_count()
    answers = resolve("127.0.0.1", 80, CancelToken())

    assert [("127.0.0.1", 80)] == [answer[4] for answer in answers]
    assert before == threading.active_count()


def test_a_name_is_looked_up_and_carries_the_port(lookups: Lookups) -> None:
    lookups.answer.set()
    answers = resolve("name.test", 8080, CancelToken(), family=socket.AF_INET)

    assert [("127.0.0.1", 8080)] == [answer[4] for answer in answers]


def test_a_stop_leaves_the_lookup_behind_in_a_daemon_thread(lookups: Lookups) -> None:
    """T-N4."""
    token = CancelToken()
    call = Call(lambda: resolve("name.test", 80, token))
    lookups.asked.get()
    token.cancel()
    call.join()
    left = [thread for thread in threading.enumerate() if thread.name == "cancel_token resolver name.test"]

    assert isinstance(call.error, Cancelled)
    assert [True] == [thread.daemon for thread in left]
    assert 0 == token.stats().registrations


def test_there_is_one_lookup_of_a_host_however_many_ask(lookups: Lookups) -> None:
    """T-N4: also those who come after a stop join the one that was left behind."""
    token = CancelToken()
    stopped = Call(lambda: resolve("name.test", 80, token))
    lookups.asked.get()
    token.cancel()
    stopped.join()
    others = [Call(lambda: resolve("name.test", 80, CancelToken())) for _ in range(5)]
    another_host = Call(lambda: resolve("other.test", 80, CancelToken()))
    asked_next = lookups.asked.get()
    lookups.answer.set()

    assert [None] * 5 == [call.join().error for call in others]
    assert another_host.join().error is None
    assert "other.test" == asked_next
    assert lookups.asked.empty()


def test_a_failed_lookup_fails_for_all_and_is_asked_again(lookups: Lookups) -> None:
    lookups.error = socket.gaierror(socket.EAI_AGAIN, "later")
    first = Call(lambda: resolve("name.test", 80, CancelToken()))
    lookups.asked.get()
    second = Call(lambda: resolve("name.test", 80, CancelToken()))
    lookups.answer.set()
    errors = [first.join().error, second.join().error]
    lookups.error = None

    assert [socket.gaierror] * 2 == [type(error) for error in errors]
    assert errors[0] is not errors[1]
    assert resolve("name.test", 80, CancelToken())


def test_a_timeout_ends_the_wait(lookups: Lookups) -> None:
    token = CancelToken()
    with pytest.raises(TimeoutError, match="no address of"):
        resolve("name.test", 80, token, timeout=0.01)

    assert 0 == token.stats().registrations


def test_a_cancelled_token_asks_nobody(lookups: Lookups) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        resolve("name.test", 80, token)

    assert lookups.asked.empty()


def test_no_thread_to_be_had_is_an_error_for_all(lookups: Lookups, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            resolve("name.test", 80, CancelToken())
    lookups.answer.set()

    assert resolve("name.test", 80, CancelToken())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_lookup(lookups: Lookups) -> None:
    """T-S18: it has inherited the entry, not the thread."""
    token = CancelToken()
    call = Call(lambda: resolve("name.test", 80, token))
    lookups.asked.get()
    child = os.fork()
    if child == 0:
        lookups.answer = threading.Event()
        lookups.answer.set()
        answers = resolve("name.test", 80, CancelToken())
        os._exit(0 if answers else 1)
    _, status = os.waitpid(child, 0)
    token.cancel()
    call.join()

    assert 0 == status
