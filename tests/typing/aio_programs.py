"""What users of `cancel_token.aio` write, for the type checker alone: nothing here is ever run."""

from typing import assert_type

from cancel_token import CancelReason, CancelToken
from cancel_token.aio import fail_on_cancel, move_on_cancel, run_sync, wait_cancelled
from cancel_token.http import Session


def fetch(url: str, retries: int = 3, *, token: CancelToken) -> bytes:
    raise NotImplementedError


def may_obey(url: str, *, token: CancelToken | None = None) -> str:
    raise NotImplementedError


def logs_in(user: str, *, token: str) -> bool:
    raise NotImplementedError


async def ends(token: CancelToken) -> bool:
    with move_on_cancel(token) as scope:
        assert_type(scope.token, CancelToken)
        assert_type(scope.cancel_called, bool)
    return scope.cancelled_caught  # reachable: the scope may swallow


async def fails(token: CancelToken) -> int:
    with fail_on_cancel(token) as scope:
        assert_type(scope.cancelled_caught, bool)
        return 1  # and no return is missed behind the block: it never swallows


async def waits(token: CancelToken) -> None:
    assert_type(await wait_cancelled(token), CancelReason)


async def blocks(token: CancelToken, session: Session) -> None:
    assert_type(await run_sync(fetch, "url", token=token), bytes)
    assert_type(await run_sync(fetch, "url", retries=1, token=token), bytes)
    assert_type(await run_sync(may_obey, "url", token=token), str)
    assert_type(await run_sync(may_obey, "url"), str)
    assert_type(await run_sync(len, "url"), int)
    assert_type(await run_sync(logs_in, "me", token="secret"), bool)
    await run_sync(fetch, "url")  # type: ignore[call-arg]  # it needs a token
    await run_sync(fetch, 1, token=token)  # type: ignore[arg-type]  # arguments are checked against the function
    await run_sync(len, "url", token=token)  # type: ignore[call-arg]  # it takes no token
