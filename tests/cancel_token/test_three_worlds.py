"""What holds alike for code that blocks, on trio and on asyncio: one test, three ids."""

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

import anyio
import attrs
import pytest

import cancel_token
import cancel_token.aio
from cancel_token import Cancelled, CancelReason, CancelToken
from tests.cancel_token.loops import run_on


@attrs.frozen
class Left:
    """How a scope was left."""

    finished: bool
    cancelled_caught: bool


class World(ABC):
    """One way to wait."""

    @abstractmethod
    def wait_in_scope(self, scoped: CancelToken, waiting: CancelToken, begun: Callable[[], object]) -> Left:
        """In a `move_on_cancel` of `scoped`: call `begun`, then wait under `waiting`."""

    @abstractmethod
    def run_in_scope(self, token: CancelToken, work: Callable[[], object]) -> Left:
        """In a `move_on_cancel`: do `work`, which waits for nothing."""

    @abstractmethod
    def wait_cancelled(self, token: CancelToken, begun: Callable[[], object]) -> CancelReason | None: ...

    @abstractmethod
    def take(self, token: CancelToken, items: Sequence[int], after: Callable[[int], object]) -> list[int]:
        """In a `move_on_cancel`: iterate under the token's guard, calling `after` for each item."""


class Threads(World):
    def wait_in_scope(self, scoped: CancelToken, waiting: CancelToken, begun: Callable[[], object]) -> Left:
        finished = False
        with cancel_token.move_on_cancel(scoped) as scope:
            begun()
            waiting.sleep(60)
            finished = True
        return Left(finished, scope.cancelled_caught)

    def run_in_scope(self, token: CancelToken, work: Callable[[], object]) -> Left:
        finished = False
        with cancel_token.move_on_cancel(token) as scope:
            work()
            finished = True
        return Left(finished, scope.cancelled_caught)

    def wait_cancelled(self, token: CancelToken, begun: Callable[[], object]) -> CancelReason | None:
        begun()
        assert token.wait()
        return token.reason

    def take(self, token: CancelToken, items: Sequence[int], after: Callable[[int], object]) -> list[int]:
        taken = []

        def take() -> Iterator[int]:
            for item in items:
                taken.append(item)
                yield item

        with cancel_token.move_on_cancel(token):
            for item in token.iter(take()):
                after(item)
        return taken


class Loop(World):
    def __init__(self, runtime: str) -> None:
        self._runtime = runtime

    def wait_in_scope(self, scoped: CancelToken, waiting: CancelToken, begun: Callable[[], object]) -> Left:
        left = []

        async def main() -> None:
            finished = False
            with cancel_token.aio.move_on_cancel(scoped) as scope:
                begun()
                with cancel_token.aio.fail_on_cancel(waiting):
                    await anyio.sleep(60)
                finished = True
            left.append(Left(finished, scope.cancelled_caught))

        run_on(self._runtime, main)
        return left[0]

    def run_in_scope(self, token: CancelToken, work: Callable[[], object]) -> Left:
        left = []

        async def main() -> None:
            finished = False
            with cancel_token.aio.move_on_cancel(token) as scope:
                work()
                finished = True
            left.append(Left(finished, scope.cancelled_caught))

        run_on(self._runtime, main)
        return left[0]

    def wait_cancelled(self, token: CancelToken, begun: Callable[[], object]) -> CancelReason | None:
        reasons = []

        async def main() -> None:
            begun()
            reasons.append(await cancel_token.aio.wait_cancelled(token))

        run_on(self._runtime, main)
        return reasons[0]

    def take(self, token: CancelToken, items: Sequence[int], after: Callable[[int], object]) -> list[int]:
        taken = []

        async def take() -> AsyncGenerator[int, None]:
            for item in items:
                taken.append(item)
                yield item

        async def main() -> None:
            # trio warns of an async generator that is left early, whoever leaves it.
            async with aclosing(take()) as source:
                with cancel_token.aio.move_on_cancel(token):
                    async for item in token.aiter(source):
                        after(item)

        run_on(self._runtime, main)
        return taken


@pytest.fixture(params=["threads", "trio", "asyncio"])
def world(request: pytest.FixtureRequest) -> World:
    return Threads() if request.param == "threads" else Loop(request.param)


@pytest.fixture
def in_a_thread() -> Iterator[Callable[[Callable[[], object]], None]]:
    threads = []

    def start(fn: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=fn))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


InAThread = Callable[[Callable[[], object]], None]


def test_a_scope_ends_with_its_token(world: World, in_a_thread: InAThread) -> None:
    token = CancelToken()

    assert Left(finished=False, cancelled_caught=True) == world.wait_in_scope(
        token, token, lambda: in_a_thread(token.cancel)
    )
    assert (0, 0) == (token.stats().registrations, token.stats().waiting)


def test_a_scope_ends_with_a_child_of_its_token(world: World, in_a_thread: InAThread) -> None:
    token = CancelToken()
    child = token.child()

    assert Left(finished=False, cancelled_caught=True) == world.wait_in_scope(
        token, child, lambda: in_a_thread(token.cancel)
    )


def test_a_scope_of_a_parent_takes_its_childs_own_stop(world: World, in_a_thread: InAThread) -> None:
    token = CancelToken()
    child = token.child()

    assert Left(finished=False, cancelled_caught=True) == world.wait_in_scope(
        token, child, lambda: in_a_thread(child.cancel)
    )
    assert not token.cancelled


def test_another_tokens_stop_passes_a_scope(world: World, in_a_thread: InAThread) -> None:
    token, other = CancelToken(), CancelToken()
    with pytest.raises(Cancelled) as caught:
        world.wait_in_scope(token, other, lambda: in_a_thread(other.cancel))

    assert caught.value.token is other


def test_a_deadline_ends_a_scope(world: World) -> None:
    token = CancelToken(timeout=0.001)

    assert Left(finished=False, cancelled_caught=True) == world.wait_in_scope(token, token, lambda: None)


def test_work_that_finishes_although_the_token_is_cancelled_has_finished(world: World) -> None:
    """T-S15"""
    token = CancelToken()

    assert Left(finished=True, cancelled_caught=False) == world.run_in_scope(token, token.cancel)


def test_a_check_ends_a_scope(world: World) -> None:
    token = CancelToken()
    token.cancel()

    assert Left(finished=False, cancelled_caught=True) == world.run_in_scope(token, token.check)


def test_an_error_passes_a_scope(world: World) -> None:
    def fail() -> None:
        raise ValueError("of the work")

    token = CancelToken()
    with pytest.raises(ValueError, match="of the work"):
        world.run_in_scope(token, fail)

    assert not token.cancelled


def test_waiting_for_a_stop_ends_with_it(world: World, in_a_thread: InAThread) -> None:
    token = CancelToken()
    reason = CancelReason("shutdown", "the program leaves", at=1.0)

    assert reason == world.wait_cancelled(token, lambda: in_a_thread(lambda: token.cancel(reason)))
    assert (0, 0) == (token.stats().registrations, token.stats().waiting)


def test_a_guard_takes_no_item_after_the_stop(world: World) -> None:
    """T-S17"""
    token = CancelToken()

    def stop_at_two(item: int) -> None:
        if item == 2:
            token.cancel()

    assert [0, 1, 2] == world.take(token, range(5), stop_at_two)


def test_a_guard_of_a_cancelled_token_takes_nothing(world: World) -> None:
    token = CancelToken()
    token.cancel()

    assert [] == world.take(token, range(5), lambda _: None)
