"""Where the terminal keeps conversations, and `aiwrapper chats`, which lists them."""

import os
import shlex
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


def command(words: str, given: Path | None) -> str:
    """What a person has to type to come to the same store, with that file if one was given."""
    return f"aiwrapper {words}" if given is None else f"aiwrapper --store {shlex.quote(str(given))} {words}"


def find_chat(store: Store, beginning: str, given: Path | None) -> ConversationSummary:
    """The conversation whose id begins so; with an empty beginning, the one written last.

    Args:
        store: where to look.
        beginning: of the id.
        given: the file that the store was named by, for the error's advice.

    Raises:
        AiwrapperError: there is none, or more than one.
    """
    found = [summary for summary in _begun(store) if summary.id.startswith(beginning)]
    if not found:
        raise _no_chat(beginning, given)
    if beginning and len(found) > 1:
        raise AiwrapperError(
            f"{len(found)} conversations have ids that begin with {beginning!r}: give more of it"
        )
    return found[0]


def check_store(beginning: str, given: Path | None) -> None:
    """Make sure that there is a store in which a conversation can be found: opening one makes it.

    Raises:
        AiwrapperError: there is none, and so no conversation.
    """
    if not store_path(given).exists():
        raise _no_chat(beginning, given)


def _no_chat(beginning: str, given: Path | None) -> AiwrapperError:
    return AiwrapperError(
        f"no conversation has an id that begins with {beginning!r}: see `{command('chats', given)}`"
        if beginning
        else f"there is no conversation yet: begin one with `{command('chat', given)}`"
    )


def _begun(store: Store) -> list[ConversationSummary]:
    """The conversations in which something was said, the one written last first."""
    return [summary for summary in store.list() if summary.title or summary.preview]


def list_chats(given: Path | None) -> int:
    """Print the conversations, the one written last first."""
    path = store_path(given)
    summaries: list[ConversationSummary] = []
    if path.exists():  # opening a store makes it
        with Store(path) as store:
            summaries = _begun(store)
    console = Console()
    if not summaries:
        advise(console, f"No conversations yet. Begin one with: {command('chat', given)}")
        return 0
    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True)
    table.add_column("LAST WRITTEN", no_wrap=True)
    table.add_column("ABOUT", no_wrap=True, overflow="ellipsis")
    for summary in summaries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.updated_at))
        table.add_row(summary.id[:SHOWN_ID_CHARACTERS], when, printable(summary.title or summary.preview))
    console.print(table, markup=False)
    advise(console, f"Go on with one: {command('chat --continue ID', given)}", style="dim")
    return 0


def advise(console: Console, text: str, style: str = "") -> None:
    """Print a line to be copied from: a path in it is not read as markup, and not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
