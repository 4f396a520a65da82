"""A fault is put into the real code: a named function is replaced by a twin, whose source is its own with a change.

A function that is gone, or that no longer has the lines once, is a `Stale` fault, and never a pass.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any

from attrs import field, frozen


class Stale(Exception):
    """The code has changed: the fault has to be written anew."""


@frozen
class Edit:
    """One change of one function.

    Args:
        target: such as `aiwrapper._run:Run._stopped`.
        old: what stands there now, once; whole lines as they are in the file, without their indentation.
        new: what shall stand there instead.
    """

    target: str
    old: str
    new: str


@frozen(kw_only=True)
class Fault:
    """A known fault.

    Args:
        name: `M01` to `M26`.
        change: what it does, in a few words.
        edits: how.
        killers: the explorers that must find it.
        equivalent: why an explorer does not find it; by the explorer's name.
    """

    name: str
    change: str
    edits: tuple[Edit, ...]
    killers: tuple[str, ...]
    equivalent: Mapping[str, str] = field(factory=dict)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Have the fault in the code for the length of the block.

    Raises:
        Stale: it does not fit the code any more.
    """
    targets = dict.fromkeys(edit.target for edit in fault.edits)
    with ExitStack() as stack:
        for target in targets:
            edits = [edit for edit in fault.edits if edit.target == target]
            stack.enter_context(_edited(target, edits))
        yield


@contextmanager
def _edited(target: str, edits: list[Edit]) -> Iterator[None]:
    function = _function(target)
    original = function.__code__
    # The code and not the name: so everybody has the twin who has imported the function, too.
    function.__code__ = _twin(function, edits)
    try:
        yield
    finally:
        function.__code__ = original


def _function(target: str) -> FunctionType:
    module_name, _, path = target.partition(":")
    found: Any = importlib.import_module(module_name)  # Any: whatever has this name
    for name in path.split("."):
        found = vars(found).get(name)
        if found is None:
            raise Stale(f"{target} is gone")
    function = inspect.unwrap(found)
    if not isinstance(function, FunctionType):
        raise Stale(f"{target} is no function")
    return function


def _twin(function: FunctionType, edits: list[Edit]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        source = _replaced(source, edit)
    tree = ast.parse(source)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list.clear()
    definition.args.defaults.clear()  # those of the function stay
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    namespace: dict[str, FunctionType] = {}
    exec(compile(tree, function.__code__.co_filename, "exec"), function.__globals__, namespace)
    twin = namespace[definition.name].__code__
    if twin.co_freevars != function.__code__.co_freevars:
        raise Stale(f"{function.__qualname__} is a closure")
    return twin.replace(co_qualname=function.__code__.co_qualname)


def _replaced(source: str, edit: Edit) -> str:
    """The source with the lines replaced, whatever their indentation."""
    old = edit.old.splitlines()
    lines = source.splitlines()
    places = [
        at
        for at in range(len(lines) - len(old) + 1)
        if _indented(old, lines[at]) == [line.rstrip() for line in lines[at : at + len(old)]]
    ]
    if len(places) != 1:
        raise Stale(f"{edit.target} has {len(places)} times, and not once: {edit.old}")
    at = places[0]
    lines[at : at + len(old)] = _indented(edit.new.splitlines(), lines[at])
    return "\n".join(lines) + "\n"


def _indented(lines: list[str], like: str) -> list[str]:
    margin = like[: len(like) - len(like.lstrip())]
    return [(margin + line).rstrip() for line in lines]
