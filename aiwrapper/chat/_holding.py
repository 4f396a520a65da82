"""Who holds which chat: one who changes it or answers in it at a time, in all processes.

The lease of the store is the one lock. Within this process a claim stands before it, so that a thread of ours that is
just giving a chat back is told from another process that runs something.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiwrapper._core.conversation import RunReport
from aiwrapper._core.errors import Busy
from aiwrapper._core.log import RunStopped
from aiwrapper.chat._answering import Answerer, Answering, Asked, Leaving, Running, StopReceipt
from aiwrapper.chat._peers import Peers, Stop
from aiwrapper.chat._state import ChatState, advanced
from aiwrapper.chat._telling import Telling
from aiwrapper.store import ConversationLog, Store, Written
from cancel_token import CancelReason, CancelToken

KEPT_STATES: Final = 32
"""How many chats are kept folded besides those that are followed or answered; by hand. Another one costs reading its
log again."""

KEPT_NEWS: Final = 1_000
"""How many transactions are kept for whoever follows a chat and has not taken them; by hand. After more than that it is
read from the store."""

KEPT_STOPS: Final = 1_000
"""How many stops are remembered for runs that nobody has heard of; by hand."""

HANDOVER_SECONDS: Final = 2.0
"""How long a change waits for somebody who is just giving the chat back; by hand."""


class Holding:
    """The chats of one store, and what this process holds of them.

    Args:
        path: the store's file.
        busy_seconds: how long a change waits while other processes write to the file.
    """

    def __init__(self, path: Path, *, busy_seconds: float) -> None:
        self.store: Store = Store(path, busy_seconds=busy_seconds, on_written=self._written)
        self.telling: Telling = Telling()
        self._lock = threading.Lock()  # guards what follows
        self._states: OrderedDict[str, ChatState] = OrderedDict()
        self._news: dict[
            str, list[Written]
        ] = {}  # of chats that are followed: written since they were looked at
        self._stops: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._claimed: set[str] = set()  # chats that this process is changing, answering ones among them
        self._answering: dict[str, Answering] = {}
        self._answerer: Answerer | None = None
        self._peers = Peers(Path(f"{path}-peers"), look=self._look, stop=self._stop_for_peer)

    def close(self) -> None:
        """Leave, and close the store."""
        self.telling.leave()
        self._peers.close()
        self.store.close()

    def check(self) -> None:
        """Raise `Leaving` if nothing new may be begun."""
        if self.telling.left:
            raise Leaving("The chats are being closed: nothing new is begun.")

    # What there is

    def latest(self, chat_id: str) -> ChatState:
        """The chat as it is in the store, even if it has been deleted."""
        known = self._known(chat_id)
        answering = self.answering(chat_id)
        if answering is not None and answering.log.written == known.position:
            return self._keep(chat_id, known)  # nobody else appends to it
        return self._keep(chat_id, advanced(known, self.store.entries(chat_id, after=known.position)))

    def latest_nowait(self, chat_id: str) -> ChatState | None:
        """The chat as far as followers have been told; None if only the store knows. Never blocks."""
        known = self._known(chat_id)
        answering = self.answering(chat_id)
        if answering is None or not known.position:
            return None
        with self._lock:
            if chat_id in self._news:  # something is missing in between
                return None
        return self._keep(chat_id, known)

    def _known(self, chat_id: str) -> ChatState:
        """The chat as it was last time, and what has been written since, as far as it joins on."""
        with self._lock:
            state = self._states.get(chat_id, ChatState())
            news = sorted(self._news.pop(chat_id, ()), key=_number)
        for place, written in enumerate(news):
            first = written.number - len(written.entries) + 1
            if first > state.position + 1:
                with self._lock:
                    self._news.setdefault(chat_id, []).extend(news[place:])
                break
            new = enumerate(written.entries[state.position + 1 - first :], state.position + 1)
            state = advanced(state, new)
        return state

    def _keep(self, chat_id: str, state: ChatState) -> ChatState:
        """Keep the state for next time, or find a newer one."""
        in_use = self.telling.listened()
        with self._lock:
            newest = self._states.get(chat_id, state)
            if newest.position > state.position:
                state = newest
            self._states[chat_id] = state
            self._states.move_to_end(chat_id)
            if chat_id in self._news:
                self._news[chat_id] = [each for each in self._news[chat_id] if each.number > state.position]
                if not self._news[chat_id]:
                    del self._news[chat_id]
            idle = [each for each in self._states if each not in in_use and each not in self._answering]
            for each in idle[: max(0, len(idle) - KEPT_STATES)]:  # the ones not asked for the longest
                del self._states[each]
                self._news.pop(each, None)
        return state

    def answering(self, chat_id: str) -> Answering | None:
        """The run that goes on in the chat in this process, also if its beginning is not in the log yet."""
        with self._lock:
            return self._answering.get(chat_id)

    def running(self, chat_id: str, state: ChatState) -> str | None:
        """The id of the run that goes on in the chat, in whichever process."""
        answering = self.answering(chat_id)
        if answering is not None and answering.run_id not in state.log.runs:
            return answering.run_id
        return state.running

    def asked_before(self, chat_id: str, run_id: str) -> Asked | None:
        """What was answered when this run was asked for; None if it was not."""
        answering = self.answering(chat_id)
        if answering is not None and answering.run_id == run_id:
            return answering.asked
        state = self.latest(chat_id)
        if run_id not in state.origins:
            return None
        return Asked(run_id, state.origins.get(run_id) or "", state.position)

    # Holding

    def claim(self, chat_id: str) -> ConversationLog | None:
        """Hold the chat if nobody does."""
        with self._lock:
            if chat_id in self._claimed:
                return None
            self._claimed.add(chat_id)
        try:
            return self.store.open(chat_id)
        except Busy:
            self._unclaim(chat_id)
            return None
        except BaseException:
            self._unclaim(chat_id)
            raise

    def open(self, chat_id: str, run_id: str | None = None) -> ConversationLog | Asked:
        """Hold the chat, or find out that `run_id` has been asked for before.

        Raises:
            Running: a run is going on.
            Busy: another process holds it.
            Leaving: nothing new is begun.
        """
        patience = CancelToken(timeout=HANDOVER_SECONDS)
        while True:
            self.check()
            with self.telling.listening(chat_id, patience) as wake:
                asked = None if run_id is None else self.asked_before(chat_id, run_id)
                if asked is not None:
                    return asked
                log = self.claim(chat_id)
                if log is not None:
                    if run_id is None or self.asked_before(chat_id, run_id) is None:
                        return log
                    self.give_back(chat_id, log)
                    continue
                running = self.running(chat_id, self.latest(chat_id))
                if running is not None and running == run_id:
                    continue  # it has just been asked for
                if running is not None:
                    raise Running(running)
                # Somebody is just changing it, or is giving it back behind the end of a run.
                wake.wait()
            if patience.cancelled:
                raise Busy("Another process holds this chat. Close it there first, or try again.")

    def mended(self, log: ConversationLog) -> ChatState:
        """The held chat; a run that is open in it has died, because whoever runs it would hold it."""
        chat_id = log.conversation_id
        state = self.latest(chat_id)
        if state.running is None:
            return state
        log.append(RunStopped(state.running, reason="crash", at=time.time()))
        return self.latest(chat_id)

    def give_back(self, chat_id: str, log: ConversationLog) -> None:
        """Let others have the chat.

        Raises:
            StoreError: what still waited to be written is lost. The chat is free nevertheless.
        """
        try:
            log.close()
        finally:
            self._unclaim(chat_id)

    def _unclaim(self, chat_id: str) -> None:
        with self._lock:
            self._claimed.discard(chat_id)
        self.telling.wake((chat_id,))
        self._peers.look()

    # Answering

    def answer_with(self, answerer: Answerer | None) -> None:
        """Have what is asked for from now on answered by `answerer`; by nobody if it is None."""
        with self._lock:
            if answerer is not None and self._answerer is not None:
                raise RuntimeError("these chats are answered by another agent already")
            self._answerer = answerer

    def have_answered(self, asked: Asked, state: ChatState, log: ConversationLog) -> None:
        """Begin the run, or give the chat back if nobody answers."""
        chat_id = log.conversation_id
        token = CancelToken(name=f"run {asked.run_id}")
        answering = Answering(asked, state, token, log, self._ended)
        with self._lock:
            answerer = self._answerer
            if answerer is not None:
                self._answering[chat_id] = answering
            # In one step with becoming known: a stop finds the run, or the run finds the stop.
            stopped = (chat_id, asked.run_id) in self._stops
        if answerer is None:
            self.give_back(chat_id, log)
            return
        try:
            if stopped:
                token.cancel(CancelReason("user"))
            answerer(answering)
        except BaseException:
            answering.release()
            raise

    def _ended(self, answering: Answering) -> None:
        with self._lock:
            if self._answering.get(answering.chat_id) is not answering:
                return  # given back before: the chat may be somebody else's by now
            del self._answering[answering.chat_id]
        self._forget_stop(answering.chat_id, answering.run_id)
        self.give_back(answering.chat_id, answering.log)

    # Stopping

    def stop(self, chat_id: str, run_id: str, message: str) -> StopReceipt:
        """Stop this run and no other, wherever it is."""
        is_ours = self.stop_nowait(chat_id, run_id, message)  # first of all: reading the log may take a while
        state = self.latest(chat_id)
        report: RunReport | None = state.run(run_id)
        running = self.running(chat_id, state)
        if report is not None and report.status != "running":
            if not is_ours:
                self._forget_stop(chat_id, run_id)
            return StopReceipt("ended", report, running)
        if not is_ours:
            self._peers.stop(Stop(chat_id, run_id))
        return StopReceipt("stopping" if is_ours or report is not None else "remembered", None, running)

    def is_stopping(self, chat_id: str, run_id: str) -> bool:
        """Whether this process has been asked to stop the run, or stops it by itself."""
        with self._lock:
            answering = self._answering.get(chat_id)
            stopped = (chat_id, run_id) in self._stops
        return stopped or (answering is not None and answering.run_id == run_id and answering.token.cancelled)

    def stop_nowait(self, chat_id: str, run_id: str, message: str = "") -> bool:
        """Stop the run if this process runs it, and remember it if not; whether it does. Never blocks."""
        with self._lock:
            is_new = (chat_id, run_id) not in self._stops
            self._stops[chat_id, run_id] = None
            self._stops.move_to_end((chat_id, run_id))
            while len(self._stops) > KEPT_STOPS:
                self._stops.popitem(last=False)
            answering = self._answering.get(chat_id)
        is_ours = answering is not None and answering.run_id == run_id
        if answering is not None and is_ours:
            answering.token.cancel_soon(CancelReason("user", message))
        if is_new:
            self.telling.tell({chat_id: 0})
        return is_ours

    def _forget_stop(self, chat_id: str, run_id: str) -> None:
        """The run has ended: no stop waits for it."""
        with self._lock:
            self._stops.pop((chat_id, run_id), None)

    def _stop_for_peer(self, stop: Stop) -> None:
        self.stop_nowait(stop.chat_id, stop.run_id)

    # Telling

    def _written(self, written: Mapping[str, Written]) -> None:
        followed = self.telling.listened() & written.keys()
        if followed:
            with self._lock:
                for chat_id in followed:
                    news = self._news.setdefault(chat_id, [])
                    news.append(written[chat_id])
                    del news[:-KEPT_NEWS]
        self.telling.tell({chat_id: each.number for chat_id, each in written.items()})
        self._peers.look()

    def _look(self) -> None:
        """Another process has written something, in whichever chat."""
        self.telling.wake(self.telling.listened())


def _number(written: Written) -> int:
    return written.number
