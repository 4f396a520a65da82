"""The laws of the conversation, at every prefix of drawn logs.

The default is 100,000 prefixes; `AIWRAPPER_LAW_PREFIXES=1000000 pytest tests/core/test_laws.py` tries more.
"""

import os
from collections import Counter
from collections.abc import Callable

import pytest
from attrs import frozen
from hypothesis import HealthCheck, given, settings

from aiwrapper._core.conversation import (
    EMPTY,
    Conversation,
    State,
    append,
    settle,
    step,
)
from aiwrapper._core.log import Entry, HeadMoved, RunStopped, UserMessageAdded
from aiwrapper._core.log_json import dump_entry, load_entry
from aiwrapper._core.messages import Text, UserMessage
from aiwrapper._core.validity import changes, repair, validate
from aiwrapper.testing.logs import honest_logs, logs

PREFIXES = int(os.environ.get("AIWRAPPER_LAW_PREFIXES", "100000"))

NEXT = UserMessageAdded("next", (Text("And now?"),))
SHORT = settings(max_examples=100, deadline=None)
LONG = settings(max_examples=500, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@frozen
class Prefix:
    """A log up to some entry.

    Args:
        before: the state one entry earlier.
        entry: that entry.
        state: what the log says with it.
        settled: its conversation, settled.
    """

    before: State
    entry: Entry
    state: State
    settled: Conversation


def prefixes(log: list[Entry]) -> list[Prefix]:
    found: list[Prefix] = []
    state = EMPTY
    for entry in log:
        before, state = state, step(state, entry)
        found.append(Prefix(before, entry, state, settle(state)))
    return found


def law_1_every_prefix_settles_to_a_valid_conversation(prefix: Prefix) -> None:
    assert validate(settle(prefix.state)) == []
    assert validate(prefix.state.conversation) == []


def law_2_settling_is_what_the_log_says_after_a_stop(prefix: Prefix) -> None:
    run = prefix.state.run
    if run is None:
        assert settle(prefix.state, "user") is prefix.state.conversation
        return
    stopped = step(prefix.state, RunStopped(run.run_id, reason="user"))

    assert stopped.run is None
    assert settle(prefix.state, "user") == stopped.conversation


def law_3_a_user_message_follows_the_settled_conversation(prefix: Prefix) -> None:
    message = UserMessage(NEXT.id, NEXT.parts)

    assert append(prefix.settled, message) == step(prefix.state, NEXT).conversation


def law_4_what_is_closed_never_changes(prefix: Prefix) -> None:
    """The step from one prefix to the next; so, by induction, to every continuation."""
    assert changes(prefix.before.conversation, prefix.state.conversation) == []
    assert changes(prefix.state.conversation, prefix.settled) == []
    if not isinstance(prefix.entry, HeadMoved | UserMessageAdded):
        was = prefix.before.conversation.messages
        assert was == prefix.state.conversation.messages[: len(was)]


def law_7_an_entry_survives_json_and_repair_has_nothing_to_do(prefix: Prefix) -> None:
    assert prefix.entry == load_entry(dump_entry(prefix.entry))
    assert prefix.settled is repair(prefix.settled)


LAWS: tuple[Callable[[Prefix], None], ...] = (
    law_1_every_prefix_settles_to_a_valid_conversation,
    law_2_settling_is_what_the_log_says_after_a_stop,
    law_3_a_user_message_follows_the_settled_conversation,
    law_4_what_is_closed_never_changes,
    law_7_an_entry_survives_json_and_repair_has_nothing_to_do,
)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_law_holds_at_every_prefix_of_what_our_drivers_write(law: Callable[[Prefix], None]) -> None:
    @SHORT
    @given(honest_logs())
    def holds(log: list[Entry]) -> None:
        for prefix in prefixes(log):
            law(prefix)

    holds()


@pytest.mark.timeout(3600)
def test_all_laws_hold_at_every_prefix_of_any_log(law_counts: Counter[str]) -> None:
    tried = Counter[str]()

    @LONG
    @given(logs(max_runs=4))
    def hold(log: list[Entry]) -> None:
        for prefix in prefixes(log):
            for law in LAWS:
                law(prefix)
            tried["prefixes"] += 1
            tried["prefixes that cut an open run"] += prefix.state.run is not None
            turn = None if prefix.state.run is None else prefix.state.run.turn
            tried["prefixes that cut a turn"] += turn is not None and not turn.is_whole
            tried["prefixes that cut running tools"] += turn is not None and turn.is_whole
        tried["logs"] += 1

    # Hypothesis draws logs and not prefixes, so it is asked until there were enough of these.
    while tried["prefixes"] < PREFIXES:
        hold()

    law_counts.update({f"{name}, all laws tried on each": count for name, count in tried.items()})
    # A sweep in which no turn and no tool was cut would have shown nothing.
    assert tried["prefixes that cut a turn"] > PREFIXES / 10
    assert tried["prefixes that cut running tools"] > PREFIXES / 100
