"""Where a fake provider can be held, how it sees a hang-up, how its bytes travel."""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme

from aiwrapper.testing import (
    Cut,
    Delivery,
    DialectName,
    FakeProvider,
    Phase,
    Raw,
    Say,
    Turn,
    render,
)
from tests.aiwrapper.asking import (
    DIALECTS,
    PATIENCE_SECONDS,
    PHASES,
    good_body,
    key_headers,
    post,
    receive_to_the_end,
    request_bytes,
    reset,
    url,
)


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> DialectName:
    name: DialectName = request.param
    return name


@pytest.fixture
def fake(dialect: DialectName) -> Iterator[FakeProvider]:
    with FakeProvider(dialect) as provider:
        yield provider


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


def test_what_was_sent_before_a_reset_arrives(fake: FakeProvider) -> None:
    fake.add(Raw(bytes(10_000), delivery=Delivery(write_bytes=1, cut=Cut(9_999, "rst"), framing="close")))

    received = bytearray()

    def receive() -> None:
        while piece := sock.recv(65_536):
            received.extend(piece)

    with socket.create_connection(fake.address) as sock:
        sock.sendall(request_bytes(fake))
        with pytest.raises(ConnectionResetError):
            receive()

    assert bytes(9_999) == received.partition(b"\r\n\r\n")[2]


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


def test_a_request_and_a_farewell_in_one_segment_are_both_seen(
    secure: FakeProvider, trusting: ssl.SSLContext
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(secure.address) as sock:
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
            else:
                break
        client.write(request_bytes(secure))
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        sock.sendall(outgoing.read())

        assert secure.wait_for_requests(1, timeout_seconds=PATIENCE_SECONDS)
        assert secure.connections[0].hung_up.wait(PATIENCE_SECONDS)
    assert secure.connections[0].hung_up_how == "fin"
    assert secure.requests[0].json() == good_body(secure)


def test_a_paced_event_of_a_megabyte_goes_out_at_once(fake: FakeProvider) -> None:
    turn = Turn((Say(("x" * 1_000_000, "y")),), delivery=Delivery(events_per_second=1_000_000))
    fake.add(turn)

    assert post(fake).content == render(turn, fake.dialect)


def test_a_script_can_be_held_at_the_end_of_a_paced_body(fake: FakeProvider) -> None:
    fake.add(Turn((Say(["x"] * 20),), delivery=Delivery(events_per_second=1_000_000)))
    hold = fake.hold_at("end")
    posting = threading.Thread(target=post, args=(fake,))
    posting.start()

    assert hold.reached.wait(PATIENCE_SECONDS)
    assert hold.request is not None
    assert not hold.request.done.is_set()
    hold.release()
    posting.join()
