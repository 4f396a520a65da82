"""Where in its source the code under test looks at a token or waits, whether a run comes there or not."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import PurePath
from types import ModuleType
from typing import Any

import attrs

from cancel_token.testing._garbage import garbage_left
from cancel_token.testing._lines import Target, file_of


@attrs.frozen
class Site:
    """A stretch of source in which there is a point: a call of a token's method, a look at its flag, an `await`."""

    file: str
    first_line: int
    last_line: int
    text: str

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.first_line} {self.text}"


def unreached(targets: Iterable[Target], reached: Collection[tuple[str, int]]) -> tuple[str, ...]:
    """The sites in the source of the targets at which no run passed a point.

    A name is all there is to know a token's method by, so another object's `wait()` is listed, too.

    Args:
        targets: Modules, classes, functions; of each its own lines.
        reached: File and line of each point passed.
    """
    lines: dict[str, set[int]] = {}
    for file, line in reached:
        lines.setdefault(file, set()).add(line)
    found: dict[Site, None] = {}
    for target in targets:
        for site in _sites_of(target):
            if not any(site.first_line <= line <= site.last_line for line in lines.get(site.file, ())):
                found[site] = None
    return tuple(map(str, found))


def _sites_of(target: Target) -> Iterator[Site]:
    file = file_of(target)
    if file is None:
        return
    first, last = _lines_of(target)
    for site in _sites_in(file):
        if first <= site.first_line <= last:
            yield site


def _lines_of(target: Target) -> tuple[int, float]:
    while isinstance(target, partial):
        target = target.func
    if isinstance(target, ModuleType):
        return 1, float("inf")
    source: Any = target if isinstance(target, type) else inspect.unwrap(target)
    if not isinstance(target, type) and not hasattr(source, "__code__"):
        source = type(target)
    try:
        lines, first = inspect.getsourcelines(source)
    except (OSError, TypeError):  # made by no source
        return 1, 0
    return first, first + len(lines) - 1


@lru_cache(None)  # as many entries as there are source files
def _sites_in(file: str) -> tuple[Site, ...]:
    try:
        with open(file, encoding="utf-8") as source:
            text = source.read()
    except OSError:  # a program typed in
        return ()
    # CPython 3.11 takes it ill if a finalizer prints a traceback, for which it parses, too, while we parse.
    with garbage_left():
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a program in something else, such as a page of documentation
            return ()
    sites = [
        Site(file, node.lineno, node.end_lineno or node.lineno, f"{ast.unparse(node):.60}")
        for node in ast.walk(tree)
        if _is_point(node) and isinstance(node, ast.expr | ast.stmt)
    ]
    return tuple(sorted(sites, key=lambda site: site.first_line))


def _is_point(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="check" | "iter" | "wait" | "sleep" | "on_cancel")):
            return True
        case ast.Attribute(attr="cancelled", ctx=ast.Load()):
            return True
        case ast.Await():
            return True
        case _:
            return False
