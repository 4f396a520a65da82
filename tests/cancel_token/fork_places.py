"""Fork beside the service thread at every bytecode of one turn of it; run as a program by `test_fork.py` (T-S18).

In each child every deadline must come, and every callback be run that was left to the service thread. One that waits
in vain is ended by its alarm.
"""

import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from cancel_token import CancelToken
from cancel_token._deadline import Deadlines, service
from tests.cancel_token.injection import Injector, Place, bytecodes, monitoring

PATIENCE_SECONDS = 20

ORDERS: dict[str, Callable[[CancelToken], object]] = {
    "a deadline": lambda token: token.cancel_after(1e-9),
    "cancel_soon": lambda token: token.cancel_soon("at once"),
}


def take_office() -> None:
    """Retire the real thread: it is to be this program's, which says when it moves."""
    assert CancelToken(timeout=0.001).wait()  # it has begun, and has hooked itself to forks
    service._letters, service._bell, service._threads = deque(), SimpleQueue(), [-1]


def turn() -> None:
    service._serve_next(service._letters)


def give(order: str) -> tuple[CancelToken, threading.Event]:
    service._deadlines = Deadlines()
    token, ran = CancelToken(), threading.Event()
    token.on_cancel(ran.set)
    ORDERS[order](token)
    return token, ran


def fork_at(place: Place, order: str) -> None:
    """Have a thread serve the order, and fork while it stands still."""
    token, ran = give(order)
    stands, may_go = threading.Event(), threading.Event()

    def stand_still() -> None:
        stands.set()
        may_go.wait()

    serving = threading.Thread(target=lambda: Injector(place, stand_still).run(turn))
    serving.start()
    stands.wait()
    process = os.fork()
    if process == 0:
        signal.alarm(PATIENCE_SECONDS)
        ran.wait()
        assert token.cancelled
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    may_go.set()
    serving.join()
    assert status == 0, f"{order}: lost by a fork at bytecode {place[1]} of {place[0].co_qualname}"
    assert ran.is_set()


def main() -> None:
    # Python 3.12 warns of any fork beside threads; that it works is what is shown here.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*multi-threaded.*")
    take_office()
    cases = 0
    with monitoring():
        for order in ORDERS:

            def prepare(order: str = order) -> Callable[[], object]:
                give(order)
                return turn

            places = bytecodes(prepare)
            for place in places:
                fork_at(place, order)
            cases += len(places)
    print(cases)


if __name__ == "__main__":
    main()
