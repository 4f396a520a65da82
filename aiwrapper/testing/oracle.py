"""The conversation oracle: whether a run that has ended, however it ended, kept every rule.

    evidence = Evidence(result=result, before=conversation, heard=[subscriber.log], token=token)
    assert_rules_kept(evidence)

Each rule has one home elsewhere (`validate`, `changes`, `Dialect.violations`, the fold); here they are asked together,
and what no value can tell by itself is compared with the log by a twin that reads it without a state. The ids are those
of docs/conversations.md. Threads, sockets and tasks (R1) are the business of `cancel_token.testing`.

What the evidence leaves out is not judged: the more of it there is, the more is proved.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from aiwrapper._core.budget import Spent
from aiwrapper._core.conversation import State, fold, run_report, settle
from aiwrapper._core.log import (
    Entry,
    RetryWaiting,
    RunFailed,
    RunFinished,
    RunStopped,
    ToolCallReady,
    ToolUsageReported,
    TurnFinished,
    TurnStarted,
    UsageReported,
)
from aiwrapper._core.log_json import dump_log, load_log
from aiwrapper._core.messages import Message, ToolMessage, Usage
from aiwrapper._core.text import is_json_object
from aiwrapper._core.validity import Violation, changes, repair, validate
from aiwrapper._run_result import RunResult
from aiwrapper.testing._evidence import Effect as Effect
from aiwrapper.testing._evidence import Evidence as Evidence
from aiwrapper.testing._log_twin import untold
from aiwrapper.testing._next_request import refused_next as refused_next
from aiwrapper.testing._witnesses import unlike_the_provider, unlike_the_tools
from cancel_token import CancelToken
from cancel_token import testing as cancel_testing

_TERMINAL = (RunFinished, RunStopped, RunFailed)
_STATUS: Final = {RunFinished: "completed", RunStopped: "stopped", RunFailed: "failed"}


def assert_rules_kept(evidence: Evidence) -> None:
    """Fail unless the run kept every rule.

    Raises:
        cancel_token.testing.Violation: it did not; named by the first rule broken, with all of them in its text.
    """
    found = broken_rules(evidence)
    if found:
        text = "\n".join(f"{each.rule} {each.where}: {each.message}" for each in found)
        raise cancel_testing.Violation(found[0].rule, text)


def broken_rules(evidence: Evidence) -> list[Violation]:
    """Every rule that the run broke; [] if none."""
    found = list(_ends(evidence))
    if found:
        return found  # the log is not what the other rules take it for
    entries, conversation = evidence.heard[0], evidence.result.conversation
    found += _kept_and_told(evidence)
    found += _status(evidence, entries)
    found += validate(conversation)
    found += changes(evidence.before, conversation)
    found += untold(entries, conversation)
    found += _read_again(evidence, entries)
    found += _usage(evidence, entries)
    found += _the_cut(evidence)
    found += unlike_the_tools(evidence, entries)
    found += unlike_the_provider(evidence, entries)
    found += refused_next(conversation, evidence.tools)
    if evidence.token is not None:
        found += _left_on(evidence.token)
    return found


def _ends(evidence: Evidence) -> Iterator[Violation]:
    """S1, E1: one end, told last, told to everybody alike."""
    result = evidence.result
    for number, entries in enumerate(evidence.heard):
        where = f"heard[{number}]"
        ends = [entry for entry in entries if isinstance(entry, _TERMINAL)]
        if len(ends) != 1 or ends[0].run_id != result.run_id:
            yield Violation("S1", where, f"the run has {len(ends)} ends: {ends}")
        elif entries[-1] is not ends[0]:
            yield Violation("E1", where, f"{entries[-1]} was told after the end")
        elif _STATUS[type(ends[0])] != result.status:
            yield Violation("S2", where, f"it was told that the run is {ends[0].kind}, not {result.status}")
        if list(entries) != list(evidence.heard[0]):
            yield Violation("E1", where, "it was told something else than another one was")


def _kept_and_told(evidence: Evidence) -> Iterator[Violation]:
    """E3, P1: the store has what was told, and whoever is told the end may go on."""
    if evidence.stored is not None and list(evidence.stored) != list(evidence.heard[0]):
        text = f"{len(evidence.stored)} entries are stored, {len(evidence.heard[0])} were told"
        yield Violation("P1", "stored", text)
    if evidence.at_end is not None and evidence.at_end != evidence.result.conversation:
        yield Violation("E3", "at_end", "when the end was told, the conversation was another one")
    if evidence.busy_at_end:
        yield Violation("E3", "busy_at_end", "when the end was told, the agent was busy")


def _status(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[Violation]:
    """S2, S3, S6, S9: the run ended as what happened to it says."""
    result, stop, token = evidence.result, evidence.result.stop, evidence.token
    reason = None if token is None or evidence.ended_at_stop else token.reason
    asked_to_stop = reason is not None and evidence.ended_at_stop is False
    answered = _is_answered(entries)
    if (stop is None) != (result.status != "stopped"):
        yield Violation("S1", "result.stop", f"a {result.status} run has the stop report {stop}")
    if result.status == "completed" and not answered:
        yield Violation("S2", "result.status", "completed, and the provider has not said its end")
    if result.status == "failed" and result.error is None:
        yield Violation("S6", "result.error", "it failed, and nobody knows why")
    if asked_to_stop:
        if answered and result.status != "completed":
            yield Violation(
                "S2", "result.status", f"{result.status}, and the answer was whole before the stop"
            )
        if not answered and result.status != "stopped":
            yield Violation(
                "S6", "result.status", f"{result.status}, and it was asked to stop: {result.error!r}"
            )
        if not answered and result.error is not None:
            yield Violation("S6", "result.error", f"the stop is told as the error {result.error!r}")
    if reason is not None:
        reason = reason.cause or reason
        if stop is not None and (stop.reason, stop.message) != (reason.kind, reason.message):
            yield Violation(
                "S3", "result.stop", f"{stop.reason} {stop.message!r}, and the reason was {reason}"
            )
    elif result.status == "stopped" and evidence.winding_down:
        yield from _wound_down(result)
    elif result.status == "stopped" and not evidence.interrupted:
        yield Violation("S6", "result.status", f"stopped ({stop}), and nobody has asked it to")


def _wound_down(result: RunResult) -> Iterator[Violation]:
    """S10: the step was finished, and no other begun."""
    stop = result.stop
    if stop is None:
        return  # S1 has said so
    if stop.where != "between_steps":
        yield Violation("S10", "result.stop", f"it was to finish its step, and was stopped {stop.where}")
    for report in stop.tools:
        if report.outcome in (None, "not_started", "interrupted_running"):
            yield Violation(
                "S10", f"tool {report.call.name}", "it was to finish, and has no result of its own"
            )


def _is_answered(entries: Sequence[Entry]) -> bool:
    """Whether the provider has ended its last turn and asked for nothing in it."""
    turn = 0
    finished = calls = False
    for entry in entries:
        match entry:
            case TurnStarted():
                turn, finished, calls = entry.turn, False, False
            case ToolCallReady() if is_json_object(entry.arguments):
                calls = True
            case TurnFinished():
                finished = entry.turn == turn
            case _:
                pass
    return finished and not calls


def _read_again(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[Violation]:
    """S2, C14, C15, P2: what the log says, also from JSON, is what the result says."""
    result = evidence.result
    before = State(evidence.before)
    loaded = fold(load_log(dump_log(entries)), before)
    if loaded.run is not None:
        yield Violation("P2", "loaded", "a run is open after it has ended")
    if settle(loaded) != result.conversation:
        yield Violation("C15", "loaded", "the log, loaded again, says another conversation than the result")
    report = run_report(loaded, result.run_id)
    if report is None or report.status != result.status:
        yield Violation(
            "C15", "loaded", f"the log, loaded again, says {report} of a run that {result.status}"
        )
    elif result.stop is not None and result.stop.tools != report.calls:
        yield Violation("S2", "result.stop.tools", "the report tells of other calls than the log")
    if repair(result.conversation) is not result.conversation:
        yield Violation("C14", "result.conversation", "repair changes what was settled")


def _usage(evidence: Evidence, entries: Sequence[Entry]) -> Iterator[Violation]:
    """U1, U2: the sum of each request's and each call's last count, and complete only if all of them were seen."""
    result = evidence.result
    requests: list[Usage] = []
    calls: dict[tuple[int, int], ToolUsageReported] = {}
    turns = 0
    for entry in entries:
        match entry:
            case TurnStarted():
                turns += 1
                requests.append(Usage())
            case RetryWaiting() if requests[-1] != Usage():  # one that failed before it told anything is none
                requests.append(Usage())
            case UsageReported():
                requests[-1] = requests[-1].updated(entry.usage)
            case ToolUsageReported():
                calls[entry.turn, entry.index] = entry
            case _:
                pass
    total = Usage(complete=True)
    for usage in (*requests, *(call.usage for call in calls.values())):
        total = total.plus(usage)
    if result.usage != total:
        yield Violation("U1", "result.usage", f"{result.usage}, and the provider has counted {total}")
    if result.stop is not None and result.stop.usage_complete != total.complete:
        yield Violation(
            "U1", "result.stop", f"usage_complete={result.stop.usage_complete}, and it is {total}"
        )
    spent = Spent(turns=turns + sum(call.turns for call in calls.values()), usage=total)
    wanted = evidence.before.spent.plus(spent)
    if result.conversation.spent != wanted:
        text = f"{result.conversation.spent}, and before and in the run it was {wanted}"
        yield Violation("U2", "result.conversation.spent", text)


def _the_cut(evidence: Evidence) -> Iterator[Violation]:
    """S8, E1: when `cancel()` has returned, nothing is said any more, and what was running may only end."""
    if evidence.at_stop is None:
        return
    mine = f"{evidence.result.run_id}."
    then = {message.id: message for message in evidence.at_stop.all_messages if message.id.startswith(mine)}
    now = [m for m in evidence.result.conversation.all_messages if m.id.startswith(mine)]
    for message in now:
        was = then.get(message.id)
        if was is None or not _may_have_become(was, message):
            yield Violation("S8", message.id, f"after the stop it became {message}, and it was {was}")
    for message_id in then.keys() - {message.id for message in now}:
        yield Violation("S8", message_id, "it was there when the stop came, and is gone")


def _may_have_become(was: Message, now: Message) -> bool:
    if not (isinstance(was, ToolMessage) and isinstance(now, ToolMessage)):
        return was == now
    return [result.call_id for result in was.results] == [result.call_id for result in now.results] and all(
        old == new or old.outcome == "interrupted_running"
        for old, new in zip(was.results, now.results, strict=True)
    )


def _left_on(token: CancelToken) -> Iterator[Violation]:
    """R2: nothing of the run hangs on its token."""
    stats = token.stats()
    if stats.children or stats.registrations or stats.waiting:
        yield Violation("R2", "token", f"{stats} after the end")
