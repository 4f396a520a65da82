"""Between two looks at the token, the streaming parser and the executor of tools run fewer than fifty lines.

Our own lines are counted: what a library does between two of them is one call of ours.
"""

import pytest

from aiwrapper import ChatAgent, tool
from aiwrapper import _model_call as model_call
from aiwrapper._core import reply, sse
from aiwrapper._core.reply import Reply
from aiwrapper.dialects import _anthropic_stream, _openai_chat_stream, _wire_json
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.drivers import _tool_calls
from aiwrapper.testing import Call, DialectName, Say, Think, Turn, render
from aiwrapper.testing.recorded import RecordedTransport, Recording
from cancel_token import CancelToken
from cancel_token.testing.zones import dead_zones
from tests.aiwrapper.running import DIALECTS, recorded_agent

LIMIT = 50
PARSER = (sse, reply, _openai_chat_stream, _anthropic_stream, _wire_json, model_call)
MANY = 300

TALK = (
    Turn(
        (
            Think(("I ", "think")),
            Say(("Let ", "me ", "see")),
            Call("add", ('{"a": 1,', ' "b": 2}')),
            Call("add", ('{"a": 3}',)),
            Call("fly", ("{}",)),
            Call("add", ("{",)),
        )
    ),
    Turn((Say(("Three", ".")),)),
)

# What says nothing, and may come in any number
FLOODS = {
    "comments": b": still there\n" * MANY,
    "empty events": b"event: ping\n\n" * MANY,
    "names": b"event: x\n" * MANY,
    "fields": b"id: 1\n" * MANY,
    "pings": b'event: ping\ndata: {"type": "ping"}\n\n' * MANY,
    "lines of data": b"data: {\n" + b"data:   \n" * MANY + b'data:  "type": "ping"}\n\n',
}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def run(agent: ChatAgent, token: CancelToken) -> None:
    assert "completed" == agent.run("What is one and two?", token=token).status


def talk(dialect: DialectName, piece_bytes: int, before: bytes = b"") -> ChatAgent:
    def recording(turn: Turn) -> Recording:
        body = before + render(turn, dialect)
        return Recording(body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes))

    return recorded_agent(RecordedTransport(map(recording, TALK)), [add], dialect=dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("piece_bytes", [1, 16, 1_000, 1_000_000])
def test_the_parser_looks_at_its_token_all_the_time(dialect: DialectName, piece_bytes: int) -> None:
    longest = dead_zones(lambda: talk(dialect, piece_bytes), run, targets=PARSER)[0]

    assert longest.lines < LIMIT, longest


@pytest.mark.parametrize("flood", FLOODS)
def test_the_parser_looks_at_its_token_while_nothing_is_said(flood: str) -> None:
    longest = dead_zones(lambda: talk("anthropic", 1_000_000, FLOODS[flood]), run, targets=PARSER)[0]

    assert longest.lines < LIMIT, longest


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_executor_of_tools_looks_at_its_token_all_the_time(dialect: DialectName) -> None:
    longest = dead_zones(lambda: talk(dialect, 1_000_000), run, targets=[_tool_calls])[0]

    assert longest.lines < LIMIT, longest


def test_a_parser_that_is_given_no_way_to_look_is_found() -> None:
    def read(decoder: OpenAIChat, token: CancelToken) -> None:
        turn = Reply(decoder.decoder(), "r", 1)
        for _ in turn.feed(FLOODS["comments"] + render(TALK[1], "openai_chat")):
            token.check()

    assert dead_zones(OpenAIChat, read, targets=PARSER)[0].lines > MANY
