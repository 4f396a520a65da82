"""A conversation as a value: messages as a tree, and the one of them it goes on from.

What has been said is `Conversation`; how a log becomes one is the affair of `conversation.py`.
"""

from collections.abc import Iterable

from attrs import evolve, field, frozen

from aiwrapper._core.budget import NOTHING_SPENT, Spent
from aiwrapper._core.messages import AssistantMessage, Message, Reasoning, Text, ToolMessage, UserMessage
from aiwrapper._core.versions import Versions


@frozen(repr=False)
class Conversation:
    """Messages as a tree, and the one of them it goes on from. A value: safe to share, cheap to extend.

    Make one with `Conversation.of` or `decode`, go on with `append`. Two are equal if the same was said in them.

    Args:
        all_messages: every message of every branch, in the order in which they were added, by id.
        head_id: the message the next one will follow; None if there is none before it.
        spent: what its runs have used, on every branch, however they ended (U2, U3).
    """

    all_messages: Versions[Message] = field(factory=Versions)
    head_id: str | None = None
    spent: Spent = field(default=NOTHING_SPENT, kw_only=True, eq=False)

    @classmethod
    def of(cls, messages: Iterable[Message]) -> "Conversation":
        """A conversation of one branch; each message's `parent_id` becomes the one before it.

        Nothing else is looked at: see `validate` and `repair` for messages from elsewhere.

        Raises:
            ValueError: two messages have the same id.
        """
        conversation = cls()
        for message in messages:
            conversation = append(conversation, message)
        return conversation

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages from the first to the head; other branches left out. Costs as much as it is long."""
        path: list[Message] = []
        message = self.message(self.head_id)
        while message is not None:
            path.append(message)
            message = self.message(message.parent_id)
        path.reverse()
        return tuple(path)

    @property
    def head(self) -> Message | None:
        """The message that the next one will follow."""
        return self.message(self.head_id)

    def message(self, message_id: str | None) -> Message | None:
        """The message with this id, on whatever branch."""
        return None if message_id is None else self.all_messages.get(message_id)

    def __repr__(self) -> str:
        return f"Conversation.of({list(self.messages)!r})"


def append(conversation: Conversation, message: Message) -> Conversation:
    """The conversation with a message after its head; the message's `parent_id` is set to the head.

    Raises:
        ValueError: a message of this id is there already, on some branch.
    """
    if message.id in conversation.all_messages:
        raise ValueError(f"the conversation has a message with the id {message.id!r} already")
    if message.parent_id != conversation.head_id:
        message = evolve(message, parent_id=conversation.head_id)
    messages = conversation.all_messages.appended(message, message.id)
    return Conversation(messages, message.id, spent=conversation.spent)


def move_head(conversation: Conversation, message_id: str | None) -> Conversation:
    """The conversation going on from another of its messages; as it is, if it has no such message.

    A call and its result are not parted: from an assistant message with calls it goes on after their results.
    """
    message = conversation.message(message_id)
    if message is None:
        return conversation if message_id is not None else evolve(conversation, head_id=None)
    if isinstance(message, AssistantMessage) and message.calls:
        place = conversation.all_messages.place(message.id)
        assert place is not None
        # The fold always adds the two together.
        results = conversation.all_messages[place + 1] if place + 1 < len(conversation.all_messages) else None
        if not isinstance(results, ToolMessage) or results.parent_id != message.id:
            return conversation
        message = results
    return evolve(conversation, head_id=message.id)


CONTINUE_CUT = "Your last message was cut off. Go on from exactly where it ends, without repeating any of it."
CONTINUE_WHOLE = "Please go on."


def continue_(conversation: Conversation) -> UserMessage | None:
    """The message that has to be added so that the model can go on by itself; None if none has to.

    After a user message or tool results it is the model's turn anyway. After an answer, cut or whole, most
    providers want a user's message (A8), so it is a synthetic one with a fixed text. An answer that is
    reasoning alone is not sent (C17), so what counts is the message before it.
    """
    head = conversation.head
    while isinstance(head, AssistantMessage) and all(isinstance(part, Reasoning) for part in head.parts):
        head = conversation.message(head.parent_id)
    if not isinstance(head, AssistantMessage) or head.calls:
        return None
    return UserMessage(
        free_id(conversation, f"{conversation.head_id}.continue"),
        (Text(CONTINUE_CUT if head.stopped else CONTINUE_WHOLE),),
        parent_id=conversation.head_id,
        synthetic=True,
    )


def appended(conversation: Conversation, message: Message) -> Conversation:
    """Like `append`, but total: an id that somebody else's message has is made free."""
    if message.id in conversation.all_messages:
        message = evolve(message, id=free_id(conversation, message.id))
    return append(conversation, message)


def free_id(conversation: Conversation, message_id: str) -> str:
    """The id, or one like it that no message has."""
    while message_id in conversation.all_messages:
        message_id += "'"
    return message_id
