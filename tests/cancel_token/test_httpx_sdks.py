"""The official blocking SDKs obey a token in every phase of a call, against strict fakes of their providers."""

import contextlib
import gc
import queue
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import attrs
import openai
import pytest
import trustme

from aiwrapper.testing import DialectName, FakeProvider, HttpError, Place, Say, Turn
from cancel_token import Cancelled, CancelReason, CancelToken
from cancel_token.httpx import StoppableBackOff, stoppable, use_token
from tests.cancel_token.httpx_clients import connections, under
from tests.cancel_token.stalling import Call, FullListener, Proxy, no_descriptor_left

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)

DIALECTS: tuple[DialectName, ...] = ("openai_chat", "anthropic")
PHASES: tuple[Place, ...] = ("accept", "tls", "upload", "headers", "first_byte", 1, "mid_body", "end")
SPOKEN = Turn((Say(("first", " second", " third")),))
QUESTION = "x" * 20_000_000  # more than a loopback connection buffers

Way = Literal["plain", "TLS", "CONNECT"]


class OpenAI(StoppableBackOff, openai.OpenAI):
    """The SDK's client with a back-off that obeys."""


class Anthropic(StoppableBackOff, anthropic.Anthropic):
    """The SDK's client with a back-off that obeys."""


@attrs.frozen
class Sdk:
    """One SDK's client, in the words that both share."""

    fake: FakeProvider
    client: Any  # either SDK's

    def ask(self, said: str = "Hi", *, stream: bool = False) -> Any:
        messages = [{"role": "user", "content": said}]
        if self.fake.dialect == "anthropic":
            create = self.client.messages.create
            return create(model=self.fake.model, messages=messages, max_tokens=100, stream=stream)
        return self.client.chat.completions.create(model=self.fake.model, messages=messages, stream=stream)

    def text(self, answer: Any) -> str:
        if self.fake.dialect == "anthropic":
            return str(answer.content[0].text)
        return str(answer.choices[0].message.content)

    def read(self, said: str = "Hi") -> list[Any]:
        return list(self.ask(said, stream=True))

    @property
    def connections(self) -> list[Any]:
        return connections(self.client._client)


@contextlib.contextmanager
def sdk_for(fake: FakeProvider, *, back_off: bool = False, **options: Any) -> Iterator[Sdk]:
    """The SDK as its users make it, with the settings that it would give its own client."""
    settings: dict[str, Any] = {"base_url": fake.base_url, "api_key": fake.api_key}
    options.setdefault("trust_env", False)
    with contextlib.ExitStack() as stack:
        client: Any  # as above
        if fake.dialect == "anthropic":
            http_client = stoppable(anthropic.DefaultHttpxClient(**options))
            client = (Anthropic if back_off else anthropic.Anthropic)(http_client=http_client, **settings)
        else:
            http_client = stoppable(openai.DefaultHttpxClient(**options))
            client = (OpenAI if back_off else openai.OpenAI)(http_client=http_client, **settings)
        yield Sdk(fake, stack.enter_context(client))


@pytest.fixture(scope="module")
def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_context(authority_file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority_file)


@pytest.fixture(params=DIALECTS)
def fake(request: pytest.FixtureRequest) -> Iterator[FakeProvider]:
    with FakeProvider(request.param) as fake:
        yield fake


@pytest.mark.parametrize(
    ("dialect", "way", "place", "stream"),
    [
        pytest.param(
            dialect, way, place, stream, id=f"{dialect}-{way}-{place}-{'stream' if stream else 'whole'}"
        )
        for dialect in DIALECTS
        for way in ("plain", "TLS", "CONNECT")
        for place in PHASES
        for stream in (False, True)
        if way != "plain" or place != "tls"
        if not (dialect == "openai_chat" and stream and place == "end")  # it leaves at [DONE], before the end
    ],
)
@pytest.mark.usefixtures("without_gc")
def test_a_stop_in_each_phase_ends_the_call_for_good(
    dialect: DialectName,
    way: Way,
    place: Place,
    stream: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    """T-N1 to T-N8: `Cancelled` comes out of the SDK, nothing is sent again, and the next call works."""
    tls = way != "plain"
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_descriptor_left())
        fake = stack.enter_context(FakeProvider(dialect, [SPOKEN], tls=server_context if tls else None))
        proxy = stack.enter_context(Proxy()) if way == "CONNECT" else None
        options: dict[str, Any] = {} if proxy is None else {"proxy": proxy.url}
        sdk = stack.enter_context(sdk_for(fake, verify=client_context, **options))
        token = CancelToken()
        said = QUESTION if place == "upload" else "Hi"
        with no_descriptor_left(), fake.hold_at(place) as hold:
            call = under(token, lambda: sdk.read(said) if stream else sdk.ask(said))
            hold.reached.wait()
            token.cancel("enough")
            call.join()
            assert hold.connection is not None
            hold.connection.hung_up.wait()
            hold.connection.closed.wait()
            if proxy is not None:
                proxy.join_connections()
        stopped, left = len(fake.requests), sdk.connections

        assert isinstance(call.error, Cancelled)
        assert token is call.error.token
        assert 0 == token.stats().registrations
        assert stopped <= 1 == len(fake.connections)
        assert [] == left
        assert sdk.text(sdk.ask())


@linux_only
@pytest.mark.usefixtures("without_gc")
def test_a_stop_while_the_sdk_connects_ends_the_call(fake: FakeProvider) -> None:
    """T-N3: and the SDK does not connect again."""
    sending: queue.SimpleQueue[None] = queue.SimpleQueue()
    hooks = {"request": [lambda request: sending.put(None)]}
    with FullListener() as full, sdk_for(fake, event_hooks=hooks) as sdk:
        lost = attrs.evolve(sdk, client=sdk.client.with_options(base_url=f"http://127.0.0.1:{full.port}"))
        token = CancelToken()
        with no_descriptor_left():
            call = under(token, lost.ask)
            sending.get()
            token.cancel()
            call.join()

        assert isinstance(call.error, Cancelled)
        assert sending.empty()
        assert sdk.text(sdk.ask())


@pytest.mark.usefixtures("without_gc")
def test_a_stream_read_in_another_thread_obeys(fake: FakeProvider) -> None:
    """T-N7: the thread that reads knows nothing of the token."""
    fake.add(SPOKEN)
    with sdk_for(fake) as sdk:
        token = CancelToken()
        with no_descriptor_left(), fake.hold_at("mid_body") as hold:
            with use_token(token):
                stream = sdk.ask(stream=True)
            call = Call(lambda: list(stream))
            hold.reached.wait()
            token.cancel()
            call.join()
            assert hold.connection is not None
            hold.connection.closed.wait()

        assert isinstance(call.error, Cancelled)
        assert [] == sdk.connections


def test_no_event_is_delivered_after_the_stop(fake: FakeProvider) -> None:
    """T-N5: all of them have arrived, in one read or two."""
    fake.add(Turn((Say(("x",) * 100),)))
    with sdk_for(fake) as sdk:
        token = CancelToken()
        with use_token(token):
            stream = sdk.ask(stream=True)
        fake.requests[0].done.wait()
        next(stream)
        token.cancel()

        with pytest.raises(Cancelled):
            next(stream)


@pytest.mark.usefixtures("without_gc")
def test_breaking_out_of_a_stream_leaves_nothing(fake: FakeProvider) -> None:
    """T-N8: the SDKs' streams are context managers."""
    fake.add(SPOKEN)
    with sdk_for(fake) as sdk:
        token = CancelToken()
        with no_descriptor_left(), fake.hold_at("end") as hold:
            with use_token(token), sdk.ask(stream=True) as stream:
                for _ in stream:
                    hold.reached.wait()
                    break
            assert hold.connection is not None
            hold.connection.closed.wait()

        assert 0 == token.stats().registrations
        assert [] == sdk.connections


@pytest.mark.usefixtures("without_gc")
def test_a_stream_that_is_dropped_goes_with_the_stop_or_the_collector(fake: FakeProvider) -> None:
    """OpenAI's stream is a cycle: without `with` it stays until it is collected; the stop tells the provider."""
    fake.add(SPOKEN, SPOKEN)
    with sdk_for(fake) as sdk:
        stopped, collected = CancelToken(), CancelToken()
        with no_descriptor_left():
            for token, end in ((stopped, stopped.cancel), (collected, gc.collect)):
                with fake.hold_at("end") as hold:
                    with use_token(token):
                        for _ in sdk.ask(stream=True):
                            hold.reached.wait()
                            break
                    end()
                    assert hold.connection is not None
                    hold.connection.closed.wait()
            gc.collect()

        assert 0 == stopped.stats().registrations + collected.stats().registrations
        assert [] == sdk.connections


def test_a_late_stop_does_not_touch_the_next_call_on_the_same_connection(fake: FakeProvider) -> None:
    """T-N7."""
    fake.add(SPOKEN, SPOKEN)
    with sdk_for(fake) as sdk:
        first, second = CancelToken(), CancelToken()
        with use_token(first):
            sdk.ask()
        with fake.hold_at("headers") as hold:
            call = under(second, sdk.ask)
            hold.reached.wait()
            first.cancel("too late")
            hold.release()
            answer = call.join().result

        assert "first second third" == sdk.text(answer)
        assert 1 == len(fake.connections)


def test_an_error_that_the_sdk_would_try_again_is_not_when_stopped(fake: FakeProvider) -> None:
    """T-N5: it comes with the stop, so it is the stop."""
    fake.add(HttpError(500), HttpError(500))
    with sdk_for(fake) as sdk:
        token = CancelToken()
        with fake.hold_at("headers") as hold:
            call = under(token, sdk.ask)
            hold.reached.wait()
            token.cancel()
            hold.release()

        assert isinstance(call.join().error, Cancelled)
        assert 1 == len(fake.requests)


def test_a_stop_while_the_sdk_sleeps_is_obeyed_before_it_sends_again(fake: FakeProvider) -> None:
    """Its own sleep can't be interrupted; here it takes a blink."""
    fake.add(HttpError(429, retry_after="0.001"))
    with sdk_for(fake) as sdk:
        token = CancelToken()

        inside = sdk.client._sleep_for_retry

        def sleep_for_retry(**options: Any) -> None:
            token.cancel()
            inside(**options)

        sdk.client._sleep_for_retry = sleep_for_retry
        with use_token(token), pytest.raises(Cancelled):
            sdk.ask()

        assert 1 == len(fake.requests)


class Sleeping(CancelToken):
    """A token that says when somebody sleeps on it, and for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping = threading.Event()
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds = seconds
        self.sleeping.set()
        super().sleep(seconds)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_back_off_that_the_provider_asks_for_obeys(stream: bool, fake: FakeProvider) -> None:
    fake.add(HttpError(429, retry_after="60"))
    with sdk_for(fake, back_off=True) as sdk:
        token = Sleeping()
        call = under(token, lambda: sdk.ask(stream=stream))
        token.sleeping.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)
        assert 60 == token.seconds
        assert 1 == len(fake.requests)


def test_a_back_off_after_a_broken_connection_obeys(fake: FakeProvider) -> None:
    with sdk_for(fake, back_off=True) as sdk:
        fake.close()
        token = Sleeping()
        call = under(token, sdk.ask)
        token.sleeping.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)


def test_without_a_stop_the_call_is_tried_again(fake: FakeProvider) -> None:
    fake.add(HttpError(429, retry_after="0.001"), SPOKEN)
    with sdk_for(fake, back_off=True) as sdk:
        assert "first second third" == sdk.text(sdk.ask())
        assert 2 == len(fake.requests)


def test_a_copy_of_the_client_obeys_too(fake: FakeProvider) -> None:
    """`with_options` makes a client of the same class with the same connections."""
    fake.add(HttpError(429, retry_after="60"))
    with sdk_for(fake, back_off=True) as sdk:
        copy = attrs.evolve(sdk, client=sdk.client.with_options(max_retries=5))
        token = Sleeping()
        call = under(token, copy.ask)
        token.sleeping.wait()
        token.cancel()

        assert isinstance(call.join().error, Cancelled)


def test_a_back_off_that_cannot_obey_is_refused() -> None:
    with pytest.raises(TypeError, match="_sleep_for_retry"):
        type("Asynchronous", (StoppableBackOff, openai.AsyncOpenAI), {})
    with pytest.raises(TypeError, match="_sleep_for_retry"):
        type("WrongWayRound", (openai.OpenAI, StoppableBackOff), {})
    with pytest.raises(TypeError, match="_sleep_for_retry"):
        type("Nothing", (StoppableBackOff,), {})


def test_the_reason_of_the_stop_comes_out_of_the_sdk(fake: FakeProvider) -> None:
    with sdk_for(fake) as sdk:
        token = CancelToken()
        with fake.hold_at("headers") as hold:
            call = under(token, sdk.ask)
            hold.reached.wait()
            token.cancel(CancelReason("disconnect", "the browser has gone"))

        error = call.join().error
        assert isinstance(error, Cancelled)
        assert error.reason is not None
        assert ("disconnect", "the browser has gone") == (error.reason.kind, error.reason.message)
