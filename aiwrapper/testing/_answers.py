"""What a strict fake answers to a request: judged as the provider would, then the next answer of the script.

Without a wire: `fakes.py` sends it over a socket, `scripted.py` hands it over in this process.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final, TypeAlias

from attrs import frozen

from aiwrapper._core.dialect import Dialect, Violation
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing._provider import Provider, seals
from aiwrapper.testing._records import FakeRequest
from aiwrapper.testing.rendering import PROVIDERS, DialectName
from aiwrapper.testing.scripts import DEFAULT_TURN, Answer, Delivery, HttpError, Raw, Turn

API_KEY: Final = "sk-fake-0123456789abcdef"
"""The key that fakes take, if they are not told another one."""

MODEL: Final = "fake-model"
"""The model that fakes have, if they are not told another one."""

_DIALECTS: Mapping[DialectName, Dialect] = {"openai_chat": OpenAIChat(), "anthropic": Anthropic()}
_JSON = ("content-type", "application/json")
_EVENTS = ("content-type", "text/event-stream; charset=utf-8")
_REFUSED = Delivery(framing="length")

_Headers: TypeAlias = tuple[tuple[str, str], ...]


@frozen
class Prepared:
    """A response before it is sent.

    Args:
        status: the HTTP status.
        headers: without those that tell the body's framing; their names in lower case.
        events: the body, in the parts that a pace counts.
        delivery: how it travels.
        answer: what of the script it is; None for a refusal.
    """

    status: int
    headers: _Headers
    events: Iterable[bytes]
    delivery: Delivery
    answer: Answer | None = None


class Answers:
    """A provider's judgement and its script. May be used from any thread.

    Args:
        dialect: which wire protocol is spoken and judged.
        script: the answers, in the order in which good requests arrive; after the last, `DEFAULT_TURN`.
        api_key: the one key it takes.
        model: the one model it has.
        rules: the dialect that judges; None for the provider's own.

    Raises:
        ValueError: there is no fake for the dialect.
    """

    def __init__(
        self,
        dialect: DialectName,
        script: Iterable[Answer],
        *,
        api_key: str,
        model: str,
        rules: Dialect | None,
    ) -> None:
        if dialect not in PROVIDERS:
            raise ValueError(
                f"there is no fake for the dialect {dialect!r}: there are {', '.join(PROVIDERS)}"
            )
        self.provider: Provider = PROVIDERS[dialect]
        self._rules = rules or _DIALECTS[dialect]
        self._api_key = api_key
        self._model = model
        self._lock = threading.Lock()  # guards `_answers`
        self._answers: Iterator[Answer] = iter(script)
        self._issued: set[str] = set()  # grows by single atomic additions

    def add(self, answers: Iterable[Answer]) -> None:
        """Add answers to the end of the script; also after it has ended."""
        with self._lock:
            self._answers = chain(self._answers, answers)

    def replace(self, answers: Iterable[Answer]) -> None:
        """Say these from now on, and nothing of what was left."""
        with self._lock:
            self._answers = iter(answers)

    def prepare(self, request: FakeRequest) -> Prepared:
        """What a request is answered with. Notes in it which rules it breaks."""
        provider, serial = self.provider, request.number
        own = provider.headers(serial)
        refusal = self._refusal(request)
        if refusal is not None:
            status, body = refusal
            return Prepared(status, (_JSON, *own), [body], _REFUSED)
        with self._lock:
            answer = next(self._answers, DEFAULT_TURN)
        match answer:
            case Raw():
                headers = (("content-type", answer.content_type), *own)
                events: Iterable[bytes] = answer.body.splitlines(keepends=True)
                return Prepared(answer.status, headers, events, answer.delivery, answer)
            case HttpError():
                wait = () if answer.retry_after is None else (("retry-after", answer.retry_after),)
                body = provider.error(answer.status, answer.message, serial=serial)
                return Prepared(answer.status, (_JSON, *own, *wait), [body], answer.delivery, answer)
            case Turn():
                self._issued.update(seals(answer))
                asked = provider.asked(request.json(), model=self._model, serial=serial)
                if request.json().get("stream") is True:
                    events = provider.events(answer, asked)
                    return Prepared(200, (_EVENTS, *own), events, answer.delivery, answer)
                return Prepared(200, (_JSON, *own), [provider.whole(answer, asked)], answer.delivery, answer)

    def _refusal(self, request: FakeRequest) -> tuple[int, bytes] | None:
        """Status and body of the refusal; None for a good request."""
        provider, serial = self.provider, request.number
        if request.path.partition("?")[0] != provider.path or request.method != "POST":
            return 404, provider.unknown_path(request.method, request.path, serial=serial)
        key = provider.key(request.headers)
        if key != self._api_key:
            return 401, provider.wrong_key(key, serial=serial)
        if (words := provider.missing_header(request.headers)) is not None:
            return 400, provider.error(400, words, serial=serial)
        try:
            body: Any = json.loads(request.body)  # Any: JSON from somebody else
        except ValueError as error:
            return 400, provider.bad_json(str(error), serial=serial)
        if not isinstance(body, dict):
            return 400, provider.bad_json("it is no object", serial=serial)
        if "model" in body and body["model"] != self._model:
            return 404, provider.unknown_model(body["model"], serial=serial)
        request.violations = tuple(self._broken(body))
        if request.violations:
            return 400, provider.refusal(request.violations[0], serial=serial)
        return None

    def _broken(self, body: dict[str, Any]) -> Iterator[Violation]:
        yield from self._rules.violations(body)
        forged = self.provider.forged_reasoning(body, self._issued)
        if forged is not None:
            yield forged
