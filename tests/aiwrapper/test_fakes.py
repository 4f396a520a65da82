"""What a fake provider answers, takes and refuses."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import (
    Call,
    DialectName,
    FakeProvider,
    HttpError,
    Raw,
    Redacted,
    Say,
    Script,
    Think,
    Turn,
    render,
)
from tests.aiwrapper.asking import DIALECTS, PATIENCE_SECONDS, good_body, key_headers, post, url


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> DialectName:
    name: DialectName = request.param
    return name


@pytest.fixture
def fake(dialect: DialectName) -> Iterator[FakeProvider]:
    with FakeProvider(dialect) as provider:
        yield provider


def test_a_dialect_that_there_is_no_fake_for_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="'openai': there are openai_chat, anthropic"):
        FakeProvider("openai")  # type: ignore[arg-type]  # what a user may write


def test_without_a_script_it_says_its_default_turn_each_time(fake: FakeProvider) -> None:
    first, second = post(fake), post(fake)

    assert first.status_code == 200
    assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert b"Hello" in first.content
    assert b"Hello" in second.content


def test_the_body_is_the_rendered_script(dialect: DialectName) -> None:
    turn = Turn((Think(("hm",)), Say(("a", "é")), Call("f", ('{"x":', " 1}"))))
    with FakeProvider(dialect, [turn]) as fake:
        assert render(turn, dialect) == post(fake).content


def test_answers_come_in_order_and_can_be_added(dialect: DialectName) -> None:
    with FakeProvider(dialect, Script((HttpError(500), HttpError(503)))) as fake:
        fake.add(Raw(b"third"))

        answered = [post(fake) for _ in range(3)]

    assert [response.status_code for response in answered] == [500, 503, 200]
    assert answered[2].content == b"third"


def test_an_endless_script_is_asked_for_one_answer_at_a_time(dialect: DialectName) -> None:
    asked: list[int] = []

    def forever() -> Iterator[Raw]:
        while True:
            asked.append(1)
            yield Raw(b"more")

    with FakeProvider(dialect, forever()) as fake:
        post(fake)
        post(fake)

    assert len(asked) == 2


def test_a_connection_serves_several_requests(fake: FakeProvider) -> None:
    with requests.Session() as session:
        for _ in range(3):
            session.post(url(fake), json=good_body(fake), headers=key_headers(fake), timeout=PATIENCE_SECONDS)

    assert len(fake.connections) == 1
    assert len(fake.connections[0].requests) == 3


def test_a_request_is_recorded(fake: FakeProvider) -> None:
    post(fake, extra="yes")

    (request,) = fake.requests
    assert request.done.wait(PATIENCE_SECONDS)
    assert good_body(fake) == request.json()
    assert request.headers["extra"] == "yes"
    assert (request.method, request.status) == ("POST", 200)
    assert not request.hung_up.is_set()


def test_a_request_body_in_chunks_is_read(fake: FakeProvider) -> None:
    content = json.dumps(good_body(fake)).encode()

    answered = requests.post(
        url(fake),
        data=iter([content[:10], content[10:]]),
        headers=key_headers(fake),
        timeout=PATIENCE_SECONDS,
    )

    assert answered.status_code == 200
    assert content == fake.requests[0].body


NO_HTTP = {
    "words": b"hello\r\n\r\n",
    "no length": b"POST /v1 HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    "a long line": b"POST /v1 HTTP/1.1\r\nx: " + b"y" * 65_537 + b"\r\n\r\n",
}


@pytest.mark.parametrize("bad", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_http_ends_the_connection_and_is_noted(fake: FakeProvider, bad: bytes) -> None:
    with socket.create_connection(fake.address) as sock:
        sock.sendall(bad)

        assert sock.recv(1) == b""
    assert fake.connections[0].closed.wait(PATIENCE_SECONDS)
    assert fake.connections[0].failure is not None


def test_an_endless_head_is_not_read_for_ever(fake: FakeProvider) -> None:
    with socket.create_connection(fake.address) as sock, pytest.raises(ConnectionError):
        sock.sendall(b"x" * 50_000_000)

    assert fake.connections[0].failure is not None


def test_a_wrong_key_is_401(fake: FakeProvider) -> None:
    wrong = {"authorization": "Bearer sk-wrong-0123456789"} | {"x-api-key": "sk-wrong-0123456789"}

    answered = post(fake, **wrong)

    assert answered.status_code == 401
    error = answered.json()["error"]
    if fake.dialect == "anthropic":
        assert error == {"type": "authentication_error", "message": "invalid x-api-key"}
    else:
        assert error["code"] == "invalid_api_key"
        assert error["message"].startswith("Incorrect API key provided: sk-wrong")
        assert "sk-wrong-0123456789" not in error["message"]


def test_no_key_is_401(fake: FakeProvider) -> None:
    answered = requests.post(
        url(fake),
        json=good_body(fake),
        headers={"anthropic-version": "2023-06-01"},
        timeout=PATIENCE_SECONDS,
    )

    assert answered.status_code == 401


def test_an_unknown_model_is_404(fake: FakeProvider) -> None:
    answered = post(fake, good_body(fake) | {"model": "gpt-none"})

    assert answered.status_code == 404
    if fake.dialect == "anthropic":
        assert answered.json()["error"] == {"type": "not_found_error", "message": "model: gpt-none"}
    else:
        assert answered.json()["error"]["code"] == "model_not_found"
        assert answered.json()["error"]["message"].startswith("The model `gpt-none` does not exist")


def test_an_unknown_path_is_404(fake: FakeProvider) -> None:
    answered = requests.get(fake.base_url + "/nowhere", headers=key_headers(fake), timeout=PATIENCE_SECONDS)

    assert answered.status_code == 404
    assert answered.json()["error"]["message"]


def test_a_body_that_is_no_json_is_400(fake: FakeProvider) -> None:
    for body in (b'{"model": ', b"[1]", b"\xff"):
        answered = requests.post(url(fake), data=body, headers=key_headers(fake), timeout=PATIENCE_SECONDS)

        assert answered.status_code == 400
        assert "JSON" in answered.json()["error"]["message"]


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_400(fake: FakeProvider, field: str) -> None:
    body = good_body(fake)
    del body[field]

    answered = post(fake, body)

    assert answered.status_code == 400
    assert field in answered.json()["error"]["message"]


def test_anthropic_wants_a_limit_and_a_version() -> None:
    with FakeProvider("anthropic") as fake:
        body = good_body(fake)
        del body["max_tokens"]
        headers = {"x-api-key": fake.api_key}

        no_limit = post(fake, body)
        no_version = requests.post(url(fake), json=good_body(fake), headers=headers, timeout=PATIENCE_SECONDS)

    assert no_limit.json()["error"]["message"] == "max_tokens: Field required"
    assert no_version.json()["error"]["message"] == "anthropic-version: header is required"


def test_a_refused_request_uses_up_no_answer(dialect: DialectName) -> None:
    with FakeProvider(dialect, [Raw(b"the first answer")]) as fake:
        post(fake, good_body(fake) | {"model": "gpt-none"})

        assert post(fake).content == b"the first answer"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error"), (403, "permission_error")],
)
def test_http_errors_have_the_words_of_anthropic(status: int, kind: str) -> None:
    with FakeProvider("anthropic", [HttpError(status, retry_after="30")]) as fake:
        answered = post(fake)

    assert (status, "30") == (answered.status_code, answered.headers["retry-after"])
    assert kind == answered.json()["error"]["type"]
    assert answered.headers["request-id"] == answered.json()["request_id"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "requests"), (500, "server_error"), (503, "server_error"), (418, "server_error")],
)
def test_http_errors_have_the_words_of_openai(status: int, kind: str) -> None:
    with FakeProvider("openai_chat", [HttpError(status, message="Not now.")]) as fake:
        answered = post(fake)

    assert status == answered.status_code
    assert "retry-after" not in answered.headers
    assert (kind, "Not now.") == (answered.json()["error"]["type"], answered.json()["error"]["message"])


def openai_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


USER = {"role": "user", "content": "Hi"}
TOOL_USE = assistant({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}})
TOOL_RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]}


@pytest.mark.parametrize(
    ("rule", "messages", "words"),
    [
        (
            "OC1",
            [USER, {"role": "assistant", "content": None, "tool_calls": [openai_call("call_1")]}, USER],
            (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: call_1"
            ),
        ),
        (
            "OC2",
            [USER, {"role": "tool", "tool_call_id": "call_1", "content": "x"}],
            (
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                "'tool_calls'."
            ),
        ),
        (
            "OC3",
            [
                USER,
                {"role": "assistant", "tool_calls": [openai_call("call_1", '{"a": ')]},
                {"role": "tool", "tool_call_id": "call_1", "content": "x"},
            ],
            "Failed to parse tool call arguments as JSON: ",
        ),
        ("OC4", [USER, {"role": "assistant", "content": ""}, USER], "Invalid value for "),
        (
            "OC5",
            [USER, USER],
            "After the optional system message, conversation roles must alternate user and assistant roles",
        ),
        ("OC6", [USER, {"role": "assistant", "content": "x", "tool_calls": []}, USER], "Invalid "),
        (
            "C16",
            [
                USER,
                {"role": "assistant", "tool_calls": [openai_call("call_1")]},
                {"role": "tool", "tool_call_id": "call_1", "content": "x"},
                USER,
            ],
            "Unexpected role 'user' after role 'tool'",
        ),
        ("M3", [USER, {"role": "assistant", "content": "x"}], "Expected last role User or Tool "),
    ],
)
def test_what_breaks_a_rule_of_openai_is_refused_in_its_words(
    rule: str, messages: list[dict[str, Any]], words: str
) -> None:
    with FakeProvider("openai_chat") as fake:
        answered = post(fake, good_body(fake) | {"messages": messages})

    assert answered.status_code == 400
    error = answered.json()["error"]
    assert {"message", "type", "param", "code"} == set(error)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(words)
    assert rule == fake.requests[0].violations[0].rule


@pytest.mark.parametrize(
    ("rule", "messages", "words"),
    [
        (
            "A1",
            [USER, TOOL_USE, USER],
            "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1.",
        ),
        (
            "A2",
            [TOOL_RESULT],
            "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1.",
        ),
        (
            "A3",
            [
                USER,
                assistant({"type": "tool_use", "id": "toolu_1", "name": "f", "input": "{"}),
                TOOL_RESULT,
            ],
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (
            "A4",
            [
                USER,
                {"role": "assistant", "content": [{"type": "input_json_delta", "partial_json": "{"}]},
                USER,
            ],
            "messages.1.content.0: Input tag 'input_json_delta' ",
        ),
        (
            "A5",
            [USER, {"role": "assistant", "content": []}, USER],
            "messages: text content blocks must be non-empty",
        ),
        (
            "A5",
            [{"role": "user", "content": [{"type": "text", "text": " "}]}],
            "messages: text content blocks must contain non-whitespace text",
        ),
        (
            "A6",
            [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": ""},
                        {"type": "text", "text": "x"},
                    ],
                },
                USER,
            ],
            "messages.1.content.0: Invalid `signature` in `thinking` block",
        ),
        (
            "A8",
            [USER, {"role": "assistant", "content": "x"}],
            (
                "This model does not support assistant message prefill. "
                "The conversation must end with a user message."
            ),
        ),
        ("A9", [{"role": "assistant", "content": "x"}, USER], "messages: "),
    ],
)
def test_what_breaks_a_rule_of_anthropic_is_refused_in_its_words(
    rule: str, messages: list[dict[str, Any]], words: str
) -> None:
    with FakeProvider("anthropic") as fake:
        body = good_body(fake) | {
            "messages": messages,
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        }
        answered = post(fake, body)

    assert answered.status_code == 400
    assert answered.json()["type"] == "error"
    error = answered.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(words)
    assert rule == fake.requests[0].violations[0].rule


def test_a_host_can_have_rules_of_its_own() -> None:
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [openai_call("call_1")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    ]
    with FakeProvider("openai_chat", rules=OpenAIChat(nine_character_ids=True)) as mistral:
        refused = post(mistral, good_body(mistral) | {"messages": messages})

    assert refused.status_code == 400
    assert [violation.rule for violation in mistral.requests[0].violations] == ["M5"]


def thinking_history(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [*blocks, {"type": "text", "text": "Hello"}]},
        {"role": "user", "content": "And?"},
    ]


def test_a_signature_is_known_again_by_any_fake_and_broken_by_any_change() -> None:
    with FakeProvider("anthropic", [Turn((Think(("let", " me")),))]) as fake:
        answered = post(fake, good_body(fake) | {"stream": False})
    (block,) = answered.json()["content"]

    with FakeProvider("anthropic") as other:
        same = post(other, good_body(other) | {"messages": thinking_history(block)})
        changed = post(
            other, good_body(other) | {"messages": thinking_history(block | {"thinking": "let us"})}
        )

    assert same.status_code == 200
    assert changed.status_code == 400
    assert (
        changed.json()["error"]["message"] == "messages.1.content.0: Invalid `signature` in `thinking` block"
    )
    assert [violation.rule for violation in other.requests[1].violations] == ["A6"]


def test_a_signature_of_the_script_is_known_to_the_fake_that_gave_it() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "Eq=="}
    redacted = {"type": "redacted_thinking", "data": "secret"}
    with FakeProvider("anthropic", [Turn((Think(("hm",), signature="Eq=="), Redacted("secret")))]) as fake:
        before = post(fake, good_body(fake) | {"messages": thinking_history(block)})
        also_before = post(fake, good_body(fake) | {"messages": thinking_history(redacted)})
        post(fake)
        after = post(fake, good_body(fake) | {"messages": thinking_history(block, redacted)})

    assert [response.status_code for response in (before, also_before, after)] == [400, 400, 200]
    assert "`data`" in also_before.json()["error"]["message"]


def test_a_body_that_is_no_stream_says_what_the_model_said_even_if_it_is_no_json() -> None:
    turn = Turn((Call("f", ('{"cut',)),), usage=None)
    with FakeProvider("anthropic", [turn]) as fake:
        answered = post(fake, good_body(fake) | {"stream": False})

    (block,) = answered.json()["content"]
    assert block["input"] == '{"cut'
    assert "usage" not in answered.json()


def test_a_body_that_is_no_stream_can_keep_its_usage_to_itself() -> None:
    with FakeProvider("openai_chat", [Turn((Say(("Hi",)),), usage=None)]) as fake:
        answered = post(fake, good_body(fake) | {"stream": False})

    assert "usage" not in answered.json()


def test_interleaved_calls_end_where_something_else_is_said() -> None:
    turn = Turn(
        (Call("f", ("{", "}")), Call("g", ("{}",)), Say(("so",)), Call("h", ("{}",))), interleaved=True
    )

    body = render(turn, "openai_chat").decode()

    assert [body.index(word) for word in ('"f"', '"g"', '"so"', '"h"')] == sorted(
        body.index(word) for word in ('"f"', '"g"', '"so"', '"h"')
    )
