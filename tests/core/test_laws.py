"""The laws of the conversation, at every prefix of drawn logs.

The default is 100,000 prefixes; `AIWRAPPER_LAW_PREFIXES=1000000 pytest tests/core/test_laws.py` tries more.
"""

import os
from collections import Counter
from collections.abc import Callable

import pytest
from attrs import define, field
from hypothesis import HealthCheck, given, settings

from aiwrapper._core.conversation import (
    EMPTY,
    Conversation,
    State,
    append,
    continue_,
    fold,
    move_head,
    settle,
    step,
)
from aiwrapper._core.dialect import Dialect, JsonObject, Options, ToolSpec
from aiwrapper._core.log import (
    Entry,
    HeadMoved,
    RunStopped,
    UserMessageAdded,
)
from aiwrapper._core.log_json import dump_entry, load_entry
from aiwrapper._core.messages import Text, UserMessage
from aiwrapper._core.validity import changes, repair, validate
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing._log_twin import untold
from aiwrapper.testing.logs import PRODUCERS, honest_logs, logs

PREFIXES = int(os.environ.get("AIWRAPPER_LAW_PREFIXES", "100000"))

NEXT = UserMessageAdded("next", (Text("And now?"),))
SHORT = settings(max_examples=60, deadline=None)
LONG = settings(max_examples=250, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


TOOL = ToolSpec("read_page", description="Reads.", parameters='{"type": "object"}')
WAYS: tuple[tuple[tuple[Dialect, Options], ...], ...] = (
    (
        (OpenAIChat(), Options(producer=PRODUCERS[0], tools=(TOOL,))),
        (OpenAIChat(reasoning_back=True), Options(producer=PRODUCERS[1])),
        (OpenAIChat(nine_character_ids=True), Options(producer=PRODUCERS[1], instructions="Be brief.")),
    ),
    (
        (Anthropic(), Options(producer=PRODUCERS[2], tools=(TOOL,), thinking_tokens=2000)),
        (Anthropic(), Options(producer=PRODUCERS[3])),
        (Anthropic(), Options(producer=PRODUCERS[3], extra='{"thinking": {"type": "adaptive"}}')),
    ),
)
"""The two dialects, each with the ways in which its hosts want something else."""


@define
class Prefix:
    """A log up to some entry.

    Args:
        before: the state one entry earlier.
        entry: that entry.
        state: what the log says with it.
        number: how long it is.
    """

    before: State
    entry: Entry
    state: State
    number: int
    settled: Conversation = field(init=False)
    continued: Conversation = field(init=False)
    # Encoding is most of the work and two laws ask for it.
    _requests: list[JsonObject] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.settled = settle(self.state)
        self.continued = append(self.settled, UserMessage(NEXT.id, NEXT.parts))

    def ways(self) -> list[tuple[Dialect, Options]]:
        """Both dialects, their ways in turn."""
        return [ways[self.number % len(ways)] for ways in WAYS]

    def requests(self) -> list[JsonObject]:
        """What both dialects would send after the next user message."""
        if self._requests is None:
            self._requests = [dialect.encode(self.continued, options) for dialect, options in self.ways()]
        return self._requests


def prefixes(log: list[Entry]) -> list[Prefix]:
    found: list[Prefix] = []
    state = EMPTY
    for entry in log:
        before, state = state, step(state, entry)
        found.append(Prefix(before, entry, state, len(found)))
    return found


def law_1_every_prefix_settles_to_a_valid_conversation(prefix: Prefix) -> None:
    assert [] == validate(settle(prefix.state))
    assert [] == validate(prefix.state.conversation)


def law_2_settling_is_what_the_log_says_after_a_stop(prefix: Prefix) -> None:
    """Whatever the reasons of the two."""
    run = prefix.state.run
    if run is None:
        assert prefix.settled is prefix.state.conversation
        return
    stopped = step(prefix.state, RunStopped(run.run_id, reason="user"))

    assert stopped.run is None
    assert prefix.settled == stopped.conversation


def law_3_a_user_message_follows_the_settled_conversation(prefix: Prefix) -> None:
    assert prefix.continued == step(prefix.state, NEXT).conversation


def law_4_what_is_closed_never_changes(prefix: Prefix) -> None:
    """The step from one prefix to the next; so, by induction, to every continuation."""
    assert [] == changes(prefix.before.conversation, prefix.state.conversation)
    assert [] == changes(prefix.state.conversation, prefix.settled)
    if not isinstance(prefix.entry, HeadMoved | UserMessageAdded):
        was = prefix.before.conversation.messages
        assert was == prefix.state.conversation.messages[: len(was)]


def law_7_an_entry_survives_json_and_repair_has_nothing_to_do(prefix: Prefix) -> None:
    assert prefix.entry == load_entry(dump_entry(prefix.entry))
    assert prefix.settled is repair(prefix.settled)


def law_5_every_dialect_would_take_the_next_request(prefix: Prefix) -> None:
    """Also a dialect that has not produced the conversation."""
    for (dialect, _), request in zip(prefix.ways(), prefix.requests(), strict=True):
        assert [] == dialect.violations(request)


def law_6_a_user_message_extends_the_request(prefix: Prefix) -> None:
    """Nothing that a provider has cached changes, but for the last message, which the bridge may follow (C16)."""
    for (dialect, options), request in zip(prefix.ways(), prefix.requests(), strict=True):
        asked = dialect.encode(prefix.settled, options)["messages"]
        assert asked[:-1] == request["messages"][: len(asked) - 1]


def law_6_what_the_model_adds_extends_the_request(prefix: Prefix) -> None:
    was, now = prefix.before.conversation, prefix.state.conversation
    if was.head_id == now.head_id or isinstance(prefix.entry, HeadMoved | UserMessageAdded):
        return
    for dialect, options in prefix.ways():
        asked = dialect.encode(was, options)["messages"]
        assert asked[:-1] == dialect.encode(now, options)["messages"][: len(asked) - 1]


LAWS_OF_THE_LOG: tuple[Callable[[Prefix], None], ...] = (
    law_2_settling_is_what_the_log_says_after_a_stop,
    law_3_a_user_message_follows_the_settled_conversation,
    law_4_what_is_closed_never_changes,
    law_6_what_the_model_adds_extends_the_request,
    law_7_an_entry_survives_json_and_repair_has_nothing_to_do,
)
LAWS_OF_WHAT_IS_SETTLED: tuple[Callable[[Prefix], None], ...] = (
    law_1_every_prefix_settles_to_a_valid_conversation,
    law_5_every_dialect_would_take_the_next_request,
    law_6_a_user_message_extends_the_request,
)
"""These look at `Prefix.settled` alone: where it is what it was one entry earlier, they have been asked already."""


@pytest.mark.parametrize("law", LAWS_OF_THE_LOG + LAWS_OF_WHAT_IS_SETTLED, ids=lambda law: law.__name__)
def test_a_law_holds_at_every_prefix_of_what_our_drivers_write(law: Callable[[Prefix], None]) -> None:
    @SHORT
    @given(honest_logs())
    def holds(log: list[Entry]) -> None:
        for prefix in prefixes(log):
            law(prefix)

    holds()


@settings(SHORT, max_examples=30)
@given(logs())
def test_going_on_and_trying_again_are_accepted_from_every_message(log: list[Entry]) -> None:
    """C13: `continue_` from any message of any branch, and another answer to it."""
    conversation = settle(fold(log))
    for message in conversation.all_messages:
        again = move_head(conversation, message.id)
        asked = continue_(again)
        for ways in WAYS:
            for dialect, options in ways:
                assert [] == dialect.violations(dialect.encode(again, options))
                if asked is not None:
                    assert [] == dialect.violations(dialect.encode(append(again, asked), options))


@SHORT
@given(honest_logs())
def test_what_is_kept_is_what_the_log_says(log: list[Entry]) -> None:
    """C6 to C9, C11, C12 against a twin that reads the log by itself, without a state."""
    for prefix in prefixes(log):
        assert [] == list(untold(log[: prefix.number + 1], prefix.settled))


@pytest.mark.timeout(3600)
def test_all_laws_hold_at_every_prefix_of_any_log(law_counts: Counter[str]) -> None:
    tried = Counter[str]()

    @LONG
    @given(logs())
    def hold(log: list[Entry]) -> None:
        settled = None
        for prefix in prefixes(log):
            for law in LAWS_OF_THE_LOG:
                law(prefix)
            if prefix.settled != settled:
                settled = prefix.settled
                for law in LAWS_OF_WHAT_IS_SETTLED:
                    law(prefix)
                tried["different conversations they settle to, with a request of both dialects judged"] += 1
            tried["prefixes"] += 1
            tried["prefixes that cut an open run"] += prefix.state.run is not None
            turn = None if prefix.state.run is None else prefix.state.run.turn
            tried["prefixes that cut a turn"] += turn is not None and not turn.is_whole
            tried["prefixes that cut running tools"] += turn is not None and turn.is_whole
        tried["logs"] += 1

    # Hypothesis draws logs and not prefixes, so it is asked until there were enough of these.
    while tried["prefixes"] < PREFIXES:
        hold()

    law_counts.update(tried)
    # A sweep in which no turn and no tool was cut would have shown nothing.
    assert tried["prefixes that cut a turn"] > PREFIXES / 10
    assert tried["prefixes that cut running tools"] > PREFIXES / 100
