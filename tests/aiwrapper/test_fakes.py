"""The fake providers themselves, spoken to with bare sockets and with `requests`."""

import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme

from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import (
    Call,
    Cut,
    Delivery,
    DialectName,
    FakeProvider,
    HttpError,
    Phase,
    Raw,
    Redacted,
    Say,
    Script,
    Think,
    Turn,
    render,
)

DIALECTS: tuple[DialectName, ...] = ("openai_chat", "anthropic")
PHASES: tuple[Phase, ...] = ("accept", "upload", "headers", "first_byte", "mid_body", "end")
PATIENCE_SECONDS = 30  # of waits that end at once unless something is broken


def good_body(fake: FakeProvider) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": fake.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }
    if fake.dialect == "anthropic":
        return body | {"max_tokens": 100}
    return body | {"stream_options": {"include_usage": True}}


def key_headers(fake: FakeProvider) -> dict[str, str]:
    if fake.dialect == "anthropic":
        return {"x-api-key": fake.api_key, "anthropic-version": "2023-06-01"}
    return {"authorization": f"Bearer {fake.api_key}"}


def url(fake: FakeProvider) -> str:
    return fake.base_url + ("/v1/messages" if fake.dialect == "anthropic" else "/chat/completions")


def request_bytes(fake: FakeProvider, body: dict[str, Any] | None = None) -> bytes:
    content = json.dumps(good_body(fake) if body is None else body).encode()
    path = "/v1/messages" if fake.dialect == "anthropic" else "/v1/chat/completions"
    headers = {"host": "fake", "content-length": str(len(content))} | key_headers(fake)
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + content


def post(fake: FakeProvider, body: object = None, **headers: str) -> requests.Response:
    sent = good_body(fake) if body is None else body
    return requests.post(url(fake), json=sent, headers=key_headers(fake) | headers, timeout=PATIENCE_SECONDS)


def receive_to_the_end(sock: socket.socket) -> bytes:
    received = b""
    while more := sock.recv(65536):
        received += more
    return received


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> DialectName:
    name: DialectName = request.param
    return name


@pytest.fixture
def fake(dialect: DialectName) -> Iterator[FakeProvider]:
    with FakeProvider(dialect) as provider:
        yield provider


# --- answers ---------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("bad", [b"hello\r\n\r\n", b"POST /v1 HTTP/1.1\r\ncontent-length: x\r\n\r\n"])
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


# --- refusals --------------------------------------------------------------------------------------------


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


# --- sealed reasoning (A6) -------------------------------------------------------------------------------


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


# --- holds and hang-ups ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_it_holds_in_each_phase_until_it_is_released(fake: FakeProvider, phase: Phase) -> None:
    expected = render(Turn((Say(("one", "two")),)), fake.dialect)
    fake.add(Raw(expected))
    hold = fake.hold_at(phase)
    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))

        assert hold.reached.wait(PATIENCE_SECONDS)
        hold.release()
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert expected == response.read()


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_hang_up_is_seen_in_each_phase(fake: FakeProvider, phase: Phase, how: str) -> None:
    hold = fake.hold_at(phase)
    sock = socket.create_connection(fake.address)
    sock.sendall(request_bytes(fake))
    assert hold.reached.wait(PATIENCE_SECONDS)
    assert not fake.connections[0].hung_up.is_set()

    if how == "rst":
        reset(sock)
    else:
        sock.shutdown(socket.SHUT_RDWR)

    (connection,) = fake.connections
    assert connection.hung_up.wait(PATIENCE_SECONDS)
    assert connection.closed.wait(PATIENCE_SECONDS)
    if phase != "accept":
        (request,) = fake.requests
        assert request.hung_up.is_set()
        assert request.hung_up_at is not None
        assert request.done.is_set()
    assert how == connection.hung_up_how
    sock.close()


@pytest.mark.parametrize("at_byte", [0, 1, 17, 100])
def test_it_holds_before_any_byte_of_the_body(fake: FakeProvider, at_byte: int) -> None:
    body = bytes(range(100))
    fake.add(Raw(body, delivery=Delivery(framing="close")))
    with fake.hold_at(at_byte) as hold, socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert hold.request is fake.requests[0]
        assert hold.connection is fake.connections[0]
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert body[:at_byte] == response.read(at_byte)
        assert at_byte == fake.requests[0].sent_bytes
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1, socket.MSG_PEEK)
        sock.setblocking(True)

        hold.release()
        assert body[at_byte:] == response.read()


def test_one_response_can_be_held_at_several_bytes_and_one_hold_holds_one_request(fake: FakeProvider) -> None:
    fake.add(Raw(b"x" * 10), Raw(b"y" * 10))
    first, second, for_the_next = fake.hold_at(3), fake.hold_at(6), fake.hold_at(3)
    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        assert first.reached.wait(PATIENCE_SECONDS)
        assert not second.reached.is_set()
        first.release()
        assert second.reached.wait(PATIENCE_SECONDS)
        second.release()
        assert fake.requests[0].done.wait(PATIENCE_SECONDS)
        assert not for_the_next.reached.is_set()

        sock.sendall(request_bytes(fake))
        assert for_the_next.reached.wait(PATIENCE_SECONDS)
        assert for_the_next.request.number == 2 if for_the_next.request else False
        for_the_next.release()
        assert fake.requests[1].done.wait(PATIENCE_SECONDS)


def test_a_hold_that_was_released_before_holds_nobody(fake: FakeProvider) -> None:
    hold = fake.hold_at("headers")
    hold.release()

    assert post(fake).status_code == 200
    assert hold.reached.is_set()


def test_a_hang_up_is_seen_while_the_buffers_are_full(fake: FakeProvider) -> None:
    fake.add(Raw(b"x" * 50_000_000))
    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        sock.recv(100)
        sock.shutdown(socket.SHUT_RDWR)

        assert fake.wait_for_requests(1)
        assert fake.requests[0].hung_up.wait(PATIENCE_SECONDS)
    assert fake.requests[0].sent_bytes < 50_000_000


def test_a_hang_up_in_the_upload_keeps_what_arrived(fake: FakeProvider) -> None:
    raw = request_bytes(fake)
    with socket.create_connection(fake.address) as sock:
        sock.sendall(raw[:-5])
        sock.shutdown(socket.SHUT_RDWR)

        assert fake.wait_for_requests(1, timeout_seconds=PATIENCE_SECONDS)
        assert fake.requests[0].hung_up.wait(PATIENCE_SECONDS)
    assert raw.endswith(fake.requests[0].body + raw[-5:])
    assert fake.requests[0].status is None


def test_leaving_after_the_answer_is_no_hang_up_of_the_request(fake: FakeProvider) -> None:
    with requests.Session() as session:
        session.post(url(fake), json=good_body(fake), headers=key_headers(fake), timeout=PATIENCE_SECONDS)

    assert fake.connections[0].hung_up.wait(PATIENCE_SECONDS)
    assert fake.requests[0].done.is_set()
    assert not fake.requests[0].hung_up.is_set()


def test_waiting_for_requests_gives_up(fake: FakeProvider) -> None:
    assert not fake.wait_for_requests(1, timeout_seconds=0)


@pytest.mark.parametrize("phase", [*PHASES, None])
def test_closing_ends_every_connection_whatever_it_does(dialect: DialectName, phase: Phase | None) -> None:
    fake = FakeProvider(dialect)
    fake.start()
    hold = fake.hold_at("accept" if phase is None else phase)
    if phase is None:
        hold.release()
    with socket.create_connection(fake.address) as sock:
        if phase is not None:
            sock.sendall(request_bytes(fake))
        assert hold.reached.wait(PATIENCE_SECONDS)

        fake.close()
        fake.close()

        assert all(connection.closed.is_set() for connection in fake.connections)
    with pytest.raises(ConnectionError):
        socket.create_connection(fake.address)


def test_closing_a_fake_that_never_started_is_nothing(dialect: DialectName) -> None:
    FakeProvider(dialect).close()


# --- delivery --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_cut_by_fin_gives_exactly_the_bytes_before_it(fake: FakeProvider, framing: Any) -> None:
    fake.add(Raw(b"0123456789", delivery=Delivery(cut=Cut(4, "fin"), framing=framing)))

    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        response = http.client.HTTPResponse(sock)
        response.begin()
        if framing == "close":
            assert response.read() == b"0123"
        else:
            with pytest.raises(http.client.IncompleteRead) as caught:
                response.read()
            assert caught.value.partial == b"0123"
    assert fake.requests[0].done.wait(PATIENCE_SECONDS)
    assert fake.requests[0].sent_bytes == 4
    assert not fake.requests[0].hung_up.is_set()


def test_a_cut_by_rst_resets(fake: FakeProvider) -> None:
    fake.add(Raw(b"0123456789", delivery=Delivery(cut=Cut(4, "rst"))))

    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        with pytest.raises(ConnectionResetError):
            receive_to_the_end(sock)


def test_a_cut_beyond_the_body_leaves_its_end_untold(fake: FakeProvider) -> None:
    fake.add(Raw(b"0123", delivery=Delivery(cut=Cut(99, "fin"))))

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        post(fake)

    assert fake.requests[0].sent_bytes == 4


def test_dribbling_sends_each_few_bytes_by_themselves(fake: FakeProvider) -> None:
    fake.add(Raw(b"0123456789", delivery=Delivery(write_bytes=3)))

    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(1000)

    _, _, body = received.partition(b"\r\n\r\n")
    assert body == b"3\r\n012\r\n3\r\n345\r\n3\r\n678\r\n1\r\n9\r\n0\r\n\r\n"


def test_a_paced_body_comes_whole(fake: FakeProvider) -> None:
    turn = Turn((Say(["x"] * 200),), delivery=Delivery(events_per_second=10_000))
    fake.add(turn)

    assert render(turn, fake.dialect) == post(fake).content


def test_a_hang_up_is_seen_between_two_paced_events(fake: FakeProvider) -> None:
    fake.add(Turn((Say(["x"] * 10),), delivery=Delivery(events_per_second=0.001)))
    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        sock.recv(10)
        sock.shutdown(socket.SHUT_RDWR)

        assert fake.wait_for_requests(1)
        assert fake.requests[0].hung_up.wait(PATIENCE_SECONDS)


def test_a_piece_of_ten_megabytes_is_one_event(fake: FakeProvider) -> None:
    fake.add(Turn((Say(("x" * 10_000_000,)),)))

    assert any(len(line) > 10_000_000 for line in post(fake).content.split(b"\n\n"))


def test_a_piece_can_hold_invalid_utf_8(fake: FakeProvider) -> None:
    fake.add(Turn((Say((b"caf\xc3".decode(errors="surrogateescape"),)),)))

    content = post(fake).content

    assert b"caf\xc3" in content
    with pytest.raises(UnicodeDecodeError):
        content.decode()


def test_two_connections_are_served_at_once(fake: FakeProvider) -> None:
    with fake.hold_at("headers") as hold:
        held = threading.Thread(target=post, args=(fake,))
        held.start()
        assert hold.reached.wait(PATIENCE_SECONDS)

        assert post(fake).status_code == 200
    held.join()


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(dialect: DialectName, authority: trustme.CA) -> Iterator[FakeProvider]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeProvider(dialect, tls=context) as provider:
        yield provider


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_it_speaks_tls(secure: FakeProvider, trusting: ssl.SSLContext) -> None:
    body = Raw(bytes(range(256)) * 4000, delivery=Delivery(framing="close"))
    secure.add(body)

    with trusting.wrap_socket(socket.create_connection(secure.address), server_hostname="127.0.0.1") as sock:
        sock.sendall(request_bytes(secure))
        response = http.client.HTTPResponse(sock)
        response.begin()

        assert body.body == response.read()
    assert secure.base_url.startswith("https://127.0.0.1:")


def test_it_holds_in_the_handshake_and_sees_the_hang_up(
    secure: FakeProvider, trusting: ssl.SSLContext
) -> None:
    hold = secure.hold_at("tls")
    hello = ssl.MemoryBIO()
    client = trusting.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(secure.address) as sock:
        sock.sendall(hello.read())
        assert hold.reached.wait(PATIENCE_SECONDS)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    assert secure.connections[0].hung_up.wait(PATIENCE_SECONDS)


def test_a_hang_up_is_seen_through_tls(secure: FakeProvider, trusting: ssl.SSLContext) -> None:
    hold = secure.hold_at("mid_body")
    with trusting.wrap_socket(socket.create_connection(secure.address), server_hostname="127.0.0.1") as sock:
        sock.sendall(request_bytes(secure))
        assert hold.reached.wait(PATIENCE_SECONDS)
    assert secure.requests[0].hung_up.wait(PATIENCE_SECONDS)


def test_a_cut_through_tls_says_no_farewell(secure: FakeProvider, trusting: ssl.SSLContext) -> None:
    secure.add(Raw(b"0123456789", delivery=Delivery(cut=Cut(4, "fin"), framing="close")))

    with trusting.wrap_socket(
        socket.create_connection(secure.address), server_hostname="127.0.0.1", suppress_ragged_eofs=False
    ) as sock:
        sock.sendall(request_bytes(secure))
        with pytest.raises(ssl.SSLEOFError):
            receive_to_the_end(sock)


def test_a_client_that_does_not_trust_it_is_noted(secure: FakeProvider) -> None:
    with (
        pytest.raises(ssl.SSLError),
        ssl.create_default_context().wrap_socket(
            socket.create_connection(secure.address), server_hostname="127.0.0.1"
        ),
    ):
        pass

    (connection,) = secure.connections
    assert connection.closed.wait(PATIENCE_SECONDS)
    assert connection.failure is not None or connection.hung_up.is_set()
