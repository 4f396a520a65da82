"""Hypothesis strategies for histories from elsewhere: what other programs have left behind, sound or broken.

@given(broken_histories())
def test_my_import_heals(history): ...
"""

from collections.abc import Sequence
from typing import Final

from attrs import evolve
from hypothesis import strategies as st

from aiwrapper._core.conversation import Conversation
from aiwrapper._core.messages import (
    AssistantMessage,
    AssistantPart,
    CutCall,
    Message,
    Opaque,
    Producer,
    Reasoning,
    Text,
    ToolCall,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from aiwrapper.testing._samples import (
    NAMES,
    NO_OBJECTS,
    OBJECTS,
    OUTCOME,
    PAYLOADS,
    PRODUCER,
    RESULT_TEXT,
    TEXT,
    USER_PARTS,
    number_below,
)


def _opaque(producer: Producer) -> st.SearchStrategy[Opaque]:
    return st.sampled_from(PAYLOADS[producer.dialect]).map(lambda body: Opaque(producer, body))


def assistant_parts() -> st.SearchStrategy[AssistantPart]:
    """Parts of an answer from elsewhere, sound or broken."""
    text = TEXT | st.just("")
    call_ids = st.sampled_from(("c1", "c2", "c3"))
    calls = st.builds(
        ToolCall,
        call_ids,
        st.sampled_from(NAMES),
        arguments=st.sampled_from(OBJECTS + NO_OBJECTS),
        provider_id=st.none() | call_ids,
    )
    return st.one_of(
        text.map(Text),
        st.builds(Reasoning, text, complete=st.booleans(), opaque=st.none() | PRODUCER.flatmap(_opaque)),
        calls,
    )


def messages() -> st.SearchStrategy[Message]:
    """One message from elsewhere, sound or broken. Their ids are all `m`; see `broken_histories`."""
    results = st.builds(ToolResult, st.sampled_from(("c1", "c2", "c3", "c4")), RESULT_TEXT, outcome=OUTCOME)
    batch = tuple(ToolCall(f"c{number}", "f", arguments="{}") for number in (1, 2, 3))
    return st.one_of(
        st.builds(UserMessage, st.just("m"), USER_PARTS),
        # Several sound calls: there is most to break in what answers them.
        PRODUCER.map(lambda producer: AssistantMessage("m", batch, producer=producer)),
        st.builds(
            AssistantMessage,
            st.just("m"),
            st.lists(assistant_parts(), max_size=4).map(tuple),
            producer=PRODUCER,
            stopped=st.booleans(),
            cut_calls=st.sampled_from(((), (CutCall("f", '{"a'),))),
        ),
        st.builds(ToolMessage, st.just("m"), st.lists(results, max_size=3).map(tuple)),
    )


_MESSAGES: Final = st.lists(messages(), max_size=8)


def _answers(draw: st.DrawFn, calls: Sequence[ToolCall]) -> list[ToolMessage]:
    """What somebody may have put behind a message with calls: all results, too few, in another order, nothing."""
    results = tuple(ToolResult(call.id, draw(RESULT_TEXT)) for call in calls)
    match number_below(draw, 4):
        case 0:
            return []
        case 1:
            return [ToolMessage("m", results[::-1])]
        case 2:
            return [ToolMessage("m", results[1:])]
        case _:
            return [ToolMessage("m", results)]


@st.composite
def broken_histories(draw: st.DrawFn) -> Conversation:
    """Histories as other programs leave them: in any order, with anything missing, doubled, empty or cut."""
    history: list[Message] = []
    for message in draw(_MESSAGES):
        history.append(message)
        if isinstance(message, AssistantMessage) and message.calls:
            history += _answers(draw, message.calls)
    return Conversation.of(evolve(message, id=f"m{index}") for index, message in enumerate(history))
