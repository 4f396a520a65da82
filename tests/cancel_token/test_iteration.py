import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from cancel_token import Cancelled, CancelToken


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
