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

`_state.py` is what a chat is at one position, `wrap.py` answers, `_peers.py` tells other processes.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec
from attrs import evolve, frozen

from aiwrapper._core.conversation import Conversation, RunReport, continue_
from aiwrapper._core.errors import AiwrapperError, Busy, StoreError
from aiwrapper._core.log import (
    Configured,
    Deleted,
    Entry,
    HeadMoved,
    RunStopped,
    Titled,
    UserMessageAdded,
)
from aiwrapper._core.messages import Message, UserMessage
from aiwrapper._core.text import well_formed
from aiwrapper.chat._attachments import Attachment, Attachments
from aiwrapper.chat._peers import Peers, Stop
from aiwrapper.chat._state import ChatState, Configuration, advanced, configuration
from aiwrapper.model_spec import Said, new_id, user_message
from aiwrapper.store import ConversationLog, ConversationSummary, Store, UnknownConversation
from cancel_token import CancelReason, CancelToken
from cancel_token.aio import run_sync, wait_cancelled

KEPT_STATES: Final = 128
"""How many chats are kept folded; by hand. Another one costs reading its log again."""

KEPT_STOPS: Final = 1_000
"""How many stops are remembered for runs that nobody has heard of; by hand."""

HANDOVER_SECONDS: Final = 2.0
"""How long a change waits for another process that is just giving the chat back; by hand."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

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


class Answering:
    """A run that has been asked for. Whoever answers drives it to its end, and then calls `release`.

    Attributes:
        chat_id: the chat.
        run_id: the id that the run has to have.
        message_id: the message that it goes on from.
        state: the chat as of now; its conversation ends with what is to be answered.
        token: the run's own. It may be cancelled already: then the run has to say so in the log, and do nothing.
        log: the held log, the run's sink.
    """

    def __init__(
        self, data: "ChatAppData", asked: Asked, state: ChatState, token: CancelToken, log: ConversationLog
    ) -> None:
        self._data = data
        self.chat_id: str = log.conversation_id
        self.run_id: str = asked.run_id
        self.message_id: str = asked.message_id
        self.asked = asked
        self.state = state
        self.token = token
        self.log = log

    def release(self) -> None:
        """Give the chat back. The run has ended."""
        self._data._release(self)


Answerer: TypeAlias = Callable[[Answering], None]
"""Begins to answer, and returns at once."""


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
        self._store = Store(path, busy_seconds=busy_seconds, on_written=self._written)
        self.attachments: Attachments = Attachments(Path(f"{path}-attachments"))
        self._closing = CancelToken(name="chats")
        self._lock = threading.Lock()  # guards what follows
        self._states: OrderedDict[str, ChatState] = OrderedDict()
        self._stops: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._owners: dict[str, str | None] = {}
        self._claimed: set[str] = set()  # chats that this process is changing, answering ones among them
        self._answering: dict[str, Answering] = {}
        self._answerer: Answerer | None = None
        self._listeners: dict[str, dict[CancelToken, None]] = {}
        self._observers: list[Callable[[str, int], object]] = []
        self._peers = Peers(Path(f"{path}-peers"), look=self._look, stop=self._stop_for_peer)

    def __enter__(self) -> "ChatAppData":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, and close the store. What is being answered should have been stopped before.

        Raises:
            StoreError: something that waited could not be written.
        """
        self.leave()
        self._peers.close()
        self._store.close()

    @property
    def closing(self) -> bool:
        """Whether `leave` or `close` has been called."""
        return self._closing.cancelled

    def leave(self) -> None:
        """Begin nothing new, and end all waits and streams. Stop what is answered before, so that they tell its end."""
        self._closing.cancel(CancelReason("shutdown", "the chats are being closed"))

    # Reading

    def list(self, *, owner: str | None = None) -> tuple[ConversationSummary, ...]:
        """The owner's chats in which something was said, the one written last first."""
        begun = [summary for summary in self._store.list() if summary.title or summary.preview]
        return tuple(summary for summary in begun if self.owner(summary.id) == owner)

    def owner(self, chat_id: str) -> str | None:
        """Whose chat it is: said when it was made, and never changed."""
        with self._lock:
            if chat_id in self._owners:
                return self._owners[chat_id]
        _, first = next(iter(self._store.entries(chat_id)), (0, None))
        owner = configuration(first.settings).owner if isinstance(first, Configured) else None
        with self._lock:
            self._owners[chat_id] = owner
        return owner

    def state(self, chat_id: str) -> ChatState:
        """The chat as it is in the store."""
        state = self.latest(chat_id)
        if state.log.deleted:
            raise UnknownConversation(f"There is no chat {chat_id!r} any more.")
        return state

    def latest(self, chat_id: str) -> ChatState:
        """The chat as it is in the store, even if it has been deleted."""
        with self._lock:
            known = self._states.get(chat_id, ChatState())
        state = advanced(known, self._store.entries(chat_id, after=known.position))
        with self._lock:
            newest = self._states.get(chat_id, state)
            if newest.position > state.position:
                state = newest
            self._states[chat_id] = state
            self._states.move_to_end(chat_id)
            while len(self._states) > KEPT_STATES:
                self._states.popitem(last=False)
        return state

    def state_at(self, chat_id: str, position: int) -> ChatState | None:
        """The chat as it was after so many entries; None if it has not had so many."""
        entries = ((number, entry) for number, entry in self._store.entries(chat_id) if number <= position)
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
        return _known(self.state(chat_id).conversation, message_id)

    def is_stopping(self, chat_id: str, run_id: str) -> bool:
        """Whether this process has been asked to stop the run."""
        with self._lock:
            answering = self._answering.get(chat_id)
            stopped = (chat_id, run_id) in self._stops
        return stopped or (answering is not None and answering.run_id == run_id and answering.token.cancelled)

    def is_answering(self, chat_id: str) -> bool:
        """Whether a run goes on in the chat, in this process."""
        with self._lock:
            return chat_id in self._answering

    def note_crash(self, chat_id: str) -> None:
        """If the chat's open run has died with its process, say so in its log: stopped, with the reason `crash`."""
        if self.state(chat_id).running is None or self._closing.cancelled:
            return
        log = self._claim(chat_id)
        if log is None:  # it goes on
            return
        try:
            self._mended(chat_id, log)
        finally:
            self._give_back(chat_id, log)

    # Being told

    def subscribe(self, observer: Callable[[str, int], object]) -> Callable[[], None]:
        """Be told of every change: which chat, and the number of the last entry that is in the store.

        Args:
            observer: called in the thread that wrote; it must be quick, not raise, and not use the store. A stop that
                was asked for is told, too, with the number 0: it is no entry.

        Returns:
            What ends it.
        """
        with self._lock:
            self._observers.append(observer)

        def unsubscribe() -> None:
            with self._lock, suppress(ValueError):
                self._observers.remove(observer)

        return unsubscribe

    @contextmanager
    def listening(self, chat_id: str, token: CancelToken) -> Iterator[CancelToken]:
        """A token that is cancelled when there may be something new: begin to listen, look, then wait on it.

        Args:
            chat_id: the chat.
            token: also cancels it.
        """
        with CancelToken.any(self._closing, token) as wake:
            with self._lock:
                self._listeners.setdefault(chat_id, {})[wake] = None
            try:
                yield wake
            finally:
                with self._lock:
                    listeners = self._listeners.get(chat_id, {})
                    listeners.pop(wake, None)
                    if not listeners:
                        self._listeners.pop(chat_id, None)

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
            self._check(token)

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
            self._check(token)

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
        self._check()
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
        message = user_message(said, message_id=_said_id(run_id))

        def entries(conversation: Conversation) -> Iterable[Entry]:
            yield evolve(message, parent_id=conversation.head_id)

        return self._ask(chat_id, run_id, entries)

    def edit_message(self, chat_id: str, message_id: str, said: Said, *, run_id: str | None = None) -> Asked:
        """Say something else instead of a user's message, on a new branch beside it, and have it answered.

        Raises:
            UnknownMessage: there is none of this id, or it is not the user's.
            Running: and the other errors of `send_message`.
        """
        run_id = _run_id(run_id)
        message = user_message(said, message_id=_said_id(run_id))

        def entries(conversation: Conversation) -> Iterable[Entry]:
            edited = _known(conversation, message_id)
            if not isinstance(edited, UserMessage):
                raise UnknownMessage(f"{message_id!r} is not the user's message")
            if edited.parent_id is None:
                yield HeadMoved(None)
            yield evolve(message, parent_id=edited.parent_id)

        return self._ask(chat_id, run_id, entries)

    def retry_message(self, chat_id: str, message_id: str, *, run_id: str | None = None) -> Asked:
        """Have a user's message answered anew, or the one before an answer. What was answered stays, as a branch.

        Raises:
            UnknownMessage: there is none of this id, or no user's message before it.
            Running: and the other errors of `send_message`.
        """

        def entries(conversation: Conversation) -> Iterable[Entry]:
            said: Message | None = _known(conversation, message_id)
            while said is not None and not isinstance(said, UserMessage):
                said = conversation.message(said.parent_id)
            if said is None:
                raise UnknownMessage(f"no user's message is before {message_id!r}")
            if conversation.head_id != said.id:
                yield HeadMoved(said.id)

        return self._ask(chat_id, _run_id(run_id), entries)

    def continue_message(self, chat_id: str, *, run_id: str | None = None) -> Asked:
        """Let the model go on behind the head, as `ChatAgent.continue_` does.

        Raises:
            UnknownMessage: nothing has been said yet.
            Running: and the other errors of `send_message`.
        """

        def entries(conversation: Conversation) -> Iterable[Entry]:
            if conversation.head is None:
                raise UnknownMessage("nothing has been said yet that the model could go on from")
            message = continue_(conversation)
            if message is not None:
                yield UserMessageAdded(
                    message.id, message.parts, parent_id=message.parent_id, synthetic=True, at=time.time()
                )

        return self._ask(chat_id, _run_id(run_id), entries)

    def stop_message(self, chat_id: str, run_id: str, message: str = "") -> StopReceipt:
        """Stop this run and no other. Never waits for it; any number of times.

        Args:
            chat_id: the chat.
            run_id: the run, whether it goes on, has ended, or has not been heard of yet.
            message: words for the log.
        """
        state = self.state(chat_id)
        report = state.run(run_id)
        if report is not None and report.status != "running":
            return StopReceipt("ended", report, running=self._running(chat_id, state))
        is_ours = self._stop_here(chat_id, run_id, message)
        if not is_ours:
            self._peers.stop(Stop(chat_id, run_id))
        stopping = is_ours or report is not None
        return StopReceipt("stopping" if stopping else "remembered", running=self._running(chat_id, state))

    def switch_branch(self, chat_id: str, message_id: str) -> int:
        """Go on from the newest leaf below a message, and return the position.

        Raises:
            UnknownMessage: there is none of this id.
            Running: and the other errors of `send_message`.
        """
        with self._changing(chat_id) as (log, state):
            conversation = state.log.conversation
            leaf = _newest_leaf(conversation, _known(conversation, message_id).id)
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
        with self._lock:
            answering = self._answering.get(chat_id)
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
        with self._lock:
            if answerer is not None and self._answerer is not None:
                raise RuntimeError("these chats are answered by another agent already")
            self._answerer = answerer

    def _ask(self, chat_id: str, run_id: str, entries: Callable[[Conversation], Iterable[Entry]]) -> Asked:
        """Write what asks for an answer, and have it answered, unless this has been asked before."""
        log = self._open(chat_id, run_id)
        if isinstance(log, Asked):
            return log
        try:
            conversation = self._mended(chat_id, log).log.conversation
            said = conversation.message(_said_id(run_id))
            # It is here and was not answered if the process died in between, and whoever asked asks again.
            for entry in entries(conversation) if said is None else [HeadMoved(said.id)]:
                log.append(entry)
            state = self.state(chat_id)
            asked = Asked(run_id, state.shown_head_id or "", state.position)
            answering = Answering(self, asked, state, CancelToken(name=f"run {run_id}"), log)
            with self._lock:
                answerer = self._answerer
                if answerer is not None:
                    self._answering[chat_id] = answering
                # In one step with becoming known: a stop finds the run, or the run finds the stop.
                stopped = (chat_id, run_id) in self._stops
        except BaseException:
            self._give_back(chat_id, log)
            raise
        if answerer is None:
            self._give_back(chat_id, log)
            return asked
        try:
            if stopped:
                answering.token.cancel(CancelReason("user"))
            answerer(answering)
        except BaseException:
            answering.release()
            raise
        return asked

    def _known_run(self, chat_id: str, run_id: str) -> Asked | None:
        """What was answered when this run was asked for; None if it was not."""
        with self._lock:
            answering = self._answering.get(chat_id)
        if answering is not None and answering.run_id == run_id:
            return answering.asked
        state = self.state(chat_id)
        if run_id not in state.origins:
            return None
        return Asked(run_id, state.origins.get(run_id) or "", state.position)

    @contextmanager
    def _changing(self, chat_id: str) -> Iterator[tuple[ConversationLog, ChatState]]:
        """Hold the chat; nobody answers in it."""
        log = self._open(chat_id)
        assert isinstance(log, ConversationLog)
        try:
            yield log, self._mended(chat_id, log)
        finally:
            self._give_back(chat_id, log)

    def _append(self, chat_id: str, entry: Callable[[ChatState], Entry]) -> int:
        """Append an entry that does not disturb a run."""
        while True:
            self._check()
            with self._lock:
                answering = self._answering.get(chat_id)
            if answering is None:
                with self._changing(chat_id) as (log, state):
                    log.append(entry(state))
                    return log.written
            try:
                answering.log.append(entry(self.state(chat_id)))
                return answering.log.written
            except StoreError:
                with self._lock:
                    if self._answering.get(chat_id) is answering:
                        raise
                # The run has ended and its log was closed, between our looking and our writing.

    def _open(self, chat_id: str, run_id: str | None = None) -> ConversationLog | Asked:
        """Hold the chat, or find out that `run_id` has been asked for before."""
        patience = CancelToken(timeout=HANDOVER_SECONDS)
        while True:
            self._check()
            with self.listening(chat_id, patience) as wake:
                known = None if run_id is None else self._known_run(chat_id, run_id)
                if known is not None:
                    return known
                log = self._claim(chat_id)
                if log is not None:
                    if run_id is None or self._known_run(chat_id, run_id) is None:
                        return log
                    self._give_back(chat_id, log)
                    continue
                running = self._running(chat_id, self.state(chat_id))
                if running is not None and running == run_id:
                    continue  # it has just been asked for
                if running is not None:
                    raise Running(running)
                # Somebody is just changing it, or is giving it back behind the end of a run.
                wake.wait()
            if patience.cancelled:
                raise Busy("Another process holds this chat. Close it there first, or try again.")

    def _claim(self, chat_id: str) -> ConversationLog | None:
        """Hold the chat if nobody does."""
        with self._lock:
            if chat_id in self._claimed:
                return None
            self._claimed.add(chat_id)
        try:
            return self._store.open(chat_id)
        except Busy:
            self._unclaim(chat_id)
            return None
        except BaseException:
            self._unclaim(chat_id)
            raise

    def _give_back(self, chat_id: str, log: ConversationLog) -> None:
        try:
            log.close()
        finally:
            self._unclaim(chat_id)

    def _release(self, answering: Answering) -> None:
        with self._lock:
            self._answering.pop(answering.chat_id, None)
            self._stops.pop((answering.chat_id, answering.run_id), None)
        self._give_back(answering.chat_id, answering.log)

    def _unclaim(self, chat_id: str) -> None:
        with self._lock:
            self._claimed.discard(chat_id)
        self._ring(chat_id)
        self._peers.look()

    def _mended(self, chat_id: str, log: ConversationLog) -> ChatState:
        """The held chat; a run that is open in it has died, because whoever runs it would hold it."""
        state = self.latest(chat_id)
        if state.running is None:
            return state
        log.append(RunStopped(state.running, reason="crash", at=time.time()))
        return self.latest(chat_id)

    def _running(self, chat_id: str, state: ChatState) -> str | None:
        """The run that is going on, also if its beginning is not in the log yet."""
        with self._lock:
            answering = self._answering.get(chat_id)
        if answering is not None and answering.run_id not in state.log.runs:
            return answering.run_id
        return state.running

    # Stopping and telling

    def _stop_here(self, chat_id: str, run_id: str, message: str) -> bool:
        """Stop the run if this process runs it, and remember it if not."""
        with self._lock:
            self._stops[chat_id, run_id] = None
            self._stops.move_to_end((chat_id, run_id))
            while len(self._stops) > KEPT_STOPS:
                self._stops.popitem(last=False)
            answering = self._answering.get(chat_id)
        if answering is None or answering.run_id != run_id:
            return False
        answering.token.cancel_and_report(CancelReason("user", message))
        self._tell(chat_id, 0)
        return True

    def _stop_for_peer(self, stop: Stop) -> None:
        self._stop_here(stop.chat_id, stop.run_id, "")

    def _written(self, chat_id: str, number: int) -> None:
        self._tell(chat_id, number)
        self._peers.look()

    def _look(self) -> None:
        """Another process has written something, in whichever chat."""
        with self._lock:
            listened = tuple(self._listeners)
        for chat_id in listened:
            self._ring(chat_id)

    def _tell(self, chat_id: str, number: int) -> None:
        self._ring(chat_id)
        with self._lock:
            observers = tuple(self._observers)
        for observer in observers:
            observer(chat_id, number)

    def _ring(self, chat_id: str) -> None:
        with self._lock:
            listeners = tuple(self._listeners.get(chat_id, ()))
        for wake in listeners:
            wake.cancel(CancelReason("user", "there may be something new"))

    def _check(self, token: CancelToken | None = None) -> None:
        if token is not None:
            token.check()
        if self._closing.cancelled:
            raise Leaving("The chats are being closed: nothing new is begun.")


def _run_id(given: str | None) -> str:
    run_id = new_id() if given is None else given
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"a run's id has up to 64 letters, digits, - and _; not {run_id!r}")
    return run_id


def _said_id(run_id: str) -> str:
    """The id of the user's message that a run was begun with: saying it again under the same run's id adds nothing."""
    return f"{run_id}.said"


def _known(conversation: Conversation, message_id: str) -> Message:
    message = conversation.message(message_id)
    if message is None:
        raise UnknownMessage(f"the chat has no message {message_id!r}")
    return message


def _newest_leaf(conversation: Conversation, message_id: str) -> str:
    """The message added last among those below a message that nothing follows; the message itself if none is."""
    leaf, below = message_id, {message_id}
    for message in conversation.all_messages:  # parents before their children
        if message.parent_id in below:
            below.add(message.id)
            leaf = message.id
    return leaf


def _dump(settings: Configuration) -> str:
    return msgspec.json.encode(settings).decode()
