import html.parser
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiwrapper._core.text import well_formed
from aiwrapper.chat import _rendering
from aiwrapper.chat._markdown import MAX_BLOCK_CHARACTERS, MarkdownBlocks, Update, render
from tests.aiwrapper.chat.hostile import HOSTILE

LINES = [
    "Some *text* with `code`, [a link](http://x.de/a) and **more**.",
    "a | b",
    "--- | :-:",
    "1 | 2",
    "- item",
    "  more of it",
    "    - nested",
    "* other",
    "3. third",
    "1) one",
    "> quoted",
    "```py",
    "```",
    "~~~~",
    "    indented",
    "# Heading",
    "#",
    "===",
    "---",
    "***",
    "[label]",
    "[text][label] and [Other]",
    "[label]: /relative",
    "[label]: http://x.de 'title'",
    "[other]:",
    "http://other.de",
    "'a title",
    "that goes on'",
    "![image](http://x.de/i.png)",
    "<div onclick=x>",
    "&amp; &#0; \\* \0",
    "\ud83d\ude00 \ud83d é",
    "",
    "",
    " ",
    "\u00a0",
    "\t",
    "\x0b",
]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Markdown as models write it, and as they do not."""
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from(LINES), st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "", " "]))
        )
    )
    return "".join(line + end for line, end in parts)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text, and the deltas that it comes in."""
    text = draw(texts() | st.text(max_size=200))
    ends = sorted(draw(st.sets(st.integers(0, len(text)), max_size=20)))
    return text, [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


class Page:
    """What a page that obeys the updates shows."""

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def apply(self, update: Update) -> None:
        for block in update.changed:
            self.blocks[block.index : block.index + 1] = [block.html]
        del self.blocks[update.count :]


def grow(
    deltas: Sequence[str], max_block_characters: int = MAX_BLOCK_CHARACTERS
) -> tuple[MarkdownBlocks, Page]:
    blocks, page = MarkdownBlocks(max_block_characters=max_block_characters), Page()
    for delta in deltas:
        page.apply(blocks.feed(delta))

        assert list(blocks.html) == page.blocks
    page.apply(blocks.finish())
    return blocks, page


def at_once(text: str) -> str:
    """The whole text in one go, without a thought of blocks: what must come out."""
    plain = well_formed(text)
    return _rendering._cleaner().clean(_rendering._parser().render(plain))


@settings(max_examples=400, deadline=None)
@given(cut_texts())
@example(("[a]: /x\n'title\ngoes on'", ["[a]: /x\n'title\n", "goes on'"]))
def test_a_text_that_grew_looks_like_the_text_rendered_at_once(cut: tuple[str, list[str]]) -> None:
    text, deltas = cut

    blocks, page = grow(deltas)

    assert list(blocks.html) == page.blocks
    assert at_once(text) == "".join(page.blocks)


@settings(max_examples=60, deadline=None)
@given(texts(), st.integers(1, 7), st.integers(1, 60))
def test_the_blocks_do_not_depend_on_how_the_text_was_cut(text: str, size: int, limit: int) -> None:
    # The limit is small, so that blocks are cut in every way.
    whole, _ = grow([text], limit)
    _, page = grow([text[at : at + size] for at in range(0, len(text), size)], limit)

    assert list(whole.html) == page.blocks


def told(deltas: Sequence[str]) -> tuple[list[int], int]:
    """The indices of all blocks that were told, and how many characters of HTML that was."""
    blocks = MarkdownBlocks(max_block_characters=4096)
    updates = [*(blocks.feed(delta) for delta in deltas), blocks.finish()]
    changed = [block for update in updates for block in update.changed]
    return [block.index for block in changed], sum(len(block.html) for block in changed)


def test_a_closed_block_is_told_no_more() -> None:
    text = "".join(f"Paragraph {number} with *words*.\n\n- item\n- item\n\n" for number in range(50))

    indices, _ = told(list(text))

    assert sorted(indices) == indices
    assert set(range(100)) == set(indices)


@pytest.mark.parametrize(
    "text",
    [
        "- an item of a list\n" * 2000,
        "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 4000,
        "```py\n" + "x = [1, 2, 3]\n" * 3000,
        "word " * 8000,
        "x" * 40_000,
        "a\n" * 20_000,
        "> a\n" * 10_000,
        "".join(f"[a{number}]: /x\n" for number in range(4000)) + "x",
    ],
    ids=["list", "table", "code", "line", "one word", "paragraph", "quote", "definitions"],
)
def test_what_is_told_of_a_huge_block_is_linear_in_its_length(text: str) -> None:
    def told_per_character(length: int) -> float:
        return told([text[at : at + 128] for at in range(0, length, 128)])[1] / length

    # Were it quadratic, four times the text would be told four times as often.
    assert told_per_character(24_000) <= 1.5 * told_per_character(6_000) + 1


def test_a_link_that_is_defined_later_is_told_again_and_nothing_else() -> None:
    blocks = MarkdownBlocks()
    blocks.feed("See [here].\n\nNothing to see.\n\nSee [there].\n\nLast.\n\n")

    update = blocks.feed("[here]: http://x.de\n\nAfter.\n\n")

    assert [0, 4] == [block.index for block in update.changed]
    assert 'href="http://x.de"' in blocks.html[0]


def test_the_rest_of_a_code_block_that_was_cut_is_code_of_its_language() -> None:
    blocks, _ = grow(["```py\n" + "x = 1\n" * 20 + "```\n\nThe end."], max_block_characters=50)

    *code, end = blocks.html
    assert all(block.startswith('<pre><code class="language-py">x = 1') for block in code)
    assert 20 == sum(block.count("x = 1") for block in code)
    assert "<p>The end.</p>\n" == end


def test_the_rest_of_a_table_that_was_cut_has_its_head() -> None:
    blocks, _ = grow(["| head | h |\n|---|---|\n" + "| cell | c |\n" * 9], max_block_characters=60)

    assert len(blocks.html) > 1
    assert all("head" in block for block in blocks.html)


def test_the_rest_of_an_ordered_list_that_was_cut_goes_on_counting() -> None:
    blocks, _ = grow(["".join(f"{number}. item\n" for number in range(1, 9))], max_block_characters=30)

    assert '<ol start="3">' in blocks.html[1]


def test_a_half_character_at_the_end_of_a_delta_is_made_whole_by_the_next() -> None:
    blocks, _ = grow(["a \ud83d", "\ude00 \ud83d", " b\r", "\nc \ud83d"])

    assert ("<p>a \U0001f600 \ufffd b<br>\nc \ufffd</p>\n",) == blocks.html


def test_a_line_break_is_a_line_break() -> None:
    assert ("<p>Roses are red,<br>\nviolets are blue.</p>\n",) == render("Roses are red,\nviolets are blue.")


def test_headings_stand_below_those_of_the_page() -> None:
    assert ("<h3>one</h3>\n", "<h6>six</h6>\n") == render("# one\n\n###### six")


def test_an_image_becomes_a_link_and_loads_nothing() -> None:
    (html,) = render("![a *b*](http://x.de/i.png)")

    assert '<a href="http://x.de/i.png"' in html
    assert ">a *b*</a>" in html


class Elements(html.parser.HTMLParser):
    """What a browser would make of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(text: str) -> None:
    for tag, attributes in Elements(text).found:
        assert tag in _rendering._TAGS
        assert {"a": {"href", "title", "rel", "target"}, "ol": {"start"}}.get(
            tag, {"class"}
        ) >= attributes.keys()
        assert (attributes.get("href") or "http:").startswith(("http:", "https:", "mailto:"))
        assert tag != "a" or attributes["rel"] == "noopener noreferrer"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_comes_out_harmless_at_every_point_of_its_growing(name: str) -> None:
    blocks = MarkdownBlocks()
    for character in HOSTILE[name]:
        for block in blocks.feed(character).changed:
            assert_harmless(block.html)
    blocks.finish()

    assert_harmless("".join(blocks.html))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(HOSTILE.values())) | texts(), max_size=4))
def test_hostile_texts_in_each_other_come_out_harmless(texts: list[str]) -> None:
    assert_harmless("".join(render("".join(texts))))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_sanitiser_alone_takes_out_what_is_hostile(name: str) -> None:
    """The parser escapes all HTML; should it ever let some through, there is a second wall."""
    assert_harmless(_rendering._cleaner().clean(well_formed(HOSTILE[name])))
