"""What a process has in memory, and what of it is in use: the rest is the allocator's affair.

Resident memory goes up and down by megabytes for the same work, with the pages that freed blocks leave in between. What
is in use does not, and so tells apart what is left behind from what is merely not given back.
"""

import ctypes
import gc
from collections.abc import Mapping
from typing import Final

import psutil
from attrs import frozen

COUNTED: Final[Mapping[str, str]] = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"}
"""The environment of a process whose memory is to be counted: with it all that Python has is glibc's to count, in one
arena. Else each thread may take one, which looks like growth."""


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@frozen
class Memory:
    """A process's memory at a moment, without garbage.

    Args:
        in_use_kib: allocated and not freed; None where the C library does not say so (glibc 2.33 and later do). All of
            Python's is in it where the process was begun with `COUNTED`.
        resident_kib: what the system has given to the process and not had back.
        objects: how many Python objects the collector knows.
    """

    in_use_kib: int | None
    resident_kib: int
    objects: int

    @classmethod
    def now(cls) -> "Memory":
        """Collect garbage, give free memory back, and look."""
        gc.collect()
        objects = len(gc.get_objects())
        libc = ctypes.CDLL(None)
        in_use = None
        if hasattr(libc, "mallinfo2"):
            libc.malloc_trim(0)
            libc.mallinfo2.restype = _MallocInfo
            found = libc.mallinfo2()
            in_use = (found.uordblks + found.hblkhd) // 1024
        return cls(in_use, psutil.Process().memory_info().rss // 1024, objects)
