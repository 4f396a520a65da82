"""The errors of this package: one family, a class for each thing a caller does differently."""

from typing import Final, Literal, TypeAlias

ErrorKind: TypeAlias = Literal[
    "authentication",  # the key is wrong or missing
    "not_found",  # unknown model or path
    "bad_request",  # the provider refused the request: a defect of ours, or options the model does not take
    "rate_limit",  # too many requests; retried, then given up
    "overloaded",  # the provider can't right now; retried, then given up
    "network",  # no connection, or it broke
    "protocol",  # the body is not what the dialect promises
    "provider",  # the provider reported an error in mid-stream
    "limit",  # one of our own limits: turns, event size
    "budget",  # what the conversation may use is used up; with a larger budget it goes on
    "store",  # the log could not be written
    "internal",  # a defect in this package or in a sink
]


class AiwrapperError(Exception):
    """Base of all errors that this package raises. A user's stop is none of them: see `RunResult.status`."""


class ModelCallError(AiwrapperError):
    """A model could not be asked, or did not answer as its dialect promises.

    At the level of `ChatAgent` it is a run that `failed`, after which `continue_()` goes on from what was said;
    `Lang.ask` raises it.

    Args:
        message: for people, with what to do; never holds a key.
        kind: what a caller distinguishes.
        status: the HTTP status, if there was one.
        retry_after_seconds: what the provider asked for, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        return (_model_call_error, (str(self), self.kind, self.status, self.retry_after_seconds))


def _model_call_error(
    message: str, kind: ErrorKind, status: int | None, retry_after_seconds: float | None
) -> ModelCallError:
    return ModelCallError(message, kind=kind, status=status, retry_after_seconds=retry_after_seconds)


class InvalidArguments(AiwrapperError, ValueError):
    """What a model sent as a tool's arguments does not fit the tool; the text is for the model to read.

    The tool was not called. In a run it becomes a result with the outcome `invalid_arguments`.
    """


class ToolDenied(AiwrapperError):
    """Raise it in a tool when a person was asked and refused: the result's outcome is `denied`, its text yours."""


class BadLog(AiwrapperError, ValueError):
    """Bytes that were to be a log entry or a conversation are none. Nothing was changed."""


class Busy(AiwrapperError):
    """The agent runs already, or another process holds the conversation.

    Wait for the run, stop it, or give the new run a conversation of its own with `run(..., conversation=...)`.
    """


class StoreError(AiwrapperError):
    """The log could not be read or written: a full disk, missing rights, a file that is no store."""

    kind: Final[ErrorKind] = "store"
    """As in the log of a run that has failed with it."""
