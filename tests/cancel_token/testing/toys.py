"""Small programs that obey a token, most of them with one deliberate fault."""

import threading
from collections.abc import Callable
from pathlib import Path

from cancel_token import Cancelled, CancelToken
from cancel_token.testing import Outcome

PIECES = (b"one ", b"two ", b"three")


class Downloader:
    """Fetches pieces into a file that appears only when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_suffix(".part")
        path.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def fetch(self, token: CancelToken) -> bytes:
        try:
            with self.part.open("wb") as file:
                for piece in token.iter(PIECES):
                    file.write(piece)
            token.check()
            self.part.rename(self.path)
        except BaseException:
            self.part.unlink(missing_ok=True)
            raise
        return self.path.read_bytes()


class LeavesHalfAFile(Downloader):
    def fetch(self, token: CancelToken) -> bytes:
        with self.path.open("wb") as file:
            for piece in token.iter(PIECES):
                file.write(piece)
        return self.path.read_bytes()


class ChecksAfterItIsDone(Downloader):
    def fetch(self, token: CancelToken) -> bytes:
        whole = super().fetch(token)
        token.check()
        return whole


def leaves_no_half_file(downloader: Downloader, outcome: Outcome) -> None:
    assert outcome.legal("returned", "cancelled")
    assert downloader.path.exists() == (outcome.kind == "returned")
    assert not downloader.part.exists()


class Box:
    """A subject that only remembers."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.open = False


def anything_goes(subject: object, outcome: Outcome) -> None:
    assert outcome.legal("returned", "cancelled")


def three_checks(box: Box, token: CancelToken) -> None:
    for n in range(3):
        token.check()
        box.log.append(str(n))


def in_threads(*work: Callable[[], None]) -> None:
    """Run functions side by side; a stop of theirs goes on here."""
    stopped: list[Cancelled] = []

    def guarded(fn: Callable[[], None]) -> None:
        try:
            fn()
        except Cancelled as stop:
            stopped.append(stop)

    threads = [threading.Thread(target=guarded, args=(fn,)) for fn in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if stopped:
        raise stopped[0]
