"""The programs in docs/testing.md run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_page_has_programs() -> None:
    assert PROGRAMS


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_page_runs(number: int) -> None:
    exec(compile(PROGRAMS[number], f"docs/testing.md, program {number + 1}", "exec"), {"__name__": "program"})
