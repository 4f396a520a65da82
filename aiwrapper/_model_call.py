"""Asking a model for one turn: the only code that speaks to one.

A call is a lazy iterator of log entries. Its consumer checks the token before it takes an entry and appends it
before it takes the next, so that

1. `turn_started` is in the log before a socket is opened, and `retry_waiting` before the wait (write-ahead);
2. no entry is made that nobody has asked for, and a stop between two deltas of one read loses only what comes after.

A request is sent again only while nothing of its answer has been given: what was said is never said twice.
"""

import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec
from attrs import field, frozen

from aiwrapper._core.agent import CallModel
from aiwrapper._core.dialect import Dialect, Options
from aiwrapper._core.errors import AiwrapperError, ErrorKind, ModelCallError
from aiwrapper._core.log import RetryWaiting, StopWhere, TurnEntry, TurnStarted, UsageReported
from aiwrapper._core.reply import Reply
from aiwrapper._waiting import IN_PLACE, Pause, Waiting
from aiwrapper.transport import HttpRequest, NotAStream, Transport
from cancel_token import Cancelled, CancelToken

LINGER_SECONDS: Final = 0.2
"""How long the end of a body is waited for when the turn is whole. Chosen by hand: a long round trip."""

_MIN_SECRET_CHARACTERS: Final = 8
"""A shorter key, such as the `x` that is given to a host which wants none, is no secret, and is part of our own words:
"does it spea[the key] https?" Chosen by hand: we know of no host whose keys are so short."""

_MAX_WORDS: Final = 500
"""How many characters of a host's own words are quoted. Chosen by hand: a paragraph."""


class Endpoint(Protocol):
    """Where a host answers right now, and with which key."""

    @property
    def base_url(self) -> str:
        """Without a slash at its end."""

    @property
    def api_key(self) -> str | None:
        """None if the host asks for none."""


class Host(Protocol):
    """Somebody who can be asked. A host on the net is always there; a model on this machine has to be started."""

    def request(self, token: CancelToken, /) -> AbstractContextManager[Endpoint]:
        """Make sure that it answers while the block runs.

        Raises:
            Cancelled: the token was cancelled while it was started.
        """

    def bring_to_rest(self, token: CancelToken, /) -> object:
        """Called after a request that was given up, when its block has been left: compute no more."""


def _without_slash(url: str) -> str:
    return url.rstrip("/")


@frozen
class RemoteHost:
    """A host on the net, which rests by itself when its connection ends.

    Args:
        base_url: such as `https://api.openai.com/v1`.
        api_key: None if it asks for none; in no repr.

    Raises:
        ValueError: the key cannot be sent, for instance because it holds a line break; does not show it.
    """

    base_url: str = field(converter=_without_slash)
    api_key: str | None = field(default=None, repr=False)

    @api_key.validator
    def _check_key(self, attribute: object, key: str | None) -> None:
        # requests quotes a header that it refuses, and with it the key
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                "the API key is empty, or holds white space or a character outside ASCII: was it copied whole?"
            )

    @base_url.validator
    def _check_url(self, attribute: object, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a base URL begins with http:// or https:// and a host, which {url!r} does not")
        if parts.username or parts.password:
            raise ValueError("a base URL holds no user and no password: pass api_key=...")

    def request(self, token: CancelToken, /) -> AbstractContextManager["RemoteHost"]:
        """It is always there."""
        return _There(self)

    def bring_to_rest(self, token: CancelToken, /) -> None:
        """The end of the connection is all there is (L2)."""


@frozen
class _There:
    host: RemoteHost

    def __enter__(self) -> RemoteHost:
        return self.host

    def __exit__(self, *exc_info: object) -> None:
        pass


@frozen(kw_only=True)
class RetryPolicy:
    """When to send a request again that failed before it gave anything.

    Args:
        max_attempts: how often it is sent at most; 1 for never again.
        first_wait_seconds: about how long before the second attempt; doubled for each further one.
        max_wait_seconds: the longest wait of our own choosing.
        max_retry_after_seconds: the longest wait that a host may ask for. One asked for three days.
    """

    # The numbers are those of the official SDKs (2 retries, 0.5 s to 8 s) with one attempt more.
    max_attempts: int = 4
    first_wait_seconds: float = 0.5
    max_wait_seconds: float = 8.0
    max_retry_after_seconds: float = 60.0

    def wait_seconds(self, attempt: int, retry_after_seconds: float | None, random_fraction: float) -> float:
        """How long to wait after a failed attempt.

        Args:
            attempt: which one failed, from 1.
            retry_after_seconds: what the host asked for; it is obeyed up to the cap.
            random_fraction: 0 to 1. Half of our own wait is left to it, so that a thousand clients who were turned
                away together do not come back together.
        """
        if retry_after_seconds is not None:
            return min(retry_after_seconds, self.max_retry_after_seconds)
        wait = min(self.first_wait_seconds * 2.0 ** min(attempt - 1, 32), self.max_wait_seconds)
        return wait * (0.5 + 0.5 * random_fraction)


@frozen(kw_only=True)
class ModelCall:
    """How one model is asked. A value without state: every call of `entries` is on its own, in any thread.

    Args:
        dialect: its wire protocol.
        host: where it is.
        options: how to ask.
        transport: the way there.
        retry: when to ask again.
        random_fraction: jitter, 0 to 1.
        now: wall-clock seconds, for a `Retry-After` that names a date.
    """

    dialect: Dialect
    host: Host
    options: Options
    transport: Transport
    retry: RetryPolicy = RetryPolicy()
    random_fraction: Callable[[], float] = field(default=random.random, repr=False)
    now: Callable[[], float] = field(default=time.time, repr=False)

    def entries(
        self,
        step: CallModel,
        token: CancelToken,
        doing: Callable[[StopWhere], None],
        waiting: Waiting = IN_PLACE,
    ) -> Generator[TurnEntry | Pause, None, None]:
        """One turn, from `turn_started` to `turn_finished`. Close the iterator if you leave it early.

        Args:
            step: what the step machine wants.
            token: obeyed in every wait. What arrives after it was cancelled is never given.
            doing: told what this is doing, whenever that changes.
            waiting: how to wait for the pieces of the answer. A model on this machine is always waited for in place,
                since its own clean-up may block. The beginning may block, up to the first pause or entry but one.

        Yields:
            Log entries, in order, and pauses among them where it does not wait in place.

        Raises:
            Cancelled: the token was cancelled.
            ModelCallError: the model could not be asked, or its answer broke off; what was given stays given.
        """
        yield TurnStarted(step.run_id, step.turn, producer=self.options.producer)
        body = msgspec.json.encode(self.dialect.encode(step.conversation, self.options))
        attempt = 1
        while True:
            given = False
            try:
                # Closed here and not by the garbage collector, which would swallow a Ctrl-C meanwhile.
                with closing(self._attempt(step, body, token, doing, waiting)) as entries:
                    for entry in entries:
                        if not given and not isinstance(entry, UsageReported | Pause):
                            given, body = (
                                True,
                                b"",
                            )  # never sent again, and perhaps the largest thing of a run
                        yield entry
                return
            except _Failure as failure:
                error, retryable = failure.error, failure.retryable
            # Raised out here, so that it does not carry the texts along in which a host has repeated the key.
            if given or attempt >= self.retry.max_attempts or not retryable:
                raise _after(attempt, error) from error.__cause__
            seconds = self.retry.wait_seconds(attempt, error.retry_after_seconds, self.random_fraction())
            doing("backing_off")
            yield RetryWaiting(step.run_id, step.turn, attempt=attempt, seconds=seconds, error=str(error))
            yield from waiting.before_blocking
            token.sleep(seconds)
            attempt += 1

    def _attempt(
        self,
        step: CallModel,
        body: bytes,
        token: CancelToken,
        doing: Callable[[StopWhere], None],
        waiting: Waiting,
    ) -> Generator[TurnEntry | Pause, None, None]:
        doing("connecting")
        whole = False
        key: str | None = None
        try:
            with self.host.request(token) as endpoint:
                key = endpoint.api_key
                request = HttpRequest(
                    endpoint.base_url + self.dialect.path(self.options),
                    headers={"Content-Type": "application/json", "Accept": "text/event-stream"}
                    | self.dialect.headers(key),
                    body=body,
                    connected=lambda: doing("waiting_for_headers"),
                )
                del body
                token.check()  # a model on this machine may have taken its time
                reply = Reply(self.dialect.decoder(), step.run_id, step.turn, look=token.check)
                with (
                    # A child, so that the linger can end the request without ending the run.
                    token.child(name="request") as request_token,
                    self.transport.open(request, request_token) as pieces,
                ):
                    doing("streaming")
                    del request
                    arriving = waiting.read(pieces) if isinstance(self.host, RemoteHost) else pieces
                    yield from self._read(arriving, reply, token, request_token)
            whole = True
        except NotAStream as answer:
            token.check()
            raise self._refused(answer, key) from answer
        except ModelCallError as error:
            token.check()  # a break that our own hang-up caused is the stop (S6)
            raise _Failure(_without_key(error, key), retryable=error.kind in _RETRIED_KINDS) from error
        except AiwrapperError as error:  # a model on this machine that does not start
            failure = ModelCallError(str(error), kind="network")
            raise _Failure(_without_key(failure, key), retryable=False) from error
        finally:
            if not whole:
                self.host.bring_to_rest(CancelToken())

    def _read(
        self, pieces: Iterable[bytes | Pause], reply: Reply, token: CancelToken, request_token: CancelToken
    ) -> Iterator[TurnEntry | Pause]:
        try:
            for piece in pieces:
                token.check()
                if not isinstance(piece, bytes):
                    yield piece
                    continue
                yield from reply.feed(piece)
                if reply.finished:
                    # Read on to the end of the body, so that the connection can carry the next request; but not
                    # for long, since there are hosts that say all and then keep the line.
                    request_token.cancel_after(LINGER_SECONDS)
        except Cancelled:
            token.check()
            assert reply.finished  # nobody else has the request's token
        except ModelCallError:
            if not reply.finished:  # else all has been said, and what became of the line is nobody's concern
                raise
        token.check()  # our own hang-up looks like the body's end (T-N5)
        yield from reply.finish()

    def _refused(self, answer: NotAStream, key: str | None) -> "_Failure":
        """What an answer means that is no stream."""
        status = answer.status
        words = without_key(self.dialect.error(status, answer.body).strip(), key)
        if len(words) > _MAX_WORDS:
            words = words[:_MAX_WORDS] + "..."
        host, model = self.options.producer.host, self.options.producer.model
        kind: ErrorKind
        match status:
            case 401 | 403 if key is None:
                kind, said = "authentication", f"{host} asks for an API key and was given none: {words}"
            case 401 | 403:
                kind, said = "authentication", f"{host} does not accept the API key: {words}"
            case 404:
                kind, said = (
                    "not_found",
                    f"{host} does not know the model {model!r}, or not this path: {words}",
                )
            case 429:
                kind, said = "rate_limit", f"{host} asks us to slow down: {words}"
            case _ if status == 408 or status >= 500:
                kind, said = "overloaded", f"{host} cannot answer right now: {words}"
            case _ if status < 300:
                media_type = answer.headers.get("content-type", "no content type")
                if "html" in media_type:  # its words are for a browser
                    words = "check the base URL; a login page or a proxy may have answered"
                kind, said = (
                    "protocol",
                    f"{host} answered with {media_type} and not with a stream of events: {words}",
                )
            case _ if status < 400:
                location = without_key(answer.headers.get("location", "somewhere else"), key)
                kind, said = "bad_request", f"{host} sends us to {location}: use that as the base URL"
            case _:
                kind, said = "bad_request", f"{host} refused the request: {words}"
        error = ModelCallError(
            said if f"HTTP {status}" in said else f"{said} (HTTP {status})",
            kind=kind,
            status=status,
            retry_after_seconds=_retry_after_seconds(answer.headers, self.now()),
        )
        # What OpenAI and Anthropic say about it themselves wins; their SDKs obey it, too.
        wish = answer.headers.get("x-should-retry", "").lower()
        return _Failure(error, retryable=wish == "true" or (wish != "false" and kind in _RETRIED_KINDS))


# Not `protocol`: a host that sends what its dialect does not know will do so again. Not `provider`: it has begun.
_RETRIED_KINDS: Final = frozenset({"network", "overloaded", "rate_limit"})


class _Failure(Exception):
    """A failed attempt."""

    def __init__(self, error: ModelCallError, *, retryable: bool) -> None:
        super().__init__(error)
        self.error = error
        self.retryable = retryable


def _after(attempt: int, error: ModelCallError) -> ModelCallError:
    if attempt == 1:
        return error
    return _with_text(error, f"{error} (given up after {attempt} attempts)")


def _without_key(error: ModelCallError, key: str | None) -> ModelCallError:
    """The same error with the key blacked out; another object if it was in there."""
    text = without_key(str(error), key)
    return error if text == str(error) else _with_text(error, text)


def without_key(text: str, key: str | None) -> str:
    """A host's words with the key blacked out: some repeat a wrong one in full."""
    if key is None or len(key) < _MIN_SECRET_CHARACTERS:
        return text
    return text.replace(key, "[the key]")


def _with_text(error: ModelCallError, text: str) -> ModelCallError:
    return ModelCallError(
        text, kind=error.kind, status=error.status, retry_after_seconds=error.retry_after_seconds
    )


def _retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """What a host asks for: milliseconds (OpenAI), seconds, or a date (RFC 9110, section 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if name in headers:
            try:
                seconds = float(headers[name]) * unit
            except ValueError:
                continue
            return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, OverflowError):  # a year of twenty digits overflows
        return None
    if date.tzinfo is None:  # `-0000`, or no zone at all: HTTP's dates are in UTC
        date = date.replace(tzinfo=UTC)
    return max(date.timestamp() - now, 0.0)
