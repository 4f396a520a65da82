"""The table of hosts, and what every dialect says of an error's body."""

from urllib.parse import urlsplit

import pytest

from aiwrapper.dialects.anthropic import Anthropic
from aiwrapper.dialects.hosts import HOSTS, Host
from aiwrapper.dialects.openai_chat import OpenAIChat


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_a_host_can_be_asked(host: Host) -> None:
    url = urlsplit(host.base_url)

    assert not host.base_url.endswith("/")
    assert url.hostname
    # A key is never sent in the clear, and who answers on this machine wants none.
    assert (
        ("http", None) == (url.scheme, host.api_key_env)
        if url.hostname == "127.0.0.1"
        else "https" == url.scheme
    )


def test_the_hosts_that_want_it_differently_get_it_differently() -> None:
    assert isinstance(HOSTS["anthropic"].dialect, Anthropic)
    for name, ids, reasoning in (
        ("openai", False, False),
        ("mistral", True, False),
        ("deepseek", False, True),
    ):
        dialect = HOSTS[name].dialect
        assert isinstance(dialect, OpenAIChat)
        assert (ids, reasoning) == (dialect.nine_character_ids, dialect.reasoning_back)


@pytest.mark.parametrize("dialect", [OpenAIChat(), Anthropic()], ids=["openai_chat", "anthropic"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"error": {"message": "The model `x` does not exist", "type": "invalid_request_error"}}',
            "The model `x`",
        ),
        (b'{"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}', "model: x"),
        (b'{"error": "model \'x\' not found"}', "model 'x' not found"),
        (b'{"object": "error", "message": "Unexpected role"}', "Unexpected role"),
        (b'{"detail": [{"msg": "Field required"}, {"msg": "Extra inputs"}]}', "Field required; Extra inputs"),
        (b'[{"error": {"message": "API key not valid"}}]', "API key not valid"),
        (b"upstream connect error", "upstream connect error"),
        (b"caf\xe9", "caf\ufffd"),
        (b"<html>502</html>", "it gave no reason"),
        (b"", "it gave no reason"),
        (b"{}", "{}"),
        (b"[" * 100_000, "["),
    ],
)
def test_an_errors_body_is_told_in_the_providers_words(
    dialect: OpenAIChat | Anthropic, body: bytes, words: str
) -> None:
    told = dialect.error(502, body)

    assert told.startswith(words)
    assert len(told) <= 2_000
