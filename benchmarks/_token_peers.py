"""The peers on the index, each in a virtual environment of its own, beside us: what `bench_token.py --peers` prints."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import attrs

import cancel_token

COLUMNS = ("create", "ask", "check", "child", "register")
BASELINES = ("Event()", "e.is_set()", "e.is_set()", "Event()", "d[k] = fn; del d[k]")


@attrs.frozen
class Peer:
    """A token of somebody else's.

    Args:
        distribution: Its name on the index.
        imports: What brings its token in, as `Token`.
        statements: How one says it there, in the order of `COLUMNS`; empty for what it does not have.
    """

    distribution: str
    imports: str
    statements: tuple[str, str, str, str, str]


OURS = Peer(
    "ours",
    "from cancel_token import CancelToken as Token",
    ("Token()", "t.cancelled", "t.check()", "t.child()", "t.on_cancel(fn).unregister()"),
)
PEERS = (
    Peer(
        "cantok",
        "from cantok import SimpleToken as Token",
        ("Token()", "t.cancelled", "t.check()", "t + Token()", ""),
    ),
    Peer(
        "cancel-token",
        "from cancel_token import CancellationToken as Token",
        ("Token()", "t.cancelled", "", "", "t.on_cancel(fn); t.remove_callback(fn)"),
    ),
    Peer(
        "cancelscope", "from cancelscope import CancelScope as Token", ("Token()", "t.cancelled", "", "", "")
    ),
    Peer(
        "hother-cancelable",
        "from hother.cancelable import CancelationToken as Token",
        ("Token()", "t.is_cancelled", "t.check()", "", ""),
    ),
)

PROGRAM = """
import importlib.metadata, sys, threading, timeit
distribution, imports, statements, baselines = sys.argv[1], sys.argv[2], sys.argv[3:8], sys.argv[8:]
names = {"Event": threading.Event, "e": threading.Event(), "d": {}, "k": object(), "fn": id}
if distribution == "ours":
    sys.path.insert(0, sys.argv.pop())
    del baselines[-1]
exec(imports, names)
names["t"] = eval(statements[0], names)
def timer(statement):
    return timeit.Timer("; ".join([statement] * 20), globals=names)
def ratio(statement, baseline):
    timers = [timer(statement), timer(baseline)]
    rounds = [[each.timeit(100) for each in timers] for _ in range(15)]
    ours, base = (min(times) for times in zip(*rounds))
    return f"{ours / base:.2f}"
print("" if distribution == "ours" else importlib.metadata.version(distribution))
print(*(ratio(s, b) if s else "-" for s, b in zip(statements, baselines)))
"""


def print_table() -> None:
    """Install, measure and print one after the other; who can't be installed here is said to be so."""
    heads = "".join(f" {column:>9}" for column in COLUMNS)
    print(f"\n{'peers, as ratios to the same baselines':40}{heads}")
    print(f"{'ours':40}{measure(Path(sys.executable), OURS)[1]}", flush=True)
    for peer in PEERS:
        for line in lines_of(peer):
            print(line, flush=True)


def lines_of(peer: Peer) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        python = Path(folder, "bin", "python")
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", peer.distribution]
        installed = subprocess.run(pip, capture_output=True, text=True, check=False)
        if installed.returncode:
            yield f"{peer.distribution:40} cannot be installed on this Python: {last_line(installed.stderr)}"
            return
        try:
            version, ratios = measure(python, peer)
        except subprocess.CalledProcessError as error:
            yield f"{peer.distribution:40} does not run here: {last_line(error.stderr)}"
        else:
            yield f"{peer.distribution + ' ' + version:40}{ratios}"


def measure(python: Path, peer: Peer) -> tuple[str, str]:
    """Its version, and its ratios, in columns."""
    arguments = [peer.distribution, peer.imports, *peer.statements, *BASELINES]
    if peer is OURS:
        arguments.append(str(Path(cancel_token.__file__).parent.parent))
    done = subprocess.run(
        [str(python), "-I", "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    version, ratios = done.stdout.splitlines()
    return version, "".join(f" {ratio:>9}" for ratio in ratios.split())


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
