"""A model that can be asked without an agent, in code that blocks and in tasks: `Lang` and `AsyncLang`."""

import re
import time
from collections.abc import Iterable
from functools import partial
from typing import Generic, TypeVar

import msgspec
from attrs import frozen

from aiwrapper._core.conversation import Conversation, State
from aiwrapper._core.errors import InvalidArguments, ModelCallError
from aiwrapper._core.log import Sink, UserMessageAdded
from aiwrapper._core.schemas import read_json, schema_of
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers._tool_calls import ToolCalls
from aiwrapper.drivers.aio import in_a_thread, stopped_by
from aiwrapper.drivers.threads import complete
from aiwrapper.model_spec import ModelSpec, Said, new_id, user_message
from cancel_token import CancelToken

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
        return _answer(self, user_message(said), instructions, subscribers, _token(token))

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
        return _answer(self, _asked(conversation), instructions, subscribers, _token(token))

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
        return _object(self, user_message(said), wanted, instructions, max_attempts, _token(token))


@frozen(kw_only=True)
class AsyncLang(ModelSpec):
    """A model, to be asked by tasks of trio and asyncio: `Lang` with the same names, awaited.

    Each question runs in a thread of its own. Where the runtime cancels the task, the question is stopped, nothing
    of it is left, and the runtime's exception goes on.
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
        with _token(token).child() as own:
            question = partial(_answer, self, user_message(said), instructions, subscribers, own)
            return await in_a_thread(question, own, stopped_by)

    async def chat(
        self,
        conversation: Conversation,
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        subscribers: Iterable[Sink] = (),
    ) -> RunResult:
        """`Lang.chat`, awaited. The subscribers are told in the question's thread."""
        with _token(token).child() as own:
            question = partial(_answer, self, _asked(conversation), instructions, subscribers, own)
            return await in_a_thread(question, own, stopped_by)

    async def ask_for_object(
        self,
        said: Said,
        wanted: type[T],
        *,
        instructions: str = "",
        token: CancelToken | None = None,
        max_attempts: int = 3,
    ) -> "ObjectResult[T]":
        """`Lang.ask_for_object`, awaited."""
        with _token(token).child() as own:
            question = partial(_object, self, user_message(said), wanted, instructions, max_attempts, own)
            return await in_a_thread(question, own, lambda found: stopped_by(found.result))


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


def _answer(
    spec: ModelSpec,
    asked: UserMessageAdded | Conversation,
    instructions: str,
    subscribers: Iterable[Sink],
    token: CancelToken,
) -> RunResult:
    if isinstance(asked, Conversation):
        return _turn(spec, asked, None, instructions, token, subscribers)
    return _turn(spec, Conversation(), asked, instructions, token, subscribers)


def _asked(conversation: Conversation) -> Conversation:
    if conversation.head is None:
        raise ValueError("there is nothing in the conversation that could be answered")
    return conversation


def _token(token: CancelToken | None) -> CancelToken:
    return CancelToken.never() if token is None else token


def _object(
    spec: ModelSpec,
    message: UserMessageAdded,
    wanted: type[T],
    instructions: str,
    max_attempts: int,
    token: CancelToken,
) -> "ObjectResult[T]":
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, not {max_attempts!r}")
    schema = msgspec.json.encode(schema_of(wanted)).decode()
    system = f"{instructions}\n\n{_AS_JSON}\n{schema}".strip()
    conversation = Conversation()
    for _ in range(max_attempts):
        result = _turn(spec, conversation, message, system, token, ())
        if result.stop is not None:
            return ObjectResult(None, result)
        try:
            return ObjectResult(read_json(_json_part(result.text), wanted), result)
        except InvalidArguments as error:
            problem = error
        conversation, message = result.conversation, user_message(_TRY_AGAIN.format(problem))
    raise ModelCallError(
        f"the model {spec.model!r} did not give the JSON that was asked for in {max_attempts} attempts: {problem}",
        kind="protocol",
    )


def _turn(
    spec: ModelSpec,
    conversation: Conversation,
    message: UserMessageAdded | None,
    instructions: str,
    token: CancelToken,
    subscribers: Iterable[Sink],
) -> RunResult:
    run = Run(
        State(conversation),
        new_id(),
        user_message=message,
        token=token,
        max_turns=1,
        sink=None,
        subscribers=subscribers,
        now=time.time,
        settled=_nobody,
    )
    result = complete(run, spec.call(instructions), ToolCalls({}))
    if result.status == "failed":
        assert result.error is not None
        raise result.error
    return result
