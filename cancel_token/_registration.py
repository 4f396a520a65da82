"""A callback's place on a token, and the two ways to leave it (T-S5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cancel_token._cancellation import thread_state
from cancel_token._tree import unpin

if TYPE_CHECKING:
    from cancel_token._token import CancelToken


class Registration:
    """A callback's place on a token; made by `on_cancel`. A context manager: leaving it is `close()`."""

    __slots__ = ("_token", "_where")

    _token: CancelToken
    _where: str

    def unregister(self) -> bool:
        """Take the callback back, without waiting. May be called anywhere, any number of times.

        Returns:
            True if this call was in time: the callback has not run and will not.
            False if it has run, is running in some thread, or was taken back before.
        """
        token = self._token
        held = token._held
        if held.pop(self, None) is None:
            return False
        if not held and token._links:
            unpin(token)
        return True

    def close(self) -> None:
        """Take the callback back; if it is running in another thread, wait for it.

        When this returns, the callback is not running and will not run: what it uses may be thrown away.
        There are two exceptions, in which it returns at once although the callback may be running:
        inside any callback that a token is running (two callbacks that close each other would wait forever),
        and in a forked child for a callback of a thread that did not come along.
        """
        if self.unregister():
            return
        running = self._token._running
        if running is None or thread_state.callback_depth:
            return
        running.wait_until_done(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "registered" if self in self._token._held else "left"
        return f"<Registration on {self._token!r}, {state}>"
