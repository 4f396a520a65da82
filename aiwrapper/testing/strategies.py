"""Hypothesis strategies for what providers say.

Drawn over structure: a script is answers, a turn is blocks, a block is a text and where it was split. What is
drawn depends on no dialect, so the same script can be played by every fake.

    @given(provider_scripts())
    def test_my_agent_survives_every_provider(script): ...
"""

import json
from typing import Any

from hypothesis import strategies as st

from aiwrapper._core.messages import Usage
from aiwrapper.testing.scripts import (
    PLAIN,
    Answer,
    Block,
    Call,
    Cut,
    Delivery,
    Finish,
    HttpError,
    Raw,
    Redacted,
    Say,
    Script,
    StreamError,
    Think,
    Turn,
    UsageAt,
)

TOOL_NAMES = ("read_page", "search", "run")
"""The tools that drawn calls name."""

_STATUSES = (400, 401, 403, 404, 413, 429, 500, 503, 529)
_FINISHES: tuple[Finish, ...] = ("natural", "length", "filtered", "missing")
_USAGE_AT: tuple[UsageAt, ...] = ("natural", "with_finish", "every_event", "never")
_ERRORS: tuple[StreamError, ...] = ("server", "overloaded")
_JUNK = (
    b"",
    b"<html><body>502 Bad Gateway</body></html>",
    b'{"an": "object"}',
    b"data: {\n\n",
    b"data: []\n\ndata: null\n\n",
    b"data: \xff\xfe\n\n",
    b"event: ping\n\n",
    b": a comment and no event\n\n",
)

_texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ("data: [DONE]\n\n", "\r\n", "\u2028", "é🙂", " ", '"\\', "\x00")
)


@st.composite
def pieces_of(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> tuple[str, ...]:
    """A text, split anywhere, perhaps with empty pieces; one piece at least."""
    text = draw(texts)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return tuple(text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True))


def json_objects() -> st.SearchStrategy[dict[str, Any]]:  # Any: JSON
    """Arguments of tools."""
    leaves = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts
    )
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3)
    )
    return st.dictionaries(_texts, values, max_size=3)


def calls(
    arguments: st.SearchStrategy[dict[str, Any]] | None = None, *, whole: bool = True
) -> st.SearchStrategy[Call]:
    """Calls.

    Args:
        arguments: JSON objects; without it, any.
        whole: False for some whose arguments are cut somewhere, as a limit of tokens does it.
    """
    texts = (json_objects() if arguments is None else arguments).map(
        lambda value: json.dumps(value, ensure_ascii=False)
    )
    if not whole:
        texts |= st.builds(lambda text, at: text[: at % len(text)], texts, st.integers(0, 100))
    return st.builds(Call, st.sampled_from(TOOL_NAMES), pieces_of(texts))


def turns(
    *,
    whole: bool = False,
    delivery: st.SearchStrategy[Delivery] | None = None,
    arguments: st.SearchStrategy[dict[str, Any]] | None = None,
) -> st.SearchStrategy[Turn]:
    """Turns: reasoning (signed or not) and text in any order, then up to four parallel calls.

    Args:
        whole: only those that a provider has finished in the ordinary way.
        delivery: how their bytes travel; without it, plainly.
        arguments: what the calls are given; without it, any JSON objects.
    """
    words = st.builds(Say, pieces_of(_texts.filter(lambda text: text.strip() != "")))
    thoughts = st.builds(
        Think, pieces_of(_texts.filter(bool)), signature=st.sampled_from((None, None, ""))
    ) | st.builds(Redacted, _texts.map("fake/{}".format))
    blocks: st.SearchStrategy[tuple[Block, ...]] = st.builds(
        lambda said, called: (*said, *called),
        st.lists(words | thoughts, max_size=4),
        st.lists(calls(arguments, whole=whole), max_size=4),
    )
    counts = st.none() | st.integers(0, 10**9)
    usage = st.builds(
        Usage,
        input_tokens=counts,
        output_tokens=counts,
        cached_input_tokens=st.none(),
        complete=st.just(True),
    )
    return st.builds(
        Turn,
        blocks,
        finish=st.just(_FINISHES[0]) if whole else st.sampled_from(_FINISHES),
        usage=st.none() | usage,
        usage_at=st.sampled_from(_USAGE_AT),
        error=st.none() if whole else st.none() | st.sampled_from(_ERRORS),
        interleaved=st.booleans(),
        delivery=st.just(PLAIN) if delivery is None else delivery,
    )


def deliveries() -> st.SearchStrategy[Delivery]:
    """Ways to travel; none that takes time by itself."""
    return st.builds(
        Delivery,
        write_bytes=st.none() | st.integers(1, 100),
        cut=st.none() | st.builds(Cut, st.integers(0, 3000), st.sampled_from(("fin", "rst"))),
        framing=st.sampled_from(("chunked", "length", "close")),
    )


def answers(
    arguments: st.SearchStrategy[dict[str, Any]] | None = None,
) -> st.SearchStrategy[Answer]:
    """One answer: mostly a turn, sometimes an error or junk; `arguments` as for `turns`."""
    errors = st.builds(
        HttpError, st.sampled_from(_STATUSES), retry_after=st.none() | st.sampled_from(("0", "soon"))
    )
    return st.one_of(
        turns(whole=True, arguments=arguments),
        turns(delivery=deliveries(), arguments=arguments),
        errors,
        st.builds(Raw, st.sampled_from(_JUNK) | st.binary(max_size=100), delivery=deliveries()),
    )


def provider_scripts(
    *,
    whole: bool = False,
    max_answers: int = 4,
    arguments: st.SearchStrategy[dict[str, Any]] | None = None,
) -> st.SearchStrategy[Script]:
    """Scripts.

    Args:
        whole: only turns that the provider finishes and that arrive; no errors, no junk, no cuts.
        max_answers: how many answers at most.
        arguments: what calls are given; without it any JSON objects, which few tools take.
    """
    answer: st.SearchStrategy[Answer] = (
        turns(whole=True, arguments=arguments) if whole else answers(arguments)
    )
    return st.builds(Script, st.lists(answer, max_size=max_answers))
