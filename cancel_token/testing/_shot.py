"""One cancel at the k-th point of a block, without an exploration: for state machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cancel_token._deadline import Clock
from cancel_token._token import CancelToken
from cancel_token.testing._garbage import garbage_left
from cancel_token.testing._points import Lane, Point, Recording, site_of
from cancel_token.testing._probe import installed


class Shot:
    """A token that is cancelled at its k-th point; made by `cancel_at()`.

    Args:
        token: For the work.
        fired: Where it was cancelled; None while it has not been.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.token: CancelToken = CancelToken(name="shot", clock=clock)
        self.fired: Point | None = None


@contextmanager
def cancel_at(k: int | None, *, clock: Clock | None = None) -> Iterator[Shot]:
    """Cancel a token at the k-th point that this thread passes in the block, for rules of a state machine.

        with cancel_at(k) as shot:
            chat.send("hello", shot.token)

    Args:
        k: From 0, which is the first time that any token is asked, waited on or listened to here.
            None, or more than there are, lets the block run to its end: `shot.fired` tells.
        clock: The token's.

    Raises:
        ValueError: `k` is negative.
        RuntimeError: An exploration is going on in this process.
        BaseExceptionGroup: A callback of the token raised; only if the block itself raised nothing.
    """
    if k is not None and k < 0:
        raise ValueError(f"k must not be negative, not {k!r}")
    shot = Shot(clock)
    recording = _ShotRecording(shot)
    if k is not None:
        recording.main.target = k
    with installed(), garbage_left():
        try:
            with recording.running():
                yield shot
        finally:
            recording.open = False
    if recording.cancel_error is not None:
        raise recording.cancel_error


class _ShotRecording(Recording):
    def __init__(self, shot: Shot) -> None:
        super().__init__()
        self.shot = shot

    def arrive(self, lane: Lane, asked: CancelToken | None) -> None:
        lane.target = -1
        mark = lane.trace[-1]
        self.shot.fired = Point(lane.name, len(lane.trace) - 1, mark[0], site=site_of(mark))
        self.quietly(self.shot.token.cancel, "explored")
