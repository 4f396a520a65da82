import gc
import math
import subprocess
import sys
import threading
import weakref
from queue import SimpleQueue

import pytest

from cancel_token import CancelReason, CancelToken
from cancel_token._deadline import MIN_PRUNE_ENTRIES, SYSTEM_CLOCK, Deadlines, service
from cancel_token.testing import ManualClock


def test_t_s12_a_deadline_cancels_and_says_so() -> None:
    clock = ManualClock(100)
    token = CancelToken(timeout=5, clock=clock)
    child = token.child(timeout=9)
    grandchild = child.child()

    assert (105, 105, 105) == (token.deadline, child.deadline, grandchild.deadline)
    clock.advance(4.5)
    assert not token.cancelled
    clock.advance(0.5)
    assert token.reason == CancelReason("deadline", "time is up", at=105)
    assert grandchild.reason is not None
    assert "parent" == grandchild.reason.kind


def test_t_s12_a_deadline_moves_only_nearer_and_at_once() -> None:
    clock = ManualClock()
    token = CancelToken(timeout=5, clock=clock)
    token.cancel_after(9)
    assert 5 == token.deadline
    token.cancel_after(2)
    assert 2 == token.deadline
    token.cancel_after(math.inf)
    clock.advance(2)

    assert token.cancelled
    token.cancel_after(1)  # nothing is left to do
    assert 2 == token.deadline


def test_t_s12_moving_a_real_deadline_nearer_takes_effect_at_once() -> None:
    token = CancelToken(timeout=1000)
    token.cancel_after(0.001)

    assert token.wait()
    assert token.reason is not None
    assert "deadline" == token.reason.kind


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_no_time_left_is_cancelled_at_once(seconds: float) -> None:
    token = CancelToken(timeout=seconds)

    assert token.cancelled
    assert token.reason is not None
    assert "deadline" == token.reason.kind
    assert CancelToken().child(timeout=seconds).cancelled
    assert CancelToken.any(CancelToken(), timeout=seconds).cancelled


def test_a_timeout_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="nan"):
        CancelToken(timeout=math.nan)


def test_a_manual_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="forward"):
        ManualClock().advance(-1)


def test_t_s12_all_that_are_due_are_flagged_before_the_first_callback_runs() -> None:
    clock = ManualClock()
    tokens = [CancelToken(timeout=1, clock=clock) for _ in range(3)]
    seen: list[list[bool]] = []
    for token in tokens:
        token.on_cancel(lambda: seen.append([each.cancelled for each in tokens]))
    clock.advance(1)

    assert [[True] * 3] * 3 == seen


def test_t_s3_a_deadline_reports_what_callbacks_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: SimpleQueue[BaseException | None] = SimpleQueue()
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.put(unraisable.exc_value))
    token = CancelToken(timeout=0.001)
    error = ValueError()

    def fail() -> None:
        raise error

    token.on_cancel(fail)

    assert error is reported.get()
    assert CancelToken(timeout=0.001).wait()  # the service goes on


def test_t_s11_cancel_soon_flags_now_and_calls_from_the_service_thread() -> None:
    token = CancelToken()
    child = token.child()
    called_in: SimpleQueue[str] = SimpleQueue()
    held_up = threading.Event()
    child.on_cancel(lambda: called_in.put(threading.current_thread().name))
    child.on_cancel(held_up.wait)

    assert token.cancel_soon("enough")
    assert child.cancelled
    assert not token.cancel_soon("again")
    assert called_in.empty()
    held_up.set()
    assert "cancel_token service" == called_in.get()


def test_t_s11_a_manual_clock_does_not_keep_cancel_soon_waiting() -> None:
    token = CancelToken(clock=ManualClock())
    ran = threading.Event()
    token.on_cancel(ran.set)
    token.cancel_soon()

    assert ran.wait()


def test_t_s12_deadlines_hold_tokens_weakly_and_dead_entries_are_pruned() -> None:
    """Counted on a heap of our own: 10,000 dropped, cancelled and closed tokens, 10 that live."""
    clock = ManualClock()
    deadlines = clock._deadlines
    living = [CancelToken(timeout=1, clock=clock) for _ in range(10)]
    kept = []
    for number in range(9999):
        token = CancelToken(timeout=1000, clock=clock)
        if number % 3 == 0:
            token.cancel()
            kept.append(token)
        elif number % 3 == 1:
            token.close()
            kept.append(token)

    assert len(deadlines) <= MIN_PRUNE_ENTRIES + 1
    clock.advance(1)
    assert all(token.cancelled for token in living)
    clock.advance(2000)
    assert [] == [token for token in kept if token.reason and token.reason.kind == "deadline"]


def test_t_s12_an_overtaken_entry_is_dead() -> None:
    deadlines = Deadlines()
    token = CancelToken(timeout=1, clock=ManualClock())
    deadlines.add(0.5, weakref.ref(token))
    deadlines.add(7, weakref.ref(token))

    assert 0.5 == deadlines.next_time()
    assert [token] == deadlines.pop_due(1)
    assert deadlines.next_time() is None


def test_a_closed_token_has_no_deadline() -> None:
    clock = ManualClock()
    with CancelToken(timeout=1, clock=clock) as token:
        pass
    clock.advance(2)

    assert token.deadline is None
    assert not token.cancelled


def test_any_takes_the_nearest_deadline_of_its_parents_on_the_same_clock() -> None:
    clock = ManualClock()
    first, second = CancelToken(timeout=5, clock=clock), CancelToken(timeout=3, clock=clock)
    elsewhere = CancelToken(timeout=1, clock=ManualClock())

    assert 3 == CancelToken.any(first, second, elsewhere).deadline
    assert 2 == CancelToken.any(first, timeout=2).deadline
    assert [5, 3, 1] == [token.deadline for token in (first, second, elsewhere)]


def test_any_takes_its_clock_from_a_parent_that_has_one() -> None:
    """`never()` is the default of `token=` parameters and stands first as often as not."""
    clock = ManualClock()
    token = CancelToken.any(CancelToken.never(), CancelToken(clock=clock), timeout=5)
    clock.advance(5)

    assert clock is token.clock
    assert token.cancelled
    assert SYSTEM_CLOCK is CancelToken.any(CancelToken.never()).clock


def test_the_system_clock_waits_in_slices_for_longer_than_a_lock_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cancel_token._deadline.MAX_WAIT_SECONDS", 0.000_1)
    lock = threading.Lock()
    lock.acquire()

    assert not SYSTEM_CLOCK.acquire(lock, 0.001)
    lock.release()
    assert SYSTEM_CLOCK.acquire(lock, 1e12)


def test_only_one_thread_holds_the_office() -> None:
    ready = CancelToken(timeout=0.001)
    assert ready.wait()
    office = list(service._threads)
    service._serve()  # a second starter finds it taken, and leaves

    assert office == service._threads


def test_t_s12_deadlines_run_out_while_the_program_sleeps_in_c() -> None:
    """In a process of its own: the service starts with the first deadline, and does not keep the process alive."""
    program = (
        "import threading\n"
        "from cancel_token import CancelToken\n"
        "assert ['MainThread'] == [thread.name for thread in threading.enumerate()]\n"
        "late = CancelToken(timeout=1000)\n"
        "token = CancelToken(timeout=0.01)\n"
        "print(token.wait(), token.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )

    assert ("True time is up (deadline)\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_the_service_lets_go_of_a_token_it_has_served() -> None:
    token = CancelToken()
    ran = threading.Event()
    gone = threading.Event()
    watch = weakref.ref(token, lambda _: gone.set())
    token.on_cancel(ran.set)
    token.cancel_soon()
    ran.wait()
    del token
    gc.collect()

    assert gone.wait()
    assert watch() is None
