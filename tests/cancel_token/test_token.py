import threading
import weakref
from collections.abc import Iterator

import pytest

from cancel_token import Cancelled, CancelReason, CancelToken
from cancel_token._cancellation import reason_of
from cancel_token.testing import ManualClock
from tests.cancel_token.threads import run_in_thread

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
