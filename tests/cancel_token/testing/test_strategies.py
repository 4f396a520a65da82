import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from cancel_token import Cancelled, CancelToken
from cancel_token.testing import explore, replay
from cancel_token.testing.strategies import plans, stop_rule, stops
from tests.cancel_token.testing.toys import Box, anything_goes, three_checks


class Counting(RuleBasedStateMachine):
    """Adds what it is given in two steps, and counts what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.half = False

    @stop_rule(points=3, times=st.integers(1, 3))
    def add(self, token: CancelToken, times: int) -> None:
        for _ in range(times):
            token.check()
            self.half = True
            self.half = False

    @invariant()
    def nothing_is_half_done(self) -> None:
        assert not self.half


class Hasty(Counting):
    @stop_rule(points=3, times=st.integers(1, 3))
    def add(self, token: CancelToken, times: int) -> None:
        for _ in range(times):
            self.half = True
            token.check()
            self.half = False


class StoppedByAnother(Counting):
    @stop_rule(points=3, times=st.integers(1, 3))
    def add(self, token: CancelToken, times: int) -> None:
        other = CancelToken()
        other.cancel()
        other.check()


def test_a_rule_is_stopped_at_its_points_and_a_fault_is_found() -> None:
    run_state_machine_as_test(Counting, settings=settings(max_examples=20))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Hasty, settings=settings(max_examples=20))


def test_the_stop_of_another_token_is_an_error_of_the_rule() -> None:
    with pytest.raises(Cancelled):
        run_state_machine_as_test(StoppedByAnother, settings=settings(max_examples=20))


def test_stops_shrink_to_none_and_then_to_early_ones() -> None:
    assert find(stops(10), lambda stop: True) is None
    assert 0 == find(stops(10), lambda stop: stop is not None)
    assert 9 == find(stops(10), lambda stop: stop is not None and stop >= 9)


@given(st.data())
@settings(max_examples=20)
def test_plans_are_those_of_an_exploration(data: st.DataObject) -> None:
    explored = explore(Box, three_checks, anything_goes)

    replay(data.draw(plans(explored)), Box, three_checks, anything_goes).assert_ok()
