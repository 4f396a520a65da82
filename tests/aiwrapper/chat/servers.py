"""`aiwrapper serve` as a process, a client that is as strict as a browser, and pages that follow a chat."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from aiwrapper.testing import FakeProvider

PROGRAM = str(Path(sys.executable).with_name("aiwrapper"))
ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 60
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
Json = dict[str, Any]  # Any: JSON


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests is found."""
    kept = {name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_START") if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "PYTHONWARNINGS": "error", **more}


class Server:
    """A process that serves the ChatApp, as a context manager: SIGTERM at the end, and it has to exit with 0 and say
    nothing of errors.

    Args:
        command: what is run; it prints its address in its last line before it is silent.
        variables: its environment.
        lines: how many lines it prints.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], lines: int) -> None:
        self._command = command
        self._variables = variables
        self._lines = lines
        self.where: Path | None = None
        self.left: Json = {}
        """What a moving one that has left says that it has left behind."""

    @classmethod
    def program(cls, provider: FakeProvider, home: Path, *arguments: str, **variables: str) -> Self:
        """`aiwrapper serve` for one provider, with its store in `home`."""
        command = [PROGRAM, "--store", str(home / "chats.db"), "serve", "--port", "0"]
        command += ["--host", provider.base_url, "--model", provider.model, *arguments]
        return cls(command, environment(home, AIWRAPPER_API_KEY=provider.api_key, **variables), 2)

    @classmethod
    def moving(cls, home: Path, **variables: str) -> Self:
        """One that asks another provider whenever it is told to (`ask`), and has tools."""
        where = home / "provider"
        command = [sys.executable, "-m", "tests.aiwrapper.chat.serving", str(home / "chats.db"), "0"]
        server = cls([*command, str(where)], environment(home, **variables), 1)
        server.where = where
        return server

    def ask(self, provider: FakeProvider) -> None:
        """Ask this provider from now on."""
        assert self.where is not None
        self.where.write_text(provider.base_url)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env=self._variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = [self.process.stdout.readline() for _ in range(self._lines)][-1]
        if not said:
            _, errors = self.process.communicate()
            raise AssertionError(errors)
        self.address = said.removeprefix("Open ").strip()
        self.client = httpx.Client(
            base_url=self.address.partition("?")[0], headers=SAME_ORIGIN, timeout=PATIENCE_SECONDS
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        said, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.left = json.loads(said) if self.where is not None and said else {}
        if exc_info[0] is None and self.process.returncode != -signal.SIGKILL:
            assert (0, "") == (self.process.returncode, errors), errors

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def new_chat(self, **settings: object) -> "ChatClient":
        answer = self.client.post("api/chats", json=settings)
        assert answer.status_code == 200
        return ChatClient(self.client, answer.json()["id"])

    def chat(self, chat_id: str) -> "ChatClient":
        return ChatClient(self.client, chat_id)


class ChatClient:
    """What a page can ask of one chat."""

    def __init__(self, client: httpx.Client, chat_id: str) -> None:
        self.client = client
        self.id = chat_id

    def post(self, what: str, **body: object) -> httpx.Response:
        return self.client.post(f"api/chats/{self.id}/{what}", json=body)

    def done(self, what: str, **body: object) -> Json:
        """Ask for something that has to succeed."""
        answer = self.post(what, **body)
        assert answer.is_success, answer.text
        value: Json = answer.json()
        return value

    def send(self, text: str, **more: object) -> str:
        """Send a message, and return the run's id."""
        run_id = str(uuid4())
        self.done("send", run_id=run_id, text=text, **more)
        return run_id

    def snapshot(self) -> "Page":
        page = Page()
        page.apply(self.client.get(f"api/chats/{self.id}").json())
        return page

    @contextmanager
    def page(self, after: int | None = None, *, query: bool = False) -> Iterator["Page"]:
        """A page that follows the chat: from the beginning, or from a position, in a header or in the query."""
        headers, params = {}, {}
        if after is not None and query:
            params["after"] = str(after)
        elif after is not None:
            headers["last-event-id"] = str(after)
        with self.client.stream(
            "GET", f"api/chats/{self.id}/events", headers=headers, params=params
        ) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            yield Page(response.iter_lines())


class Page:
    """What a page knows of a chat: it applies what it is told, as docs/chatapp.md says."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lines = iter(lines)
        self.kinds: list[str] = []
        self.comments: list[str] = []
        self.positions: list[int] = []
        self.chat: Json = {}
        self.runs: dict[str, Json] = {}
        self.messages: dict[str, Json] = {}

    def next_event(self) -> Json | None:
        """Apply the next event; None if the stream has ended."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                change: Json = json.loads(fields["data"])
                assert fields["id"] == str(change["position"])
                self.kinds.append(fields["event"])
                if fields["event"] == "snapshot":
                    self.chat, self.runs, self.messages = {}, {}, {}
                self.apply(change)
                return change
        return None

    def apply(self, change: Json) -> None:
        self.positions.append(change["position"])
        self.chat = change.get("chat", self.chat)
        self.runs.update({run["id"]: run for run in change.get("runs", ())})
        for message in change.get("messages", ()):
            assert message["parent_id"] is None or message["parent_id"] in self.messages
            self.messages[message["id"]] = {**self.messages.get(message["id"], {}), **message}
        for part in change.get("parts", ()):
            parts = self.messages[part["message_id"]]["parts"]
            assert part["part"] <= len(parts)
            parts[part["part"] :] = [part["value"], *parts[part["part"] + 1 :]]
        for block in change.get("blocks", ()):
            blocks = self.messages[block["message_id"]]["parts"][block["part"]]["blocks"]
            assert block["block"] <= len(blocks)
            if block["html"] is None:
                del blocks[block["block"] :]
            else:
                blocks[block["block"] :] = [block["html"], *blocks[block["block"] + 1 :]]

    def follow_until(self, run_id: str, *states: str) -> Json:
        """Apply events until the run is in one of these states: of a run that goes on, or how it ended."""
        while True:
            run = self.chat.get("run")
            ended = self.runs.get(run_id)
            if ended is not None:
                assert ended["status"] in states, ended
                return ended
            if run is not None and run["id"] == run_id and run["state"] in states:
                assert isinstance(run, dict)
                return run
            assert self.next_event() is not None

    def follow_text(self, text: str) -> None:
        """Apply events until the shown branch holds this text."""
        while text not in self.text:
            assert self.next_event() is not None

    @property
    def path(self) -> Sequence[Json]:
        """The messages of the shown branch."""
        shown: list[Json] = []
        message_id = self.chat.get("head_id")
        while message_id is not None:
            shown.append(self.messages[message_id])
            message_id = shown[-1]["parent_id"]
        return shown[::-1]

    @property
    def text(self) -> str:
        """What stands on the page, without what Markdown adds."""
        words: list[str] = []
        for message in self.path:
            for part in message["parts"]:
                words += part.get("blocks", ()) or [part.get("text", "")]
        return "".join(words)
