"""An asyncio toy for explorers of cancellation, and what is easily got wrong in it.

A `Turn` takes items that are handed to it, one after the other, and keeps each. However it ends, every item is either
with its source or kept, nothing it has begun is left, and another turn works.
"""

import asyncio

ITEMS = 8


class Turn:
    """One good turn. Its faulty twins below change one method each."""

    def __init__(self) -> None:
        self.source = list(range(ITEMS))
        self.kept: list[int] = []
        self.busy = False
        self.door = asyncio.Lock()
        self.clock: asyncio.Task[None] | None = None

    async def run(self) -> None:
        async with self.door:
            self.busy = True
            self.clock = asyncio.create_task(self.tick())
            try:
                while self.source:
                    await self.take()
            finally:
                self.clock.cancel()
                self.busy = False

    async def take(self) -> None:
        handed = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self.hand, handed)
        try:
            self.kept.append(await handed)
        except asyncio.CancelledError:
            if not handed.cancelled():  # it had come, and the stop at the same time
                self.kept.append(handed.result())
            raise

    def hand(self, handed: asyncio.Future[int]) -> None:
        if not handed.cancelled():
            handed.set_result(self.source.pop())

    async def tick(self) -> None:
        await asyncio.Event().wait()


def judge(turn: Turn, end: BaseException | None) -> None:
    """The oracle.

    Args:
        turn: After its end.
        end: What it raised; None if it returned.
    """
    assert end is None or isinstance(end, asyncio.CancelledError), f"a stop is no {type(end).__name__}"
    assert end is not None or not turn.source, "it says that it is done"
    assert sorted(turn.source + turn.kept) == list(range(ITEMS)), "an item is lost"
    assert not turn.busy, "it is busy for ever"
    assert turn.clock is None or turn.clock.done() or turn.clock.cancelling(), "a task is left"


async def again(turn: Turn) -> None:
    """Another turn of the same must work."""
    await turn.run()
    assert not turn.source


class LosesAnItemOnItsWay(Turn):
    async def take(self) -> None:
        item = self.source.pop()
        await asyncio.sleep(0)
        self.kept.append(item)


class LosesAnItemAtTheInstantOfCompletion(Turn):
    async def take(self) -> None:
        handed = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self.hand, handed)
        self.kept.append(await handed)


class LosesAnItemInAChild(Turn):
    async def take(self) -> None:
        async def carry() -> None:
            await asyncio.sleep(0)
            item = self.source.pop()
            await asyncio.sleep(0)
            self.kept.append(item)

        await asyncio.create_task(carry())


class StaysBusy(Turn):
    async def run(self) -> None:
        async with self.door:
            self.busy = True
            while self.source:
                await self.take()
            self.busy = False


class CleansUpWithAWait(Turn):
    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self.busy = True
            await asyncio.sleep(0)
            self.busy = False


class SwallowsTheStop(Turn):
    async def run(self) -> None:
        try:
            await super().run()
        except asyncio.CancelledError:
            pass


class SaysThatItFailed(Turn):
    async def run(self) -> None:
        try:
            await super().run()
        except asyncio.CancelledError as stop:
            raise RuntimeError("failed") from stop


class LeavesATask(Turn):
    async def run(self) -> None:
        self.clock = asyncio.create_task(self.tick())
        while self.source:
            await self.take()
        self.clock.cancel()


class KeepsTheDoorShut(Turn):
    async def run(self) -> None:
        await self.door.acquire()
        while self.source:
            await self.take()
        self.door.release()


class WaitsForWhatNeverComes(Turn):
    async def run(self) -> None:
        try:
            await super().run()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
            raise


class GoesOnForLong(Turn):
    async def take(self) -> None:
        try:
            await super().take()
        except asyncio.CancelledError:
            for _ in range(100):
                await asyncio.sleep(0)
            raise


FAULTS: tuple[type[Turn], ...] = (
    LosesAnItemOnItsWay,
    LosesAnItemAtTheInstantOfCompletion,
    LosesAnItemInAChild,
    StaysBusy,
    CleansUpWithAWait,
    SwallowsTheStop,
    SaysThatItFailed,
    LeavesATask,
    KeepsTheDoorShut,
    WaitsForWhatNeverComes,
    GoesOnForLong,
)
