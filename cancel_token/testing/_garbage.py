"""When garbage is collected: not where its finalizers would disturb."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_left() -> Iterator[None]:
    """Have no garbage collected by itself for the length of the block.

    Around all that is recorded of a work: finalizers would pass points, whosever they are, now here and now there.
    It must end behind the recording: what is due is collected at once then.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
