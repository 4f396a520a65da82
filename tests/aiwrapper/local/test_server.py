"""The child process: the real llama.cpp server, with tiny models."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from aiwrapper.lang import Lang
from aiwrapper.local import SAMPLING, Endpoint, LocalModel, ModelError, _process
from cancel_token import Cancelled, CancelToken
from tests.aiwrapper.gguf import COUNT, write_babbler, write_caller, write_counter

LONG_CONTEXT = 1 << 18  # tokens: the counter counts for minutes before it is full
PATIENCE_SECONDS = 60.0  # only a hang uses it up
PATIENT = {"wait_seconds": PATIENCE_SECONDS, "grace_seconds": PATIENCE_SECONDS}
LONG_PROMPT = [{"role": "user", "content": "x" * 200_000}]  # a token each: minutes of work
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Say the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Paris"]}},
            "required": ["city"],
        },
    },
}

# What a runtime needs to be taken for one; nobody listens on port 1.
FAKE_SERVER = """
from types import SimpleNamespace
CommonParams = lambda: SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace())
Server = lambda params: SimpleNamespace(listening_address="http://127.0.0.1:1")
"""


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counter(tmp_path_factory.mktemp("models") / "counter.gguf", context=LONG_CONTEXT)


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caller(tmp_path_factory.mktemp("models") / "caller.gguf")


@pytest.fixture
def local(counter: Path) -> Iterator[LocalModel]:
    with LocalModel(counter, context_tokens=LONG_CONTEXT, threads=1) as model:
        yield model


def post(endpoint: Endpoint, **fields: Any) -> requests.Response:
    body = {"messages": [{"role": "user", "content": "Count!"}], "temperature": 0, **fields}
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{endpoint.base_url}/chat/completions",
            json=body,
            headers=headers,
            stream=body.get("stream", False),
            timeout=PATIENCE_SECONDS,
        )


def deltas(response: requests.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]


def spoken(response: requests.Response) -> Iterator[str]:
    """The words of the answer. Dropping the iterator closes the connection."""
    return (delta["content"] for delta in deltas(response) if delta.get("content"))


def take(count: int, words: Iterator[str]) -> list[str]:
    return list(itertools.islice(words, count))


def computes(endpoint: Endpoint) -> bool:
    url = endpoint.base_url.removesuffix("/v1") + "/slots"
    with requests.Session() as session:
        session.trust_env = False
        slots = session.get(url, headers={"Authorization": f"Bearer {endpoint.api_key}"}).json()
    return any(slot["is_processing"] for slot in slots)


def end(child: psutil.Process) -> None:
    child.kill()
    child.wait(PATIENCE_SECONDS)


def test_a_real_server_streams_what_the_model_says(local: LocalModel) -> None:
    with post(local.start(CancelToken()), stream=True) as response:
        assert response.status_code == 200
        assert take(8, spoken(response)) == [*COUNT, *COUNT]


def test_the_sampling_fields_are_taken(local: LocalModel) -> None:
    with post(local.start(CancelToken()), max_tokens=4, **SAMPLING) as response:
        assert response.status_code == 200


def test_tool_calls_stream_with_valid_arguments(caller: Path) -> None:
    with (
        LocalModel(caller, threads=1) as local,
        post(local.start(CancelToken()), stream=True, tools=[WEATHER], max_tokens=200) as response,
    ):
        pieces = [call["function"] for delta in deltas(response) for call in delta.get("tool_calls", ())]

    assert [piece["name"] for piece in pieces if "name" in piece] == ["get_weather"]
    arguments = json.loads("".join(piece["arguments"] for piece in pieces))
    assert list(arguments) == ["city"]
    assert arguments["city"] in ("Oslo", "Paris")


def test_a_babbling_model_says_what_the_grammar_allows(tmp_path: Path) -> None:
    path = write_babbler(tmp_path / "babbler.gguf")
    with (
        LocalModel(path, threads=1) as local,
        post(local.start(CancelToken()), grammar='root ::= "yes"') as response,
    ):
        assert response.json()["choices"][0]["message"]["content"] == "yes"


def test_a_wrong_key_is_refused(local: LocalModel) -> None:
    endpoint = local.start(CancelToken())

    with post(Endpoint(endpoint.base_url, "wrong"), max_tokens=1) as response:
        assert response.status_code == 401


def test_the_key_shows_in_no_repr_and_not_in_the_process_list(local: LocalModel) -> None:
    endpoint = local.start(CancelToken())
    child = psutil.Process(local.pid)

    assert local.api_key == endpoint.api_key
    assert endpoint.api_key not in repr(endpoint) + repr(local) + str(vars(local)["_child"])
    assert endpoint.api_key not in " ".join([*child.cmdline(), *child.environ().values()])


def test_it_listens_on_loopback_only(local: LocalModel) -> None:
    local.start(CancelToken())

    listening = [
        c.laddr.ip for c in psutil.Process(local.pid).net_connections() if c.status == psutil.CONN_LISTEN
    ]

    assert listening == ["127.0.0.1"]


def test_a_proxy_of_the_environment_is_not_asked(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not reach us, and would be shown the key."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    result = Lang.local(local, max_output_tokens=4, temperature=0).ask("Count!")

    assert result.text == "".join(COUNT)


def test_starting_twice_starts_one_child(local: LocalModel) -> None:
    first = local.start(CancelToken())
    pid = local.pid

    assert (first, pid) == (local.start(CancelToken()), local.pid)


def test_many_threads_that_start_at_once_share_one_child(local: LocalModel) -> None:
    barrier = threading.Barrier(8)

    def start() -> Endpoint:
        barrier.wait()
        return local.start(CancelToken())

    with ThreadPoolExecutor(8) as pool:
        endpoints = {future.result() for future in [pool.submit(start) for _ in range(8)]}

    assert len(endpoints) == 1
    assert [local.pid] == [child.pid for child in psutil.Process().children()]


def test_a_stopped_stream_brings_the_model_to_rest_and_the_next_answer_comes_from_the_same_child(
    local: LocalModel,
) -> None:
    endpoint = local.start(CancelToken())
    pid = local.pid
    with post(endpoint, stream=True) as response:
        take(4, spoken(response))

    rest = local.bring_to_rest(CancelToken(), **PATIENT)

    assert rest == "idle"
    assert pid == local.pid
    with post(local.start(CancelToken()), stream=True) as response:
        assert take(4, spoken(response)) == [*COUNT]


def test_a_model_stopped_while_it_evaluates_a_prompt_comes_to_rest(local: LocalModel) -> None:
    """It looks for the closed connection only when it has been left in peace for a second."""
    endpoint = local.start(CancelToken())
    pid = local.pid
    with post(endpoint, stream=True, messages=LONG_PROMPT):
        while not computes(endpoint):  # the answer's headers come before it has begun
            pass

    assert local.bring_to_rest(CancelToken(), **PATIENT) == "idle"
    assert local.pid == pid


def test_nobody_waits_long_for_a_model_that_goes_on(local: LocalModel) -> None:
    endpoint = local.start(CancelToken())
    pid = local.pid
    with post(endpoint, stream=True) as response:
        words = spoken(response)
        take(4, words)  # and the connection stays open: it goes on

        rests = [
            local.bring_to_rest(CancelToken(), wait_seconds=0.01, grace_seconds=PATIENCE_SECONDS)
            for _ in range(2)
        ]
        watchers = [thread for thread in threading.enumerate() if thread.name == "aiwrapper local model"]

    assert rests == ["pending", "pending"]
    assert len(watchers) == 1
    watchers[0].join(PATIENCE_SECONDS)
    assert local.bring_to_rest(CancelToken(), **PATIENT) == "idle"
    assert local.pid == pid


def test_a_model_that_is_still_not_at_rest_at_the_end_of_the_grace_is_killed(local: LocalModel) -> None:
    endpoint = local.start(CancelToken())
    child = psutil.Process(local.pid)
    with post(endpoint, stream=True) as response:
        words = spoken(response)
        take(4, words)  # and the connection stays open: it goes on

        assert local.bring_to_rest(CancelToken(), wait_seconds=0.01, grace_seconds=0.1) == "pending"
        child.wait(PATIENCE_SECONDS)
    assert local.start(CancelToken()) == endpoint


def test_closing_ends_the_watch(counter: Path) -> None:
    """The fixture of all tests fails this one if the watching thread is left."""
    with LocalModel(counter, context_tokens=LONG_CONTEXT, threads=1) as local:
        response = post(local.start(CancelToken()), stream=True)
        words = spoken(response)
        take(4, words)

        assert local.bring_to_rest(CancelToken(), wait_seconds=0, grace_seconds=3600) == "pending"
    response.close()


def test_a_model_that_does_not_come_to_rest_is_killed_and_the_next_start_makes_a_new_one(
    local: LocalModel,
) -> None:
    endpoint = local.start(CancelToken())
    pid = local.pid
    assert pid is not None
    with post(endpoint, stream=True) as response:
        words = spoken(response)
        take(4, words)  # and the connection stays open: it goes on

        assert local.bring_to_rest(CancelToken(), grace_seconds=0.1) == "killed"
    assert not psutil.pid_exists(pid)
    assert local.pid is None
    with post(local.start(CancelToken()), stream=True) as response:
        assert take(4, spoken(response)) == [*COUNT]
    assert local.pid not in (None, pid)


def test_the_address_survives_a_restart(local: LocalModel) -> None:
    endpoint = local.start(CancelToken())
    end(psutil.Process(local.pid))

    assert local.start(CancelToken()) == endpoint
    assert local.base_url == endpoint.base_url


def test_a_port_that_was_taken_meanwhile_gives_another_address(local: LocalModel) -> None:
    first = local.start(CancelToken())
    end(psutil.Process(local.pid))
    with socket.create_server(("127.0.0.1", int(first.base_url.split(":")[2].removesuffix("/v1")))):
        second = local.start(CancelToken())

    assert second.base_url != first.base_url
    assert local.base_url == second.base_url


def test_the_stop_of_one_request_never_costs_another_its_answer(local: LocalModel) -> None:
    with local.request(CancelToken()) as endpoint, post(endpoint, stream=True) as response:
        words = spoken(response)
        take(4, words)

        assert local.bring_to_rest(CancelToken(), grace_seconds=0.1) == "busy"
        assert take(4, words) == [*COUNT]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_child_that_hangs_is_killed(local: LocalModel) -> None:
    local.start(CancelToken())
    child = psutil.Process(local.pid)
    child.suspend()
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)  # its threads stop one after the other

    assert local.bring_to_rest(CancelToken(), grace_seconds=0.1) == "killed"
    assert not child.is_running()


def test_a_child_that_does_not_listen_is_killed(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    fake_runtime(FAKE_SERVER)
    local.start(CancelToken())

    assert local.bring_to_rest(CancelToken(), grace_seconds=0.1) == "killed"


def test_a_cancelled_wait_for_rest_kills_at_once(local: LocalModel) -> None:
    token = CancelToken()
    with post(local.start(CancelToken()), stream=True) as response:
        words = spoken(response)
        take(4, words)
        token.cancel()

        with pytest.raises(Cancelled):
            local.bring_to_rest(token, **PATIENT)
    assert local.pid is None


def test_a_model_that_does_not_run_is_at_rest(local: LocalModel) -> None:
    assert local.bring_to_rest(CancelToken()) == "idle"
    local.start(CancelToken())
    end(psutil.Process(local.pid))
    assert local.bring_to_rest(CancelToken(), **PATIENT) == "idle"


def test_closing_ends_the_child_in_mid_answer(counter: Path) -> None:
    with LocalModel(counter, context_tokens=LONG_CONTEXT, threads=1) as local:
        response = post(local.start(CancelToken()), stream=True)
        words = spoken(response)
        take(4, words)
        pid = local.pid
    response.close()
    local.close()

    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(ModelError, match="is closed"):
        local.start(CancelToken())


def test_an_address_before_the_start_is_an_error(local: LocalModel) -> None:
    with pytest.raises(ModelError, match="has not been started"):
        _ = local.base_url


def test_a_cancelled_start_starts_nothing(local: LocalModel) -> None:
    token = CancelToken()
    token.cancel()

    with pytest.raises(Cancelled):
        local.start(token)
    assert local.pid is None


@pytest.fixture
def fake_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package `xllamacpp` that runs the given code as it is imported."""

    def install(code: str) -> None:
        (tmp_path / "xllamacpp.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def test_a_stop_while_the_model_loads_kills_the_child(
    local: LocalModel, fake_runtime: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second starter that waits for the first tries itself, and finds that the runtime is there by now."""
    fifo = tmp_path / "loading"
    os.mkfifo(fifo)
    fake_runtime(f"open({str(fifo)!r}, 'w').close()\nimport sys; sys.stdin.buffer.read()")
    token = CancelToken()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(local.start, token)
        fifo.open().close()  # returns when the child has come to load its runtime
        (tmp_path / "xllamacpp.py").unlink()
        second = pool.submit(local.start, CancelToken())
        token.cancel()

        with pytest.raises(Cancelled):
            first.result(PATIENCE_SECONDS)
        assert second.result(PATIENCE_SECONDS).base_url == local.base_url


def test_a_stop_while_another_thread_starts_the_child_ends_the_wait(
    local: LocalModel, fake_runtime: Callable[[str], None], tmp_path: Path
) -> None:
    fifo = tmp_path / "loading"
    os.mkfifo(fifo)
    fake_runtime(f"open({str(fifo)!r}, 'w').close()\nimport sys; sys.stdin.buffer.read()")
    starter, waiter = CancelToken(), CancelToken()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(local.start, starter)
        fifo.open().close()
        second = pool.submit(local.start, waiter)
        waiter.cancel()

        with pytest.raises(Cancelled):
            second.result(PATIENCE_SECONDS)
        assert not first.done()
        starter.cancel()
        with pytest.raises(Cancelled):
            first.result(PATIENCE_SECONDS)


def test_closing_while_it_starts_ends_the_start(
    local: LocalModel, fake_runtime: Callable[[str], None], tmp_path: Path
) -> None:
    fifo, go_on = tmp_path / "loading", tmp_path / "go-on"
    os.mkfifo(fifo)
    os.mkfifo(go_on)
    fake_runtime(f"open({str(fifo)!r}, 'w').close(); open({str(go_on)!r}).close()\n{FAKE_SERVER}")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(local.start, CancelToken())
        fifo.open().close()
        local.close()
        go_on.open("w").close()

        with pytest.raises(ModelError, match="closed while it started"):
            start.result(PATIENCE_SECONDS)
    assert psutil.Process().children() == []


def test_a_runtime_without_libgomp_says_what_to_install(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    fake_runtime(
        "raise ImportError('libgomp.so.1: cannot open shared object file: No such file or directory')"
    )

    with pytest.raises(ModelError, match="apt install libgomp1"):
        local.start(CancelToken())


def test_a_runtime_that_cannot_be_loaded_says_why(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    fake_runtime("raise ImportError('GLIBC_2.99 not found')")

    with pytest.raises(ModelError, match=r"can't be loaded: GLIBC_2\.99 not found"):
        local.start(CancelToken())


def test_a_runtime_that_is_not_installed_says_how(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    fake_runtime("raise ModuleNotFoundError('No module', name='xllamacpp')")

    with pytest.raises(ModelError, match=r"pip install 'aiwrapper\[local\]'"):
        local.start(CancelToken())


def test_a_crash_of_the_runtime_is_an_error_and_not_ours(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    fake_runtime("import os; os.abort()")

    with pytest.raises(ModelError, match=f"status -{int(signal.SIGABRT)}"):
        local.start(CancelToken())


RUNTIME_THAT_CANNOT_SERVE = """
import os, threading

class CommonParams:
    def __init__(self):
        self.model = self.cpuparams = self

class Server:
    def __init__(self, params):
        raise RuntimeError
"""


def test_what_the_runtime_says_late_is_the_reason(
    local: LocalModel, fake_runtime: Callable[[str], None]
) -> None:
    """llama.cpp writes its errors in a thread, each in several pieces."""
    fake_runtime(
        RUNTIME_THAT_CANNOT_SERVE
        + """
answered = threading.Event()
close = os.close

def closed(descriptor):
    close(descriptor)
    answered.set()

def say():
    os.write(2, b"0.00.021 ")
    answered.wait()
    os.write(2, b"E ")
    os.write(2, b"load: it is cut\\n0.00.022 E load: it failed\\n")

os.close = closed
threading.Thread(target=say).start()
"""
    )

    with pytest.raises(ModelError, match=r"load: it is cut$"):
        local.start(CancelToken())


def test_a_runtime_that_says_nothing_is_not_waited_for_for_ever(
    local: LocalModel, fake_runtime: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "_REASON_SECONDS", 0.01)
    fake_runtime(RUNTIME_THAT_CANNOT_SERVE)

    with pytest.raises(ModelError, match=r"does not say why$"):
        local.start(CancelToken())


def test_a_stop_while_the_reason_is_waited_for_is_obeyed(
    local: LocalModel, fake_runtime: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = CancelToken()
    ask = _process._reason

    def reason(process: subprocess.Popen[bytes], given: CancelToken) -> str:
        token.cancel()
        return ask(process, given)

    monkeypatch.setattr(_process, "_reason", reason)
    fake_runtime(RUNTIME_THAT_CANNOT_SERVE)

    with pytest.raises(Cancelled):
        local.start(token)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "counter"),
        (b"no model at all", "counter"),
        (None, "not within the file bounds.*: delete it and fetch it again"),
    ],
    ids=["empty", "something else", "cut"],
)
def test_a_bad_model_file_says_what_is_wrong(
    content: bytes | None, reason: str, counter: Path, tmp_path: Path
) -> None:
    path = tmp_path / "counter.gguf"
    path.write_bytes(content if content is not None else counter.read_bytes()[:100_000])

    with LocalModel(path) as local, pytest.raises(ModelError, match=reason):
        local.start(CancelToken())


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with LocalModel(tmp_path / "nowhere.gguf") as local, pytest.raises(ModelError, match=r"nowhere\.gguf"):
        local.start(CancelToken())


def test_a_model_file_may_be_named_by_its_text(counter: Path) -> None:
    with LocalModel(str(counter), threads=1) as local:
        assert counter == local.model
        assert local.start(CancelToken()).base_url == local.base_url


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_child_does_not_outlive_a_killed_parent(counter: Path) -> None:
    program = (
        "import pathlib, sys; from cancel_token import CancelToken; from aiwrapper.local import LocalModel\n"
        f"local = LocalModel(pathlib.Path({str(counter)!r}), context_tokens={LONG_CONTEXT}, threads=1)\n"
        "endpoint = local.start(CancelToken())\n"
        "print(local.pid, endpoint.base_url, endpoint.api_key, flush=True)\n"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        pid, base_url, api_key = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        with post(Endpoint(base_url, api_key), stream=True) as response:
            words = spoken(response)
            take(4, words)  # in mid-answer
            parent.kill()

            child.wait(PATIENCE_SECONDS)
    finally:
        parent.kill()
        parent.communicate()

    assert not child.is_running()
