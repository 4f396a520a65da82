import json
import threading
from pathlib import Path
from typing import Literal

import attrs
import pydantic
import pytest

from aiwrapper import (
    CancelToken,
    Conversation,
    Image,
    Lang,
    ModelCallError,
    RunStopped,
    Text,
    TextDelta,
    tool,
    validate,
)
from aiwrapper.dialects.hosts import HOSTS
from aiwrapper.local import LocalModel
from aiwrapper.testing import HttpError, Say, Turn, render
from aiwrapper.testing.fakes import FakeProvider
from aiwrapper.testing.recorded import RecordedTransport, Recording
from tests.aiwrapper.gguf import write_caller, write_counter
from tests.aiwrapper.running import DIALECTS, KEY, Acting, Background, lang, lang_at
from tests.aiwrapper.worlds import LangFace, World


def answering(world: World, *texts: str) -> tuple[LangFace, RecordedTransport]:
    transport = RecordedTransport(
        [Recording((render(Turn((Say((text,)),)), "openai_chat"),)) for text in texts]
    )
    return world.lang(lang("openai_chat", "http://recorded/v1", transport)), transport


# without an agent


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ask_answers_and_its_conversation_can_be_gone_on_with(world: World, dialect: str) -> None:
    with FakeProvider(dialect, [Turn((Say(("Four.",)),)), Turn((Say(("Five.",)),))]) as fake:  # type: ignore[arg-type]
        model = world.lang(lang_at(fake))
        first = model.ask("2 + 2?", instructions="Be brief.")
        agent = world.agent(lang_at(fake), conversation=first.conversation)
        second = agent.run("And one more?")

    assert (first.text, second.text) == ("Four.", "Five.")
    assert "Four." in str(fake.requests[1].json())


def test_a_stop_of_ask_is_a_result(world: World) -> None:
    model, _ = answering(world, "Hello")
    token = CancelToken()
    acting = Acting(lambda entry: isinstance(entry, TextDelta), token.cancel)
    result = model.ask("Hi", token=token, subscribers=[acting])

    assert (result.status, result.text) == ("stopped", "Hello")
    assert isinstance(acting.log[-1], RunStopped)


def test_a_failure_of_ask_is_raised(world: World) -> None:
    with FakeProvider("openai_chat", [HttpError(400, message="no such thing")]) as fake:
        model = world.lang(lang_at(fake))
        with pytest.raises(ModelCallError, match="no such thing") as caught:
            model.ask("Hi")

    assert caught.value.status == 400


def test_chat_answers_a_conversation_that_ends_with_the_user(world: World) -> None:
    model, transport = answering(world, "Hello", "Well?")
    token = CancelToken()
    token.cancel()
    asked = model.ask("Hi", token=token).conversation
    result = model.chat(asked)

    assert result.text == "Hello"
    assert result.conversation.messages[:-1] == asked.messages
    assert len(transport.requests) == 1
    with pytest.raises(ValueError, match="nothing in the conversation"):
        model.chat(Conversation())


def test_images_and_text_may_be_said_together(world: World) -> None:
    model, transport = answering(world, "A dot.")
    model.ask([Text("What is this?"), Image("image/png", "iVBORw0KGgo=")])

    assert b"data:image/png;base64,iVBORw0KGgo=" in transport.requests[0].body


def test_half_a_surrogate_pair_does_not_reach_the_wire(world: World) -> None:
    model, transport = answering(world, "Hello")
    result = model.ask("caf\udce9", instructions="\ud83d\ude00")

    assert result.status == "completed"
    assert "caf\ufffd" in transport.requests[0].body.decode()
    assert "😀" in transport.requests[0].body.decode()


# objects


@attrs.frozen
class City:
    name: str
    population: int


class Country(pydantic.BaseModel):
    capital: str


@pytest.mark.parametrize(
    "said",
    [
        '{"name": "Bern", "population": 133000}',
        ' {"name": "Bern", "population": 133000}\n',
        'Here it is:\n```json\n{"name": "Bern", "population": 133000}\n```\nAnything else?',
    ],
)
def test_an_object_is_read_from_the_answer(world: World, said: str) -> None:
    model, transport = answering(world, said)
    asked = model.ask_for_object("The capital of Switzerland?", City)

    assert asked.value == City("Bern", 133_000)
    assert asked.result.status == "completed"
    assert b"population" in transport.requests[0].body


def test_pydantic_models_lists_and_numbers_are_objects_too(world: World) -> None:
    model, _ = answering(world, '{"capital": "Bern"}', "[1, 2]", "7")

    assert model.ask_for_object("?", Country).value == Country(capital="Bern")
    assert model.ask_for_object("?", list[int]).value == [1, 2]
    assert model.ask_for_object("?", int).value == 7


def test_what_does_not_fit_is_shown_to_the_model_which_may_try_again(world: World) -> None:
    model, transport = answering(
        world, "It is Bern.", '{"name": "Bern"}', '{"name": "Bern", "population": 133000}'
    )
    asked = model.ask_for_object("The capital of Switzerland?", City)

    assert asked.value == City("Bern", 133_000)
    assert len(transport.requests) == 3
    assert "missing required field `population`" in transport.requests[2].body.decode()
    assert len(asked.result.conversation.messages) == 6


def test_a_model_that_cannot_is_given_up(world: World) -> None:
    model, _ = answering(world, "no", "no", "no")
    with pytest.raises(ModelCallError, match="in 2 attempts: this is no JSON") as caught:
        model.ask_for_object("?", City, max_attempts=2)

    assert caught.value.kind == "protocol"
    with pytest.raises(ValueError, match="at least 1"):
        model.ask_for_object("?", City, max_attempts=0)


def test_a_stop_of_ask_for_object_is_no_object(world: World) -> None:
    model, transport = answering(world, "no")
    token = CancelToken()
    token.cancel()
    asked = model.ask_for_object("?", City, token=token)

    assert asked.value is None
    assert asked.result.status == "stopped"
    assert transport.requests == []


# which model, where


@pytest.mark.parametrize("name", ["openai", "groq", "deepseek", "mistral", "xai", "openrouter", "anthropic"])
def test_a_named_host_is_the_one_of_the_table(name: str) -> None:
    made = getattr(Lang, name)(model="m", api_key=KEY)

    assert made.dialect == HOSTS[name].dialect
    assert made.host.base_url == HOSTS[name].base_url
    assert made.host.api_key == KEY
    assert made.host_name in HOSTS[name].base_url
    assert KEY not in repr(made)


def test_any_other_host_is_told_by_its_name_or_url() -> None:
    assert Lang.at("together", model="m", api_key=KEY).host_name == "api.together.xyz"
    assert Lang.ollama(model="m").host_name == "127.0.0.1"
    assert Lang.ollama(model="m", base_url="http://box:11434/v1").host_name == "box"
    assert Lang.anthropic(model="m", api_key=KEY, base_url="http://box/").host_name == "box"
    with pytest.raises(ValueError, match="unknown host 'nobody'"):
        Lang.at("nobody", model="m")


def test_settings_reach_the_request(world: World) -> None:
    transport = RecordedTransport([Recording((render(Turn((Say(("Hi",)),)), "openai_chat"),))])
    model = Lang.openai_like(
        base_url="http://recorded/v1",
        model="m",
        transport=transport,
        temperature=0.5,
        max_output_tokens=99,
        extra={"seed": 7},
    )
    world.lang(model).ask("Hi")
    body = json.loads(transport.requests[0].body)

    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 99, 7)
    assert transport.requests[0].url == "http://recorded/v1/chat/completions"
    assert "Authorization" not in transport.requests[0].headers


# a real server on this machine


def test_the_local_model_is_stopped_in_mid_answer_and_comes_to_rest(world: World, tmp_path: Path) -> None:
    with LocalModel(write_counter(tmp_path / "counter.gguf")) as local:
        model = Lang.local(local)
        agent = world.agent(model)
        token, heard = CancelToken(), threading.Event()
        acting = Acting(lambda entry: isinstance(entry, TextDelta), heard.set)
        running = Background(agent.run, "Count", token=token, subscribers=[acting])
        heard.wait()
        token.cancel()
        stopped = running.result()
        rest = local.bring_to_rest(CancelToken())
        short = world.agent(attrs.evolve(model, max_output_tokens=4), conversation=agent.conversation)
        again = short.run("Go on")

    assert stopped.status == "stopped"
    assert (" one two three four" * 1_000).startswith(stopped.text)
    assert rest == "idle"
    assert again.status == "completed"
    assert len(again.text.split()) > 1


def test_the_local_model_calls_tools_until_it_is_stopped(world: World, tmp_path: Path) -> None:
    called: list[str] = []

    @tool
    def look(where: Literal["left", "right"]) -> str:
        """Look somewhere."""
        called.append(where)
        if len(called) == 3:
            token.cancel("seen enough")
        return "nothing there"

    token = CancelToken()
    with LocalModel(write_caller(tmp_path / "caller.gguf")) as local:
        agent = world.agent(Lang.local(local, temperature=0.0), [look])  # else a word may be drawn
        result = agent.run("Look around", token=token)

    assert result.stop is not None
    assert result.stop.message == "seen enough"
    assert [report.outcome for report in result.stop.tools] == ["returned"] * 3
    assert set(called) <= {"left", "right"}
    assert validate(result.conversation) == []
