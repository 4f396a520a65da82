import copy
import pickle

import pytest

from cancel_token import Cancelled, CancelReason, CancelToken


def test_a_reason_is_a_value_that_reads_well() -> None:
    reason = CancelReason("user", "the user pressed Stop")

    assert CancelReason("user", "the user pressed Stop") == reason
    assert "the user pressed Stop (user)" == str(reason)
    assert "signal" == str(CancelReason("signal"))
    assert "time is up (parent, deadline)" == str(
        CancelReason("parent", "time is up", cause=CancelReason("deadline", "time is up"))
    )


def test_a_reason_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'whim'"):
        CancelReason("whim")  # type: ignore[arg-type]  # that is the point


def test_a_reasons_message_is_text() -> None:
    with pytest.raises(TypeError, match="message"):
        CancelReason("user", 3)  # type: ignore[arg-type]  # that is the point


def test_cancelled_carries_its_token_and_reason_and_is_no_exception() -> None:
    token = CancelToken()
    token.cancel("enough")

    with pytest.raises(Cancelled) as caught:
        token.check()

    assert token is caught.value.token
    assert token.reason is caught.value.reason
    assert "enough (user)" == str(caught.value)
    assert "Cancelled('enough (user)')" == repr(caught.value)
    assert not isinstance(caught.value, Exception)


def test_cancelled_without_a_token_still_reads_well() -> None:
    assert "cancelled" == str(Cancelled())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cancelled_pickles_with_its_reason_and_without_its_token(protocol: int) -> None:
    parent = CancelToken()
    child = parent.child()
    parent.cancel("enough")

    received = pickle.loads(pickle.dumps(Cancelled(child), protocol))

    assert received.token is None
    assert child.reason == received.reason
    assert str(Cancelled(child)) == str(received)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_t_s14_a_token_cannot_be_pickled_or_copied_and_says_what_to_do(duplicate: object) -> None:
    assert callable(duplicate)
    with pytest.raises(TypeError, match=r"hand over token\.child\(\)"):
        duplicate(CancelToken())
