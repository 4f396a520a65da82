"""A strict provider in this process: a `Transport` without a socket, a thread or a clock.

It judges and answers like `FakeProvider`, from the same scripts and with the same bytes. What it leaves out is
the line: so a run is the same each time, may be stopped at any byte of it, and a thousand of them take a second.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from aiwrapper._core.dialect import Dialect
from aiwrapper._core.errors import ModelCallError
from aiwrapper.testing._answers import API_KEY, MODEL, Answers, Prepared
from aiwrapper.testing._http import Head
from aiwrapper.testing._records import FakeConnection, FakeRequest
from aiwrapper.testing.rendering import DialectName
from aiwrapper.testing.scripts import Answer, Delivery
from aiwrapper.transport import HttpRequest, NotAStream
from cancel_token import CancelToken

_STREAM = "text/event-stream"


class ScriptedTransport:
    """A strict provider as a `Transport`.

    Bodies come in the pieces that their `Delivery` says (`write_bytes`, or an event each), and are cut where it
    says; the pace is not kept. A FIN in a body that ends where its connection does looks like its end, as it does
    to every client; any other cut is an error of kind `network`.

    Args:
        dialect: which wire protocol it speaks and judges.
        script: its answers, in the order in which good requests arrive; after the last, `DEFAULT_TURN`.
        api_key: the one key it takes.
        model: the one model it has.
        rules: the dialect that judges; None for the provider's own.

    Attributes:
        requests: all requests so far, as `FakeProvider` remembers them; `hung_up` is set on one whose answer was
            left before it was whole.
        answered: what each of them was answered with; None for a refusal.
        given_bytes: how many bytes of all bodies together have been handed over.
        taken: of each answer, what its reader has done with: the pieces after which it has asked for more.
        open_now: how many answers are being read; 0 after every run.
    """

    def __init__(
        self,
        dialect: DialectName,
        script: Iterable[Answer] = (),
        *,
        api_key: str = API_KEY,
        model: str = MODEL,
        rules: Dialect | None = None,
    ) -> None:
        self.dialect: DialectName = dialect
        self.api_key = api_key
        self.model = model
        self.requests: list[FakeRequest] = []
        self.answered: list[Answer | None] = []
        self.taken: list[bytes] = []
        self.given_bytes: int = 0
        self.open_now: int = 0
        self._answers = Answers(dialect, script, api_key=api_key, model=model, rules=rules)
        self._actions: list[tuple[int, Callable[[], object]]] = []

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL. Nothing is there."""
        return f"http://scripted.invalid{self._answers.provider.base_path}"

    def say(self, *answers: Answer) -> None:
        """Say these from now on, and nothing of what is left of the script."""
        self._answers.replace(answers)

    def act_at(self, byte: int, action: Callable[[], object]) -> None:
        """Call `action` once, in the reader's thread, where it waits for the next byte.

        Args:
            byte: how many bytes of all bodies together have been handed over by then. The body is split there.
            action: such as `token.cancel`; what it raises breaks the body off.
        """
        self._actions.append((byte, action))
        self._actions.sort(key=lambda each: each[0])

    def open(self, request: HttpRequest, token: CancelToken, /) -> AbstractContextManager[Iterator[bytes]]:
        """Judge a request, and play its answer; see `Transport.open`."""
        return _Answering(self, request, token)

    def _answer(self, request: HttpRequest, token: CancelToken) -> tuple[FakeRequest, Iterator[bytes]]:
        token.check()
        received = self._received(request)
        self.requests.append(received)
        self.taken.append(b"")
        request.connected()
        prepared = self._answers.prepare(received)
        self.answered.append(prepared.answer)
        received.status = prepared.status
        body = self._pieces(received, prepared, token)
        headers = dict(prepared.headers)
        if prepared.status != 200 or not headers["content-type"].startswith(_STREAM):
            raise NotAStream(prepared.status, headers, b"".join(body))
        return received, body

    def _received(self, request: HttpRequest) -> FakeRequest:
        headers = {name.lower(): value for name, value in request.headers.items()}
        head = Head(method="POST", path=urlsplit(request.url).path, headers=headers)
        number = len(self.requests) + 1
        received = FakeRequest(number, FakeConnection(number), head)
        received.arrived += request.body
        return received

    def _pieces(self, request: FakeRequest, prepared: Prepared, token: CancelToken) -> Iterator[bytes]:
        delivery = prepared.delivery
        for event in prepared.events:
            while event:
                if self._is_cut(request, delivery, token):
                    return
                count = self._until_next_place(request, delivery)
                piece, event = (event, b"") if count is None else (event[:count], event[count:])
                request.sent_bytes += len(piece)
                self.given_bytes += len(piece)
                yield piece
                self.taken[request.number - 1] += piece
        if not self._is_cut(request, delivery, token, at_end=True):
            request.done.set()

    def _is_cut(
        self, request: FakeRequest, delivery: Delivery, token: CancelToken, *, at_end: bool = False
    ) -> bool:
        """Do what is to be done before the next byte; whether the body ends here although it is not whole.

        Raises:
            Cancelled: the token was cancelled.
            ModelCallError: the line dies here.
        """
        while self._actions and self._actions[0][0] <= self.given_bytes:
            self._actions.pop(0)[1]()
        token.check()
        cut = delivery.cut
        if cut is None or not (at_end or request.sent_bytes == cut.at_byte):
            return False
        request.done.set()
        if cut.how == "fin" and delivery.framing == "close":
            return True
        raise ModelCallError(f"the connection to {self.base_url} was cut", kind="network")

    def _until_next_place(self, request: FakeRequest, delivery: Delivery) -> int | None:
        """How many bytes may be handed over at once; None for no limit."""
        counts = [] if delivery.write_bytes is None else [delivery.write_bytes]
        if delivery.cut is not None and delivery.cut.at_byte > request.sent_bytes:
            counts.append(delivery.cut.at_byte - request.sent_bytes)
        if self._actions:
            counts.append(self._actions[0][0] - self.given_bytes)
        return min(counts, default=None)


class _Answering(AbstractContextManager[Iterator[bytes]]):
    """An answer while it is read. No generator: one that is forgotten would be closed by itself, and nobody see it."""

    def __init__(self, transport: ScriptedTransport, request: HttpRequest, token: CancelToken) -> None:
        self._transport = transport
        self._asked = request, token
        self._request: FakeRequest | None = None

    def __enter__(self) -> Iterator[bytes]:
        self._request, body = self._transport._answer(*self._asked)
        self._transport.open_now += 1
        return body

    def __exit__(self, *exc_info: object) -> None:
        self._transport.open_now -= 1
        assert self._request is not None
        if not self._request.done.is_set():
            self._request.note_hang_up("fin")
            self._request.done.set()
