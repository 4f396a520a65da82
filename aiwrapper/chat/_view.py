"""What a page has to be told to be up to date.

A view remembers what one page has been told and says what is new, in one object: a *change*. Everything in it is an
upsert, so a change that comes twice does no harm. What it costs depends on what is new, not on what there is:

1. A closed message never changes (C10), so it is told once.
2. The message that is being said grows by the new entries of its turn only; its Markdown is rendered as it grows.
3. When that message is closed, what it became is told as far as it differs.
"""

from typing import Final, assert_never

from aiwrapper._core.log import ReasoningDelta, TextDelta, ToolCallArguments, ToolCallReady, ToolFinished
from aiwrapper._core.messages import (
    AssistantMessage,
    CutCall,
    ToolCall,
    ToolMessage,
    UserMessage,
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
from aiwrapper.chat._markdown import MarkdownBlocks, Update, render
from aiwrapper.chat._shapes import (
    Json,
    call_part,
    chat_header,
    closed_parts,
    ended_run,
    finished_call_part,
    message_header,
    user_part,
)
from aiwrapper.chat._state import ChatState, shown_id

QUICK_CHARACTERS: Final = 2048
"""How much text is told without a thread of its own; by hand: some milliseconds of rendering at worst."""


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
            change["runs"] = [ended_run(runs[place], state) for place in range(told_runs, len(runs))]
        messages: list[Json] = []
        changes = _Changes()
        self._close(state, messages, changes)
        self._grow(state, messages, changes)
        header = chat_header(self._chat_id, state, stopping=stopping)
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
                    header = message_header(message.id, shown_id(conversation, message.parent_id), "user")
                    parts = [user_part(part, self._chat_id) for part in message.parts]
                    messages.append({**header, "synthetic": message.synthetic, "parts": parts})
                case AssistantMessage():
                    header = message_header(
                        message.id, shown_id(conversation, message.parent_id), "assistant"
                    )
                    header["state"] = "stopped" if message.stopped else "whole"
                    follower = every[place + 1] if place + 1 < len(every) else None
                    shapes = closed_parts(message, follower)
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
            message = message_header(self.id, self._parent_id, "assistant")
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
                    return call_part(slot.name, arguments, "writing", call_id)
                if turn.outcome(slot.index) is not None:
                    return finished_call_part(slot.name, arguments, tool_result(turn, call_id, slot.index))
                state = "running" if turn.is_started(slot.index) else "waiting"
                return call_part(slot.name, arguments, state, call_id)
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
