"""Whole conversations: said, stopped, edited, tried again, continued, loaded again, killed, with other providers.

The store is the truth: after whatever happens, what it has folds to what the agent says, every rule is kept, and the
next message is taken by every dialect.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from aiwrapper import ChatAgent, Entry, HeadMoved, UserMessage, fold, repair, settle, validate
from aiwrapper.store import ConversationLog, Store
from aiwrapper.testing import (
    DialectName,
    Evidence,
    Script,
    ScriptedTransport,
    assert_rules_kept,
    refused_next,
)
from cancel_token.testing import JumpingClock, cancel_at
from tests.aiwrapper.store_writer import Order, order_line
from tests.aiwrapper.test_store_kill import Nursery
from tests.proof import profiles
from tests.proof.exploring import scripts
from tests.proof.profiles import PROFILE
from tests.proof.talks import DIALECTS, TOOLS, Ear, lang_of, working
from tests.proof.talks import Order as ToolOrder


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


class Conversations(RuleBasedStateMachine):
    """One conversation in a store, and its agent."""

    nursery: Nursery
    explored: Counter[str]

    @initialize(dialect=st.sampled_from(DIALECTS))
    def begin(self, dialect: DialectName) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "chats.db"
        with Store(self.path) as store:
            self.conversation_id = store.create()
        self.kills = 0
        self.open(dialect)

    def open(self, dialect: DialectName) -> None:
        """Load what there is, and go on with it."""
        self.store = Store(self.path)
        self.log: ConversationLog = self.store.open(self.conversation_id)
        self.transport = ScriptedTransport(dialect)
        conversation = settle(self.store.load(self.conversation_id))
        self.agent = ChatAgent(lang_of(self.transport), TOOLS, conversation=conversation, sink=self.log)

    def close(self) -> None:
        self.log.close()
        self.store.close()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.close()
            self.folder.cleanup()

    def stored(self) -> list[Entry]:
        self.log.flush()
        return [entry for _, entry in self.store.entries(self.conversation_id)]

    def run(self, script: Script, k: int | None, *, on: bool = False) -> None:
        """Say something, or let the model go on, and stop at the k-th point."""
        self.transport.say(*script)
        ear, before = Ear(), self.agent.conversation
        entries_before, requests_before = len(self.stored()), len(self.transport.requests)
        with cancel_at(k, clock=JumpingClock()) as shot, working([], order := ToolOrder()):
            if on and before.head is not None:
                result = self.agent.continue_(token=shot.token, subscribers=[ear, order])
            else:
                result = self.agent.run("Go", token=shot.token, subscribers=[ear, order])
        assert_rules_kept(
            Evidence(
                result=result,
                before=before,
                heard=[ear.log],
                stored=self.stored()[entries_before:],
                token=shot.token,
                ended_at_stop=None,
                requests=self.transport.requests[requests_before:],
                answered=self.transport.answered[requests_before:],
                taken=self.transport.taken[requests_before:],
                tools=tuple(each.spec for each in TOOLS),
            )
        )
        assert self.transport.open_now == 0
        self.explored["machine: runs"] += 1
        self.explored["machine: runs that were stopped"] += result.status == "stopped"

    @rule(script=scripts(), k=st.none() | st.integers(0, 60))
    def send(self, script: Script, k: int | None) -> None:
        self.run(script, k)

    @rule(script=scripts(), k=st.none() | st.integers(0, 60))
    def go_on(self, script: Script, k: int | None) -> None:
        self.run(script, k, on=True)

    @rule(which=st.integers(0, 20), script=scripts(), k=st.none() | st.integers(0, 60))
    def edit_or_retry(self, which: int, script: Script, k: int | None) -> None:
        """Go on from an earlier message of any branch: after a user's, that is another try of its answer."""
        messages = list(self.agent.conversation.all_messages)
        if not messages:
            return
        message = messages[which % len(messages)]
        self.log.append(HeadMoved(message.id))
        self.reload(self.transport.dialect)
        self.run(script, k, on=isinstance(message, UserMessage))

    @rule(dialect=st.sampled_from(DIALECTS))
    def reload(self, dialect: DialectName) -> None:
        """Perhaps with another provider."""
        said = self.agent.conversation
        moved = any(isinstance(entry, HeadMoved) for entry in self.stored()[-1:])
        self.close()
        self.open(dialect)
        assert list(said.all_messages) == list(self.agent.conversation.all_messages)
        assert moved or said.head_id == self.agent.conversation.head_id

    @rule(dialect=st.sampled_from(DIALECTS))
    def crash(self, dialect: DialectName) -> None:
        """Another process writes to the conversation, and is killed at whatever it does."""
        before = self.stored()
        self.close()
        self.kills += 1
        told = Path(self.folder.name) / f"told-{self.kills}"
        self.nursery.start(order_line(Order(str(self.path), self.conversation_id, str(told), self.kills)))
        self.nursery.wait_until_open()
        self.nursery.kill()
        self.open(dialect)
        assert before == self.stored()[: len(before)]
        self.explored["machine: processes killed"] += 1

    @invariant()
    def everything_holds(self) -> None:
        if not hasattr(self, "agent"):
            return
        conversation = self.agent.conversation
        loaded = settle(fold(self.stored()))
        assert list(loaded.all_messages) == list(conversation.all_messages)
        assert loaded.head_id == conversation.head_id
        assert [] == validate(conversation) + refused_next(conversation, tuple(each.spec for each in TOOLS))
        assert conversation is repair(conversation)
        assert not self.agent.busy


def test_a_conversation_survives_whatever_is_done_to_it(nursery: Nursery, explored: Counter[str]) -> None:
    Conversations.nursery = nursery
    Conversations.explored = explored
    night = profiles.NAME == "night"
    run_state_machine_as_test(
        Conversations,
        settings=settings(
            max_examples=PROFILE.machine,
            stateful_step_count=PROFILE.machine_steps,
            derandomize=not night,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
