"""Which model answers: flags first, then the environment, then the local model, then the built-in voice."""

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from attrs import field, frozen
from requests import RequestException

from aiwrapper._core.dialect import Dialect
from aiwrapper._core.errors import AiwrapperError, ModelCallError
from aiwrapper._model_call import RemoteHost, without_key
from aiwrapper.dialects.hosts import HOSTS
from aiwrapper.dialects.openai_chat import OpenAIChat
from aiwrapper.lang import Lang
from aiwrapper.local import SAMPLING, LocalModel, find_model
from aiwrapper.terminal.exit_status import ExitStatus
from aiwrapper.terminal.model import offer_model
from aiwrapper.terminal.printing import sentence
from aiwrapper.terminal.voice import VoiceTransport
from aiwrapper.transport import Signed, network_error
from cancel_token import Cancelled, CancelToken
from cancel_token.http import Session
from cancel_token.signals import cancel_on_sigint

KEY_FOR_URLS = "AIWRAPPER_API_KEY"
"""The key for a host that is given as a URL. A known host's key is never sent anywhere else."""


class NoModel(AiwrapperError):
    """It can't be told which model to ask; the message says what to pass."""


@frozen
class Choice:
    """A model to talk to, and what to call it before a person."""

    lang: Lang
    description: str
    is_voice: bool = field(default=False, kw_only=True)
    key_advice: str = field(default="", kw_only=True)
    """Where the key is looked for; empty if none is."""


def choose_or_leave(options: argparse.Namespace, resources: ExitStack) -> Choice | int:
    """The model of a program that goes on by itself. Where there is none at all, a person is offered the local one.

    Args:
        options: of the command line.
        resources: takes what has to be closed afterwards.

    Returns:
        The choice; or the status with which to leave, since Ctrl-C was pressed meanwhile.

    Raises:
        NoModel: as for `choose`.
        ModelCallError: as for `choose`.
        ModelError: as for `choose`.
    """
    if options.host is None and host_of(os.environ) == "voice" and sys.stdin.isatty():
        status = offer_model()
        if status:
            return status
    token = CancelToken(name="starting")
    try:
        with cancel_on_sigint(token, watcher=True):
            return choose(
                options.host, options.model, environment=os.environ, token=token, resources=resources
            )
    except Cancelled:
        return ExitStatus.STOPPED


def choose(
    host: str | None,
    model: str | None,
    *,
    environment: Mapping[str, str],
    token: CancelToken,
    resources: ExitStack,
) -> Choice:
    """Find a model.

    Args:
        host: a name in `HOSTS`, `local`, `voice`, or a base URL; None to look around.
        model: its model, for `local` a GGUF file; None for the host's only one.
        environment: where keys are looked up: `os.environ`.
        token: stops the question to a host which models it has, and the start of the local model.
        resources: takes what has to be closed afterwards.

    Raises:
        NoModel: the host is unknown, has no key, or offers more than one model.
        ModelCallError: the host could not be asked which models it has.
        ModelError: the local model could not be started.
        Cancelled: the token was cancelled.
    """
    if host is None:
        host = host_of(environment)
    if host == "voice":
        lang = Lang.openai_like(base_url="http://voice.invalid", model="voice", transport=VoiceTransport())
        return Choice(lang, "the built-in voice, which is no model", is_voice=True)
    if host == "local":
        path = find_model() if model is None else Path(model)
        if path is None:
            raise NoModel("the local model is not here: fetch it with `aiwrapper model get`")
        local = resources.enter_context(LocalModel(path))
        local.start(token)  # now, so that what is wrong with it is said before anything is asked
        return Choice(Lang.local(local, model=path.stem, extra=SAMPLING), f"{path.stem} on this computer")

    place = _place(host, environment)
    try:
        remote = RemoteHost(place.base_url, place.api_key)
    except ValueError as error:  # a base URL that is none, or a key that was not copied whole
        raise NoModel(f"{place.name}: {error}") from error
    if model is None:
        model = _only_model(place, token)
    lang = Lang(model=model, dialect=place.dialect, host=remote)
    return Choice(lang, f"{model} at {place.name}", key_advice=place.key_advice)


@frozen
class _Place:
    """A host on the net, before it is known which of its models is meant."""

    name: str
    base_url: str
    dialect: Dialect = field(kw_only=True)
    api_key: str | None = field(repr=False, kw_only=True)
    key_variable: str | None = field(kw_only=True)

    @property
    def key_advice(self) -> str:
        """Where the key is looked for; empty if none is."""
        return (
            f"Its key is looked for in the environment variable {self.key_variable}."
            if self.key_variable
            else ""
        )


def host_of(environment: Mapping[str, str]) -> str:
    """The host to ask if none was named: whose key is there, else the local model if it is, else the voice."""
    for variable, host in (
        ("OPENAI_API_KEY", "openai"),
        ("ANTHROPIC_API_KEY", "anthropic"),
        ("OLLAMA_HOST", "ollama"),
    ):
        if environment.get(variable):
            return host
    return "voice" if find_model() is None else "local"


def _place(host: str, environment: Mapping[str, str]) -> _Place:
    if "://" in host:
        api_key = environment.get(KEY_FOR_URLS) or None
        return _Place(
            host, host.rstrip("/"), dialect=OpenAIChat(), api_key=api_key, key_variable=KEY_FOR_URLS
        )
    known = HOSTS.get(host)
    if known is None:
        raise NoModel(f"unknown host {host!r}: give its base URL, or one of local, voice, {', '.join(HOSTS)}")
    base_url = known.base_url
    if host == "ollama" and environment.get("OLLAMA_HOST"):
        base_url = _ollama_url(environment["OLLAMA_HOST"])
    api_key = environment.get(known.api_key_env) if known.api_key_env else None
    if known.api_key_env and not api_key:
        raise NoModel(f"{host} wants a key: put it into the environment variable {known.api_key_env}")
    return _Place(host, base_url, dialect=known.dialect, api_key=api_key, key_variable=known.api_key_env)


def _ollama_url(value: str) -> str:
    """What Ollama's own client makes of `OLLAMA_HOST`: scheme and port may be missing, and 0.0.0.0 is here."""
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        name, port = parts.hostname or "127.0.0.1", parts.port or 11434
    except ValueError as error:
        raise NoModel(f"OLLAMA_HOST is {value!r}, which is no address: {error}") from error
    if name == "0.0.0.0":
        name = "127.0.0.1"
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}/v1"


def _only_model(place: _Place, token: CancelToken) -> str:
    models = _models(place, token)
    if len(models) == 1:
        return models[0]
    if not models:
        raise NoModel(f"{place.name} has no model: give it one, or name one with --model")
    shown = ", ".join(models[:20]) + (", ..." if len(models) > 20 else "")
    raise NoModel(f"{place.name} has {len(models)} models: name one with --model. They are: {shown}")


def _models(place: _Place, token: CancelToken) -> list[str]:
    """The ids in the host's list of models, in its order."""
    path = "/v1/models" if place.dialect.name == "anthropic" else "/models"
    with Session() as session:
        try:
            response = session.get(
                place.base_url + path,
                auth=Signed(place.dialect.headers(place.api_key)),
                token=token,
                timeout=30,
            )
        except RequestException as error:
            raise network_error(error, place.base_url) from error
        if response.status_code != 200:
            said = without_key(place.dialect.error(response.status_code, response.content), place.api_key)
            wants_key = response.status_code in (401, 403)
            if wants_key and place.key_advice:
                said = f"{sentence(said)} {place.key_advice}"
            raise ModelCallError(
                f"{place.name} was asked which models it has and refused (HTTP {response.status_code}): {said}",
                kind="authentication" if wants_key else "provider",
                status=response.status_code,
            )
        try:
            return [entry.id for entry in msgspec.json.decode(response.content, type=_ModelList).data]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ModelCallError(
                f"{place.name} answered, but with no list of models: is {place.base_url!r} the right base URL?",
                kind="protocol",
            ) from None


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model]
