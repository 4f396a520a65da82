"""Iteration that asks a token before it takes each item (T-S17)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from cancel_token._token import CancelToken

T = TypeVar("T")


def checked(token: CancelToken, iterable: Iterable[T]) -> Iterator[T]:
    """The items, each taken only while the token is not cancelled."""
    token.check()
    for item in iterable:
        yield item
        token.check()


class CheckedAsyncIterator(AsyncIterator[T]):
    """The same of an asynchronous iterable.

    A class and not an async generator: there is nothing to finalize when the caller breaks out.
    """

    __slots__ = ("_items", "_token")

    def __init__(self, token: CancelToken, aiterable: AsyncIterable[T]) -> None:
        self._token = token
        self._items: Any = aiter(aiterable)

    async def __anext__(self) -> T:
        self._token.check()
        item: T = await anext(self._items)
        return item
