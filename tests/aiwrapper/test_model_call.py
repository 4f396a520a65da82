import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from itertools import repeat
from socket import create_server
from typing import Unpack, cast

import pytest
from attrs import evolve

from aiwrapper._core.agent import CallModel
from aiwrapper._core.conversation import Conversation
from aiwrapper._core.dialect import Options
from aiwrapper._core.errors import AiwrapperError, ModelCallError
from aiwrapper._core.log import (
    RetryWaiting,
    StopWhere,
    TextDelta,
    ToolCallArguments,
    TurnEntry,
    TurnFinished,
    TurnStarted,
)
from aiwrapper._core.messages import Producer, Text, UserMessage
from aiwrapper._core.sse import MAX_EVENT_BYTES
from aiwrapper._model_call import Endpoint, ModelCall, RemoteHost, RetryPolicy
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing import Call, Cut, Delivery, HttpError, Raw, Say, Turn, render
from aiwrapper.testing.fakes import FakeProvider
from aiwrapper.testing.recorded import Hold, RecordedTransport, Recording
from aiwrapper.transport import HttpTransport
from cancel_token import Cancelled, CancelToken
from cancel_token.http import RequestOptions, Response, Session

STEP = CallModel("run", 1, conversation=Conversation.of([UserMessage("u", (Text("Hello"),))]))
AT_ONCE = RetryPolicy(first_wait_seconds=0.0, max_retry_after_seconds=0.0)
KEY = "sk-fake-0123456789abcdef"
HELLO = render(Turn((Say(("Hel", "lo")),)), "openai_chat")


def played(*recordings: Recording, retry: RetryPolicy = AT_ONCE) -> tuple[ModelCall, RecordedTransport]:
    transport = RecordedTransport(recordings)
    return calling("http://recorded/v1", transport, retry=retry), transport


def calling(
    base_url: str,
    transport: RecordedTransport | HttpTransport,
    *,
    key: str | None = KEY,
    model: str = "fake-model",
    retry: RetryPolicy = AT_ONCE,
) -> ModelCall:
    return ModelCall(
        dialect=OpenAIChat(),
        host=RemoteHost(base_url, key),
        options=Options(producer=Producer("openai_chat", "the host", model=model)),
        transport=transport,
        retry=retry,
        random_fraction=lambda: 1.0,
    )


@pytest.fixture
def http() -> Iterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    transport.close()


def yielded_by(
    call: ModelCall, token: CancelToken, doing: Callable[[StopWhere], None]
) -> Generator[TurnEntry, None, None]:
    """Of a call that waits in place, and so gives no pause."""
    return cast("Generator[TurnEntry, None, None]", call.entries(STEP, token, doing))


def entries_of(call: ModelCall) -> list[TurnEntry]:
    return list(yielded_by(call, CancelToken(), lambda what: None))


def text_of(entries: list[TurnEntry]) -> str:
    return "".join(entry.text for entry in entries if isinstance(entry, TextDelta))


def refused(call: ModelCall) -> ModelCallError:
    with pytest.raises(ModelCallError) as caught:
        entries_of(call)
    return caught.value


# what a turn is


def test_the_turn_is_started_before_the_transport_is_opened() -> None:
    call, transport = played(Recording((HELLO,)))
    entries = yielded_by(call, CancelToken(), lambda what: None)
    first = next(entries)
    asked_by_then = len(transport.requests)
    rest = list(entries)

    assert isinstance(first, TurnStarted)
    assert asked_by_then == 0
    assert text_of(rest) == "Hello"
    assert isinstance(rest[-1], TurnFinished)


def test_what_it_does_is_said_in_order() -> None:
    call, _ = played(Recording(status=500), Recording((HELLO,)))
    done: list[StopWhere] = []
    list(yielded_by(call, CancelToken(), done.append))

    assert done == [
        "connecting",
        "waiting_for_headers",
        "backing_off",
        "connecting",
        "waiting_for_headers",
        "streaming",
    ]


def test_leaving_early_closes_the_answer() -> None:
    call, transport = played(Recording((HELLO,)))
    with closing(yielded_by(call, CancelToken(), lambda what: None)) as entries:
        for entry in entries:
            if isinstance(entry, TextDelta):
                break
        open_inside = transport.open_now

    assert open_inside == 1
    assert transport.open_now == 0


def test_a_host_that_says_all_and_keeps_the_line_is_not_waited_for() -> None:
    end = Hold()
    call, transport = played(Recording((HELLO, end)))

    assert text_of(entries_of(call)) == "Hello"
    assert end.reached.is_set()
    assert transport.open_now == 0


def test_an_endless_event_after_the_whole_turn_does_not_take_it_back() -> None:
    call, _ = played(Recording((HELLO, b"data: " + b"x" * (MAX_EVENT_BYTES + 1))))
    entries = entries_of(call)

    assert text_of(entries) == "Hello"
    assert isinstance(entries[-1], TurnFinished)


def test_a_stop_between_two_deltas_of_one_piece_loses_only_what_comes_after() -> None:
    call, _ = played(Recording((HELLO,)))
    token = CancelToken()
    taken: list[TurnEntry] = []
    checked = token.iter(yielded_by(call, token, lambda what: None))
    while not text_of(taken):
        taken.append(next(checked))
    token.cancel()
    with pytest.raises(Cancelled):
        next(checked)

    assert text_of(taken) == "Hel"


# trying again


def test_a_failure_before_the_first_delta_is_tried_again() -> None:
    call, transport = played(
        Recording(refuse="no route"),
        Recording(status=429, headers={"retry-after": "17"}),
        Recording(),  # an empty body: the line was cut before the first byte
        Recording((HELLO,)),
    )
    entries = entries_of(call)
    waits = [entry for entry in entries if isinstance(entry, RetryWaiting)]

    assert len(transport.requests) == 4
    assert [wait.attempt for wait in waits] == [1, 2, 3]
    assert waits[0].error == "no route"
    assert sum(isinstance(entry, TurnStarted) for entry in entries) == 1
    assert text_of(entries) == "Hello"


def test_every_attempt_sends_the_same_bytes() -> None:
    call, transport = played(Recording(status=503), Recording((HELLO,)))
    entries_of(call)

    assert transport.requests[0] == transport.requests[1]


def test_a_failure_after_the_first_delta_is_not_tried_again() -> None:
    call, transport = played(Recording((HELLO[: HELLO.index(b'"lo"')],)), Recording((HELLO,)))
    taken: list[TurnEntry] = []
    with pytest.raises(ModelCallError) as caught:
        taken.extend(yielded_by(call, CancelToken(), lambda what: None))

    assert caught.value.kind == "network"
    assert text_of(taken) == "Hel"
    assert len(transport.requests) == 1


def test_a_call_that_has_begun_is_not_tried_again_either() -> None:
    body = render(Turn((Call("add", ('{"a"', ":1}")),)), "openai_chat")
    call, transport = played(Recording((body[: body.index(b":1}")],)), Recording((HELLO,)))
    taken: list[TurnEntry] = []
    with pytest.raises(ModelCallError):
        taken.extend(yielded_by(call, CancelToken(), lambda what: None))

    assert isinstance(taken[-1], ToolCallArguments)
    assert len(transport.requests) == 1


def test_it_is_given_up_after_the_last_attempt_and_says_so() -> None:
    call, transport = played(*repeat(Recording(status=500), 9), retry=evolve(AT_ONCE, max_attempts=3))
    error = refused(call)

    assert len(transport.requests) == 3
    assert error.kind == "overloaded"
    assert error.status == 500
    assert str(error).endswith("(HTTP 500) (given up after 3 attempts)")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 301])
def test_what_would_fail_again_is_not_tried_again(status: int) -> None:
    call, transport = played(Recording(status=status), Recording((HELLO,)))
    refused(call)

    assert len(transport.requests) == 1


def test_the_hosts_own_word_about_trying_again_wins() -> None:
    no, transport_of_no = played(
        Recording(status=500, headers={"x-should-retry": "false"}), Recording((HELLO,))
    )
    yes, transport_of_yes = played(
        Recording(status=409, headers={"x-should-retry": "true"}), Recording((HELLO,))
    )
    refused(no)
    entries_of(yes)

    assert len(transport_of_no.requests) == 1
    assert len(transport_of_yes.requests) == 2


def test_waits_grow_to_a_cap_and_half_of_each_is_chance() -> None:
    policy = RetryPolicy(first_wait_seconds=1.0, max_wait_seconds=5.0)

    assert [policy.wait_seconds(n, None, 1.0) for n in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [policy.wait_seconds(n, None, 0.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    assert policy.wait_seconds(10_000, None, 1.0) == 5.0


def test_what_the_host_asks_for_is_obeyed_up_to_a_cap() -> None:
    policy = RetryPolicy(max_retry_after_seconds=60.0)

    assert policy.wait_seconds(1, 17.0, 0.0) == 17.0
    assert policy.wait_seconds(1, 3 * 86_400.0, 0.0) == 60.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "17"}, 0.25),
        ({"retry-after": formatdate(1_000_030, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0.0),
        ({"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    call, _ = played(Recording(status=429, headers=headers), retry=evolve(AT_ONCE, max_attempts=1))

    assert seconds == refused(evolve(call, now=lambda: 1_000_000.0)).retry_after_seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be changed on Windows")
def test_a_retry_after_without_a_zone_is_not_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"retry-after": formatdate(1_000_030)}  # it ends in -0000
    call, _ = played(Recording(status=429, headers=headers), retry=evolve(AT_ONCE, max_attempts=1))
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "EST5")
        time.tzset()
        seconds = refused(evolve(call, now=lambda: 1_000_000.0)).retry_after_seconds
    time.tzset()

    assert seconds == 30.0


def test_the_wait_is_reported_before_it_begins_and_ends_with_the_token() -> None:
    call, transport = played(
        Recording(status=429, headers={"retry-after": "259200"}),
        retry=RetryPolicy(max_retry_after_seconds=1e6),
    )
    token = CancelToken()
    entries = yielded_by(call, token, lambda what: None)
    waiting = [entry for entry in (next(entries), next(entries)) if isinstance(entry, RetryWaiting)]
    threading.Timer(0, token.cancel).start()
    with pytest.raises(Cancelled):
        next(entries)

    assert [entry.seconds for entry in waiting] == [259_200.0]
    assert len(transport.requests) == 1


# a host that has to be started, and brought to rest


class Machine:
    """A host on this machine, which keeps a diary."""

    def __init__(self, failure: AiwrapperError | None = None) -> None:
        self.diary: list[str] = []
        self._failure = failure

    @contextmanager
    def request(self, token: CancelToken, /) -> Iterator[Endpoint]:
        if self._failure is not None:
            raise self._failure
        self.diary.append("request")
        yield RemoteHost("http://127.0.0.1:1/v1", KEY)
        self.diary.append("whole")

    def bring_to_rest(self, token: CancelToken, /) -> None:
        token.check()
        self.diary.append("rest")


def test_a_host_is_brought_to_rest_only_after_a_request_that_was_given_up() -> None:
    call, _ = played(Recording((HELLO,)), Recording((HELLO,)))
    whole, stopped = Machine(), Machine()
    entries_of(evolve(call, host=whole))
    entries = yielded_by(evolve(call, host=stopped), CancelToken(), lambda what: None)
    next(entries)
    next(entries)
    entries.close()

    assert whole.diary == ["request", "whole"]
    assert stopped.diary == ["request", "rest"]


def test_ctrl_c_while_a_host_is_brought_to_rest_is_not_swallowed() -> None:
    class Slow(Machine):
        def bring_to_rest(self, token: CancelToken, /) -> None:
            raise KeyboardInterrupt

    call, _ = played(Recording((HELLO,)))
    entries = yielded_by(evolve(call, host=Slow()), CancelToken(), lambda what: None)
    next(entries)
    next(entries)

    with pytest.raises(KeyboardInterrupt):
        entries.close()


def test_a_host_that_does_not_start_says_why_once() -> None:
    call, transport = played()
    error = refused(evolve(call, host=Machine(AiwrapperError("can't serve the model: no such file"))))

    assert str(error) == "can't serve the model: no such file"
    assert error.kind == "network"
    assert transport.requests == []


# real sockets


def test_a_turn_over_a_socket_and_the_connection_is_used_again(http: HttpTransport) -> None:
    with FakeProvider("openai_chat", [Turn((Say(("Hel", "lo")),)), Turn((Say(("Bye",)),))]) as fake:
        call = calling(fake.base_url, http)
        first, second = text_of(entries_of(call)), text_of(entries_of(call))
        connections = len(fake.connections)

    assert (first, second) == ("Hello", "Bye")
    assert connections == 1


def test_a_line_that_breaks_after_the_whole_turn_does_not_take_it_back(http: HttpTransport) -> None:
    whole = Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(1_000_000, "fin")))
    with FakeProvider("openai_chat", [whole]) as fake:
        entries = entries_of(calling(fake.base_url, http))

    assert text_of(entries) == "Hello"
    assert isinstance(entries[-1], TurnFinished)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (HttpError(401), "authentication", "the host does not accept the API key"),
        (HttpError(404), "not_found", "does not know the model 'fake-model'"),
        (HttpError(400, message="no such field"), "bad_request", "no such field"),
        (HttpError(429), "rate_limit", "asks us to slow down"),
        (HttpError(500), "overloaded", "cannot answer right now"),
        (
            Raw(b"<html><h1>Welcome to the hotel</h1></html>", content_type="text/html"),
            "protocol",
            "text/html and not with a stream of events: check the base URL; a login page or a proxy",
        ),
        (Raw(b'{"choices": []}', content_type="application/json"), "protocol", "application/json"),
        (Raw(b"what is this\n\nno events\n\n"), "protocol", "no stream"),
        (Raw(b'data: {"choices": [{"delta": {"cont\n\n'), "protocol", ""),
        (Turn((Say(("Hel", "lo")),), finish="missing"), "network", ""),
        (Turn((Say(("Hel",)),), error="server"), "provider", ""),
        (Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(400))), "network", "was cut"),
        (
            Turn((Say(("Hel", "lo")),), delivery=Delivery(cut=Cut(400, "fin"))),
            "network",
            "ended before the answer was whole",
        ),
    ],
)
def test_each_bad_answer_is_one_clear_error(
    http: HttpTransport, answer: Turn | HttpError | Raw, kind: str, said: str
) -> None:
    with FakeProvider("openai_chat", [answer] * 4) as fake:
        error = refused(calling(fake.base_url, http))

    assert kind == error.kind
    assert said in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("body", [b"", b'{"error": {"message": "HTTP 404"}}'])
def test_the_status_is_said_once(body: bytes) -> None:
    call, _ = played(Recording((body,), status=404))

    assert str(refused(call)).count("404") == 1


def test_of_a_host_that_has_very_much_to_say_a_paragraph_is_quoted(http: HttpTransport) -> None:
    with FakeProvider("openai_chat", [HttpError(400, message="no and " * 20_000)]) as fake:
        error = refused(calling(fake.base_url, http))

    assert error.kind == "bad_request"
    assert "no and no and" in str(error)
    assert "... (HTTP 400)" in str(error)
    assert len(str(error)) < 600


def test_a_model_that_the_host_does_not_have(http: HttpTransport) -> None:
    with FakeProvider("openai_chat") as fake:
        error = refused(calling(fake.base_url, http, model="no-such-model"))

    assert error.kind == "not_found"
    assert "'no-such-model'" in str(error)


def test_a_wrong_key_is_in_no_error(http: HttpTransport) -> None:
    wrong = "sk-wrong-fedcba9876543210"
    with FakeProvider(
        "openai_chat", [HttpError(401, message=f"Incorrect API key provided: {wrong}.")]
    ) as fake:
        right = refused(evolve(calling(fake.base_url, http), host=RemoteHost(fake.base_url, fake.api_key)))
        echoed = refused(calling(fake.base_url, http, key=wrong))
    for error in (right, echoed):
        seen: list[BaseException] = []
        chained: BaseException | None = error
        while chained is not None:
            seen.append(chained)
            chained = chained.__cause__ or chained.__context__

        assert error.kind == "authentication"
        assert KEY not in repr([(str(each), each, vars(each)) for each in seen])
    assert wrong not in repr(echoed)


def test_a_key_too_short_for_a_secret_leaves_the_words_as_they_are(http: HttpTransport) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = refused(calling(f"http://127.0.0.1:{port}/v1", http, key="s"))

    assert f"nothing answers at 127.0.0.1:{port}: is the server running" in str(error)


def test_a_host_that_repeats_the_key_in_mid_stream_is_not_quoted_with_it() -> None:
    body = b'data: {"error": {"message": "bad key ' + KEY.encode() + b'"}}\n\n'
    call, _ = played(Recording((body,)))
    error = refused(call)

    assert "bad key [the key]" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_no_key_where_one_is_asked_for(http: HttpTransport) -> None:
    with FakeProvider("openai_chat") as fake:
        error = refused(calling(fake.base_url, http, key=None))

    assert "asks for an API key and was given none" in str(error)


def test_nobody_listens(http: HttpTransport) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        address, port = listener.getsockname()
    error = refused(calling(f"http://{address}:{port}/v1", http))

    assert error.kind == "network"
    assert f"nothing answers at 127.0.0.1:{port}" in str(error)


class Lost(Session):
    """What a name lookup without an answer looks like above requests; a real one takes the resolver's time."""

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Response:  # type: ignore[override]
        try:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        except socket.gaierror as error:
            raise ConnectionError("max retries exceeded") from error


def test_a_host_that_there_is_not() -> None:
    error = refused(calling("http://no-such-host.invalid/v1", HttpTransport(Lost())))

    assert "the host 'no-such-host.invalid' was not found" in str(error)


def answer_in_plain_text(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_https_to_a_port_that_speaks_http(http: HttpTransport) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=answer_in_plain_text, args=(listener,))
        server.start()
        url = f"https://127.0.0.1:{port}/v1"
        error = refused(calling(url, http, retry=evolve(AT_ONCE, max_attempts=1)))
        server.join()

    assert "does it speak https?" in str(error)


def test_a_certificate_that_nobody_signed(http: HttpTransport, tls: ssl.SSLContext) -> None:
    with FakeProvider("openai_chat", tls=tls) as fake:
        error = refused(calling(fake.base_url, http, retry=evolve(AT_ONCE, max_attempts=1)))

    assert "is not trusted" in str(error)


@pytest.fixture
def tls() -> ssl.SSLContext:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("key", ["", "two words", "with\nbreak", "sk-\u043a\u043b\u044e\u0447"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="the API key is empty, or holds") as caught:
        RemoteHost("https://host/v1", key)

    assert not key or key not in repr(caught.value)


@pytest.mark.parametrize("url", ["", "host/v1", "ftp://host", "https://user:secret@host/v1"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        RemoteHost(url)

    assert "secret" not in str(caught.value)


def test_the_key_is_in_no_repr(http: HttpTransport) -> None:
    call = calling("https://host/v1", http)

    assert KEY not in repr(call)


def test_netrc_does_not_replace_the_key(
    http: HttpTransport, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with FakeProvider("openai_chat") as fake:
        entries_of(calling(fake.base_url, http))

    assert f"Bearer {KEY}" == fake.requests[0].headers["authorization"]
