"""A stream of server-sent events that follows one chat: what a page is told, from where it says it is.

A stream owns nothing. When its page goes away, it ends, and the run goes on; when the page comes back, it says which
entry of the log it has seen, and is told what came since.
"""

from typing import Final

import anyio

from aiwrapper._core.errors import StoreError
from aiwrapper.chat._security import Message, Receive, Send
from aiwrapper.chat._shapes import dump
from aiwrapper.chat._state import ChatState
from aiwrapper.chat._view import ChatView
from aiwrapper.chat.data import ChatAppData
from aiwrapper.store import UnknownConversation
from cancel_token import CancelToken
from cancel_token.aio import run_sync, wait_cancelled

HEARTBEAT_SECONDS: Final = 15.0
"""How long a stream is silent at most, so that a network that died without a word is noticed. Proxies cut silent
streams at 30 s (AWS), 55 s (Heroku), 60 s (nginx, Quart)."""

RECONNECT_MILLISECONDS: Final = 1_000
"""When a browser tries again after the line broke; its own default is some seconds."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events otherwise
]


class EventStream:
    """The answer to one page that follows a chat: an ASGI application.

    Args:
        data: the chats.
        chat_id: the chat, which exists.
        told: what the page has seen; None for nothing.
        heartbeat_seconds: how long it is silent at most.
    """

    def __init__(
        self, data: ChatAppData, chat_id: str, told: ChatState | None, *, heartbeat_seconds: float
    ) -> None:
        self._data = data
        self._chat_id = chat_id
        self._view = ChatView(chat_id, told)
        self._heartbeat_seconds = heartbeat_seconds
        self._kind = "snapshot" if told is None else "change"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send events until the page goes away, the chat is deleted, or the chats are closed."""
        async with anyio.create_task_group() as tasks:

            async def watch_page() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch_page)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._send(send, f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
            try:
                await self._follow(send)
            except OSError:  # the line broke: some servers say it so (ASGI 2.4)
                pass
            except StoreError:
                if not self._data.closing:  # else it was closed under our reading
                    raise
            else:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            tasks.cancel_scope.cancel()

    async def _follow(self, send: Send) -> None:
        with CancelToken(name=f"stream of {self._chat_id}") as token:
            while True:
                with self._data.listening(self._chat_id, token) as wake:
                    leaving = (
                        self._data.closing
                    )  # before looking: the runs have ended by then, and that is told
                    state = self._data.latest_nowait(self._chat_id)
                    if state is not None and self._view.is_quick(state):
                        event, is_last = self._event(state)
                    else:
                        event, is_last = await run_sync(self._next_event)
                    if event is not None:
                        await self._send(send, event)
                    if is_last or leaving:
                        return
                    with anyio.move_on_after(self._heartbeat_seconds) as silence:
                        await wait_cancelled(wake)
                if silence.cancelled_caught:
                    await self._send(send, b": still here\n\n")
                    # A run elsewhere may have died, and not every program that writes tells us.
                    await run_sync(self._note_crash)

    def _next_event(self) -> tuple[bytes | None, bool]:
        """What is new, and whether nothing will come after it."""
        return self._event(self._data.latest(self._chat_id))

    def _event(self, state: ChatState) -> tuple[bytes | None, bool]:
        running = state.running
        stopping = running is not None and self._data.is_stopping(self._chat_id, running)
        change = self._view.change(state, stopping=stopping)
        if change is None:
            return None, state.log.deleted
        kind, self._kind = self._kind, "change"
        data = dump(change).decode()
        return f"id: {state.position}\nevent: {kind}\ndata: {data}\n\n".encode(), state.log.deleted

    def _note_crash(self) -> None:
        try:
            self._data.note_crash(self._chat_id)
        except UnknownConversation:
            pass  # deleted meanwhile, which the next event says

    async def _send(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
