"""What an exploration did not come to is said: it has proved nothing about it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from cancel_token import CancelToken
from cancel_token.testing import explore
from tests.cancel_token.testing import toys
from tests.cancel_token.testing.toys import Box, anything_goes, three_checks


def half_of_it(box: Box, token: CancelToken) -> None:
    token.check()
    if box.open:
        token.sleep(1)
        for _ in token.iter([1]):
            pass


class Waiting(Box):
    async def never_called(self) -> None:
        await self.never_called()


def test_places_that_no_attempt_came_to_are_named() -> None:
    report = explore(Box, half_of_it, anything_goes)

    report.assert_ok()
    assert ["token.sleep(1)", "token.iter([1])"] == [site.split(maxsplit=1)[1] for site in report.unreached]
    assert report.unreached[0].startswith("test_sites.py:")
    assert "2 places never reached: test_sites.py:" in str(report)
    assert list(report.unreached) == json.loads(report.to_json())["unreached"]


def test_what_all_attempts_together_reach_counts() -> None:
    def run(box: Box, token: CancelToken) -> None:
        if token.cancelled:
            token.wait()

    assert () == explore(Box, run, anything_goes).unreached
    assert () == explore(Box, partial(three_checks), anything_goes).unreached


def test_the_subjects_class_is_looked_through_too() -> None:
    report = explore(Waiting, three_checks, anything_goes)

    assert ["await self.never_called()"] == [site.split(maxsplit=1)[1] for site in report.unreached]


def test_targets_say_whose_places_count() -> None:
    report = explore(Waiting, three_checks, anything_goes, targets=[toys, len])

    assert any("token.iter" in site for site in report.unreached)
    assert not any("never_called" in site for site in report.unreached)


def test_an_await_that_waits_further_in_is_reached() -> None:
    async def further_in(box: Box) -> None:
        await anyio.sleep(0)
        if box.open:
            await anyio.sleep(1)

    async def run(box: Box, token: CancelToken) -> None:
        token.check()
        await further_in(box)

    report = explore(Box, run, anything_goes, backend=["trio", "asyncio"], targets=[run, further_in])

    assert ["await anyio.sleep(1)", "anyio.sleep(1)"] == [
        site.split(maxsplit=1)[1] for site in report.unreached
    ]


def test_code_without_a_source_has_no_places() -> None:
    namespace: dict[str, object] = {}
    exec("def run(box, token):\n    token.check()\n    if box.open:\n        token.wait()\n", namespace)
    run = namespace["run"]
    assert callable(run)

    assert () == explore(Box, run, anything_goes).unreached


def test_code_that_stands_in_a_page_has_no_places(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# ct1:sync:0.0before~b114 is an id\n", encoding="utf-8")
    namespace: dict[str, Callable[[Box, CancelToken], None]] = {}
    exec(compile("def run(box, token):\n    token.check()\n", str(page), "exec"), namespace)
    report = explore(Box, namespace["run"], anything_goes)

    report.assert_ok()
    assert report.unreached == ()
