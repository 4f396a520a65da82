"""Where a stop ends, in blocking code. The same for trio and asyncio is in `aio.py`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken


class move_on_cancel:  # noqa: N801  # used like a function, as trio.move_on_after
    """Swallow `Cancelled` of this token and its descendants: `with move_on_cancel(token): ...`.

    For the edge at which a stop has done its work, such as a request handler: web frameworks catch `Exception`
    and would let it out of the application. A `Cancelled` of any other token passes: it is somebody else's stop.

    Out of a `BaseExceptionGroup` it takes those it would swallow and lets the rest pass as a group, as
    `contextlib.suppress` does from Python 3.12 on.

    It interrupts nothing by itself: the block ends where something in it checks the token or blocks under it.

    Args:
        token: Whose stop ends here; children of it count, also closed ones.
    """

    def __init__(self, token: CancelToken) -> None:
        self.token = token
        self.cancelled_caught: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, BaseExceptionGroup):
            ours, rest = error.split(lambda each: self._is_ours(each))  # 3.11 and 3.12 refuse a method
            if ours is None:
                return False
            self.cancelled_caught = True
            if rest is None:
                return True
            try:
                raise rest
            finally:
                del error, ours, rest  # or their tracebacks and this frame would keep each other alive
        if error is None or not self._is_ours(error):
            return False
        self.cancelled_caught = True
        return True

    def _is_ours(self, error: BaseException) -> bool:
        return isinstance(error, Cancelled) and error.token is not None and error.token.is_within(self.token)
