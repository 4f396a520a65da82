"""In which process we are: what belongs to one does nothing in another (T-S18).

`os.getpid()` would say it as well, but after a pause, when nothing of it is at hand any more, the system call took 3 us
(Linux, Python 3.11, November 2026): as long as all else that stands between a stop and whoever is woken by it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

forks: Final[list[None]] = []
"""One item for each fork that has led to this process. Remember its length, and compare."""


def call_in_child(call: Callable[[], object]) -> None:
    """Have it called in each process that is forked from now on, after what was asked for before; for ever."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=call)


call_in_child(partial(forks.append, None))
