"""Ctrl-C and its relatives, sent for real."""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.signals import cancel_on_sigint, cancel_on_signals
from cancel_token.sockets import shutdown_on_cancel
from tests.cancel_token.stalling import Call

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


@pytest.fixture(autouse=True)
def handlers_are_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)

    assert before == after


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.raise_signal(number)


def press_ctrl_c_from_outside() -> None:
    """As a terminal does: while the main thread is inside a system call."""
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_ctrl_c_cancels_and_raises_nothing() -> None:
    token = CancelToken()
    with cancel_on_sigint(token):
        press_ctrl_c()
        cancelled = token.cancelled

    assert cancelled
    assert token.reason is not None
    assert ("signal", "SIGINT") == (token.reason.kind, token.reason.message)


def test_a_second_one_behaves_as_usual() -> None:
    token = CancelToken()
    with pytest.raises(KeyboardInterrupt), cancel_on_sigint(token):
        send(signal.SIGINT, signal.SIGINT)

    assert () == token.later_reasons


def test_one_that_follows_another_stop_behaves_as_usual() -> None:
    """The caller has been told to stop and has not: whoever presses now wants out."""
    token = CancelToken()
    token.cancel("the user pressed Stop")
    with pytest.raises(KeyboardInterrupt), cancel_on_sigint(token):
        press_ctrl_c()


def test_afterwards_everything_is_as_before() -> None:
    token = CancelToken()
    with cancel_on_sigint(token):
        pass
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()

    assert not token.cancelled


def test_another_handler_gets_the_second_one() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        token = CancelToken()
        with cancel_on_sigint(token):
            press_ctrl_c()
            first = list(seen)
            press_ctrl_c()
    finally:
        signal.signal(signal.SIGINT, before)

    assert [] == first
    assert [signal.SIGINT] == seen


def test_blocks_nest_the_innermost_first() -> None:
    outer, inner = CancelToken(), CancelToken()
    with cancel_on_sigint(outer):
        with cancel_on_sigint(inner):
            press_ctrl_c()
            after_first = (inner.cancelled, outer.cancelled)
            press_ctrl_c()
            after_second = (inner.cancelled, outer.cancelled)
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()

    assert (True, False) == after_first
    assert (True, True) == after_second


def test_an_inner_block_without_a_signal_gives_the_outer_one_its_place_back() -> None:
    outer = CancelToken()
    with cancel_on_sigint(outer):
        with cancel_on_sigint(CancelToken()):
            pass
        press_ctrl_c()

    assert outer.cancelled


def test_a_handler_set_inside_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with cancel_on_sigint(CancelToken()):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        kept = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert signal.SIG_IGN == kept


def test_several_signals_share_the_first_turn() -> None:
    token = CancelToken()
    with pytest.raises(KeyboardInterrupt), cancel_on_signals(token, signal.SIGINT, signal.SIGTERM):
        send(signal.SIGTERM, signal.SIGINT)

    assert token.reason is not None
    assert "SIGTERM" == token.reason.message


WAITS: dict[str, Callable[[CancelToken], Any]] = {
    "wait": lambda token: token.wait(),
    "sleep": lambda token: token.sleep(3600),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_main_thread_that_waits_on_the_token_wakes_up(wait: str) -> None:
    token = CancelToken()
    with cancel_on_sigint(token):
        presser = Call(press_ctrl_c_from_outside)
        try:
            WAITS[wait](token)
        except Cancelled:
            pass
        presser.join()

    assert token.cancelled


def test_a_main_thread_that_blocks_on_a_socket_wakes_up() -> None:
    token = CancelToken()
    near, far = socket.socketpair()
    with near, far, cancel_on_sigint(token):
        presser = Call(press_ctrl_c_from_outside)
        with pytest.raises(Cancelled), shutdown_on_cancel(near, token):
            near.recv(1)
        presser.join()


def test_an_error_in_a_callback_goes_to_the_unraisable_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-S3: raised here, it would surface in whatever line the signal happened to meet."""
    reported: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_value))
    token = CancelToken()
    token.on_cancel(lambda: 1 // 0)
    with cancel_on_sigint(token):
        press_ctrl_c()

    assert 1 == len(reported)
    assert token.cancelled


def test_it_needs_the_main_thread() -> None:
    def work() -> None:
        with cancel_on_sigint(CancelToken()):
            pass

    assert isinstance(Call(work).join().error, ValueError)


def test_it_needs_a_signal() -> None:
    with pytest.raises(ValueError, match="at least one"), cancel_on_signals(CancelToken()):
        pass


def test_a_handler_it_could_not_restore_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with pytest.raises(RuntimeError, match="SIGINT"), cancel_on_sigint(CancelToken()):
        pass


class TestWatcher:
    """For a main thread that is blocked where Python cannot run the handler."""

    def test_a_signal_is_obeyed_where_its_handler_cannot_run(self) -> None:
        """A read of the C library's own, which goes on after a signal, stands for the instructions before any wait."""
        token = CancelToken()
        reading, writing = os.pipe()
        enters = threading.Event()

        def send_when_it_blocks() -> None:
            enters.wait()
            press_ctrl_c_from_outside()

        sender = Call(send_when_it_blocks)
        with cancel_on_sigint(token, watcher=True), token.on_cancel(os.write, writing, b"x"):
            signal.siginterrupt(signal.SIGINT, False)
            enters.set()
            ctypes.CDLL(None).read(reading, ctypes.create_string_buffer(1), 1)
        sender.join()
        os.close(reading)
        os.close(writing)

        assert token.reason is not None
        assert ("signal", "SIGINT") == (token.reason.kind, token.reason.message)

    def test_one_signal_is_one_whoever_takes_it_and_the_next_block_s_is_another(self) -> None:
        for _ in range(100):  # whichever of the two comes first
            token = CancelToken()
            with cancel_on_sigint(token, watcher=True):
                press_ctrl_c_from_outside()
                assert token.wait()
            with pytest.raises(KeyboardInterrupt), cancel_on_sigint(token, watcher=True):
                send(signal.SIGINT)

    def test_two_signals_in_a_block_are_two(self) -> None:
        token = CancelToken()

        def send_two() -> None:
            send(signal.SIGINT)
            assert token.wait()
            send(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt), cancel_on_sigint(token, watcher=True):
            send_two()

    def test_other_signals_are_left_alone_and_whoever_watched_before_is_told(self) -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        heard: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
        outer = signal.set_wakeup_fd(far.fileno())
        token = CancelToken()
        try:
            with cancel_on_sigint(token, watcher=True):
                signal.raise_signal(signal.SIGUSR1)
                told = near.recv(1)
            put_back = signal.set_wakeup_fd(outer)
        finally:
            signal.signal(signal.SIGUSR1, before)
            near.close()
            far.close()

        assert bytes([signal.SIGUSR1]) == told
        assert [signal.SIGUSR1] == heard
        assert not token.cancelled
        assert put_back != -1

    def test_without_a_signal_nothing_happens_and_nothing_is_left(self) -> None:
        token = CancelToken()
        with cancel_on_sigint(token, watcher=True):
            pass

        assert not token.cancelled
        assert -1 == signal.set_wakeup_fd(-1)
        assert not [thread for thread in threading.enumerate() if thread.name == "cancel_token signals"]
