import pytest

from cancel_token import CancelToken
from cancel_token.testing import JumpingClock
from cancel_token.testing.zones import dead_zones
from tests.cancel_token.testing import toys
from tests.cancel_token.testing.toys import Box


def sums_up_without_a_look(box: Box, token: CancelToken) -> None:
    token.check()
    total = 0
    for n in range(40):
        total += n
    token.check()


def sums_up_with_a_look(box: Box, token: CancelToken) -> None:
    total = 0
    for n in token.iter(range(40)):
        total += n


def test_a_loop_without_a_check_is_a_long_dead_zone() -> None:
    longest, *others = dead_zones(Box, sums_up_without_a_look)

    assert 80 < longest.lines < 90
    assert all("sums_up_without_a_look" in site for site in longest.sites)
    assert len(longest.sites) < 6, "each line is named once"
    assert all(zone.lines < 3 for zone in others)


def test_a_loop_that_looks_every_time_has_short_ones() -> None:
    zones = dead_zones(Box, sums_up_with_a_look)

    assert zones[0].lines < 5
    assert len(zones) >= 40


def test_a_wait_ends_a_dead_zone() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for _ in range(10):
            box.open = not box.open
            token.sleep(1)

    assert dead_zones(Box, run, clock=JumpingClock)[0].lines < 5


def test_listening_is_no_look() -> None:
    def run(box: Box, token: CancelToken) -> None:
        for _ in range(10):
            token.on_cancel(int).unregister()

    assert dead_zones(Box, run)[0].lines > 20


def test_threads_have_zones_of_their_own() -> None:
    def run(box: Box, token: CancelToken) -> None:
        toys.in_threads(lambda: sums_up_without_a_look(box, token))

    assert {"0", "0.1"} == {zone.lane for zone in dead_zones(Box, run, targets=[sums_up_without_a_look])}


def test_a_make_that_fails_measures_nothing() -> None:
    def make() -> Box:
        raise OSError("no box")

    with pytest.raises(RuntimeError, match="no box"):
        dead_zones(make, sums_up_with_a_look)


def test_a_zone_says_where_it_is() -> None:
    zone = dead_zones(Box, sums_up_without_a_look)[0]

    assert str(zone).startswith(f"{zone.lines} lines in lane 0 from test_zones.py:")
