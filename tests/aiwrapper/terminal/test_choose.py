from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from aiwrapper import ModelCallError
from aiwrapper._model_call import RemoteHost
from aiwrapper.local import LocalModel
from aiwrapper.terminal.choose import Choice, NoModel, choose
from aiwrapper.testing import FakeProvider
from cancel_token import Cancelled, CancelToken
from tests.aiwrapper.gguf import write_counter
from tests.aiwrapper.terminal.sessions import answering


@pytest.fixture(autouse=True)
def no_model_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def chosen(
    resources: ExitStack,
    host: str | None,
    model: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Choice:
    return choose(host, model, environment=environment or {}, token=CancelToken(), resources=resources)


def remote(choice: Choice) -> RemoteHost:
    assert isinstance(choice.lang.host, RemoteHost)
    return choice.lang.host


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        (
            {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "OLLAMA_HOST": "box"},
            "https://api.openai.com/v1",
        ),
        ({"ANTHROPIC_API_KEY": "sk-2", "OLLAMA_HOST": "box"}, "https://api.anthropic.com"),
        ({"OLLAMA_HOST": "box"}, "http://box:11434/v1"),
    ],
)
def test_the_environment_decides_in_a_fixed_order(
    environment: dict[str, str], host: str, resources: ExitStack
) -> None:
    assert host == remote(chosen(resources, None, "m", environment)).base_url


def test_with_nothing_at_all_the_voice_speaks(resources: ExitStack) -> None:
    assert chosen(resources, None).is_voice


@pytest.mark.parametrize(
    ("value", "base_url"),
    [
        ("box", "http://box:11434/v1"),
        ("box:80", "http://box:80/v1"),
        ("https://box", "https://box:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("[::1]:99", "http://[::1]:99/v1"),
        (":99", "http://127.0.0.1:99/v1"),
    ],
)
def test_ollama_s_variable_is_read_as_its_own_client_does(
    value: str, base_url: str, resources: ExitStack
) -> None:
    assert base_url == remote(chosen(resources, "ollama", "m", {"OLLAMA_HOST": value})).base_url


@pytest.mark.parametrize(
    ("host", "model", "environment", "words"),
    [
        ("nowhere", "m", {}, "unknown host 'nowhere'"),
        ("openai", "m", {}, "OPENAI_API_KEY"),
        ("openai", "m", {"OPENAI_API_KEY": "sk 1"}, "copied whole"),
        ("ftp://x", "m", {}, "http://"),
        ("ollama", "m", {"OLLAMA_HOST": "x:y"}, "OLLAMA_HOST"),
        ("local", None, {}, "aiwrapper model get"),
    ],
)
def test_what_cannot_be_asked_is_said_with_what_to_do(
    host: str, model: str | None, environment: dict[str, str], words: str, resources: ExitStack
) -> None:
    with pytest.raises(NoModel) as caught:
        chosen(resources, host, model, environment)

    assert words in str(caught.value)
    assert "sk 1" not in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """A host that nobody here wrote, with one model."""
    with LocalModel(write_counter(tmp_path_factory.mktemp("models") / "counter.gguf"), threads=1) as model:
        model.start(CancelToken())
        yield model


def test_the_only_model_of_a_host_needs_no_name(server: LocalModel, resources: ExitStack) -> None:
    choice = chosen(resources, server.base_url, None, {"AIWRAPPER_API_KEY": server.api_key})

    assert "counter" in choice.lang.model
    assert server.base_url in choice.description


def test_a_stop_ends_the_question_for_models(resources: ExitStack) -> None:
    token = CancelToken()
    token.cancel()
    with FakeProvider("openai_chat") as fake, pytest.raises(Cancelled):
        choose(fake.base_url, None, environment={}, token=token, resources=resources)
    assert fake.requests == ()


def test_a_wrong_key_is_said_when_the_models_are_asked_for(server: LocalModel, resources: ExitStack) -> None:
    with pytest.raises(ModelCallError, match="HTTP 401") as caught:
        chosen(resources, server.base_url, None, {"AIWRAPPER_API_KEY": "sk-wrong-key-1234567890"})
    assert "sk-wrong-key-1234567890" not in str(caught.value)


def test_a_host_that_wants_a_key_is_told_with_where_to_put_it(
    server: LocalModel, resources: ExitStack
) -> None:
    with pytest.raises(ModelCallError, match="environment variable AIWRAPPER_API_KEY") as caught:
        chosen(resources, server.base_url)

    assert ".." not in str(caught.value)
    assert "AIWRAPPER_API_KEY" in chosen(resources, server.base_url, "m").key_advice
    assert "GROQ_API_KEY" in chosen(resources, "groq", "m", {"GROQ_API_KEY": "gsk"}).key_advice
    assert chosen(resources, "ollama", "m").key_advice == ""


def test_a_host_that_repeats_the_key_when_asked_for_models_is_not_quoted_with_it(
    resources: ExitStack,
) -> None:
    key = "sk-wrong-key-1234567890"
    with (
        answering(401, b'{"error": {"message": "no such key: %s"}}' % key.encode()) as base_url,
        pytest.raises(ModelCallError, match=r"no such key: \[the key\]") as caught,
    ):
        chosen(resources, base_url, None, {"AIWRAPPER_API_KEY": key})

    assert key not in str(caught.value)


def test_a_host_that_lists_no_models_is_said(resources: ExitStack) -> None:
    with FakeProvider("openai_chat") as fake, pytest.raises(ModelCallError, match="HTTP 404"):
        chosen(resources, fake.base_url, None, {"AIWRAPPER_API_KEY": fake.api_key})
