"""Processes that tell each other: over real sockets, here in one process."""

import queue
import socket
from pathlib import Path

import pytest

from aiwrapper import Busy
from aiwrapper.chat import ChatAppData
from aiwrapper.chat._peers import Peers, Stop
from aiwrapper.store import Store

PATIENCE_SECONDS = 60


class Heard:
    """Peers that note what they are told."""

    def __init__(self, folder: Path) -> None:
        self.heard: queue.SimpleQueue[Stop | None] = queue.SimpleQueue()
        self.peers = Peers(folder, look=lambda: self.heard.put(None), stop=self.heard.put)

    def next(self) -> Stop | None:
        return self.heard.get(timeout=PATIENCE_SECONDS)


def test_who_has_the_store_open_is_told_and_who_tells_is_not(tmp_path: Path) -> None:
    one, two, three = (Heard(tmp_path / "peers") for _ in range(3))
    one.peers.look()
    two.peers.stop(Stop("chat", "run"))
    heard = (three.next(), three.next(), two.next(), one.next())
    for each in (one, two, three):
        each.peers.close()
        each.peers.close()

    assert (None, Stop("chat", "run"), None, Stop("chat", "run")) == heard
    assert [] == list((tmp_path / "peers").iterdir())


def test_what_a_dead_process_left_is_cleared_away(tmp_path: Path) -> None:
    one = Heard(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(str(tmp_path / "dead"))
    one.peers.look()
    left = {path.name for path in tmp_path.iterdir()}
    one.peers.close()

    assert "dead" not in left
    assert 1 == len(left)


def test_one_that_is_busy_loses_no_look(tmp_path: Path) -> None:
    one = Heard(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy:  # it does not take what it is told
        busy.bind(str(tmp_path / "busy"))
        for _ in range(2_000):
            one.peers.look()
        one.peers.stop(Stop("chat", "run"))
        first = busy.recv(100)
    one.peers.close()

    assert b"look" == first


def test_what_a_later_version_says_is_not_understood_and_does_no_harm(tmp_path: Path) -> None:
    one = Heard(tmp_path)
    (place,) = tmp_path.iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as later:
        for message in (b"", b"\xff", b'{"pause": 1}', b"look"):
            later.sendto(message, str(place))
    heard = one.next()
    one.peers.close()

    assert heard is None


def test_where_no_socket_can_be_nobody_is_told_and_nothing_fails(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    one, two = Heard(folder), Heard(folder)
    one.peers.look()
    one.peers.stop(Stop("chat", "run"))
    one.peers.close()
    two.peers.close()

    assert two.heard.empty()


def test_a_change_in_one_process_wakes_who_waits_in_another(tmp_path: Path) -> None:
    with ChatAppData(tmp_path / "chats.db") as here, ChatAppData(tmp_path / "chats.db") as there:
        chat_id = here.create()
        here.set_title(chat_id, "Tea")
        seen = there.wait_changed(chat_id, 0)
        here.set_title(chat_id, "Green tea")
        then = there.wait_changed(chat_id, seen.position)

    assert ["Tea", "Green tea"] == [seen.log.title, then.log.title]


def test_a_chat_that_somebody_else_holds_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiwrapper.chat._holding.HANDOVER_SECONDS", 0.0)
    with ChatAppData(tmp_path / "chats.db") as data, Store(tmp_path / "chats.db") as other:
        chat_id = data.create()
        with other.open(chat_id), pytest.raises(Busy):
            data.set_title(chat_id, "Tea")
        data.set_title(chat_id, "Tea")
        title = data.state(chat_id).log.title

    assert "Tea" == title
