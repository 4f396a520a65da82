import http.server
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiwrapper import Tool, ToolDenied
from aiwrapper.testing import FakeProvider
from aiwrapper.toolbox import MAX_RESULT_CHARACTERS, toolbox
from cancel_token import Cancelled, CancelToken


def yes(what: str, token: CancelToken) -> bool:
    return True


def no(what: str, token: CancelToken) -> bool:
    return False


SHELL, PYTHON, FETCH = (toolbox(yes)[name] for name in ("shell", "python", "fetch"))


def test_shell_returns_status_and_output() -> None:
    assert "exit status 3\nout\nerr\n" == SHELL(command="echo out; echo err >&2; exit 3", token=CancelToken())


def test_python_returns_what_was_printed_and_the_last_value() -> None:
    assert "1\n2 3\n'x'\n" == PYTHON(code="print(1)\nprint(2, 3)\n'x'", token=CancelToken())


def test_python_without_a_value_returns_what_was_printed() -> None:
    assert "" == PYTHON(code="x = 1", token=CancelToken())
    assert "" == PYTHON(code="", token=CancelToken())


def test_what_the_code_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        PYTHON(code="1 / 0", token=CancelToken())


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "def f():\n    while True:\n        tell()\nf()",
        "while True:\n    try:\n        pass\n    except Exception:\n        pass",
    ],
)
def test_a_loop_ends_with_the_token(code: str) -> None:
    token = CancelToken()
    # The code itself presses Stop, so that it surely runs by then.
    with pytest.raises(Cancelled):
        PYTHON(
            code=f"import builtins\ntell = builtins.__stop_for_test\ntell()\n{code}", token=_stopping(token)
        )


def _stopping(token: CancelToken) -> CancelToken:
    import builtins

    def stop() -> None:
        if not token.cancelled:
            token.cancel("pressed by the code")

    vars(builtins)["__stop_for_test"] = stop
    return token


def test_a_stopped_shell_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    token = CancelToken()

    def stop_when_it_runs() -> None:
        with open(fifo) as told:
            pids.append(int(told.readline()))
            token.cancel()

    pids: list[int] = []
    stopper = threading.Thread(target=stop_when_it_runs)
    stopper.start()
    with pytest.raises(Cancelled):
        SHELL(command=f"echo $$ > {fifo}; exec sleep 1000", token=token)
    stopper.join()

    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize("name", ["shell", "python"])
def test_what_a_person_refuses_is_not_done(name: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    refused: Tool[..., str] = toolbox(no)[name]
    text = {"shell": f"touch {touched}", "python": f"open({str(touched)!r}, 'w')"}[name]

    with pytest.raises(ToolDenied):
        refused(text, token=CancelToken())
    assert not touched.exists()


def test_the_person_is_shown_what_would_be_done() -> None:
    asked: list[str] = []

    def note(what: str, token: CancelToken) -> bool:
        asked.append(what)
        return True

    toolbox(note)["shell"](command="echo dangerous", token=CancelToken())

    assert ["run in the shell: echo dangerous"] == asked


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        size = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(size))
        self.end_headers()
        try:
            self.wfile.write(b"x" * size)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the tool has read enough

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def pages() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_output_without_end_does_not_fill_the_memory() -> None:
    tracemalloc.start()
    try:
        result = SHELL(command="head -c 20000000 /dev/zero | tr '\\0' a", token=CancelToken())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert result.endswith("a\n[cut here: there is more]")
    assert peak_bytes < 5_000_000


def test_fetch_returns_status_and_text(pages: str) -> None:
    assert "HTTP 200\nxxx" == FETCH(url=f"{pages}/3", token=CancelToken())


def test_a_result_that_is_too_long_is_cut_and_says_so(pages: str) -> None:
    text = FETCH(url=f"{pages}/10000000", token=CancelToken())

    assert text.startswith("HTTP 200\nxxx")
    assert "cut here" in text
    assert len(text) < MAX_RESULT_CHARACTERS + 100


def test_a_fetch_that_waits_ends_with_the_token() -> None:
    token = CancelToken()
    with FakeProvider("openai_chat") as silent, silent.hold_at("headers") as hold:

        def stop_when_it_waits() -> None:
            hold.reached.wait()
            token.cancel()

        stopper = threading.Thread(target=stop_when_it_waits)
        stopper.start()
        with pytest.raises(Cancelled):
            FETCH(url=silent.base_url, token=token)
        stopper.join()
        assert hold.request is not None
        assert hold.request.hung_up.wait(60)
