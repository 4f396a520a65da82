"""The other end of a connection stalls, cuts the line, or has its reader cancelled, at every byte."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import CodeType
from typing import Literal

import anyio
import anyio.abc
import pytest
import requests

from cancel_token import CancelToken
from cancel_token.aio import fail_on_cancel
from cancel_token.http import Session
from cancel_token.sockets import shutdown_on_cancel
from cancel_token.testing import Backend, Limits, Outcome, explore, replay
from cancel_token.testing._points import Kind, Lane
from cancel_token.testing.net import cut_server, cut_socketpair
from tests.cancel_token.testing.toys import anything_goes

DATA = b"one\r\ntwo\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + DATA


class Reader:
    """Reads lines from a socket; those that it has are whole."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lines: list[bytes] = []

    def read(self, token: CancelToken) -> None:
        buffer = b""
        with shutdown_on_cancel(self.sock, token):
            while received := self.sock.recv(100):
                buffer += received
                *lines, buffer = buffer.split(b"\r\n")
                self.lines += lines
        token.check()


class KeepsHalfLines(Reader):
    def read(self, token: CancelToken) -> None:
        received = b""
        with shutdown_on_cancel(self.sock, token):
            while more := self.sock.recv(100):
                received += more
                self.lines = received.removesuffix(b"\r\n").split(b"\r\n")
        token.check()


class Deaf(Reader):
    """Asks its token between reads, and is not woken from one."""

    def read(self, token: CancelToken) -> None:
        token.check()
        while self.sock.recv(100):
            token.check()


@contextmanager
def reader() -> Iterator[Reader]:
    with cut_socketpair(DATA) as sock:
        yield Reader(sock)


def read(reader: Reader, token: CancelToken) -> None:
    reader.read(token)


def whole_lines(reader: Reader, outcome: Outcome) -> None:
    assert outcome.legal("returned", "cancelled")
    assert reader.lines == [b"one", b"two"][: len(reader.lines)]


def test_a_stop_at_every_byte_leaves_whole_lines() -> None:
    report = explore(reader, read, whole_lines, at=["byte"])

    report.assert_ok()
    assert len(DATA) + 1 == report.points["byte"] == report.valid
    assert ["1.0byte", "1.1byte"] == [str(each.plan.points[0]) for each in report.attempts[2:4]]
    assert "byte 1" == report.attempts[3].plan.site


def test_a_reader_that_keeps_half_a_line_is_found() -> None:
    @contextmanager
    def make() -> Iterator[Reader]:
        with cut_socketpair(DATA) as sock:
            yield KeepsHalfLines(sock)

    report = explore(make, read, whole_lines, at=["byte"])
    failure = report.failures[0]
    again = replay(failure.ids[0], make, read, whole_lines)

    assert "FAIL" == report.verdict
    assert failure.attempts[0].plan.points[0].ordinal in (1, 2, 3), "within the first line"
    assert failure.ids[:1] == again.failures[0].ids


def test_a_reader_that_does_not_hang_up_hangs_and_is_freed() -> None:
    @contextmanager
    def make() -> Iterator[Reader]:
        with cut_socketpair(b"12") as sock:
            yield Deaf(sock)

    report = explore(
        make,
        read,
        anything_goes,
        at=["byte"],
        limits=Limits(cancel_seconds=0.01),
    )

    assert {"hung"} == {failure.name for failure in report.failures}
    assert report.run == report.planned == 3


def test_a_request_is_stopped_at_every_byte_of_its_response() -> None:
    class Client:
        def __init__(self, url: str) -> None:
            self.url = url
            self.received = b""

        def fetch(self, token: CancelToken) -> None:
            with Session() as session, session.post(self.url, b"body", stream=True, token=token) as response:
                for piece in response.iter_arrived():
                    self.received += piece

    @contextmanager
    def make() -> Iterator[Client]:
        with cut_server(RESPONSE) as (host, port):
            yield Client(f"http://{host}:{port}/")

    def check(client: Client, outcome: Outcome) -> None:
        assert outcome.legal("returned", "cancelled")
        assert DATA.startswith(client.received)
        assert outcome.kind == "cancelled" or client.received == DATA

    def again(client: Client) -> None:
        client.received = b""
        client.fetch(CancelToken())
        assert DATA == client.received

    report = explore(
        make,
        lambda client, token: client.fetch(token),
        check,
        at=["byte"],
        restart=again,
        limits=Limits(points=None),
    )

    report.assert_ok()
    assert len(RESPONSE) + 1 == report.valid


def test_the_point_behind_the_last_byte_is_met_also_where_the_work_ends_with_that_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    reach = Lane.reach

    def reach_late(
        lane: Lane, kind: Kind, code: CodeType | None, line: int, token: CancelToken | None = None
    ) -> None:
        if kind == "byte" and line == len(DATA):
            ended.wait()
        reach(lane, kind, code, line, token)

    monkeypatch.setattr(Lane, "reach", reach_late)

    @contextmanager
    def make() -> Iterator[socket.socket]:
        ended.clear()
        with cut_socketpair(DATA) as sock:
            yield sock

    def run(sock: socket.socket, token: CancelToken) -> None:
        missing = len(DATA)
        try:
            with shutdown_on_cancel(sock, token):
                while missing and (received := sock.recv(missing)):
                    missing -= len(received)
        finally:
            ended.set()
        if missing:
            token.check()

    report = explore(make, run, anything_goes, at=["byte"], limits=Limits(points=None))

    report.assert_ok()
    assert len(DATA) + 1 == report.valid


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("stop", [None, "runtime"])
def test_tasks_that_read_are_stopped_at_every_byte(backend: Backend, stop: Literal["runtime"] | None) -> None:
    class Stream:
        def __init__(self, stream: anyio.abc.ByteStream) -> None:
            self.stream = stream
            self.lines: list[bytes] = []

    @asynccontextmanager
    async def make() -> AsyncIterator[Stream]:
        with cut_server(RESPONSE) as (host, port):
            async with await anyio.connect_tcp(host, port) as stream:
                yield Stream(stream)

    async def run(stream: Stream, token: CancelToken) -> None:
        with fail_on_cancel(token):
            await stream.stream.send(b"GET / HTTP/1.1\r\n\r\n")
            received = b""
            async for more in stream.stream:
                received += more
            assert RESPONSE == received

    report = explore(make, run, anything_goes, backend=backend, at=["byte"], stop=stop)

    report.assert_ok()
    assert len(RESPONSE) + 1 == report.valid


def test_it_stalls_or_cuts_where_it_is_told_to() -> None:
    with cut_socketpair(DATA, cut_at=3) as sock, sock.makefile("rb") as file:
        assert b"one" == file.read()
    with cut_socketpair(DATA, stall_at=3) as sock, sock.makefile("rb") as file:
        assert b"one" == file.read(3)
    with cut_server(RESPONSE) as (host, port):
        assert DATA == requests.get(f"http://{host}:{port}/", timeout=30).content
    with (
        cut_server(RESPONSE, cut_at=len(RESPONSE) - 1) as (host, port),
        pytest.raises(requests.RequestException),
    ):
        requests.get(f"http://{host}:{port}/", timeout=30)


def test_a_connection_that_is_closed_before_it_asks_is_answered_nothing() -> None:
    with cut_server(RESPONSE) as address:
        socket.create_connection(address).close()


def test_a_make_that_fails_leaves_no_peer_behind() -> None:
    def make() -> Reader:
        with cut_socketpair(DATA):
            raise OSError("no reader")

    assert "ERROR" == explore(make, read, whole_lines).verdict
