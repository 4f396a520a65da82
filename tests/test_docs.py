"""What the README and the pages in docs/ show is what happens: their Python blocks run, a page's one after the other.

A block that cannot run here is preceded by a line `<!-- not run: why -->`.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(page: Path) -> list[str]:
    """Each block, with so many empty lines before it that a traceback names the page's own line."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, found.start("code")) + found["code"]
        for found in BLOCK.finditer(text)
        if not found["skip"]
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_programs_on_the_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), namespace)


def test_the_pages_have_programs() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 8


def test_a_block_may_say_why_it_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a key -->\n```python\n1 / 0\n```\n\n```python\nx = 1\n```\n", encoding="utf-8"
    )

    assert ["\n" * 6 + "x = 1\n"] == blocks(page)
