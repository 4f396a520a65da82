"""A model that can be asked without an agent, in code that blocks and in tasks: `Lang` and `AsyncLang`."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec
from attrs import frozen

from aiwrapper._core.conversation import Conversation, State
from aiwrapper._core.errors import InvalidArguments, ModelCallError
from aiwrapper._core.log import Sink, UserMessageAdded
from aiwrapper._core.schemas import read_json, schema_of
from aiwrapper._feed import Pipe
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers._streamed import StreamedRun
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.aio import AsyncEntries
from aiwrapper.drivers.threads import complete
from aiwrapper.model_spec import ModelSpec, Said, new_id, user_message
from cancel_token import CancelReason, CancelToken

T = TypeVar("T")


@frozen(kw_only=True)
class Lang(ModelSpec):
    """A model, to be asked by code that blocks. Make one with `Lang.openai(...)` and its kin; see `ModelSpec`."""

    def ask(
        self,
        said: Said,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Ask one question without a conversation before it. Blocks until it is answered or stopped.

        Args:
            said: the question.
            instructions: the system prompt.
            token: stops it; a stop is a result, not an exception.
            subscribers: told of every entry.

        Returns:
            The result; its `conversation` can be gone on with.

        Raises:
            ModelCallError: the model could not be asked, or its answer broke off.
            ValueError: there is nothing in the question.
        """
        question = _Question(Conversation(), user_message(said), instructions)
        return _answer(self, question, _token(token), subscribers)

    def chat(
        self,
        conversation: Conversation,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """Get the model's answer to a conversation that ends with what a user said, without tools. Blocks.

        Args:
            conversation: what was said; `result.conversation` is it with the answer.
            instructions: the system prompt.
            token: stops it; a stop is a result, not an exception.
            subscribers: told of every entry.

        Raises:
            ModelCallError: the model could not be asked, or its answer broke off.
            ValueError: the conversation is empty.
        """
        question = _Question(_asked(conversation), None, instructions)
        return _answer(self, question, _token(token), subscribers)

    def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> "ObjectResult[T]":
        """Ask for a value of a type. What does not fit is shown to the model with the reason, and it may try again.

        Args:
            said: the question.
            wanted: a type that msgspec reads, such as a dataclass or an attrs class; or a pydantic model.
            instructions: the system prompt; the schema is added to it.
            token: stops it; then `value` is None.
            max_attempts: how often the model may try.

        Raises:
            ModelCallError: the model could not be asked; or nothing that it said fits (kind `protocol`).
            TypeError: JSON cannot be read into the type.
            ValueError: there is nothing in the question, or no attempt is allowed.
        """
        attempts = _Attempts(self.model, user_message(said), wanted, instructions, max_attempts)
        while True:
            found = attempts.judge(_answer(self, attempts.question, _token(token), ()))
            if found is not None:
                return found


@frozen(kw_only=True)
class AsyncLang(ModelSpec):
    """A model, to be asked by tasks of trio and asyncio: `Lang` with the same names, awaited.

    Where the runtime cancels the task, the question is stopped, nothing of it is left, and the runtime's exception goes
    on. The loop reads the answer itself where it can, and nobody else is told of it; all else has a thread.
    """

    async def ask(
        self,
        said: Said,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """`Lang.ask`, awaited. The subscribers are told in the question's thread."""
        question = _Question(Conversation(), user_message(said), instructions)
        return await _answer_awaited(self, question, _token(token), subscribers)

    async def chat(
        self,
        conversation: Conversation,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """`Lang.chat`, awaited. The subscribers are told in the question's thread."""
        question = _Question(_asked(conversation), None, instructions)
        return await _answer_awaited(self, question, _token(token), subscribers)

    async def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> "ObjectResult[T]":
        """`Lang.ask_for_object`, awaited. What the model says is read into the type where the task runs."""
        attempts = _Attempts(self.model, user_message(said), wanted, instructions, max_attempts)
        while True:
            found = attempts.judge(await _answer_awaited(self, attempts.question, _token(token), ()))
            if found is not None:
                return found


@frozen
class ObjectResult(Generic[T]):
    """What became of `Lang.ask_for_object`.

    Args:
        value: the object; None if it was stopped.
        result: the run of the last attempt; its conversation holds all of them.
    """

    value: T | None
    result: RunResult


_AS_JSON = (
    "Answer with one JSON value that satisfies this JSON Schema, without explanation and without code fence:"
)
_TRY_AGAIN = "That does not fit: {}. Answer again with the corrected JSON value and nothing else."
_FENCED = re.compile(r"```(?:json)?\s*\n(?P<inside>.*?)\n\s*```", re.DOTALL)


def _json_part(text: str) -> str:
    """The answer without the code fence that models put around JSON although they were asked not to."""
    fenced = _FENCED.search(text)
    return text if fenced is None else fenced["inside"]


def _nobody(run: Run) -> None:
    """Nobody waits for this run but its caller."""


def _asked(conversation: Conversation) -> Conversation:
    if conversation.head is None:
        raise ValueError("there is nothing in the conversation that could be answered")
    return conversation


def _token(token: CancelToken | None) -> CancelToken:
    return CancelToken.never() if token is None else token


@frozen
class _Question:
    """What a model is asked: a conversation, what is said next if that is not in it, and the system prompt."""

    conversation: Conversation
    message: UserMessageAdded | None
    instructions: str

    def run(self, token: CancelToken, subscribers: Iterable[Sink]) -> Run:
        """A run in which it is answered."""
        return Run(
            State(self.conversation),
            new_id(),
            user_message=self.message,
            token=token,
            max_turns=1,
            sink=None,
            subscribers=subscribers,
            now=time.time,
            settled=_nobody,
        )


class _Attempts(Generic[T]):
    """Attempts to have a value of a type said: what is asked next, and what an answer is worth.

    Args:
        model: its name, for people.
        message: what the user said.
        wanted: the type.
        instructions: the system prompt.
        max_attempts: how often the model may try.
    """

    def __init__(
        self,
        model: str,
        message: UserMessageAdded,
        wanted: type[T],
        instructions: str,
        max_attempts: int,
    ) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts!r}")
        schema = msgspec.json.encode(schema_of(wanted)).decode()
        self.question: _Question = _Question(
            Conversation(), message, f"{instructions}\n\n{_AS_JSON}\n{schema}".strip()
        )
        self._model = model
        self._wanted = wanted
        self._max_attempts = max_attempts
        self._made = 0

    def judge(self, result: RunResult) -> ObjectResult[T] | None:
        """What became of it; None if the model is to be asked once more, which `question` is then.

        Raises:
            ModelCallError: nothing that it said fits, and it has had its attempts.
        """
        if result.stop is not None:
            return ObjectResult(None, result)
        try:
            return ObjectResult(read_json(_json_part(result.text), self._wanted), result)
        except InvalidArguments as error:
            problem = error
        self._made += 1
        if self._made == self._max_attempts:
            raise ModelCallError(
                f"the model {self._model!r} did not give the JSON that was asked for"
                f" in {self._made} attempts: {problem}",
                kind="protocol",
            )
        message = user_message(_TRY_AGAIN.format(problem))
        self.question = _Question(result.conversation, message, self.question.instructions)
        return None


def _answer(
    spec: ModelSpec, question: _Question, token: CancelToken, subscribers: Iterable[Sink]
) -> RunResult:
    run = question.run(token, subscribers)
    return _unless_failed(complete(run, spec.call(question.instructions), ToolCalls({})))


async def _answer_awaited(
    spec: ModelSpec, question: _Question, token: CancelToken, subscribers: Iterable[Sink]
) -> RunResult:
    told = tuple(subscribers)

    def begin(stopped: CancelReason | None, own: Callable[[StreamedRun], None]) -> None:
        model = spec.call(question.instructions)
        run = question.run(token, told)
        try:
            if stopped is not None:
                run.stop(stopped)
            own(made := StreamedRun(run, model, ToolCalls({}), Pipe(), in_threads=bool(told)))
            made.start()
        except BaseException as error:
            run.give_up("starter", error)
            raise

    return _unless_failed(await AsyncEntries(begin).complete())


def _unless_failed(result: RunResult) -> RunResult:
    """Give the result, unless it has failed.

    Raises:
        Exception: why it has failed.
    """
    if result.status == "failed":
        assert result.error is not None
        raise result.error
    return result
