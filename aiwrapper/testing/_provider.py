"""What a fake must know of a provider: its stream, its errors, where it wants its key.

One file for each provider fulfils `Provider`. All of it is pure; ids and times are made from the number of
the request, so the same script always gives the same bytes.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, Protocol

from attrs import frozen

from aiwrapper._core.dialect import Violation
from aiwrapper.testing.scripts import Block, Call, Redacted, Say, Think, Turn

CREATED = 1_700_000_000
"""The time that every answer claims, in seconds since the epoch."""

SIGNED_BY_FAKE = "fake/"
"""What the payloads begin with that every fake takes for its own, not only the one that gave them out."""


@frozen(kw_only=True)
class Asked:
    """What of a request its answer's bytes depend on.

    Args:
        model: the model that the answer names.
        serial: the number of the request, from 1; the ids in the answer are made from it.
        include_usage: OpenAI streams token counts only if asked to.
    """

    model: str = "fake-model"
    serial: int = 1
    include_usage: bool = True


class Provider(Protocol):
    """A provider's side of its wire protocol."""

    @property
    def base_path(self) -> str:
        """What the base URL, as the official client wants it, ends with."""

    @property
    def path(self) -> str:
        """Where a turn is asked for, from the root."""

    def key(self, headers: Mapping[str, str], /) -> str | None:
        """The key of a request, or None."""

    def missing_header(self, headers: Mapping[str, str], /) -> str | None:
        """What the provider says of a header that is missing, other than the key's; None if none is."""

    def asked(self, body: Mapping[str, Any], /, *, model: str, serial: int) -> Asked:
        """What of a request matters for its answer."""

    def forged_reasoning(self, body: Mapping[str, Any], issued: Set[str], /) -> Violation | None:
        """Rule A6: opaque reasoning that comes back changed, judged by the seals that were given out."""

    def events(self, turn: Turn, asked: Asked, /) -> Iterator[bytes]:
        """A streamed turn, one server-sent event at a time."""

    def whole(self, turn: Turn, asked: Asked, /) -> bytes:
        """The same turn as one JSON body, for a request that asked for no stream."""

    def error(self, status: int, message: str | None = None, /, *, serial: int) -> bytes:
        """The body of an error; the provider's usual words for this status without a message."""

    def wrong_key(self, key: str | None, /, *, serial: int) -> bytes:
        """The body of a 401. As with the real provider, it may show a few letters of the key."""

    def unknown_model(self, model: object, /, *, serial: int) -> bytes:
        """The body of a 404 for a model."""

    def unknown_path(self, method: str, path: str, /, *, serial: int) -> bytes:
        """The body of a 404 for a path."""

    def bad_json(self, error: str, /, *, serial: int) -> bytes:
        """The body of a 400 for a body that is no JSON."""

    def refusal(self, violation: Violation, /, *, serial: int) -> bytes:
        """The body of a 400 for a broken rule."""

    def headers(self, serial: int, /) -> tuple[tuple[str, str], ...]:
        """The provider's own response headers."""


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """The key in an `Authorization` header, or None."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key if scheme.lower() == "bearer" and key else None


def to_json(value: object) -> bytes:
    """JSON as the providers write it: UTF-8 without escapes; escaped surrogates become the bytes they stand for."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def runs_of_calls(turn: Turn) -> Iterator[tuple[Block, ...]]:
    """The blocks one by one, but neighbouring calls together if their pieces alternate."""
    calls: list[Call] = []
    for block in turn.blocks:
        if turn.interleaved and isinstance(block, Call):
            calls.append(block)
            continue
        if calls:
            yield tuple(calls)
            calls = []
        yield (block,)
    if calls:
        yield tuple(calls)


def said(turn: Turn) -> str:
    """All visible text of a turn."""
    return "".join(piece for block in turn.blocks if isinstance(block, Say) for piece in block.pieces)


def sign(text: str) -> str:
    """The signature that the fakes make for reasoning: every fake knows it again, and a changed text breaks it."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return SIGNED_BY_FAKE + base64.b64encode(digest).decode()


def signature_of(block: Think) -> str:
    """The signature that a reasoning block is sent with; "" for none."""
    return sign("".join(block.pieces)) if block.signature is None else block.signature


def seals(turn: Turn) -> Iterator[str]:
    """What must come back unchanged, if it comes back: one text for each opaque block of a turn."""
    for block in turn.blocks:
        match block:
            case Think(pieces):
                yield seal("".join(pieces), signature_of(block))
            case Redacted(data):
                yield seal("", data)
            case Say() | Call():
                pass


def seal(text: str, payload: str) -> str:
    """Shown text and payload as one text."""
    return f"{payload}\n{text}"
