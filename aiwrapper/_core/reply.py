"""One turn of a model: feed its bytes, get log entries one by one.

    bytes --SseDecoder--> events --TurnDecoder--> deltas --Reply--> log entries

Pure, and it knows no token: whoever drives it looks at the token before it takes each entry, and appends an
entry before it takes the next. What has not been taken has not happened. Since there are lines and events without an
entry, it is also given a way to look, which it uses at each of them.

When a call exists (C6). Only a `CallEnd`, with which the provider finishes a call, makes it exist; then its
arguments are one of three things.

1. The JSON text of an object: the call is ready. An object is never the beginning of another object, so it is
   whole however the turn ends.
2. Nothing: what most providers say for a tool without parameters, and what is left of a call that was cut at
   its first letter. Which of the two it is, the end of the turn says: `{}` if the turn ended by itself, no
   call if the provider cut it (`TurnEnd.cut`).
3. Anything else. If the provider cut the turn, it is a cut call. If not, the model itself has said it, and it
   has to hear so or it will not try again: the call is ready with the arguments `{}`, because every wire wants
   an object here for ever after (A3, OC3), and directly followed by its result `invalid_arguments`, which
   quotes the text, so that no handler is ever called with those braces. The text itself stays in the log as
   the call's arguments deltas.
"""

from collections.abc import Callable, Iterator
from typing import assert_never

from aiwrapper._core.dialect import (
    CallArguments,
    CallEnd,
    CallStart,
    Delta,
    ReasoningEnd,
    ReasoningPiece,
    TextPiece,
    TurnDecoder,
    TurnEnd,
    UsageUpdate,
)
from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    ReasoningDelta,
    ReasoningFinished,
    TextDelta,
    ToolCallArguments,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    TurnEntry,
    TurnFinished,
    UsageReported,
)
from aiwrapper._core.sse import MAX_EVENT_BYTES, SseDecoder
from aiwrapper._core.text import is_json_object, well_formed

_QUOTED_CHARACTERS = 2_000
"""How much of arguments that are no object is told to the model; chosen by hand, it has said them itself."""


class _Call:
    """A call that is being said."""

    __slots__ = ("arguments", "index", "name", "payload", "provider_id")

    def __init__(self, index: int, name: str, provider_id: str | None) -> None:
        self.index = index
        self.name = name
        self.provider_id = provider_id
        self.arguments: list[str] = []
        self.payload: str | None = None


class Reply:
    """One model turn, from bytes to entries. Not thread-safe; made for one turn.

    It gives everything of the turn but `TurnStarted`, which the driver appends before it asks, and ends with
    `TurnFinished`. After that, whatever still arrives is dropped.

    Args:
        decoder: a fresh one, of the dialect that is spoken.
        run_id: the run.
        turn: its number in the run.
        max_event_bytes: how large one server-sent event may be.
        look: called at each event, each delta of it, and each line beyond the usual ones. What it raises ends the turn:
            nothing more may be fed.
    """

    def __init__(
        self,
        decoder: TurnDecoder,
        run_id: str,
        turn: int,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self._decoder = decoder
        self._sse = SseDecoder(max_event_bytes=max_event_bytes, look=look)
        self._look = look
        self._run_id = run_id
        self._turn = turn
        self._calls: dict[int, _Call] = {}  # by the dialect's key, until they are ready
        self._doubtful: list[_Call] = []  # finished, with arguments that the end of the turn has to explain
        self._next_index = 0
        self._has_bytes = False
        self._has_events = False
        self.started = False
        """Whether anything of the answer has been given: then the request must not be sent again."""
        self.finished = False
        """Whether the turn is whole: then the rest of the body need not be read."""

    def feed(self, chunk: bytes, /) -> Iterator[TurnEntry]:
        """Give the entries that `chunk` completes, one by one; to be exhausted before the next chunk is fed.

        Raises:
            ModelCallError: the provider reports an error, the data are not what the dialect promises, or an
                event is larger than `max_event_bytes`. The entries given before stay true.
        """
        if chunk:
            self._has_bytes = True
        decode, run_id, turn, look = self._decoder.decode, self._run_id, self._turn, self._look
        for event in self._sse.feed(chunk):
            if self.finished:
                return
            self._has_events = True
            look()
            for delta in decode(event):
                look()
                if type(delta) is TextPiece:  # nearly every delta of an answer
                    self.started = True
                    yield TextDelta(run_id, turn, text=delta.text)
                else:
                    yield from self._entries(delta)

    def finish(self) -> Iterator[TurnEntry]:
        """The body has ended: give what was held back. Nothing, if the turn had been finished.

        Raises:
            ModelCallError: the turn is not whole (kind `network`), or the body held no events (`protocol`).
        """
        if self.finished:
            return
        if self._has_bytes and not self._has_events:
            raise ModelCallError("the answer is no stream of server-sent events", kind="protocol")
        for delta in self._decoder.end():
            yield from self._entries(delta)

    def _entries(self, delta: Delta) -> Iterator[TurnEntry]:
        if type(delta) is not UsageUpdate:  # a later report of the turn replaces it, so it may come twice
            self.started = True
        run_id, turn = self._run_id, self._turn
        match delta:
            case TextPiece(text):
                yield TextDelta(run_id, turn, text=text)
            case ReasoningPiece(text):
                yield ReasoningDelta(run_id, turn, text=text)
            case ReasoningEnd(payload):
                yield ReasoningFinished(run_id, turn, payload=payload)
            case CallStart(key, name, provider_id):
                assert key not in self._calls, f"the dialect began call {key!r} twice"
                call = self._calls[key] = _Call(self._next_index, name, provider_id)
                self._next_index += 1
                yield ToolCallStarted(run_id, turn, call.index, name=name, provider_id=provider_id)
            case CallArguments(key, text):
                call = self._calls[key]
                call.arguments.append(text)
                yield ToolCallArguments(run_id, turn, call.index, text=text)
            case CallEnd(key, payload):
                call = self._calls[key]
                call.payload = payload
                arguments = "".join(call.arguments)
                if is_json_object(arguments):
                    yield self._ready(call, arguments)
                else:
                    self._doubtful.append(call)
            case UsageUpdate(usage):
                yield UsageReported(run_id, turn, usage=usage)
            case TurnEnd(finish_reason, cut):
                if not cut:
                    for call in self._doubtful:
                        yield from self._explained(call)
                self.finished = True
                yield TurnFinished(run_id, turn, finish_reason=finish_reason)
            case _:
                assert_never(delta)

    def _explained(self, call: _Call) -> Iterator[TurnEntry]:
        """Case 2 and 3 of the module's docstring, for a turn that ended by itself."""
        text = "".join(call.arguments)
        yield self._ready(call, "{}")
        if text.strip():
            quoted = well_formed(text[:_QUOTED_CHARACTERS])
            if len(text) > _QUOTED_CHARACTERS:
                quoted += f"... ({len(text)} characters in all)"
            yield ToolFinished(
                self._run_id,
                self._turn,
                call.index,
                outcome="invalid_arguments",
                content=f"The arguments of this call are no JSON object, so it was not carried out: {quoted}",
            )

    def _ready(self, call: _Call, arguments: str) -> ToolCallReady:
        return ToolCallReady(
            self._run_id,
            self._turn,
            call.index,
            name=call.name,
            arguments=arguments,
            provider_id=call.provider_id,
            payload=call.payload,
        )
