"""How the time of a wake-up is measured."""

import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def without_precedence() -> Iterator[None]:
    """Let this thread, and those that it starts, wait for their turn when they are woken (on Linux).

    The kernel may give a woken thread the processor at once, while whoever has woken it still holds the interpreter's
    lock: it sleeps again, for that lock, and all takes twice as long. Whether it does is the kernel's choice, made now
    more often for the one way of waking and now for the other.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def mean_of_most(seconds: Sequence[float]) -> float:
    """The mean without the slowest tenth, in which the machine did something else.

    Not the median, which jumps where about half of the wake-ups take twice as long as the others.
    """
    return statistics.fmean(sorted(seconds)[: max(1, len(seconds) * 9 // 10)])
