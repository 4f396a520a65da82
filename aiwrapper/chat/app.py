"""The chats as a web application. docs/chatapp.md is what it promises to its page."""

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from aiwrapper._core.errors import Busy, StoreError
from aiwrapper._core.messages import Text, UserPart
from aiwrapper._core.text import is_blank
from aiwrapper.chat._answering import Asked, Leaving, Running, UnknownMessage
from aiwrapper.chat._attachments import (
    IMAGE_TYPES,
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    TEXT_TYPES,
    BadAttachment,
    TooLarge,
    UnknownAttachment,
)
from aiwrapper.chat._events import HEARTBEAT_SECONDS, EventStream
from aiwrapper.chat._requests import (
    MAX_NAME_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    MAX_UPLOAD_BYTES,
    Edit,
    Nothing,
    Retry,
    Run,
    Send,
    Settings,
    Switch,
    Title,
    Upload,
    read_body,
)
from aiwrapper.chat._security import Guard, Message, Receive
from aiwrapper.chat._security import Send as SendMessage
from aiwrapper.chat._shapes import dump
from aiwrapper.chat._state import ChatState, Configuration
from aiwrapper.chat._view import ChatView
from aiwrapper.chat.data import ChatAppData
from aiwrapper.chat.wrap import WrapChatAgent
from aiwrapper.store import UnknownConversation
from cancel_token.aio import run_sync

STATIC: Final = Path(__file__).with_name("static")


class ChatApp:
    """The chats as a web application, for any ASGI server, on trio and on asyncio; mount it wherever you like.

    It starts nothing and ends nothing: whoever makes `wrapped` closes it, and then its data.

    Args:
        wrapped: the chats, and who answers in them.
        hosts: the names, without port, by which the server is called; a request with another `Host` is refused. None
            if the application around this one, or a proxy, looks at that.
        token: a secret that every request has to know; None if everybody who reaches the server may ask.
        owner: who asks, for an application with several users: each sees their own chats only. What it returns is kept
            with each chat. It is called with the request, and raises Starlette's `HTTPException` for nobody.
        heartbeat_seconds: how long a stream is silent at most.
    """

    def __init__(
        self,
        wrapped: WrapChatAgent,
        *,
        hosts: Collection[str] | None = None,
        token: str | None = None,
        owner: Callable[[Request], str] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.wrapped = wrapped
        self.data: ChatAppData = wrapped.data
        self._owner = owner
        self._heartbeat_seconds = heartbeat_seconds
        starlette = Starlette(
            routes=self._routes(),
            exception_handlers=dict.fromkeys((*_REFUSALS, HTTPException, ClientDisconnect), _refused),
        )
        self._app = Guard(starlette, hosts=hosts, token=token)

    async def __call__(self, scope: Message, receive: Receive, send: SendMessage) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    def _routes(self) -> list[BaseRoute]:
        chat = "/api/chats/{chat}"
        changes: dict[str, Callable[[Request, str], Awaitable[Response]]] = {
            "send": self._send,
            "edit": self._edit,
            "retry": self._retry,
            "continue": self._continue,
            "stop": self._stop,
            "switch": self._switch,
            "title": self._title,
            "configure": self._configure,
            "delete": self._delete,
            "attachments": self._attach,
        }
        return [
            Route("/", self._page),
            Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
            Route("/api/options", self._options),
            Route("/api/chats", self._chats, methods=["GET"]),
            Route("/api/chats", self._create, methods=["POST"]),
            Route(chat, self._of_chat(self._snapshot)),
            Route(f"{chat}/events", self._of_chat(self._events)),
            Route(f"{chat}/attachments/{{hash}}", self._of_chat(self._attachment)),
            *(
                Route(f"{chat}/{name}", self._of_chat(answer), methods=["POST"])
                for name, answer in changes.items()
            ),
        ]

    def _of_chat(
        self, answer: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Answer for a chat of whoever asks; for somebody else's as for one that is not there."""

        async def for_owner(request: Request) -> Response:
            chat_id = request.path_params["chat"]
            if not self.data.knows_owner(chat_id):
                await run_sync(self.data.owner, chat_id)
            if self.data.owner(chat_id) != self._who(request):
                raise UnknownConversation("There is no such chat.")
            return await answer(request, chat_id)

        return for_owner

    def _who(self, request: Request) -> str | None:
        return None if self._owner is None else self._owner(request)

    # Reading

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def _options(self, request: Request) -> Response:
        return _json(
            {
                "models": list(self.wrapped.models),
                "tools": list(self.wrapped.agent.tools),
                "limits": {
                    "text_characters": MAX_TEXT_CHARACTERS,
                    "attachment_bytes": MAX_ATTACHMENT_BYTES,
                    "attachments": MAX_ATTACHMENTS,
                },
                "attachment_types": [*IMAGE_TYPES, *TEXT_TYPES],
            }
        )

    async def _chats(self, request: Request) -> Response:
        who = self._who(request)

        def chats() -> list[dict[str, Any]]:  # Any: JSON
            return [
                {
                    "id": summary.id,
                    "title": summary.title or "",
                    "preview": summary.preview,
                    "updated_at": summary.updated_at,
                    "running": self.data.is_answering(summary.id),
                }
                for summary in self.data.list(owner=who)
            ]

        return _json({"chats": await run_sync(chats)})

    async def _snapshot(self, request: Request, chat_id: str) -> Response:
        def snapshot() -> bytes:
            self.data.note_crash(chat_id)
            state = self.data.state(chat_id)
            stopping = state.running is not None and self.data.is_stopping(chat_id, state.running)
            change = ChatView(chat_id).change(state, stopping=stopping)
            assert change is not None  # a new view always has something to tell
            return dump(change)

        return _json_text(await run_sync(snapshot))

    async def _events(self, request: Request, chat_id: str) -> Response:
        seen = request.headers.get("last-event-id") or request.query_params.get("after", "")

        def told() -> ChatState | None:
            self.data.note_crash(chat_id)
            if not (seen.isascii() and seen.isdigit() and len(seen) < 16):  # no position at all
                return None
            return self.data.state_at(chat_id, int(seen))

        seen_state = await run_sync(told)
        return _Raw(EventStream(self.data, chat_id, seen_state, heartbeat_seconds=self._heartbeat_seconds))

    async def _attachment(self, request: Request, chat_id: str) -> Response:
        attachment = await run_sync(self.data.attachments.get, chat_id, request.path_params["hash"])
        media_type = (
            attachment.media_type if attachment.media_type in IMAGE_TYPES else "text/plain; charset=utf-8"
        )
        headers = {
            "cache-control": "private, max-age=31536000, immutable",  # its name is its content
            "content-security-policy": "default-src 'none'; sandbox",
        }
        return Response(attachment.content, media_type=media_type, headers=headers)

    # Changing

    async def _create(self, request: Request) -> Response:
        settings = await read_body(request, Settings)
        who = self._who(request)
        configuration = self._configured(Configuration(owner=who), settings)
        chat_id = await run_sync(
            self.data.create, None if configuration == Configuration() else configuration
        )
        return _json({"id": chat_id})

    async def _send(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Send)

        def send() -> Asked:
            return self.data.send_message(chat_id, self._said(chat_id, body), run_id=body.run_id)

        return _asked(await run_sync(send))

    async def _edit(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Edit)

        def edit() -> Asked:
            said = self._said(chat_id, body)
            return self.data.edit_message(chat_id, body.message_id, said, run_id=body.run_id)

        return _asked(await run_sync(edit))

    async def _retry(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Retry)
        asked = await run_sync(self.data.retry_message, chat_id, body.message_id, run_id=body.run_id)
        return _asked(asked)

    async def _continue(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Run)
        return _asked(await run_sync(self.data.continue_message, chat_id, run_id=body.run_id))

    async def _stop(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Run)
        self.data.stop_message_nowait(chat_id, body.run_id)  # now, and not when a thread has begun
        receipt = await run_sync(self.data.stop_message, chat_id, body.run_id)
        status = None if receipt.run is None else receipt.run.status
        return _json({"state": receipt.state, "status": status, "running": receipt.running})

    async def _switch(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Switch)
        return _position(await run_sync(self.data.switch_branch, chat_id, body.message_id))

    async def _title(self, request: Request, chat_id: str) -> Response:
        body = await read_body(request, Title)
        title = " ".join(body.title.split())
        if len(title) > MAX_TITLE_CHARACTERS:
            raise TooLarge(f"a title has at most {MAX_TITLE_CHARACTERS} characters")
        return _position(await run_sync(self.data.set_title, chat_id, title))

    async def _configure(self, request: Request, chat_id: str) -> Response:
        settings = await read_body(request, Settings)

        def change(before: Configuration) -> Configuration:
            return self._configured(before, settings)

        return _position(await run_sync(self.data.configure, chat_id, change))

    async def _delete(self, request: Request, chat_id: str) -> Response:
        await read_body(request, Nothing)
        return _position(await run_sync(self.data.delete, chat_id))

    async def _attach(self, request: Request, chat_id: str) -> Response:
        upload = await read_body(request, Upload, limit=MAX_UPLOAD_BYTES)
        try:
            content = b64decode(upload.data, validate=True)
        except binascii.Error:
            raise ValueError("the data is no base64") from None
        kept = await run_sync(
            self.data.attach,
            chat_id,
            name=upload.name[:MAX_NAME_CHARACTERS],
            media_type=upload.media_type,
            content=content,
        )
        return _json(
            {"hash": kept.hash, "name": kept.name, "media_type": kept.media_type, "bytes": len(content)}
        )

    def _said(self, chat_id: str, body: Send) -> list[UserPart]:
        """What the user says with a request."""
        if len(body.text) > MAX_TEXT_CHARACTERS:
            raise TooLarge(f"a message has at most {MAX_TEXT_CHARACTERS:,} characters")
        if len(body.attachments) > MAX_ATTACHMENTS:
            raise TooLarge(f"a message has at most {MAX_ATTACHMENTS} attachments")
        parts: list[UserPart] = [self.data.attachments.get(chat_id, each).part for each in body.attachments]
        return parts if is_blank(body.text) and parts else [*parts, Text(body.text)]

    def _configured(self, before: Configuration, settings: Settings) -> Configuration:
        """The settings with what a request changes of them."""
        given = {
            name: value
            for name in ("model", "instructions", "tools")
            if (value := getattr(settings, name)) is not msgspec.UNSET
        }
        configuration = msgspec.structs.replace(before, **given)
        if len(configuration.instructions or "") > MAX_TEXT_CHARACTERS:
            raise TooLarge(f"instructions have at most {MAX_TEXT_CHARACTERS:,} characters")
        self.wrapped.configurable(configuration)
        return configuration


class _Raw(Response):
    """A response that is an ASGI application of its own."""

    def __init__(self, app: Callable[[Message, Receive, SendMessage], Awaitable[None]]) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: SendMessage) -> None:
        await self._app(scope, receive, send)


# The first that fits counts: a class stands before those it derives from.
_REFUSALS: Final[dict[type[Exception], tuple[int, str]]] = {
    UnknownConversation: (404, "not_found"),
    UnknownMessage: (404, "not_found"),
    UnknownAttachment: (404, "not_found"),
    Running: (409, "running"),
    Busy: (409, "busy"),
    TooLarge: (413, "too_large"),
    BadAttachment: (415, "media_type"),
    Leaving: (503, "leaving"),
    StoreError: (507, "store"),
    ValueError: (400, "bad_request"),
}


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        codes = {401: "token", 403: "forbidden", 404: "not_found"}
        return _error(error.status_code, codes.get(error.status_code, "bad_request"), error.detail)
    if isinstance(error, ClientDisconnect):
        return _error(400, "bad_request", "the body did not arrive")  # which nobody will read
    status, code = next(refusal for kind, refusal in _REFUSALS.items() if isinstance(error, kind))
    words = (
        "There is no such thing here." if status == 404 else str(error)
    )  # the same for unknown and foreign
    return _error(status, code, words)


def _asked(asked: Asked) -> Response:
    return _json(
        {"run_id": asked.run_id, "message_id": asked.message_id, "position": asked.position}, status=202
    )


def _position(position: int) -> Response:
    return _json({"position": position})


def _error(status: int, code: str, words: str) -> Response:
    return _json({"error": code, "message": words}, status=status)


def _json(value: object, *, status: int = 200) -> Response:
    return _json_text(msgspec.json.encode(value), status=status)


def _json_text(text: bytes, *, status: int = 200) -> Response:
    return Response(text, status, {"cache-control": "no-store"}, media_type="application/json")
