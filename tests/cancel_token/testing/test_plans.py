import pytest
from hypothesis import given
from hypothesis import strategies as st

from cancel_token.testing import Kind, Plan, Point
from cancel_token.testing._plans import select

KINDS: tuple[Kind, ...] = ("before", "check", "arm", "disarm", "park", "wake", "line", "deadline", "late")
points = st.builds(
    Point,
    st.lists(st.integers(1, 99), max_size=3).map(lambda ns: ".".join(map(str, [0, *ns]))),
    st.integers(0, 10**6),
    st.sampled_from(KINDS),
)
plans = st.builds(
    Plan,
    st.sampled_from(["sync", "line"]),
    st.lists(points, max_size=2).map(tuple),
    fingerprint=st.integers(0, 0xFFFF),
)


@given(plans)
def test_an_id_names_its_plan(plan: Plan) -> None:
    assert plan == Plan.parse(plan.id)


def test_an_id_looks_like_this() -> None:
    plan = Plan("sync", (Point("0", 24, "park"), Point("0.1", 31, "wake")), fingerprint=0x9F2C)

    assert "ct1:sync:0.24park+0.1.31wake~9f2c" == plan.id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ct1:sync:0.24check",
        "ct2:sync:0.24check~9f2c",
        "ct1:tokyo:0.24check~9f2c",
        "ct1:sync:0.24chess~9f2c",
        "ct1:sync:24check~9f2c",
        "ct1:sync:0.24check+~9f2c",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no replay id"):
        Plan.parse(text)


def test_up_to_four_hundred_points_are_all_tried() -> None:
    items = [("loop", n) for n in range(400)]

    assert list(range(400)) == select(items, "auto")


def test_of_more_each_site_has_its_first_and_last_ones() -> None:
    items = [("loop", n) for n in range(1000)] + [("end", 1000)]
    chosen = select(items, "auto")

    assert {0, 1, 2, 998, 999, 1000} <= set(chosen)
    assert 6 + 64 == len(chosen)
    assert sorted(chosen) == chosen == select(items, "auto")
    assert list(range(1001)) == select(items, "all")


def test_few_points_are_chosen_by_site_if_asked() -> None:
    items = [(site, (site, n)) for site in "ab" for n in range(3)]

    assert [item for _, item in items] == select(items, "per-site")


def test_of_a_limited_number_each_site_has_its_first() -> None:
    items = [("loop", n) for n in range(10)] + [("end", 10)]

    assert [0, 1, 10] == select(items, "all", 3)
    assert list(range(11)) == select(items, "all", 11)
