"""The official blocking SDKs, as cases of `_phases`: fifteen phases of a call, with `cancel_token.httpx` below them.

The same calls without it, stopped as the SDKs offer it, are in `bench_stop_official.py`. Further columns: `resent`,
requests that an SDK sent again after a stop; `kept`, connections that stayed in its pool; `refused`, next calls on the
same client that were not answered.
"""

import contextlib
import queue
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, get_args

import anthropic
import httpx2
import openai
from attrs import define, field, frozen

from aiwrapper.testing import Answer, Call, DialectName, FakeProvider, Hold, HttpError, Place, Turn
from benchmarks._agent_phases import PATIENCE_SECONDS, SPOKEN, after, mid_character, paced
from benchmarks._phases import Case, Certificates, Target, answer_or_none, stalling_lookup
from cancel_token import CancelToken
from cancel_token.httpx import StoppableBackOff, stoppable, use_token
from tests.cancel_token.httpx_clients import connections
from tests.cancel_token.stalling import Call as Work
from tests.cancel_token.stalling import FullListener, Proxy

CALLING = Turn((Call("look", ('{"turns"', ": 1", "}")),))
TOOL = "look"
LONG = "x" * 20_000_000
HOSTS: Mapping[DialectName, str] = {"openai_chat": "openai", "anthropic": "anthropic"}


class _OpenAI(StoppableBackOff, openai.OpenAI):
    pass


class _Anthropic(StoppableBackOff, anthropic.Anthropic):
    pass


@define
class Asking:
    """One call of an SDK, and how far it has come."""

    client: Any  # either SDK's, changed by nobody else while it is asked
    dialect: DialectName
    model: str
    said: str = "Hi"
    first: threading.Event = field(factory=threading.Event)  # an event of the stream has been delivered
    sleeping: threading.Event = field(factory=threading.Event)  # the SDK waits before it tries again
    sending: threading.Event = field(factory=threading.Event)
    stream: Any = None
    error: Exception | None = None

    def __attrs_post_init__(self) -> None:
        back_off = type(self.client)._sleep_for_retry

        def sleep_for_retry(**options: Any) -> None:
            self.sleeping.set()
            back_off(self.client, **options)

        self.client._sleep_for_retry = sleep_for_retry
        self.client._client.event_hooks = {"request": [lambda request: self.sending.set()], "response": []}

    def run(self) -> None:
        """Ask and read to the end, whatever that is."""
        self.stream = self.ask(stream=True)
        for _ in self.stream:
            self.first.set()

    def ask(self, *, stream: bool, **options: Any) -> Any:
        """One call."""
        messages = [{"role": "user", "content": self.said}]
        tool: dict[str, Any] = {"name": TOOL, "description": "Looks."}
        schema = {"type": "object", "properties": {"turns": {"type": "integer"}}}
        if self.dialect == "anthropic":
            tools = [{**tool, "input_schema": schema}]
            create = partial(self.client.messages.create, max_tokens=100)
        else:
            tools = [{"type": "function", "function": {**tool, "parameters": schema}}]
            create = self.client.chat.completions.create
        return create(model=self.model, messages=messages, tools=tools, stream=stream, **options)


@frozen(kw_only=True)
class Stage:
    """Where a call is to stall.

    Args:
        fake: the provider; also where the stall is elsewhere: it answers the next call.
        url: what the stalling call takes for its provider.
        proxy: the way there.
        tls: what the client checks certificates with.
        arm: called before each call; gives what waits until it stalls.
        hung_up_at: when the peer saw the hang-up of the last call.
        rest: wait until nothing of it is left on the peer's side.
        answers_next: whether a next call can be answered there.
    """

    fake: FakeProvider
    url: str
    proxy: str | None = None
    tls: ssl.SSLContext | None = None
    arm: Callable[[], Callable[[Asking], object]]
    hung_up_at: Callable[[], float | None] = lambda: None
    rest: Callable[[], object] = lambda: None
    answers_next: bool = True


@frozen(kw_only=True)
class SdkPhase:
    """A phase of a call.

    Args:
        name: for people.
        open: opens its stage.
        said: how large the question is.
    """

    name: str
    open: Callable[[DialectName, Certificates], AbstractContextManager[Stage]]
    said: str = "Hi"


def new_client(stage: Stage, *, ours: bool) -> Any:
    """An SDK's client on a stage, with our transport below it or as it comes."""
    dialect = stage.fake.dialect
    options: dict[str, Any] = {"trust_env": False}
    if stage.proxy is not None:
        options["proxy"] = stage.proxy
    if stage.tls is not None:
        options["verify"] = stage.tls
    default = anthropic.DefaultHttpxClient if dialect == "anthropic" else openai.DefaultHttpxClient
    http_client: httpx2.Client = default(**options)
    settings: dict[str, Any] = {
        "base_url": stage.url,
        "api_key": stage.fake.api_key,
        "http_client": stoppable(http_client) if ours else http_client,
    }
    if dialect == "anthropic":
        return (_Anthropic if ours else anthropic.Anthropic)(**settings)
    return (_OpenAI if ours else openai.OpenAI)(**settings)


def sdk_phases() -> Iterator[SdkPhase]:
    """The fifteen phases."""
    yield SdkPhase(name="name lookup", open=_open_lookup)
    if sys.platform == "linux":
        yield SdkPhase(name="connect", open=_open_connect)
    yield SdkPhase(name="proxy's answer", open=_open_silent_proxy)
    yield SdkPhase(name="TLS handshake", open=_open_handshake)
    yield SdkPhase(name="upload", open=_held("upload"), said=LONG)
    yield SdkPhase(name="headers", open=_held("headers"))
    yield SdkPhase(name="first byte", open=_held("first_byte"))
    yield SdkPhase(name="mid-line", open=_held(after("th", SPOKEN), SPOKEN, event=True))
    yield SdkPhase(name="mid-character", open=_held(mid_character, SPOKEN, event=True))
    between = after(" second", to_the_end=True)
    yield SdkPhase(name="between events", open=_held(between, SPOKEN, event=True))
    arguments = after("turns", CALLING, to_the_end=True)
    yield SdkPhase(name="inside tool arguments", open=_held(arguments, CALLING, event=True))
    for name, rate in (("100,000 events/s", 100_000), ("one event/s", 1)):
        (turn,) = paced(rate)("openai_chat")
        yield SdkPhase(name=name, open=_held(None, turn, event=True))
    yield SdkPhase(name="429, Retry-After: 30", open=_backing_off(HttpError(429, retry_after="30")))
    yield SdkPhase(name="500, back-off", open=_backing_off(HttpError(500)))


def sdk_cases(certificates: Certificates) -> Iterator[Case]:
    """Both SDKs in each phase."""
    for dialect in get_args(DialectName):
        for phase in sdk_phases():
            yield sdk_case(phase, dialect, certificates)


def sdk_case(phase: SdkPhase, dialect: DialectName, certificates: Certificates) -> Case:
    """One SDK in one phase."""
    return Case(HOSTS[dialect], phase.name, partial(_open_target, phase, dialect, certificates))


@contextlib.contextmanager
def _open_target(phase: SdkPhase, dialect: DialectName, certificates: Certificates) -> Iterator[Target]:
    with ExitStack() as stack:
        stage = stack.enter_context(phase.open(dialect, certificates))
        client = stack.enter_context(new_client(stage, ours=True))
        elsewhere = client.with_options(base_url=stage.fake.base_url)
        counts = {"resent": 0, "kept": 0, "refused": 0}
        begun: list[tuple[Asking, Callable[[Asking], object], int]] = []

        def start(token: CancelToken) -> Work[None]:
            asking = Asking(client, dialect, stage.fake.model, phase.said)
            begun[:] = [(asking, stage.arm(), len(stage.fake.requests))]

            def work() -> None:
                with use_token(token):
                    asking.run()

            return Work(work)

        def wait() -> None:
            asking, wait_until_stalled, _ = begun[0]
            wait_until_stalled(asking)

        def settle() -> None:
            counts["resent"] += max(0, len(stage.fake.requests) - begun[0][2] - 1)
            counts["kept"] += len(connections(client._client))
            if stage.answers_next:
                following = Asking(elsewhere, dialect, stage.fake.model)
                answer = following.ask(stream=False, extra_headers={"Connection": "close"})
                counts["refused"] += not answer.id
            stage.rest()
            for thread in threading.enumerate():
                if thread.name.startswith("fake provider connection"):
                    thread.join()

        yield Target(start, wait, stage.hung_up_at, settle, lambda: counts)


def _wait(event: threading.Event) -> None:
    if not event.wait(PATIENCE_SECONDS):
        raise RuntimeError("the call did not get there")


def _held(
    place: Place | Callable[[DialectName], Place] | None, *answers: Answer, event: bool = False
) -> Callable[[DialectName, Certificates], AbstractContextManager[Stage]]:
    """A fake that is held at a place, or that goes on and on; after an event has been delivered, if so wanted."""

    @contextlib.contextmanager
    def open_stage(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
        with FakeProvider(dialect) as fake:
            first: list[int] = []

            def arm() -> Callable[[Asking], object]:
                fake.add(*answers)
                first[:] = [len(fake.requests)]
                hold: Hold | None = None
                if place is not None:
                    hold = fake.hold_at(place(dialect) if callable(place) else place)

                def wait(asking: Asking) -> None:
                    if hold is not None:
                        _wait(hold.reached)
                    if event:
                        _wait(asking.first)

                return wait

            def hung_up_at() -> float | None:
                request = fake.requests[first[0]]
                return request.hung_up_at if request.hung_up.wait(PATIENCE_SECONDS) else None

            yield Stage(fake=fake, url=fake.base_url, arm=arm, hung_up_at=hung_up_at)

    return open_stage


def _backing_off(
    error: HttpError,
) -> Callable[[DialectName, Certificates], AbstractContextManager[Stage]]:
    """A fake that refuses; there is no request on its way while the SDK waits."""

    @contextlib.contextmanager
    def open_stage(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
        with FakeProvider(dialect) as fake:

            def arm() -> Callable[[Asking], object]:
                fake.add(error)
                return lambda asking: _wait(asking.sleeping)

            yield Stage(fake=fake, url=fake.base_url, arm=arm)

    return open_stage


@contextlib.contextmanager
def _open_handshake(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.server.configure_cert(server)
    client = ssl.create_default_context(cafile=certificates.authority_file)
    with FakeProvider(dialect, tls=server) as fake:
        holds: list[Hold] = []

        def arm() -> Callable[[Asking], object]:
            holds[:] = [fake.hold_at("tls")]
            return lambda asking: _wait(holds[0].reached)

        def hung_up_at() -> float | None:
            connection = holds[0].connection
            assert connection is not None
            return connection.hung_up_at if connection.hung_up.wait(PATIENCE_SECONDS) else None

        yield Stage(fake=fake, url=fake.base_url, tls=client, arm=arm, hung_up_at=hung_up_at)


@contextlib.contextmanager
def _open_silent_proxy(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
    with Proxy(stalls=True) as proxy, FakeProvider(dialect) as fake:
        yield Stage(
            fake=fake,
            url="https://127.0.0.1:9/v1",
            proxy=proxy.url,
            arm=lambda: lambda asking: proxy.stalled.get(timeout=PATIENCE_SECONDS),
            hung_up_at=lambda: answer_or_none(proxy.hang_ups),
            rest=proxy.join_connections,
            answers_next=False,
        )


@contextlib.contextmanager
def _open_connect(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
    with FullListener() as full, FakeProvider(dialect) as fake:
        url = f"http://127.0.0.1:{full.port}/v1"
        yield Stage(fake=fake, url=url, arm=lambda: lambda asking: _wait(asking.sending))


@contextlib.contextmanager
def _open_lookup(dialect: DialectName, certificates: Certificates) -> Iterator[Stage]:
    with stalling_lookup() as lookup, FakeProvider(dialect) as fake:

        def wait(asking: Asking) -> None:
            try:
                lookup.asked.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise RuntimeError("nobody asked for the name") from None

        yield Stage(fake=fake, url=f"http://{lookup.host}/v1", arm=lambda: wait, rest=lookup.answer)
