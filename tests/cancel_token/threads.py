"""Threads for tests: an exception in one is a warning of pytest's, and so a failure."""

import threading
from collections.abc import Callable


def run_in_thread(fn: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=fn)
    thread.start()
    return thread
