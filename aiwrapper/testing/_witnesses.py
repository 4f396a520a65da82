"""What others saw of a run: its tools did what the log says, and its provider said what was told."""

from collections import Counter
from collections.abc import Iterator, Sequence

from aiwrapper._core.errors import ModelCallError
from aiwrapper._core.log import (
    Entry,
    RetryWaiting,
    TextDelta,
    ToolCallReady,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from aiwrapper._core.reply import Reply
from aiwrapper._core.validity import Violation
from aiwrapper.testing._evidence import Evidence
from aiwrapper.testing._next_request import KINDS
from aiwrapper.testing._provider import said
from aiwrapper.testing.scripts import HttpError, Turn


def unlike_the_tools(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[Violation]:
    """C7, S8: what the tools did is what the log says they did, and nothing ran that it does not name."""
    if evidence.effects is None:
        return
    names = {(entry.turn, entry.index): entry.name for entry in entries if isinstance(entry, ToolCallReady)}
    started = Counter(names[entry.turn, entry.index] for entry in entries if isinstance(entry, ToolStarted))
    called = Counter(effect.name for effect in evidence.effects)
    for name in called:
        if called[name] > started[name]:
            text = f"called {called[name]} times, and started {started[name]} times as the log says"
            yield Violation("S8", f"tool {name}", text)
    errors = Counter(
        names[entry.turn, entry.index]
        for entry in entries
        if isinstance(entry, ToolFinished) and entry.outcome == "raised"
    )
    errors -= Counter(effect.name for effect in evidence.effects if effect.raised)
    for name in errors:
        yield Violation("S6", f"tool {name}", "the log has an error of it, and it has raised none")
    told = Counter(
        (names[entry.turn, entry.index], entry.content)
        for entry in entries
        if isinstance(entry, ToolFinished) and entry.outcome == "returned"
    )
    done = Counter((each.name, each.returned) for each in evidence.effects if each.returned is not None)
    for name, content in told - done:
        yield Violation(
            "C7", f"tool {name}", f"the log has the result {content!r}, which it has not returned"
        )
    lost = done - told
    stop = evidence.result.stop
    lost -= Counter({each: 1 for each in lost if stop and each[0] in {call.name for call in stop.abandoned}})
    for name, returned in lost:
        yield Violation("C7", f"tool {name}", f"it has returned {returned!r}, which the log does not have")


def unlike_the_provider(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[Violation]:
    """S4, S8, C11, C13: what the provider was asked, and that its words are what was told."""
    if evidence.requests is None:
        return
    for request in evidence.requests:
        for broken in request.violations:
            yield Violation(
                "C13", f"requests[{request.number}]", f"refused for {broken.rule}: {broken.message}"
            )
    attempts: list[str] = []  # the text of each
    whole: list[bool] = []
    dialects: list[str] = []
    for entry in entries:
        match entry:
            case TurnStarted() | RetryWaiting():
                attempts.append("")
                whole.append(False)
                dialects.append(entry.producer.dialect if isinstance(entry, TurnStarted) else dialects[-1])
            case TextDelta():
                attempts[-1] += entry.text
            case TurnFinished():
                whole[-1] = True
            case _:
                pass
    if len(evidence.requests) > len(attempts):
        text = f"{len(evidence.requests)} requests, and the log permits {len(attempts)}"
        yield Violation("S8", "requests", text)
    for number, answer in enumerate(evidence.answered[: len(attempts)]):
        text = attempts[number]
        if isinstance(answer, HttpError) and text:
            yield Violation("C11", f"answered[{number}]", f"{text!r} was told of an error")
        if isinstance(answer, Turn):
            words = said(answer).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if text != words and (whole[number] or not words.startswith(text)):
                yield Violation("C11", f"answered[{number}]", f"told was {text!r}, and said {words!r}")
    for number, body in enumerate(evidence.taken[: len(attempts)]):
        heard = _text_of(body, dialects[number])
        if not attempts[number].startswith(heard):
            text = f"told was {attempts[number]!r}, and {heard!r} had been received and done with"
            yield Violation("C11", f"taken[{number}]", text)


def _text_of(body: bytes, dialect_name: str) -> str:
    """The text that the beginning of a body says."""
    dialect = next(each for each in KINDS if each.name == dialect_name)
    text = ""
    try:
        for entry in Reply(dialect.decoder(), "", 0).feed(body):
            if isinstance(entry, TextDelta):
                text += entry.text
    except ModelCallError:
        pass  # what comes before it counts
    return text
