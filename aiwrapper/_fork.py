"""What must not be shared with a forked child is given up in the child.

A fork copies file descriptors and library state, but not the threads that look after them. A lock file's
descriptor would keep a conversation leased for as long as the child lives, and SQLite forbids a child even
to close a connection of its parent. So whoever holds such a thing registers here and is told in the child,
before any other code runs there.
"""

import functools
import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something that belongs to the process that made it."""

    def give_up_in_child(self) -> None:
        """Called in the child right after the fork: let go without touching what the parent shares with it."""


_inherited: "weakref.WeakSet[Inherited]" = weakref.WeakSet()


def give_up_in_children(thing: Inherited) -> None:
    """Have `thing.give_up_in_child()` called in every child that this process forks while `thing` lives."""
    _mind_forks()
    _inherited.add(thing)


@functools.cache  # a hook can't be taken back, so there is one for all, and only once it is needed
def _mind_forks() -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=_give_up)


def _give_up() -> None:
    for thing in tuple(_inherited):
        thing.give_up_in_child()
    _inherited.clear()
