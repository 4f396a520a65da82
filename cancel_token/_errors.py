"""Why something was cancelled, and the exception that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import attrs

if TYPE_CHECKING:
    from cancel_token._token import CancelToken

CancelKind = Literal[
    "user",  # a person or the program's own decision: `token.cancel("text")`
    "deadline",  # the token's own clock
    "parent",  # an ancestor was cancelled; `cause` has its reason
    "disconnect",  # whoever wanted the answer has gone
    "signal",  # Ctrl-C and its kin
    "shutdown",  # the program is leaving
    "runtime",  # trio's or asyncio's own cancellation, passed on to blocking work
    "closed",  # an iterator was closed before its end
    "crash",  # found after the fact: the process died
    "error",  # something beside this work failed
]


@attrs.frozen
class CancelReason:
    """Why a token was cancelled: a value, compared by its fields.

    Args:
        kind: Who decided; a fixed set of words.
        message: What a person may read.
        at: When it was decided, in seconds of the token's clock (monotonic by default, so it means nothing in
            another process). `cancel()` fills it in.
        cause: For kind `"parent"`: the reason of the ancestor that began it. It is that first reason at any
            depth, never a chain, so a reason is printed, compared and pickled without recursion.
    """

    kind: CancelKind = attrs.field(validator=attrs.validators.in_(get_args(CancelKind)))
    message: str = attrs.field(default="", validator=attrs.validators.instance_of(str))
    at: float | None = attrs.field(default=None, kw_only=True)
    cause: CancelReason | None = attrs.field(default=None, kw_only=True)

    def __str__(self) -> str:
        """The message and the kind, in one line."""
        kind = self.kind if self.cause is None else f"{self.kind}, {self.cause.kind}"
        return f"{self.message} ({kind})" if self.message else kind


_new_reason = CancelReason.__new__
# The slots' own setters: CancelReason is frozen for everybody else, and these are quicker than object.__setattr__.
_set_kind, _set_message, _set_at, _set_cause = (
    getattr(CancelReason, name).__set__ for name in ("kind", "message", "at", "cause")
)


def trusted_reason(
    kind: CancelKind, message: str, at: float | None, cause: CancelReason | None = None
) -> CancelReason:
    """Make a reason without validating it: a thread that waits is woken only after `cancel()` has made one."""
    reason = _new_reason(CancelReason)
    _set_kind(reason, kind)
    _set_message(reason, message)
    _set_at(reason, at)
    _set_cause(reason, cause)
    return reason


class Cancelled(BaseException):
    """Work stopped because its token is cancelled.

    Raised by `token.check()`, `token.sleep()`, the iteration guards, and everything in this package that blocks
    under a token.
    Let it pass, or clean up and let it pass; `move_on_cancel` and whoever owns the token end it.

    It derives from `BaseException`, so that `except Exception` in the work does not take a stop for a failure.
    Do not confuse it with `trio.Cancelled` and `asyncio.CancelledError`: those belong to their runtime,
    are never raised by a token, and are never turned into this.

    It pickles with its reason and without its token: a token means nothing in another process.

    Args:
        token: The token that was found cancelled; None after unpickling.
        reason: Why; by default the token's reason.
    """

    def __init__(self, token: CancelToken | None = None, reason: CancelReason | None = None) -> None:
        if reason is None and token is not None:
            reason = token.reason
        super().__init__(token, reason)
        self.token = token
        self.reason = reason

    def __str__(self) -> str:
        return "cancelled" if self.reason is None else str(self.reason)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[type[Cancelled], tuple[None, CancelReason | None]]:
        return type(self), (None, self.reason)
