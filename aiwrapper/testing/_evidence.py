"""What is known of a run that has ended, for the oracle to judge."""

from collections.abc import Sequence

from attrs import define, field, frozen

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import ToolSpec
from aiwrapper._core.log import Entry
from aiwrapper._run_result import RunResult
from aiwrapper.testing._records import FakeRequest
from aiwrapper.testing.scripts import Answer
from cancel_token import CancelToken


@define(eq=False)
class Effect:
    """What the handler of a tool did, told by itself: one for each time that it was called.

    Args:
        name: the tool's.
        returned: the text it was about to return when its work was done; None if it did not come that far. To be
            set where nothing can come between it and the `return`. Each text once, or results cannot be told apart.
        raised: whether it raised an error of its own.
    """

    name: str
    returned: str | None = None
    raised: bool = False


@frozen(kw_only=True)
class Evidence:
    """What is known of a run that has ended.

    Args:
        result: what became of it; of a run that an exception went through, the agent's `last_result`.
        before: the conversation that it went on from.
        heard: what each subscriber was told of it, from the first entry on; at least one.
        stored: what its sink has of it; None without a sink.
        token: what stops it; None for one that could not be stopped.
        winding_down: whether a stop with the mode `after_step` was accepted (S10).
        interrupted: whether an exception that was not ours went through it (S9).
        at_stop: the agent's conversation as it was when `cancel()` had returned; None if nobody looked then.
        ended_at_stop: whether the run had ended by then; None if nobody knows, then it may have.
        at_end: the agent's conversation as a subscriber saw it when it was told the end; None if nobody looked.
        busy_at_end: whether the agent called itself busy then, so that no next message could be said.
        requests: what the provider saw of this run, in order.
        answered: what it answered each of them; None for a refusal.
        taken: of each answer, the bytes that had been done with; see `ScriptedTransport.taken`.
        effects: what its tools did; None if they do not tell.
        tools: what the model was offered, so that the next request may be judged.
    """

    result: RunResult
    before: Conversation = field(factory=Conversation)
    heard: Sequence[Sequence[Entry]]
    stored: Sequence[Entry] | None = None
    token: CancelToken | None = None
    winding_down: bool = False
    interrupted: bool = False
    at_stop: Conversation | None = None
    ended_at_stop: bool | None = False
    at_end: Conversation | None = None
    busy_at_end: bool = False
    requests: Sequence[FakeRequest] | None = None
    answered: Sequence[Answer | None] = ()
    taken: Sequence[bytes] = ()
    effects: Sequence[Effect] | None = None
    tools: tuple[ToolSpec, ...] = ()
