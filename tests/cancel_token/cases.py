"""Tests that try many cases say how many; `conftest.py` prints it at the end of the run."""

import pytest

COUNTS = pytest.StashKey[dict[str, int]]()


def count(config: pytest.Config, what: str, cases: int) -> None:
    counts = config.stash.setdefault(COUNTS, {})
    counts[what] = counts.get(what, 0) + cases
