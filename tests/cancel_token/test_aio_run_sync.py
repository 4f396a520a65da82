"""Blocking work of tasks, in threads of its own; each test runs on trio and on asyncio."""

import asyncio
import contextvars
import socket
import threading
import weakref
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio

from cancel_token import Cancelled, CancelReason, CancelToken
from cancel_token.aio import fail_on_cancel, move_on_cancel, run_sync
from cancel_token.sockets import shutdown_on_cancel
from tests.cancel_token.loops import everywhere, on_each_runtime


class Work:
    """Blocking work that says that it has begun, and obeys its token or not."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.may_end = threading.Event()
        self.tokens: list[CancelToken] = []

    def _begin(self, begun: Callable[[], object], token: CancelToken) -> None:
        self.tokens.append(token)
        begun()

    def obedient(self, begun: Callable[[], object], *, token: CancelToken) -> str:
        self._begin(begun, token)
        token.sleep(60)
        return "never stopped"

    def stubborn(self, begun: Callable[[], object], *, token: CancelToken) -> str:
        """Takes the stop, and then finishes as if nothing had been."""
        self._begin(begun, token)
        token.wait()
        self.may_end.wait()
        return "finished"

    def failing(self, begun: Callable[[], object], *, token: CancelToken) -> str:
        self._begin(begun, token)
        token.wait()
        raise ValueError("in the clean-up")

    @property
    def reason(self) -> CancelReason | None:
        return self.tokens[0].reason


def from_thread(fn: Callable[[], None]) -> Callable[[], object]:
    """A function for another thread, which calls `fn` in the loop's."""
    if sniffio.current_async_library() == "trio":
        entry = trio.lowlevel.current_trio_token()
        return lambda: entry.run_sync_soon(fn)
    loop = asyncio.get_running_loop()
    return lambda: loop.call_soon_threadsafe(fn)


def note(calls: list[CancelToken], *, token: CancelToken) -> None:
    calls.append(token)


# A normal end


@on_each_runtime
async def test_it_returns_what_the_function_returns() -> None:
    token = CancelToken()

    def add(left: int, right: int, *, token: CancelToken) -> int:
        return left + right

    assert 5 == await run_sync(add, 2, right=3, token=token)
    assert (0, 0) == (token.stats().children, token.stats().registrations)
    assert not token.cancelled


@on_each_runtime
async def test_it_raises_what_the_function_raises() -> None:
    token = CancelToken()
    error = LookupError("of the work")

    def fail(*, token: CancelToken) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        await run_sync(fail, token=token)

    assert caught.value is error
    assert not token.cancelled
    assert 0 == token.stats().children


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@on_each_runtime
async def test_what_is_no_exception_crosses_too(kind: type[BaseException]) -> None:
    def fail(*, token: CancelToken) -> None:
        raise kind

    async def work() -> None:
        try:
            await run_sync(fail, token=CancelToken())
        except BaseException as error:  # asyncio would let two of them out of its loop
            caught.append(type(error))

    caught: list[type[BaseException]] = []
    await work()

    assert [kind] == caught


@on_each_runtime
async def test_the_function_gets_a_child_in_a_thread_of_its_own() -> None:
    token = CancelToken(name="the caller's")

    def look(*, token: CancelToken) -> tuple[CancelToken, threading.Thread]:
        return token, threading.current_thread()

    child, thread = await run_sync(look, token=token)
    other_thread = (await run_sync(look, token=token))[1]

    assert child is not token
    assert child.is_within(token)
    assert not child.cancelled
    assert thread is not threading.main_thread()
    assert thread is not other_thread
    assert not thread.is_alive()


@on_each_runtime
async def test_a_function_without_a_token_is_called_as_it_is() -> None:
    assert "a-b" == await run_sync("-".join, ["a", "b"])


@on_each_runtime
async def test_only_a_cancel_token_is_replaced() -> None:
    def log_in(user: str, *, token: str | None) -> tuple[str, str | None]:
        return user, token

    assert ("me", "secret") == await run_sync(log_in, "me", token="secret")
    assert ("me", None) == await run_sync(log_in, "me", token=None)


@on_each_runtime
async def test_the_work_sees_the_callers_context_and_keeps_its_changes_to_itself() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("the caller's")

    def look(*, token: CancelToken) -> str:
        seen = variable.get()
        variable.set("the thread's")
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()
        return seen

    assert "the caller's" == await run_sync(look, token=CancelToken())
    assert "the caller's" == variable.get()


@on_each_runtime
async def test_as_many_run_side_by_side_as_are_asked_for() -> None:
    """Not anyio's default pool: more than its forty threads meet at one barrier."""
    together = threading.Barrier(60)

    def meet(*, token: CancelToken) -> None:
        together.wait()

    async def call() -> None:
        await run_sync(meet, token=CancelToken.never())
        met.append(1)

    met: list[int] = []
    async with anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(call)

    assert 60 == len(met)


# The token is cancelled


@everywhere
@on_each_runtime
async def test_cancelling_the_token_stops_the_work(
    cancel_somewhere: Callable[[CancelToken], Callable[[], None]],
) -> None:
    token = CancelToken()
    work = Work()
    caught = []

    async def call() -> None:
        try:
            await run_sync(work.obedient, from_thread(work.begun.set), token=token)
        except Cancelled as error:
            caught.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        clean_up = cancel_somewhere(token)
    clean_up()

    assert [token.reason] == [error.reason and error.reason.cause for error in caught]
    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
async def test_a_cancelled_token_starts_no_thread() -> None:
    token = CancelToken()
    token.cancel("early")
    called: list[CancelToken] = []
    with pytest.raises(Cancelled) as caught:
        await run_sync(note, called, token=token)

    assert [] == called
    assert caught.value.token is token


@on_each_runtime
async def test_a_task_cancelled_before_starts_no_thread() -> None:
    called: list[CancelToken] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_sync(note, called, token=CancelToken())

    assert scope.cancelled_caught
    assert [] == called


@on_each_runtime
async def test_the_work_may_finish_although_the_token_is_cancelled() -> None:
    """T-S15"""
    token = CancelToken()
    work = Work()
    results = []

    async def call() -> None:
        results.append(await run_sync(work.stubborn, from_thread(work.begun.set), token=token))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        token.cancel()
        work.may_end.set()

    assert ["finished"] == results


# The runtime cancels the task


@on_each_runtime
async def test_the_runtimes_cancellation_stops_the_work_and_goes_on() -> None:
    """T-A2, and it is never turned into ours, nor does it reach the caller's token."""
    token = CancelToken()
    work = Work()
    kinds = []

    async def call() -> None:
        try:
            await run_sync(work.obedient, from_thread(work.begun.set), token=token)
        except BaseException as error:
            kinds.append(type(error))
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        group.cancel_scope.cancel()

    assert [anyio.get_cancelled_exc_class()] == kinds
    assert work.reason is not None
    assert "runtime" == work.reason.kind
    assert not token.cancelled
    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
async def test_the_thread_is_waited_for_before_the_cancellation_goes_on() -> None:
    work = Work()
    steps = []

    async def call() -> None:
        result = await run_sync(work.stubborn, from_thread(work.begun.set), token=CancelToken())
        steps.append(result)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        steps.append("still waiting")
        work.may_end.set()

    assert ["still waiting", "finished"] == steps  # T-S15, and the cancellation came at the next wait


@on_each_runtime
async def test_an_error_of_the_work_survives_the_cancellation() -> None:
    work = Work()

    async def call() -> None:
        try:
            await run_sync(work.failing, from_thread(work.begun.set), token=CancelToken())
        except ValueError as error:
            errors.append(str(error))

    errors: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        group.cancel_scope.cancel()

    assert ["in the clean-up"] == errors


@on_each_runtime
async def test_a_raising_callback_of_the_child_does_not_break_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child is cancelled in the loop's own innards; T-S3 sends the error to the hook."""
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(str(report.exc_value)))
    begun = anyio.Event()

    def work(begun: Callable[[], object], *, token: CancelToken) -> None:
        def fail() -> None:
            raise ValueError("of the callback")

        with token.on_cancel(fail):
            begun()
            token.sleep(60)

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_sync(work, from_thread(begun.set), token=CancelToken()))
        await begun.wait()
        group.cancel_scope.cancel()

    assert ["of the callback"] == reported


@on_each_runtime
async def test_a_timeout_stops_a_blocked_read() -> None:
    ours, theirs = socket.socketpair()

    def read(*, token: CancelToken) -> bytes:
        with shutdown_on_cancel(ours, token):
            data = ours.recv(1)
        token.check()
        return data

    with ours, theirs:
        with anyio.move_on_after(0.001) as scope:
            await run_sync(read, token=CancelToken.never())

        assert scope.cancelled_caught
        assert b"" == theirs.recv(1)


@on_each_runtime
async def test_work_stopped_by_another_token_says_so_even_when_cancelled() -> None:
    other = CancelToken()
    other.cancel("somebody else's")
    begun = anyio.Event()

    def work(begun: Callable[[], object], *, token: CancelToken) -> None:
        begun()
        token.wait()
        other.check()

    async def call() -> None:
        try:
            await run_sync(work, from_thread(begun.set), token=CancelToken())
        except Cancelled as error:
            caught.append(error.token)

    caught: list[CancelToken | None] = []
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await begun.wait()
        group.cancel_scope.cancel()

    assert [other] == caught


# With scopes


@on_each_runtime
async def test_a_scope_of_the_same_token_ends_the_work_and_the_block() -> None:
    token = CancelToken()
    work = Work()

    async def call() -> None:
        with move_on_cancel(token) as scope:
            await run_sync(work.obedient, from_thread(work.begun.set), token=token)
        caught.append(scope.cancelled_caught)
        with pytest.raises(Cancelled), fail_on_cancel(token):
            await run_sync(work.obedient, from_thread(work.begun.set), token=token)

    caught: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        token.cancel()

    assert [True] == caught
    assert 1 == len(work.tokens)
    assert work.reason is not None
    assert "parent" == work.reason.kind
    assert (0, 0) == (token.stats().children, token.stats().registrations)


@on_each_runtime
async def test_a_result_is_kept_when_a_scope_is_cancelled_while_the_work_finishes() -> None:
    """T-S15: the same on both runtimes, though asyncio has thrown an exception at the waiting task."""
    token = CancelToken()
    work = Work()

    async def call() -> None:
        with move_on_cancel(token):
            results.append(await run_sync(work.stubborn, from_thread(work.begun.set), token=token))
            await anyio.sleep_forever()
        results.append("moved on")

    results: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await work.begun.wait()
        token.cancel()
        await anyio.wait_all_tasks_blocked()
        work.may_end.set()

    assert ["finished", "moved on"] == results


# Nothing is left


@on_each_runtime
async def test_an_error_leaves_no_circle_behind(without_gc: None) -> None:
    class Big:
        pass

    def fail(big: Big, *, token: CancelToken) -> None:
        raise ValueError

    big = Big()
    seen = weakref.ref(big)
    try:
        await run_sync(fail, big, token=CancelToken())
    except ValueError:
        pass
    del big

    assert seen() is None


@on_each_runtime
async def test_a_cancellation_leaves_no_circle_behind(without_gc: None) -> None:
    class Big:
        pass

    def work(big: Big, begun: Callable[[], object], *, token: CancelToken) -> None:
        begun()
        token.sleep(60)

    big = Big()
    seen = weakref.ref(big)
    with anyio.CancelScope() as scope:
        await run_sync(work, big, from_thread(scope.cancel), token=CancelToken())
    assert scope.cancelled_caught
    del big

    assert seen() is None


@on_each_runtime
async def test_a_thread_that_cannot_be_started_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    token = CancelToken()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        await run_sync(note, [], token=token)

    assert 0 == token.stats().children
    await anyio.lowlevel.checkpoint()
