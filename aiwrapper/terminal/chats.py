"""Where the terminal keeps conversations, and `aiwrapper chats`, which lists them."""

import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aiwrapper._core.errors import AiwrapperError
from aiwrapper.store import ConversationSummary, Store
from aiwrapper.terminal.printing import printable

SHOWN_ID_CHARACTERS = 8


def store_path(given: Path | None) -> Path:
    """The file given, or the platform's place for a person's data: `$XDG_DATA_HOME/aiwrapper/chats.db` and its kin."""
    if given is not None:
        return given
    xdg = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification: a relative path is to be ignored
        base = Path(xdg)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ".local" / "share"
    return base / "aiwrapper" / "chats.db"


def find_chat(store: Store, beginning: str) -> ConversationSummary:
    """The conversation whose id begins so; with an empty beginning, the one written last.

    Raises:
        AiwrapperError: there is none, or more than one.
    """
    found = [summary for summary in _begun(store) if summary.id.startswith(beginning)]
    if not found:
        raise AiwrapperError(
            f"no conversation has an id that begins with {beginning!r}: see `aiwrapper chats`"
            if beginning
            else "there is no conversation yet: begin one with `aiwrapper chat`"
        )
    if beginning and len(found) > 1:
        raise AiwrapperError(
            f"{len(found)} conversations have ids that begin with {beginning!r}: give more of it"
        )
    return found[0]


def _begun(store: Store) -> list[ConversationSummary]:
    """The conversations in which something was said, the one written last first."""
    return [summary for summary in store.list() if summary.title or summary.preview]


def list_chats(given: Path | None) -> int:
    """Print the conversations, the one written last first."""
    with Store(store_path(given)) as store:
        summaries = _begun(store)
    console = Console()
    if not summaries:
        console.print("No conversations yet. Begin one with: aiwrapper chat")
        return 0
    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True)
    table.add_column("LAST WRITTEN", no_wrap=True)
    table.add_column("ABOUT", no_wrap=True, overflow="ellipsis")
    for summary in summaries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.updated_at))
        table.add_row(summary.id[:SHOWN_ID_CHARACTERS], when, printable(summary.title or summary.preview))
    console.print(table, markup=False)
    console.print("Go on with one: aiwrapper chat --continue ID", style="dim")
    return 0
