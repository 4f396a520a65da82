"""The log as JSON: one object an entry, its `kind` first, one line each in a file.

Every entry that can be made can be dumped, and comes back equal (L7). Two kinds of value have no place in
JSON as msgspec writes it and go a slower way: lone surrogates are written as the escapes that JSON allows for
them, and times that are no finite number as the strings `NaN`, `Infinity` and `-Infinity`.
A field that is not known is skipped, so that an older version reads what a newer one wrote; a kind that
is not known is `BadLog`, because skipping an entry would change what the log says.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn, cast, get_args

import attrs
import msgspec

from aiwrapper._core.errors import BadLog
from aiwrapper._core.log import Entry, UserMessageAdded
from aiwrapper._core.messages import Image, Text, UserPart

_CLASSES: Final[Mapping[str, type[Entry]]] = {cls.kind: cls for cls in get_args(Entry)}
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: tuple(field.name for field in attrs.fields(cls)) for kind, cls in _CLASSES.items()
}
_FLOATS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: tuple(field.name for field in attrs.fields(cls) if field.type is float)
    for kind, cls in _CLASSES.items()
}


# msgspec takes no unions of attrs classes, so a user's message has tagged twins.
class _Text(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    text: str


class _Image(msgspec.Struct, frozen=True, tag="image", tag_field="type"):
    media_type: str
    data: str


class _UserMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    parts: tuple[_Text | _Image, ...]
    parent_id: str | None = None
    synthetic: bool = False
    at: float = 0.0


class _Kind(msgspec.Struct, frozen=True):
    kind: str


_WIRE: Final[Mapping[str, type]] = {**_CLASSES, UserMessageAdded.kind: _UserMessage}
_DECODERS: Final[Mapping[str, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(wire) for kind, wire in _WIRE.items()
}
_ENCODER: Final = msgspec.json.Encoder()
_KIND_DECODER: Final = msgspec.json.Decoder(_Kind)


def dump_entry(entry: Entry) -> bytes:
    """An entry as one JSON object in UTF-8, without a line break."""
    wire = _wire_user_message(entry) if isinstance(entry, UserMessageAdded) else entry
    fields = {"kind": entry.kind}
    for name in _FIELDS[entry.kind]:
        fields[name] = getattr(wire, name)
    if all(math.isfinite(getattr(entry, name)) for name in _FLOATS[entry.kind]):
        try:
            return _ENCODER.encode(fields)
        except (UnicodeEncodeError, OverflowError):
            pass  # a lone surrogate, an integer beyond 64 bits: the slower way knows them
    builtins: dict[str, Any] = msgspec.to_builtins(fields)  # Any: JSON
    for name in _FLOATS[entry.kind]:
        if not math.isfinite(builtins[name]):
            builtins[name] = json.dumps(builtins[name])
    return json.dumps(builtins, ensure_ascii=True, separators=(",", ":")).encode()


def load_entry(data: bytes) -> Entry:
    """The entry that `dump_entry` made these bytes of.

    Raises:
        BadLog: they are no entry: no JSON, no kind that we know, a field that is missing or of another type.
    """
    try:
        kind = _KIND_DECODER.decode(data).kind
        if kind not in _DECODERS:
            raise BadLog(f"there is no log entry of the kind {kind!r}")
        wire = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        wire = _loaded_slowly(data, exc)
    if isinstance(wire, _UserMessage):
        parts: tuple[UserPart, ...] = tuple(
            Text(part.text) if isinstance(part, _Text) else Image(part.media_type, part.data)
            for part in wire.parts
        )
        return UserMessageAdded(
            wire.id, parts, parent_id=wire.parent_id, synthetic=wire.synthetic, at=wire.at
        )
    return cast(Entry, wire)  # the table says so


def dump_log(entries: Iterable[Entry]) -> bytes:
    """A log as JSON lines; every line ends in a line break."""
    return b"".join(dump_entry(entry) + b"\n" for entry in entries)


def load_log(data: bytes) -> list[Entry]:
    """The log that `dump_log` made these bytes of; empty lines are skipped.

    Raises:
        BadLog: a line is no entry; the message names the line. A last line that was cut is one, too.
    """
    entries: list[Entry] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entries.append(load_entry(line))
        except BadLog as exc:
            raise BadLog(f"line {number}: {exc}") from exc
    return entries


def _wire_user_message(entry: UserMessageAdded) -> _UserMessage:
    return _UserMessage(
        id=entry.id,
        parts=tuple(
            _Text(part.text) if isinstance(part, Text) else _Image(part.media_type, part.data)
            for part in entry.parts
        ),
        parent_id=entry.parent_id,
        synthetic=entry.synthetic,
        at=entry.at,
    )


def _loaded_slowly(data: bytes, reason: Exception) -> Any:  # Any: one of _WIRE
    """What msgspec refused, if it is one of the values that go the slower way."""
    try:
        fields = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadLog(f"this is no log entry: {reason}") from reason
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _WIRE:
        raise BadLog(f"this is no log entry: {reason}") from reason
    for name in _FLOATS[kind]:
        if fields.get(name) in ("NaN", "Infinity", "-Infinity"):
            fields[name] = float(fields[name])
    try:
        return msgspec.convert(fields, _WIRE[kind])
    except msgspec.ValidationError as exc:
        raise BadLog(f"this is no log entry of the kind {kind!r}: {exc}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
