"""What hangs on a token, counted (T-S8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from cancel_token._cancellation import WAITING
from cancel_token._origins import known_origins
from cancel_token._registration import Registration

if TYPE_CHECKING:
    from cancel_token._token import CancelToken


@attrs.frozen(kw_only=True)
class TokenStats:
    """What hangs on one token, to find listeners that were forgotten (T-S8).

    Args:
        children: Children that are alive and not closed.
        registrations: Callbacks that neither ran nor left.
        waiting: Threads inside `wait()` or `sleep()`, tasks inside a scope or a wait of `cancel_token.aio`.
        origins: Where each registration and child was made, while `record_origins()` was in force.
    """

    children: int
    registrations: int
    waiting: int
    origins: tuple[str, ...] = ()


def stats_of(token: CancelToken) -> TokenStats:
    """Count what hangs on this token itself."""
    keys = list(token._held)
    registrations = [key for key in keys if isinstance(key, Registration)]
    children = [child for link in list(token._children) if (child := link()) is not None]
    return TokenStats(
        children=len(token._children),
        registrations=len(registrations),
        waiting=sum(isinstance(key, WAITING) for key in keys),
        origins=known_origins([*registrations, *children]),
    )
