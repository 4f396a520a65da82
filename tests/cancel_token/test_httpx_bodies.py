"""Bodies of responses of httpx and httpx2 obey the token of their request, and go with its connection."""

import gc
import queue
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from cancel_token import Cancelled, CancelToken
from cancel_token.httpx import use_token
from tests.cancel_token.httpx_clients import connections, open_stream, under
from tests.cancel_token.stalling import BODY_PHASES, LINES, Call, Phase, StallingServer, no_descriptor_left
from tests.cancel_token.transports import stop

READERS: dict[str, Callable[[httpx2.Response], Iterator[object]]] = {
    "iter_raw": lambda response: response.iter_raw(),
    "iter_raw in pieces": lambda response: response.iter_raw(4),
    "iter_bytes": lambda response: response.iter_bytes(),
    "iter_text": lambda response: response.iter_text(),
    "iter_lines": lambda response: response.iter_lines(),
    "read": lambda response: iter([response.read()]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("phase", BODY_PHASES)
@pytest.mark.usefixtures("without_gc")
def test_every_way_to_read_a_body_obeys_in_another_thread(
    reader: str, phase: Phase, server: StallingServer, client: httpx2.Client
) -> None:
    """T-N7: the response carries the token; the thread that reads it knows nothing of it."""
    server.phase = phase
    token = CancelToken()
    with no_descriptor_left():
        response = open_stream(client, server.url, token)
        read: queue.SimpleQueue[object] = queue.SimpleQueue()

        def consume() -> None:
            for piece in READERS[reader](response):
                read.put(piece)

        call = Call(consume)
        stop(server, token, call)
        server.join_connections()

    assert isinstance(call.error, Cancelled)
    assert [] == connections(client)


@pytest.mark.parametrize(
    "reader", ["iter_raw", "iter_raw in pieces", "iter_bytes", "iter_text", "iter_lines"]
)
@pytest.mark.parametrize("phase", ["fast", "between chunks", "mid-chunk", "length", "until close"])
@pytest.mark.usefixtures("without_gc")
def test_breaking_out_of_an_iterator_leaves_nothing_behind(
    reader: str, phase: Phase, server: StallingServer, client: httpx2.Client
) -> None:
    """T-N8: the connection ends, the server learns, the token is left; nobody calls `close()`."""
    server.phase = phase
    token = CancelToken()
    with no_descriptor_left():
        response = open_stream(client, server.url, token)
        for _ in READERS[reader](response):
            break
        server.hang_ups.get()
        server.join_connections()

    assert 0 == token.stats().registrations
    assert [] == connections(client)


def sse(events: int) -> bytes:
    body = b"".join(b"data: %d\n\n" % number for number in range(events))
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_the_token_is_asked_before_each_event_of_a_stream(
    end: bytes, server: StallingServer, client: httpx2.Client
) -> None:
    """T-N5: one read brings all of them, and nothing is delivered after the stop."""
    server.answer = sse(3).replace(b"\n\n", end).replace(b"Length: 27", b"Length: %d" % (21 + 3 * len(end)))
    token = CancelToken()
    response = open_stream(client, server.url, token)
    arrived = response.iter_bytes()
    first = next(arrived)
    token.cancel()

    assert b"data: 0" + end == first
    with pytest.raises(Cancelled):
        next(arrived)


def test_events_arrive_whole(server: StallingServer, client: httpx2.Client) -> None:
    server.answer = sse(10_000)
    with use_token(CancelToken()):
        assert server.answer.partition(b"\r\n\r\n")[2] == client.get(server.url).content


def test_a_late_stop_does_not_touch_the_next_request_on_the_same_connection(
    server: StallingServer, client: httpx2.Client
) -> None:
    """T-N7: the connection in the pool belongs to no token."""
    first, second = CancelToken(), CancelToken()
    with use_token(first):
        client.get(server.url)
    resting = first.stats().registrations
    server.phase = "between chunks"
    streaming = open_stream(client, server.url, second)
    server.stalled.get()
    first.cancel("too late")

    assert 0 == resting
    assert 1 == server.connections
    pieces = streaming.iter_raw()
    assert LINES == next(pieces)
    assert 1 == second.stats().registrations
    assert server.hang_ups.empty()
    streaming.close()


def test_a_stop_after_the_end_costs_nobody_a_connection(
    server: StallingServer, client: httpx2.Client
) -> None:
    """T-S15: what was read to its end stays, and so does the connection."""
    token = CancelToken()
    with use_token(token):
        response = client.get(server.url)
    token.cancel()

    assert b"ok" == response.content
    assert b"ok" == client.get(server.url).content
    assert 1 == server.connections


def test_a_connection_that_was_stopped_at_the_very_end_is_not_used_again(
    server: StallingServer, client: httpx2.Client
) -> None:
    """T-N7: the body is whole, the response not closed yet."""
    token = CancelToken()
    response = open_stream(client, server.url, token)
    body: Any = response.stream
    inner = iter(body)
    whole = b"".join(inner)
    token.cancel()
    response.close()

    assert b"ok" == whole
    assert [] == connections(client)
    assert b"ok" == client.get(server.url).content
    assert 2 == server.connections


@pytest.mark.parametrize("phase", ["headers", "between chunks", "length", "until close"])
def test_closing_from_another_thread_frees_who_reads(
    phase: Phase, server: StallingServer, client: httpx2.Client
) -> None:
    """And is no clean end, also where the body has no length. The plain client stays blocked."""
    server.phase = phase
    call = under(CancelToken(), lambda: client.get(server.url))
    server.stalled.get()
    client.close()
    server.hang_ups.get()

    assert type(call.join().error).__name__ == "ReadError"


@pytest.mark.usefixtures("without_gc")
def test_a_dropped_response_is_closed_when_the_client_is_used_again(
    server: StallingServer, client: httpx2.Client
) -> None:
    """T-N8: the peer is told at once, and the token forgets it."""
    server.phase = "between chunks"
    token = CancelToken()
    response: httpx2.Response | None = open_stream(client, server.url, token)
    server.stalled.get()
    del response
    gc.collect()  # httpx's responses are cycles
    server.hang_ups.get()
    server.phase = None
    assert b"ok" == client.get(server.url).content

    assert 0 == token.stats().registrations
    assert 1 == len(connections(client))


@pytest.mark.usefixtures("without_gc")
def test_a_body_that_was_read_to_its_end_and_dropped_costs_nobody_a_connection(
    server: StallingServer, client: httpx2.Client
) -> None:
    """Whoever reads the stream itself has httpx close nothing."""
    token = CancelToken()
    response: httpx2.Response | None = open_stream(client, server.url, token)
    assert response is not None
    body: Any = response.stream
    whole = b"".join(body)
    del response, body
    gc.collect()
    token.cancel()

    assert b"ok" == whole
    assert b"ok" == client.get(server.url).content
    assert 1 == server.connections


class Reading:
    """Reads a response in a cycle with it."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.pieces = self.read()

    def read(self) -> Iterator[bytes]:
        yield from self.response.iter_raw()


class Closing(Reading):
    """Closes it, too, as the stream of an SDK does."""

    def read(self) -> Iterator[bytes]:
        try:
            yield from self.response.iter_raw()
        finally:
            self.response.close()


DROPS: dict[str, Callable[[httpx2.Response], object]] = {
    "not begun": Reading,
    "begun": lambda response: next(Reading(response).pieces),
    "begun, to be closed": lambda response: next(Closing(response).pieces),
}


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.usefixtures("without_gc")
def test_a_response_may_be_collected_in_the_middle_of_the_pool(
    drop: str, server: StallingServer, client: httpx2.Client
) -> None:
    """By the thread that holds its lock, of all threads: it must neither wait for itself nor begin there once more."""
    server.phase = "between chunks"
    token = CancelToken()
    DROPS[drop](open_stream(client, server.url, token))
    server.stalled.get()
    server.phase = None
    inside: Any = client  # no public way to what the library does in its lock
    pool = inside._transport._pool._pool
    create = pool.create_connection
    registrations = []

    def create_connection(origin: object) -> Any:
        registrations.append(token.stats().registrations)
        gc.collect()
        registrations.append(token.stats().registrations)
        return create(origin)

    pool.create_connection = create_connection
    answer = client.get(server.url).content

    assert b"ok" == answer
    assert [1, 0] == registrations
    server.hang_ups.get()
    assert b"ok" == client.get(server.url).content
    assert 1 == len(connections(client))


def test_a_connection_at_rest_obeys_nobody_and_says_when_it_has_ended(
    server: StallingServer, client: httpx2.Client
) -> None:
    """T-N7: whoever takes the socket for purposes of his own is on his own."""
    token = CancelToken()
    response = open_stream(client, server.url, token)
    stream = response.extensions["network_stream"]
    response.read()
    token.cancel()

    assert not stream.get_extra_info("is_readable")
    with pytest.raises(Exception, match="timed out"):
        stream.read(1, timeout=0.01)
    client.close()
    assert stream.get_extra_info("is_readable")


def test_a_body_that_nobody_has_iterated_is_closed_once(
    server: StallingServer, client: httpx2.Client
) -> None:
    server.phase = "between chunks"
    response = open_stream(client, server.url, CancelToken())
    server.stalled.get()
    response.close()
    response.close()
    server.hang_ups.get()

    assert [] == connections(client)
    assert response.is_closed
