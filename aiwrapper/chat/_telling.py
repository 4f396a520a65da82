"""Who is told that there may be something new in a chat: threads and tasks that wait, and observers."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from cancel_token import CancelReason, CancelToken

_NEWS = CancelReason("user", "there may be something new")


class Telling:
    """Who wants to be told of which chat. From any thread.

    Whoever waits begins to listen, looks, and then waits: so nothing is missed that happens in between.
    """

    def __init__(self) -> None:
        self._leaving = CancelToken(name="chats")
        self._lock = threading.Lock()  # guards what follows
        self._listeners: dict[str, dict[CancelToken, None]] = {}
        self._observers: list[Callable[[str, int], object]] = []

    @property
    def left(self) -> bool:
        """Whether nobody is told anything any more."""
        return self._leaving.cancelled

    def leave(self) -> None:
        """Wake everybody, now and for ever."""
        self._leaving.cancel(CancelReason("shutdown", "the chats are being closed"))

    @contextmanager
    def listening(self, chat_id: str, token: CancelToken) -> Iterator[CancelToken]:
        """A token that is cancelled when there may be something new, when `token` is, and when we leave."""
        with CancelToken.any(self._leaving, token) as wake:
            with self._lock:
                self._listeners.setdefault(chat_id, {})[wake] = None
            try:
                yield wake
            finally:
                with self._lock:
                    listeners = self._listeners[chat_id]
                    del listeners[wake]
                    if not listeners:
                        del self._listeners[chat_id]

    def listened(self) -> frozenset[str]:
        """The chats that somebody listens to."""
        with self._lock:
            return frozenset(self._listeners)

    def subscribe(self, observer: Callable[[str, int], object]) -> Callable[[], None]:
        """Call `observer` with each change; what is returned ends that."""
        with self._lock:
            self._observers.append(observer)

        def unsubscribe() -> None:
            with self._lock, suppress(ValueError):
                self._observers.remove(observer)

        return unsubscribe

    def tell(self, numbers: Mapping[str, int]) -> None:
        """Tell everybody that these chats have so many entries now, or 0 if it is something else."""
        self.wake(numbers)
        with self._lock:
            observers = tuple(self._observers)
        for observer in observers:
            for chat_id, number in numbers.items():
                observer(chat_id, number)

    def wake(self, chat_ids: Iterable[str]) -> None:
        """Let those who listen to these chats look again."""
        with self._lock:
            listeners = [wake for chat_id in chat_ids for wake in self._listeners.get(chat_id, ())]
        for wake in listeners:
            wake.cancel(_NEWS)
