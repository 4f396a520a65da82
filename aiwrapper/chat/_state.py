"""What a chat is at one position of its log: the conversation, and what a page shows beside it."""

from collections.abc import Iterable

import msgspec
from attrs import field, frozen

from aiwrapper._core.conversation import Conversation, RunReport, State, run_report, settle, step
from aiwrapper._core.log import Entry, RetryWaiting, RunStarted
from aiwrapper._core.messages import Message, ToolMessage
from aiwrapper._core.versions import Versions


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """The settings of a chat, as its log keeps them. None is the application's own.

    Args:
        model: the name of one of the models that are offered.
        instructions: the system prompt.
        tools: the names of the tools that are offered to the model.
        owner: whose chat it is, in an application with several users.
    """

    model: str | None = None
    instructions: str | None = None
    tools: tuple[str, ...] | None = None
    owner: str | None = None


@frozen
class ChatState:
    """A chat as of one entry of its log. A value; later states share with it what they have in common.

    Args:
        position: the number of the last entry in it; 0 before the first.
        log: what the log says.
        origins: the message each run went on from, by the run's id.
        retry: the wait that the open run is in, if it is in one.
    """

    position: int = 0
    log: State = field(factory=State)
    origins: Versions[str | None] = field(factory=Versions)
    retry: RetryWaiting | None = None

    @property
    def conversation(self) -> Conversation:
        """All messages, those of the open run as they would be if it ended now."""
        return settle(self.log)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages of the branch that is gone on with."""
        return self.conversation.messages

    def message(self, message_id: str) -> Message | None:
        """One message, on whatever branch."""
        return self.conversation.message(message_id)

    @property
    def running(self) -> str | None:
        """The id of the run that is open in the log."""
        return None if self.log.run is None else self.log.run.run_id

    def run(self, run_id: str) -> RunReport | None:
        """How a run stands or ended; None if the log knows of none."""
        return run_report(self.log, run_id)

    @property
    def configuration(self) -> Configuration:
        """The settings of the next run."""
        return configuration(self.log.settings)

    @property
    def shown_head_id(self) -> str | None:
        """The head, as a page knows it."""
        return shown_id(self.log.conversation, self.log.conversation.head_id)


def configuration(settings: str) -> Configuration:
    """The settings in a log; what another application wrote there means nothing here."""
    try:
        return msgspec.json.decode(settings, type=Configuration)
    except msgspec.DecodeError:
        return Configuration()


def shown_id(conversation: Conversation, message_id: str | None) -> str | None:
    """The id under which a page knows a message: results are shown in the message with the calls."""
    message = conversation.message(message_id)
    return message.parent_id if isinstance(message, ToolMessage) else message_id


def advanced(state: ChatState, entries: Iterable[tuple[int, Entry]]) -> ChatState:
    """The state with more of its log.

    Args:
        state: where to go on from.
        entries: the entries behind it, with their numbers.
    """
    position, log, origins, retry = state.position, state.log, state.origins, state.retry
    for number, entry in entries:
        position = number
        before, log = log, step(log, entry)
        if isinstance(entry, RetryWaiting):
            retry = entry if log.run is not None and log.run.run_id == entry.run_id else retry
        elif log is not before:
            retry = None
        if isinstance(entry, RunStarted) and log is not before:
            head_id = shown_id(log.conversation, log.conversation.head_id)
            origins = origins.appended(head_id, entry.run_id)
    return ChatState(position, log, origins, retry)
