"""How much the proof tries: what CI has time for, or a night."""

import os
from typing import Final

from attrs import frozen


@frozen(kw_only=True)
class Profile:
    """How many drawn scripts each exploration tries, of each dialect, besides those that are always tried.

    Args:
        blocking: stopped at every point by the thread that comes to it.
        deadline: stopped at every point by a deadline.
        twice: stopped a second time at every point of the clean-up.
        lines: stopped by a second thread before every line.
        loops: stopped at every point, in each event loop.
        bytes: stopped at every byte of the stream.
        machine: conversations, of many messages each.
        machine_steps: how many things happen in one of them.
    """

    blocking: int
    deadline: int
    twice: int
    lines: int
    loops: int
    bytes: int
    machine: int
    machine_steps: int


PROFILES: Final = {
    "ci": Profile(blocking=4, deadline=0, twice=0, lines=0, loops=1, bytes=2, machine=8, machine_steps=15),
    "night": Profile(
        blocking=300, deadline=100, twice=30, lines=30, loops=60, bytes=100, machine=300, machine_steps=40
    ),
}

NAME: Final = os.environ.get("AIWRAPPER_PROOF", "ci")
PROFILE: Final = PROFILES[NAME]
