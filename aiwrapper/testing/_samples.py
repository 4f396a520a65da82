"""The values that logs and histories are drawn from: those that have broken something somewhere."""

from collections.abc import Mapping
from functools import cache
from typing import Final, get_args

from hypothesis import strategies as st

from aiwrapper._core.log import StopWhere
from aiwrapper._core.messages import Image, Producer, Text, ToolOutcome, Usage, UserPart

PRODUCERS: Final = (
    Producer("openai_chat", "api.openai.com", model="gpt"),
    Producer("openai_chat", "api.deepseek.com", model="reasoner"),
    Producer("anthropic", "api.anthropic.com", model="claude"),
    Producer("anthropic", "api.anthropic.com", model="claude-other"),
)
"""Who may have said a turn: conversations switch dialect, host and model in the middle."""

# Sampled, because one draw is cheap and these are the texts that have broken something somewhere.
_TEXTS: Final = (
    "Hello",
    " world",
    "a",
    " ",
    "\n\t",
    "\u3000",  # blank, and no ASCII
    "caf\u00e9 \U0001f44d",
    "\ud83d",  # half of a character, as an escape in somebody's JSON gives it
    "\ude00",
    '{"a": 1',
    "trailing \n",
    "\x00",
)
OBJECTS: Final = (
    "{}",
    '{"path": "a.txt"}',
    '{"a": {"b": [1, 2.5, null]}}',
    ' {"text": "caf\u00e9"} ',
    '{"n": 123456789012345678901234567890}',
)
NO_OBJECTS: Final = (
    "",
    " ",
    "[]",
    "null",
    '"text"',
    '{"path": "a',
    "{}{}",
    '{"a": NaN}',
    '{"a": "\\ud800"}',
    "[" * 2000,
)
NAMES: Final = ("read_page", "shell", "f", "weather.now", "with space", "n" * 70, "caf\u00e9")


# Strategies that are used at every entry are made once: making one costs more than drawing from it.
TEXT: Final = st.sampled_from(_TEXTS) | st.text(min_size=1, max_size=8)
PIECES: Final = st.lists(TEXT, min_size=1, max_size=4)
BOOL: Final = st.booleans()
_COUNT: Final = st.sampled_from((None, 0, 7, 10_000))
USAGE: Final = st.builds(
    Usage,
    input_tokens=_COUNT,
    output_tokens=_COUNT,
    cached_input_tokens=_COUNT,
    reasoning_tokens=_COUNT,
    complete=st.booleans(),
)
_USER_PART: Final[st.SearchStrategy[UserPart]] = st.one_of(
    TEXT.map(Text), st.sampled_from((Image("image/png", "aGk="), Text(""), Image("image/png", "")))
)
USER_PARTS: Final = st.lists(_USER_PART, max_size=3).map(lambda parts: tuple(parts))
PRODUCER: Final = st.sampled_from(PRODUCERS)
OUTCOME: Final = st.sampled_from(get_args(ToolOutcome))
RESULT_TEXT: Final = st.sampled_from(("12 files", "no such file", "", " ", "\ud800", "x" * 300))
# A turn's parts: mostly what models do.
PLAN: Final = st.lists(
    st.sampled_from(("text", "text", "call", "reasoning", "call", "cut", "usage")), min_size=1, max_size=6
)
WHERE: Final = st.sampled_from(get_args(StopWhere))
PAYLOADS: Final[Mapping[str, tuple[str, ...]]] = {
    # The shapes in which the dialects keep them; another dialect must not look inside.
    "openai_chat": ('{"signature":"c2ln"}',),
    "anthropic": (
        '{"type":"thinking","thinking":"Hm.","signature":"c2ln"}',
        '{"type":"redacted_thinking","data":"ZGF0YQ=="}',
    ),
}


@cache
def _below(number: int) -> st.SearchStrategy[int]:
    return st.integers(0, number - 1)


def number_below(draw: st.DrawFn, below: int) -> int:
    """0 to `below` - 1; where there is but one such number, nothing is drawn."""
    return draw(_below(below)) if below > 1 else 0
