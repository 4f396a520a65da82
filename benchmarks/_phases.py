"""How long a stop takes in one phase of some work: what drives it, and the table.

A `Case` opens a `Target`: a way to start work that will stall, to know that it has, and to ask its peer when it saw the
hang-up. `measure` stops it again and again. Add a case for anything that can be started in a thread under a token.
"""

import contextlib
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs
import trustme

from cancel_token._token import CancelToken
from tests.cancel_token.stalling import (
    Call,
    open_descriptors,
    wait_for_hang_up,
)

SETTLE_SECONDS = 0.002  # between "the server stalls" and the stop, so that the client has gone to sleep
NO_COUNTS: Mapping[str, int] = {}


class Work(Protocol):
    """Something that has been started."""

    ended_at: float
    """When it was over, by `time.perf_counter`."""

    def join(self) -> object:
        """Wait until it is over."""


@attrs.frozen
class Target:
    """Work that stalls, ready to be started any number of times, one after the other."""

    start: Callable[[CancelToken], Work]
    wait_until_stalled: Callable[[], object]
    hung_up_at: Callable[
        [], float | None
    ]  # by time.perf_counter; None: nobody was there to see it, or nobody did
    settle: Callable[
        [], object
    ]  # after each stop: the next request must be accepted; let the peer come to rest
    counts: Callable[[], Mapping[str, int]] = lambda: (
        NO_COUNTS
    )  # further columns, read once at the end; each should be 0


@attrs.frozen
class Case:
    """One row of the table.

    Args:
        who: What is stopped.
        wire: The way to its peer.
        phase: Where it is stopped.
        open: Makes it ready.
        world: Where it runs.
    """

    who: str
    wire: str
    phase: str
    open: Callable[[], AbstractContextManager[Target]]
    world: str = "threads"

    def __str__(self) -> str:
        return f"{self.who:9} {self.world:13} {self.wire:8} {self.phase:22}"


@attrs.frozen
class Times:
    """Milliseconds from `token.cancel()`."""

    median: float
    p95: float  # between the two values next to it, in proportion: of 20 it is not simply the worst

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times | None":
        if not seconds:
            return None
        milliseconds = [1000 * value for value in seconds]
        if len(milliseconds) == 1:
            return cls(milliseconds[0], milliseconds[0])
        twentieths = statistics.quantiles(milliseconds, n=20, method="inclusive")
        return cls(statistics.median(milliseconds), twentieths[-1])

    def __str__(self) -> str:
        return f"{self.median:8.2f} {self.p95:8.2f}"


MORE_REPEATS = 4

COUNTS = ("late", "resent", "kept", "refused")
"""Further columns, of which each should be 0: what they are is said where they are counted."""


@attrs.frozen
class Row:
    """What was measured of one case."""

    what: str  # where it stands in the table
    caller: Times | None  # until the caller has control again
    peer: Times | None  # until the peer has seen the hang-up
    left: str = ""  # descriptors and threads; empty: nothing
    counts: Mapping[str, int] = attrs.field(factory=dict)

    def keeps(self, limits: Times) -> bool:
        """Whether both times are within the limits, nothing is left, and every count is 0."""
        measured = [times for times in (self.caller, self.peer) if times is not None]
        return (
            self.caller is not None
            and not self.left
            and not any(self.counts.values())
            and all(times.median <= limits.median and times.p95 <= limits.p95 for times in measured)
        )

    def show(self, limits: Times | None) -> None:
        """Print it beside its limits."""
        counts = "".join(f" {self.counts.get(name, ''):>7}" for name in COUNTS)
        dash = f"{'-':>8} {'-':>8}"
        verdict = ""
        if limits is not None:
            verdict = f"{limits} {'ok' if self.keeps(limits) else 'OVER'} {self.left}"
        print(
            f"{self.what:50} {self.caller or dash} | {self.peer or dash} |{counts} | {verdict}",
            flush=True,
        )


def print_heads() -> None:
    heads = "".join(f" {name:>7}" for name in COUNTS)
    times = f"{'median':>8} {'p95':>8}"
    print(f"{'(milliseconds)':50} {'caller has control':>17} | {'peer sees it':>17} |")
    print(
        f"{'what':9} {'world':13} {'wire':8} {'phase':22} {times} | {times} |{heads} | "
        f"{'limits':>8} {'p95':>8}"
    )


def measure(case: Case, repeats: int, beside: Callable[[], object], is_kept: Callable[[Row], bool]) -> Row:
    """Start, wait for the stall, stop, again and again; do something else beside each.

    The p95 of twenty hangs on the worst two. A row that is over its limits is measured on, `MORE_REPEATS` times as
    often, and is what all of its repeats together say.
    """
    caller: list[float] = []
    peer: list[float] = []
    with case.open() as target:
        stop_once(target)  # warms up: imports, certificates, the first connection
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        for more in (repeats, MORE_REPEATS * repeats):
            for _ in range(more):
                beside()
                stopped_at, ended_at, hung_up_at = stop_once(target)
                caller.append(ended_at - stopped_at)
                if hung_up_at is not None:
                    peer.append(hung_up_at - stopped_at)
            left = _left(descriptors, threads)
            row = Row(str(case), Times.of(caller), Times.of(peer), left, dict(target.counts()))
            if is_kept(row):
                break
    return row


def stop_once(target: Target) -> tuple[float, float, float | None]:
    """Stop the work once; return when it was stopped, when the caller had control, when the peer knew."""
    token = CancelToken()
    call = target.start(token)
    target.wait_until_stalled()
    time.sleep(SETTLE_SECONDS)
    stopped_at = time.perf_counter()
    token.cancel("benchmark")
    call.join()
    hung_up_at = target.hung_up_at()
    target.settle()
    return stopped_at, call.ended_at, hung_up_at


def _left(descriptors: Mapping[int, str], threads: set[threading.Thread]) -> str:
    more = len(open_descriptors()) - len(descriptors)
    alive = [thread for thread in threading.enumerate() if thread not in threads]
    foreign = [thread for thread in alive if not thread.name.startswith("cancel_token resolver")]
    parts = [f"{more} descriptors"] if more else []
    parts += [f"threads {', '.join(thread.name for thread in foreign)}"] if foreign else []
    parts += ["more than one resolver"] if len(alive) - len(foreign) > 1 else []
    return ", ".join(parts)


class BareShutdowns:
    """What nothing can be faster than: `shutdown` of a socket on which a thread is blocked in `recv`.

    One is measured beside each stop, so that what else the machine does meets both alike.
    """

    def __init__(self) -> None:
        self._caller: list[float] = []
        self._peer: list[float] = []

    def measure(self) -> None:
        """One more."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as near,
            listener.accept()[0] as far,
        ):
            receiving, watching = Call(partial(near.recv, 1)), Call(partial(wait_for_hang_up, far))
            time.sleep(SETTLE_SECONDS)
            stopped_at = time.perf_counter()
            near.shutdown(socket.SHUT_RDWR)
            self._caller.append(receiving.join().ended_at - stopped_at)
            self._peer.append(watching.join().ended_at - stopped_at)

    def row(self) -> Row:
        """All of them so far."""
        what = f"a bare shutdown of a recv, {len(self._caller):,} times"
        return Row(what, Times.of(self._caller), Times.of(self._peer))


def limits_from(bare: Row) -> Times:
    """Median max(2 ms, 5 x bare), p95 max(5 ms, 5 x bare)."""
    assert bare.caller is not None
    return Times(max(2.0, 5 * bare.caller.median), max(5.0, 5 * bare.caller.p95))


def describe_machine() -> str:
    """Where and with what this was measured."""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    )


@attrs.frozen
class Certificates:
    """One authority for all cases."""

    server: trustme.LeafCert
    authority_file: Path


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "authority.pem"
        authority.cert_pem.write_to_path(str(path))
        yield Certificates(authority.issue_cert("127.0.0.1", "localhost"), path)
