"""An agent with the local model, as cases of `_phases`: stopped while the model speaks, and while it reads the prompt.

Until its process has come to rest is measured by `bench_local.py`: it looks at its connections between two tokens or
two batches of a prompt, so that the peer's columns stay empty here.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

from aiwrapper import ChatAgent, Lang
from aiwrapper.local import LocalModel, find_model
from aiwrapper.transport import HttpTransport
from benchmarks._agent_phases import Watcher
from benchmarks._phases import Case, Target, Work
from benchmarks._request_phases import Announcing, new_session
from benchmarks._stages import wait_for
from cancel_token import CancelToken
from tests.cancel_token.stalling import Call

STORY = "Tell me a long story."
LONG_PROMPT = "The quick brown fox jumps over the lazy dog and says a number. " * 200  # about 3,000 tokens
REST_SECONDS = 30.0


def local_cases() -> Iterator[Case]:
    """None, and a word about it, where there is no model."""
    if find_model() is None:
        print("no local model on this machine: aiwrapper model get")
        return
    yield Case("local", "plain", "the model speaks", partial(_open, STORY, speaks=True))
    yield Case("local", "plain", "it reads the prompt", partial(_open, LONG_PROMPT, speaks=False))


@contextlib.contextmanager
def _open(said: str, *, speaks: bool) -> Iterator[Target]:
    path = find_model()
    assert path is not None
    watcher = Watcher()
    numbers = iter(range(1_000_000))
    with LocalModel(path) as local, new_session() as session:
        session.mount("http://", Announcing(lambda: watcher.signs.sending.set()))
        endpoint = local.start(CancelToken())
        lang = Lang.openai_like(
            model="local",
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            transport=HttpTransport(session),
        )

        def start(token: CancelToken) -> Work:
            nonlocal watcher
            watcher = Watcher()
            message = f"{next(numbers)}: {said}"  # never one whose beginning the model has in its cache
            agent = ChatAgent(lang)
            return Call(partial(agent.run, message, token=token, subscribers=[watcher]))

        def settle() -> None:
            session.close()
            rest = local.bring_to_rest(CancelToken(), wait_seconds=REST_SECONDS, grace_seconds=REST_SECONDS)
            assert rest == "idle", rest

        yield Target(
            start=start,
            wait_until_stalled=lambda: wait_for(watcher.signs.first if speaks else watcher.signs.sending),
            hung_up_at=lambda: None,
            settle=settle,
        )
