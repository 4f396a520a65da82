import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancel_token import Cancelled
from cancel_token.testing import cancel_at
from tests.cancel_token.testing.toys import Box, three_checks


@given(st.none() | st.integers(0, 5))
def test_the_kth_look_at_the_token_finds_it_cancelled(k: int | None) -> None:
    box = Box()
    with cancel_at(k) as shot:
        try:
            three_checks(box, shot.token)
        except Cancelled:
            box.open = True

    hit = k is not None and k < 3
    assert hit == box.open == (shot.fired is not None)
    assert ["0", "1", "2"][: k if hit else 3] == box.log


def test_the_point_says_where_it_is() -> None:
    with cancel_at(1) as shot, pytest.raises(Cancelled):
        three_checks(Box(), shot.token)

    assert shot.fired is not None
    assert "0.1check" == str(shot.fired)
    assert shot.fired.site.endswith("three_checks")


def test_what_a_callback_raises_comes_out_of_the_block() -> None:
    def work() -> None:
        with cancel_at(1) as shot:
            shot.token.on_cancel(int, "no number")
            assert shot.token.cancelled

    with pytest.raises(BaseExceptionGroup, match="callbacks"):
        work()


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"), cancel_at(-1):
        pass
