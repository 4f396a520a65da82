import gc
import threading
import weakref
from typing import Any

import pytest

from cancel_token import Cancelled, CancelToken, Registration
from tests.cancel_token.threads import run_in_thread


class Announcing(list[Any]):
    """A list that says when something was appended."""

    def __init__(self) -> None:
        super().__init__()
        self.appended = threading.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        self.appended.set()


def test_t_s2_callbacks_of_one_token_run_newest_first_and_those_of_inner_tokens_before() -> None:
    order: list[str] = []
    outer = CancelToken()
    inner = outer.child()
    for name, token in [("outer 1", outer), ("inner 1", inner), ("outer 2", outer), ("inner 2", inner)]:
        token.on_cancel(order.append, name)

    outer.cancel()

    assert ["inner 2", "inner 1", "outer 2", "outer 1"] == order


def test_t_s2_a_token_with_two_parents_is_called_once_and_after_its_own_children() -> None:
    order: list[str] = []
    root = CancelToken()
    middle = root.child()
    both = CancelToken.any(root, middle)
    child = both.child()
    for name, token in [("root", root), ("child", child), ("both", both)]:
        token.on_cancel(order.append, name)

    root.cancel()

    assert ["child", "both", "root"] == order


def test_t_s3_all_callbacks_run_and_then_one_group_is_raised() -> None:
    token = CancelToken()
    child = token.child()
    ran: list[int] = []

    def fail(error: BaseException) -> None:
        raise error

    errors = [ValueError("a"), SystemExit(3), StopIteration(), Cancelled()]
    for number, error in enumerate(errors):
        (token, child)[number % 2].on_cancel(fail, error)
        (token, child)[number % 2].on_cancel(ran.append, number)

    with pytest.raises(BaseExceptionGroup, match="callbacks of") as caught:
        token.cancel()

    assert {0, 1, 2, 3} == set(ran)
    assert {id(error) for error in errors} == {id(error) for error in caught.value.exceptions}
    assert token.reason is not None


def test_t_s3_a_keyboard_interrupt_out_of_a_callback_goes_on_as_itself() -> None:
    token = CancelToken()
    ran: list[int] = []
    interrupt, error = KeyboardInterrupt(), ValueError()

    def fail(error: BaseException) -> None:
        raise error

    token.on_cancel(ran.append, 1)
    token.on_cancel(fail, interrupt)
    token.on_cancel(fail, error)

    with pytest.raises(KeyboardInterrupt) as caught:
        token.cancel()

    assert [1] == ran
    assert interrupt is caught.value
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)
    assert (error,) == caught.value.__cause__.exceptions


@pytest.mark.parametrize("kinds", [[ValueError], [KeyboardInterrupt], [KeyboardInterrupt, ValueError]])
def test_t_s3_what_cancel_raises_keeps_nothing_alive(kinds: list[type[BaseException]]) -> None:
    """Its traceback holds the caller's variables; caught and dropped, it must go without a gc run."""

    class Thing:
        pass

    def fail(kind: type[BaseException]) -> None:
        raise kind

    def call() -> weakref.ref[Thing]:
        thing = Thing()
        token = CancelToken()
        for kind in kinds:
            token.on_cancel(fail, kind)
        try:
            token.cancel()
        except BaseException:
            return weakref.ref(thing)
        pytest.fail("it must raise")

    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_t_s3_cancel_and_report_raises_nothing_but_tells_the_hook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.append(unraisable.exc_value))
    token = CancelToken()
    error = ValueError()

    def fail() -> None:
        raise error

    token.on_cancel(fail)

    assert token.cancel_and_report("enough")
    assert not token.cancel_and_report("again")
    assert [error] == reported


def test_t_s4_a_late_registration_runs_at_once_in_the_caller() -> None:
    token = CancelToken()
    token.cancel()
    threads: list[int] = []
    registration = token.on_cancel(lambda: threads.append(threading.get_ident()))

    assert [threading.get_ident()] == threads
    assert not registration.unregister()
    with pytest.raises(ZeroDivisionError):
        token.on_cancel(lambda: 1 / 0)
    assert 0 == token.stats().registrations


def test_t_s5_unregister_says_whether_it_was_in_time() -> None:
    token = CancelToken()
    ran: list[int] = []
    in_time, late = token.on_cancel(ran.append, 1), token.on_cancel(ran.append, 2)

    assert in_time.unregister()
    assert not in_time.unregister()
    assert "left" in repr(in_time)
    assert "registered" in repr(late)
    token.cancel()
    assert [2] == ran
    assert not late.unregister()


def test_t_s5_leaving_the_block_takes_the_callback_back() -> None:
    token = CancelToken()
    ran: list[int] = []
    with token.on_cancel(ran.append, 1):
        assert 1 == token.stats().registrations

    token.cancel()

    assert [] == ran


def test_t_s5_close_returns_only_when_the_callback_has_ended() -> None:
    token = CancelToken()
    begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def slow() -> None:
        begun.set()
        may_end.wait()
        order.append("callback ended")

    registration = token.on_cancel(slow)

    def close() -> None:
        registration.close()
        order.append("close returned")

    canceller = run_in_thread(token.cancel)
    begun.wait()
    assert not registration.unregister()  # never waits
    running = token._running
    assert running is not None
    running.closers = closers = Announcing()
    closer = run_in_thread(close)
    closers.appended.wait()
    may_end.set()
    closer.join()
    canceller.join()

    assert ["callback ended", "close returned"] == order


def test_t_s5_close_of_a_callback_that_has_ended_does_not_wait_for_the_next_one() -> None:
    token = CancelToken()
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        may_end.wait()

    token.on_cancel(slow)
    newest = token.on_cancel(int)
    canceller = run_in_thread(token.cancel)
    begun.wait()
    newest.close()
    may_end.set()
    canceller.join()


def test_t_s5_a_callback_that_closes_itself_does_not_wait() -> None:
    token = CancelToken()
    registrations: list[Registration] = []
    registrations.append(token.on_cancel(lambda: registrations[0].close()))

    assert token.cancel()


def test_t_s5_two_callbacks_that_close_each_other_do_not_deadlock() -> None:
    tokens = [CancelToken(), CancelToken()]
    both_run = threading.Barrier(2)
    registrations: list[Registration] = []

    def close_other(number: int) -> None:
        both_run.wait()
        registrations[1 - number].close()

    registrations += [token.on_cancel(close_other, number) for number, token in enumerate(tokens)]
    threads = [run_in_thread(token.cancel) for token in tokens]
    for thread in threads:
        thread.join()

    assert all(token.cancelled for token in tokens)


def test_t_s5_a_callback_may_take_back_one_that_has_not_run() -> None:
    """Entries are popped one at a time: a snapshot would run what was taken back in the meantime."""
    token = CancelToken()
    ran: list[str] = []
    older = token.on_cancel(ran.append, "older")
    answers: list[bool] = []
    token.on_cancel(lambda: answers.append(older.unregister()))

    token.cancel()

    assert [True] == answers
    assert [] == ran


def test_a_callback_may_register_and_cancel() -> None:
    token, other = CancelToken(), CancelToken()
    ran: list[str] = []
    other.on_cancel(ran.append, "other")
    token.on_cancel(ran.append, "older")
    token.on_cancel(lambda: (token.on_cancel(ran.append, "at once"), other.cancel(), token.cancel()))

    token.cancel()

    assert ["at once", "other", "older"] == ran
