"""Prints at the end of a test run how many prefixes of logs the laws were tried on."""

from collections import Counter

import pytest

LAW_COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAW_COUNTS] = Counter()


@pytest.fixture(scope="session")
def law_counts(pytestconfig: pytest.Config) -> Counter[str]:
    """Counts by name, for the summary at the end."""
    return pytestconfig.stash[LAW_COUNTS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(LAW_COUNTS, Counter())
    if counts:
        terminalreporter.section("laws of the conversation")
        for name, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:>10,}  {name}")
