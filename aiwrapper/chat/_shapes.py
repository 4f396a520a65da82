"""The shapes of what a page is told, as docs/chatapp.md has them."""

import json
from typing import Any, TypeAlias, assert_never

import msgspec

from aiwrapper._core.conversation import RunReport
from aiwrapper._core.messages import (
    AssistantMessage,
    Image,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserPart,
)
from aiwrapper._core.runs import OpenRun
from aiwrapper._core.turns import OpenTurn
from aiwrapper.chat._attachments import attached_text, image_hash, text_hash
from aiwrapper.chat._state import ChatState

Json: TypeAlias = dict[str, Any]  # Any: JSON for the page


def dump(change: Json) -> bytes:
    """A change as JSON in one line."""
    try:
        return msgspec.json.encode(change)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold as an escape
        return json.dumps(change).encode()


def chat_header(chat_id: str, state: ChatState, *, stopping: bool) -> Json:
    settings = state.configuration
    return {
        "id": chat_id,
        "title": state.log.title,
        "deleted": state.log.deleted,
        "head_id": state.shown_head_id,
        "settings": {
            "model": settings.model,
            "instructions": settings.instructions,
            "tools": settings.tools,
        },
        "run": None if state.log.run is None else _open_run(state.log.run, state, stopping=stopping),
    }


def _open_run(run: OpenRun, state: ChatState, *, stopping: bool) -> Json:
    retry = None
    if stopping:
        doing = "stopping"
    elif state.retry is not None:
        doing = "retrying"
        retry = {
            "attempt": state.retry.attempt,
            "seconds": state.retry.seconds,
            "error": state.retry.error,
        }
    elif run.turn is not None and run.turn.is_whole and _has_started(run.run_id, run.turn):
        doing = "running_tool"
    elif run.turn is not None and len(run.turn.entries):
        doing = "streaming"
    else:
        doing = "starting"
    return {"id": run.run_id, "message_id": state.origins.get(run.run_id), "state": doing, "retry": retry}


def _has_started(run_id: str, turn: OpenTurn) -> bool:
    """Whether a tool has: between the answer's end and that, the log is on its way to the disk."""
    return any(turn.is_started(index) for index, _ in turn.calls(run_id))


def ended_run(report: RunReport, state: ChatState) -> Json:
    return {
        "id": report.run_id,
        "message_id": state.origins.get(report.run_id),
        "status": report.status,
        "reason": report.reason,
        "message": report.message,
        "where": report.where,
        "usage": {
            "input_tokens": report.usage.input_tokens,
            "output_tokens": report.usage.output_tokens,
            "complete": report.usage.complete,
        },
    }


def message_header(message_id: str, parent_id: str | None, role: str) -> Json:
    run_id = message_id.partition(".")[0] if role == "assistant" else None
    return {
        "id": message_id,
        "parent_id": parent_id,
        "role": role,
        "run_id": run_id,
        "state": "whole",
        "synthetic": False,
    }


def user_part(part: UserPart, chat_id: str) -> Json:
    if isinstance(part, Image):
        digest = image_hash(part)
        url = f"api/chats/{chat_id}/attachments/{digest}"
        return {"kind": "image", "url": url, "media_type": part.media_type, "hash": digest}
    name, text = attached_text(part)
    if name is None:
        return {"kind": "text", "text": text}
    return {"kind": "file", "name": name, "text": text, "hash": text_hash(text)}


def closed_parts(message: AssistantMessage, follower: Message | None) -> list[Json]:
    """The parts of a closed message, those with Markdown without their blocks."""
    results: dict[str, ToolResult] = {}
    if isinstance(follower, ToolMessage) and follower.parent_id == message.id:
        results = {result.call_id: result for result in follower.results}
    shapes: list[Json] = []
    for part in message.parts:
        match part:
            case Text():
                shapes.append({"kind": "text"})
            case Reasoning():
                shapes.append({"kind": "reasoning", "complete": part.complete})
            case ToolCall():
                result = results.get(part.id)
                shapes.append(
                    call_part(part.name, part.arguments, "waiting", part.id)
                    if result is None
                    else finished_call_part(part.name, part.arguments, result)
                )
            case _:
                assert_never(part)
    shapes += [call_part(call.name, call.arguments, "writing") for call in message.cut_calls]
    return shapes


def finished_call_part(name: str, arguments: str, result: ToolResult) -> Json:
    return {
        **call_part(name, arguments, "finished", result.call_id),
        "outcome": result.outcome,
        "result": result.content,
    }


def call_part(name: str, arguments: str, state: str, call_id: str | None = None) -> Json:
    return {
        "kind": "tool_call",
        "id": call_id,
        "name": name,
        "arguments": arguments,
        "state": state,
        "outcome": None,
        "result": None,
    }
