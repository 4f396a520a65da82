"""What passes between who asks for an answer, who answers and who stops; and the errors of it."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import frozen

from aiwrapper._core.conversation import RunReport
from aiwrapper._core.errors import AiwrapperError, Busy
from aiwrapper.chat._state import ChatState
from aiwrapper.store import ConversationLog
from cancel_token import CancelToken

StopState: TypeAlias = Literal["stopping", "ended", "remembered"]


class Running(Busy):
    """A run is going on in this chat: stop it first, or wait for its end.

    Args:
        run_id: the run.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__("A run is going on in this chat: stop it first, or wait for its end.")
        self.run_id = run_id

    def __reduce__(self) -> tuple[object, ...]:
        return (Running, (self.run_id,))


class Leaving(AiwrapperError):
    """The chats are being closed: nothing new is begun."""


class UnknownMessage(AiwrapperError, LookupError):
    """The chat has no message of this id, or none that can be meant here."""


@frozen
class Asked:
    """What became of asking for an answer.

    Args:
        run_id: the run that answers.
        message_id: the message that it goes on from.
        position: the number of the last entry written for it.
    """

    run_id: str
    message_id: str
    position: int


@frozen
class StopReceipt:
    """What became of a stop.

    Args:
        state: `stopping`: the run has been told; `ended`: it had ended; `remembered`: nobody has heard of it yet.
        run: how the run ended, if it has.
        running: the run that is going on in the chat, whichever it is.
    """

    state: StopState
    run: RunReport | None = None
    running: str | None = None


@frozen(eq=False)
class Answering:
    """A run that has been asked for. Whoever answers drives it to its end, and then calls `release`.

    Args:
        asked: the id that the run has to have, and the message that it goes on from.
        state: the chat as of now; its conversation ends with what is to be answered.
        token: the run's own. It may be cancelled already: then the run has to say so in the log, and do nothing.
        log: the held log, the run's sink.
        ended: gives the chat back.
    """

    asked: Asked
    state: ChatState
    token: CancelToken
    log: ConversationLog
    ended: Callable[["Answering"], None]

    @property
    def chat_id(self) -> str:
        """The chat."""
        return self.log.conversation_id

    @property
    def run_id(self) -> str:
        """The run."""
        return self.asked.run_id

    def release(self) -> None:
        """Give the chat back. The run has ended."""
        self.ended(self)


Answerer: TypeAlias = Callable[[Answering], None]
"""Begins to answer, and returns at once."""
