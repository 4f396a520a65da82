"""Who may ask the app for anything: requests as browsers, strangers and other people's pages send them."""

import base64
import socket
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from aiwrapper.testing import FakeProvider
from tests.aiwrapper.chat.servers import PATIENCE_SECONDS, SAME_ORIGIN, ChatClient, Server

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
SECRET = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


@pytest.fixture(scope="module")
def server(provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server.program(provider, tmp_path_factory.mktemp("open")) as running:
        yield running


@pytest.fixture(scope="module")
def closed(provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("closed")
    with Server.program(provider, home, AIWRAPPER_SERVE_TOKEN=SECRET) as running:
        yield running


@pytest.fixture
def chat(server: Server) -> ChatClient:
    return server.new_chat()


def raw(server: Server, method: str, path: str, **more: object) -> httpx.Response:
    """A request with nothing that the test's client adds by itself."""
    url = server.address.partition("?")[0] + path
    return httpx.request(method, url, **more)  # type: ignore[arg-type]  # what httpx takes, as the caller says


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": "{own}"},
        {"origin": "https://{host}"},
    ],
)
def test_a_change_from_elsewhere_is_refused(server: Server, headers: dict[str, str]) -> None:
    own = server.address.rstrip("/")
    host = own.removeprefix("http://")
    filled = {name: value.format(own=own, host=host) for name, value in headers.items()}

    assert (403, "cross_site") == error(raw(server, "POST", "api/chats", json={}, headers=filled))


@pytest.mark.parametrize("headers", [SAME_ORIGIN, {"origin": "{own}"}])
def test_a_change_from_the_page_itself_is_taken(server: Server, headers: dict[str, str]) -> None:
    filled = {name: value.format(own=server.address.rstrip("/")) for name, value in headers.items()}

    assert 200 == raw(server, "POST", "api/chats", json={}, headers=filled).status_code


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_change_that_a_form_could_send_is_refused(server: Server, media_type: str) -> None:
    headers = {**SAME_ORIGIN, "content-type": media_type}

    assert (415, "media_type") == error(raw(server, "POST", "api/chats", content=b"{}", headers=headers))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "a b", "[::1"]
)
def test_a_host_that_is_not_ours_is_refused(server: Server, host: str) -> None:
    for path in ("", "api/chats", "static/page.js"):
        assert (421, "host") == error(raw(server, "GET", path, headers={"host": host}))


def test_every_answer_forbids_what_does_not_come_from_here(server: Server) -> None:
    for answer in (
        raw(server, "GET", "api/options"),
        raw(server, "GET", "nowhere"),
        raw(server, "POST", "api/chats"),
        raw(server, "GET", "", headers={"host": "evil.example"}),
    ):
        policy = answer.headers["content-security-policy"]

        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "same-origin" == answer.headers["cross-origin-resource-policy"]


def test_without_the_token_nothing_is_said(closed: Server) -> None:
    for method, path in (("GET", ""), ("GET", "api/chats"), ("GET", "static/page.js"), ("POST", "api/chats")):
        answer = raw(closed, method, path, headers=SAME_ORIGIN)

        assert (401, "token") == error(answer)
    assert (401, "token") == error(raw(closed, "GET", "?token=wrong"))
    assert (401, "token") == error(
        raw(closed, "GET", "api/chats", headers={"cookie": "aiwrapper_chat=wrong"})
    )
    assert (401, "token") == error(raw(closed, "GET", f"api/chats?token={SECRET}"))


def test_the_token_in_the_address_gives_a_cookie_that_scripts_and_strangers_can_not_use(
    closed: Server,
) -> None:
    assert closed.address.endswith(f"?token={SECRET}")
    answer = raw(closed, "GET", f"?token={SECRET}")
    cookie = answer.headers["set-cookie"]
    name, _, value = cookie.partition(";")[0].partition("=")

    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert SECRET not in cookie
    assert SECRET not in answer.text
    assert 200 == raw(closed, "GET", "api/chats", headers={"cookie": f"{name}={value}"}).status_code


def test_a_program_may_bear_the_token(closed: Server) -> None:
    assert 200 == raw(closed, "GET", "api/chats", headers={"authorization": f"Bearer {SECRET}"}).status_code
    assert 401 == raw(closed, "GET", "api/chats", headers={"authorization": "Bearer no"}).status_code


def test_what_is_not_there_is_the_same_404_everywhere(server: Server, chat: ChatClient) -> None:
    nobody = server.chat("0" * 32)
    run_id = str(uuid4())
    answers = [
        nobody.post("send", run_id=run_id, text="Hello?"),
        nobody.post("stop", run_id=run_id),
        nobody.post("delete"),
        nobody.post("attachments", name="a.png", media_type="image/png", data=PNG),
        server.client.get(f"api/chats/{nobody.id}"),
        server.client.get(f"api/chats/{nobody.id}/events"),
        chat.post("switch", message_id="nobody"),
        chat.post("retry", run_id=run_id, message_id="nobody"),
        chat.post("send", run_id=run_id, text="See", attachments=["0" * 64]),
        server.client.get(f"api/chats/{chat.id}/attachments/{'0' * 64}"),
        server.client.get(f"api/chats/{chat.id}/attachments/..%2f..%2fchats.db"),
    ]

    assert {(404, "not_found")} == set(map(error, answers[:-1]))
    assert 404 == answers[-1].status_code


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("send", {}),
        ("send", {"run_id": "a.b", "text": "Hello?"}),
        ("send", {"run_id": "one", "text": " \n "}),
        ("send", {"run_id": 7, "text": "Hello?"}),
        ("stop", {"run_id": None}),
        ("configure", {"model": "nobody"}),
        ("configure", {"tools": ["nothing"]}),
        ("title", {"title": ["a"]}),
        ("attachments", {"name": "a.png", "media_type": "image/png", "data": "no base64!"}),
    ],
)
def test_a_body_that_is_not_what_is_asked_for_is_refused(
    chat: ChatClient, what: str, body: dict[str, object]
) -> None:
    assert (400, "bad_request") == error(chat.post(what, **body))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    headers = {"content-type": "application/json"}

    assert (400, "bad_request") == error(server.client.post("api/chats", content=body, headers=headers))


def test_what_is_too_large_is_refused(chat: ChatClient) -> None:
    megabyte = "x" * (1024 * 1024)

    assert (413, "too_large") == error(chat.post("send", run_id="one", text=megabyte[:200_001]))
    assert (413, "too_large") == error(chat.post("send", run_id="one", text=megabyte * 2))
    assert (413, "too_large") == error(chat.post("title", title=megabyte[:201]))
    assert (413, "too_large") == error(
        chat.post("attachments", name="a.png", media_type="image/png", data=PNG[:-4] + "AAAA" * 1_500_000)
    )
    notes = base64.b64encode(megabyte.encode()).decode()
    assert (413, "too_large") == error(
        chat.post("attachments", name="a", media_type="text/plain", data=notes)
    )


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("image/png", b"GIF89a"),
        ("image/png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("image/svg+xml", b"<svg/>"),
        ("text/html", b"<script>alert(1)</script>"),
        ("text/plain", b"\xff\xfe\x00"),
        ("text/plain", b"nul\x00"),
        ("text/plain", b" "),
        ("application/octet-stream", b"MZ"),
    ],
)
def test_an_attachment_is_what_it_is_said_to_be(chat: ChatClient, media_type: str, content: bytes) -> None:
    data = base64.b64encode(content).decode()

    assert (415, "media_type") == error(chat.post("attachments", name="a", media_type=media_type, data=data))


def test_an_attachment_is_shown_as_nothing_that_could_run(server: Server, chat: ChatClient) -> None:
    text = base64.b64encode(b"<script>alert(1)</script>").decode()
    kept = chat.done("attachments", name="a.html", media_type="text/plain", data=text)
    shown = server.client.get(f"api/chats/{chat.id}/attachments/{kept['hash']}")

    assert "text/plain; charset=utf-8" == shown.headers["content-type"]
    assert "sandbox" in shown.headers["content-security-policy"]
    assert "nosniff" == shown.headers["x-content-type-options"]


def test_an_attachment_belongs_to_its_chat(server: Server, chat: ChatClient) -> None:
    kept = chat.done("attachments", name="a.png", media_type="image/png", data=PNG)
    other = server.new_chat()

    assert (404, "not_found") == error(server.client.get(f"api/chats/{other.id}/attachments/{kept['hash']}"))
    assert (404, "not_found") == error(
        other.post("send", run_id="one", text="See", attachments=[kept["hash"]])
    )


def test_ids_can_not_be_guessed(server: Server) -> None:
    ids = {server.new_chat().id for _ in range(5)}

    assert 5 == len(ids)
    assert all(len(bytes.fromhex(chat_id)) == 16 for chat_id in ids)


def test_a_refusal_does_not_overtake_its_request(server: Server) -> None:
    """Else the server closes the connection, and the next request on it finds it dead."""
    host, _, port = server.address.removeprefix("http://").rstrip("/").rpartition(":")
    head = (
        f"POST /api/chats HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
    )
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as line,
        line.makefile("rb") as said,
    ):
        for _ in range(3):
            line.sendall(head.encode())
            line.sendall(b"body")  # a packet of its own, as most clients send it
            status = said.readline()
            length = 0
            while (header := said.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            said.read(length)

            assert status.startswith(b"HTTP/1.1 403")
