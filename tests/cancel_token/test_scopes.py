import pytest

from cancel_token import Cancelled, CancelToken, move_on_cancel


def test_move_on_cancel_swallows_the_stop_of_its_token_and_of_those_below() -> None:
    token = CancelToken()
    with move_on_cancel(token) as scope, token.child() as child:
        token.cancel()
        child.check()

    assert scope.cancelled_caught


def test_move_on_cancel_swallows_the_stop_of_a_child_that_was_cancelled_alone() -> None:
    token = CancelToken()
    both = CancelToken.any(CancelToken(), token)
    with move_on_cancel(token) as scope:
        both.cancel()
        both.check()

    assert scope.cancelled_caught
    assert not token.cancelled


def test_move_on_cancel_lets_everything_else_pass() -> None:
    token = CancelToken()
    above = CancelToken()
    token = above.child()
    above.cancel()
    for error in (Cancelled(above), Cancelled(CancelToken()), Cancelled(), KeyboardInterrupt(), ValueError()):
        scope = move_on_cancel(token)
        with pytest.raises(type(error)) as caught, scope:
            raise error
        assert error is caught.value
        assert not scope.cancelled_caught


def test_move_on_cancel_swallows_a_group_of_nothing_but_its_own_stops() -> None:
    token = CancelToken()
    stops = BaseExceptionGroup("inner", [Cancelled(token.child())])
    with move_on_cancel(token) as scope:
        raise BaseExceptionGroup("two tasks stopped", [Cancelled(token), stops])

    assert scope.cancelled_caught


def test_move_on_cancel_takes_its_own_stops_out_of_a_group_and_lets_the_rest_pass() -> None:
    token = CancelToken()
    error, foreign = ValueError(), Cancelled(CancelToken())
    scope = move_on_cancel(token)
    with pytest.raises(BaseExceptionGroup, match="three tasks") as caught, scope:
        raise BaseExceptionGroup("three tasks ended", [error, Cancelled(token), foreign])

    assert (error, foreign) == caught.value.exceptions
    assert scope.cancelled_caught


def test_move_on_cancel_lets_a_group_without_its_own_stops_pass_untouched() -> None:
    group = ExceptionGroup("two tasks failed", [ValueError(), TypeError()])
    scope = move_on_cancel(CancelToken())
    with pytest.raises(ExceptionGroup) as caught, scope:
        raise group

    assert group is caught.value
    assert not scope.cancelled_caught


def test_move_on_cancel_is_quiet_when_nothing_happens() -> None:
    with move_on_cancel(CancelToken()) as scope:
        pass

    assert not scope.cancelled_caught
