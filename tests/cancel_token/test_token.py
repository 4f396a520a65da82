import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from cancel_token import Cancelled, CancelReason, CancelToken, Registration, record_origins
from cancel_token._cancellation import reason_of
from cancel_token.testing import ManualClock


class Announcing(list[Any]):
    """A list that says when something was appended."""

    def __init__(self) -> None:
        super().__init__()
        self.appended = threading.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        self.appended.set()


def run_in_thread(fn: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=fn)
    thread.start()
    return thread


# What a token is


def test_a_new_token_is_active() -> None:
    token = CancelToken(name="upload")
    token.check()

    assert not token.cancelled
    assert token.reason is None
    assert token.deadline is None
    assert () == token.later_reasons
    assert "'upload'" in repr(token)
    assert "active" in repr(token)


def test_a_cancelled_token_says_why() -> None:
    token = CancelToken()

    assert token.cancel("enough")
    assert token.cancelled
    assert token.reason is not None
    assert ("user", "enough") == (token.reason.kind, token.reason.message)
    assert token.reason.at is not None
    assert "enough" in repr(token)


def test_a_token_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match=r"token\.cancelled"):
        bool(CancelToken())


@pytest.mark.parametrize("reason", [3, None, Cancelled])
def test_a_reason_that_is_none_is_refused_before_anything_happens(reason: object) -> None:
    token = CancelToken()

    for decide in (token.cancel, token.cancel_soon, token.cancel_and_report):
        with pytest.raises(TypeError, match="reason must be") as caught:
            decide(reason)  # type: ignore[arg-type]  # that is the point
        assert caught.value.__suppress_context__, "said once, not twice"
        assert not token.cancelled


def test_a_reasons_own_time_is_kept_and_a_missing_one_filled_in() -> None:
    early, now = CancelToken(clock=ManualClock(7)), CancelToken(clock=ManualClock(7))
    early.cancel(CancelReason("signal", at=3.0))
    now.cancel(CancelReason("signal"))

    assert CancelReason("signal", at=3.0) == early.reason
    assert CancelReason("signal", at=7.0) == now.reason


def test_on_cancel_needs_a_callable() -> None:
    for token in (CancelToken(), CancelToken.never()):
        with pytest.raises(TypeError, match="callable"):
            token.on_cancel(3)  # type: ignore[arg-type]  # that is the point


# The tree


def test_t_s1_every_descendant_is_flagged_before_any_callback_runs() -> None:
    root = CancelToken()
    tokens = [root, root.child(), root.child()]
    tokens += [tokens[1].child(), tokens[2].child()]
    seen: list[list[bool]] = []
    for token in tokens:
        token.on_cancel(lambda: seen.append([each.cancelled for each in tokens]))

    root.cancel()

    assert [[True] * 5] * 5 == seen


def test_t_s1_a_chain_of_100_000_children_is_cancelled_waited_for_and_dropped() -> None:
    root = CancelToken()
    chain = [root]
    for _ in range(100_000):
        chain.append(chain[-1].child())
    ran: list[int] = []
    chain[-1].on_cancel(ran.append, 1)

    assert 1 == root.stats().children
    root.cancel("enough")

    assert all(token.cancelled for token in chain)
    assert [1] == ran
    assert chain[-1].is_within(root)
    assert root.reason is not None
    assert "enough (parent, user)" == str(chain[-1].reason)
    last = weakref.ref(chain.pop())
    chain.clear()
    assert last() is None


def test_a_childs_cancel_never_reaches_its_parent() -> None:
    parent = CancelToken()
    child, sibling = parent.child(), parent.child()
    child.cancel()

    assert (True, False, False) == (child.cancelled, parent.cancelled, sibling.cancelled)


def test_a_child_of_a_cancelled_token_is_cancelled_from_the_start() -> None:
    parent = CancelToken()
    parent.cancel("enough")
    child = parent.child()

    assert child.cancelled
    assert child.reason is not None
    assert "parent" == child.reason.kind


def test_any_is_cancelled_by_the_first_of_its_parents() -> None:
    first, second = CancelToken(name="first"), CancelToken(name="second")
    both = CancelToken.any(first, second, CancelToken.never(), first)
    second.cancel("enough")

    assert both.cancelled
    assert both.reason is not None
    assert both.reason.cause is second.reason
    assert not first.cancelled
    first.cancel("late")
    assert (second.reason, first.reason) == (both.reason.cause, both.later_reasons[0].cause)


def test_any_of_a_cancelled_token_is_cancelled_from_the_start() -> None:
    first, second = CancelToken(), CancelToken()
    first.cancel("1")
    second.cancel("2")

    both = CancelToken.any(CancelToken(), first, second)

    assert both.reason is not None
    assert both.reason.cause is first.reason


def test_any_needs_a_token() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CancelToken.any()


def test_a_ladder_of_any_is_walked_in_linear_time() -> None:
    """Each rung doubles the number of ways down: 2 ** 200 of them."""
    root = CancelToken()
    left, right = root.child(), root.child()
    rungs = [root, left, right]
    for _ in range(200):
        left, right = CancelToken.any(left, right), CancelToken.any(left, right)
        rungs += [left, right]
    root.cancel()

    assert all(token.cancelled for token in rungs)
    assert left.is_within(root)
    assert left.deadline is None


def test_never_cannot_be_cancelled_keeps_nothing_and_its_children_can() -> None:
    never = CancelToken.never()
    registration = never.on_cancel(print)
    child = never.child()
    never.close()

    assert never is CancelToken.never()
    for decide in (never.cancel, never.cancel_soon, lambda: never.cancel_after(1)):
        with pytest.raises(RuntimeError, match="never"):
            decide()
    assert not registration.unregister()
    assert 0 == never.stats().registrations == never.stats().children
    assert not never.wait(0)
    child.cancel()
    assert not never.cancelled


# Callbacks


def test_t_s2_callbacks_of_one_token_run_newest_first_and_those_of_inner_tokens_before() -> None:
    order: list[str] = []
    outer = CancelToken()
    inner = outer.child()
    for name, token in [("outer 1", outer), ("inner 1", inner), ("outer 2", outer), ("inner 2", inner)]:
        token.on_cancel(order.append, name)

    outer.cancel()

    assert ["inner 2", "inner 1", "outer 2", "outer 1"] == order


def test_t_s2_a_token_with_two_parents_is_called_once_and_after_its_own_children() -> None:
    order: list[str] = []
    root = CancelToken()
    middle = root.child()
    both = CancelToken.any(root, middle)
    child = both.child()
    for name, token in [("root", root), ("child", child), ("both", both)]:
        token.on_cancel(order.append, name)

    root.cancel()

    assert ["child", "both", "root"] == order


def test_t_s3_all_callbacks_run_and_then_one_group_is_raised() -> None:
    token = CancelToken()
    child = token.child()
    ran: list[int] = []

    def fail(error: BaseException) -> None:
        raise error

    errors = [ValueError("a"), SystemExit(3), StopIteration(), Cancelled()]
    for number, error in enumerate(errors):
        (token, child)[number % 2].on_cancel(fail, error)
        (token, child)[number % 2].on_cancel(ran.append, number)

    with pytest.raises(BaseExceptionGroup, match="callbacks of") as caught:
        token.cancel()

    assert {0, 1, 2, 3} == set(ran)
    assert {id(error) for error in errors} == {id(error) for error in caught.value.exceptions}
    assert token.reason is not None


def test_t_s3_a_keyboard_interrupt_out_of_a_callback_goes_on_as_itself() -> None:
    token = CancelToken()
    ran: list[int] = []
    interrupt, error = KeyboardInterrupt(), ValueError()

    def fail(error: BaseException) -> None:
        raise error

    token.on_cancel(ran.append, 1)
    token.on_cancel(fail, interrupt)
    token.on_cancel(fail, error)

    with pytest.raises(KeyboardInterrupt) as caught:
        token.cancel()

    assert [1] == ran
    assert interrupt is caught.value
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)
    assert (error,) == caught.value.__cause__.exceptions


@pytest.mark.parametrize("kinds", [[ValueError], [KeyboardInterrupt], [KeyboardInterrupt, ValueError]])
def test_t_s3_what_cancel_raises_keeps_nothing_alive(kinds: list[type[BaseException]]) -> None:
    """Its traceback holds the caller's variables; caught and dropped, it must go without a gc run."""

    class Thing:
        pass

    def fail(kind: type[BaseException]) -> None:
        raise kind

    def call() -> weakref.ref[Thing]:
        thing = Thing()
        token = CancelToken()
        for kind in kinds:
            token.on_cancel(fail, kind)
        try:
            token.cancel()
        except BaseException:
            return weakref.ref(thing)
        pytest.fail("it must raise")

    gc.disable()
    try:
        assert call()() is None
    finally:
        gc.enable()


def test_t_s3_cancel_and_report_raises_nothing_but_tells_the_hook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[BaseException | None] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.append(unraisable.exc_value))
    token = CancelToken()
    error = ValueError()

    def fail() -> None:
        raise error

    token.on_cancel(fail)

    assert token.cancel_and_report("enough")
    assert not token.cancel_and_report("again")
    assert [error] == reported


def test_t_s4_a_late_registration_runs_at_once_in_the_caller() -> None:
    token = CancelToken()
    token.cancel()
    threads: list[int] = []
    registration = token.on_cancel(lambda: threads.append(threading.get_ident()))

    assert [threading.get_ident()] == threads
    assert not registration.unregister()
    with pytest.raises(ZeroDivisionError):
        token.on_cancel(lambda: 1 / 0)
    assert 0 == token.stats().registrations


def test_t_s5_unregister_says_whether_it_was_in_time() -> None:
    token = CancelToken()
    ran: list[int] = []
    in_time, late = token.on_cancel(ran.append, 1), token.on_cancel(ran.append, 2)

    assert in_time.unregister()
    assert not in_time.unregister()
    assert "left" in repr(in_time)
    assert "registered" in repr(late)
    token.cancel()
    assert [2] == ran
    assert not late.unregister()


def test_t_s5_leaving_the_block_takes_the_callback_back() -> None:
    token = CancelToken()
    ran: list[int] = []
    with token.on_cancel(ran.append, 1):
        assert 1 == token.stats().registrations

    token.cancel()

    assert [] == ran


def test_t_s5_close_returns_only_when_the_callback_has_ended() -> None:
    token = CancelToken()
    begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def slow() -> None:
        begun.set()
        may_end.wait()
        order.append("callback ended")

    registration = token.on_cancel(slow)

    def close() -> None:
        registration.close()
        order.append("close returned")

    canceller = run_in_thread(token.cancel)
    begun.wait()
    assert not registration.unregister()  # never waits
    running = token._running
    assert running is not None
    running.closers = closers = Announcing()
    closer = run_in_thread(close)
    closers.appended.wait()
    may_end.set()
    closer.join()
    canceller.join()

    assert ["callback ended", "close returned"] == order


def test_t_s5_close_of_a_callback_that_has_ended_does_not_wait_for_the_next_one() -> None:
    token = CancelToken()
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        may_end.wait()

    token.on_cancel(slow)
    newest = token.on_cancel(int)
    canceller = run_in_thread(token.cancel)
    begun.wait()
    newest.close()
    may_end.set()
    canceller.join()


def test_t_s5_a_callback_that_closes_itself_does_not_wait() -> None:
    token = CancelToken()
    registrations: list[Registration] = []
    registrations.append(token.on_cancel(lambda: registrations[0].close()))

    assert token.cancel()


def test_t_s5_two_callbacks_that_close_each_other_do_not_deadlock() -> None:
    tokens = [CancelToken(), CancelToken()]
    both_run = threading.Barrier(2)
    registrations: list[Registration] = []

    def close_other(number: int) -> None:
        both_run.wait()
        registrations[1 - number].close()

    registrations += [token.on_cancel(close_other, number) for number, token in enumerate(tokens)]
    threads = [run_in_thread(token.cancel) for token in tokens]
    for thread in threads:
        thread.join()

    assert all(token.cancelled for token in tokens)


def test_t_s5_a_callback_may_take_back_one_that_has_not_run() -> None:
    """Entries are popped one at a time: a snapshot would run what was taken back in the meantime."""
    token = CancelToken()
    ran: list[str] = []
    older = token.on_cancel(ran.append, "older")
    answers: list[bool] = []
    token.on_cancel(lambda: answers.append(older.unregister()))

    token.cancel()

    assert [True] == answers
    assert [] == ran


def test_a_callback_may_register_and_cancel() -> None:
    token, other = CancelToken(), CancelToken()
    ran: list[str] = []
    other.on_cancel(ran.append, "other")
    token.on_cancel(ran.append, "older")
    token.on_cancel(lambda: (token.on_cancel(ran.append, "at once"), other.cancel(), token.cancel()))

    token.cancel()

    assert ["at once", "other", "older"] == ran


# Leaks


def test_t_s7_100_000_dropped_children_leave_nothing_without_a_gc_run() -> None:
    gc.disable()
    try:
        root = CancelToken()
        for _ in range(100_000):
            root.child()
            root.child().on_cancel(print).unregister()

        assert 0 == root.stats().children
        assert not root._held
    finally:
        gc.enable()


def test_t_s7_a_child_with_a_callback_is_kept_until_the_last_one_leaves() -> None:
    root = CancelToken()
    ran: list[int] = []
    grandchild = weakref.ref(token := root.child().child())
    first, second = token.on_cancel(ran.append, 1), token.on_cancel(ran.append, 2)
    del token
    gc.collect()

    assert 1 == root.stats().children
    assert first.unregister()
    del first
    gc.collect()
    assert grandchild() is not None
    assert second.unregister()
    del second
    assert grandchild() is None
    assert 0 == root.stats().children


def test_t_s7_a_pinned_child_that_nobody_holds_is_called_and_let_go() -> None:
    root = CancelToken()
    ran: list[int] = []
    root.child().child().on_cancel(ran.append, 1)
    gc.collect()

    root.cancel()

    assert [1] == ran
    assert 0 == root.stats().children
    assert not root._held


def test_t_s7_a_child_of_any_is_pinned_on_all_its_parents() -> None:
    first, second = CancelToken(), CancelToken()
    ran: list[int] = []
    registration = CancelToken.any(first, second).child().on_cancel(ran.append, 1)

    assert first._held
    assert second._held
    assert registration.unregister()
    assert not first._held
    assert not second._held


def test_t_s7_waiting_on_a_child_leaves_nothing_pinned() -> None:
    clock = ManualClock()
    root = CancelToken(clock=clock)
    child = root.child()
    registration = child.on_cancel(print)
    waiter = run_in_thread(lambda: child.wait(1))
    clock.wait_for_sleepers()
    assert registration.unregister()
    assert root._held  # the waiting thread is still on it
    child.cancel()
    waiter.join()

    assert not root._held


def test_a_closed_child_is_not_cancelled_by_its_parent_but_by_itself() -> None:
    root = CancelToken()
    ran: list[int] = []
    with root.child(timeout=1000) as child:
        grandchild = child.child()
        grandchild.on_cancel(ran.append, 1)
    child.close()
    grandchild.on_cancel(ran.append, 2)
    root.cancel()

    assert not child.cancelled
    assert child.deadline is None
    assert not root._held
    assert 0 == root.stats().children
    assert child.is_within(root)
    child.cancel()
    assert [2, 1] == ran


def test_closing_a_child_leaves_its_siblings_pins_alone() -> None:
    root = CancelToken()
    middle = root.child()
    first, second = middle.child(), middle.child()
    ran: list[int] = []
    for token in (first, second):
        token.on_cancel(ran.append, 1)
    first.close()

    assert middle in root._held
    second.close()
    assert not root._held


def test_t_s8_stats_count_and_the_debug_switch_says_where() -> None:
    token = CancelToken()
    with record_origins():
        child = token.child()
        registration = token.on_cancel(print)
    unrecorded = token.on_cancel(print)
    stats = token.stats()

    assert (1, 2, 0) == (stats.children, stats.registrations, stats.waiting)
    assert 2 == len(stats.origins)
    assert all(f"{__file__}:" in origin for origin in stats.origins)
    assert "test_t_s8" in stats.origins[0]
    registration.close()
    unrecorded.close()
    child.close()
    assert (0, 0, ()) == (token.stats().children, token.stats().registrations, token.stats().origins)


# Reasons


def test_t_s9_the_first_reason_wins_and_at_most_eight_later_ones_are_kept() -> None:
    token = CancelToken()

    assert token.cancel("first")
    for number in range(20):
        assert not token.cancel(f"later {number}")
    assert token.reason is not None
    assert "first" == token.reason.message
    assert [f"later {number}" for number in range(8)] == [reason.message for reason in token.later_reasons]


def test_t_s9_a_child_says_parent_and_links_the_reason_that_began_it() -> None:
    root = CancelToken()
    child = root.child()
    grandchild = child.child()
    root.cancel("enough")

    for token in (child, grandchild):
        assert token.reason is not None
        assert ("parent", "enough") == (token.reason.kind, token.reason.message)
        assert token.reason.cause is root.reason


def test_t_s9_a_reason_is_the_same_object_each_time() -> None:
    token = CancelToken()
    token.cancel("first")
    token.cancel("later")
    child = token.child()

    assert token.reason is not None
    assert token.reason is token.reason
    assert token.later_reasons[0] is token.later_reasons[0]
    assert child.reason is not None
    assert token.reason is child.reason.cause


def test_t_s9_a_child_cancelled_before_keeps_its_own_reason() -> None:
    root = CancelToken()
    child = root.child()
    child.cancel("mine")
    root.cancel("all")

    assert child.reason is not None
    assert "mine" == child.reason.message
    assert ["parent"] == [reason.kind for reason in child.later_reasons]


def test_t_s9_the_same_reason_given_twice_is_won_once() -> None:
    token = CancelToken()
    reason = CancelReason("shutdown")

    assert [True, False] == [token.cancel(reason), token.cancel(reason)]


def test_t_s10_a_losing_cancel_marks_the_tree_and_waits_for_no_callback() -> None:
    token = CancelToken()
    child = token.child()
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        may_end.wait()

    token.on_cancel(slow)
    winner = run_in_thread(token.cancel)
    begun.wait()

    assert not token.cancel()
    assert child.cancelled
    may_end.set()
    winner.join()


def test_t_s10_a_losing_cancel_does_not_stop_at_a_walk_that_has_not_ended() -> None:
    """The state that a winner leaves between its claim and its walk, made by hand."""
    root = CancelToken()
    child = root.child()
    grandchild = child.child()
    ran: list[int] = []
    grandchild.on_cancel(ran.append, 1)
    winner = root._cancellation("first")
    root._claims.append(winner.claim)
    root.cancelled = child.cancelled = True  # type: ignore[misc]  # read-only for users
    child._claims.append(CancelReason("parent", cause=reason_of(winner.claim)))

    assert not root.cancel("second")
    assert grandchild.cancelled
    assert [] == ran
    winner.flag()  # the winner comes to a tree that is marked already, and still knows what is its own to run
    winner.run()
    assert [1] == ran


def test_t_s4_a_late_callback_waits_for_the_flags_of_the_whole_tree() -> None:
    """Between a winner's claim and its walk, again: nobody's callback may run beside an unflagged descendant."""
    root = CancelToken()
    child, sibling = root.child(), root.child()
    winner = root._cancellation("first")
    root._claims.append(winner.claim)
    root.cancelled = child.cancelled = True  # type: ignore[misc]  # read-only for users
    child._claims.append(CancelReason("parent", cause=reason_of(winner.claim)))
    seen: list[bool] = []

    child.on_cancel(lambda: seen.append(sibling.cancelled))

    assert [True] == seen


# Waiting


def test_wait_returns_as_soon_as_the_token_is_cancelled() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    answers: list[bool] = []
    waiter = run_in_thread(lambda: answers.append(token.child().wait(1)))
    clock.wait_for_sleepers()
    token.cancel()
    waiter.join()

    assert [True] == answers
    assert token.wait()
    assert 0 == token.stats().waiting


def test_wait_and_sleep_give_up_by_the_tokens_clock() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    done: list[object] = []
    first_is_over = threading.Event()

    def sleeper() -> None:
        done.append(token.child().wait(5))
        first_is_over.set()
        token.sleep(5)
        done.append("slept")

    thread = run_in_thread(sleeper)
    clock.wait_for_sleepers()
    clock.advance(5)
    first_is_over.wait()
    clock.wait_for_sleepers()
    clock.advance(5)
    thread.join()

    assert [False, "slept"] == done


def test_sleep_raises_as_soon_as_the_token_is_cancelled() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    caught: list[BaseException] = []

    def sleeper() -> None:
        try:
            token.sleep(5)
        except Cancelled as exc:
            caught.append(exc)

    thread = run_in_thread(sleeper)
    clock.wait_for_sleepers()
    token.cancel("enough")
    thread.join()

    assert ["enough (user)"] == [str(exc) for exc in caught]
    assert not CancelToken().wait(0)
    CancelToken().sleep(0)


def test_all_waiting_threads_are_woken_where_nothing_else_is_to_be_done() -> None:
    clock = ManualClock()
    root = CancelToken(clock=clock)
    token = root.child()
    answers: list[bool] = []
    waiters = [run_in_thread(lambda: answers.append(token.wait(1))) for _ in range(3)]
    clock.wait_for_sleepers(3)
    assert 3 == token.stats().waiting

    assert token.cancel("enough")
    assert not token.cancel("again")
    for waiter in waiters:
        waiter.join()

    assert [True] * 3 == answers
    assert token.reason is not None
    assert "enough" == token.reason.message
    assert 0 == token.stats().waiting
    assert not root.cancelled


def test_waiting_threads_are_woken_before_callbacks_run() -> None:
    clock = ManualClock()
    token = CancelToken(clock=clock)
    woken = threading.Event()

    def wait() -> None:
        token.wait(1)
        woken.set()

    waiter = run_in_thread(wait)
    clock.wait_for_sleepers()
    assert 1 == token.stats().waiting
    token.on_cancel(woken.wait)

    token.cancel()
    waiter.join()


def test_t_s17_the_iteration_guard_takes_nothing_that_it_drops() -> None:
    token = CancelToken()
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    received = []

    def consume() -> None:
        for number in token.iter(source()):
            received.append(number)
            if number == 3:
                token.cancel()

    with pytest.raises(Cancelled):
        consume()

    assert [0, 1, 2, 3] == received == taken
    assert [0, 1, 2] == list(CancelToken().iter(range(3)))


def test_t_s17_the_asynchronous_guard_takes_nothing_that_it_drops() -> None:
    token = CancelToken()
    taken: list[int] = []
    received: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    async def consume(items: AsyncIterator[int]) -> None:
        async for number in token.aiter(items):
            received.append(number)
            if number == 3:
                token.cancel()

    async def main() -> None:
        items = source()
        with pytest.raises(Cancelled):
            await consume(items)
        assert [0, 1, 2, 3] == received == taken
        rest = [number async for number in CancelToken().aiter(items)]
        assert [4, 5, 6, 7, 8, 9] == rest

    asyncio.run(main())


def test_t_s13_callbacks_run_in_the_thread_that_cancels() -> None:
    """What a binding to an event loop builds on: it gets here, and goes on through the loop's own entry."""
    token = CancelToken()
    threads: list[int] = []
    token.on_cancel(lambda: threads.append(threading.get_ident()))
    canceller = run_in_thread(token.cancel)
    ident = canceller.ident
    canceller.join()

    assert [ident] == threads


def test_t_s16_nothing_shields_and_work_that_must_finish_has_a_token_of_its_own() -> None:
    token = CancelToken()
    clean_up = CancelToken(timeout=1000)
    token.cancel()

    assert token.cancelled
    assert not clean_up.cancelled


def test_t_s15_a_result_that_is_there_is_not_thrown_away() -> None:
    """The guard hands out an item that was taken before the stop, and stops before the next."""
    token = CancelToken()

    def source() -> Iterator[str]:
        token.cancel()
        yield "finished"

    guarded = token.iter(source())

    assert "finished" == next(guarded)
    with pytest.raises(Cancelled):
        next(guarded)
