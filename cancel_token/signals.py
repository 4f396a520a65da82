"""Ctrl-C cancels a token; a second one behaves as usual.

    with cancel_on_sigint(token):
        agent.run("...", token=token)

The handler runs between two bytecodes of the main thread, so it wakes what blocks there: the token's hooks shut the
sockets down, and the interrupted system call, which Python starts again, returns.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from cancel_token._errors import CancelReason
from cancel_token._token import CancelToken

Handler = Callable[[int, FrameType | None], Any] | int | None  # what `signal.getsignal` may answer


@contextlib.contextmanager
def cancel_on_sigint(token: CancelToken) -> Iterator[None]:
    """Let the first Ctrl-C inside the `with` block cancel `token`. See `cancel_on_signals`.

    Args:
        token: What to cancel, with a reason of kind `"signal"`.
    """
    with cancel_on_signals(token, signal.SIGINT):
        yield


@contextlib.contextmanager
def cancel_on_signals(token: CancelToken, *signals: signal.Signals) -> Iterator[None]:
    """Let the first of `signals` that arrives inside the `with` block cancel `token`.

    The reason is of kind `"signal"` and names the signal. From then on, and also where the token has been cancelled by
    somebody else before, signals behave as they did outside the block: a second Ctrl-C raises `KeyboardInterrupt`
    unless there is another handler. Leaving the block restores the handlers, unless somebody has set others meanwhile.
    Blocks nest: the innermost takes the first signal, the next one out the second.

    An error in a callback of the token goes to `sys.unraisablehook`: raised here, it would surface in whatever line of
    the main thread the signal happened to meet.

    Args:
        token: What to cancel.
        *signals: For example `signal.SIGINT, signal.SIGTERM`.

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

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is cancel:
                signal.signal(number, handler)

    def cancel(number: int, frame: FrameType | None) -> None:
        restore()
        if token.cancelled:  # somebody else's stop has not freed the caller: this is a second one
            signal.raise_signal(number)
            return
        token.cancel_and_report(CancelReason("signal", signal.Signals(number).name))

    try:
        for number in before:
            signal.signal(number, cancel)
        yield
    finally:
        restore()
