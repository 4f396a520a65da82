"""What holds for every test: a thread left alive at its end fails it."""

import gc
import signal
import threading
from collections.abc import Iterator

import pytest
import uvloop
from hypothesis import settings

# No test asserts a duration, so hypothesis asserts none either: the machines are shared.
settings.register_profile("aiwrapper", deadline=None)
settings.load_profile("aiwrapper")

# Daemon threads that may outlive a test, by name: the design's (docs/cancellation.md says why each exists), and those
# that trio keeps for ten seconds in case there is something to do for them.
ALLOWED_THREADS = ("cancel_token service", "cancel_token resolver", "Trio thread ")


def pytest_configure() -> None:
    """Have a Ctrl-C, wherever we are started: a shell script lets what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    """Have what the first uvloop of a process opens for good, a pipe for signals: no test is to be taken for it."""
    uvloop.new_event_loop().close()


def pytest_collection_finish() -> None:
    """Leave what was imported out of every collection to come: many tests collect, and each would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_thread_left_alive() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and not thread.name.startswith(ALLOWED_THREADS)
    ]
    for thread in left:  # one that is on its way out is given the time to leave; one that stays is a leak
        thread.join(timeout=5)
    assert [] == [thread.name for thread in left if thread.is_alive()]
