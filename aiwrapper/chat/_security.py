"""Who may ask the app for anything, and what a browser may do with its answers.

Asked of every request, before anything else looks at it:

1. Its `Host` names this server. A page elsewhere whose name is made to point here (DNS rebinding) can't say so.
2. It has the token, where one is asked for: in the cookie that `GET .?token=...` has set, or as a bearer's.
3. If it changes something, the page itself has sent it: `Sec-Fetch-Site: same-origin`, which scripts can't set (Fetch
   Metadata, W3C), or no such header and an `Origin` that is this server's; and it is JSON, which no form can send.

Every answer forbids the browser to run, load, frame or submit anything that does not come from here.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

TRUSTED_TYPES_POLICY: Final = "rendered-by-the-server"
"""The one policy of the page that may make HTML: of what the server has sanitised."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"require-trusted-types-for 'script'; trusted-types {TRUSTED_TYPES_POLICY}"
)

MAX_DRAINED_BYTES: Final = 16 * 1024 * 1024
"""Of a body that nobody wants; by hand: a person's photograph, so that its refusal is heard. More is cut off."""

_HEADERS: Final = (
    (b"cache-control", b"no-cache"),  # so that an upgrade reaches every page
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

_COOKIE: Final = "aiwrapper_chat"
_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

Message = MutableMapping[str, Any]  # Any: what ASGI says
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application that lets through to `app` only what may come.

    Args:
        app: what is guarded.
        hosts: the names, without port, by which this server is called; None if somebody else looks at that.
        token: what every request has to know; None if all may ask.
    """

    def __init__(self, app: App, *, hosts: Collection[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(name.lower() for name in hosts)
        # The cookie holds a digest: other servers on other ports of this host are sent it, too.
        self._digest = None if token is None else sha256(token.encode()).hexdigest()
        self._cookie = f"{_COOKIE}_{(self._digest or '')[:8]}"  # and each has a name of its own

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = _Body(receive)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["method"] == "POST":
                    await body.drain()
                present = {name.lower() for name, _ in message.get("headers", ())}
                more = [header for header in _HEADERS if header[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        headers = _headers(scope)
        if self._hosts is not None and _host_name(headers) not in self._hosts:
            await refuse(send_guarded, 421, "host", "this server is not called by that name")
        elif self._digest is not None and not self._knows_token(scope, headers):
            if not await self._take_token(scope, send_guarded):
                await refuse(
                    send_guarded, 401, "token", "open the address that the server has printed, with its token"
                )
        elif scope["method"] not in ("GET", "HEAD") and not _is_from_page(scope, headers):
            await refuse(send_guarded, 403, "cross_site", "changes are taken from the page itself only")
        elif scope["method"] == "POST" and not _is_json(headers):
            await refuse(send_guarded, 415, "media_type", "changes are application/json")
        else:
            await self._app(scope, body.receive, send_guarded)

    def _knows_token(self, scope: Message, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            cookie = None
        given = "" if cookie is None else cookie.value
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = sha256(bearer.strip().encode()).hexdigest()
        return self._is_digest(given)

    async def _take_token(self, scope: Message, send: Send) -> bool:
        """Give the cookie for the token in the address, and lead to the address without it."""
        root = scope.get("root_path", "")
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if scope["method"] != "GET" or scope["path"] != f"{root}/":
            return False
        digest = sha256(given.encode()).hexdigest()
        if not self._is_digest(digest):
            return False
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{self._cookie}={digest}; Path={root or '/'}; HttpOnly; SameSite=Strict{secure}"
        # Not a redirect by status: a Strict cookie would not be sent with it if the link was clicked elsewhere.
        headers = [
            (b"set-cookie", cookie.encode()),
            (b"refresh", b"0; url=."),
            (b"cache-control", b"no-store"),
            (b"content-type", b"text/plain; charset=utf-8"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Opening the chat ..."})
        return True

    def _is_digest(self, given: str) -> bool:
        assert self._digest is not None
        return hmac.compare_digest(given.encode(), self._digest.encode())


class _Body:
    """A request's body, of which the rest is read before it is answered.

    A server closes a connection on which an answer has overtaken its request, and a client that has just sent the next
    one finds the line dead.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._is_read = True
        return message

    async def drain(self) -> None:
        """Read the rest, if it is not much."""
        rest = 0
        while not self._is_read and rest <= MAX_DRAINED_BYTES:
            rest += len((await self.receive()).get("body", b""))


async def refuse(send: Send, status: int, code: str, words: str) -> None:
    """Answer with an error."""
    body = msgspec.json.encode({"error": code, "message": words})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Message) -> dict[str, str]:
    """The request's headers; of one that comes twice, nothing is believed."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = value if name not in headers else f"{headers[name]}, {value}"
    return headers


def _host_name(headers: dict[str, str]) -> str | None:
    found = _HOST.fullmatch(headers.get("host", ""))
    return None if found is None else found["name"].lower()


def _is_from_page(scope: Message, headers: dict[str, str]) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(headers.get("origin", ""))
    return bool(origin.netloc) and (origin.scheme, origin.netloc.lower()) == (
        scope.get("scheme", "http"),
        headers.get("host", "").lower(),
    )


def _is_json(headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
