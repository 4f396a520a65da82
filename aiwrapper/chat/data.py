"""The chats of one store: messages as a tree over each log, changed by people, answered by whoever answers.

    data = ChatAppData("chats.db")
    chat_id = data.create()
    with WrapChatAgent(data, agent):                  # answers
        asked = data.send_message(chat_id, "Hello")
        state = data.wait_ended(chat_id, asked.run_id)

What holds, at any time and in any thread or process:

1. *Written first.* A change is in the store when its method returns, and nobody is told of it before.
2. *One at a time.* Whoever changes a chat holds its lease; a run holds it from the message that it answers to its end.
   So a second run can't begin in any process, and a run that is open in a log that nobody holds has died.
3. *Nothing starts by itself.* A run begins because somebody sent, edited, retried or continued, in this process, now.
   Reading starts nothing, and a message that nobody answered before a crash stays so until somebody asks again.
4. *A stop is for one run.* `stop_message` names it. If the run has not begun, the stop is remembered for it; if another
   one is going on, that one never hears of it.
5. *Asking twice is asking once.* What asks for an answer carries the run's id, which is made by whoever asks.

`_state.py` is what a chat is at one position, `_branches.py` what is written where, `_holding.py` sees to 2, 4 and 5,
`_telling.py` and `_peers.py` tell of changes, `wrap.py` answers.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Final

import msgspec

from aiwrapper._core.errors import StoreError
from aiwrapper._core.log import Configured, Deleted, Entry, HeadMoved, Titled
from aiwrapper._core.messages import Message
from aiwrapper._core.text import well_formed
from aiwrapper.chat._answering import Answerer, Asked, StopReceipt
from aiwrapper.chat._attachments import Attachment, Attachments
from aiwrapper.chat._branches import (
    Asking,
    editing,
    going_on,
    known_message,
    newest_leaf,
    retrying,
    said_id,
    sending,
)
from aiwrapper.chat._holding import Holding
from aiwrapper.chat._state import ChatState, Configuration, advanced, configuration
from aiwrapper.model_spec import Said, new_id, user_message
from aiwrapper.store import ConversationLog, ConversationSummary, UnknownConversation
from cancel_token import CancelReason, CancelToken
from cancel_token.aio import run_sync, wait_cancelled

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ChatAppData:
    """The chats of one store, for people and for whoever answers. Close it, or use it in a `with` block.

    Everything may be called from any thread; what reads or writes the store blocks for as long as that takes.

    Several processes may have the same store open: each sees what the others write as they write it, and may stop
    what they run. What one of them is changing or answering, the others can't change at the same time.

    Methods that name a chat raise `UnknownConversation` if there is none, or none any more.

    Args:
        path: the store's file. Attachments are kept in a folder beside it.
        busy_seconds: how long a change waits while other processes write to the file.

    Raises:
        StoreError: as for `Store`.
    """

    def __init__(self, path: Path | str, *, busy_seconds: float = 10.0) -> None:
        self.path: Path = Path(path)
        self.attachments: Attachments = Attachments(Path(f"{path}-attachments"))
        self._holding = Holding(self.path, busy_seconds=busy_seconds)
        self._store = self._holding.store
        self._telling = self._holding.telling
        self._owners: dict[
            str, str | None
        ] = {}  # never changed once known, so writing one twice does no harm

    def __enter__(self) -> "ChatAppData":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, and close the store. What is being answered should have been stopped before.

        Raises:
            StoreError: something that waited could not be written.
        """
        self._holding.close()

    @property
    def closing(self) -> bool:
        """Whether `leave` or `close` has been called."""
        return self._telling.left

    def leave(self) -> None:
        """Begin nothing new, and end all waits and streams. Stop what is answered before, so that they tell its end."""
        self._telling.leave()

    # Reading

    def list(self, *, owner: str | None = None) -> tuple[ConversationSummary, ...]:
        """The owner's chats in which something was said, the one written last first."""
        begun = [summary for summary in self._store.list() if summary.title or summary.preview]
        return tuple(summary for summary in begun if self.owner(summary.id) == owner)

    def owner(self, chat_id: str) -> str | None:
        """Whose chat it is: said when it was made, and never changed."""
        if chat_id in self._owners:
            return self._owners[chat_id]
        _, first = next(iter(self._store.entries(chat_id)), (0, None))
        owner = configuration(first.settings).owner if isinstance(first, Configured) else None
        return self._owners.setdefault(chat_id, owner)

    def knows_owner(self, chat_id: str) -> bool:
        """Whether `owner` need not look into the store, so that it does not block."""
        return chat_id in self._owners

    def state(self, chat_id: str) -> ChatState:
        """The chat as it is in the store."""
        state = self.latest(chat_id)
        if state.log.deleted:
            raise UnknownConversation(f"There is no chat {chat_id!r} any more.")
        return state

    def latest(self, chat_id: str) -> ChatState:
        """The chat as it is in the store, even if it has been deleted."""
        return self._holding.latest(chat_id)

    def latest_nowait(self, chat_id: str) -> ChatState | None:
        """The chat as far as those who listen to it have been told; None if one has to block to know it."""
        return self._holding.latest_nowait(chat_id)

    def state_at(self, chat_id: str, position: int) -> ChatState | None:
        """The chat as it was after so many entries; None if it has not had so many."""
        entries = takewhile(lambda numbered: numbered[0] <= position, self._store.entries(chat_id))
        state = advanced(ChatState(), entries)
        return state if state.position == position else None

    def messages(self, chat_id: str) -> tuple[Message, ...]:
        """The messages of the branch that is gone on with, at any time valid."""
        return self.state(chat_id).messages

    def message(self, chat_id: str, message_id: str) -> Message:
        """One message, on whatever branch.

        Raises:
            UnknownMessage: the chat has none of this id.
        """
        return known_message(self.state(chat_id).conversation, message_id)

    def is_stopping(self, chat_id: str, run_id: str) -> bool:
        """Whether this process has been asked to stop the run, or stops it by itself."""
        return self._holding.is_stopping(chat_id, run_id)

    def is_answering(self, chat_id: str) -> bool:
        """Whether a run goes on in the chat, in this process."""
        return self._holding.answering(chat_id) is not None

    def note_crash(self, chat_id: str) -> None:
        """If the chat's open run has died with its process, say so in its log: stopped, with the reason `crash`."""
        if self.state(chat_id).running is None or self.closing:
            return
        log = self._holding.claim(chat_id)
        if log is None:  # it goes on
            return
        try:
            self._holding.mended(log)
        finally:
            self._holding.give_back(chat_id, log)

    # Being told

    def subscribe(self, observer: Callable[[str, int], object]) -> Callable[[], None]:
        """Be told of every change: which chat, and the number of the last entry that is in the store.

        Args:
            observer: called in the thread that wrote; it must be quick, not raise, and not use the store. A stop that
                was asked for is told, too, with the number 0: it is no entry.

        Returns:
            What ends it.
        """
        return self._telling.subscribe(observer)

    def listening(self, chat_id: str, token: CancelToken) -> AbstractContextManager[CancelToken]:
        """A token that is cancelled when there may be something new: begin to listen, look, then wait on it.

        Args:
            chat_id: the chat.
            token: also cancels it.
        """
        return self._telling.listening(chat_id, token)

    def wait_changed(self, chat_id: str, after: int, *, token: CancelToken | None = None) -> ChatState:
        """Wait until there is more in the chat than `after` entries, and return what there is. Blocks.

        Raises:
            Cancelled: the token was cancelled.
            Leaving: the chats are being closed.
        """
        token = CancelToken.never() if token is None else token
        while True:
            with self.listening(chat_id, token) as wake:
                state = self.state(chat_id)
                if state.position > after:
                    return state
                wake.wait()
            token.check()
            self._holding.check()

    async def wait_changed_async(
        self, chat_id: str, after: int, *, token: CancelToken | None = None
    ) -> ChatState:
        """`wait_changed` for a task of trio or asyncio."""
        token = CancelToken.never() if token is None else token
        while True:
            with self.listening(chat_id, token) as wake:
                state = await run_sync(self.state, chat_id)
                if state.position > after:
                    return state
                await wait_cancelled(wake)
            token.check()
            self._holding.check()

    def wait_ended(self, chat_id: str, run_id: str, *, token: CancelToken | None = None) -> ChatState:
        """Wait until a run that was asked for has ended, and return the chat as it is then. Blocks.

        Raises:
            Cancelled: the token was cancelled.
            Leaving: the chats are being closed.
        """
        state = self.state(chat_id)
        while run_id not in state.log.runs:
            state = self.wait_changed(chat_id, state.position, token=token)
        return state

    # Changing

    def create(self, settings: Configuration | None = None) -> str:
        """Make a chat, and return its id, which can't be guessed."""
        self._holding.check()
        chat_id = self._store.create()
        if settings is not None:
            with self._store.open(chat_id) as log:
                log.append(Configured(_dump(settings)))
        return chat_id

    def send_message(self, chat_id: str, said: Said, *, run_id: str | None = None) -> Asked:
        """Add what the user says behind the head, and have it answered.

        Args:
            chat_id: the chat.
            said: what the user says.
            run_id: of the run that answers; None for a new one. With one that is known, nothing is done again.

        Raises:
            Running: a run is going on.
            Busy: another process is changing the chat.
            Leaving: the chats are being closed.
            ValueError: there is nothing in what the user says, or the run's id can't be one.
        """
        run_id = _run_id(run_id)
        return self._ask(chat_id, run_id, sending(user_message(said, message_id=said_id(run_id))))

    def edit_message(self, chat_id: str, message_id: str, said: Said, *, run_id: str | None = None) -> Asked:
        """Say something else instead of a user's message, on a new branch beside it, and have it answered.

        Raises:
            UnknownMessage: there is none of this id, or it is not the user's.
            Running: and the other errors of `send_message`.
        """
        run_id = _run_id(run_id)
        message = user_message(said, message_id=said_id(run_id))
        return self._ask(chat_id, run_id, editing(message_id, message))

    def retry_message(self, chat_id: str, message_id: str, *, run_id: str | None = None) -> Asked:
        """Have a user's message answered anew, or the one before an answer. What was answered stays, as a branch.

        Raises:
            UnknownMessage: there is none of this id, or no user's message before it.
            Running: and the other errors of `send_message`.
        """
        return self._ask(chat_id, _run_id(run_id), retrying(message_id))

    def continue_message(self, chat_id: str, *, run_id: str | None = None) -> Asked:
        """Let the model go on behind the head, as `ChatAgent.continue_` does.

        Raises:
            UnknownMessage: nothing has been said yet.
            Running: and the other errors of `send_message`.
        """
        return self._ask(chat_id, _run_id(run_id), going_on)

    def stop_message(self, chat_id: str, run_id: str, message: str = "") -> StopReceipt:
        """Stop this run and no other. Never waits for it; any number of times.

        Args:
            chat_id: the chat.
            run_id: the run, whether it goes on, has ended, or has not been heard of yet.
            message: words for the log.
        """
        return self._holding.stop(chat_id, run_id, message)

    def stop_message_nowait(self, chat_id: str, run_id: str) -> None:
        """Stop this run and no other, without looking what has become of it, so that it does not block.

        It reaches a run of this process, or one that is not heard of yet; `stop_message` reaches all.
        """
        self._holding.stop_nowait(chat_id, run_id)

    def switch_branch(self, chat_id: str, message_id: str) -> int:
        """Go on from the newest leaf below a message, and return the position.

        Raises:
            UnknownMessage: there is none of this id.
            Running: and the other errors of `send_message`.
        """
        with self._changing(chat_id) as (log, state):
            conversation = state.log.conversation
            leaf = newest_leaf(conversation, known_message(conversation, message_id).id)
            if conversation.head_id != leaf:
                log.append(HeadMoved(leaf))
            return log.written

    def set_title(self, chat_id: str, title: str) -> int:
        """Give the chat a title, also while a run goes on in this process; return the position."""
        return self._append(chat_id, lambda state: Titled(well_formed(title)))

    def configure(self, chat_id: str, change: Callable[[Configuration], Configuration]) -> int:
        """Change the settings of the next run, also while a run goes on in this process; return the position.

        Args:
            chat_id: the chat.
            change: makes the new settings of the present ones. The owner stays.
        """

        def entry(state: ChatState) -> Entry:
            before = state.configuration
            return Configured(_dump(msgspec.structs.replace(change(before), owner=before.owner)))

        return self._append(chat_id, entry)

    def delete(self, chat_id: str) -> int:
        """List the chat no more and stop what runs in it; return the position."""
        position = self._append(chat_id, lambda state: Deleted(at=time.time()))
        answering = self._holding.answering(chat_id)
        if answering is not None:
            answering.token.cancel_soon(CancelReason("user", "the chat was deleted"))
        return position

    def attach(self, chat_id: str, *, name: str, media_type: str, content: bytes) -> Attachment:
        """Keep an attachment for a message that is to be sent: its `part` is a part of the message.

        Raises:
            TooLarge: it is larger than what is taken.
            BadAttachment: it is not what it is said to be.
        """
        self.state(chat_id)
        return self.attachments.add(chat_id, name=name, media_type=media_type, content=content)

    # Whoever answers

    def answer_with(self, answerer: Answerer | None) -> None:
        """Have what is asked for from now on answered by `answerer`; by nobody if it is None.

        Raises:
            RuntimeError: somebody else answers already.
        """
        self._holding.answer_with(answerer)

    def _ask(self, chat_id: str, run_id: str, entries: Asking) -> Asked:
        """Write what asks for an answer, and have it answered, unless this has been asked before."""
        self.state(chat_id)  # raises for a chat that is no more
        log = self._holding.open(chat_id, run_id)
        if isinstance(log, Asked):
            return log
        try:
            conversation = self._holding.mended(log).log.conversation
            said = conversation.message(said_id(run_id))
            # It is here and was not answered if the process died in between, and whoever asked asks again.
            for entry in entries(conversation) if said is None else [HeadMoved(said.id)]:
                log.append(entry)
            state = self.latest(chat_id)
            asked = Asked(run_id, state.shown_head_id or "", state.position)
        except BaseException:
            self._holding.give_back(chat_id, log)
            raise
        self._holding.have_answered(asked, state, log)
        return asked

    @contextmanager
    def _changing(self, chat_id: str) -> Iterator[tuple[ConversationLog, ChatState]]:
        """Hold the chat; nobody answers in it."""
        self.state(chat_id)
        log = self._holding.open(chat_id)
        assert isinstance(log, ConversationLog)
        try:
            yield log, self._holding.mended(log)
        finally:
            self._holding.give_back(chat_id, log)

    def _append(self, chat_id: str, entry: Callable[[ChatState], Entry]) -> int:
        """Append an entry that does not disturb a run."""
        while True:
            self._holding.check()
            answering = self._holding.answering(chat_id)
            if answering is None:
                with self._changing(chat_id) as (log, state):
                    log.append(entry(state))
                    return log.written
            try:
                answering.log.append(entry(self.state(chat_id)))
                return answering.log.written
            except StoreError:
                if self._holding.answering(chat_id) is answering:
                    raise
                # The run has ended and its log was closed, between our looking and our writing.


def _run_id(given: str | None) -> str:
    run_id = new_id() if given is None else given
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"a run's id has up to 64 letters, digits, - and _; not {run_id!r}")
    return run_id


def _dump(settings: Configuration) -> str:
    return msgspec.json.encode(settings).decode()
