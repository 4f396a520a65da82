"""The model that the examples talk to: a real one if it is named, else a fake that answers at a person's pace."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

from aiwrapper import Lang
from aiwrapper.testing import Delivery, FakeProvider, Say, Turn

LONG = Turn((Say(("And", " so", " on,", " and", " on.") * 2_000),), delivery=Delivery(events_per_second=20))
SHORT = Turn((Say(("Of", " course.")),))


@contextmanager
def which_model() -> Iterator[Lang]:
    """The model named by `OPENAI_MODEL`, with the key in `OPENAI_API_KEY`; without both of them a fake.

    The fake's answers are long and short by turns: the first is there to be stopped.
    """
    model, api_key = os.environ.get("OPENAI_MODEL"), os.environ.get("OPENAI_API_KEY")
    if model and api_key:
        yield Lang.openai(model=model, api_key=api_key)
        return
    with FakeProvider("openai_chat", cycle((LONG, SHORT))) as fake:
        yield Lang.openai_like(base_url=fake.base_url, model=fake.model, api_key=fake.api_key)
