"""The top-level blocks of a Markdown text: their structure, and HTML of them that is fit for the page.

What a model says is hostile input. HTML in it is text, images become links (one that loads by itself tells a stranger
what was said), and whole blocks then pass an allow-list of tags that cannot run, load, submit or cover anything.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_TAGS: Final = frozenset(
    (
        *("blockquote", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "ul"),
        *("a", "br", "code", "del", "em", "strong"),
        *("table", "tbody", "td", "th", "thead", "tr"),
    )
)
_ATTRIBUTES: Final = {
    "a": {"href", "title"},
    "code": {"class"},
    "ol": {"start"},
    "td": {"class"},
    "th": {"class"},
}
_CLASSES: Final = {
    "code": re.compile(r"language-[\w+#.-]{1,40}"),
    "td": re.compile(r"align-(left|center|right)"),
    "th": re.compile(r"align-(left|center|right)"),
}


def rendered(text: str, references: object) -> Iterator[str]:
    """The top-level blocks of a text, sanitised one by one.

    Args:
        text: Markdown.
        references: the link definitions that it may use, to which its own are added; the parser asks it with `get` and
            `in`, and sets items.
    """
    parser, cleaner = _parser(), _cleaner()
    env = {"references": references}
    for block in _top_level(parser.parse(text, env)):
        yield cleaner.clean(parser.renderer.render(block, parser.options, env))


def structure(text: str) -> list[list[Token]]:
    """The tokens of each top-level block, without what is in a line."""
    return _top_level(_scanner().parse(text))


def _top_level(tokens: Iterable[Token]) -> list[list[Token]]:
    blocks: list[list[Token]] = []
    for token in tokens:
        if token.level == 0 and token.nesting >= 0:
            blocks.append([])
        blocks[-1].append(token)
    return blocks


@cache
def _parser() -> MarkdownIt:
    # A model's line breaks are meant, in poems and addresses, and people read them so in every other chat.
    parser = MarkdownIt("js-default", {"html": False, "breaks": True, "maxNesting": 20})
    parser.core.ruler.push("page", _fit_for_the_page)
    return parser


@cache
def _scanner() -> MarkdownIt:
    return MarkdownIt("js-default", {"html": False, "maxNesting": 20}).disable("inline")


@cache
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        attribute_filter=_filter_attribute,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _filter_attribute(tag: str, name: str, value: str) -> str | None:
    if name == "class" and not _CLASSES[tag].fullmatch(value):
        return None
    return value


def _fit_for_the_page(state: StateCore) -> None:
    """Headings stand below the page's own two, columns are aligned by class, images become links."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        elif token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", None)):
            token.attrSet("class", str(style).replace("text-align:", "align-"))
        elif token.children:
            token.children = list(_without_images(token.children))


def _without_images(tokens: Iterable[Token]) -> Iterator[Token]:
    in_link = False
    for token in tokens:
        if token.type == "image":
            text = Token("text", "", 0, content=token.content or "image")
            if in_link:
                yield text
            else:
                yield Token("link_open", "a", 1, attrs={"href": token.attrs["src"]})
                yield text
                yield Token("link_close", "a", -1)
            continue
        if token.type in ("link_open", "link_close"):
            in_link = token.nesting > 0
        yield token
