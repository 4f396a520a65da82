"""What a page has to be told to be up to date. docs/chatapp.md has the shapes.

A view remembers what one page has been told and says what is new, in one object: a *change*. Everything in it is an
upsert, so a change that comes twice does no harm. What it costs depends on what is new, not on what there is:

1. A closed message never changes (C10), so it is told once.
2. The message that is being said grows by the new entries of its turn only; its Markdown is rendered as it grows.
3. When that message is closed, what it became is told as far as it differs.
"""

import json
from typing import Any, Final, TypeAlias, assert_never

import msgspec

from aiwrapper._core.conversation import RunReport
from aiwrapper._core.log import ReasoningDelta, TextDelta, ToolCallArguments, ToolCallReady, ToolFinished
from aiwrapper._core.messages import (
    AssistantMessage,
    CutCall,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
    UserPart,
)
from aiwrapper._core.runs import OpenRun
from aiwrapper._core.text import is_blank
from aiwrapper._core.turns import (
    CallSlot,
    InTurn,
    OpenTurn,
    ReasoningSlot,
    Slot,
    Slots,
    TextSlot,
    tool_result,
)
from aiwrapper.chat._attachments import attached_text, image_hash, text_hash
from aiwrapper.chat._markdown import MarkdownBlocks, Update, render
from aiwrapper.chat._state import ChatState, shown_id

QUICK_CHARACTERS: Final = 2048
"""How much text is told without a thread of its own; by hand: some milliseconds of rendering at worst."""

Json: TypeAlias = dict[str, Any]  # Any: JSON for the page


def dump(change: Json) -> bytes:
    """A change as JSON in one line."""
    try:
        return msgspec.json.encode(change)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold as an escape
        return json.dumps(change).encode()


class ChatView:
    """What one page has been told of a chat. Not thread-safe.

    Args:
        chat_id: the chat.
        told: what the page knows already, from an earlier view; None for nothing.
    """

    def __init__(self, chat_id: str, told: ChatState | None = None) -> None:
        self._chat_id = chat_id
        self._told = ChatState() if told is None else told
        self._header: Json | None = None
        # Nothing, even if the page knows a part of it: how its Markdown was cut into blocks, this view can't know.
        self._open: _OpenMessage | None = None

    def change(self, state: ChatState, *, stopping: bool) -> Json | None:
        """What to tell the page; None if there is nothing new.

        Args:
            state: the same as last time or a later one.
            stopping: whether the open run has been asked to stop.
        """
        change: Json = {}
        told_runs, runs = len(self._told.log.runs), state.log.runs
        if len(runs) > told_runs:
            change["runs"] = [_run(runs[place], state) for place in range(told_runs, len(runs))]
        messages: list[Json] = []
        changes = _Changes()
        self._close(state, messages, changes)
        self._grow(state, messages, changes)
        header = _header(self._chat_id, state, stopping=stopping)
        if self._open is not None and self._open.is_told:
            header["head_id"] = self._open.id
        if header != self._header:
            change["chat"] = self._header = header
        change |= {
            key: value
            for key, value in (("messages", messages), ("parts", changes.parts), ("blocks", changes.blocks))
            if value
        }
        moved = state.position > self._told.position
        self._told = state
        return {"position": state.position, **change} if change or moved else None

    def is_quick(self, state: ChatState) -> bool:
        """Whether telling what is new is a matter of moments: a little text, behind what is there.

        Args:
            state: as for `change`.
        """
        every = state.log.conversation.all_messages
        run = state.log.run
        opened = self._open
        characters = 0 if opened is None else opened.unsettled_characters
        for place in range(len(self._told.log.conversation.all_messages), len(every)):
            message = every[place]
            if isinstance(message, ToolMessage):
                continue
            if opened is None or message.id != opened.id or not isinstance(message, AssistantMessage):
                return False
            characters += opened.unknown_characters(message)
        if run is not None and run.turn is not None:
            entries = run.turn.entries
            known = opened.taken if opened is not None and opened.id == _open_id(run, run.turn) else 0
            for place in range(known, len(entries)):
                characters += _characters(entries[place])
                if characters > QUICK_CHARACTERS:
                    break
        return characters <= QUICK_CHARACTERS

    def _close(self, state: ChatState, messages: list[Json], changes: "_Changes") -> None:
        """Tell the messages that have been closed since."""
        conversation = state.log.conversation
        every = conversation.all_messages
        for place in range(len(self._told.log.conversation.all_messages), len(every)):
            message = every[place]
            match message:
                case UserMessage():
                    header = _message(message.id, shown_id(conversation, message.parent_id), "user")
                    parts = [_user_part(part, self._chat_id) for part in message.parts]
                    messages.append({**header, "synthetic": message.synthetic, "parts": parts})
                case AssistantMessage():
                    header = _message(message.id, shown_id(conversation, message.parent_id), "assistant")
                    header["state"] = "stopped" if message.stopped else "whole"
                    follower = every[place + 1] if place + 1 < len(every) else None
                    shapes = _shapes(message, follower)
                    opened, is_it = self._open, self._open is not None and self._open.id == message.id
                    if opened is None or not is_it or not opened.close(message, shapes, changes):
                        header["parts"] = [
                            shape
                            if isinstance(part, ToolCall | CutCall)
                            else {**shape, "blocks": render(part.text)}
                            for part, shape in zip((*message.parts, *message.cut_calls), shapes, strict=True)
                        ]
                    if is_it:
                        self._open = None
                    messages.append(header)
                case ToolMessage():
                    pass
                case _:
                    assert_never(message)

    def _grow(self, state: ChatState, messages: list[Json], changes: "_Changes") -> None:
        """Tell what the open turn has said since."""
        run = state.log.run
        if run is None or run.turn is None:
            return
        message_id = _open_id(run, run.turn)
        if self._open is None or self._open.id != message_id:
            self._open = _OpenMessage(message_id, state.shown_head_id)
        self._open.grow(run, run.turn, messages, changes)


class _Changes:
    """Parts and blocks to be told, in the order in which they are applied."""

    def __init__(self) -> None:
        self.parts: list[Json] = []
        self.blocks: list[Json] = []


class _Growing:
    """A part with Markdown in it."""

    def __init__(self) -> None:
        self.markdown = MarkdownBlocks()
        self.taken = 0  # pieces
        self.characters = 0  # in them
        self.count = 0  # blocks that the page has


class _OpenMessage:
    """The message that is being said, as the page knows it."""

    def __init__(self, message_id: str, parent_id: str | None) -> None:
        self.id = message_id
        self._parent_id = parent_id
        self._slots = Slots()
        self.taken = 0  # entries of the turn
        self._told: list[Json] = []  # the parts, without their blocks
        self._growing: dict[int, _Growing] = {}  # by part

    @property
    def is_told(self) -> bool:
        """Whether there is something to be seen of it."""
        return bool(self._told)

    @property
    def unsettled_characters(self) -> int:
        """How much text is rendered again whenever more comes."""
        return sum(growing.markdown.unsettled_characters for growing in self._growing.values())

    def unknown_characters(self, message: AssistantMessage) -> int:
        """How much of the text of what has become of it is not known here yet."""
        said = sum(len(part.text) for part in message.parts if not isinstance(part, ToolCall))
        return said - sum(growing.characters for growing in self._growing.values())

    def grow(self, run: OpenRun, turn: OpenTurn, messages: list[Json], changes: _Changes) -> None:
        for place in range(self.taken, len(turn.entries)):
            self._slots.take(turn.entries[place], turn)
        self.taken = len(turn.entries)
        if not self._told and not any(_is_kept(slot) for slot in self._slots.all):
            return  # if it ended now, there would be no message
        if not self._told:
            message = _message(self.id, self._parent_id, "assistant")
            messages.append({**message, "state": "open", "parts": []})
        for part, slot in enumerate(self._slots.all):
            self._tell(part, self._part(slot, run, turn), changes)
            if not isinstance(slot, CallSlot):
                self._feed(part, slot, changes)

    def close(self, message: AssistantMessage, shapes: list[Json], changes: _Changes) -> bool:
        """Tell what has become of it.

        Returns:
            Whether that is all. False: the page knows parts that it has not, or not yet all of them.
        """
        if [shape["kind"] for shape in shapes] != [part["kind"] for part in self._told]:
            return False
        texts = [part.text for part in message.parts if not isinstance(part, ToolCall)]
        known = ["".join(slot.pieces) for slot in self._slots.all if not isinstance(slot, CallSlot)]
        if not all(text.startswith(so_far) for text, so_far in zip(texts, known, strict=True)):
            return False  # text that is not well-formed is told as it was made so
        rests = [text[len(so_far) :] for text, so_far in zip(texts, known, strict=True)]
        for place, shape in enumerate(shapes):
            self._tell(place, shape, changes)
            if shape["kind"] != "tool_call":
                growing, rest = self._growing[place], rests.pop(0)
                self._told_blocks(place, growing, growing.markdown.feed(rest), changes)
                self._told_blocks(place, growing, growing.markdown.finish(), changes)
        return True

    def _tell(self, place: int, part: Json, changes: _Changes) -> None:
        if place < len(self._told) and self._told[place] == part:
            return
        self._told[place:] = [part, *self._told[place + 1 :]]
        value = part
        if part["kind"] in ("text", "reasoning"):
            growing = self._growing.setdefault(place, _Growing())
            value = {**part, "blocks": list(growing.markdown.html)}
            growing.count = len(value["blocks"])
        changes.parts.append({"message_id": self.id, "part": place, "value": value})

    def _feed(self, place: int, slot: TextSlot | ReasoningSlot, changes: _Changes) -> None:
        growing = self._growing[place]
        new = "".join(slot.pieces[growing.taken :])
        growing.taken = len(slot.pieces)
        growing.characters += len(new)
        if new:
            self._told_blocks(place, growing, growing.markdown.feed(new), changes)

    def _told_blocks(self, place: int, growing: _Growing, update: Update, changes: _Changes) -> None:
        for block in update.changed:
            changes.blocks.append(
                {"message_id": self.id, "part": place, "block": block.index, "html": block.html}
            )
        if update.count < growing.count:
            changes.blocks.append({"message_id": self.id, "part": place, "block": update.count, "html": None})
        growing.count = update.count

    def _part(self, slot: TextSlot | ReasoningSlot | CallSlot, run: OpenRun, turn: OpenTurn) -> Json:
        match slot:
            case TextSlot():
                return {"kind": "text"}
            case ReasoningSlot():
                return {"kind": "reasoning", "complete": slot.complete}
            case CallSlot():
                call_id = f"{run.run_id}.{turn.number}.{slot.index}"
                arguments = "".join(slot.pieces)
                if slot.ready is None:
                    return _call(slot.name, arguments, "writing", call_id)
                if turn.outcome(slot.index) is not None:
                    return _finished(slot.name, arguments, tool_result(turn, call_id, slot.index))
                state = "running" if turn.is_started(slot.index) else "waiting"
                return _call(slot.name, arguments, state, call_id)
            case _:
                assert_never(slot)


def _open_id(run: OpenRun, turn: OpenTurn) -> str:
    """The id of the message that is being said."""
    return f"{run.run_id}.{turn.number}"


def _characters(entry: InTurn) -> int:
    """About how much text there is in an entry."""
    match entry:
        case TextDelta() | ReasoningDelta() | ToolCallArguments():
            return len(entry.text)
        case ToolCallReady():
            return len(entry.arguments)
        case ToolFinished():
            return len(entry.content)
        case _:
            return 0


def _header(chat_id: str, state: ChatState, *, stopping: bool) -> Json:
    settings = state.configuration
    return {
        "id": chat_id,
        "title": state.log.title,
        "deleted": state.log.deleted,
        "head_id": state.shown_head_id,
        "settings": {
            "model": settings.model,
            "instructions": settings.instructions,
            "tools": settings.tools,
        },
        "run": None if state.log.run is None else _open_run(state.log.run, state, stopping=stopping),
    }


def _open_run(run: OpenRun, state: ChatState, *, stopping: bool) -> Json:
    retry = None
    if stopping:
        doing = "stopping"
    elif state.retry is not None:
        doing = "retrying"
        retry = {
            "attempt": state.retry.attempt,
            "seconds": state.retry.seconds,
            "error": state.retry.error,
        }
    elif run.turn is not None and run.turn.is_whole and _has_started(run.run_id, run.turn):
        doing = "running_tool"
    elif run.turn is not None and len(run.turn.entries):
        doing = "streaming"
    else:
        doing = "starting"
    return {"id": run.run_id, "message_id": state.origins.get(run.run_id), "state": doing, "retry": retry}


def _has_started(run_id: str, turn: OpenTurn) -> bool:
    """Whether a tool has: between the answer's end and that, the log is on its way to the disk."""
    return any(turn.is_started(index) for index, _ in turn.calls(run_id))


def _run(report: RunReport, state: ChatState) -> Json:
    return {
        "id": report.run_id,
        "message_id": state.origins.get(report.run_id),
        "status": report.status,
        "reason": report.reason,
        "message": report.message,
        "where": report.where,
        "usage": {
            "input_tokens": report.usage.input_tokens,
            "output_tokens": report.usage.output_tokens,
            "complete": report.usage.complete,
        },
    }


def _message(message_id: str, parent_id: str | None, role: str) -> Json:
    run_id = message_id.partition(".")[0] if role == "assistant" else None
    return {
        "id": message_id,
        "parent_id": parent_id,
        "role": role,
        "run_id": run_id,
        "state": "whole",
        "synthetic": False,
    }


def _user_part(part: UserPart, chat_id: str) -> Json:
    if isinstance(part, Image):
        digest = image_hash(part)
        url = f"api/chats/{chat_id}/attachments/{digest}"
        return {"kind": "image", "url": url, "media_type": part.media_type, "hash": digest}
    name, text = attached_text(part)
    if name is None:
        return {"kind": "text", "text": text}
    return {"kind": "file", "name": name, "text": text, "hash": text_hash(text)}


def _shapes(message: AssistantMessage, follower: Message | None) -> list[Json]:
    """The parts of a closed message, those with Markdown without their blocks."""
    results: dict[str, ToolResult] = {}
    if isinstance(follower, ToolMessage) and follower.parent_id == message.id:
        results = {result.call_id: result for result in follower.results}
    shapes: list[Json] = []
    for part in message.parts:
        match part:
            case Text():
                shapes.append({"kind": "text"})
            case Reasoning():
                shapes.append({"kind": "reasoning", "complete": part.complete})
            case ToolCall():
                result = results.get(part.id)
                shapes.append(
                    _call(part.name, part.arguments, "waiting", part.id)
                    if result is None
                    else _finished(part.name, part.arguments, result)
                )
            case _:
                assert_never(part)
    shapes += [_call(call.name, call.arguments, "writing") for call in message.cut_calls]
    return shapes


def _is_kept(slot: Slot) -> bool:
    """Whether there will be a message, whatever else comes (C5)."""
    match slot:
        case TextSlot():
            return not all(map(is_blank, slot.pieces))
        case ReasoningSlot():
            return slot.payload is not None or not all(map(is_blank, slot.pieces))
        case CallSlot():
            return slot.ready is not None
        case _:
            assert_never(slot)


def _finished(name: str, arguments: str, result: ToolResult) -> Json:
    return {
        **_call(name, arguments, "finished", result.call_id),
        "outcome": result.outcome,
        "result": result.content,
    }


def _call(name: str, arguments: str, state: str, call_id: str | None = None) -> Json:
    return {
        "kind": "tool_call",
        "id": call_id,
        "name": name,
        "arguments": arguments,
        "state": state,
        "outcome": None,
        "result": None,
    }
