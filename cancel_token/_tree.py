"""How tokens hang together: a parent's weak hold on a child, its strong one while something is on the child (T-S7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from cancel_token._token import CancelToken


class Link(ref["CancelToken"]):
    """A parent's weak hold on a child; takes itself off the parent when the child is gone."""

    __slots__ = ("parent",)

    parent: CancelToken


def unlink(link: ref[CancelToken]) -> None:
    """What becomes of a link whose child is gone."""
    link.parent._children.pop(link, None)  # type: ignore[attr-defined]  # only Link comes here


def lineage(start: CancelToken, *, closed: bool = False) -> Iterator[CancelToken]:
    """The token and its ancestors, each once; those behind a closed one only if asked for."""
    stack = [start]
    seen: set[CancelToken] = set()
    while stack:
        token = stack.pop()
        if len(token._links) > 1:
            if token in seen:
                continue
            seen.add(token)
        yield token
        if closed or token._open:
            stack.extend(link.parent for link in token._links)


def pin(token: CancelToken) -> None:
    """Make the parents hold the token strongly, up to the roots (T-S7)."""
    if len(token._links) == 1 and token._open:  # the quick way for most: pinned already, or below a root
        parent = token._links[0].parent
        if token in parent._held:
            return
        if not parent._links:
            parent._held[token] = None
            if token._open:
                return
    others: list[CancelToken] = []
    while True:
        if token._open:
            for link in token._links:
                parent = link.parent
                # If it is there, its ancestors are pinned, or whoever unpins them looks again.
                if token not in parent._held:
                    parent._held[token] = None
                    if parent._links:
                        others.append(parent)
        if not token._open:  # published, so look again: close() may have passed
            for link in token._links:
                link.parent._held.pop(token, None)
        if not others:
            return
        token = others.pop()


def unpin(token: CancelToken) -> None:
    """Let the parents hold the token weakly again if nothing is on it any more, up to the roots."""
    if len(token._links) == 1 and not token._held:  # the quick way for most, as above
        parent = token._links[0].parent
        if not parent._links:
            parent._held.pop(token, None)
            if not token._held:
                return
    others: list[CancelToken] = []
    while True:
        if not token._held:
            for link in token._links:
                parent = link.parent
                if token in parent._held:  # if not, whoever unpinned it goes on upwards
                    parent._held.pop(token, None)
                    if parent._links:
                        others.append(parent)
            if token._held:  # unpinned, so look again: a newcomer may have seen itself pinned
                pin(token)
        if not others:
            return
        token = others.pop()


def unpin_lineage(token: CancelToken) -> None:
    """Let go of the token and of everything above it where nothing is on it any more."""
    for each in list(lineage(token)):
        unpin(each)
