"""An agent is stopped at every byte of what its provider says: in this process, and over real sockets."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from aiwrapper import ChatAgent
from aiwrapper.testing import (
    Call,
    Delivery,
    DialectName,
    Evidence,
    FakeProvider,
    Say,
    Script,
    Think,
    Turn,
    assert_rules_kept,
)
from cancel_token import CancelToken
from cancel_token.testing import JumpingClock, Outcome
from cancel_token.testing.leaks import left_since, snapshot
from tests.aiwrapper.running import lang_at
from tests.proof.exploring import with_every_script
from tests.proof.profiles import NAME, PROFILE
from tests.proof.talks import BEFORE, DIALECTS, Ear, Talk

SHORT = Script((Turn((Say(("é",)), Call("read_page", ("{}",)))), Turn((Say(("Done",)),))))
"""A letter of two bytes, a tool, an answer."""

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def unhurried() -> CancelToken:
    """A token for whose run the wait before another attempt takes no time."""
    return CancelToken(clock=JumpingClock())


def given_bytes(dialect: DialectName, script: Script) -> int:
    """All that the provider says in an undisturbed run."""
    talk = Talk(dialect, script)
    talk.check(Outcome(kind="returned", value=talk.run(unhurried())))
    return talk.transport.given_bytes


def stop_at(dialect: DialectName, script: Script, byte: int, stop: Callable[[CancelToken], object]) -> None:
    talk, token = Talk(dialect, script), unhurried()
    talk.transport.act_at(byte, lambda: stop(token))
    result = talk.run(token)
    talk.check(Outcome(kind="returned", value=result))
    assert result.status == "stopped" or byte >= talk.transport.given_bytes
    if byte % 16 == 0:  # how it goes on depends on what is kept, which is judged at each
        talk.go_on()


def in_a_thread(token: CancelToken) -> None:
    stopping = threading.Thread(target=token.cancel, args=("from elsewhere",))
    stopping.start()
    stopping.join()


def twice(token: CancelToken) -> None:
    token.cancel("the first")
    token.cancel("the second")


@every_dialect
def test_it_may_be_stopped_at_every_byte(dialect: DialectName, explored: Counter[str]) -> None:
    places = range(given_bytes(dialect, SHORT) + 1)
    for byte in places:
        stop_at(dialect, SHORT, byte, CancelToken.cancel)
    explored["threads: at a byte"] += len(places)


@every_dialect
@pytest.mark.parametrize("stop", [in_a_thread, twice])
def test_it_may_be_stopped_at_a_byte_in_any_way(
    dialect: DialectName, stop: Callable[[CancelToken], object], explored: Counter[str]
) -> None:
    places = range(0, given_bytes(dialect, SHORT), 1 if NAME == "night" else 41)
    for byte in places:
        stop_at(dialect, SHORT, byte, stop)
    explored["threads: at a byte"] += len(places)


@every_dialect
def test_whatever_is_said_it_may_be_stopped_at_a_byte(dialect: DialectName, explored: Counter[str]) -> None:
    def hold(script: Script) -> None:
        whole = given_bytes(dialect, script)
        places = range(0, whole, 1 if NAME == "night" else 61)
        for byte in places:
            stop_at(dialect, script, byte, CancelToken.cancel)
        explored["threads: at a byte"] += len(places)

    with_every_script(PROFILE.bytes, hold)


CLOSED = Script((Turn((Think(("Hm",)), Say(("é", "🙂"))), delivery=Delivery(framing="close")),))
CHUNKED = Script((Turn((Say(("é", " and so on")),)),))


@every_dialect
@pytest.mark.parametrize("script", [CLOSED, CHUNKED], ids=["closed", "chunked"])
def test_over_a_socket_too(dialect: DialectName, script: Script, explored: Counter[str]) -> None:
    """The server has sent so many bytes and holds the next when the stop comes from another thread."""
    before = snapshot("threads", "fds")
    byte, step = 0, 1 if NAME == "night" else 17
    with FakeProvider(dialect) as fake:
        lang = lang_at(fake)
        while stop_over_socket(fake, ChatAgent(lang, conversation=BEFORE), script, byte):
            explored["threads: at a byte of a socket"] += 1
            byte += step
        lang.transport.close()  # type: ignore[attr-defined]  # it is the one that lang_at() has made

    assert byte > 400
    assert () == left_since(before)


def stop_over_socket(fake: FakeProvider, agent: ChatAgent, script: Script, byte: int) -> bool:
    """Stop there; False if the first body has not so many bytes."""
    ear, token = Ear(), CancelToken()
    requests_before = len(fake.requests)
    fake.add(*script)
    ended = threading.Event()
    with fake.hold_at(byte) as hold:
        running = threading.Thread(
            target=run_and_tell, args=(agent, token, ear, ended, hold.reached), name="the run"
        )
        running.start()
        hold.reached.wait()
        was_held = not ended.is_set()
        token.cancel("the user pressed Stop")
        running.join()
    result = agent.last_result
    assert result is not None
    requests = fake.requests[requests_before:]
    assert_rules_kept(
        Evidence(
            result=result,
            before=BEFORE,
            heard=[ear.log],
            token=token,
            ended_at_stop=None,
            requests=requests,
            answered=list(script)[: len(requests)],
        )
    )
    if was_held:
        requests[-1].done.wait()
    return was_held


def run_and_tell(
    agent: ChatAgent, token: CancelToken, ear: Ear, ended: threading.Event, reached: threading.Event
) -> None:
    try:
        agent.run("Go", token=token, subscribers=[ear])
    finally:
        ended.set()
        reached.set()  # whoever waits for a byte that never comes is told
