"""L5 and L6: what every dialect makes of every conversation that a stop has left."""

from itertools import pairwise

import msgspec
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwrapper._core.conversation import Conversation, append, fold, settle
from aiwrapper._core.dialect import Dialect, JsonObject, Options, ToolSpec
from aiwrapper._core.log import Entry
from aiwrapper._core.messages import AssistantMessage, Message, Text, ToolMessage, UserMessage, UserPart
from aiwrapper._core.validity import repair
from aiwrapper.dialects._wire_history import BRIDGE, CallIds
from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.testing.histories import broken_histories, messages
from aiwrapper.testing.logs import PRODUCERS, conversations, logs, user_parts

DIALECTS: dict[str, Dialect] = {
    "openai_chat": OpenAIChat(),
    "mistral": OpenAIChat(max_tokens_field="max_tokens", usage_option=False, nine_character_ids=True),
    "deepseek": OpenAIChat(max_tokens_field="max_tokens", reasoning_back=True),
    "anthropic": Anthropic(),
}
TOOLS = (
    ToolSpec("read_page", description="Fetch a page.", parameters='{"type": "object", "properties": {}}'),
    ToolSpec("shell", description="\ud800", parameters='{"type": "object"}'),
)

every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS.keys())


def options() -> st.SearchStrategy[Options]:
    return st.builds(
        Options,
        producer=st.sampled_from(PRODUCERS),
        instructions=st.sampled_from(("", " ", "Be brief.", "\ud800")),
        tools=st.sampled_from(((), TOOLS)),
        max_output_tokens=st.sampled_from((None, 1, 100)),
        temperature=st.sampled_from((None, 0.5)),
        thinking_tokens=st.sampled_from((None, 0, 2_000)),
        extra=st.sampled_from(("{}", '{"top_p": 0.9}', '{"messages": [], "stream": false}')),
    )


def sent(body: JsonObject) -> JsonObject:
    """What arrives: encoding must be possible, and what is judged is what was read."""
    arrived = msgspec.json.decode(msgspec.json.encode(body))
    assert isinstance(arrived, dict)
    return arrived


def with_user(conversation: Conversation) -> Conversation:
    return append(conversation, UserMessage("the next", (Text("Go on, please."),)))


def texts_of(body: JsonObject) -> str:
    return "\n".join(
        message["content"]
        if isinstance(message["content"], str)
        else "\n".join(block.get("text", "") for block in message["content"])
        for message in body["messages"]
        if message["content"] is not None
    )


@every_dialect
@given(log=logs(max_runs=2), options=options(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_a_log_encodes_to_a_request_without_violations(
    dialect: Dialect, log: list[Entry], options: Options, data: st.DataObject
) -> None:
    prefix = log[: data.draw(st.integers(0, len(log)))]

    conversation = settle(fold(prefix))

    assert [] == dialect.violations(sent(dialect.encode(with_user(conversation), options)))


@every_dialect
@given(conversation=conversations(), options=options())
@settings(max_examples=60, deadline=None)
def test_a_settled_conversation_encodes_without_a_users_message_too(
    dialect: Dialect, conversation: Conversation, options: Options
) -> None:
    assert [] == dialect.violations(sent(dialect.encode(conversation, options)))


@every_dialect
@given(history=broken_histories(), options=options())
@settings(max_examples=60, deadline=None)
def test_a_repaired_history_encodes_to_a_request_without_violations(
    dialect: Dialect, history: Conversation, options: Options
) -> None:
    body = sent(dialect.encode(with_user(repair(history)), options))

    assert [] == dialect.violations(body)
    assert "Go on, please." in texts_of(body)


@every_dialect
@given(conversation=conversations(), options=options())
@settings(max_examples=60, deadline=None)
def test_a_longer_conversation_encodes_to_an_extension(
    dialect: Dialect, conversation: Conversation, options: Options
) -> None:
    """L6. Asked of every cut of a conversation's own messages: except in its last message and the bridge."""
    cuts = [Conversation()]
    for message in conversation.messages:
        longer = append(cuts[-1], message)
        # Between a call and its result nothing is settled, so nothing is sent.
        if isinstance(cuts[-1].head, AssistantMessage) and isinstance(message, ToolMessage):
            cuts[-1] = longer
        else:
            cuts.append(longer)

    encoded = [dialect.encode(cut, options)["messages"] for cut in cuts]

    for shorter, extended in pairwise(encoded):
        kept = shorter[:-1]
        assert kept == extended[: len(kept)]


@every_dialect
@given(conversation=conversations(), options=options())
@settings(max_examples=50, deadline=None)
def test_encoding_is_deterministic_and_changes_nothing(
    dialect: Dialect, conversation: Conversation, options: Options
) -> None:
    before = conversation.messages

    first = dialect.encode(conversation, options)
    second = dialect.encode(Conversation.of(before), options)

    assert first == second
    assert all(was is is_now for was, is_now in zip(before, conversation.messages, strict=True))


@every_dialect
@given(parts=user_parts(), options=options())
@settings(max_examples=30, deadline=None)
def test_a_users_text_is_sent_exactly_once(
    dialect: Dialect, parts: tuple[UserPart, ...], options: Options
) -> None:
    conversation = Conversation.of([UserMessage("u", (Text("The one text."), *parts))])

    assert 1 == texts_of(dialect.encode(with_user(conversation), options)).count("The one text.")


@every_dialect
@given(messages=st.lists(messages(), max_size=6), options=options())
@settings(max_examples=50, deadline=None)
def test_the_bridge_is_never_stored(dialect: Dialect, messages: list[Message], options: Options) -> None:
    conversation = repair(
        Conversation.of(evolve(message, id=f"m{at}") for at, message in enumerate(messages))
    )
    dialect.encode(conversation, options)

    assert BRIDGE not in repr(conversation)


def test_wire_ids_stay_distinct_when_their_hashes_agree() -> None:
    """And what an id becomes depends on the ids before it only (L6)."""
    few, more = CallIds("", 1), CallIds("", 1)

    first = [few[f"r.1.{index}"] for index in range(10)]
    second = [more[f"r.1.{index}"] for index in range(25)]

    assert first == second[:10]
    assert 25 == len(set(second))
    assert first[0] == few["r.1.0"]
