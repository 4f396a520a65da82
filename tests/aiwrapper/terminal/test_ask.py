"""`aiwrapper ask`, in pipes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest

from aiwrapper._core.conversation import fold
from aiwrapper._core.log_json import load_log
from aiwrapper._core.messages import AssistantMessage
from aiwrapper._core.validity import validate
from aiwrapper.testing import FakeProvider, HttpError, Say, Turn
from tests.aiwrapper.terminal.sessions import PATIENCE_SECONDS, PROGRAM, answering, environment

STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


def command(provider: FakeProvider, *arguments: str) -> list[str]:
    return [PROGRAM, "ask", "--host", provider.base_url, "--model", provider.model, *arguments]


def ask(
    provider: FakeProvider, home: Path, *arguments: str, stdin: str = "", **more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(provider, *arguments),
        env=environment(home, **{"AIWRAPPER_API_KEY": provider.api_key, **more}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_the_answer_and_nothing_else_goes_to_standard_output(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(STORY)
    done = ask(provider, tmp_path, "Tell me a story")

    assert (0, "Once upon a time there was a river.\n", "") == (done.returncode, done.stdout, done.stderr)


def test_the_question_may_come_through_a_pipe(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, stdin="Tell me a story\n")

    assert done.returncode == 0
    assert "Tell me a story" in provider.requests[0].json()["messages"][0]["content"]


def test_json_is_the_log_line_by_line(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(STORY)
    done = ask(provider, tmp_path, "--json", "Tell me a story")
    entries = list(load_log(done.stdout.encode()))
    conversation = fold(entries).conversation
    (_, answer) = conversation.messages

    assert done.returncode == 0
    assert [] == validate(conversation)
    assert ("user_message", "run_finished") == (entries[0].kind, entries[-1].kind)
    assert isinstance(answer, AssistantMessage)
    assert "Once upon a time there was a river." == answer.text


def test_a_missing_key_is_said_with_where_to_put_it(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, "Hello", AIWRAPPER_API_KEY="")

    assert done.returncode == 1
    assert "environment variable AIWRAPPER_API_KEY" in " ".join(done.stderr.split())


def test_a_stop_keeps_what_was_said_and_exits_with_130(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(STORY)
    with (
        provider.hold_at("mid_body") as hold,
        subprocess.Popen(
            command(provider, "Tell me a story"),
            env=environment(tmp_path, AIWRAPPER_API_KEY=provider.api_key),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert process.stdout is not None
        first = process.stdout.read(9)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_SECONDS)

        assert hold.request is not None
        assert hold.request.hung_up.wait(PATIENCE_SECONDS)
    assert "Once upon" == first
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert "river" not in rest


def test_a_reader_that_leaves_stops_the_run_without_a_word(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(Turn((Say(("many words " * 100,) * 1000),)))
    reading, writing = os.pipe()
    with (
        provider.hold_at("mid_body"),  # half of it is more than a pipe takes: the program has to notice
        subprocess.Popen(
            command(provider, "Talk"),
            env=environment(tmp_path, AIWRAPPER_API_KEY=provider.api_key),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)

        assert provider.requests[0].hung_up.wait(PATIENCE_SECONDS)
    assert "" == errors


def test_a_wrong_key_is_said_without_showing_it(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, "Hello", AIWRAPPER_API_KEY="sk-wrong-key-1234567890")

    assert done.returncode == 1
    assert "key" in done.stderr
    assert "sk-wrong-key-1234567890" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_that_is_not_there_is_said_in_a_line(tmp_path: Path, provider: FakeProvider) -> None:
    provider.close()
    done = ask(provider, tmp_path, "Hello", "--host", "http://127.0.0.1:1/v1")

    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_of_a_known_host_is_sent_nowhere_else(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, "Hello", AIWRAPPER_API_KEY="", OPENAI_API_KEY="sk-of-openai-1234567890")

    assert done.returncode == 1
    assert "authorization" not in provider.requests[0].headers


def test_a_stop_while_the_host_is_asked_for_its_models_exits_with_130(tmp_path: Path) -> None:
    with (
        create_server(("127.0.0.1", 0)) as silent,
        subprocess.Popen(
            [PROGRAM, "ask", "--host", f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "Hello"],
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=PATIENCE_SECONDS)

    assert (130, "", "") == (process.returncode, said, errors)


def test_letters_that_the_output_does_not_know_are_replaced(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(Turn((Say(("Grüße ", "\N{GRINNING FACE}")),)))
    done = ask(provider, tmp_path, "Hello", PYTHONIOENCODING="ascii")

    assert (0, "Gr??e ?\n", "") == (done.returncode, done.stdout, done.stderr)


def test_bytes_that_are_no_text_are_replaced(provider: FakeProvider, tmp_path: Path) -> None:
    more = {"AIWRAPPER_API_KEY": provider.api_key, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        command(provider),
        env=environment(tmp_path, **more),
        input=b"What is \xff\xfe?",
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

    assert (0, b"") == (done.returncode, done.stderr)
    assert "What is \ufffd\ufffd?" == provider.requests[0].json()["messages"][0]["content"]


def test_the_words_of_a_host_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with answering(500, b'{"error": {"message": "broken \\u001b[2J"}}') as base_url:
        done = subprocess.run(
            [PROGRAM, "ask", "--host", base_url, "Hello"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    assert done.returncode == 1
    assert "broken [2J" in done.stderr


def test_an_empty_question_is_wrong_usage(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, stdin="  \n")

    assert done.returncode == 2
    assert provider.requests == ()


def test_an_unknown_host_is_answered_with_the_known_ones(provider: FakeProvider, tmp_path: Path) -> None:
    done = ask(provider, tmp_path, "Hello", "--host", "nowhere")

    assert done.returncode == 1
    assert "openai" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_provider_that_gives_up_leaves_status_one(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(HttpError(400, message="no"))
    done = ask(provider, tmp_path, "Hello")

    assert done.returncode == 1
    assert "no" in done.stderr
