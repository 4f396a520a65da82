import gc
import weakref

from cancel_token import CancelToken
from cancel_token.testing import ManualClock
from tests.cancel_token.threads import run_in_thread


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
