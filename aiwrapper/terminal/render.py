"""Log entries to text on a terminal.

What a model or a tool says is hostile input: control characters could move the cursor, set the title
or answer for the user, so everything from outside passes `printable` first.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import ceil
from types import MappingProxyType, TracebackType
from typing import Self, assert_never

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from aiwrapper._core import log
from aiwrapper._core.messages import ToolOutcome
from aiwrapper.terminal.printing import printable, sentence

STATUS_WORDS: dict[ToolOutcome, str] = {
    "returned": "done",
    "raised": "failed",
    "invalid_arguments": "was called with arguments it does not take",
    "unknown_tool": "does not exist",
    "denied": "was refused by you",
    "not_started": "was not started",
    "interrupted_running": "was stopped while it ran",
    "sibling_failed": "was given up",
}


def call_line(name: str, arguments: str) -> Text:
    """A call of a tool, as its run begins."""
    return Text.assemble(("▶ ", "cyan"), (printable(name), "bold cyan"), (f" {printable(arguments)}", "cyan"))


def result_line(name: str, outcome: ToolOutcome, content: str) -> Text:
    """What became of a call, with the beginning of its result."""
    first, _, rest = printable(content).strip().partition("\n")
    more = f" (+{rest.count(chr(10)) + 1} lines)" if rest else ""
    mark, style = ("✓", "green") if outcome == "returned" else ("✗", "yellow")
    return Text.assemble(
        (f"{mark} {printable(name)} {STATUS_WORDS[outcome]}", style), (f" {first[:200]}{more}", "dim")
    )


def _lines(text: str) -> list[str]:
    """The lines with their ends, as the Markdown parser counts them: Python's `splitlines` sees more of them."""
    return [line + "\n" for line in text.split("\n")[:-1]] + text.split("\n")[-1:]


@cache  # each drawing parses, and making the parser takes a quarter of the time of that
def _parser() -> MarkdownIt:
    """The parser of all the Markdown that rich draws. Rich's own takes HTML for markup, and draws nothing of it."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    # A definition `[label]: address` would be drawn nowhere, and blocks that are printed already never hear of it.
    parser.disable("reference")
    parser.core.ruler.push("images", _images_to_text)
    return parser


def _images_to_text(state: StateCore) -> None:
    """Have an image's words and its address where it stands: rich draws it above its paragraph, without address."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "image":
                words, address = child.content, str(child.attrs["src"])
                child.type, child.tag, child.children = "text", "", None
                child.content = f"{words} ({address})" if words else address


class _Markdown(Markdown):
    """Rich's Markdown, with every word of the text."""

    def __init__(self, text: str) -> None:
        super().__init__("")
        self.markup = text
        self.parsed: list[Token] = _parser().parse(text)


class _Lines:
    """Markdown as lines that end where their text ends.

    Rich fills each line with spaces up to the edge of the screen; there, whatever is typed next would break the
    line, and the spaces would be copied along.

    Args:
        text: Markdown.
        last: show only the last lines that the screen holds, as a live region must: it can't be drawn again above.
    """

    def __init__(self, text: str, *, last: bool = False) -> None:
        self._text = text
        self._last = last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(_Markdown(self._text), options, pad=False)
        if self._last:
            lines = lines[-max(1, console.height - 2) :]
        for line in lines:
            yield from _trimmed(line)
            yield Segment.line()


def _trimmed(line: list[Segment]) -> list[Segment]:
    end = len(line)
    while end and not line[end - 1].text.strip() and not _has_background(line[end - 1]):
        end -= 1
    if end and not _has_background(line[end - 1]):
        last = line[end - 1]
        return [*line[: end - 1], Segment(last.text.rstrip(" "), last.style, last.control)]
    return line[:end]


def _has_background(segment: Segment) -> bool:
    return segment.style is not None and segment.style.bgcolor is not None


_LEFTOVERS_PER_SECOND = 5
"""Chosen by hand: who reads has not reached the last word by then."""


class MarkdownStream:
    """Markdown that grows: finished blocks are printed for good, only the last one is drawn again.

    So the work for each piece of text depends on the length of the block it falls into, not on that of the
    answer, and what is printed scrolls back and copies like any other output. Of a code block, which may be as
    long as a file, only what the screen holds is drawn while it grows.

    A model may be faster than drawing, and whoever draws keeps the run waiting. So three quarters of the time
    are left to others: after a drawing, what comes within three times as long as it took is drawn with the next
    piece, or by rich's thread, if the model falls silent.

    Args:
        console: where to.
        clock: monotonic seconds.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._draw_again_at = clock()
        self._open = ""  # everything from the start of the last block on
        self._is_code = False  # the last block is a fenced one
        self._live: Live | None = None

    def write(self, text: str) -> None:
        """Show more text."""
        self._open += printable(text)
        if "\n" in text:
            self._print_finished_blocks()
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=_LEFTOVERS_PER_SECOND, transient=True)
            self._live.start()
        began = self._clock()
        draws = began >= self._draw_again_at
        self._live.update(_Lines(self._in_sight(), last=True), refresh=draws)
        if draws:
            ended = self._clock()
            self._draw_again_at = ended + 3 * (ended - began)

    def close(self) -> None:
        """Print what is still open for good."""
        self._erase()
        if self._open.strip():
            self._console.print(_Lines(self._open), end="")
        self._open = ""
        self._is_code = False

    def _in_sight(self) -> str:
        """What of the last block can be on the screen: each line of code takes one there at least."""
        lines = _lines(self._open)
        height = self._console.height
        if not self._is_code or len(lines) <= height + 1:
            return self._open
        return lines[0] + "".join(lines[-height:])

    def _erase(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print_finished_blocks(self) -> None:
        blocks = [token for token in _parser().parse(self._open) if token.level == 0 and token.map]
        self._is_code = bool(blocks) and blocks[-1].type == "fence"
        last = blocks[-1] if len(blocks) > 1 else None
        if last is None or last.map is None:
            return
        lines = _lines(self._open)
        self._erase()
        self._console.print(_Lines("".join(lines[: last.map[0]])), end="")
        if last.type == "paragraph_open":  # every other block brings its own blank line
            self._console.print()
        self._open = "".join(lines[last.map[0] :])


class Countdown:
    """A wait before another attempt, in whole seconds to go."""

    def __init__(self, error: str, seconds: float, clock: Callable[[], float]) -> None:
        self._error = error
        self._clock = clock
        self._until = clock() + seconds

    def __rich__(self) -> Text:
        left = max(0, ceil(self._until - self._clock()))
        return Text(f"{sentence(self._error)} Trying again in {left} s. Ctrl-C stops.", style="yellow")


class AnswerView:
    """One run on a terminal; `show` takes its entries as the log grows.

    A tool's thread may take the terminal with `hands_off` to ask a question; `show` waits for it.

    A thread of rich's draws what has to be drawn while the main thread waits: the spinner, the countdown, and the
    last words of a text if they came faster than they could be drawn. It ends with them.

    Args:
        console: where the answer goes: as Markdown on a terminal, as it is into a pipe or a file.
        notes: where everything about it goes; the same by default.
        clock: monotonic seconds.
        advice: what to do about a run that has failed, by the class of the failure, an `ErrorKind`.
    """

    def __init__(
        self,
        console: Console,
        *,
        notes: Console | None = None,
        clock: Callable[[], float],
        advice: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._advice = advice
        self._console = console
        self._notes = console if notes is None else notes
        self._clock = clock
        self._lock = threading.Lock()  # whoever holds it draws
        self._text: MarkdownStream | None = None
        self._line_is_open = False  # in a pipe or a file
        self._reasoning = False
        self._waiting: Live | None = None
        self._calls: dict[tuple[int, int], tuple[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._pause()

    @contextmanager
    def hands_off(self) -> Iterator[None]:
        """Nothing is drawn inside the block; what was being drawn is ended first, and a spinner goes on after it."""
        with self._lock:
            waiting = None if self._waiting is None else self._waiting.renderable
            self._pause()
            yield
            if waiting is not None:
                self._wait_with(waiting)

    def show(self, entry: log.Entry) -> None:
        """Show what one entry adds."""
        with self._lock:
            self._show(entry)

    def _show(self, entry: log.Entry) -> None:
        match entry:
            case log.TextDelta(text=text):
                self._end_reasoning()
                self._stop_waiting()
                self._write(text)
            case log.ReasoningDelta(text=text):
                self._stop_waiting()
                self._reasoning = True
                self._notes.print(
                    printable(text), end="", style="dim italic", markup=False, highlight=False, soft_wrap=True
                )
            case log.TurnStarted():
                self._pause()
                self._wait_with(Spinner("dots", Text("Waiting for the model. Ctrl-C stops.", style="dim")))
            case log.RetryWaiting(error=error, seconds=seconds):
                self._pause()
                self._wait_with(Countdown(printable(error), seconds, self._clock))
            case log.ToolCallStarted(name=name):
                self._pause()
                self._wait_with(
                    Spinner("dots", Text(f"The model writes a call of {printable(name)}.", style="dim"))
                )
            case log.ToolCallReady(turn=turn, index=index, name=name, arguments=arguments):
                self._calls[turn, index] = (name, arguments)
            case log.ToolStarted(turn=turn, index=index):
                self._pause()
                name, arguments = self._calls.get((turn, index), ("tool", ""))
                self._notes.print(call_line(name, arguments))
                self._wait_with(Spinner("dots", Text(f"{printable(name)} runs. Ctrl-C stops.", style="dim")))
            case log.ToolFinished(turn=turn, index=index, outcome=outcome, content=content):
                self._pause()
                name, _ = self._calls.get((turn, index), ("tool", ""))
                self._notes.print(result_line(name, outcome, content))
            case log.RunStopped(reason=reason, message=message):
                self._pause()
                why = f": {printable(message)}" if message and reason != "signal" else ""
                self._notes.print(Text(f"■ stopped{why}", style="yellow"))
            case log.RunFailed(error=kind, message=message):
                self._pause()
                self._notes.print(Text(f"✗ {printable(message)}", style="red"))
                if advice := self._advice.get(kind):
                    self._notes.print(Text(advice, style="yellow"))
            case log.RunFinished() | log.TurnFinished():
                self._pause()
            case (
                log.UserMessageAdded()
                | log.RunStarted()
                | log.ReasoningFinished()
                | log.ToolCallArguments()
                | log.UsageReported()
                | log.ToolUsageReported()
                | log.HeadMoved()
                | log.Titled()
                | log.Configured()
                | log.Deleted()
            ):
                pass
            case _:
                assert_never(entry)

    def _pause(self) -> None:
        """End what is being drawn; the next entry goes on."""
        self._stop_waiting()
        self._end_reasoning()
        if self._text is not None:
            self._text.close()
            self._text = None
        if self._line_is_open:
            self._line_is_open = False
            self._console.file.write("\n")
            self._console.file.flush()

    def _write(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.file.write(text)  # as it is: no terminal to steer
            self._console.file.flush()
            self._line_is_open = not text.endswith("\n")
            return
        if self._text is None:
            self._text = MarkdownStream(self._console, clock=self._clock)
        self._text.write(text)

    def _end_reasoning(self) -> None:
        if self._reasoning:
            self._reasoning = False
            self._notes.print()

    def _wait_with(self, renderable: RenderableType) -> None:
        if self._notes.is_terminal:
            self._waiting = Live(renderable, console=self._notes, refresh_per_second=10, transient=True)
            self._waiting.start(refresh=True)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
