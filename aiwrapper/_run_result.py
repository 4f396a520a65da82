"""What became of a run, for whoever started it. All of it is read off the log but how long the stop took."""

from typing import Literal, TypeAlias

from attrs import field, frozen

from aiwrapper._core.conversation import CallReport, Conversation
from aiwrapper._core.log import StopWhere
from aiwrapper._core.messages import AssistantMessage, ToolCall, ToolMessage, Usage

StopMode: TypeAlias = Literal["now", "after_step", "after_turn"]
"""How much may still happen (S10): nothing; what the current step needs, which is a model call and its tools; or the
whole answer to this user message, and no run of whatever waits behind it."""

StopReceipt: TypeAlias = Literal["accepted", "already_stopping", "already_finished"]
"""What became of a stop (S2, S3): it decides; an earlier one asks for as much or more; it comes too late."""


@frozen(kw_only=True)
class StopReport:
    """How a run was stopped.

    Args:
        reason: who decided, a `CancelReason.kind`: `user`, `deadline`, `signal`, `shutdown`, ...
        message: the words given with the stop.
        where: what the run was doing.
        latency_seconds: from the stop, or the beginning of a run that had been stopped before, to the moment at
            which nothing of the run was left.
        tools: what became of each call of the run, in order.
        abandoned: calls whose handlers did not stop within the grace time, also those of agents that were tools:
            their threads still run, and what they return is thrown away.
        usage_complete: whether the provider's last count of every turn was seen; else the usage is a lower bound.
    """

    reason: str
    message: str = ""
    where: StopWhere
    latency_seconds: float
    tools: tuple[CallReport, ...] = ()
    abandoned: tuple[ToolCall, ...] = ()
    usage_complete: bool = False


@frozen(kw_only=True)
class RunResult:
    """What became of a run.

    Args:
        run_id: the run.
        status: `completed`, `stopped` or `failed`.
        conversation: valid whatever happened; give it to the next run.
        text: what the model said last in this run, whole or cut; empty if it said nothing.
        usage: the sum over the run's turns, and those of agents that it called as tools. What the conversation has
            used altogether is `conversation.spent`.
        stop: how it was stopped; None if it was not.
        error: why it failed: a `ModelCallError`, a `StoreError`, or a defect as it was raised. Also set on a run that
            was stopped, or that could not write its end, if its log could not be written to the last.
        subscriber_errors: what subscribers raised, each of which was told nothing more after that; and what callbacks
            on the run's token raised.
    """

    run_id: str
    status: Literal["completed", "stopped", "failed"]
    conversation: Conversation = field(repr=False)
    text: str = ""
    usage: Usage
    stop: StopReport | None = None
    error: Exception | None = None
    subscriber_errors: tuple[BaseException, ...] = ()


def last_text(conversation: Conversation, run_id: str) -> str:
    """What the model said last in a run. Messages of a run stand together at the end of the path."""
    message = conversation.head
    while isinstance(message, AssistantMessage | ToolMessage) and message.id.startswith(f"{run_id}."):
        if isinstance(message, AssistantMessage):
            return message.text
        message = conversation.message(message.parent_id)
    return ""
