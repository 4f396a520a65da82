"""CPU time per event, from a provider's bytes to log entries, beside a floor and the official clients.

    python -m benchmarks.bench_sse [--events 20000] [--repeats 7]

It prints microseconds of CPU per event for whole answers in the shape in which the providers send them (text, then a
call, usage, the end), read in chunks of 4 KiB, and ends with status 1 if a limit is broken:

- the floor is `body.split` and a typed msgspec decode of each event, the least that anybody could do in Python;
  we may take 4 times as long,
- the official clients get the same bytes through a transport in the process; openai has to be 20 times slower than we
  are, anthropic 6 times,
- the cost of an event, of an entry folded and of a message encoded must not grow with their number.

The rounds alternate, and the best of each counts: what else the machine does can only add. Left out: the socket, the
store, and what the reader does with an entry.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

import anthropic
import httpx2
import msgspec
import openai

from aiwrapper._core.conversation import Conversation, fold
from aiwrapper._core.dialect import Dialect, Options
from aiwrapper._core.log import Entry, RunStarted, TurnStarted
from aiwrapper._core.messages import (
    AssistantMessage,
    Message,
    Producer,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from aiwrapper._core.reply import Reply
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from cancel_token import CancelToken

FLOOR_LIMIT = 4.0
CLIENT_LIMITS = {"openai": 20.0, "anthropic": 6.0}
GROWTH_LIMIT = 1.5
CHUNK_BYTES = 4_096
PRODUCER = Producer("openai_chat", "api.openai.com", model="gpt")
WORDS = (
    " the",
    " token",
    ",",
    " cancel",
    "led",
    " \u2014",
    " and",
    " a",
    " caf\u00e9",
    ".\n\n",
    " `wait()`",
    " 42",
)


def openai_body(events: int) -> bytes:
    """A recorded answer of Chat Completions, with so many events."""

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **fields: object) -> bytes:
        value = {
            "id": "chatcmpl-CY0Z7dKxP2mQv8sJ4tRnWbEuHgLaF",
            "object": "chat.completion.chunk",
            "created": 1_763_856_000,
            "model": "gpt-5.1-2025-11-13",
            "service_tier": "default",
            "system_fingerprint": "fp_1a2b3c4d5e",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
            "usage": None,
            "obfuscation": "q8ZfT2nA",
            **fields,
        }
        return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"

    def call(**fields: object) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, **fields}]}

    arguments = max(1, events // 20)
    usage = {"prompt_tokens": 812, "completion_tokens": events, "total_tokens": 812 + events}
    first = {"id": "call_9vQ2", "type": "function", "function": {"name": "read_page", "arguments": ""}}
    return b"".join(
        (
            chunk({"role": "assistant", "content": "", "refusal": None}),
            *(chunk({"content": WORDS[at % len(WORDS)]}) for at in range(events - arguments - 7)),
            chunk(call(**first)),
            chunk(call(function={"arguments": '{"url": "'})),
            *(chunk(call(function={"arguments": "ab/"})) for _ in range(arguments)),
            chunk(call(function={"arguments": '"}'})),
            chunk({}, "tool_calls"),
            chunk({}, choices=[], usage=usage),
            b"data: [DONE]\n\n",
        )
    )


def anthropic_body(events: int) -> bytes:
    """A recorded answer of Messages, with so many events."""

    def event(kind: str, **fields: object) -> bytes:
        value = json.dumps({"type": kind, **fields}, separators=(",", ":"), ensure_ascii=False)
        return f"event: {kind}\ndata: {value}\n\n".encode()

    def delta(index: int, **fields: object) -> bytes:
        return event("content_block_delta", index=index, delta=fields)

    arguments = max(1, events // 20)
    message: dict[str, Any] = {
        "id": "msg_01XvQ2kT9",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 812, "output_tokens": 1},
    }
    call = {"type": "tool_use", "id": "toolu_01A9", "name": "read_page", "input": {}}
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    return b"".join(
        (
            event("message_start", message=message),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("ping"),
            *(
                delta(0, type="text_delta", text=WORDS[at % len(WORDS)])
                for at in range(events - arguments - 10)
            ),
            event("content_block_stop", index=0),
            event("content_block_start", index=1, content_block=call),
            delta(1, type="input_json_delta", partial_json='{"url": "'),
            *(delta(1, type="input_json_delta", partial_json="ab/") for _ in range(arguments)),
            delta(1, type="input_json_delta", partial_json='"}'),
            event("content_block_stop", index=1),
            event("message_delta", delta=end, usage={"output_tokens": events}),
            event("message_stop"),
        )
    )


class _FloorDelta(msgspec.Struct):
    content: str | None = None
    text: str | None = None


class _FloorChoice(msgspec.Struct):
    delta: _FloorDelta
    finish_reason: str | None = None


class _FloorEvent(msgspec.Struct):
    """The least that is needed of either dialect's events."""

    choices: list[_FloorChoice] = []
    type: str | None = None
    delta: _FloorDelta | None = None


def floor(body: bytes) -> None:
    decode = msgspec.json.Decoder(_FloorEvent).decode
    for block in body.split(b"\n\n"):
        data = block[block.find(b"data: ") + 6 :]
        if data.startswith(b"{"):
            decode(data)


def chunks(body: bytes) -> Iterator[bytes]:
    return (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))


def entries(dialect: Dialect, body: bytes) -> Iterator[Entry]:
    reply = Reply(dialect.decoder(), "run", 1, look=CancelToken().check)
    return chain(chain.from_iterable(map(reply.feed, chunks(body))), reply.finish())


def ours(dialect: Dialect, body: bytes) -> None:
    for _ in entries(dialect, body):
        pass


class _Body(httpx2.SyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return chunks(self._body)


def transport(body: bytes) -> httpx2.MockTransport:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, stream=_Body(body)))


def official_openai(body: bytes) -> None:
    with (
        httpx2.Client(transport=transport(body)) as http,
        openai.OpenAI(api_key="-", http_client=http) as client,
        client.chat.completions.create(
            model="gpt", messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as stream,
    ):
        for _ in stream:
            pass


def official_anthropic(body: bytes) -> None:
    with (
        httpx2.Client(transport=transport(body)) as http,
        anthropic.Anthropic(api_key="-", http_client=http) as client,
        client.messages.create(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as stream,
    ):
        for _ in stream:
            pass


def measure(cases: dict[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, float]:
    """The best microseconds of CPU per item of each case; the rounds alternate."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(repeats):
        for name, (run, items) in cases.items():
            begin = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - begin) / items * 1e6)
    return best


def conversation(messages: int) -> Conversation:
    """A conversation of real shape: a question, a call, its result, an answer, and again."""
    said: list[Message] = []
    for at in range(messages // 4):
        call = ToolCall(f"r{at}.1.0", "read_page", arguments='{"url": "https://example.org/a", "depth": 2}')
        said += (
            UserMessage(f"u{at}", (Text("What does the page say about cancellation? " * 4),)),
            AssistantMessage(f"r{at}.1", (Text("Let me look."), call), producer=PRODUCER),
            ToolMessage(f"r{at}.1.results", (ToolResult(call.id, "A page of text. " * 40),)),
            AssistantMessage(f"r{at}.2", (Text("It says that it is cooperative. " * 12),), producer=PRODUCER),
        )
    return Conversation.of(said)


def growth(title: str, sizes: Sequence[int], cases: Iterable[Callable[[], object]], repeats: int) -> bool:
    """Print the cost per item for each size; whether it stays the same."""
    best = measure({str(size): (run, size) for size, run in zip(sizes, cases, strict=True)}, repeats)
    ratio = best[str(sizes[-1])] / best[str(sizes[0])]
    figures = "  ".join(f"{size:>7,}: {best[str(size)]:6.2f}" for size in sizes)
    print(f"{title:34}{figures}   x{ratio:.2f} (limit x{GROWTH_LIMIT})")
    return ratio <= GROWTH_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the way from bytes to log entries.")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    events, repeats = arguments.events, arguments.repeats
    versions = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "openai", "anthropic"))
    print(f"{platform.platform()}, CPython {platform.python_version()}, {versions}")
    print(
        f"microseconds of CPU per event, best of {repeats}, {events:,} events (official clients: a fifth)\n"
    )
    kept = True
    for name, dialect, body_of, official in (
        ("openai", OpenAIChat(), openai_body, official_openai),
        ("anthropic", Anthropic(), anthropic_body, official_anthropic),
    ):
        body, short = body_of(events), body_of(events // 5)
        best = measure(
            {
                "floor": (lambda body=body: floor(body), events),  # type: ignore[misc]  # bound now
                "ours": (lambda d=dialect, body=body: ours(d, body), events),  # type: ignore[misc]
                "official": (lambda official=official, short=short: official(short), events // 5),  # type: ignore[misc]
            },
            repeats,
        )
        over, faster = best["ours"] / best["floor"], best["official"] / best["ours"]
        print(
            f"{name:12}floor {best['floor']:6.2f}   ours {best['ours']:6.2f}   official {best['official']:7.2f}"
        )
        print(f"{'':12}{over:.1f} x the floor (limit {FLOOR_LIMIT}), ", end="")
        print(f"{faster:.1f} x faster than the official client (limit {CLIENT_LIMITS[name]:.0f})\n")
        kept = kept and over <= FLOOR_LIMIT and faster >= CLIENT_LIMITS[name]

    print("growth: microseconds per item, by number of items")
    sizes = (events // 4, events, events * 4)
    bodies = [openai_body(size) for size in sizes]
    kept &= growth(
        "bytes to entries, per event",
        sizes,
        [lambda body=body: ours(OpenAIChat(), body) for body in bodies],  # type: ignore[misc]
        3,
    )
    opening: list[Entry] = [RunStarted("run"), TurnStarted("run", 1, producer=PRODUCER)]
    logs = [[*opening, *entries(OpenAIChat(), body)] for body in bodies]
    kept &= growth("fold, per entry", sizes, [lambda log=log: fold(log) for log in logs], 3)  # type: ignore[misc]
    lengths = (200, 800, 3_200)
    talks = [conversation(length) for length in lengths]
    for dialect in (OpenAIChat(), Anthropic()):
        kept &= growth(
            f"encode for {dialect.name}, per message",
            lengths,
            [lambda talk=talk, d=dialect: d.encode(talk, Options(producer=PRODUCER)) for talk in talks],  # type: ignore[misc]
            repeats,
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
