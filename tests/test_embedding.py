"""The programs in docs/embedding/ are what they say: real processes, real ports, real requests, a real stop."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

EXAMPLES = Path(__file__).parent.parent / "docs" / "embedding"
PATIENCE_SECONDS = 60


@contextmanager
def running(name: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A program, which Ctrl-C ends by itself and without a complaint."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            yield program
            program.send_signal(signal.SIGINT)
            _, complaints = program.communicate(timeout=PATIENCE_SECONDS)
        finally:
            program.kill()
    assert "Traceback" not in complaints
    assert 0 == program.returncode


def line(program: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    assert program.stdout is not None
    return program.stdout.readline().strip()


class Events:
    """An answer as server-sent events."""

    def __init__(self, response: requests.Response) -> None:
        response.raise_for_status()
        self.response = response
        self._lines = response.iter_lines(chunk_size=1, decode_unicode=True)

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        for text in self._lines:
            if text.startswith("event: "):
                yield text.removeprefix("event: "), json.loads(next(self._lines).removeprefix("data: "))

    def take_until(self, kind: str) -> Mapping[str, object]:
        """Read on to the first of a kind."""
        return next(entry for found, entry in self if found == kind)


def say(url: str, text: str, *, as_json: bool) -> Events:
    body = {"text": text}
    return Events(
        requests.post(
            f"{url}/chats/mine/messages",
            json=body if as_json else None,
            data=None if as_json else body,
            stream=True,
            timeout=PATIENCE_SECONDS,
        )
    )


def stop(url: str) -> str:
    receipt: str = requests.post(f"{url}/chats/mine/stop", timeout=PATIENCE_SECONDS).json()["receipt"]
    return receipt


WEB_APPS = pytest.mark.parametrize(("name", "as_json"), [("flask_app.py", False), ("fastapi_app.py", True)])


@WEB_APPS
def test_a_web_app_refuses_a_message_without_words(name: str, as_json: bool) -> None:
    with running(name, "0") as program:
        refused = requests.post(
            f"{line(program)}/chats/mine/messages",
            json={"text": " "} if as_json else None,
            data=None if as_json else {"text": " "},
            timeout=PATIENCE_SECONDS,
        )

    assert (422 if as_json else 400) == refused.status_code


@WEB_APPS
def test_a_web_app_streams_an_answer_that_a_post_stops_and_the_next_message_is_answered(
    name: str, as_json: bool
) -> None:
    with running(name, "0") as program:
        url = line(program)
        answer = say(url, "Tell me a long story", as_json=as_json)
        answer.take_until("text_delta")

        assert (
            409
            == requests.post(
                answer.response.url,
                json={"text": "And?"} if as_json else None,
                data=None if as_json else {"text": "And?"},
                timeout=PATIENCE_SECONDS,
            ).status_code
        )
        assert "accepted" == stop(url)
        assert "the user pressed Stop" == answer.take_until("run_stopped")["message"]
        assert [] == list(answer)
        assert "already_finished" == stop(url)

        say(url, "Go on", as_json=as_json).take_until("run_finished")


def test_with_flask_who_disconnects_does_not_stop_the_answer_and_may_come_back() -> None:
    with running("flask_app.py", "0") as program:
        url = line(program)
        answer = say(url, "Tell me a long story", as_json=False)
        first = answer.take_until("text_delta")
        answer.response.close()

        again = Events(requests.get(f"{url}/chats/mine/events", stream=True, timeout=PATIENCE_SECONDS))

        assert first == again.take_until("text_delta")
        assert "accepted" == stop(url)
        again.take_until("run_stopped")


def test_with_fastapi_who_disconnects_stops_the_answer_and_what_was_said_is_kept() -> None:
    with running("fastapi_app.py", "0") as program:
        url = line(program)
        answer = say(url, "Tell me a long story", as_json=True)
        answer.take_until("text_delta")
        answer.response.close()

        result = requests.get(f"{url}/chats/mine/result", timeout=PATIENCE_SECONDS).json()

        assert ("stopped", "runtime") == (result["status"], result["reason"])
        assert result["text"].startswith("And")
        say(url, "Go on", as_json=True).take_until("run_finished")


@WEB_APPS
def test_ctrl_c_stops_an_answer_of_a_web_app_and_its_reader_sees_the_end(name: str, as_json: bool) -> None:
    with running(name, "0") as program:
        answer = say(line(program), "Tell me a long story", as_json=as_json)
        answer.take_until("text_delta")
        program.send_signal(signal.SIGINT)

        assert "signal" == answer.take_until("run_stopped")["reason"]
        assert "bye" == line(program)
        assert 0 == program.wait(PATIENCE_SECONDS)


def test_a_trio_app_stops_an_answer_by_a_line_and_by_the_next_message() -> None:
    with running("trio_app.py", "0") as program:
        host, _, port = line(program).rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as user,
            user.makefile("rw", encoding="utf-8", newline="\n") as typed,
        ):

            def type_line(text: str) -> None:
                typed.write(text + "\n")
                typed.flush()

            type_line("Tell me a long story")
            assert "And" == typed.read(3)
            type_line("/stop")
            assert typed.readline()
            assert "[stopped]\n" == typed.readline()

            type_line("Say yes")
            assert "Of course.\n" == typed.readline()
            assert "[completed]\n" == typed.readline()

            type_line("Tell me a long story")
            assert "And" == typed.read(3)
            type_line("Say yes instead")
            assert typed.readline()
            assert "[stopped]\n" == typed.readline()
            assert "Of course.\n" == typed.readline()


def test_a_script_takes_the_first_answer_and_stops_the_others() -> None:
    """It asks the fake, too, where there is a key for other programs and no model is named."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_MODEL"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "futures_script.py")],
        env=environment | {"OPENAI_API_KEY": "sk-for-something-else"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )

    statuses = sorted(said.rpartition(":")[0].rpartition(" ")[2] for said in done.stdout.splitlines())
    assert ["completed", "stopped", "stopped"] == statuses
    assert "'Of course.'" in done.stdout


def test_a_trio_app_ends_a_query_by_a_timeout_and_by_ctrl_c_and_the_database_still_works() -> None:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "trio_blocking.py")], stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert "the timeout has ended the query" == line(program)
            assert "searching; press Ctrl-C" == line(program)
            program.send_signal(signal.SIGINT)
            rest, _ = program.communicate(timeout=PATIENCE_SECONDS)
        finally:
            program.kill()

    assert "Ctrl-C has ended the query" in rest
    assert "and it still works" in rest
    assert 0 == program.returncode
