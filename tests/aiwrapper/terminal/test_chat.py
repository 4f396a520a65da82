"""`aiwrapper chat` in a pseudo-terminal, against a strict fake provider and against the real local runtime."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aiwrapper.testing import Call, Delivery, FakeProvider, HttpError, Raw, Say, Turn
from tests.aiwrapper.gguf import write_counter
from tests.aiwrapper.terminal.sessions import CTRL_C, CTRL_D, PATIENCE_SECONDS, Terminal, environment

# With its token count in every event, as some hosts have it, each word is on disk when the next has come.
STORY = Turn(
    (Say(("Once upon ", "a time ", "there was ", "a river. ", "It flowed ", "and flowed.")),),
    usage_at="every_event",
)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


def chat(provider: FakeProvider, home: Path, *more: str) -> Terminal:
    return Terminal(
        ["chat", "--host", provider.base_url, "--model", provider.model, *more],
        environment(home, AIWRAPPER_API_KEY=provider.api_key),
    )


def stop_in_mid_answer(terminal: Terminal, provider: FakeProvider) -> None:
    provider.add(STORY)
    with provider.hold_at("mid_body") as hold:
        terminal.type("Tell me a story")
        terminal.wait_for("Once upon")
        assert hold.reached.wait(PATIENCE_SECONDS)
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        assert hold.request is not None
        assert hold.request.hung_up.wait(PATIENCE_SECONDS)
    terminal.wait_for_prompt()


def go_on_and_leave(terminal: Terminal, provider: FakeProvider) -> None:
    """The next message is answered, and Ctrl-D ends the chat as it should."""
    provider.add(Turn((Say(("Gladly.",)),)))
    terminal.type("Go on, please")
    terminal.wait_for("Gladly.")
    terminal.wait_for_prompt()
    terminal.press(CTRL_D)

    assert terminal.wait_for_exit() == 0


def test_ctrl_c_stops_the_answer_and_the_next_message_goes_on(provider: FakeProvider, tmp_path: Path) -> None:
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        stop_in_mid_answer(terminal, provider)
        after_the_stop = terminal.lines
        go_on_and_leave(terminal, provider)
    assert "■ stopped" in after_the_stop
    assert any(line.startswith("Once upon") for line in after_the_stop)
    assert "you> Tell me a story" in after_the_stop
    roles = [message["role"] for message in provider.requests[1].json()["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert provider.requests[1].json()["messages"][1]["content"].startswith("Once upon")
    assert provider.requests[1].status == 200


def test_a_chat_that_was_killed_in_mid_answer_goes_on_where_it_was(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(STORY)
    with chat(provider, tmp_path) as terminal, provider.hold_at("mid_body") as hold:
        terminal.wait_for_prompt()
        terminal.type("Tell me a story")
        assert hold.reached.wait(PATIENCE_SECONDS)
        terminal.wait_for("a time")
        os.kill(terminal.pid, signal.SIGKILL)

        assert terminal.wait_for_exit() == -signal.SIGKILL
    provider.add(Turn((Say(("Gladly.",)),)))
    with chat(provider, tmp_path, "--continue") as terminal:
        terminal.wait_for_prompt()
        shown = terminal.lines
        terminal.type("Go on, please")
        terminal.wait_for("Gladly.")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)
        assert terminal.wait_for_exit() == 0
    assert "you> Tell me a story" in shown
    assert "■ stopped" in shown
    assert provider.requests[1].status == 200
    assert provider.requests[1].json()["messages"][0]["content"] == "Tell me a story"


def test_ctrl_c_twice_at_the_prompt_leaves(provider: FakeProvider, tmp_path: Path) -> None:
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.press(CTRL_C)
        terminal.wait_for("Once more")
        terminal.wait_for_prompt()
        terminal.press(CTRL_C)

        assert terminal.wait_for_exit() == 0
    assert "Traceback" not in terminal.output


def test_a_stopped_answer_can_be_continued(provider: FakeProvider, tmp_path: Path) -> None:
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        stop_in_mid_answer(terminal, provider)
        provider.add(Turn((Say(("a river.",)),)))
        terminal.type("/continue")
        terminal.wait_for("a river.")
        terminal.wait_for_prompt()
        terminal.type("/quit")

        assert terminal.wait_for_exit() == 0
    assert [request.status for request in provider.requests] == [200, 200]


def test_a_second_terminal_on_the_same_conversation_is_told_so(
    provider: FakeProvider, tmp_path: Path
) -> None:
    with chat(provider, tmp_path) as first:
        first.wait_for_prompt()
        first.type("Hello")
        first.wait_for_prompt()
        with chat(provider, tmp_path, "--continue") as second:
            second.wait_for(f"The conversation is open in process {first.pid}.")

            assert second.wait_for_exit() == 1
    assert "Traceback" not in second.output


def test_the_wait_before_another_attempt_counts_down_and_can_be_stopped(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(HttpError(429, retry_after="30"))
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type("Hello")
        terminal.wait_for("Trying again in 30 s")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        terminal.type("Hello again")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_exit() == 0
    assert [request.status for request in provider.requests] == [429, 200]


def shell_call(command: str) -> Turn:
    return Turn((Call("shell", (f'{{"command": "{command}"}}',)),))


def test_a_tool_asks_first_and_a_no_is_told_to_the_model(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(shell_call("touch here"), Turn((Say(("As you wish.",)),)))
    with chat(provider, tmp_path, "--tool", "shell") as terminal:
        terminal.wait_for_prompt()
        terminal.type("Touch it")
        terminal.wait_for("[y/N]")
        terminal.type("n")
        terminal.wait_for("refused by you")
        terminal.wait_for("As you wish.")
        terminal.wait_for_prompt()

    assert "refused" in provider.requests[1].json()["messages"][-1]["content"]


def test_ctrl_c_at_the_question_stops_the_run_and_nothing_is_executed(
    provider: FakeProvider, tmp_path: Path
) -> None:
    forbidden = tmp_path / "touched"
    provider.add(shell_call(f"touch {forbidden}"))
    with chat(provider, tmp_path, "--tool", "shell") as terminal:
        terminal.wait_for_prompt()
        terminal.type("Touch it")
        terminal.wait_for("[y/N]")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        terminal.type("Thank you")
        terminal.wait_for_prompt()

    assert not forbidden.exists()
    assert [request.status for request in provider.requests] == [200, 200]


def test_ctrl_c_ends_a_tool_s_child_process(provider: FakeProvider, tmp_path: Path) -> None:
    mark = tmp_path / "running"
    provider.add(shell_call(f"touch {mark}; echo ready; exec sleep 1000"))
    with chat(provider, tmp_path, "--tool", "shell") as terminal:
        terminal.wait_for_prompt()
        terminal.type("Sleep")
        terminal.wait_for("[y/N]")
        terminal.type("y")
        terminal.wait_for("shell runs")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        children = psutil.Process(terminal.pid).children(recursive=True)
        terminal.type("Thank you")
        terminal.wait_for_prompt()

    assert [] == children
    assert [request.status for request in provider.requests] == [200, 200]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HttpError(401), "AIWRAPPER_API_KEY"),
        (HttpError(404), "fake-model"),
        (Raw(b"<html>Welcome</html>", content_type="text/html"), "HTTP 200"),
        (Raw(b'data: {"choices": [{"delta": {"content": "Hal\n\n'), "truncated"),
        (Turn((Say(("Half an ans",)),), error="server"), "server"),
        (Turn((Say(("Half an ans", "wer and more")),), finish="missing"), "/continue tries again"),
    ],
    ids=["wrong key", "unknown model", "no stream", "half JSON", "error in mid-stream", "no end"],
)
def test_what_goes_wrong_is_said_in_a_line_and_the_chat_goes_on(
    answer: HttpError | Raw | Turn, words: str, provider: FakeProvider, tmp_path: Path
) -> None:
    provider.add(answer)
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type("Hello")
        terminal.wait_for("✗")
        terminal.wait_for_prompt()
        said = " ".join(terminal.lines)
        terminal.type("Hello again")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_exit() == 0
    assert words in said
    assert "Traceback" not in terminal.output
    assert provider.api_key not in terminal.output
    assert provider.requests[-1].status == 200


def test_a_full_disk_is_said_and_nothing_said_before_is_lost(provider: FakeProvider, tmp_path: Path) -> None:
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type("Hello")
        terminal.wait_for_prompt()
        # What the file system would say if it were full: no file of this process may grow beyond its size.
        size = max(file.stat().st_size for file in (tmp_path / "data" / "aiwrapper").iterdir())
        psutil.Process(terminal.pid).rlimit(psutil.RLIMIT_FSIZE, (size, size))
        for _ in range(3):
            terminal.type("More " * 200)
            terminal.wait_for_prompt()
        said = " ".join(terminal.lines)
        terminal.press(CTRL_D)
        terminal.wait_for_exit()
    assert "✗" in said
    assert "Traceback" not in terminal.output
    with chat(provider, tmp_path, "--continue") as again:
        again.wait_for_prompt()
        assert "you> Hello" in again.lines


def test_a_line_typed_ahead_is_no_answer_to_a_question(provider: FakeProvider, tmp_path: Path) -> None:
    forbidden = tmp_path / "touched"
    provider.add(shell_call(f"touch {forbidden}"))
    with chat(provider, tmp_path, "--tool", "shell") as terminal, provider.hold_at("headers") as hold:
        terminal.wait_for_prompt()
        terminal.type("Touch it")
        assert hold.reached.wait(PATIENCE_SECONDS)
        terminal.press("y\n")
        hold.release()
        terminal.wait_for("[y/N]")
        terminal.type("n")
        terminal.wait_for("refused by you")
        terminal.wait_for_prompt()

    assert not forbidden.exists()


def test_a_line_typed_before_ctrl_c_is_not_sent(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(STORY)
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        with provider.hold_at("mid_body"):
            terminal.type("Tell me a story")
            terminal.wait_for("Once upon")
            terminal.press("Never mind\n" + CTRL_C)
            terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        go_on_and_leave(terminal, provider)
    assert "Never mind" not in str(provider.requests[-1].body)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counter(tmp_path_factory.mktemp("models") / "counter.gguf")


def test_the_local_model_is_stopped_comes_to_rest_and_answers_again(counter: Path, tmp_path: Path) -> None:
    with Terminal(["chat", "--host", "local", "--model", str(counter)], environment(tmp_path)) as terminal:
        terminal.wait_for_prompt()
        (model,) = psutil.Process(terminal.pid).children()
        terminal.type("Count")
        terminal.wait_for("one")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        terminal.type("Again")
        terminal.wait_for("one")
        terminal.press(CTRL_C)
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_exit() == 0
    model.wait(PATIENCE_SECONDS)


def test_without_model_and_key_the_voice_answers_and_says_what_it_is(tmp_path: Path) -> None:
    with Terminal(["chat"], environment(tmp_path)) as terminal:
        terminal.wait_for("Fetch it now? [Y/n]")
        terminal.type("n")
        terminal.wait_for_prompt()
        terminal.type("Hello")
        terminal.wait_for("no language model")
        terminal.press(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for_prompt()
        terminal.press(CTRL_D)

        assert terminal.wait_for_exit() == 0


def test_a_slow_stream_is_shown_as_it_comes(provider: FakeProvider, tmp_path: Path) -> None:
    provider.add(Turn((Say(("first ", "second")),), delivery=Delivery(write_bytes=1)))
    with chat(provider, tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type("Hello")
        terminal.wait_for("first")
        terminal.wait_for("second")
        terminal.wait_for_prompt()
