"""The core rules of a conversation: which are broken, and how to mend them.

A conversation that was folded from a log is valid by construction. This is for histories from elsewhere: a
provider's own messages through `Dialect.decode`, an older program's, a file somebody edited.

Both look at the messages from the first to the head. The rules are C1 to C9 and C12 of
docs/conversations.md, as far as one conversation can tell; `changes` judges what happened between two (C9,
C10, C12). C11 needs the log.
"""

from collections.abc import Iterator
from typing import Final, assert_never, get_args

from attrs import evolve, frozen

from aiwrapper._core.conversation import Conversation, is_empty_part
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    CutCall,
    Message,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolResult,
    UserMessage,
)
from aiwrapper._core.text import is_blank, is_json_object
from aiwrapper._core.turns import SYNTHETIC_RESULTS

LOST_CALL: Final = "lost_call"
"""The name of a call that is put before a real result whose own call is nowhere in the history."""

UNKNOWN: Final = Producer("unknown", "unknown", model="unknown")
"""Who said a message that `repair` had to write."""

NO_RESULT_RECORDED: Final = (
    "No result of this call was recorded. It may have been executed in part, in full or not at all; find out "
    "before you repeat it."
)
"""What a model is told of a call in a history from elsewhere: nobody knows whether it was started (C7)."""


@frozen
class Violation:
    """A broken rule.

    Args:
        rule: its id, such as `C1` or `OC4`; docs/conversations.md lists them.
        where: a path into the conversation or request, such as `messages[3].content[0]`.
        message: what is wrong; for a wire rule, in the provider's own words.
    """

    rule: str
    where: str
    message: str


def validate(conversation: Conversation) -> list[Violation]:
    """Every core rule that the messages from the first to the head break; [] if none."""
    return list(_violations(conversation.messages))


def _violations(messages: tuple[Message, ...]) -> Iterator[Violation]:
    call_ids: set[str] = set()
    answered: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        before = messages[index - 1] if index else None
        after = messages[index + 1] if index + 1 < len(messages) else None
        match message:
            case UserMessage():
                yield from _user_violations(message, where)
            case AssistantMessage():
                yield from _assistant_violations(message, where)
                for call in message.calls:
                    if call.id in call_ids:
                        yield Violation("C3", where, f"the call id {call.id!r} is used a second time")
                    call_ids.add(call.id)
                results = after.results if isinstance(after, ToolMessage) else ()
                missing = {call.id for call in message.calls} - {result.call_id for result in results}
                if missing:
                    text = f"calls without a result in the next message: {', '.join(sorted(missing))}"
                    yield Violation("C1", where, text)
            case ToolMessage():
                calls = before.calls if isinstance(before, AssistantMessage) else ()
                for position, result in enumerate(message.results):
                    at = f"{where}.results[{position}]"
                    if result.call_id not in {call.id for call in calls}:
                        text = f"the message before it has no call {result.call_id!r}"
                        yield Violation("C2", at, text)
                    if result.call_id in answered:
                        yield Violation("C3", at, f"a second result for the call {result.call_id!r}")
                    answered.add(result.call_id)
                yield from _tool_violations(message, [call.id for call in calls], where)
            case _:
                assert_never(message)


def _user_violations(message: UserMessage, where: str) -> Iterator[Violation]:
    if not message.parts:
        yield Violation("C5", where, "the message has no parts")
    for position, part in enumerate(message.parts):
        if is_empty_part(part):
            yield Violation("C5", f"{where}.parts[{position}]", "the part has nothing in it")


def _assistant_violations(message: AssistantMessage, where: str) -> Iterator[Violation]:
    if not message.parts:
        yield Violation("C5", where, "the message has no parts")
        if message.stopped:
            yield Violation("C12", where, "a message that says nothing is marked as stopped")
    for position, part in enumerate(message.parts):
        at = f"{where}.parts[{position}]"
        match part:
            case Text():
                if is_blank(part.text):
                    yield Violation("C5", at, "the text is empty or only white space")
            case Reasoning():
                if part.opaque is None and is_blank(part.text):
                    yield Violation("C5", at, "the reasoning shows nothing and carries nothing")
                if part.opaque is not None and not part.complete:
                    yield Violation(
                        "C8", at, "partial reasoning carries a payload that vouches for the whole"
                    )
            case ToolCall():
                if not is_json_object(part.arguments):
                    text = f"the arguments of the call {part.id!r} are no JSON object"
                    yield Violation("C6", at, text)
            case _:
                assert_never(part)


def _tool_violations(message: ToolMessage, call_ids: list[str], where: str) -> Iterator[Violation]:
    if not message.results:
        yield Violation("C5", where, "the message has no results")
    ids = [result.call_id for result in message.results]
    if sorted(ids) == sorted(call_ids) and ids != call_ids:
        yield Violation("C4", where, "the results do not stand in the order of their calls")
    for position, result in enumerate(message.results):
        at = f"{where}.results[{position}]"
        if result.outcome not in get_args(ToolOutcome):
            yield Violation("C7", at, f"{result.outcome!r} is no outcome")
        elif result.outcome in SYNTHETIC_RESULTS and is_blank(result.content):
            yield Violation("C7", at, f"a call that ended as {result.outcome!r} does not say so")


def changes(before: Conversation, after: Conversation) -> list[Violation]:
    """Every rule that was broken on the way from one conversation to a later one of the same log.

    A conversation only grows: no message of `before` may be missing (C9 for a user's, C10), changed (C10) or
    marked differently (C12). Moving the head is no change.
    """
    found: list[Violation] = []
    for index, old in enumerate(before.all_messages):
        where = f"all_messages[{index}]"
        new = after.message(old.id)
        if new is old:
            continue
        if new is None:
            rule = "C9" if isinstance(old, UserMessage) else "C10"
            found.append(Violation(rule, where, f"the message {old.id!r} is gone"))
        elif _is_stopped(new) != _is_stopped(old):
            found.append(Violation("C12", where, f"the message {old.id!r} is marked differently"))
        else:
            found.append(Violation("C10", where, f"the message {old.id!r} is another object"))
    return found


def _is_stopped(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and message.stopped


def repair(conversation: Conversation) -> Conversation:
    """The conversation with every broken rule mended; the same object if none is broken.

    Deterministic and idempotent. It loses no user's text and no real result: a result in the wrong place is
    put behind its call, and one whose call is nowhere is put behind a call of the name `lost_call`. A call
    without a result gets one which says that nobody knows (C7). What has nothing in it goes; a call whose
    arguments are no JSON object becomes a `CutCall`, unless it has a real result, which shows that it
    was made: then it stays, with `{}`.

    A repaired conversation has the messages from the first to the head and no other branch.
    """
    messages = conversation.messages
    if not any(_violations(messages)):
        return conversation
    return evolve(Conversation.of(_Repair(messages).mended()), spent=conversation.spent)


class _Repair:
    """The repair of one history, in two passes: which result belongs to which call, then the new messages."""

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self._messages = messages
        self._message_ids = {message.id for message in messages}
        self._call_ids: set[str] = set()
        # By the places (message, part) and (message, result), because ids may repeat (C3).
        self._answers: dict[tuple[int, int], ToolResult] = {}
        self._lost: set[tuple[int, int]] = set()
        self._match()

    def _match(self) -> None:
        """Gives every result to the nearest call before it that has its id and no real result yet."""
        open_calls: dict[str, list[tuple[int, int]]] = {}  # by id, the newest last
        for index, message in enumerate(self._messages):
            if isinstance(message, AssistantMessage):
                for position, part in enumerate(message.parts):
                    if isinstance(part, ToolCall):
                        open_calls.setdefault(part.id, []).append((index, position))
            elif isinstance(message, ToolMessage):
                for position, result in enumerate(message.results):
                    self._give(result, (index, position), open_calls.get(result.call_id, []))

    def _give(self, result: ToolResult, place: tuple[int, int], calls: list[tuple[int, int]]) -> None:
        real = result.outcome not in SYNTHETIC_RESULTS
        for call in reversed(calls):
            known = self._answers.get(call)
            if known is None or (real and known.outcome in SYNTHETIC_RESULTS):
                self._answers[call] = result
                return
        # Nobody misses a second synthetic one, or the same words again.
        if real and all(self._answers[call].content != result.content for call in calls):
            self._lost.add(place)

    def mended(self) -> Iterator[Message]:
        for index, message in enumerate(self._messages):
            match message:
                case UserMessage():
                    parts = tuple(part for part in message.parts if not is_empty_part(part))
                    if parts:
                        yield message if parts == message.parts else evolve(message, parts=parts)
                case AssistantMessage():
                    yield from self._mended_assistant(index, message)
                case ToolMessage():
                    lost = [
                        result
                        for position, result in enumerate(message.results)
                        if (index, position) in self._lost
                    ]
                    if lost:
                        yield from self._lost_calls(message, lost)
                case _:
                    assert_never(message)

    def _mended_assistant(self, index: int, message: AssistantMessage) -> Iterator[Message]:
        parts: list[AssistantPart] = []
        cut_calls = list(message.cut_calls)
        results: list[ToolResult] = []
        for position, part in enumerate(message.parts):
            match part:
                case Text():
                    if not is_blank(part.text):
                        parts.append(part)
                case Reasoning():
                    if part.opaque is not None and not part.complete:
                        part = evolve(part, opaque=None)
                    if part.opaque is not None or not is_blank(part.text):
                        parts.append(part)
                case ToolCall():
                    answer = self._answers.get((index, position))
                    if not is_json_object(part.arguments):
                        cut_calls.append(CutCall(part.name, part.arguments))
                        if answer is None or answer.outcome in SYNTHETIC_RESULTS:
                            continue
                        part = evolve(part, arguments="{}")
                    part = evolve(part, id=self._free_call_id(part.id))
                    parts.append(part)
                    results.append(_truthful(part.id, answer))
                case _:
                    assert_never(part)
        if not parts:
            return
        yield evolve(message, parts=tuple(parts), cut_calls=tuple(cut_calls))
        if results:
            after = self._messages[index + 1] if index + 1 < len(self._messages) else None
            # The id stays where the message does, so that what a page shows stays where it is.
            own = (isinstance(after, ToolMessage) and after.id) or self._free_message_id(
                f"{message.id}.results"
            )
            yield ToolMessage(own, tuple(results))

    def _lost_calls(self, message: ToolMessage, lost: list[ToolResult]) -> Iterator[Message]:
        results = tuple(evolve(result, call_id=self._free_call_id(result.call_id)) for result in lost)
        calls = tuple(ToolCall(result.call_id, LOST_CALL, arguments="{}") for result in results)
        assistant = AssistantMessage(self._free_message_id(f"{message.id}.calls"), calls, producer=UNKNOWN)
        yield assistant
        yield ToolMessage(self._free_message_id(f"{assistant.id}.results"), results)

    def _free_call_id(self, call_id: str) -> str:
        while call_id in self._call_ids:
            call_id += "'"
        self._call_ids.add(call_id)
        return call_id

    def _free_message_id(self, message_id: str) -> str:
        while message_id in self._message_ids:
            message_id += "'"
        self._message_ids.add(message_id)
        return message_id


def _truthful(call_id: str, answer: ToolResult | None) -> ToolResult:
    if answer is None:
        return ToolResult(call_id, NO_RESULT_RECORDED, outcome="interrupted_running")
    outcome: ToolOutcome = answer.outcome if answer.outcome in get_args(ToolOutcome) else "returned"
    content = answer.content
    if is_blank(content):
        content = SYNTHETIC_RESULTS.get(outcome, content)
    return evolve(answer, call_id=call_id, content=content, outcome=outcome)
