"""Ctrl-C cancels a token; a second one behaves as usual.

    with cancel_on_sigint(token):
        agent.run("...", token=token)

The handler runs between two bytecodes of the main thread, so it wakes what blocks there: the token's hooks shut the
sockets down, and the interrupted system call, which Python starts again, returns.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from cancel_token._errors import CancelReason
from cancel_token._token import CancelToken

Handler = Callable[[int, FrameType | None], Any] | int | None  # what `signal.getsignal` may answer


@contextlib.contextmanager
def cancel_on_sigint(token: CancelToken, *, watcher: bool = False) -> Iterator[None]:
    """Let the first Ctrl-C inside the `with` block cancel `token`. See `cancel_on_signals`.

    Args:
        token: What to cancel, with a reason of kind `"signal"`.
        watcher: As for `cancel_on_signals`.
    """
    with cancel_on_signals(token, signal.SIGINT, watcher=watcher):
        yield


@contextlib.contextmanager
def cancel_on_signals(token: CancelToken, *signals: signal.Signals, watcher: bool = False) -> Iterator[None]:
    """Let the first of `signals` that arrives inside the `with` block cancel `token`.

    The reason is of kind `"signal"` and names the signal. From then on, and also where the token has been cancelled by
    somebody else before, signals behave as they did outside the block: a second Ctrl-C raises `KeyboardInterrupt`
    unless there is another handler. Leaving the block restores the handlers, unless somebody has set others meanwhile.
    Blocks nest: the innermost takes the first signal, the next one out the second.

    Python runs a handler in the main thread alone, between two bytecodes. A signal that comes after the last bytecode
    before a blocking call and before the call itself is noted and not handled until the call ends: a second Ctrl-C ends
    it. On a busy machine that is not rare, so a program whose main thread blocks should ask for a watcher.

    An error in a callback of the token goes to `sys.unraisablehook`: raised here, it would surface in whatever line of
    the main thread the signal happened to meet.

    Args:
        token: What to cancel.
        *signals: For example `signal.SIGINT, signal.SIGTERM`.
        watcher: Let a thread of its own cancel the token, too, however the main thread is blocked. It takes the
            descriptor of `signal.set_wakeup_fd` for the block, which an event loop that is started inside wants for
            itself; one that runs already is told all the same.

    Raises:
        ValueError: No signal is given, or this is not the main thread: only there Python handles signals.
        RuntimeError: A signal's handler was set by code outside Python, and could not be restored.
    """
    if not signals:
        raise ValueError("cancel_on_signals needs at least one signal")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be handled in the main thread only")
    before: dict[int, Handler] = {number: signal.getsignal(number) for number in signals}
    for number, handler in before.items():
        if handler is None:
            raise RuntimeError(f"the handler of {signal.Signals(number).name} was not set by Python")
    first = [None]  # popped by whoever takes the first signal, the handler or the watcher
    watched: list[int] = []  # the signal that the watcher has taken, until its handler has run

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is cancel:
                signal.signal(number, handler)

    def take(number: int) -> None:
        token.cancel_and_report(CancelReason("signal", signal.Signals(number).name))

    def cancel(number: int, frame: FrameType | None) -> None:
        restore()
        if number in watched:
            watched.remove(number)
            return  # the watcher was faster
        if (
            token.cancelled or not first
        ):  # somebody else's stop has not freed the caller: this is a second one
            signal.raise_signal(number)
            return
        first.pop()
        take(number)

    def watch(number: int) -> None:
        if number not in before or token.cancelled:
            return
        watched.append(number)  # before the claim: the handler may run at any moment
        try:
            first.pop()
        except IndexError:
            watched.remove(number)
            return
        take(number)

    try:
        for number in before:
            signal.signal(number, cancel)
        with _watching(watch) if watcher else contextlib.nullcontext():
            yield
    finally:
        restore()


@contextlib.contextmanager
def _watching(told: Callable[[int], None]) -> Iterator[None]:
    """Tell of every signal's number, in a thread of its own, as soon as the process has got it."""
    near, far = socket.socketpair()
    far.setblocking(False)
    others = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := near.recv(1):
            if others != -1:
                with contextlib.suppress(
                    OSError
                ):  # full, or gone: its owner has been told before, or is no more
                    os.write(others, number)
            told(number[0])

    thread = threading.Thread(target=watch, name="cancel_token signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(others)
        far.close()
        thread.join()
        near.close()
