import threading

from cancel_token import Cancelled, CancelToken
from cancel_token.testing import ManualClock
from tests.cancel_token.threads import run_in_thread


def test_wait_returns_as_soon_as_the_token_is_cancelled() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    answers: list[bool] = []
    waiter = run_in_thread(lambda: answers.append(token.child().wait(1)))
    clock.wait_for_sleepers()
    token.cancel()
    waiter.join()

    assert [True] == answers
    assert token.wait()
    assert 0 == token.stats().waiting


def test_wait_and_sleep_give_up_by_the_tokens_clock() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    done: list[object] = []
    first_is_over = threading.Event()

    def sleeper() -> None:
        done.append(token.child().wait(5))
        first_is_over.set()
        token.sleep(5)
        done.append("slept")

    thread = run_in_thread(sleeper)
    clock.wait_for_sleepers()
    clock.advance(5)
    first_is_over.wait()
    clock.wait_for_sleepers()
    clock.advance(5)
    thread.join()

    assert [False, "slept"] == done


def test_sleep_raises_as_soon_as_the_token_is_cancelled() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    caught: list[BaseException] = []

    def sleeper() -> None:
        try:
            token.sleep(5)
        except Cancelled as exc:
            caught.append(exc)

    thread = run_in_thread(sleeper)
    clock.wait_for_sleepers()
    token.cancel("enough")
    thread.join()

    assert ["enough (user)"] == [str(exc) for exc in caught]
    assert not CancelToken().wait(0)
    CancelToken().sleep(0)


def test_all_waiting_threads_are_woken_where_nothing_else_is_to_be_done() -> None:
    clock = ManualClock()
    root = CancelToken(clock=clock)
    token = root.child()
    answers: list[bool] = []
    waiters = [run_in_thread(lambda: answers.append(token.wait(1))) for _ in range(3)]
    clock.wait_for_sleepers(3)
    assert 3 == token.stats().waiting

    assert token.cancel("enough")
    assert not token.cancel("again")
    for waiter in waiters:
        waiter.join()

    assert [True] * 3 == answers
    assert token.reason is not None
    assert "enough" == token.reason.message
    assert 0 == token.stats().waiting
    assert not root.cancelled


def test_waiting_threads_are_woken_before_callbacks_run() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    woken = threading.Event()

    def wait() -> None:
        token.wait(1)
        woken.set()

    waiter = run_in_thread(wait)
    clock.wait_for_sleepers()
    assert 1 == token.stats().waiting
    token.on_cancel(woken.wait)

    token.cancel()
    waiter.join()
