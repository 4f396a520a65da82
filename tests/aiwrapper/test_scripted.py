"""The provider in this process says what the fake on loopback says, and can be acted on at each byte."""

from contextlib import closing

import pytest
from attrs import evolve
from hypothesis import given, settings

from aiwrapper import CancelToken, ChatAgent, Lang, RetryPolicy, TurnStarted, UserMessageAdded, dump_entry
from aiwrapper.testing import Cut, Delivery, DialectName, FakeProvider, HttpError, Say, Script, Turn, render
from aiwrapper.testing.scripted import ScriptedTransport
from aiwrapper.testing.strategies import provider_scripts
from tests.aiwrapper.running import DIALECTS, Acting, lang_at
from tests.proof.talks import lang_of

HELLO = Turn((Say(("Hel", "lo")),))

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def told(lang: Lang) -> list[object]:
    """The log of a run, without what is another one each time."""
    acting = Acting()
    agent = ChatAgent(evolve(lang, retry=RetryPolicy(max_attempts=1)), now=lambda: 0.0)
    result = agent.run("Hi", subscribers=[acting])
    return [
        dump_entry(entry).replace(result.run_id.encode(), b"the run")
        for entry in acting.log[:-1]  # a failure's words name the address
        if not isinstance(entry, UserMessageAdded | TurnStarted)
    ] + [type(acting.log[-1])]


@every_dialect
@given(script=provider_scripts(max_answers=2))
@settings(max_examples=30)
def test_a_run_is_told_the_same_by_both(dialect: DialectName, script: Script) -> None:
    with FakeProvider(dialect, script) as fake:
        over_a_socket = told(lang_at(fake))
    transport = ScriptedTransport(dialect, script)
    in_this_process = told(lang_of(transport))

    assert over_a_socket == in_this_process
    assert transport.open_now == 0


@every_dialect
def test_it_acts_at_each_byte_before_the_next(dialect: DialectName) -> None:
    whole = len(render(HELLO, dialect))
    for byte in range(whole + 1):
        transport, token = ScriptedTransport(dialect, [HELLO]), CancelToken()
        transport.act_at(byte, token.cancel)
        ChatAgent(lang_of(transport)).run("Hi", token=token)

        assert byte == transport.given_bytes == transport.requests[0].sent_bytes
        assert transport.requests[0].hung_up.is_set()
        assert transport.open_now == 0


@every_dialect
def test_bytes_are_counted_over_all_answers(dialect: DialectName) -> None:
    transport, acted = ScriptedTransport(dialect, [HELLO, HELLO]), []
    first = len(render(HELLO, dialect))
    transport.act_at(first + 1, lambda: acted.append(len(transport.requests)))
    agent = ChatAgent(lang_of(transport))
    agent.run("Hi")
    agent.run("Hi")

    assert acted == [2]
    assert not transport.requests[1].hung_up.is_set()


@pytest.mark.parametrize(
    ("delivery", "status"),
    [
        (Delivery(cut=Cut(100, "rst")), "failed"),
        (Delivery(cut=Cut(100, "fin")), "failed"),
        (Delivery(cut=Cut(10**9, "fin"), framing="close"), "completed"),
        (Delivery(write_bytes=1), "completed"),
    ],
)
def test_the_delivery_decides_how_the_body_ends(delivery: Delivery, status: str) -> None:
    transport = ScriptedTransport("openai_chat", [evolve(HELLO, delivery=delivery)] * 3)

    assert status == ChatAgent(evolve(lang_of(transport), retry=RetryPolicy(max_attempts=1))).run("Hi").status


def test_what_is_left_of_a_script_can_be_replaced() -> None:
    transport = ScriptedTransport("openai_chat", [HttpError(400), HttpError(400)])
    agent = ChatAgent(lang_of(transport))
    agent.run("Hi")
    transport.say(Turn((Say(("Better.",)),)))

    assert "Better." == agent.run("And now?").text


def test_a_request_that_breaks_a_rule_is_refused_and_uses_no_answer() -> None:
    transport = ScriptedTransport("openai_chat", [HELLO], api_key="sk-another")
    refused = ChatAgent(evolve(lang_of(transport), host=lang_of(ScriptedTransport("openai_chat")).host)).run(
        "Hi"
    )

    assert "failed" == refused.status
    assert [401] == [request.status for request in transport.requests]
    assert [None] == transport.answered


def test_an_answer_that_is_left_early_was_hung_up_on() -> None:
    transport = ScriptedTransport("openai_chat", [HELLO])
    with closing(ChatAgent(lang_of(transport)).stream("Hi")) as entries:
        next(entry for entry in entries if isinstance(entry, TurnStarted))
        next(entries)

    assert transport.requests[0].hung_up.is_set()
