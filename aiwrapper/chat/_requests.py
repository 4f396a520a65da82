"""What a page may send, and how much of it: the bodies of docs/chatapp.md."""

from contextlib import aclosing
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from aiwrapper.chat._attachments import MAX_ATTACHMENT_BYTES, TooLarge

T = TypeVar("T", bound=msgspec.Struct)

MAX_TEXT_CHARACTERS: Final = 200_000
"""Of one message; by hand: about 50,000 tokens."""

MAX_BODY_BYTES: Final = 4 * MAX_TEXT_CHARACTERS + 64 * 1024
"""Of one request: four bytes are the most that a character takes, and there is room for the rest."""

MAX_UPLOAD_BYTES: Final = MAX_ATTACHMENT_BYTES * 4 // 3 + 64 * 1024
"""Of one attachment in base64."""

MAX_TITLE_CHARACTERS: Final = 200
MAX_NAME_CHARACTERS: Final = 200
"""Of an attachment's name, the rest of which is left out."""


class Send(msgspec.Struct):
    """Say something at the head."""

    run_id: str
    text: str = ""
    attachments: tuple[str, ...] = ()


class Edit(Send, kw_only=True):
    """Say something else instead of a message."""

    message_id: str


class Retry(msgspec.Struct):
    """Answer anew."""

    run_id: str
    message_id: str


class Run(msgspec.Struct):
    """Continue, or stop, this run."""

    run_id: str


class Switch(msgspec.Struct):
    """Go on below another message."""

    message_id: str


class Title(msgspec.Struct):
    """Give a title."""

    title: str


class Settings(msgspec.Struct):
    """Change the settings that are there."""

    model: str | msgspec.UnsetType | None = msgspec.UNSET
    instructions: str | msgspec.UnsetType | None = msgspec.UNSET
    tools: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET


class Nothing(msgspec.Struct):
    """No more to say than the path does."""


class Upload(msgspec.Struct):
    """Keep an attachment; `data` is base64."""

    name: str
    media_type: str
    data: str


async def read_body(request: Request, kind: type[T], *, limit: int = MAX_BODY_BYTES) -> T:
    """The body of a request.

    Raises:
        TooLarge: it has more than `limit` bytes; no more than that were read.
        ValueError: it is not what is asked for.
    """
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"a request has at most {limit:,} bytes here")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the body is not what is asked for: {error}") from error
