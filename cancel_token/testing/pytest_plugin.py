"""The pytest plugin: the fixture `explore_cancel`, the marker `cancel_points`, replays from the command line.

    @pytest.mark.cancel_points(backend=["sync", "line"], depth=2)
    def test_download_stops_anywhere(explore_cancel, tmp_path):
        explore_cancel(make, run, check)

What failed last time is remembered in pytest's own cache, and tried first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

import pytest

from cancel_token._token import CancelToken
from cancel_token.testing._explore import StaleReplayId, TrialOptions, explore, replay
from cancel_token.testing._outcomes import Outcome
from cancel_token.testing._plans import Backend, Select
from cancel_token.testing._points import Kind
from cancel_token.testing._report import Report
from cancel_token.testing._trial import Make

S = TypeVar("S")

REMEMBERED_IDS = 5  # chosen by hand: enough to see at once whether it is mended

_ATTEMPTS = pytest.StashKey[Counter[str]]()  # valid attempts by backend, of the whole session


class ExploreOptions(TrialOptions[S], Generic[S], total=False):
    """What `explore()` takes besides its three functions; also what the marker takes."""

    backend: Backend | Sequence[Backend]
    at: Sequence[Kind] | None
    depth: int
    select: Select
    max_points: int | None


class ExploreCancel:
    """What the fixture `explore_cancel` gives: `explore()` with `assert_ok()`, and with a memory.

    Args:
        request: Of the test.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._node_id = request.node.nodeid
        self._calls = 0
        marker = request.node.get_closest_marker("cancel_points")
        self._defaults: ExploreOptions[object] = {}
        if marker is not None:
            if marker.args:
                raise pytest.UsageError(f"cancel_points takes keywords only, not {marker.args!r}")
            self._defaults.update(marker.kwargs)  # explore() judges them

    def __call__(
        self,
        make: Make[S],
        run: Callable[[S, CancelToken], object],
        check: Callable[[S, Outcome], object],
        **options: Unpack[ExploreOptions[S]],
    ) -> Report:
        """Explore, and fail the test unless every attempt passed.

        With `--cancel-replay=ID` only that attempt is made. Ids that failed last time are tried first.

        Args:
            make: As for `explore()`.
            run: As for `explore()`.
            check: As for `explore()`.
            **options: As for `explore()`; what the marker says is the default.

        Raises:
            AssertionError: The verdict is not PASS.
            StaleReplayId: The id on the command line is not of this code.
        """
        self._calls += 1
        both: ExploreOptions[S] = {**self._defaults, **options, **self._from_command_line()}
        rest: TrialOptions[S] = {  # type: ignore[assignment]  # what is filtered by its own names
            name: value for name, value in both.items() if name in TrialOptions.__annotations__
        }
        wanted = self._config.getoption("cancel_replay")
        if wanted is not None:
            report = replay(wanted, make, run, check, **rest)
            self._finish(report)
            return report
        for each in self._remembered():
            try:
                report = replay(each, make, run, check, **rest)
            except StaleReplayId:
                continue  # the code has changed since, which is how things are mended
            report.assert_ok()
        report = explore(make, run, check, **both)
        self._remember(report)
        self._finish(report)
        return report

    def _from_command_line(self) -> ExploreOptions[Any]:
        depth = self._config.getoption("cancel_depth")
        max_points = self._config.getoption("cancel_max_points")
        given: ExploreOptions[Any] = {}
        if depth is not None:
            given["depth"] = depth
        if max_points is not None:
            given["max_points"] = max_points
        return given

    def _finish(self, report: Report) -> None:
        counts = self._config.stash[_ATTEMPTS]
        for attempt in report.attempts:
            if attempt.plan.points and attempt.verdict in ("PASS", "FAIL"):
                counts[attempt.plan.backend] += 1
        directory = self._config.getoption("cancel_report")
        if directory is not None:
            name = "".join(letter if letter.isalnum() else "-" for letter in self._node_id)
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / f"{name}-{self._calls}"
            file.with_suffix(".json").write_text(report.to_json() + "\n", encoding="utf-8")
            file.with_suffix(".xml").write_text(report.to_junit(self._node_id) + "\n", encoding="utf-8")
        report.assert_ok()

    @property
    def _cache(self) -> pytest.Cache | None:
        return getattr(self._config, "cache", None)  # it is a plugin, and may be switched off

    @property
    def _cache_key(self) -> str:
        return f"cancel_points/{self._node_id}/{self._calls}"

    def _remembered(self) -> list[str]:
        cache = self._cache
        ids: list[str] = [] if cache is None else cache.get(self._cache_key, [])
        return ids

    def _remember(self, report: Report) -> None:
        cache = self._cache
        if cache is not None:
            ids = [failure.ids[0] for failure in report.failures if failure.site != "undisturbed"]
            cache.set(self._cache_key, ids[:REMEMBERED_IDS])


@pytest.fixture
def explore_cancel(request: pytest.FixtureRequest) -> ExploreCancel:
    """Explore like `cancel_token.testing.explore()`, and fail the test unless every attempt passed."""
    return ExploreCancel(request)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("cancel_points", "cancel at every point")
    group.addoption(
        "--cancel-replay", metavar="ID", help="make only the attempt of this id in each explore_cancel()"
    )
    group.addoption(
        "--cancel-report",
        metavar="DIR",
        type=Path,
        help="write the report of each explore_cancel() there, as JSON and as JUnit's XML",
    )
    group.addoption(
        "--cancel-depth",
        metavar="N",
        type=int,
        choices=(1, 2),
        help="cancel so many times in each attempt, whatever the tests say",
    )
    group.addoption(
        "--cancel-max-points",
        metavar="N",
        type=int,
        help="make so many attempts with one cancel at most in each explore_cancel(), and with two as many",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.stash[_ATTEMPTS] = Counter()
    config.addinivalue_line(
        "markers", "cancel_points(**options): defaults for explore_cancel, such as backend, depth, limits"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many points were tried."""
    for backend, attempts in sorted(config.stash[_ATTEMPTS].items()):
        terminalreporter.write_line(f"cancel points, {backend}: {attempts:,} attempts")
