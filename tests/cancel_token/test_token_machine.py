"""A tree of tokens beside a twin of lists and plain loops, driven together.

The twin does not repeat the order in which the walk goes; it is asked, each time a callback runs, whether that
callback may run now, and it knows what must have run when a call returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cancel_token import CancelToken, Registration
from tests.cancel_token.cases import count

ACTS = st.sampled_from(["nothing", "raise", "register", "cancel", "unregister", "child"])


class Oops(Exception):
    """What a callback raises."""


@attrs.define(eq=False)
class TwinCallback:
    act: str
    target: int  # for acts that need a token or a registration; taken modulo what there is
    registration: Registration | None = None  # None while on_cancel() has not returned


@attrs.define(eq=False)
class Twin:
    """What a token should be, obviously: lists."""

    token: CancelToken
    parents: list[Twin]
    children: list[Twin] = attrs.Factory(list)
    callbacks: list[TwinCallback] = attrs.Factory(list)  # registered, oldest first
    decision: Decision | None = None  # the cancel() that reached it first
    is_open: bool = True

    def below(self) -> Iterator[Twin]:
        yield self
        for child in self.children:
            yield from child.below()

    def needs_its_parents(self) -> bool:
        return any(each.callbacks for each in self.below())


@attrs.define(eq=False)
class Decision:
    number: int
    by: Twin
    errors: list[Oops] = attrs.Factory(list)


class TokenMachine(RuleBasedStateMachine):
    steps = itertools.count()
    done = 0

    def __init__(self) -> None:
        super().__init__()
        self.twins = [Twin(CancelToken(), [])]
        self.all_callbacks: list[TwinCallback] = []
        self.numbers = itertools.count()
        self.depth = 0

    def pick(self, number: int) -> Twin:
        return self.twins[number % len(self.twins)]

    # What both do

    def make(self, parents: list[Twin]) -> None:
        tokens = [parent.token for parent in parents]
        token = tokens[0].child() if len(tokens) == 1 else CancelToken.any(*tokens)
        twin = Twin(token, parents)
        for parent in parents:
            parent.children.append(twin)
            if twin.decision is None:
                twin.decision = parent.decision
        self.twins.append(twin)

    def register(self, twin: Twin, act: str, target: int) -> None:
        callback = TwinCallback(act, target)
        self.all_callbacks.append(callback)
        if twin.decision is None:
            twin.callbacks.append(callback)
            callback.registration = twin.token.on_cancel(self.called, twin, callback)
            return
        ran: list[int] = []
        callback.registration = twin.token.on_cancel(ran.append, 1)
        assert [1] == ran, "a late registration runs at once"

    def unregister(self, callback: TwinCallback) -> None:
        holder = next((twin for twin in self.twins if callback in twin.callbacks), None)
        if holder is not None:
            holder.callbacks.remove(callback)
        assert callback.registration is not None
        assert (holder is not None) == callback.registration.unregister()

    def cancel(self, twin: Twin) -> None:
        decision = Decision(next(self.numbers), twin)
        won = twin.decision is None
        for each in twin.below():
            if each.decision is None:
                each.decision = decision
        raised: tuple[BaseException, ...] = ()
        answer = won
        try:
            answer = twin.token.cancel(str(decision.number))
        except BaseExceptionGroup as group:
            raised = group.exceptions
        assert won == answer
        assert {id(error) for error in decision.errors} == {id(error) for error in raised}
        assert all(each.token.cancelled for each in twin.below())
        for error in decision.errors:
            error.__traceback__ = None  # its frames hold twins, which drop() wants to be gone
        left = [each for each in self.twins if each.decision is decision and each.callbacks]
        assert [] == left, "all of them run before cancel() returns"

    def called(self, twin: Twin, callback: TwinCallback) -> None:
        """A callback runs: is it its turn?"""
        assert callback in twin.callbacks, "once, and only while it is registered"
        decision = twin.decision
        assert decision is not None
        assert all(each.token.cancelled for each in decision.by.below() if each.is_open)
        assert callback is twin.callbacks[-1], "the newest first"
        inner = [each for each in twin.children if len(each.parents) == 1 and each.decision is decision]
        assert not any(each.callbacks for each in inner), "a child's before its parent's"
        twin.callbacks.remove(callback)
        if callback.act == "raise":
            decision.errors.append(error := Oops())
            raise error
        if self.depth < 3:
            self.depth += 1
            self.do(callback.act, callback.target)
            self.depth -= 1

    def do(self, act: str, target: int) -> None:
        if act == "register":
            self.register(self.pick(target), "nothing", 0)
        elif act == "cancel":
            self.cancel(self.pick(target))
        elif act == "child":
            self.make([self.pick(target)])
        elif act == "unregister":
            known = [callback for callback in self.all_callbacks if callback.registration is not None]
            if known:
                self.unregister(known[target % len(known)])

    # What is drawn

    @rule(parent=st.integers(0, 99))
    def make_child(self, parent: int) -> None:
        self.make([self.pick(parent)])

    @rule(numbers=st.lists(st.integers(0, 99), min_size=2, max_size=4))
    def make_any(self, numbers: list[int]) -> None:
        parents = list(dict.fromkeys(self.pick(number) for number in numbers))
        if len(parents) > 1:
            self.make(parents)

    @rule(number=st.integers(0, 99), act=ACTS, whom=st.integers(0, 99))
    def add_callback(self, number: int, act: str, whom: int) -> None:
        self.register(self.pick(number), act, whom)

    @precondition(lambda self: self.all_callbacks)
    @rule(whom=st.integers(0, 99))
    def take_back(self, whom: int) -> None:
        self.do("unregister", whom)

    @rule(number=st.integers(0, 99))
    def decide(self, number: int) -> None:
        self.cancel(self.pick(number))

    @rule(number=st.integers(0, 99))
    def close_token(self, number: int) -> None:
        twin = self.pick(number)
        twin.token.close()
        for parent in twin.parents:
            if twin in parent.children:
                parent.children.remove(twin)
        twin.is_open = False

    @rule(number=st.integers(0, 99))
    def drop(self, number: int) -> None:
        """Forget the token; whoever has callbacks or children below is kept by them, the others must be gone."""
        twin = self.pick(number)
        if twin.children or len(self.twins) == 1 or any(twin in each.parents for each in self.twins):
            return
        if twin.decision is not None and twin.decision.by is twin:
            return  # the twins remember it
        if twin.callbacks or any(
            callback.registration is not None and callback.registration._token is twin.token
            for callback in self.all_callbacks
        ):
            return
        self.twins.remove(twin)
        for parent in twin.parents:
            if twin in parent.children:
                parent.children.remove(twin)

    @invariant()
    def agree(self) -> None:
        TokenMachine.done += 1
        for twin in self.twins:
            token, decision = twin.token, twin.decision
            assert (decision is not None) == token.cancelled
            stats = token.stats()
            assert len(twin.callbacks) == stats.registrations
            assert len(twin.children) == stats.children
            for child in twin.children:
                assert child.needs_its_parents() == (child.token in token._held), "pinned while it is needed"
            if decision is None:
                assert token.reason is None
            else:
                assert token.reason is not None
                origin = token.reason.cause or token.reason
                assert str(decision.number) == origin.message
                assert ("user" if decision.by is twin else "parent") == token.reason.kind


def test_the_token_and_its_twin_agree(request: pytest.FixtureRequest) -> None:
    """T-S1, T-S2, T-S3, T-S4, T-S5, T-S7, T-S9, T-S10."""
    before = TokenMachine.done
    run_state_machine_as_test(
        TokenMachine,
        settings=settings(
            max_examples=200,  # some 7,000 steps, other ones each time; nearly all of the time is hypothesis' own
            stateful_step_count=40, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    count(request.config, "token, steps of the state machine", TokenMachine.done - before)
