"""`aiwrapper model`: the small model that runs on this computer."""

import importlib.util
import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from aiwrapper.local import SMOLLM2, find_model, get_model
from aiwrapper.terminal.exit_status import ExitStatus
from cancel_token import Cancelled, CancelToken
from cancel_token.signals import cancel_on_sigint


def fetch_model() -> int:
    """Fetch it, with a progress bar, unless it is here.

    Returns:
        0; 130 if it was stopped, and then nothing is left of it.
    """
    console = Console(stderr=True)
    token = CancelToken(name="model get")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with cancel_on_sigint(token, watcher=True), Progress(*columns, console=console) as progress:
            task = progress.add_task(f"Fetching {SMOLLM2.name}", total=None)
            path = get_model(token, lambda done, total: progress.update(task, completed=done, total=total))
    except Cancelled:
        console.print("Stopped; nothing was kept.", style="yellow")
        return ExitStatus.STOPPED
    console.print(f"The model is here: {path}", markup=False, highlight=False)
    return 0


def offer_model() -> int:
    """Ask a person at the terminal whether to fetch it, and fetch it after a yes.

    Returns:
        0; what `fetch_model` returned if it was to be fetched.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        return 0  # it could not be run; the built-in voice says what else there is
    print(
        "There is no key and no model here. A small one (SmolLM2-135M, 93 MB) can run on this computer; it is\n"
        "fluent and often wrong, but real: something to talk to and to stop."
    )
    answer = input("Fetch it now? [Y/n] ").strip().lower()
    return fetch_model() if answer in ("", "y", "yes") else 0


def print_model_path() -> int:
    """Print where it is.

    Returns:
        0; 1 if it is not here.
    """
    path = find_model()
    if path is None:
        print("aiwrapper: the model is not here: fetch it with `aiwrapper model get`", file=sys.stderr)
        return 1
    print(path)
    return 0
