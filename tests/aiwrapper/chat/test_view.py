"""What a page is told, over drawn logs: however the log is cut into changes, the page ends up the same."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiwrapper._core.log import (
    Entry,
    RetryWaiting,
    RunFinished,
    RunStarted,
    TextDelta,
    ToolCallReady,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UserMessageAdded,
)
from aiwrapper._core.messages import Image, Producer, Text
from aiwrapper.chat._shapes import dump
from aiwrapper.chat._state import ChatState, advanced
from aiwrapper.chat._view import ChatView
from aiwrapper.testing.logs import honest_logs, logs
from tests.aiwrapper.chat.servers import Json, Page

DRAWN = settings(max_examples=150, database=None, suppress_health_check=[HealthCheck.too_slow])


def states(log: Sequence[Entry], cuts: Sequence[int]) -> list[ChatState]:
    """The chat as it was after so many entries each."""
    state, at, found = ChatState(), 0, []
    for cut in sorted({min(cut, len(log)) for cut in cuts} | {len(log)}):
        state = advanced(state, ((number + 1, log[number]) for number in range(at, cut)))
        at = cut
        found.append(state)
    return found


def told(page: Page, view: ChatView, state: ChatState) -> Page:
    change = view.change(state, stopping=False)
    if change is not None:
        page.apply(json.loads(dump(change)))
    return page


def known(page: Page) -> tuple[Json, dict[str, Json], dict[str, Json]]:
    return page.chat, page.runs, page.messages


def fresh(state: ChatState) -> Page:
    return told(Page(), ChatView("chat"), state)


cuts = st.lists(st.integers(0, 60), max_size=6)


@DRAWN
@given(st.one_of(honest_logs(), logs()), cuts)
def test_a_page_that_follows_knows_what_a_new_page_is_told(log: list[Entry], cuts: list[int]) -> None:
    page, view = Page(), ChatView("chat")
    for state in states(log, cuts):
        told(page, view, state)

        assert known(fresh(state)) == known(page)


@DRAWN
@given(st.one_of(honest_logs(), logs()), cuts)
def test_a_page_that_comes_back_is_told_what_it_has_missed(log: list[Entry], cuts: list[int]) -> None:
    page = Page()
    before: ChatState | None = None
    for state in states(log, cuts):
        told(page, ChatView("chat", before), state)  # a new stream each time
        before = state

        assert known(fresh(state)) == known(page)


@DRAWN
@given(honest_logs(), cuts)
def test_a_change_that_comes_twice_does_no_harm(log: list[Entry], cuts: list[int]) -> None:
    page, view = Page(), ChatView("chat")
    for state in states(log, cuts):
        change = view.change(state, stopping=False)
        if change is not None:
            page.apply(json.loads(dump(change)))
            once = deepcopy(known(page))
            page.apply(json.loads(dump(change)))

            assert once == known(page)


PRODUCER = Producer("openai_chat", "host", model="m")
BEGUN: list[Entry] = [
    UserMessageAdded("u", (Text("Hello"),)),
    RunStarted("r"),
    TurnStarted("r", 1, producer=PRODUCER),
]


def run_states(log: Sequence[Entry]) -> list[str]:
    return [
        fresh(state).chat["run"]["state"]
        for state in states(log, range(len(log)))
        if state.running is not None
    ]


def test_a_run_says_what_it_is_doing() -> None:
    log: list[Entry] = [
        *BEGUN,
        RetryWaiting("r", 1, attempt=1, seconds=2.0, error="busy"),
        TextDelta("r", 1, text="Let me see."),
        ToolCallReady("r", 1, 0, name="look", arguments="{}"),
        TurnFinished("r", 1, finish_reason="tool_calls"),
        ToolStarted("r", 1, 0),
        ToolFinished("r", 1, 0, outcome="returned", content="Nothing."),
        RunFinished("r"),
    ]

    assert [
        "starting",
        "starting",
        "retrying",
        "streaming",
        "streaming",
        "streaming",
        "running_tool",
        "starting",
    ] == run_states(log)


def test_a_call_is_told_with_what_became_of_it_and_no_message_of_results_is() -> None:
    log: list[Entry] = [
        *BEGUN,
        ToolCallReady("r", 1, 0, name="look", arguments='{"at": 1}'),
        TurnFinished("r", 1, finish_reason="tool_calls"),
        ToolStarted("r", 1, 0),
        ToolFinished("r", 1, 0, outcome="raised", content="It is dark."),
        TurnStarted("r", 2, producer=PRODUCER),
        TextDelta("r", 2, text="It is dark there."),
        TurnFinished("r", 2, finish_reason="stop"),
        RunFinished("r"),
    ]
    page = fresh(states(log, ())[0])
    (call,) = page.messages["r.1"]["parts"]

    assert ("raised", "It is dark.", "finished") == (call["outcome"], call["result"], call["state"])
    assert "r.1" == page.messages["r.2"]["parent_id"]
    assert ["u", "r.1", "r.2"] == list(page.messages)
    assert "r.2" == page.chat["head_id"]


def test_while_it_is_said_a_message_is_the_head() -> None:
    log = [*BEGUN, TextDelta("r", 1, text="Well")]

    assert "r.1" == fresh(states(log, ())[0]).chat["head_id"]


def test_attachments_are_told_as_what_they_are() -> None:
    file = Text('<attachment name="notes.txt">\nline\n</attachment>')
    log: list[Entry] = [UserMessageAdded("u", (Image("image/png", "AAAA"), file, Text("See")))]
    image, text, said = fresh(states(log, ())[0]).messages["u"]["parts"]

    assert image["url"].startswith("api/chats/chat/attachments/")
    assert {
        "kind": "file",
        "name": "notes.txt",
        "text": "line",
        "hash": hashlib.sha256(b"line").hexdigest(),
    } == text
    assert {"kind": "text", "text": "See"} == said
