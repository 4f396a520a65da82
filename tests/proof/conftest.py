"""Prints at the end of a session how much was explored, by driver."""

from collections import Counter
from typing import Final

import pytest

from tests.proof import profiles

NIGHT_SECONDS: Final = 6 * 3600
"""For one test of the night, which tries fifty times as many scripts as CI does. A hang is a failure there, too."""

_EXPLORED = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_EXPLORED] = Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if profiles.NAME == "night":
        for item in items:
            if "proof" in item.path.parts:
                item.add_marker(pytest.mark.timeout(NIGHT_SECONDS))


@pytest.fixture(scope="session")
def explored(pytestconfig: pytest.Config) -> Counter[str]:
    """How many stops were tried and judged, by name, for the summary at the end."""
    return pytestconfig.stash[_EXPLORED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_EXPLORED, Counter())
    if counts:
        terminalreporter.section(f"the proof, profile {profiles.NAME}")
        for name, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:>10,}  {name}")
