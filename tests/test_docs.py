"""What the README and the pages in docs/ show is what happens: their Python blocks run, a page's one after the other.

A block that cannot run here is preceded by a line `<!-- not run: why -->`. A block of text right behind one is what it
prints, but for what depends on where the program stands: files, lines, and the ways of replay ids.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n)?```python\n(?P<code>.*?)^```$(\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
ELSEWHERE = re.compile(r"(?<=at )\w+\.(py|md):\d+|(?<=~)[0-9a-f]{4}$", re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """Each block, with so many empty lines before it that a traceback names the page's own line; and what it prints."""
    text = page.read_text(encoding="utf-8")
    return [
        ("\n" * text.count("\n", 0, found.start("code")) + found["code"], found["printed"])
        for found in BLOCK.finditer(text)
        if not found["skip"]
    ]


def wherever(printed: str) -> str:
    """What a report says of a program, whichever file it is in."""
    return ELSEWHERE.sub("...", printed)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_programs_on_the_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for code, printed in blocks(page):
        capsys.readouterr()
        exec(compile(code, str(page), "exec"), namespace)
        if printed is not None:
            assert wherever(printed) == wherever(capsys.readouterr().out)


def test_the_pages_have_programs() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 8


def test_a_block_may_say_why_it_is_not_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a key -->\n```python\n1 / 0\n```\n\n```python\nx = 1\n```\n", encoding="utf-8"
    )

    assert [("\n" * 6 + "x = 1\n", None)] == blocks(page)


def test_what_a_block_prints_may_stand_right_behind_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shown = "```text\n  at downloads.py:5 fetch, 1 attempt:\n    ct1:sync:0.1check~fb4f\n```\n"
    page.write_text(f"```python\nx = 1\n```\n\n{shown}\nSo much for that.\n\n{shown}", encoding="utf-8")

    ((_, printed),) = blocks(page)
    assert printed is not None
    assert "  at ... fetch, 1 attempt:\n    ct1:sync:0.1check~...\n" == wherever(printed)
