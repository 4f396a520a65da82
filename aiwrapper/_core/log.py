"""The log: the entries a run appends, their JSON, and who wants to be told.

The log is the truth. A run only ever appends; the conversation, the store, the terminal and the web page
are all read off the same entries. A run's entries stand in this order:

    run_started (turn_started delta* call* usage* turn_finished (tool_started | tool_usage | tool_finished)*)*
    and then exactly one of run_finished, run_stopped, run_failed

`retry_waiting` stands before a turn's first delta, `usage_reported` wherever the provider says it.
A prefix of this, cut anywhere, is a log too: that is what a crash leaves.

Times are wall-clock seconds since the epoch, and for people: nothing is decided by them.
"""

from typing import ClassVar, Literal, Protocol, TypeAlias

from attrs import field, frozen

from aiwrapper._core.messages import Producer, ToolOutcome, Usage, UserPart

Durability: TypeAlias = Literal["commit", "flush", "batch"]
"""When an entry must be on disk.

`commit`: it permits an effect, so it is durable before the effect (the request, the handler) happens.
`flush`: it reports an effect, and is written at once. `batch`: it may wait with its neighbours, at most 50 ms.
"""

StopWhere: TypeAlias = Literal[
    "before_start",
    "between_steps",
    "connecting",
    "waiting_for_headers",
    "streaming",
    "backing_off",
    "running_tools",
    "unknown",
]
"""What a run was doing when it was stopped."""


@frozen
class UserMessageAdded:
    """The user said something. With a run open, that run has crashed (it never said how it ended)."""

    kind: ClassVar[str] = "user_message"
    durability: ClassVar[Durability] = "commit"
    id: str
    parts: tuple[UserPart, ...]
    parent_id: str | None = field(default=None, kw_only=True)
    synthetic: bool = field(default=False, kw_only=True)
    at: float = field(default=0.0, kw_only=True)


@frozen
class RunStarted:
    """Somebody begins to answer the head of the conversation."""

    kind: ClassVar[str] = "run_started"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    at: float = field(default=0.0, kw_only=True)


@frozen
class TurnStarted:
    """A model is about to be asked."""

    kind: ClassVar[str] = "turn_started"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    turn: int
    producer: Producer = field(kw_only=True)


@frozen
class TextDelta:
    """More text of the answer; never empty."""

    kind: ClassVar[str] = "text_delta"
    durability: ClassVar[Durability] = "batch"
    run_id: str
    turn: int
    text: str = field(kw_only=True)


@frozen
class ReasoningDelta:
    """More of what the model thinks; never empty."""

    kind: ClassVar[str] = "reasoning_delta"
    durability: ClassVar[Durability] = "batch"
    run_id: str
    turn: int
    text: str = field(kw_only=True)


@frozen
class ReasoningFinished:
    """The reasoning part that is being said is whole; with the provider's payload for it, if there is one.

    Without a delta before it, it is a part without visible text (redacted or encrypted reasoning).
    """

    kind: ClassVar[str] = "reasoning_finished"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    payload: str | None = field(default=None, kw_only=True)
    """JSON text for `Opaque.body`; the producer is the turn's."""


@frozen
class ToolCallStarted:
    """The provider has begun to say a call. `index` counts the calls of the turn from 0."""

    kind: ClassVar[str] = "tool_call_started"
    durability: ClassVar[Durability] = "batch"
    run_id: str
    turn: int
    index: int
    name: str = field(kw_only=True)
    provider_id: str | None = field(default=None, kw_only=True)


@frozen
class ToolCallArguments:
    """More of a call's arguments, as text."""

    kind: ClassVar[str] = "tool_call_arguments"
    durability: ClassVar[Durability] = "batch"
    run_id: str
    turn: int
    index: int
    text: str = field(kw_only=True)


@frozen
class ToolCallReady:
    """The provider has finished saying a call: from here on it exists (C6).

    `arguments` is all of them, JSON text of an object. `payload` is JSON text for `Opaque.body`.
    """

    kind: ClassVar[str] = "tool_call_ready"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    index: int
    name: str = field(kw_only=True)
    arguments: str = field(kw_only=True)
    provider_id: str | None = field(default=None, kw_only=True)
    payload: str | None = field(default=None, kw_only=True)


@frozen
class ToolStarted:
    """A handler is about to be called: from here on the call may have had an effect."""

    kind: ClassVar[str] = "tool_started"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    turn: int
    index: int


@frozen
class ToolFinished:
    """What became of a call, in order of completion; the fold puts results into call order."""

    kind: ClassVar[str] = "tool_finished"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    index: int
    outcome: ToolOutcome = field(kw_only=True)
    content: str = field(kw_only=True)


@frozen
class ToolUsageReported:
    """What a call under way has used of models so far; a later report of the call replaces an earlier one.

    An agent that is a tool uses them, and whatever else asks a model in a handler.

    Args:
        run_id: the run.
        turn: the turn that has called.
        index: the call.
        turns: how many times a model was asked.
        usage: the sum over these.
    """

    kind: ClassVar[str] = "tool_usage"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    index: int
    turns: int = field(kw_only=True)
    usage: Usage = field(kw_only=True)


@frozen
class RetryWaiting:
    """A request failed before it gave anything and will be sent again after `seconds`.

    Args:
        attempt: the number of the attempt that failed, from 1.
        seconds: how long the wait is, if nobody stops it.
        error: what failed, for people.
    """

    kind: ClassVar[str] = "retry_waiting"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    attempt: int = field(kw_only=True)
    seconds: float = field(kw_only=True)
    error: str = field(kw_only=True)


@frozen
class UsageReported:
    """What the provider has counted for this turn so far; a later report of the turn replaces an earlier one.

    After a `retry_waiting` it is another request that is counted, and both are in the sum.
    """

    kind: ClassVar[str] = "usage_reported"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    usage: Usage = field(kw_only=True)


@frozen
class TurnFinished:
    """The provider has ended its turn. `finish_reason` is the dialect's own word, such as `stop` or `tool_use`."""

    kind: ClassVar[str] = "turn_finished"
    durability: ClassVar[Durability] = "flush"
    run_id: str
    turn: int
    finish_reason: str = field(kw_only=True)


@frozen
class RunFinished:
    """The run has answered: status `completed`."""

    kind: ClassVar[str] = "run_finished"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    at: float = field(default=0.0, kw_only=True)


@frozen
class RunStopped:
    """The run was stopped: status `stopped`.

    Args:
        run_id: the run.
        reason: a `CancelReason.kind`: `user`, `deadline`, `signal`, `shutdown`, `crash`, ...
        message: the words given with the stop.
        where: what it was doing.
        at: wall-clock seconds.
    """

    kind: ClassVar[str] = "run_stopped"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    reason: str = field(kw_only=True)
    message: str = field(default="", kw_only=True)
    where: StopWhere = field(default="unknown", kw_only=True)
    at: float = field(default=0.0, kw_only=True)


@frozen
class RunFailed:
    """The run could not go on: status `failed`; what arrived is kept.

    Args:
        run_id: the run.
        error: the class of the failure, an `ErrorKind` of `errors.py`.
        message: for people; never holds a key.
        at: wall-clock seconds.
    """

    kind: ClassVar[str] = "run_failed"
    durability: ClassVar[Durability] = "commit"
    run_id: str
    error: str = field(kw_only=True)
    message: str = field(kw_only=True)
    at: float = field(default=0.0, kw_only=True)


@frozen
class HeadMoved:
    """The conversation goes on from another message (an edit, a retry, a branch); None is before the first."""

    kind: ClassVar[str] = "head_moved"
    durability: ClassVar[Durability] = "commit"
    message_id: str | None


@frozen
class Titled:
    """The conversation has a title."""

    kind: ClassVar[str] = "titled"
    durability: ClassVar[Durability] = "commit"
    title: str


@frozen
class Configured:
    """The conversation's settings from here on: JSON text of an object, read by the application that wrote it."""

    kind: ClassVar[str] = "configured"
    durability: ClassVar[Durability] = "commit"
    settings: str


@frozen
class Deleted:
    """The conversation is no longer listed."""

    kind: ClassVar[str] = "deleted"
    durability: ClassVar[Durability] = "commit"
    at: float = field(default=0.0, kw_only=True)


DeltaEntry: TypeAlias = TextDelta | ReasoningDelta | ToolCallStarted | ToolCallArguments
TurnEntry: TypeAlias = (
    TurnStarted
    | DeltaEntry
    | ReasoningFinished
    | ToolCallReady
    | ToolStarted
    | ToolUsageReported
    | ToolFinished
    | RetryWaiting
    | UsageReported
    | TurnFinished
)
TerminalEntry: TypeAlias = RunFinished | RunStopped | RunFailed
RunEntry: TypeAlias = RunStarted | TurnEntry | TerminalEntry
Entry: TypeAlias = UserMessageAdded | RunEntry | HeadMoved | Titled | Configured | Deleted


class Sink(Protocol):
    """Whoever wants to be told of every entry, in order: the store, a subscriber.

    `append` is called in the run's thread, with no lock held and before any effect that the entry permits; when it
    returns, the entry is as durable as `entry.durability` asks. What it raises means that it does not have the entry,
    and it is told nothing more.
    """

    def append(self, entry: Entry, /) -> None:
        """Take one entry."""
