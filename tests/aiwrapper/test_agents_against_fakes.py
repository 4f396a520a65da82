"""Whatever a provider says, and wherever a run is stopped, the next request is taken (C13, C15)."""

import threading
from collections.abc import Iterable

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwrapper import CancelToken, ChatAgent, Lang, RetryPolicy, RunResult, validate
from aiwrapper.testing import DialectName, FakeProvider, FakeRequest, Script, Turn, render
from aiwrapper.testing.strategies import TOOL_NAMES, provider_scripts, turns
from tests.aiwrapper.running import DIALECTS, lang_at

PATIENCE_SECONDS = 30  # of a wait that ends at once unless something is broken

dialects = st.sampled_from(DIALECTS)


def impatient(fake: FakeProvider) -> Lang:
    return evolve(lang_at(fake), retry=RetryPolicy(max_attempts=1))


def read_page() -> str:
    """Reads."""
    return "a page"


def search() -> str:
    """Fails."""
    raise LookupError("nothing found")


TOOLS = (read_page, search)  # a drawn call may also name a third, which nobody offered


def refused(requests: Iterable[FakeRequest]) -> list[str]:
    return [str(violation) for request in requests for violation in request.violations]


def gone_on_with(agent: ChatAgent, dialect: DialectName) -> tuple[RunResult, list[str]]:
    """The same conversation, with a provider that has not seen it."""
    with FakeProvider(dialect) as fake:
        result = ChatAgent(impatient(fake), TOOLS, conversation=agent.conversation).run("And now?")
        return result, refused(fake.requests)


@settings(deadline=None, max_examples=60)
@given(script=provider_scripts(), dialect=dialects, following=dialects)
def test_whatever_a_provider_says_the_next_request_is_taken(
    script: Script, dialect: DialectName, following: DialectName
) -> None:
    with FakeProvider(dialect, script) as fake:
        agent = ChatAgent(impatient(fake), TOOLS)
        result = agent.run("Hi")
        broken = refused(fake.requests)
    again, broken_later = gone_on_with(agent, following)

    assert broken == broken_later == []
    assert result.status in ("completed", "failed")
    assert (again.status, again.error) == ("completed", None)
    assert validate(again.conversation) == []


@settings(deadline=None, max_examples=60)
@given(turn=turns(), dialect=dialects, following=dialects, data=st.data())
def test_at_whatever_byte_a_run_is_stopped_the_next_request_is_taken(
    turn: Turn, dialect: DialectName, following: DialectName, data: st.DataObject
) -> None:
    at_byte = data.draw(st.integers(0, len(render(turn, dialect))))
    token = CancelToken()
    with FakeProvider(dialect, [turn]) as fake:
        agent = ChatAgent(impatient(fake), TOOLS)
        running = threading.Thread(target=agent.run, args=("Hi",), kwargs={"token": token})
        hold = fake.hold_at(at_byte)
        running.start()
        reached = hold.reached.wait(PATIENCE_SECONDS)
        token.cancel("the user pressed Stop")
        hold.release()
        running.join()
        broken = refused(fake.requests)
    again, broken_later = gone_on_with(agent, following)

    assert reached
    assert broken == broken_later == []
    assert agent.last_result is not None
    assert agent.last_result.status in (
        "stopped",
        "completed",
        "failed",
    )  # the end may be said before the last byte
    assert (again.status, again.error) == ("completed", None)
    assert validate(again.conversation) == []


def test_the_drawn_calls_name_our_tools() -> None:
    assert {made.__name__ for made in TOOLS} < set(TOOL_NAMES)
