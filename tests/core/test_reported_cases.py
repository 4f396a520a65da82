"""What went wrong in other programs, class by class; docs/conversations.md says where it was reported.

The letters are the classes of reports F-A to F-M. Here is what a log, its fold and a request can get wrong;
sockets, threads and processes have their cases where they are tested.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from aiwrapper._core.agent import AgentMachine, CallModel, Finished
from aiwrapper._core.conversation import (
    Conversation,
    append,
    continue_,
    fold,
    run_report,
    settle,
    step,
)
from aiwrapper._core.dialect import Dialect, JsonObject, Options, ToolSpec
from aiwrapper._core.log import (
    Entry,
    ReasoningDelta,
    ReasoningFinished,
    RetryWaiting,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    TextDelta,
    ToolCallReady,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    UsageReported,
    UserMessageAdded,
)
from aiwrapper._core.log_json import dump_log, load_log
from aiwrapper._core.messages import (
    AssistantMessage,
    Message,
    Producer,
    Text,
    ToolMessage,
    ToolResult,
    Usage,
    UserMessage,
)
from aiwrapper._core.reply import Reply
from aiwrapper._core.validity import repair, validate
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import Call, DialectName, Say, Turn, render

OPENAI = Producer("openai_chat", "api.openai.com", model="gpt")
CLAUDE = Producer("anthropic", "api.anthropic.com", model="claude")
TOOL = ToolSpec("shell", description="Runs a command.", parameters='{"type": "object"}')
WAYS: tuple[tuple[Dialect, Options], ...] = (
    (OpenAIChat(), Options(producer=OPENAI, tools=(TOOL,))),
    (OpenAIChat(nine_character_ids=True), Options(producer=OPENAI, tools=(TOOL,))),
    (Anthropic(), Options(producer=CLAUDE, tools=(TOOL,))),
    (Anthropic(), Options(producer=CLAUDE, tools=(TOOL,), thinking_tokens=2000)),
)
ASKED: list[Entry] = [UserMessageAdded("u", (Text("List the files"),)), RunStarted("r")]
STOP = RunStopped("r", reason="user")
CALLS: list[Entry] = [
    *ASKED,
    TurnStarted("r", 1, producer=CLAUDE),
    ToolCallReady("r", 1, 0, name="shell", arguments='{"command": "ls"}'),
    ToolCallReady("r", 1, 1, name="shell", arguments='{"command": "pwd"}'),
    TurnFinished("r", 1, finish_reason="tool_use"),
]


def started(index: int) -> ToolStarted:
    return ToolStarted("r", 1, index)


def returned(index: int, content: str) -> ToolFinished:
    return ToolFinished("r", 1, index, outcome="returned", content=content)


def results(conversation: Conversation) -> list[ToolResult]:
    return [
        result
        for message in conversation.messages
        if isinstance(message, ToolMessage)
        for result in message.results
    ]


def requests(conversation: Conversation) -> list[JsonObject]:
    """The next request in every way; each of them one that its provider takes."""
    continued = append(conversation, UserMessage("next", (Text("Go on"),)))
    bodies = []
    for dialect, options in WAYS:
        body = dialect.encode(continued, options)
        assert [] == dialect.violations(body)
        bodies.append(body)
    return bodies


def refused(dialect: Dialect, messages: Sequence[JsonObject]) -> set[str]:
    """The rules for which a provider refuses these messages as they are."""
    body: JsonObject = {
        "model": "m",
        "messages": list(messages),
        "max_tokens": 100,
        "tools": [],
        "stream": True,
    }
    return {violation.rule for violation in dialect.violations(body)}


def anthropic_history(*messages: tuple[str, list[dict[str, Any]]]) -> list[JsonObject]:
    return [{"role": role, "content": content} for role, content in messages]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def use(call_id: str, arguments: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "shell", "input": arguments}


def tool_result(call_id: str, content: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def openai_call(call_id: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "shell", "arguments": arguments}}


# F-A: a stop leaves a call without a result, and every later request is refused


@pytest.mark.parametrize("ran", [[], [started(0)], [started(0), started(1)]], ids=("none", "one", "two"))
@pytest.mark.parametrize("end", [STOP, RunFailed("r", error="network", message="gone"), None], ids=repr)
def test_f_a_a_stop_before_or_during_tools_answers_every_call(ran: list[Entry], end: Entry | None) -> None:
    """claude-code#1776, #2261, codex#394, crush#529, ellmer#459, and a crash as in octofriend#233."""
    conversation = settle(fold([*CALLS, *ran, *([end] if end else [])]))

    assert 2 == len(results(conversation))
    requests(conversation)


def test_f_a_what_is_said_next_is_a_message_of_its_own() -> None:
    """opencode#5750: the retry was appended to the aborted message, behind its calls."""
    state = fold([*CALLS, STOP, UserMessageAdded("v", (Text("Again"),)), RunStarted("r2")])
    state = fold([TurnStarted("r2", 1, producer=CLAUDE), TextDelta("r2", 1, text="Sure")], state)

    assert ["u", "r.1", "r.1.results", "v", "r2.1"] == [message.id for message in settle(state).messages]


def test_f_a_a_history_that_other_programs_left_is_mended() -> None:
    """The shape that claude-code#1776 and opencode#3230 are refused for, on both wires."""
    anthropic = anthropic_history(
        ("user", [text("ls")]), ("assistant", [use("toolu_1", {})]), ("user", [text("stop")])
    )
    openai: list[JsonObject] = [
        {"role": "user", "content": "ls"},
        {"role": "assistant", "content": None, "tool_calls": [openai_call("call_1", "{}")]},
        {"role": "user", "content": "stop"},
    ]

    assert "A1" in refused(Anthropic(), anthropic)
    assert "OC1" in refused(OpenAIChat(), openai)
    for conversation in (Anthropic().decode(anthropic), OpenAIChat().decode(openai)):
        assert ["C1"] == [violation.rule for violation in validate(conversation)]
        requests(repair(conversation))


# F-B: of several calls only some have results


def test_f_b_a_finished_result_is_not_thrown_away_with_the_others() -> None:
    """xagent#921, gptme#3072, EvoScientist#489: a finished call was reported as not completed."""
    conversation = settle(fold([*CALLS, started(0), started(1), returned(1, "/home"), STOP]))

    assert [("interrupted_running", True), ("returned", False)] == [
        (result.outcome, "may have taken effect" in result.content) for result in results(conversation)
    ]
    requests(conversation)


def test_f_b_results_of_an_older_run_do_not_reach_a_newer_one() -> None:
    """letta-code#584: stale results in the queue became invalid tool call ids."""
    state = fold([*CALLS, STOP, RunStarted("r2"), TurnStarted("r2", 1, producer=CLAUDE)])

    assert state is step(state, returned(0, "stale"))


def test_f_b_a_result_without_its_call_is_kept_and_taken() -> None:
    """openai-agents-python#4827: the output was stored, the call never was."""
    openai: list[JsonObject] = [
        {"role": "user", "content": "ls"},
        {"role": "tool", "tool_call_id": "call_1", "content": "a.txt"},
    ]
    conversation = repair(OpenAIChat().decode(openai))

    assert "OC2" in refused(OpenAIChat(), openai)
    assert ["a.txt"] == [result.content for result in results(conversation)]
    requests(conversation)


# F-C: the model is told something that is not true


def test_f_c_a_stop_is_not_told_as_a_refusal() -> None:
    """claude-code#86001: a killed tool was reported as rejected by the user; #64047: the model apologised."""
    told = " ".join(result.content for result in results(settle(fold([*CALLS, started(0), STOP]))))

    assert not [
        word for word in ("user", "reject", "refused", "denied", "doesn't want") if word in told.lower()
    ]


def test_f_c_a_stop_is_no_error_and_no_completion() -> None:
    """flink-agents#1088: the interruption was recorded as a tool's error, and the run as completed."""
    report = run_report(fold([*CALLS, started(0), STOP]))

    assert report is not None
    assert "stopped" == report.status
    assert ["interrupted_running", "not_started"] == [call.outcome for call in report.calls]


def test_f_c_the_user_is_not_taken_for_the_tool() -> None:
    """hermes-agent#51727: the history ended in tool results, and the model went on with the user's text (C16)."""
    conversation = settle(fold([*CALLS, started(0), STOP]))
    for (dialect, _), body in zip(WAYS, requests(conversation), strict=True):
        roles = [message["role"] for message in body["messages"]]

        assert ["assistant", "user"] == roles[-2:], dialect
    assert isinstance(conversation.head, ToolMessage)  # the bridge is on the wire only


# F-D: arguments that were cut


@pytest.mark.parametrize("dialect", [OpenAIChat(), Anthropic()], ids=lambda dialect: str(dialect.name))
def test_f_d_a_call_that_was_cut_is_never_run_at_whatever_byte(dialect: OpenAIChat | Anthropic) -> None:
    """pydantic-ai#5507, anton#342: the cut arguments were completed, and the tool ran with them."""
    name: DialectName = "openai_chat" if isinstance(dialect, OpenAIChat) else "anthropic"
    data = render(Turn((Say(("Let me see. ",)), Call("shell", ('{"command"', ': "rm -rf /tmp/x"}')))), name)
    for at in range(len(data)):
        log: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=CLAUDE)]
        log += Reply(dialect.decoder(), "r", 1).feed(data[:at])
        conversation = settle(fold([*log, STOP]))

        calls = [call for m in conversation.messages if isinstance(m, AssistantMessage) for call in m.calls]
        assert all('{"command": "rm -rf /tmp/x"}' == call.arguments for call in calls)
        assert all("not_started" == result.outcome for result in results(conversation))
        assert isinstance(machine_for([*log, STOP]).next_step(), Finished)


def machine_for(log: list[Entry]) -> AgentMachine:
    return AgentMachine(fold(log), "r", max_turns=10)


def test_f_d_a_history_with_cut_arguments_is_mended() -> None:
    """claude-code#6696, atlas-ui-3#850, vllm#47761: the fragment was sent again at each turn, for ever."""
    anthropic = anthropic_history(
        ("user", [text("ls")]),
        ("assistant", [text("Well"), use("toolu_1", '{"command": "l')]),
        ("user", [tool_result("toolu_1", "Request was aborted.")]),
    )
    openai: list[JsonObject] = [
        {"role": "user", "content": "ls"},
        {"role": "assistant", "content": "Well", "tool_calls": [openai_call("call_1", '{"command": "l')]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Request was aborted."},
    ]

    assert "A3" in refused(Anthropic(), anthropic)
    assert "OC3" in refused(OpenAIChat(), openai)
    for conversation in (Anthropic().decode(anthropic), OpenAIChat().decode(openai)):
        assert "C6" in {violation.rule for violation in validate(conversation)}
        assert ["Request was aborted."] == [result.content for result in results(repair(conversation))]
        requests(repair(conversation))


# F-E: reasoning and its signature

SIGNED = '{"type":"thinking","thinking":"Hm.","signature":"c2ln"}'
THOUGHT: list[Entry] = [
    *ASKED,
    TurnStarted("r", 1, producer=CLAUDE),
    ReasoningDelta("r", 1, text="Hm."),
    ReasoningFinished("r", 1, payload=SIGNED),
]


def thinking_blocks(body: JsonObject) -> list[JsonObject]:
    return [
        block
        for message in body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block.get("type") == "thinking"
    ]


def test_f_e_thinking_that_was_cut_is_not_sent() -> None:
    """anthropic-sdk-python#1598, claude-code#63357: its signature never came, and is asked for ever after."""
    cut: list[Entry] = [*THOUGHT[:-1], TextDelta("r", 1, text="So"), STOP]
    *_, body = requests(settle(fold(cut)))

    assert [] == thinking_blocks(body)


def test_f_e_thinking_that_was_whole_is_sent_though_the_text_was_cut() -> None:
    """oh-my-pi#2145: stopped during the text; stripping all thinking was wrong, too."""
    *_, body = requests(settle(fold([*THOUGHT, TextDelta("r", 1, text="So"), STOP])))

    assert [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}] == thinking_blocks(body)


def test_f_e_a_turn_of_thinking_alone_is_shown_and_not_sent() -> None:
    """vercel/ai#8321: what is left of a stopped turn was reasoning without what must follow it (C17)."""
    conversation = settle(fold([*THOUGHT, ToolCallStarted("r", 1, 0, name="shell"), STOP]))

    assert "r.1" == conversation.head_id
    for body in requests(conversation):
        assert "assistant" not in [message["role"] for message in body["messages"]]


def test_f_e_a_payload_survives_the_store() -> None:
    """nodetool#5097: thought signatures were lost at the database."""
    log: list[Entry] = [*THOUGHT, ToolCallReady("r", 1, 0, name="f", arguments="{}", payload='{"s": "="}')]

    assert settle(fold(log)) == settle(fold(load_log(dump_log(log))))


def test_f_e_a_payload_goes_to_its_producer_only() -> None:
    """C8: another model of the same provider refuses it as well."""
    conversation = settle(fold([*THOUGHT, TextDelta("r", 1, text="So"), STOP]))
    other = Options(producer=Producer("anthropic", "api.anthropic.com", model="other"), thinking_tokens=2000)

    assert [] == thinking_blocks(Anthropic().encode(conversation, other))


# F-F: empty, blank, or ended by the wrong role


@pytest.mark.parametrize("said", [[], [" "], ["\n", "\t"]], ids=repr)
def test_f_f_a_stop_before_the_first_word_leaves_nothing(said: list[str]) -> None:
    """openclaw#94278, zeroclaw#5228, hermes-agent#69512: the empty message was stored and refused for ever."""
    log: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=CLAUDE)]
    log += (TextDelta("r", 1, text=piece) for piece in said)
    conversation = settle(fold([*log, STOP]))

    assert ["u"] == [message.id for message in conversation.messages]
    requests(conversation)


@pytest.mark.parametrize("content", [[], [text("")], [text(" ")]], ids=repr)
def test_f_f_a_history_with_an_empty_message_is_mended(content: list[dict[str, Any]]) -> None:
    history = anthropic_history(("user", [text("Hi")]), ("assistant", content), ("user", [text("So?")]))

    assert "A5" in refused(Anthropic(), history)
    assert {"C5"} == {violation.rule for violation in validate(Anthropic().decode(history))}
    requests(repair(Anthropic().decode(history)))


def test_f_f_a_request_ends_with_what_a_model_answers_to() -> None:
    """forgecode#1872, autogen#7768: trailing white space in the last answer, or an answer at the end at all."""
    log: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=CLAUDE), TextDelta("r", 1, text="So, \n"), STOP]
    conversation = settle(fold(log))

    for dialect, options in WAYS:
        assert [] == dialect.violations(dialect.encode(conversation, options))
    message = continue_(conversation)
    assert message is not None
    requests(append(conversation, message))


def test_f_f_a_user_may_speak_after_tool_results() -> None:
    """hermes-agent#20154, pipecat-flows#178: Mistral refuses the role user after tool."""
    requests(settle(fold([*CALLS, returned(0, "a"), returned(1, "b"), STOP])))


# F-G: the provider works on, and is paid


def test_f_g_what_was_used_up_to_the_stop_is_counted() -> None:
    """litellm#37558, genkit#6308: half of a run's tokens were spent after Stop, and none of them counted (U1)."""
    log = [*CALLS[:3], UsageReported("r", 1, usage=Usage(input_tokens=900, output_tokens=1)), STOP]
    report = run_report(fold(log))

    assert report is not None
    assert Usage(input_tokens=900, output_tokens=1, complete=False) == report.usage


def test_f_g_nothing_is_asked_for_after_a_stop() -> None:
    """S8."""
    for cut in range(2, len(CALLS) + 1):
        assert isinstance(machine_for([*CALLS[:cut], STOP]).next_step(), Finished)


# F-H: the stop does not reach the place that blocks


def test_f_h_a_stop_while_backing_off_is_a_stop() -> None:
    """openai-node#2580, pi#6911, obsidian-gemini#1453: shown as an error, a minute later (S6)."""
    waiting = RetryWaiting("r", 1, attempt=1, seconds=259_200.0, error="429")
    log: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=CLAUDE), waiting]
    state = fold([*log, RunStopped("r", reason="user", where="backing_off")])
    report = run_report(state)

    assert report is not None
    assert ("stopped", "backing_off") == (report.status, report.where)
    requests(state.conversation)


# F-I: a tool outlives the stop


def test_f_i_a_tool_that_returns_after_the_stop_changes_nothing() -> None:
    """deer-flow#1873, assistant-ui#4766: the late result resumed the run, or came twice."""
    stopped = fold([*CALLS, started(0), STOP])

    assert stopped is step(stopped, returned(0, "late"))
    assert isinstance(AgentMachine(stopped, "r", max_turns=10).next_step(), Finished)


def test_f_i_a_tool_that_would_not_stop_is_told_of_as_it_is() -> None:
    """codex#7985: it may have run on, and the model has to know."""
    first, _ = results(settle(fold([*CALLS, started(0), STOP])))

    assert "interrupted_running" == first.outcome


# F-J: partial work is lost


def test_f_j_every_word_that_was_shown_is_kept() -> None:
    """hermes-webui#893, openai-agents-python#1895, gemini-cli#3271: thousands of words gone at Stop."""
    log: list[Entry] = [*ASKED, TurnStarted("r", 1, producer=CLAUDE)]
    shown = ""
    for word in ["one", "two", "", "three\n", "four"]:
        log.append(TextDelta("r", 1, text=f"{word} "))
        shown += f"{word} "
        head = settle(fold(load_log(dump_log(log)))).head

        assert isinstance(head, AssistantMessage)
        assert shown == head.text


def test_f_j_the_users_message_is_not_rolled_back() -> None:
    """C9."""
    for cut in range(1, len(CALLS) + 1):
        messages: tuple[Message, ...] = settle(fold([*CALLS[:cut], STOP])).messages

        assert UserMessage("u", (Text("List the files"),)) == messages[0]


# F-K: too early, too late, to the wrong run


def test_f_k_a_stop_before_the_start_starts_nothing() -> None:
    """ag-ui#2759, claude-agent-sdk-typescript#429: it was erased when the run began (S4)."""
    ended = machine_for([*ASKED, RunStopped("r", reason="user", where="before_start"), RunStarted("r")])

    assert isinstance(ended.next_step(), Finished)


def test_f_k_a_stop_after_the_end_changes_nothing() -> None:
    """term-llm#789, ogx#5363 (S1, S3)."""
    finished = fold(
        [*ASKED, TurnStarted("r", 1, producer=CLAUDE), TextDelta("r", 1, text="Hi"), RunFinished("r")]
    )

    assert finished is step(finished, STOP)


def test_f_k_a_stop_for_an_older_run_does_not_touch_the_next() -> None:
    """agentrove#214, persona#437 (S5)."""
    state = fold([*ASKED, STOP, RunStarted("r2")])

    assert state is step(state, STOP)
    assert isinstance(AgentMachine(state, "r2", max_turns=1).next_step(), CallModel)


def test_f_k_a_late_chunk_enters_no_later_answer() -> None:
    """hermes-agent#66947, claude-agent-acp#187: the conversation was one message behind."""
    state = fold([*ASKED, TurnStarted("r", 1, producer=CLAUDE), STOP, RunStarted("r2")])
    state = step(state, TurnStarted("r2", 1, producer=CLAUDE))

    assert state is step(state, TextDelta("r", 1, text="late"))


# F-L: reloads, crashes, other machines


def test_f_l_nothing_runs_after_a_reload() -> None:
    """open-webui#23058: a task was in progress for ever after a crash (P2, P4)."""
    reloaded = fold(load_log(dump_log([*CALLS, started(0)])))
    report = run_report(step(reloaded, UserMessageAdded("v", (Text("Hello?"),))), "r")

    assert report is not None
    assert ("stopped", "crash") == (report.status, report.reason)
    requests(settle(reloaded))


def test_f_l_another_machine_sees_the_same() -> None:
    """open-webui#14340, PageSpace#2022: whoever has the log has the conversation, whatever it missed at first."""
    whole = fold([*CALLS, started(0), returned(0, "a.txt"), STOP])
    for cut in range(len(CALLS)):
        first = fold(load_log(dump_log(CALLS[:cut])))

        assert whole == fold([*CALLS[cut:], started(0), returned(0, "a.txt"), STOP], first)


# F-M: what the person sees


def test_f_m_a_run_that_was_stopped_runs_no_more_and_has_not_failed() -> None:
    """Chainlit#2209, OpenHands#11041: the button stayed, the page showed a server error."""
    state = fold([*CALLS, STOP])
    report = run_report(state)

    assert state.run is None
    assert report is not None
    assert "stopped" == report.status


def test_f_m_the_mark_is_on_the_message_that_was_cut() -> None:
    """gemini-cli#12840: Escape took back the wrong thing (C12)."""
    second: list[Entry] = [TurnStarted("r", 2, producer=CLAUDE), TextDelta("r", 2, text="There a")]
    conversation = settle(fold([*CALLS, returned(0, "a"), returned(1, "b"), *second, STOP]))
    marks = [message.stopped for message in conversation.messages if isinstance(message, AssistantMessage)]

    assert [False, True] == marks
