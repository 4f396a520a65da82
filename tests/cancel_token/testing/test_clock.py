from cancel_token import CancelToken
from cancel_token.testing import JumpingClock


def test_who_sleeps_on_a_jumping_clock_moves_it() -> None:
    clock = JumpingClock()
    token = CancelToken(clock=clock)

    assert not token.wait(3600)
    assert 3600 == clock.now()


def test_what_becomes_due_while_it_jumps_is_done_before_the_sleeper_wakes() -> None:
    clock = JumpingClock()
    token = CancelToken(timeout=60, clock=clock)

    assert token.wait(3600)
    assert token.reason is not None
    assert "deadline" == token.reason.kind
