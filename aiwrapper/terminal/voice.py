"""The built-in voice: what answers when there is neither a key nor a model.

It is no model and says so. It speaks the wire protocol of a real host from inside the process, slowly
enough to be stopped, so that everything else can be tried before anything is fetched.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from aiwrapper.transport import HttpRequest
from cancel_token import CancelToken

WORDS_PER_SECOND = 20.0
"""Chosen by hand: a comfortable speed to read at and to interrupt."""

_SPEECH = """\
I am **no language model**. I am the built-in voice of aiwrapper, and I answer because I found neither a \
model nor a key.

To talk to a real one:

- `aiwrapper model get` fetches a small model (93 MB) that runs on this computer, without a key;
- or set `OPENAI_API_KEY` or `ANTHROPIC_API_KEY`, or pass `--host` and `--model`.

You can try Stop on me all the same: press Ctrl-C while I speak. What I have said by then stays, marked as \
stopped, and your next message goes on from there.

So that you have the time, I count slowly: """

_NUMBERS = " ".join(f"{number}," for number in range(1, 100)) + " 100."


class VoiceTransport:
    """A `Transport` that never opens a socket.

    Args:
        words_per_second: how fast it speaks; 0 for at once.
    """

    def __init__(self, words_per_second: float = WORDS_PER_SECOND) -> None:
        self._pause_seconds = 1 / words_per_second if words_per_second else 0.0

    @contextmanager
    def open(self, request: HttpRequest, token: CancelToken, /) -> Iterator[Iterator[bytes]]:
        """The answer, a word a chunk."""
        yield self._speak(token)

    def _speak(self, token: CancelToken, /) -> Iterator[bytes]:
        words = (_SPEECH + _NUMBERS).split(" ")
        for number, word in enumerate(words):
            if self._pause_seconds:
                token.sleep(self._pause_seconds)
            yield _chunk({"content": word if number == len(words) - 1 else word + " "})
        yield _chunk({}, finish_reason="stop")
        yield b"data: [DONE]\n\n"


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + msgspec.json.encode({"object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"
