"""A body that is read without waiting is the body that is read with it, however it arrives and wherever it breaks."""

import contextlib
import gzip
import io
import itertools
import queue
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from cancel_token import Cancelled, CancelToken
from cancel_token._arrivals import MAX_TRAILER_BYTES, READ_BYTES
from cancel_token.http import NothingArrived, Response, Session
from cancel_token.testing import ManualClock
from tests.cancel_token.stalling import no_descriptor_left

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\n"


def with_length(count: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count


class Peer:
    """A server whose connections are in the test's hands once it has read a request and sent a head."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        self.head = CHUNKED
        self.wires: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/"

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            self.answer(sock)

    def answer(self, wire: socket.socket) -> None:
        """Read a request, and send a head."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += wire.recv(65_536)
        wire.sendall(self.head)
        self.wires.put(wire)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module", params=["plain", "tls"])
def peer(request: pytest.FixtureRequest, certificate: trustme.LeafCert) -> Iterator[Peer]:
    peer = Peer(certificate if request.param == "tls" else None)
    yield peer
    peer.close()


def new_session(authority_file: Path) -> Session:
    session = Session()
    session.trust_env = False  # the environment would have another authority
    session.verify = str(authority_file)
    return session


@pytest.fixture(scope="module")
def session(authority_file: Path) -> Iterator[Session]:
    with new_session(authority_file) as session:
        yield session


Ending = Literal["fin", "rst", "stays"]


def end(wire: socket.socket, ending: Ending) -> None:
    if ending == "rst":
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if ending != "stays":
        wire.close()


def wait_readable(item: NothingArrived) -> None:
    poller = select.poll()
    poller.register(item.descriptor, select.POLLIN)
    poller.poll()


def read_nowait(
    response: Response, wire: socket.socket, parts: Iterable[bytes], ending: Ending
) -> list[bytes]:
    """Read a body of which each part is sent only where nothing more can be read: so it waits nowhere else."""
    left = deque(parts)
    ended = False
    pieces: list[bytes] = []
    for item in response.iter_arrived_nowait():
        if isinstance(item, bytes):
            pieces.append(item)
        elif left:
            wire.sendall(left.popleft())
            wait_readable(item)
        else:
            assert not ended or isinstance(
                wire, ssl.SSLSocket
            )  # of which a record may hold nothing of the body
            if not ended:
                ended = True
                end(wire, ending)
            wait_readable(item)
    for part in left:
        wire.sendall(part)
    return pieces


Outcome = bytes | tuple[type[BaseException], ...]
"""The body, or what went wrong: the chain of the errors' classes."""


def outcome_of(pieces: Iterable[bytes]) -> Outcome:
    try:
        return b"".join(pieces)
    except requests.RequestException as error:
        found: list[type[BaseException]] = []
        current: BaseException | None = error
        while current is not None:
            found.append(type(current))
            current = current.__cause__ or current.__context__
        return tuple(found)


def blocking(peer: Peer, session: Session, body: bytes, ending: Ending) -> Outcome:
    """What becomes of a body that code reads which may wait."""
    with session.get(peer.url, stream=True) as response:
        wire = peer.wires.get()
        wire.sendall(body)
        end(wire, ending)
        found = outcome_of(response.iter_arrived())
    wire.close()
    return found


def nowait(peer: Peer, session: Session, parts: Iterable[bytes], ending: Ending) -> Outcome:
    with session.get(peer.url, stream=True) as response:
        wire = peer.wires.get()

        def pieces() -> Iterator[bytes]:
            yield from read_nowait(response, wire, parts, ending)

        found = outcome_of(pieces())
    wire.close()
    return found


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


BODIES = {
    "chunked": (CHUNKED, chunk(b"one\n") + chunk(b"two\nthree\n", b";name=value") + b"0\r\n\r\n"),
    "chunked with a trailer": (CHUNKED, chunk(b"one") + b"0\r\nA: b\r\nC: d\r\n\r\n"),
    "chunked with bare line feeds": (CHUNKED, b"3\none\r\n0\n\n"),
    "with a length": (with_length(8), b"one\ntwo\n"),
    "empty": (with_length(0), b""),
    "until close": (UNTIL_CLOSE, b"one\ntwo\n"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_every_split_of_a_body_is_the_body(kind: str, peer: Peer, session: Session) -> None:
    peer.head, body = BODIES[kind]
    ending: Ending = "fin" if kind == "until close" else "stays"
    whole = blocking(peer, session, body, "fin")

    for place in range(len(body) + 1):
        assert whole == nowait(peer, session, filter(None, (body[:place], body[place:])), ending)
    assert whole == nowait(peer, session, (bytes([byte]) for byte in body), ending)


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_breaks_off_anywhere_breaks_off_alike(
    kind: str, ending: Ending, peer: Peer, session: Session
) -> None:
    """A reset may overtake the bytes before it, so these are read before it comes."""
    peer.head, body = BODIES[kind]

    for place in range(len(body)):
        expected = blocking(peer, session, body[:place], "fin")
        found = nowait(peer, session, filter(None, [body[:place]]), ending)
        if ending == "fin" or kind == "empty":
            assert expected == found
        elif peer.url.startswith("https:") and expected == found:
            pass  # Python's TLS takes a reset for an end, in code that blocks, too
        else:
            assert isinstance(found, tuple)
            assert ConnectionResetError in found


NONSENSE = {
    "no size": b"\r\n",
    "a size that is none": b"3\r\none\r\nzwei\r\n",
    "a negative size": b"-3\r\none\r\n0\r\n\r\n",
    "a line that does not end": b"3" * (READ_BYTES + 2),
    "a trailer's line that does not end": chunk(b"one") + b"0\r\n" + b"x" * (READ_BYTES + 2),
    "no line end behind a chunk": b"3\r\none3\r\ntwo\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_the_same_nonsense(kind: str, peer: Peer, session: Session) -> None:
    peer.head, body = CHUNKED, NONSENSE[kind]
    expected = blocking(peer, session, body, "fin")
    places = [*range(1, min(len(body), 20)), len(body) - 1]

    assert {expected} == {nowait(peer, session, (body[:place], body[place:]), "fin") for place in places}


def test_a_trailer_that_does_not_end_is_not_kept_for_ever(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED
    lines = (b"A: %b\r\n" % (b"b" * 1000) for _ in range(2 * MAX_TRAILER_BYTES // 1000))
    found = nowait(peer, session, [chunk(b"one") + b"0\r\n", *lines], "stays")

    assert isinstance(found, tuple)
    assert requests.exceptions.ChunkedEncodingError in found


@st.composite
def split_bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A chunked body and parts of its bytes."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    body = b"".join(map(chunk, chunks)) + b"0\r\n\r\n"
    places = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=12))})
    return b"".join(chunks), [body[a:b] for a, b in itertools.pairwise(places)]


@given(split=split_bodies())
@example(
    split=(b"\r\n0\r\n\r\n", [b"7\r", b"\n\r\n0\r\n\r\n\r", b"\n0\r\n\r", b"\n"])
)  # a body that looks like framing
def test_any_split_of_any_chunks_is_the_body(
    split: tuple[bytes, list[bytes]], peer: Peer, session: Session
) -> None:
    peer.head = CHUNKED
    body, parts = split

    assert body == nowait(peer, session, parts, "stays")


def test_what_has_arrived_with_the_head_is_given_first(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED + chunk(b"one") + b"3\r\ntw"

    assert b"onetwo" == nowait(peer, session, [b"o\r\n0\r\n\r\n"], "stays")


def test_a_fast_body_comes_in_pieces_of_what_one_read_brings(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED
    body = bytes(range(256)) * 2048

    assert body == nowait(peer, session, [b"%x\r\n" % len(body), *_thirds(body), b"\r\n0\r\n\r\n"], "stays")


def _thirds(body: bytes) -> list[bytes]:
    third = READ_BYTES // 2 + 1
    return [body[at : at + third] for at in range(0, len(body), third)]


def test_the_connection_carries_the_next_request_which_may_wait(peer: Peer, authority_file: Path) -> None:
    peer.head = CHUNKED
    with new_session(authority_file) as own, no_descriptor_left():
        response = own.get(peer.url, stream=True)
        wire = peer.wires.get()
        assert [b"one"] == read_nowait(response, wire, [chunk(b"one"), b"0\r\n\r\n"], "stays")
        answering = threading.Thread(target=peer.answer, args=(wire,))
        answering.start()
        second = own.get(peer.url, stream=True)
        assert wire is peer.wires.get()
        answering.join()
        late = threading.Thread(target=wire.sendall, args=(chunk(b"two") + b"0\r\n\r\n",))
        late.start()
        assert b"two" == second.content
        late.join()
        wire.close()
        own.close()


def test_a_stop_shuts_the_socket_down_and_wakes_who_waits_for_it(peer: Peer, authority_file: Path) -> None:
    peer.head = CHUNKED
    token = CancelToken()
    with new_session(authority_file) as own, no_descriptor_left():
        response = own.get(peer.url, stream=True, token=token)
        wire = peer.wires.get()
        items = response.iter_arrived_nowait()
        wire.sendall(chunk(b"one"))
        item = next(items)
        while isinstance(item, NothingArrived):
            wait_readable(item)
            item = next(items)
        waiting = next(items)
        assert isinstance(waiting, NothingArrived)
        canceller = threading.Thread(target=token.cancel)
        canceller.start()
        wait_readable(waiting)
        with pytest.raises(Cancelled):
            next(items)
        canceller.join()  # it has the duplicate, which it closes
        with contextlib.suppress(OSError):  # the end of a TLS connection that was shut down beneath it
            assert b"" == wire.recv(1)
        wire.close()

    assert (token.stats().children, token.stats().registrations) == (0, 0)


def test_what_has_arrived_before_a_stop_is_not_given_after_it(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED + chunk(b"one") + chunk(b"two")
    token = CancelToken()
    response = session.get(peer.url, stream=True, token=token)
    items = response.iter_arrived_nowait()
    assert b"one" == next(items)
    token.cancel()
    with pytest.raises(Cancelled):
        next(items)
    peer.wires.get().close()


def test_silence_is_reported_as_it_is_to_who_may_wait(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED
    clock = ManualClock()
    token = CancelToken(clock=clock)
    with session.get(peer.url, stream=True, token=token, timeout=(5.0, 30.0)) as response:
        wire = peer.wires.get()
        items = response.iter_arrived_nowait()
        first = next(items)
        assert isinstance(first, NothingArrived)
        assert first.until == clock.now() + 30.0
        clock.advance(20.0)
        assert next(items) == first  # woken for nothing: it is silent still
        wire.sendall(chunk(b"one"))
        while isinstance(item := next(items), NothingArrived):
            wait_readable(item)
        assert b"one" == item
        clock.advance(20.0)
        second = next(items)
        assert isinstance(second, NothingArrived)
        assert second.until == clock.now() + 30.0
        clock.advance(30.0)
        with pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"):
            next(items)
    wire.close()


def test_without_a_timeout_silence_may_last(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED
    with session.get(peer.url, stream=True) as response:
        item = next(response.iter_arrived_nowait())
        assert isinstance(item, NothingArrived)
        assert item.until is None
        peer.wires.get().close()


def test_an_encoded_body_is_refused_and_can_be_read_in_the_usual_way(peer: Peer, session: Session) -> None:
    packed = gzip.compress(b"one")
    peer.head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    with session.get(peer.url, stream=True) as response:
        with pytest.raises(io.UnsupportedOperation):
            response.iter_arrived_nowait()
        wire = peer.wires.get()
        wire.sendall(packed)

        assert b"one" == b"".join(response.iter_arrived())
    wire.close()


def test_a_body_that_was_read_is_consumed(peer: Peer, session: Session) -> None:
    peer.head = with_length(3) + b"one"
    response = session.get(peer.url, stream=True)

    assert [b"one"] == [*response.iter_arrived_nowait()]
    with pytest.raises(requests.exceptions.StreamConsumedError):
        response.iter_arrived_nowait()
    peer.wires.get().close()


def test_whoever_reads_on_in_another_way_is_told_and_not_held_up(peer: Peer, session: Session) -> None:
    peer.head = CHUNKED + chunk(b"one")
    with session.get(peer.url, stream=True) as response:
        assert b"one" == next(response.iter_arrived_nowait())
    peer.wires.get().close()
    with session.get(peer.url, stream=True) as response:
        items = response.iter_arrived_nowait()
        assert b"one" == next(items)
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="look first"):
            next(response.iter_arrived())
    peer.wires.get().close()
