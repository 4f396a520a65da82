"""Where a call to a provider stalls: the phases of a call over each wire, for whoever makes the call.

A `Stage` is a provider, the way to it, and a place where the next call will be held. `Signs` are what the caller shows
of how far it has come, since not every phase can be seen from the far side.
"""

import contextlib
import queue
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

from attrs import define, field, frozen

from aiwrapper.testing import (
    Answer,
    Call,
    Delivery,
    DialectName,
    FakeProvider,
    Hold,
    HttpError,
    Place,
    Say,
    Turn,
    render,
)
from benchmarks._phases import Certificates
from benchmarks._request_phases import answer_or_none, stalling_lookup
from tests.cancel_token.stalling import FullListener, Proxy, StallingServer

PATIENCE_SECONDS = 30.0

LONG = "x" * 20_000_000
TOOL = "look"
SPOKEN = Turn((Say(("first", " second", " thé rest", " of it")),))
CALLING = Turn((Call(TOOL, ('{"turns"', ": 1", "}")),))
ENDLESS = 2_000_000
"""Events of a stream that is stopped long before its end."""


@frozen
class Wire:
    """A way to the provider.

    Args:
        name: For people.
        tls: Whether the provider speaks TLS.
        proxied: Whether there is an HTTP proxy in between, which is asked to CONNECT where the provider speaks TLS.
    """

    name: str
    tls: bool = False
    proxied: bool = False


PLAIN = Wire("plain")
WIRES = (PLAIN, Wire("TLS", tls=True), Wire("proxy", proxied=True), Wire("CONNECT", tls=True, proxied=True))


@define
class Signs:
    """How far a call has come, set by whoever makes it."""

    sending: threading.Event = field(factory=threading.Event)  # it is about to connect
    first: threading.Event = field(factory=threading.Event)  # something of the answer has been delivered
    sleeping: threading.Event = field(factory=threading.Event)  # it waits before it tries again


@frozen(kw_only=True)
class Stage:
    """Where a call is to stall.

    Args:
        fake: The provider; where the stall is elsewhere, it answers the next call.
        url: What the stalling call takes for its provider.
        proxy: The way there.
        proxy_next: The way to `fake` for the next call.
        authority: A file with the authority of the provider's certificate.
        arm: Called before each call; gives what waits until it stalls.
        hung_up_at: When the peer saw the hang-up of the last call, by `time.perf_counter`.
        rest: Wait until nothing of it is left on the peer's side.
    """

    fake: FakeProvider
    url: str
    proxy: str | None = None
    proxy_next: str | None = None
    authority: str | None = None
    arm: Callable[[], Callable[[Signs], object]]
    hung_up_at: Callable[[], float | None] = lambda: None
    rest: Callable[[], object] = lambda: None


OpenStage = Callable[[DialectName, Wire, Certificates], AbstractContextManager[Stage]]


@frozen(kw_only=True)
class StallPhase:
    """A phase of a call.

    Args:
        name: For people.
        open: Opens its stage.
        said: How large the question is.
    """

    name: str
    open: OpenStage
    said: str = "Hi"


def stall_phases(wire: Wire) -> Iterator[StallPhase]:
    """The phases that there are on this wire."""
    yield StallPhase(name="name lookup", open=_open_lookup)
    if sys.platform == "linux":
        yield StallPhase(name="connect", open=_open_connect)
    if wire.tls:
        if wire.proxied:
            yield StallPhase(name="proxy's answer", open=_open_silent_proxy)
        yield StallPhase(name="TLS handshake", open=_open_handshake)
    yield StallPhase(name="upload", open=held("upload"), said=LONG)
    yield StallPhase(name="headers", open=held("headers"))
    yield StallPhase(name="first byte", open=held("first_byte"))
    yield StallPhase(name="mid-chunk", open=_open_mid_chunk)
    yield StallPhase(name="mid-line", open=held(after("th"), SPOKEN, delivered=True))
    yield StallPhase(name="mid-character", open=held(mid_character, SPOKEN, delivered=True))
    between = after(" second", to_the_end=True)
    yield StallPhase(name="between events", open=held(between, SPOKEN, delivered=True))
    arguments = after("turns", CALLING, to_the_end=True)
    yield StallPhase(name="inside tool arguments", open=held(arguments, CALLING, delivered=True))
    yield StallPhase(name="100,000 events/s", open=held(None, paced(100_000), delivered=True))
    yield StallPhase(name="one event/s", open=held("first_byte", paced(1), let_go=True))
    error = HttpError(429, retry_after="30")
    yield StallPhase(name="429, Retry-After: 30", open=_backing_off(error))
    yield StallPhase(name="500, back-off", open=_backing_off(HttpError(500)))


def after(text: str, turn: Turn = SPOKEN, *, to_the_end: bool = False) -> Callable[[DialectName], int]:
    """The place behind a text of a body; or behind the event that it stands in."""

    def place(dialect: DialectName) -> int:
        body = render(turn, dialect)
        at = body.index(text.encode()) + len(text.encode())
        return body.index(b"\n\n", at) + 2 if to_the_end else at

    return place


def mid_character(dialect: DialectName) -> int:
    return render(SPOKEN, dialect).index("é".encode()) + 1


def paced(rate: float) -> Turn:
    return Turn((Say((" x",) * ENDLESS),), delivery=Delivery(events_per_second=rate))


def wait_for(event: threading.Event) -> None:
    if not event.wait(PATIENCE_SECONDS):
        raise RuntimeError("the call did not get there")


@frozen
class Route:
    """A wire that is open: a fake, and what a client must know to get there."""

    fake: FakeProvider
    proxy: Proxy | None
    authority: str | None

    @property
    def proxy_url(self) -> str | None:
        return None if self.proxy is None else self.proxy.url

    def rest(self) -> None:
        if self.proxy is not None:
            self.proxy.join_connections()

    def stage(
        self,
        arm: Callable[[], Callable[[Signs], object]],
        hung_up_at: Callable[[], float | None] = lambda: None,
    ) -> Stage:
        """A stage whose stall is at the fake."""
        return Stage(
            fake=self.fake,
            url=self.fake.base_url,
            proxy=self.proxy_url,
            proxy_next=self.proxy_url,
            authority=self.authority,
            arm=arm,
            hung_up_at=hung_up_at,
            rest=self.rest,
        )

    def stage_elsewhere(
        self,
        place: str,
        arm: Callable[[], Callable[[Signs], object]],
        hung_up_at: Callable[[], float | None] = lambda: None,
        rest: Callable[[], object] = lambda: None,
    ) -> Stage:
        """A stage whose stall is on the way: at the proxy, if the wire has one, else at what is taken for the provider.

        Args:
            place: Host and port.
            arm: As in `Stage`.
            hung_up_at: As in `Stage`.
            rest: As in `Stage`.
        """

        def rest_all() -> None:
            rest()
            self.rest()

        scheme = "http" if self.authority is None else "https"
        return Stage(
            fake=self.fake,
            url=self.fake.base_url if self.proxy else f"{scheme}://{place}/v1",
            proxy=f"http://{place}" if self.proxy else None,
            proxy_next=self.proxy_url,
            authority=self.authority,
            arm=arm,
            hung_up_at=hung_up_at,
            rest=rest_all,
        )


@contextlib.contextmanager
def open_route(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Route]:
    context = None
    if wire.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.server.configure_cert(context)
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider(dialect, tls=context))
        proxy = stack.enter_context(Proxy()) if wire.proxied else None
        yield Route(fake, proxy, str(certificates.authority_file) if wire.tls else None)


def held(
    place: Place | Callable[[DialectName], Place] | None,
    *answers: Answer,
    delivered: bool = False,
    let_go: bool = False,
) -> OpenStage:
    """A fake that is held at a place, or that goes on and on.

    Args:
        place: Where; None for nowhere.
        *answers: What it says.
        delivered: Wait until something of it has been delivered, too.
        let_go: It is released as soon as it has got there.
    """

    @contextlib.contextmanager
    def open_stage(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
        with open_route(dialect, wire, certificates) as route:
            fake = route.fake
            first: list[int] = []

            def arm() -> Callable[[Signs], object]:
                fake.add(*answers)
                first[:] = [len(fake.requests)]
                hold: Hold | None = None
                if place is not None:
                    hold = fake.hold_at(place(dialect) if callable(place) else place)

                def wait(signs: Signs) -> None:
                    if hold is not None:
                        wait_for(hold.reached)
                        if let_go:
                            hold.release()
                    if delivered:
                        wait_for(signs.first)

                return wait

            def hung_up_at() -> float | None:
                request = fake.requests[first[0]]
                return request.hung_up_at if request.hung_up.wait(PATIENCE_SECONDS) else None

            yield route.stage(arm, hung_up_at)

    return open_stage


def _backing_off(error: HttpError) -> OpenStage:
    """A fake that refuses; there is no request on its way while the caller waits."""

    @contextlib.contextmanager
    def open_stage(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
        with open_route(dialect, wire, certificates) as route:

            def arm() -> Callable[[Signs], object]:
                route.fake.add(error)
                return lambda signs: wait_for(signs.sleeping)

            yield route.stage(arm)

    return open_stage


@contextlib.contextmanager
def _open_handshake(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
    with open_route(dialect, wire, certificates) as route:
        holds: list[Hold] = []

        def arm() -> Callable[[Signs], object]:
            holds[:] = [route.fake.hold_at("tls")]
            return lambda signs: wait_for(holds[0].reached)

        def hung_up_at() -> float | None:
            connection = holds[0].connection
            assert connection is not None
            return connection.hung_up_at if connection.hung_up.wait(PATIENCE_SECONDS) else None

        yield route.stage(arm, hung_up_at)


@contextlib.contextmanager
def _open_mid_chunk(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
    """The fakes send whole chunks; this server does not."""
    with (
        open_route(dialect, wire, certificates) as route,
        StallingServer(certificates.server if wire.tls else None) as server,
    ):
        server.phase = "mid-chunk"

        def rest() -> None:
            server.join_connections()
            route.rest()

        yield Stage(
            fake=route.fake,
            url=server.url.rstrip("/"),
            proxy=route.proxy_url,
            proxy_next=route.proxy_url,
            authority=route.authority,
            arm=lambda: lambda signs: server.stalled.get(timeout=PATIENCE_SECONDS),
            hung_up_at=lambda: answer_or_none(server.hang_ups),
            rest=rest,
        )


@contextlib.contextmanager
def _open_silent_proxy(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
    with open_route(dialect, wire, certificates) as route, Proxy(stalls=True) as proxy:
        yield route.stage_elsewhere(
            f"127.0.0.1:{proxy.port}",
            lambda: lambda signs: proxy.stalled.get(timeout=PATIENCE_SECONDS),
            lambda: answer_or_none(proxy.hang_ups),
            proxy.join_connections,
        )


@contextlib.contextmanager
def _open_connect(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
    with open_route(dialect, wire, certificates) as route, FullListener() as full:
        yield route.stage_elsewhere(f"127.0.0.1:{full.port}", lambda: lambda signs: wait_for(signs.sending))


@contextlib.contextmanager
def _open_lookup(dialect: DialectName, wire: Wire, certificates: Certificates) -> Iterator[Stage]:
    with open_route(dialect, wire, certificates) as route, stalling_lookup() as lookup:

        def wait(signs: Signs) -> None:
            try:
                lookup.asked.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise RuntimeError("nobody asked for the name") from None

        yield route.stage_elsewhere(f"{lookup.host}:80", lambda: wait, rest=lookup.answer)
