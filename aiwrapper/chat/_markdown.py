"""Markdown that grows, as sanitised HTML, block by block.

A message arrives as deltas, and a page shows it as a row of top-level blocks: paragraphs, lists, tables, code. Only
the blocks that changed are told. The idea rests on what CommonMark says of its block structure (section "Parsing
strategy" of version 0.31.2): it is found line by line, and a block that is closed never opens again. So:

1. The *tail* is the text from the first block on that may still change. What is before it is closed.
2. Only whole lines close a block: `#` begins a heading until the next character makes it `#x`.
3. A block is closed once another has begun after it. Lines of link definitions stick to what follows them, because
   the next line may turn out to be a definition's title.
4. A closed block is told again only if a link definition that it waited for comes later. It is known which labels
   it looked up in vain, so nothing else is looked at.
5. Work is linear in the text, however it is cut into deltas: a large tail is looked at again only once it has grown by
   a share of itself, and a block of more than `MAX_BLOCK_CHARACTERS` is cut.

`_rendering.py` makes HTML of a block, and sees to it that it is fit for the page.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from markdown_it.token import Token

from aiwrapper._core.text import well_formed
from aiwrapper.chat._rendering import rendered, structure

MAX_BLOCK_CHARACTERS: Final = 16_384
"""A longer block is shown as several. Chosen by hand: far above what models say in one paragraph, list or table, and
a size at which the worst input we know costs the parser well under a second."""

_ALWAYS_FRESH_CHARACTERS: Final = 2048
_SHARE: Final = 16
"""A tail of n characters is rendered again when it has grown by (n - 2048) / 16: at 8 KiB, each 384 characters. Both
chosen by hand: ordinary blocks change with every delta, and no text costs more than about 16 times its length."""

_MAX_PROLOGUE_CHARACTERS: Final = 1024
"""What is repeated in front of the rest of a cut table or code block: its head. A longer one is not repeated."""


@frozen
class Block:
    """One block of a message, as it is to be shown now.

    Args:
        index: its place among the message's blocks, from 0.
        html: sanitised.
    """

    index: int
    html: str


@frozen
class Update:
    """What has changed: set these blocks, then drop all from `count` on.

    Args:
        changed: new blocks and blocks with new HTML, by index.
        count: how many blocks there are now.
    """

    changed: tuple[Block, ...]
    count: int

    def __bool__(self) -> bool:
        """Whether anything is to be told; a block is only dropped when the one before it changes."""
        return bool(self.changed)


class MarkdownBlocks:
    """One growing text. Not thread-safe.

    Args:
        max_block_characters: a longer block is shown as several.
    """

    def __init__(self, *, max_block_characters: int = MAX_BLOCK_CHARACTERS) -> None:
        self._max_block_characters = max_block_characters
        self._shown: list[str] = []
        self._closed = 0  # so many of the blocks shown
        self._regions: list[_Region] = []  # closed ones that wait for a definition
        self._definitions: dict[str, Any] = {}
        self._held = ""  # half a line end or half a character, which the next delta makes whole
        self._prologue = ""  # the head of a block that was cut, to parse its rest with
        self._tail = ""
        self._parsed_lines_to = 0  # in the tail: no block is closed by what is before
        self._rendered_characters = 0  # of the tail

    @property
    def html(self) -> tuple[str, ...]:
        """All blocks, as the updates so far have told them."""
        return tuple(self._shown)

    @property
    def unsettled_characters(self) -> int:
        """How long the tail is, which may be rendered again."""
        return len(self._tail)

    def feed(self, delta: str) -> Update:
        """Take more text; the update may leave some of it to a later one, at the latest to `finish`."""
        text = self._held + delta
        self._held = text[-1:] if text[-1:] == "\r" or "\ud800" <= text[-1:] <= "\udbff" else ""
        self._tail += _plain_lines(text[: len(text) - len(self._held)])
        changes = _Changes(self._shown)
        if self._is_worth_looking_at():
            self._close_blocks(changes)
            self._render_tail(changes)
        return changes.update()

    def finish(self) -> Update:
        """The text is whole: close the last block."""
        self._tail += _plain_lines(self._held)
        self._held = ""
        changes = _Changes(self._shown)
        self._close_blocks(changes)
        self._close(self._tail, changes)
        self._tail = self._prologue = ""
        changes.truncate(self._closed)
        return changes.update()

    def _is_worth_looking_at(self) -> bool:
        grown = len(self._tail) - self._rendered_characters
        return grown > 0 and grown * _SHARE >= len(self._tail) - _ALWAYS_FRESH_CHARACTERS

    def _close_blocks(self, changes: "_Changes") -> None:
        """Close what is known not to change."""
        at = 0
        while self._tail.find("\n", max(at, self._parsed_lines_to)) >= 0 or self._is_full(at):
            window = self._tail[at : at + self._max_block_characters]
            whole_lines = window[: window.rfind("\n") + 1]
            blocks = structure(self._prologue + whole_lines)
            end = _closed_to(blocks, self._prologue + whole_lines) - len(self._prologue)
            prologue = ""
            if end <= 0:
                if not self._is_full(at):
                    self._parsed_lines_to = at + len(whole_lines)
                    break
                end, prologue = _cut(blocks, self._prologue, window)
            self._close(window[:end], changes)
            self._prologue = prologue
            at += end
            if not self._is_full(at):
                self._parsed_lines_to = at + max(0, len(whole_lines) - end)
        if at:
            self._tail = self._tail[at:]
            self._parsed_lines_to = max(0, self._parsed_lines_to - at)
            self._rendered_characters = 0

    def _is_full(self, at: int) -> bool:
        return len(self._tail) - at > self._max_block_characters

    def _close(self, text: str, changes: "_Changes") -> None:
        region = _Region(self._prologue + text, self._closed)
        scope = _Scope(self._definitions)
        for html in rendered(region.source, scope):
            changes.set(self._closed, html)
            self._closed += 1
        new = scope.defined.keys() - self._definitions.keys()
        self._definitions.update(scope.defined)
        self._resolve(new, changes)
        if scope.missed:
            region.missed.update(scope.missed)
            self._regions.append(region)

    def _resolve(self, labels: Iterable[str], changes: "_Changes") -> None:
        """Render again what had looked these labels up in vain."""
        labels = set(labels)
        if not labels:
            return
        for region in [region for region in self._regions if region.missed & labels]:
            scope = _Scope(self._definitions)
            for offset, html in enumerate(rendered(region.source, scope)):
                changes.set(region.first + offset, html)
            region.missed.clear()
            region.missed.update(scope.missed)
        self._regions = [region for region in self._regions if region.missed]

    def _render_tail(self, changes: "_Changes") -> None:
        count = self._closed
        for html in rendered(self._prologue + self._tail, _Scope(self._definitions)):
            changes.set(count, html)
            count += 1
        changes.truncate(count)
        self._rendered_characters = len(self._tail)


def render(text: str) -> tuple[str, ...]:
    """The blocks of a text that is whole, as sanitised HTML."""
    blocks = MarkdownBlocks()
    blocks.feed(text)
    blocks.finish()
    return blocks.html


class _Changes:
    """Which of the blocks shown have changed, by what they were when this began."""

    def __init__(self, shown: list[str]) -> None:
        self._shown = shown
        self._changed: set[int] = set()

    def set(self, index: int, html: str) -> None:
        if index == len(self._shown):
            self._shown.append(html)
        elif self._shown[index] == html:
            return
        else:
            self._shown[index] = html
        self._changed.add(index)

    def truncate(self, count: int) -> None:
        del self._shown[count:]

    def update(self) -> Update:
        count = len(self._shown)
        changed = tuple(Block(index, self._shown[index]) for index in sorted(self._changed) if index < count)
        return Update(changed, count)


@frozen
class _Region:
    """Closed text with links to what was not defined yet.

    Args:
        source: Markdown.
        first: the index of its first block.
        missed: the labels, normalised as the parser does it.
    """

    source: str
    first: int
    missed: set[str] = field(factory=set)


class _Scope:
    """The link definitions as the parser sees them: the ones of earlier text, then its own.

    It notes what was looked up in vain. The parser asks with `get` and `in`, and sets items.
    """

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self._earlier = earlier
        self.defined: dict[str, Any] = {}
        self.missed: set[str] = set()

    def get(self, label: str, default: object = None) -> Any:
        found = self._earlier.get(label) or self.defined.get(label)
        if found is None:
            self.missed.add(label)
            return default
        return found

    def __contains__(self, label: str) -> bool:
        return label in self._earlier or label in self.defined

    def __setitem__(self, label: str, definition: object) -> None:
        self.defined[label] = definition


def _plain_lines(text: str) -> str:
    """The text as the parser would make it, so that its line numbers are ours."""
    return well_formed(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _lines_of(block: Sequence[Token]) -> tuple[int, int]:
    """First line and line after the last one."""
    lines = block[0].map
    assert lines is not None, "every top-level block knows its lines"
    return lines[0], lines[1]


def _closed_to(blocks: Sequence[Sequence[Token]], text: str) -> int:
    """How much of a text of whole lines is closed, in characters."""
    if not blocks:
        return 0
    lines = text.split("\n")
    line, _ = _lines_of(blocks[-1])
    before = _lines_of(blocks[-2])[1] if len(blocks) > 1 else 0
    while line > before and lines[line - 1].strip(" \t"):
        line -= 1
    return _offset(lines, line)


def _cut(blocks: Sequence[Sequence[Token]], prologue: str, window: str) -> tuple[int, str]:
    """Where to cut a block that is too long, and what its rest has to be parsed behind.

    Between two items of a list, between two lines, between two words, or anywhere.
    """
    text = prologue + window
    lines = text.split("\n")
    kind = blocks[0][0].type if blocks else ""
    items = [
        token.map[0]
        for block in blocks
        for token in block
        if token.type == "list_item_open" and token.level == 1 and token.map
    ]
    ends = (
        _offset(lines, items[-1]) - len(prologue) if items else 0,
        window.rfind("\n") + 1,
        window.rfind(" ") + 1,
    )
    end = next((end for end in ends if end > 0), len(window))
    head = {"fence": 1, "table_open": 2}.get(kind, 0)
    repeated = "".join(line + "\n" for line in lines[:head])
    return end, repeated if len(repeated) <= _MAX_PROLOGUE_CHARACTERS else ""


def _offset(lines: Sequence[str], line: int) -> int:
    return sum(len(each) + 1 for each in lines[:line])
