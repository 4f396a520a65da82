"""What a request has in hand, whatever library sends it: its token, its connection's line, its place in the queue.

`_connections.py` builds on it for urllib3, `_httpcore.py` for httpcore and httpcore2.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from cancel_token._token import CancelToken
from cancel_token.sockets import SocketHook

T = TypeVar("T")

_bound: ContextVar[CancelToken | None] = ContextVar("cancel_token.http", default=None)


def bound_token() -> CancelToken:
    """Return the token that requests of this context obey: `never()` where none is bound."""
    token = _bound.get()
    return CancelToken.never() if token is None else token


@contextlib.contextmanager
def use_token(token: CancelToken) -> Iterator[None]:
    """Let every request inside the `with` block obey `token`, wherever in the call tree it is made.

    It reaches all code that knows nothing of tokens and sends through a `CancellableAdapter` (`cancel_token.http`) or
    a client made `stoppable` (`cancel_token.httpx`), in this thread or task; a new thread starts without it unless it
    runs in a copy of the context. `token=` of a single request goes before it. The innermost block counts alone: use
    `CancelToken.any(...)` or a child to obey an outer one, too.

    Args:
        token: The token to obey. `CancelToken.never()` shields from an outer block.

    Raises:
        ValueError: The block is left in another context than it was entered in, for instance as part of a generator
            that a web framework runs in threads; there it reaches nobody either.
    """
    reset = _bound.set(token)
    try:
        yield
    finally:
        _bound.reset(reset)


class Line:
    """The hook of one connection, the token that may pull it now, and those who hold it."""

    __slots__ = ("_holders", "hook", "token")

    def __init__(self, hook: SocketHook, token: CancelToken) -> None:
        self.hook = hook
        self.token: CancelToken | None = token  # the hook is bound to it; None: to none
        self._holders: dict[
            int, None
        ] = {}  # a dict for its atomic pop: a finalizer may let go at any bytecode

    def bind(self, token: CancelToken) -> None:
        """Belong to `token`'s request from now on."""
        if self.token is not token:
            self.token = token
            self.hook.bind(token)

    def release(self) -> bool:
        """Belong to no request; say whether the connection may carry another one."""
        self._end_if_stopped()
        self.token = None
        return self.hook.release()

    def hold(self, holder: object) -> None:
        """Keep the hook open until `holder` lets go."""
        self._holders[id(holder)] = None

    def let_go(self, holder: object) -> None:
        """Close the hook if nobody else holds it. May be called twice."""
        self._holders.pop(id(holder), None)
        if not self._holders:
            self._end_if_stopped()
            self.hook.close()

    def _end_if_stopped(self) -> None:
        # The token is flagged before its callbacks run. Who has seen the flag may come here before the hook's turn, and
        # takes it away: a plain close would leave a FIN behind the unsent rest of an upload (T-N6).
        if self.token is not None and self.token.cancelled:
            self.hook.shut_down()


class Waiters:
    """Those who wait, each under a token, for something that others give back."""

    def __init__(self) -> None:
        self._bells: dict[queue.SimpleQueue[None], None] = {}  # no Condition: a signal handler may ring them

    def wake(self) -> None:
        """Say that something has been given back; safe in a finalizer."""
        # All are woken, one gets it: so a waiter who leaves in this moment takes no wake-up away with him.
        for bell in tuple(self._bells):
            bell.put(None)

    def take(self, take_nowait: Callable[[], T], token: CancelToken, timeout: float | None = None) -> T:
        """Call `take_nowait` until it gives something.

        Args:
            take_nowait: Raises Empty or IndexError while there is nothing.
            token: Ends the wait.
            timeout: Seconds to wait at most.

        Raises:
            Empty: Nothing came in time, or before the token was cancelled: the caller says which.
        """
        try:
            return take_nowait()
        except (queue.Empty, IndexError):
            pass
        give_up_at = None if timeout is None else time.monotonic() + timeout
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._bells[bell] = None
        try:
            with token.on_cancel(bell.put, None):
                while True:
                    try:
                        return take_nowait()
                    except (queue.Empty, IndexError):
                        if token.cancelled:
                            raise queue.Empty from None
                        bell.get(
                            timeout=None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                        )
        finally:
            self._bells.pop(bell, None)
