"""Where in the tree of messages something is said: what each way of asking for an answer writes, before it is answered.

Nothing here writes. Whoever does holds the chat, so nothing comes between looking and writing.
"""

import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from attrs import evolve

from aiwrapper._core.conversation import Conversation, continue_
from aiwrapper._core.log import Entry, HeadMoved, UserMessageAdded
from aiwrapper._core.messages import Message, UserMessage
from aiwrapper.chat._answering import UnknownMessage

Asking: TypeAlias = Callable[[Conversation], Iterable[Entry]]
"""What has to be written; raises `UnknownMessage` if that can't be asked for here."""


def said_id(run_id: str) -> str:
    """The id of the user's message that a run was begun with: saying it again under the same run's id adds nothing."""
    return f"{run_id}.said"


def sending(message: UserMessageAdded) -> Asking:
    """Say it behind the head."""

    def entries(conversation: Conversation) -> Iterable[Entry]:
        yield evolve(message, parent_id=conversation.head_id)

    return entries


def editing(message_id: str, message: UserMessageAdded) -> Asking:
    """Say it on a new branch beside a message of the user's."""

    def entries(conversation: Conversation) -> Iterable[Entry]:
        edited = known_message(conversation, message_id)
        if not isinstance(edited, UserMessage):
            raise UnknownMessage(f"{message_id!r} is not the user's message")
        if edited.parent_id is None:
            yield HeadMoved(None)
        yield evolve(message, parent_id=edited.parent_id)

    return entries


def retrying(message_id: str) -> Asking:
    """Go back to a message of the user's, or to the one before an answer."""

    def entries(conversation: Conversation) -> Iterable[Entry]:
        said: Message | None = known_message(conversation, message_id)
        while said is not None and not isinstance(said, UserMessage):
            said = conversation.message(said.parent_id)
        if said is None:
            raise UnknownMessage(f"no user's message is before {message_id!r}")
        if conversation.head_id != said.id:
            yield HeadMoved(said.id)

    return entries


def going_on(conversation: Conversation) -> Iterable[Entry]:
    """Say nothing, or what makes a model go on behind its own answer."""
    if conversation.head is None:
        raise UnknownMessage("nothing has been said yet that the model could go on from")
    message = continue_(conversation)
    if message is not None:
        yield UserMessageAdded(
            message.id, message.parts, parent_id=message.parent_id, synthetic=True, at=time.time()
        )


def known_message(conversation: Conversation, message_id: str) -> Message:
    """One message, on whatever branch; raises `UnknownMessage` if there is none of this id."""
    message = conversation.message(message_id)
    if message is None:
        raise UnknownMessage(f"the chat has no message {message_id!r}")
    return message


def newest_leaf(conversation: Conversation, message_id: str) -> str:
    """The message added last among those below a message that nothing follows; the message itself if none is."""
    leaf, below = message_id, {message_id}
    for message in conversation.all_messages:  # parents before their children
        if message.parent_id in below:
            below.add(message.id)
            leaf = message.id
    return leaf
