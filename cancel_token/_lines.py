"""What a request has in hand, whatever library sends it: its token, its connection's line, its place in the queue.

`_connections.py` builds on it for urllib3, `_httpcore.py` for httpcore and httpcore2.
"""

import contextlib
import queue
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from cancel_token._token import CancelToken
from cancel_token.sockets import SocketHook

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


class PoolQueue(queue.LifoQueue[Any]):  # Any: for urllib3 connections or None, for httpcore None alone
    """A queue of free places whose blocking `get` obeys the token."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._waiting: dict[queue.SimpleQueue[None], None] = {}

    def _put(self, item: Any) -> None:
        super()._put(item)
        # All are woken, one gets it: so a waiter who leaves in this moment takes no wake-up away with him.
        for bell in tuple(self._waiting):
            bell.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the newest item, waiting for one until the token is cancelled.

        After a stop it raises Empty, which the caller reports as the stop. A `Cancelled` from here would let urllib3
        return to the pool a connection that was never taken.
        """
        try:
            return super().get(block=False)
        except queue.Empty:
            if not block:
                raise
        token = bound_token()
        give_up_at = None if timeout is None else time.monotonic() + timeout
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # no Condition: a signal handler may ring it
        self._waiting[bell] = None
        try:
            with token.on_cancel(bell.put, None):
                while True:
                    try:
                        return super().get(block=False)
                    except queue.Empty:
                        if token.cancelled:
                            raise
                        bell.get(
                            timeout=None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
                        )
        finally:
            self._waiting.pop(bell, None)
