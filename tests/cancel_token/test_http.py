"""Every phase of a request obeys its token, and nothing is left behind."""

import copy
import gzip
import io
import pickle
import queue
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests.adapters
import trustme
from urllib3.util.retry import Retry

from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.http import (
    BearerAuth,
    CancellableAdapter,
    NothingArrived,
    Response,
    Session,
    StoppableRetry,
    use_token,
)
from cancel_token.testing import JumpingClock
from tests.cancel_token.stalling import (
    BODY_PHASES,
    LINES,
    OK,
    UPLOAD,
    Call,
    FullListener,
    Phase,
    StallingServer,
    no_descriptor_left,
)
from tests.cancel_token.transports import adapter_reporting, new_session, open_connections, stop

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)


@pytest.fixture
def session() -> Iterator[Session]:
    with new_session() as session:
        yield session


class Waiting(CancelToken):
    """A token that says when somebody sleeps on it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def sleep(self, seconds: float) -> None:
        if seconds:
            self.waiting.set()
        super().sleep(seconds)


def test_a_stop_frees_a_call_that_waits_for_a_free_connection(server: StallingServer) -> None:
    """The pool wait; and the connection that was in use is none the worse for it (T-N7)."""
    with new_session(pool_maxsize=1) as session:
        server.phase = "between chunks"
        first, second = CancelToken(), CancelToken()
        streaming = session.get(server.url, stream=True, token=first)
        server.stalled.get()
        entered = threading.Event()
        adapter = adapter_reporting(entered)
        adapter.poolmanager = session.get_adapter(server.url).poolmanager  # type: ignore[attr-defined]
        session.mount("http://", adapter)
        call = Call(lambda: session.get(server.url, token=second))
        entered.wait()
        second.cancel()
        call.join()

        assert isinstance(call.error, Cancelled)
        arrived = streaming.iter_arrived()
        assert LINES == next(arrived)
        server.phase = None
        third = Call(lambda: session.get(server.url, token=CancelToken()))  # waits until the stream is closed
        streaming.close()
        assert third.join().error is None


def polled(response: Response) -> Iterator[object]:
    """What an event loop reads, for which somebody waits."""
    try:
        items = response.iter_arrived_nowait()
    except io.UnsupportedOperation:  # it is packed
        yield from response.iter_arrived()
        return
    for item in items:
        if isinstance(item, NothingArrived):
            poller = select.poll()
            poller.register(item.descriptor, select.POLLIN)
            poller.poll()
        else:
            yield item


READERS: dict[str, Callable[[Response], Iterator[object]]] = {
    "iter_arrived": lambda response: response.iter_arrived(),
    "iter_arrived_nowait": polled,
    "iter_content": lambda response: response.iter_content(4),
    "iter_content of what arrives": lambda response: response.iter_content(None),
    "iter_lines": lambda response: response.iter_lines(4),
    "text": lambda response: response.iter_content(4, decode_unicode=True),
    "iter": iter,
    "raw": lambda response: response.raw.stream(4),
    "raw read": lambda response: iter(lambda: response.raw.read(4), b""),
    "raw read1": lambda response: iter(lambda: response.raw.read1(4), b""),
    "raw read all": lambda response: iter([response.raw.read()]),
    "content": lambda response: iter([response.content]),
    "json": lambda response: iter([response.json()]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("phase", BODY_PHASES)
@pytest.mark.usefixtures("without_gc")
def test_every_way_to_read_a_body_obeys_in_another_thread(
    reader: str, phase: Phase, server: StallingServer, session: Session
) -> None:
    """T-N7: the response carries the token; the thread that reads it knows nothing of it."""
    server.phase = phase
    token = CancelToken()
    with no_descriptor_left():
        response = session.get(server.url, stream=True, token=token)
        read: queue.SimpleQueue[object] = queue.SimpleQueue()

        def consume() -> None:
            for piece in READERS[reader](response):
                read.put(piece)

        call = Call(consume)
        stop(server, token, call)
        server.join_connections()
        response.close()

    assert isinstance(call.error, Cancelled)


@pytest.mark.parametrize("phase", ["fast", "between chunks", "length"])
@pytest.mark.parametrize("reader", ["iter_arrived", "iter_content", "iter_lines"])
def test_nothing_is_delivered_after_the_stop_although_it_has_arrived(
    reader: str, phase: Phase, server: StallingServer, session: Session
) -> None:
    """T-N5: a read of a fast stream holds hundreds of events."""
    server.phase = phase
    token = CancelToken()
    with session.get(server.url, stream=True, token=token) as response:
        items = READERS[reader](response)
        first = next(items)
        token.cancel()

        assert first
        with pytest.raises(Cancelled):
            next(items)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(1),
        lambda file: file.read1(1),
        lambda file: file.readline(),
        lambda file: file.readinto(bytearray(1)),
        lambda file: file.peek(),
    ],
)
def test_what_lies_in_the_buffer_is_not_handed_out_after_the_stop(
    read: Callable[[io.BufferedReader], object], server: StallingServer, session: Session
) -> None:
    server.phase = "between chunks"
    token = CancelToken()
    with session.get(server.url, stream=True, token=token) as response:
        file = response.raw._fp.fp  # type: ignore[union-attr]  # no public way

        assert read(file)
        assert response.raw.fileno() == file.fileno()
        token.cancel()
        with pytest.raises(Cancelled):
            read(file)


def test_a_stopped_connection_that_is_given_back_is_closed(server: StallingServer, session: Session) -> None:
    token = CancelToken()
    response = session.get(server.url, stream=True, token=token)
    token.cancel()
    response.raw.release_conn()

    assert [] == open_connections(session)


@pytest.mark.parametrize("reader", ["iter_arrived", "iter_content", "iter_lines"])
@pytest.mark.parametrize("phase", ["fast", "between chunks", "mid-chunk", "length", "until close"])
@pytest.mark.usefixtures("without_gc")
def test_breaking_out_of_an_iterator_leaves_nothing_behind(
    reader: str, phase: Phase, server: StallingServer, session: Session
) -> None:
    """T-N8: the connection ends, the server learns, the token is left; nobody calls `close()`."""
    server.phase = phase
    token = CancelToken()
    with no_descriptor_left():
        response = session.get(server.url, stream=True, token=token)
        for _ in READERS[reader](response):
            break
        server.hang_ups.get()
        server.join_connections()

    assert 0 == token.stats().registrations


def test_small_chunks_are_handed_out_as_they_arrive(server: StallingServer, session: Session) -> None:
    """Also the beginning of a chunk whose rest is missing."""
    server.phase = "mid-chunk"
    with session.get(server.url, stream=True, token=CancelToken()) as response:
        assert LINES == next(response.iter_arrived())


def test_a_body_can_be_iterated_once_only(server: StallingServer, session: Session) -> None:
    with session.get(server.url, stream=True) as response:
        assert [b"ok"] == list(response.iter_arrived())
        with pytest.raises(requests.exceptions.StreamConsumedError):
            response.iter_arrived()


def test_a_late_stop_does_not_touch_the_next_request_on_the_same_connection(
    server: StallingServer, session: Session
) -> None:
    """T-N7: the connection in the pool belongs to no token."""
    first, second = CancelToken(), CancelToken()
    session.get(server.url, token=first)
    resting = first.stats().registrations
    server.phase = "between chunks"
    streaming = session.get(server.url, stream=True, token=second)
    server.stalled.get()
    first.cancel("too late")

    assert 0 == resting
    assert 1 == server.connections
    arrived = streaming.iter_arrived()
    assert LINES == next(arrived)
    assert server.hang_ups.empty()
    streaming.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.usefixtures("without_gc")
def test_a_stop_that_races_a_whole_request_ends_it_or_leaves_it_whole(
    tls: bool, certificate: trustme.LeafCert, authority_file: Path
) -> None:
    """T-N7, T-S15, T-N8: whoever wins, the answer is right or the stop is raised, and the next request works."""
    with StallingServer(certificate if tls else None) as server, no_descriptor_left():
        with new_session(authority_file) as session:
            seen = set()
            for round_number in range(200):
                token = CancelToken()
                start = threading.Barrier(2)

                def request(token: CancelToken = token, start: threading.Barrier = start) -> bytes:
                    start.wait()
                    return session.get(server.url, token=token).content

                call = Call(request)
                start.wait()
                if round_number % 4:  # the answer is on its way already
                    server.heard.get()
                token.cancel()
                call.join()
                seen.add(call.result if call.error is None else type(call.error))

                assert b"ok" == session.get(server.url, token=CancelToken()).content
                assert 0 == token.stats().registrations
                while not server.heard.empty():
                    server.heard.get()
        server.join_connections()

    assert seen <= {b"ok", Cancelled}


def test_a_finished_response_survives_the_stop(server: StallingServer, session: Session) -> None:
    """T-S15: what was read to its end stays, also through the iterators, and its connection is kept."""
    token = CancelToken()
    response = session.get(server.url, token=token)
    token.cancel()

    assert b"ok" == response.content
    assert [b"ok"] == list(response.iter_content(10))
    assert [b"ok"] == list(response.iter_lines())
    assert b"ok" == session.get(server.url).content
    assert 1 == server.connections


def test_a_stop_before_the_start_opens_no_connection(server: StallingServer, session: Session) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        session.get(server.url, token=token)

    assert 0 == server.connections


@pytest.mark.parametrize("phase", ["upload", "headers"])
def test_a_stopped_request_is_not_sent_again(phase: Phase, server: StallingServer) -> None:
    """T-N5: urllib3's Retry takes our shutdown for a broken connection and would post once more."""
    retry = StoppableRetry(total=5, connect=5, read=5, status=5, allowed_methods=None, status_forcelist=[500])
    with new_session() as session:
        session.mount("http://", CancellableAdapter(max_retries=retry))
        server.phase = phase
        token = CancelToken()
        body = UPLOAD if phase == "upload" else b"question"
        call = Call(lambda: session.post(server.url, data=body, token=token))
        stop(server, token, call)
        server.join_connections()

        assert isinstance(call.error, Cancelled)
        assert 1 == server.connections


def test_back_off_before_a_retry_obeys() -> None:
    """The wait between two tries is one of the phases: nothing listens here, and the back-off takes an hour."""
    retry = StoppableRetry(total=5, backoff_factor=3600, backoff_max=3600)
    token = Waiting()
    with new_session() as session, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        session.mount("http://", CancellableAdapter(max_retries=retry))
        call = Call(lambda: session.get(f"http://127.0.0.1:{port}/", token=token))
        token.waiting.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)


def test_a_wait_that_the_server_asks_for_obeys(server: StallingServer) -> None:
    server.answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
    token = Waiting()
    with new_session() as session:
        session.mount(
            "http://", CancellableAdapter(max_retries=StoppableRetry(total=5, status_forcelist=[503]))
        )
        call = Call(lambda: session.get(server.url, token=token))
        token.waiting.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)
    assert 1 == len(server.requests)


def test_a_wait_that_the_server_asks_for_ends_in_time(server: StallingServer) -> None:
    server.answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
    clock = JumpingClock()
    with new_session() as session:
        session.mount(
            "http://", CancellableAdapter(max_retries=StoppableRetry(total=2, status_forcelist=[503]))
        )
        with pytest.raises(requests.exceptions.RetryError):
            session.get(server.url, token=CancelToken(clock=clock))

    assert 3 == len(server.requests)
    assert 2 * 3600 == clock.now()


def test_a_retry_without_a_wait_asks_again(server: StallingServer) -> None:
    server.answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with new_session() as session:
        session.mount(
            "http://", CancellableAdapter(max_retries=StoppableRetry(total=2, status_forcelist=[503]))
        )
        with pytest.raises(requests.exceptions.RetryError):
            session.get(server.url, token=CancelToken())

    assert 3 == len(server.requests)


def test_retries_still_happen_without_a_stop() -> None:
    retry = StoppableRetry(total=2)
    with new_session() as session, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        session.mount("http://", CancellableAdapter(max_retries=retry))
        with pytest.raises(requests.ConnectionError, match="Max retries exceeded"):
            session.get(f"http://127.0.0.1:{port}/", token=CancelToken())


def test_a_plain_retry_is_made_stoppable_and_a_strange_one_refused() -> None:
    class Own(Retry):
        pass

    adapter = CancellableAdapter(max_retries=Retry(total=7, backoff_factor=0.5))

    assert isinstance(adapter.max_retries, StoppableRetry)
    assert (7, 0.5) == (adapter.max_retries.total, adapter.max_retries.backoff_factor)
    assert isinstance(adapter.max_retries.new(), StoppableRetry)
    with pytest.raises(TypeError, match="StoppableRetry"):
        CancellableAdapter(max_retries=Own(3))


def test_an_upload_from_a_generator_stops_between_its_pieces(
    server: StallingServer, session: Session
) -> None:
    token = CancelToken()
    taken = []

    def pieces() -> Iterator[bytes]:
        for number in range(10):
            taken.append(number)
            if number == 3:
                token.cancel()
            yield b"piece"

    with pytest.raises(Cancelled):
        session.post(server.url, data=pieces(), token=token)

    assert [0, 1, 2, 3] == taken


def test_a_bound_token_reaches_code_that_knows_nothing_of_tokens(server: StallingServer) -> None:
    token = CancelToken()
    server.phase = "headers"
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", CancellableAdapter())

        def work() -> None:
            with use_token(token):
                session.get(server.url)

        call = Call(work)
        stop(server, token, call)

    assert isinstance(call.error, Cancelled)


def test_the_token_of_a_request_goes_before_the_bound_one(server: StallingServer, session: Session) -> None:
    cancelled = CancelToken()
    cancelled.cancel()
    with use_token(cancelled):
        assert b"ok" == session.get(server.url, token=CancelToken.never()).content
        with pytest.raises(Cancelled):
            session.get(server.url)
    assert b"ok" == session.get(server.url).content


@linux_only
def test_a_connect_that_takes_too_long_is_a_timeout(session: Session) -> None:
    token = CancelToken()
    with FullListener() as full, pytest.raises(requests.exceptions.ConnectTimeout):
        session.get(f"http://127.0.0.1:{full.port}/", token=token, timeout=0.01)

    assert 0 == token.stats().registrations


@pytest.mark.skipif(sys.platform == "win32", reason="Python keeps the time there")
def test_a_kept_connection_keeps_no_time_of_the_request_before(
    server: StallingServer, session: Session
) -> None:
    limits = []
    for timeout in (60.5, None):
        with session.get(server.url, token=CancelToken(), timeout=timeout, stream=True) as response:
            connection: Any = response.raw.connection
            limits.append(connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
            assert b"ok" == response.content

    assert 1 == server.connections
    assert [(60, 500_000), (0, 0)] == [struct.unpack("ll", limit) for limit in limits]


def test_an_error_of_the_peer_stays_its_own(server: StallingServer, session: Session) -> None:
    token = CancelToken()

    server.phase = "headers"
    with pytest.raises(requests.exceptions.ReadTimeout):
        session.get(server.url, token=token, timeout=0.01)
    server.phase = "between chunks"
    with session.get(server.url, token=token, stream=True) as response:
        connection: Any = response.raw.connection
        connection.sock.settimeout(0.01)  # not earlier: the headers may take their time
        with pytest.raises(requests.exceptions.ConnectionError):
            _ = response.content
    with pytest.raises(requests.exceptions.ConnectionError, match="resolve"):
        session.get("http://name.invalid/", token=token)
    with pytest.raises(requests.exceptions.InvalidURL):
        session.get("http://" + "x" * 64 + ".test/", token=token)
    assert 0 == token.stats().registrations


LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
LAST_CHUNKED = LAST + b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (LAST_CHUNKED + b"\r\n5\r\nab", requests.exceptions.ChunkedEncodingError),
        (LAST_CHUNKED + b"\r\nno number\r\n", requests.exceptions.ChunkedEncodingError),
        (
            LAST_CHUNKED + b"Content-Encoding: gzip\r\n\r\n5\r\nplain\r\n",
            requests.exceptions.ContentDecodingError,
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nab",
            requests.exceptions.ChunkedEncodingError,
        ),
    ],
    ids=["cut", "no chunk", "no gzip", "too short"],
)
@pytest.mark.usefixtures("without_gc")
def test_a_broken_body_is_an_error_of_requests_and_leaves_nothing(
    answer: bytes, error: type[Exception], server: StallingServer, session: Session
) -> None:
    server.answer = answer
    token = CancelToken()
    with no_descriptor_left():
        response = session.get(server.url, stream=True, token=token)
        with pytest.raises(error):
            list(response.iter_arrived())
        server.join_connections()

    assert 0 == token.stats().registrations


@pytest.mark.usefixtures("without_gc")
def test_a_tls_line_that_breaks_within_a_body_is_an_error_of_requests_and_leaves_nothing(
    certificate: trustme.LeafCert, authority_file: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def serve() -> None:
        plain, _ = listener.accept()
        with plain.dup() as line, context.wrap_socket(plain, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(LAST + b"Content-Length: 9\r\n\r\nab")
            line.sendall(b"\x17\x03\x03\x00\x20" + b"no record of ours".ljust(32))

    token = CancelToken()
    with no_descriptor_left(), socket.create_server(("127.0.0.1", 0)) as listener:
        call = Call(serve)
        with new_session(authority_file) as session:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
            arrived = session.get(url, stream=True, token=token).iter_arrived()
            first = next(arrived)
            with pytest.raises(requests.exceptions.SSLError):
                next(arrived)
        call.join()

    assert b"ab" == first
    assert call.error is None
    assert 0 == token.stats().registrations


def test_a_body_that_stays_away_is_an_error_of_requests(server: StallingServer, session: Session) -> None:
    server.phase = "between chunks"
    response = session.get(server.url, stream=True, token=CancelToken(), timeout=(None, 0.01))
    with pytest.raises(requests.exceptions.ConnectionError):
        list(response.iter_arrived())


def test_a_compressed_body_is_decoded_as_it_arrives(server: StallingServer, session: Session) -> None:
    packed = gzip.compress(LINES * 1000)
    server.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    )
    with session.get(server.url, stream=True, token=CancelToken()) as response:
        assert LINES * 1000 == b"".join(response.iter_arrived(100))
    server.answer = OK
    assert b"ok" == session.get(server.url).content
    assert 1 == server.connections


def test_redirects_obey(server: StallingServer, session: Session) -> None:
    """The token stays with the request through its detours, and the detour's connection is used again."""
    server.answer = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n"
    token = CancelToken()

    def follow(response: requests.Response, **_: object) -> None:
        server.phase = "headers"

    call = Call(lambda: session.get(server.url, token=token, hooks={"response": follow}))
    stop(server, token, call)

    assert isinstance(call.error, Cancelled)
    assert [b"GET / HTTP/1.1", b"GET /next HTTP/1.1"] == [head.split(b"\r\n")[0] for head in server.requests]
    assert 1 == server.connections


def test_a_wrong_certificate_is_reported_as_such(certificate: trustme.LeafCert) -> None:
    with (
        StallingServer(certificate) as server,
        new_session() as session,
        pytest.raises(requests.exceptions.SSLError),
    ):
        session.get(server.url, token=CancelToken())


@pytest.mark.usefixtures("without_gc")
def test_a_dropped_response_is_not_kept_by_the_token(server: StallingServer, session: Session) -> None:
    """T-N8: a token that lives as long as the process collects no connections nobody reads any more."""
    server.phase = "between chunks"
    token = CancelToken()
    with no_descriptor_left():
        response = session.get(server.url, stream=True, token=token)
        server.stalled.get()
        del response
        server.hang_ups.get()
        server.join_connections()

    assert 0 == token.stats().registrations


def test_methods_send_what_they_are_called(server: StallingServer, session: Session) -> None:
    for method in ("get", "options", "head", "post", "put", "patch", "delete"):
        with getattr(session, method)(server.url, token=CancelToken(), stream=True) as response:
            assert 200 == response.status_code

    assert ["GET", "OPTIONS", "HEAD", "POST", "PUT", "PATCH", "DELETE"] == [
        head.split(b" ")[0].decode() for head in server.requests
    ]


def test_a_socks_proxy_is_refused(session: Session) -> None:
    with pytest.raises(requests.exceptions.InvalidSchema, match="SOCKS"):
        session.get("http://127.0.0.1/", proxies={"http": "socks5://127.0.0.1:1080"})


def test_a_pickled_session_is_stoppable_still(server: StallingServer) -> None:
    with new_session() as session:
        pickled = pickle.dumps(session)
    with pickle.loads(pickled) as session:
        server.phase = "headers"
        token = CancelToken()
        call = Call(lambda: session.get(server.url, token=token))
        stop(server, token, call)

    assert isinstance(call.error, Cancelled)


def test_a_key_goes_before_netrc_and_shows_nowhere(
    server: StallingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-N10: with a plain header, `.netrc` would win, and its password would be sent to the host."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    key = BearerAuth("sk-secret")
    with Session() as session:
        session.get(server.url, headers={"Authorization": "Bearer sk-secret"})
        session.get(server.url, auth=key)

    assert b"Basic" in server.requests[0]
    assert b"Authorization: Bearer sk-secret" in server.requests[1]
    assert "secret" not in repr(key)
    assert key == copy.copy(key)
    assert key != BearerAuth("other")
    assert hash(key) == hash(BearerAuth("sk-secret"))


def test_an_upload_that_sees_the_flag_before_the_hooks_turn_is_reset(
    server: StallingServer, session: Session
) -> None:
    """T-N6: state comes before callbacks (T-S1); the sender may close before the hook has run, with data unsent."""
    server.phase = "upload"
    token = CancelToken()
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield bytes(2 * 1024 * 1024)  # fits into both sides' buffers, not into the receiver's
        token.wait()  # flagged, and the first callback holds the hook's up
        yield b"more"

    def upload() -> None:
        try:
            session.post(server.url, data=pieces(), token=token)
        finally:
            closed.set()

    call = Call(upload)
    server.stalled.get()
    token.on_cancel(closed.wait)  # newest first: before the hook's
    token.cancel()
    server.hang_ups.get()

    assert isinstance(call.join().error, Cancelled)
