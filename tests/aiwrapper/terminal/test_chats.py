import shlex
from pathlib import Path

import pytest

from aiwrapper import AiwrapperError, Text, UserMessageAdded
from aiwrapper.cli import main
from aiwrapper.store import Store
from aiwrapper.terminal.chats import command, find_chat, list_chats, store_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


def say(store: Store, text: str) -> str:
    chat_id = store.create()
    with store.open(chat_id) as log:
        log.append(UserMessageAdded("u", (Text(text),)))
    return chat_id


def test_conversations_are_listed_the_last_one_first(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(path) as store:
        say(store, "About rivers")
        say(store, "About [bold]hills[/bold]\x1b[2J")

    assert 0 == list_chats(path)
    _, first, second, hint = capsys.readouterr().out.splitlines()
    assert "About [bold]hills[/bold][2J" in first
    assert "About rivers" in second
    assert "--continue" in hint


def test_a_conversation_is_about_what_was_said_first(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(path) as store:
        chat_id = say(store, "About rivers")
        with store.open(chat_id) as log:
            log.append(UserMessageAdded("v", (Text("Thank you"),), parent_id="u"))

    assert 0 == list_chats(path)
    _, listed, _ = capsys.readouterr().out.splitlines()
    assert listed.endswith("About rivers")


def test_without_conversations_it_says_how_to_begin_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    assert 0 == list_chats(None)
    assert "No conversations yet. Begin one with: aiwrapper chat\n" == capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["chats"], ["chat", "--continue"], ["chat", "--continue", "0a"]])
def test_who_only_looks_for_conversations_makes_no_store(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--store", str(tmp_path / "deep" / "none.db"), *arguments])
    printed = capsys.readouterr()

    assert [] == list(tmp_path.iterdir())
    assert "no conversation" in (printed.out + printed.err).lower()


def test_what_it_tells_to_type_leads_to_the_same_store_and_can_be_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a [long] name" / ("x" * 90) / "my chats.db"
    assert 0 == list_chats(path)
    before = capsys.readouterr().out.splitlines()[-1]
    with Store(path) as store:
        say(store, "About rivers")
    assert 0 == list_chats(path)
    after = capsys.readouterr().out.splitlines()[-1]

    same_store = ["aiwrapper", "--store", str(path), "chat"]
    assert same_store == shlex.split(before.removeprefix("No conversations yet. Begin one with: "))
    assert [*same_store, "--continue", "ID"] == shlex.split(after.removeprefix("Go on with one: "))
    assert "aiwrapper chat" == command("chat", None)


def test_a_conversation_is_found_by_the_beginning_of_its_id(path: Path) -> None:
    with Store(path) as store:
        first, second = say(store, "one"), say(store, "two")

        assert first == find_chat(store, first[:10], path).id
        assert second == find_chat(store, "", path).id


def test_an_id_that_says_too_little_or_too_much_is_an_error(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(AiwrapperError, match="no conversation yet"):
            find_chat(store, "", path)
        beginnings = [say(store, "x")[0] for _ in range(17)]  # sixteen digits: two of them begin alike
        twice = next(digit for digit in beginnings if beginnings.count(digit) > 1)

        with pytest.raises(AiwrapperError, match="begin with"):
            find_chat(store, twice, path)
        with pytest.raises(AiwrapperError, match=r"see `aiwrapper --store .*chats.db chats`"):
            find_chat(store, "zz", path)


def test_the_store_is_where_the_platform_keeps_a_person_s_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert tmp_path / "aiwrapper" / "chats.db" == store_path(None)
    assert Path("given.db") == store_path(Path("given.db"))
