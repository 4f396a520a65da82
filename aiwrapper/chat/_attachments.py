"""What a person attaches to a message: images and texts, kept by content until the message is sent, and shown after.

An attachment is a file beside the store, named by the SHA-256 of its bytes, in a folder of its chat, so the hash of
somebody else's attachment is worth nothing. What it is is decided by its bytes, never by what the sender says. The log
holds what the model is given; a file that is gone takes nothing from the conversation.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

import msgspec
from attrs import frozen

from aiwrapper._core.errors import AiwrapperError, StoreError
from aiwrapper._core.messages import Image, Text, UserPart
from aiwrapper._core.text import is_blank

MAX_ATTACHMENT_BYTES: Final = 4 * 1024 * 1024
"""Chosen by hand: below the 5 MB that Anthropic takes for an image (vision guide, read 2026-11-26)."""

MAX_TEXT_BYTES: Final = 256 * 1024
"""Chosen by hand: about 64,000 tokens, half of what most models have room for."""

MAX_ATTACHMENTS: Final = 8
"""In one message; chosen by hand."""

IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
TEXT_TYPES: Final = ("text/plain", "text/markdown", "text/csv", "application/json")

_SIGNATURES: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_FILE: Final = re.compile(r'<attachment name="(?P<name>[^"\n]*)">\n(?P<text>.*)\n</attachment>', re.DOTALL)


class BadAttachment(AiwrapperError, ValueError):
    """It is not of the type it is said to be, or of none that is taken."""


class TooLarge(AiwrapperError, ValueError):
    """It is larger than what is taken."""


class UnknownAttachment(AiwrapperError, LookupError):
    """The chat has no attachment of this hash."""


@frozen(kw_only=True)
class Attachment:
    """Something that is kept.

    Args:
        hash: SHA-256 of the bytes, in hexadecimal.
        name: the file name it came with.
        media_type: one of `IMAGE_TYPES` or `TEXT_TYPES`.
        content: the bytes.
    """

    hash: str
    name: str
    media_type: str
    content: bytes

    @property
    def part(self) -> UserPart:
        """What a model is given of it."""
        if self.media_type in IMAGE_TYPES:
            return Image(self.media_type, base64.b64encode(self.content).decode())
        name = re.sub(r'["\r\n]', "_", self.name)
        return Text(f'<attachment name="{name}">\n{self.content.decode()}\n</attachment>')


class _Label(msgspec.Struct):
    name: str
    media_type: str


class Attachments:
    """The attachments of all chats of one store.

    Args:
        folder: where they are kept; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, chat_id: str, *, name: str, media_type: str, content: bytes) -> Attachment:
        """Keep an attachment. The same bytes twice are one.

        Raises:
            TooLarge: it has more bytes than are taken.
            BadAttachment: its bytes are not what it is said to be.
            StoreError: it could not be written.
        """
        limit = MAX_ATTACHMENT_BYTES if media_type in IMAGE_TYPES else MAX_TEXT_BYTES
        if len(content) > limit:
            raise TooLarge(f"{name!r} has {len(content):,} bytes; at most {limit:,} are taken")
        _judge(name, media_type, content)
        attachment = Attachment(
            hash=hashlib.sha256(content).hexdigest(), name=name, media_type=media_type, content=content
        )
        place = self._folder / chat_id
        label = msgspec.json.encode(_Label(name, media_type))
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The label last: who finds it finds the content, too.
            _write(place / attachment.hash, content)
            _write(place / f"{attachment.hash}.json", label)
        except OSError as error:
            raise StoreError(f"The attachment {name!r} could not be kept: {error.strerror}.") from error
        return attachment

    def get(self, chat_id: str, digest: str) -> Attachment:
        """An attachment of a chat.

        Raises:
            UnknownAttachment: the chat has none of this hash.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise UnknownAttachment("no such attachment")
        place = self._folder / chat_id
        try:
            label = msgspec.json.decode((place / f"{digest}.json").read_bytes(), type=_Label)
            content = (place / digest).read_bytes()
        except (OSError, msgspec.DecodeError):
            raise UnknownAttachment("no such attachment") from None
        return Attachment(hash=digest, name=label.name, media_type=label.media_type, content=content)


def attached_text(part: Text) -> tuple[str | None, str]:
    """The name and the text of an attached text; what a person wrote has no name."""
    file = _FILE.fullmatch(part.text)
    return (None, part.text) if file is None else (file["name"], file["text"])


def image_hash(image: Image) -> str:
    """The hash by which an image that was attached is found again."""
    try:
        content = base64.b64decode(image.data)
    except binascii.Error:  # another program's: nothing will be found
        content = b""
    return hashlib.sha256(content).hexdigest()


def text_hash(text: str) -> str:
    """The hash by which a text that was attached is found again."""
    return hashlib.sha256(text.encode()).hexdigest()


def _judge(name: str, media_type: str, content: bytes) -> None:
    if media_type in IMAGE_TYPES:
        found = next((known for signature, known in _SIGNATURES if signature.match(content)), None)
        if found != media_type:
            raise BadAttachment(f"{name!r} is not {media_type}, by its first bytes")
    elif media_type in TEXT_TYPES:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise BadAttachment(f"{name!r} is no text in UTF-8") from None
        if is_blank(text) or "\0" in text:
            raise BadAttachment(f"{name!r} is no text, or has nothing in it")
    else:
        raise BadAttachment(f"{media_type!r} is not taken: {', '.join((*IMAGE_TYPES, *TEXT_TYPES))}")


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
