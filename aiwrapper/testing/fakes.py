"""Strict fake providers on loopback: real sockets, the provider's own bytes and its own complaints.

A fake judges each request as the provider would: the key, the model, and every rule of its dialect's wire
(`Dialect.violations`), and answers what breaks one with the provider's literal error. A request that breaks
none gets the next answer of the script. It can be held before any byte, and it remembers of each request
what it asked and when its peer hung up.

One thread accepts, one more serves each connection; all of them end in `close`.
"""

import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress

from aiwrapper._core.dialect import Dialect
from aiwrapper.testing._answers import API_KEY, MODEL, Answers
from aiwrapper.testing._holds import Hold, Holds, Place
from aiwrapper.testing._http import BadRequest, Head, RequestReader
from aiwrapper.testing._listener import Listener
from aiwrapper.testing._records import FakeConnection, FakeRequest
from aiwrapper.testing._response import LineCut, Response
from aiwrapper.testing._wire import PeerGone, ServerStopped, Wire
from aiwrapper.testing.rendering import DialectName
from aiwrapper.testing.scripts import Answer


class FakeProvider:
    """A strict fake of one provider, as a context manager.

    Everything may be used from any thread.

    Args:
        dialect: which wire protocol it speaks and judges.
        script: its answers, in the order in which good requests arrive; after the last, `DEFAULT_TURN`. An
            endless iterator is fine: it is asked for one answer at a time.
        api_key: the one key it takes.
        model: the one model it has.
        tls: a server's context makes it speak TLS.
        host: the address to listen on, which the certificate has to name.
        rules: the dialect that judges, for a host with ways of its own, such as
            `OpenAIChat(nine_character_ids=True)`; None for the provider's own.
    """

    def __init__(
        self,
        dialect: DialectName,
        script: Iterable[Answer] = (),
        *,
        api_key: str = API_KEY,
        model: str = MODEL,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        rules: Dialect | None = None,
    ) -> None:
        self.dialect: DialectName = dialect
        self.api_key = api_key
        self.model = model
        self._answers = Answers(dialect, script, api_key=api_key, model=model, rules=rules)
        self._holds = Holds()
        self._changed = threading.Condition()
        self._requests: list[FakeRequest] = []  # this and the next are guarded by `_changed`
        self._connections: list[FakeConnection] = []
        self._listener = Listener(host, tls, self._serve)

    @property
    def base_url(self) -> str:
        """What the official client takes as its base URL. Known once the fake has been entered."""
        return self._listener.origin + self._answers.provider.base_path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self._listener.address

    @property
    def requests(self) -> tuple[FakeRequest, ...]:
        """All requests whose head has arrived so far, in order."""
        with self._changed:
            return tuple(self._requests)

    @property
    def connections(self) -> tuple[FakeConnection, ...]:
        """All connections so far, in order."""
        with self._changed:
            return tuple(self._connections)

    def wait_for_requests(self, count: int, *, timeout_seconds: float | None = None) -> bool:
        """Wait until the heads of `count` requests have arrived since the start.

        Args:
            count: how many.
            timeout_seconds: None for no limit.

        Returns:
            False if the time ran out.
        """
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= count, timeout_seconds)

    def add(self, *answers: Answer) -> None:
        """Add answers to the end of the script; also after it has ended."""
        self._answers.add(answers)

    def hold_at(self, place: Place) -> Hold:
        """Hold the first connection or request that gets to a place from now on.

        Args:
            place: a phase, or a number of bytes: the body is held when so many of it are sent. A body that
                has fewer passes by, and the next request may be held.

        Returns:
            The hold: `reached.wait()`, then `release()`.
        """
        return self._holds.add(place)

    def start(self) -> None:
        """Listen. Leaving the `with` block, or `close`, ends it."""
        self._listener.start()

    def close(self) -> None:
        """Stop listening, end all connections whatever they do, and wait for all threads. Any number of times."""
        self._listener.close()

    def __enter__(self) -> "FakeProvider":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _serve(self, wire: Wire) -> None:
        """One connection, in its own thread."""
        with self._changed:
            connection = FakeConnection(len(self._connections) + 1)
            self._connections.append(connection)
        try:
            self._hold("accept", wire, connection)
            if wire.encrypted:
                wire.await_hello()
                self._hold("tls", wire, connection)
                wire.secure()
            reader = RequestReader(wire)
            while self._exchange(wire, connection, reader):
                pass
            wire.farewell()
        except PeerGone as gone:
            connection.note_hang_up(gone.how)
        except LineCut as cut:
            if cut.how == "rst":
                with suppress(PeerGone, ServerStopped):  # then nobody is left to be told
                    wire.reset()
        except (ssl.SSLError, BadRequest) as error:
            connection.failure = error
        except ServerStopped:
            pass  # `close` waits for this thread
        finally:
            wire.close()
            connection.closed.set()

    def _exchange(self, wire: Wire, connection: FakeConnection, reader: RequestReader) -> bool:
        """One request and its answer; whether there may be another on this connection."""
        head = reader.head()
        request = self._note(head, connection)
        try:
            self._hold("upload", wire, connection, request)
            reader.body(head, request.arrived)
            prepared = self._answers.prepare(request)
            response = Response(wire, request, self._holds, prepared.delivery)
            response.send(prepared.status, prepared.headers, prepared.events)
        except PeerGone as gone:
            request.note_hang_up(gone.how)
            raise
        finally:
            request.done.set()
        return head.keeps_alive and prepared.delivery.framing != "close"

    def _note(self, head: Head, connection: FakeConnection) -> FakeRequest:
        with self._changed:
            request = FakeRequest(len(self._requests) + 1, connection, head)
            self._requests.append(request)
            connection.requests.append(request)
            self._changed.notify_all()
        return request

    def _hold(
        self, place: Place, wire: Wire, connection: FakeConnection, request: FakeRequest | None = None
    ) -> None:
        if (hold := self._holds.take(place)) is not None:
            hold.keep(wire, connection, request)
