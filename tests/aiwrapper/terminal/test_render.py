import io
import itertools
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.segment import Segment

from aiwrapper._core import log
from aiwrapper._core.messages import Producer
from aiwrapper.terminal.printing import printable
from aiwrapper.terminal.render import AnswerView, Countdown, MarkdownStream
from tests.aiwrapper.terminal.screens import Screen

PRODUCER = Producer("openai_chat", "example.org", model="m")


def view_on(console: Console) -> AnswerView:
    return AnswerView(console, clock=lambda: 0.0)


def text(piece: str) -> log.TextDelta:
    return log.TextDelta("r", 0, text=piece)


def test_markdown_that_arrives_in_pieces_looks_as_if_it_had_come_at_once() -> None:
    whole = "# Title\n\nSome *words* here.\n\n- one\n- two\n\n```\ncode\n\nmore code\n```\n\nThe end."
    screen = Screen()
    stream = MarkdownStream(screen.console, clock=lambda: 0.0)
    for piece in whole.split(" "):
        stream.write(piece + " ")
    stream.close()

    at_once = Screen()
    stream = MarkdownStream(at_once.console, clock=lambda: 0.0)
    stream.write(whole)
    stream.close()

    assert at_once.lines == screen.lines
    assert "Some words here." in screen.lines
    assert any("more code" in line for line in screen.lines)


def drawn(whole: str, pieces: Iterable[str]) -> list[str]:
    """What stands on the screen when the text has come in pieces; the same as if it had come at once."""
    screens = []
    for written in (pieces, [whole]):
        screen = Screen(lines=60)
        stream = MarkdownStream(screen.console, clock=lambda: 0.0)
        for piece in written:
            stream.write(piece)
        stream.close()
        screens.append(screen.lines)
    assert screens[0] == screens[1]
    return screens[0]


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("Use the <div> tag and List<String>.", ["Use the <div> tag and List<String>."]),
        ("Press <kbd>Ctrl</kbd>.<!-- Really. -->", ["Press <kbd>Ctrl</kbd>.<!-- Really. -->"]),
        ("<details>hidden</details>\n\nAnd *more*.", ["<details>hidden</details>", "And more."]),
        ("<script>\none\n\ntwo\n</script>", ["<script> one", "two </script>"]),
        ("First\n<div>\n\n- <b>one</b>\n", ["First <div>", " • <b>one</b>"]),
    ],
)
def test_what_looks_like_html_is_text(whole: str, shown: list[str]) -> None:
    assert shown == drawn(whole, whole)


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        (
            "See ![the *map*](https://example.org/map.png) and go.",
            "See the *map* (https://example.org/map.png) and go.",
        ),
        ("![](https://example.org/map.png)", "https://example.org/map.png"),
        ("[![map](https://example.org/map.png)](/x)", "map (https://example.org/map.png)"),
    ],
)
def test_an_image_is_its_words_and_its_address_where_it_stands(whole: str, shown: str) -> None:
    assert [shown] == drawn(whole, whole)


def test_the_address_of_a_link_that_is_defined_later_stays() -> None:
    whole = "Read [the page][1].\n\n[1]: https://example.org/page\n\nThat is all."

    assert [
        "Read [the page][1].",
        "[1]: https://example.org/page",
        "That is all.",
    ] == drawn(whole, whole)


def test_a_table_behind_a_paragraph_and_a_list_behind_code_are_drawn_as_they_grow() -> None:
    whole = "Rivers\n| a | b |\n|---|---|\n| 1 | 2 |\n\n3. three\n4. four\n\n```\ncode\n```\n\n5. five\n"
    lines = [line.split() for line in drawn(whole, whole)]

    assert [["Rivers"], ["a", "b"]] == lines[:2]
    assert [["1", "2"], ["3", "three"], ["4", "four"], ["code"], ["5", "five"]] == lines[3:]


def test_an_answer_longer_than_the_screen_is_printed_once() -> None:
    screen = Screen(columns=40, lines=10)
    with view_on(screen.console) as view:
        for number in range(40):
            view.show(text(f"line {number}\n\n"))

    assert [f"line {number}" for number in range(35, 40)] == screen.lines[-5:]
    assert len(set(screen.lines)) == len(screen.lines)


class Counting(Console):
    """A console that remembers how long the Markdown was that it was to draw."""

    def __init__(self, height: int) -> None:
        super().__init__(file=io.StringIO(), force_terminal=True, width=80, height=height, _environ={})
        self.drawn: list[int] = []

    def render_lines(self, renderable: RenderableType, *args: Any, **kwargs: Any) -> list[list[Segment]]:
        if isinstance(renderable, Markdown):
            self.drawn.append(len(renderable.markup))
        return super().render_lines(renderable, *args, **kwargs)


def test_drawing_a_long_code_block_takes_no_longer_than_drawing_the_screen() -> None:
    console = Counting(height=10)
    stream = MarkdownStream(console, clock=lambda: 0.0)
    stream.write("```python\n")
    for number in range(200):
        stream.write(f"x[{number}] = 0\n")
    growing = console.drawn[:]
    stream.close()

    assert max(growing) < 200
    assert console.drawn[-1] > 2_000


def test_the_end_of_a_long_code_block_is_in_sight() -> None:
    screen = Screen(columns=40, lines=10)
    view = view_on(screen.console)
    view.show(text("```python\n"))
    for number in range(40):
        view.show(text(f"line_{number}()\n"))
    growing = screen.lines
    view.show(log.RunFinished("r"))

    assert "line_39()" in growing[-1]
    assert "line_38()" in growing[-2]
    assert "line_39()" in screen.lines[-1]


def test_a_model_that_is_faster_than_the_terminal_does_not_wait_for_each_drawing() -> None:
    ticks = itertools.count()
    console = Counting(height=24)
    stream = MarkdownStream(console, clock=lambda: float(next(ticks)))  # a drawing takes one second
    for number in range(100):
        stream.write(f"{number} ")
    while_growing = len(console.drawn)
    stream.close()

    assert while_growing < 90
    assert "99" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_the_last_words_are_shown_also_if_they_came_too_fast_to_be_drawn_at_once() -> None:
    shown = threading.Event()

    class Watched(io.StringIO):
        def write(self, text: str, /) -> int:
            if "last" in text:
                shown.set()
            return super().write(text)

    ticks = itertools.count()
    console = Console(file=Watched(), force_terminal=True, width=80, _environ={})
    stream = MarkdownStream(console, clock=lambda: float(next(ticks)))
    stream.write("first ")
    stream.write("last")
    in_time = shown.wait(30)
    stream.close()

    assert in_time


def test_a_block_taller_than_the_screen_leaves_its_end_in_sight() -> None:
    screen = Screen(columns=40, lines=10)
    view = view_on(screen.console)
    for number in range(40):
        view.show(text(f"- item {number}\n"))
    growing = screen.lines
    view.show(log.RunFinished("r"))

    assert "item 39" in growing[-1]
    assert "item 39" in screen.lines[-1]


@given(st.text())
def test_nothing_from_outside_can_steer_the_terminal(hostile: str) -> None:
    assert not [c for c in printable(hostile) if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]


def test_what_is_shown_is_read_in_the_order_it_has() -> None:
    assert "echo hi # " == printable("echo \u202ehi\u2066 # \u202c\u2069")


@pytest.mark.parametrize(
    "entry",
    [
        text("a\x1b[2Jb"),
        log.ReasoningDelta("r", 0, text="a\x1b[2Jb"),
        log.ToolCallStarted("r", 0, 0, name="a\x1b[2Jb"),
        log.ToolFinished("r", 0, 0, outcome="returned", content="a\x1b[2Jb"),
        log.RetryWaiting("r", 0, attempt=1, seconds=1.0, error="a\x1b[2Jb"),
        log.RunFailed("r", error="provider", message="a\x1b[2Jb"),
        log.RunStopped("r", reason="user", message="a\x1b[2Jb"),
    ],
    ids=lambda entry: entry.kind,
)
def test_no_entry_passes_an_escape_sequence_on(entry: log.Entry) -> None:
    out = io.StringIO()
    with view_on(Console(file=out, force_terminal=True, width=80, _environ={})) as view:
        view.show(entry)

    assert "\x1b[2J" not in out.getvalue()
    assert "[2Jb" in out.getvalue()


def test_a_tool_is_shown_as_it_runs_and_with_what_became_of_it() -> None:
    screen = Screen()
    with view_on(screen.console) as view:
        view.show(log.ToolCallReady("r", 0, 0, name="shell", arguments='{"command": "ls"}'))
        view.show(log.ToolStarted("r", 0, 0))
        view.show(log.ToolFinished("r", 0, 0, outcome="interrupted_running", content="first\nsecond\nthird"))

    assert '▶ shell {"command": "ls"}' in screen.lines[0]
    assert ["✗ shell was stopped while it ran first (+2 lines)"] == screen.lines[1:]


def test_a_failure_is_shown_with_what_to_do_about_its_kind() -> None:
    screen = Screen()
    with AnswerView(screen.console, clock=lambda: 0.0, advice={"authentication": "Look there."}) as view:
        view.show(log.RunFailed("r", error="authentication", message="no key"))
        view.show(log.RunFailed("r", error="network", message="no net"))

    assert ["✗ no key", "Look there.", "✗ no net"] == screen.lines


def test_a_stopped_answer_keeps_its_text_and_says_that_it_was_stopped() -> None:
    screen = Screen()
    with view_on(screen.console) as view:
        view.show(log.TurnStarted("r", 0, producer=PRODUCER))
        view.show(text("Half an ans"))
        view.show(log.RunStopped("r", reason="user", message="Ctrl-C"))

    assert ["Half an ans", "■ stopped: Ctrl-C"] == screen.lines


def test_the_wait_before_another_attempt_counts_down() -> None:
    now = [0.0]
    countdown = Countdown("The host is overloaded.", 9.0, lambda: now[0])
    first = countdown.__rich__().plain
    now[0] = 5.8
    later = countdown.__rich__().plain
    now[0] = 8.9
    last = countdown.__rich__().plain
    now[0] = 9.1

    assert "The host is overloaded. Trying again in 9 s. Ctrl-C stops." == first
    assert "The host is overloaded. Trying again in 4 s. Ctrl-C stops." == later
    assert "The host is overloaded. Trying again in 1 s. Ctrl-C stops." == last
    assert "The host is overloaded. Trying again in 0 s. Ctrl-C stops." == countdown.__rich__().plain


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("the host was not found: check the network", "the host was not found: check the network."),
        ("nothing answers: is the port right?", "nothing answers: is the port right?"),
        ("it is overloaded.", "it is overloaded."),
    ],
)
def test_what_failed_and_when_it_is_tried_again_are_two_sentences(error: str, shown: str) -> None:
    countdown = Countdown(error, 1.0, lambda: 0.0).__rich__().plain

    assert f"{shown} Trying again in 1 s. Ctrl-C stops." == countdown


def test_the_wait_before_another_attempt_is_shown_and_goes_away() -> None:
    screen = Screen()
    with view_on(screen.console) as view:
        view.show(log.RetryWaiting("r", 0, attempt=1, seconds=9.0, error="The host is overloaded."))
        waiting = screen.lines
        view.show(text("Here I am."))

    assert ["The host is overloaded. Trying again in 9 s. Ctrl-C stops."] == waiting
    assert ["Here I am."] == screen.lines


def test_without_a_terminal_the_text_comes_out_as_it_is() -> None:
    out = io.StringIO()
    with view_on(Console(file=out, width=20)) as view:
        view.show(log.TurnStarted("r", 0, producer=PRODUCER))
        view.show(text("# A long line that no one wraps or marks up\n"))
        view.show(text("and more"))
        view.show(log.RunFinished("r"))

    assert "# A long line that no one wraps or marks up\nand more\n" == out.getvalue()


def test_a_question_holds_the_terminal_until_it_is_answered() -> None:
    screen = Screen()
    view = view_on(screen.console)
    showing = threading.Thread(target=view.show, args=[text("later")])
    with view.hands_off():
        showing.start()
        screen.console.print("Allow it?")
        while_asked = screen.lines
    showing.join()
    view.show(log.RunFinished("r"))

    assert ["Allow it?"] == while_asked
    assert ["Allow it?", "later"] == screen.lines


WORDS = st.sampled_from(
    [
        "word",
        "*emphasis*",
        "`code`",
        "a" * 35,
        "# ",
        "- ",
        "1. ",
        "```\n",
        "> ",
        "|a|b|\n",
        "---\n",
        "<details>\n",
        "![a](b)",
        "\n",
        "\n\n",
        " ",
    ]
)


@given(st.lists(WORDS, min_size=1, max_size=30))
def test_what_stood_above_the_answer_stays_and_what_comes_below_begins_a_line(words: list[str]) -> None:
    screen = Screen(columns=40, lines=60)
    screen.console.print("above")
    with view_on(screen.console) as view:
        view.show(log.TurnStarted("r", 0, producer=PRODUCER))
        for word in words:
            view.show(text(word + " "))
        view.show(log.RunStopped("r", reason="user"))

    assert "above" == screen.lines[0]
    assert "■ stopped" == screen.lines[-1]
