"""The official blocking SDKs, as cases of `_phases`: the phases of a call, with `cancel_token.httpx` below them.

The same calls without it, stopped as the SDKs offer it, are in `_sdk_alone.py`. Further columns: `resent`, requests
that an SDK sent again after a stop; `kept`, connections that stayed in its pool; `refused`, next calls that were not
answered.
"""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, get_args

import anthropic
import httpx2
import openai
from attrs import define, evolve, field

from aiwrapper.testing import DialectName
from benchmarks._phases import Case, Certificates, Target
from benchmarks._stages import PLAIN, TOOL, WIRES, Signs, Stage, StallPhase, Wire, stall_phases
from cancel_token import CancelToken
from cancel_token.httpx import StoppableBackOff, stoppable, use_token
from tests.cancel_token.httpx_clients import connections
from tests.cancel_token.stalling import Call as Work

HOSTS: Mapping[DialectName, str] = {"openai_chat": "openai", "anthropic": "anthropic"}


class _OpenAI(StoppableBackOff, openai.OpenAI):
    pass


class _Anthropic(StoppableBackOff, anthropic.Anthropic):
    pass


@define
class Asking:
    """One call of an SDK, and how far it has come."""

    client: Any  # either SDK's, changed by nobody else while it is asked
    dialect: DialectName
    model: str
    said: str = "Hi"
    signs: Signs = field(factory=Signs)
    stream: Any = None
    error: Exception | None = None

    def __attrs_post_init__(self) -> None:
        back_off = type(self.client)._sleep_for_retry

        def sleep_for_retry(**options: Any) -> None:
            self.signs.sleeping.set()
            back_off(self.client, **options)

        self.client._sleep_for_retry = sleep_for_retry
        self.client._client.event_hooks = {
            "request": [lambda request: self.signs.sending.set()],
            "response": [],
        }

    def run(self) -> None:
        """Ask and read to the end, whatever that is."""
        self.stream = self.ask(stream=True)
        for _ in self.stream:
            self.signs.first.set()

    def ask(self, *, stream: bool, **options: Any) -> Any:
        """One call."""
        messages = [{"role": "user", "content": self.said}]
        tool: dict[str, Any] = {"name": TOOL, "description": "Looks."}
        schema = {"type": "object", "properties": {"turns": {"type": "integer"}}}
        if self.dialect == "anthropic":
            tools = [{**tool, "input_schema": schema}]
            create = partial(self.client.messages.create, max_tokens=100)
        else:
            tools = [{"type": "function", "function": {**tool, "parameters": schema}}]
            create = self.client.chat.completions.create
        return create(model=self.model, messages=messages, tools=tools, stream=stream, **options)


def new_client(stage: Stage, *, ours: bool) -> Any:
    """An SDK's client on a stage, with our transport below it or as it comes."""
    dialect = stage.fake.dialect
    options: dict[str, Any] = {"trust_env": False}
    if stage.proxy is not None:
        options["proxy"] = stage.proxy
    if stage.authority is not None:
        options["verify"] = ssl.create_default_context(cafile=stage.authority)
    default = anthropic.DefaultHttpxClient if dialect == "anthropic" else openai.DefaultHttpxClient
    http_client: httpx2.Client = default(**options)
    settings: dict[str, Any] = {
        "base_url": stage.url,
        "api_key": stage.fake.api_key,
        "http_client": stoppable(http_client) if ours else http_client,
    }
    if dialect == "anthropic":
        return (_Anthropic if ours else anthropic.Anthropic)(**settings)
    return (_OpenAI if ours else openai.OpenAI)(**settings)


def sdk_cases(certificates: Certificates) -> Iterator[Case]:
    """Both SDKs in each phase, one of them over every wire."""
    for dialect in get_args(DialectName):
        for wire in WIRES if dialect == "openai_chat" else (PLAIN,):
            for phase in stall_phases(wire):
                open_target = partial(_open_target, phase, dialect, wire, certificates)
                yield Case(HOSTS[dialect], wire.name, phase.name, open_target)


@contextlib.contextmanager
def _open_target(
    phase: StallPhase, dialect: DialectName, wire: Wire, certificates: Certificates
) -> Iterator[Target]:
    with ExitStack() as stack:
        stage = stack.enter_context(phase.open(dialect, wire, certificates))
        client = stack.enter_context(new_client(stage, ours=True))
        following_stage = evolve(stage, url=stage.fake.base_url, proxy=stage.proxy_next)
        elsewhere = stack.enter_context(new_client(following_stage, ours=True))
        if stage.proxy == stage.proxy_next:  # the same pool is to serve the next call
            elsewhere = client.with_options(base_url=stage.fake.base_url)
        counts = {"resent": 0, "kept": 0, "refused": 0}
        begun: list[tuple[Asking, Callable[[Signs], object], int]] = []

        def start(token: CancelToken) -> Work[None]:
            asking = Asking(client, dialect, stage.fake.model, phase.said)
            begun[:] = [(asking, stage.arm(), len(stage.fake.requests))]

            def work() -> None:
                with use_token(token):
                    asking.run()

            return Work(work)

        def wait() -> None:
            asking, wait_until_stalled, _ = begun[0]
            wait_until_stalled(asking.signs)

        def settle() -> None:
            counts["resent"] += max(0, len(stage.fake.requests) - begun[0][2] - 1)
            counts["kept"] += len(connections(client._client))
            following = Asking(elsewhere, dialect, stage.fake.model)
            answer = following.ask(stream=False, extra_headers={"Connection": "close"})
            counts["refused"] += not answer.id
            stage.rest()
            for thread in threading.enumerate():
                if thread.name.startswith("fake provider connection"):
                    thread.join()

        yield Target(start, wait, stage.hung_up_at, settle, lambda: counts)
