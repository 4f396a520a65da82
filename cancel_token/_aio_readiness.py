"""Which of the descriptors that a loop's tasks wait for can be read: one descriptor of the loop's, for all of them.

The loops' own ways are made for few waits. asyncio's takes some ten calls to begin and to end one, trio's fewer; with
thousands of streams, which wait anew after each event, that was a third of what an event cost. Here a wait is begun
by one system call and ended by none, and those that are over at the same time cost the loop one wake-up.

A descriptor is armed once for each wait, and disarmed by the kernel when it says that it can be read. What is closed
is forgotten by the kernel, too, at the latest with the last duplicate of it. So there is nothing here that could be
wrong about a descriptor: what is armed and not waited for any more wakes nobody, or, if its number was given away
meanwhile, somebody who looks and waits again.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cancel_token._aio_binding import Binding

IS_SUPPORTED: Final = hasattr(select, "epoll")
"""Whether there is a `Readiness` here: on Linux."""

if IS_SUPPORTED:
    _ARMED: Final = select.EPOLLIN | select.EPOLLONESHOT


class Readiness:
    """Of one loop. All but `leave` is for the loop's thread."""

    __slots__ = ("__weakref__", "_epoll", "_waiting", "users")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Binding, Callable[[], object]]] = {}  # by the descriptor
        self.users: dict[Binding, None] = {}
        """Those who have waited, and not said that they are through with it. When there is none, it can be closed."""

    def fileno(self) -> int:
        """Give the descriptor that can be read when `serve` has something to do."""
        return self._epoll.fileno()

    def serve(self) -> None:
        """Wake those whose descriptors can be read; if they are very many, some of them."""
        waiting = self._waiting
        try:
            for descriptor, _ in self._epoll.poll(0):
                served = waiting.pop(descriptor, None)
                if served is not None:
                    served[0].wake()
        except BaseException:  # a Ctrl-C: what the kernel has said it does not say again
            self.wake_all()
            raise

    def wake_all(self) -> None:
        """Wake everybody, to look and to wait again."""
        for binding, _ in [*self._waiting.values()]:
            binding.wake()

    def arm(self, descriptor: int, binding: Binding, lost: Callable[[], object]) -> None:
        """Have `binding` woken once when the descriptor can be read; `lost` is for `lose`."""
        self.users[binding] = None
        self._waiting[descriptor] = (binding, lost)
        try:
            self._epoll.modify(descriptor, _ARMED)
        except FileNotFoundError:  # its first time
            self._epoll.register(descriptor, _ARMED)

    def disarm(self, descriptor: int, binding: Binding) -> None:
        """Wake `binding` no more."""
        served = self._waiting.get(descriptor)
        if served is not None and served[0] is binding:
            del self._waiting[descriptor]

    def leave(self, binding: Binding) -> bool:
        """Note that no wait comes from there for now. Whether it was the last one. From any thread."""
        return self.users.pop(binding, binding) is None and not self.users

    def lose(self) -> None:
        """Tell those who still wait that nobody will wake them any more."""
        lost = [lost for _, lost in self._waiting.values()]
        self._waiting.clear()
        for each in lost:
            each()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()
