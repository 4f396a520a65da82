"""Blocking code: the attempt is a coroutine that never waits, so its first step is its last."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from cancel_token.testing._outcomes import Outcome
from cancel_token.testing._runtime import NeedsLoop, Runtime, within

T = TypeVar("T")


class BlockingRuntime(Runtime):
    """Calls everything where it is."""

    def run(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        coroutine = attempt()
        try:
            coroutine.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        else:
            _refuse(coroutine)

    async def finish(self, value: object) -> Any:
        if inspect.iscoroutine(value):
            _refuse(value)
        return value

    async def work(self, call: Callable[[], object]) -> Outcome:
        seconds = self.limits.seconds
        if seconds is None:
            return self._call(call)
        return within(self.limits, seconds, lambda: self._call(call), self._free)

    def _free(self, place: str) -> None:
        self.hung, self.stood = True, place
        self.recording.open = False  # what it does from here on counts for nothing
        self.token.cancel_soon("the attempt hangs")

    def _call(self, call: Callable[[], object]) -> Outcome:
        try:
            with self.recording.running():
                self.recording.main.reach("before", None, 0)
                value = call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self.outcome_of(error)
        if inspect.iscoroutine(value):
            _refuse(value)
        return Outcome(kind="returned", value=value)


def _refuse(coroutine: Coroutine[Any, Any, object]) -> NoReturn:
    coroutine.close()
    raise NeedsLoop
