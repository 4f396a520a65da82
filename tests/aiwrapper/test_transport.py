import gc
from contextlib import closing

import requests

from aiwrapper.testing import FakeProvider
from aiwrapper.transport import HttpRequest, HttpTransport
from cancel_token import CancelToken


def requests_held(url: str) -> int:
    gc.collect()
    return sum(isinstance(held, requests.PreparedRequest) and held.url == url for held in gc.get_objects())


def test_a_stream_that_is_being_read_holds_no_more_of_the_request_that_asked_for_it() -> None:
    body = b'{"model": "fake-model", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    with FakeProvider("openai_chat") as fake, closing(HttpTransport()) as transport:
        url = f"{fake.base_url}/chat/completions"
        headers = {"authorization": f"Bearer {fake.api_key}", "content-type": "application/json"}
        with (
            fake.hold_at("mid_body") as hold,
            transport.open(HttpRequest(url, headers=headers, body=body), CancelToken()) as pieces,
        ):
            received = next(iter(pieces))
            assert hold.reached.wait(60)

            held = requests_held(url)

    assert received
    assert 0 == held
