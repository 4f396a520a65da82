"""The chats and whoever answers in them, without a page: a real store, a fake provider over real sockets."""

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import evolve

from aiwrapper import AssistantMessage, Budget, ChatAgent, Configured, Text, UserMessage, validate
from aiwrapper.chat import ChatAppData, Configuration, Leaving, Running, UnknownMessage, WrapChatAgent
from aiwrapper.store import Store, UnknownConversation
from aiwrapper.testing import Call, FakeProvider, HttpError, Say, Turn
from cancel_token import Cancelled, CancelToken
from tests.aiwrapper.running import lang_at

PATIENCE_SECONDS = 60
STORY = Turn((Say(("Once upon ", "a time ", "there was ", "a river.")),))


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


@pytest.fixture
def data(tmp_path: Path) -> Iterator[ChatAppData]:
    with ChatAppData(tmp_path / "chats.db") as chats:
        yield chats


@pytest.fixture
def wrapped(data: ChatAppData, provider: FakeProvider) -> Iterator[WrapChatAgent]:
    with WrapChatAgent(data, ChatAgent(lang_at(provider), [look])) as answering:
        yield answering


def look(place: str) -> str:
    """Look somewhere."""
    return f"Nothing at {place}."


def said(data: ChatAppData, chat_id: str) -> list[str]:
    """The texts of the branch that is gone on with."""
    return [
        "".join(part.text for part in message.parts if isinstance(part, Text))
        for message in data.messages(chat_id)
        if isinstance(message, UserMessage | AssistantMessage)
    ]


def answered(data: ChatAppData, chat_id: str, text: str) -> str:
    """Say something and wait for the answer's end; the id of what was said."""
    asked = data.send_message(chat_id, text)
    data.wait_ended(chat_id, asked.run_id)
    return asked.message_id


def test_a_message_is_answered(data: ChatAppData, wrapped: WrapChatAgent) -> None:
    chat_id = data.create()
    answered(data, chat_id, "Hello?")

    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_without_somebody_who_answers_a_message_stays_unanswered(data: ChatAppData) -> None:
    chat_id = data.create()
    data.send_message(chat_id, "Is anybody there?")

    assert ["Is anybody there?"] == said(data, chat_id)
    assert data.state(chat_id).running is None


def test_nobody_begins_to_answer_by_reading(data: ChatAppData, provider: FakeProvider) -> None:
    chat_id = data.create()
    data.send_message(chat_id, "Is anybody there?")
    with WrapChatAgent(data, ChatAgent(lang_at(provider))) as late:
        data.state(chat_id)
        data.note_crash(chat_id)
        running = late.running

    assert () == running
    assert () == provider.requests


def test_an_edit_is_a_branch_and_the_old_one_is_kept(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(Turn((Say(("One.",)),)), Turn((Say(("Two.",)),)), Turn((Say(("Three.",)),)))
    chat_id = data.create()
    first = answered(data, chat_id, "Count")
    answered(data, chat_id, "Go on")
    asked = data.edit_message(chat_id, first, "Count from three")
    data.wait_ended(chat_id, asked.run_id)
    edited = said(data, chat_id)
    data.switch_branch(chat_id, first)

    assert ["Count from three", "Three."] == edited
    assert ["Count", "One.", "Go on", "Two."] == said(data, chat_id)
    assert [] == validate(data.state(chat_id).conversation)


def test_an_edit_in_the_middle_follows_what_was_before(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    answered(data, chat_id, "One")
    second = answered(data, chat_id, "Two")
    asked = data.edit_message(chat_id, second, "Three")
    data.wait_ended(chat_id, asked.run_id)

    assert ["One", "Hello from the fake.", "Three", "Hello from the fake."] == said(data, chat_id)


def test_only_what_a_user_said_can_be_edited(data: ChatAppData, wrapped: WrapChatAgent) -> None:
    chat_id = data.create()
    answered(data, chat_id, "Hello?")
    head = data.state(chat_id).conversation.head_id
    assert head is not None

    with pytest.raises(UnknownMessage):
        data.edit_message(chat_id, head, "I say what you say")
    with pytest.raises(UnknownMessage):
        data.edit_message(chat_id, "nobody", "I say what you say")


def test_a_retry_answers_anew_and_keeps_the_old_answer(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(Turn((Say(("Heads.",)),)), Turn((Say(("Tails.",)),)))
    chat_id = data.create()
    answered(data, chat_id, "Toss a coin")
    old = data.state(chat_id).conversation.head_id
    assert old is not None
    asked = data.retry_message(chat_id, old)
    data.wait_ended(chat_id, asked.run_id)
    again = said(data, chat_id)
    data.switch_branch(chat_id, old)

    assert ["Toss a coin", "Tails."] == again
    assert ["Toss a coin", "Heads."] == said(data, chat_id)


def test_a_retry_from_an_error_answers_what_was_asked(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(HttpError(401))
    chat_id = data.create()
    message_id = answered(data, chat_id, "Hello?")
    state = data.state(chat_id)
    failed = state.run(state.log.runs[0].run_id)
    asked = data.retry_message(chat_id, message_id)
    data.wait_ended(chat_id, asked.run_id)

    assert failed is not None
    assert ("failed", "authentication") == (failed.status, failed.reason)
    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_a_model_goes_on_behind_its_cut_answer(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(STORY)
    chat_id = data.create()
    with provider.hold_at("mid_body"):
        asked = data.send_message(chat_id, "Tell me a story")
        while "Once upon" not in "".join(said(data, chat_id)):
            data.wait_changed(chat_id, data.state(chat_id).position)
        data.stop_message(chat_id, asked.run_id)
        data.wait_ended(chat_id, asked.run_id)
    going_on = data.continue_message(chat_id)
    data.wait_ended(chat_id, going_on.run_id)
    message = data.message(chat_id, going_on.message_id)

    assert isinstance(message, UserMessage)
    assert message.synthetic
    assert "Hello from the fake." == said(data, chat_id)[-1]


def test_nothing_can_be_continued_before_something_was_said(
    data: ChatAppData, wrapped: WrapChatAgent
) -> None:
    with pytest.raises(UnknownMessage):
        data.continue_message(data.create())


def test_a_stop_for_another_run_does_nothing_and_says_so(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(STORY)
    chat_id = data.create()
    old = data.send_message(chat_id, "Hello?")
    data.wait_ended(chat_id, old.run_id)
    with provider.hold_at("headers") as hold:
        asked = data.send_message(chat_id, "And now?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        ended = data.stop_message(chat_id, old.run_id)
        unknown = data.stop_message(chat_id, "another")
    state = data.wait_ended(chat_id, asked.run_id)
    report = state.run(asked.run_id)

    assert ("ended", asked.run_id) == (ended.state, ended.running)
    assert ("remembered", asked.run_id) == (unknown.state, unknown.running)
    assert report is not None
    assert "completed" == report.status


def test_a_second_message_is_refused_while_a_run_goes_on(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with provider.hold_at("headers") as hold:
        asked = data.send_message(chat_id, "Hello?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        with pytest.raises(Running) as refused:
            data.send_message(chat_id, "Hello???")
        with pytest.raises(Running):
            data.switch_branch(chat_id, asked.message_id)
        data.set_title(chat_id, "A title meanwhile")
        data.configure(chat_id, lambda before: Configuration(instructions="Be brief."))
    state = data.wait_ended(chat_id, asked.run_id)

    assert asked.run_id == refused.value.run_id
    assert "A title meanwhile" == state.log.title
    assert "Be brief." == state.configuration.instructions


def test_asking_twice_with_one_id_is_asking_once(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with provider.hold_at("headers") as hold:
        first = data.send_message(chat_id, "Hello?", run_id="one")
        assert hold.reached.wait(PATIENCE_SECONDS)
        second = data.send_message(chat_id, "Hello?", run_id="one")
    data.wait_ended(chat_id, "one")
    third = data.send_message(chat_id, "Hello?", run_id="one")

    assert first == second
    assert (first.run_id, first.message_id) == (third.run_id, third.message_id)
    assert 1 == len(provider.requests)
    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_asking_again_for_what_was_not_begun_begins_it_and_says_nothing_twice(
    data: ChatAppData, provider: FakeProvider
) -> None:
    chat_id = data.create()
    data.send_message(chat_id, "Hello?", run_id="one")  # nobody answers: as if the process had died here
    with WrapChatAgent(data, ChatAgent(lang_at(provider))):
        data.send_message(chat_id, "Hello?", run_id="one")
        data.wait_ended(chat_id, "one")

    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_many_who_ask_at_once_with_one_id_begin_one_run(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    together = threading.Barrier(4)
    asked: list[object] = []

    def ask() -> None:
        together.wait(PATIENCE_SECONDS)
        asked.append(data.send_message(chat_id, "Hello?", run_id="one").message_id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data.wait_ended(chat_id, "one")

    assert ["one.said"] * 4 == asked
    assert 1 == len(provider.requests)


@pytest.mark.parametrize("run_id", ["", "a.b", "a b", "x" * 65])
def test_what_can_be_no_id_is_refused(data: ChatAppData, run_id: str) -> None:
    chat_id = data.create()
    with pytest.raises(ValueError, match="id"):
        data.send_message(chat_id, "Hello?", run_id=run_id)


def test_a_deleted_chat_is_stopped_and_gone(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with provider.hold_at("headers") as hold:
        data.send_message(chat_id, "Hello?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        data.delete(chat_id)
        assert hold.request is not None
        assert hold.request.hung_up.wait(PATIENCE_SECONDS)
    wrapped.close()

    assert "stopped" == data.latest(chat_id).log.runs[0].status
    assert () == data.list()
    with pytest.raises(UnknownConversation):
        data.state(chat_id)


def test_a_chat_is_answered_as_it_is_configured(data: ChatAppData, provider: FakeProvider) -> None:
    with FakeProvider("openai_chat", model="other") as other:
        models = {"other": evolve(lang_at(other), model="other")}
        with WrapChatAgent(data, ChatAgent(lang_at(provider), [look]), models=models):
            chat_id = data.create(Configuration(model="other", instructions="Be brief.", tools=()))
            answered(data, chat_id, "Hello?")
            asked = other.requests[0].json()
            data.configure(chat_id, lambda before: Configuration())
            answered(data, chat_id, "And now?")
            then = provider.requests[0].json()

    assert {"role": "system", "content": "Be brief."} == asked["messages"][0]
    assert "tools" not in asked
    assert ["look"] == [offered["function"]["name"] for offered in then["tools"]]


def test_each_chat_may_use_what_its_agent_is_given(data: ChatAppData, provider: FakeProvider) -> None:
    """U3."""
    agent = ChatAgent(lang_at(provider), budget=Budget(turns=1))
    with WrapChatAgent(data, agent):
        first, second = data.create(), data.create()
        for chat_id in (first, first, second):
            answered(data, chat_id, "Hello?")
        refused = data.latest(first).log
        agent.budget = Budget(turns=2)
        answered(data, first, "And now?")

    assert ["completed", "failed"] == [run.status for run in refused.runs]
    assert "budget" == refused.runs[1].reason
    assert "completed" == data.latest(first).log.runs[2].status
    assert "completed" == data.latest(second).log.runs[0].status
    assert 3 == len(provider.requests)


def test_each_owner_sees_their_own_chats(data: ChatAppData) -> None:
    mine, yours = (data.create(Configuration(owner=owner)) for owner in ("me", "you"))
    for chat_id in (mine, yours):
        data.send_message(chat_id, "Hello?")
    data.configure(yours, lambda before: Configuration(owner="me"))

    assert [mine] == [summary.id for summary in data.list(owner="me")]
    assert [yours] == [summary.id for summary in data.list(owner="you")]
    assert () == data.list()


def test_nobody_is_told_of_what_is_not_in_the_store(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    provider.add(STORY)
    chat_id = data.create()
    missing: list[int] = []
    told: list[int] = []

    def observe(changed: str, number: int) -> None:
        with Store(data.path) as other:  # another connection sees what is committed
            there = sum(1 for _ in other.entries(changed))
        told.append(number)
        if there < number:
            missing.append(number)

    unsubscribe = data.subscribe(observe)
    answered(data, chat_id, "Tell me a story")
    wrapped.close()  # and with it the thread that tells
    unsubscribe()
    before = len(told)
    data.set_title(chat_id, "Nobody is told")

    assert [] == missing
    assert data.state(chat_id).position - 1 == max(told)
    assert before == len(told)


def test_a_wait_ends_with_its_token(data: ChatAppData) -> None:
    chat_id = data.create()
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        data.wait_changed(chat_id, 0, token=token)


def test_a_task_waits_for_a_change(data: ChatAppData) -> None:
    chat_id = data.create()
    positions: list[int] = []

    async def wait(started: trio.Event) -> None:
        started.set()
        positions.append((await data.wait_changed_async(chat_id, 0)).position)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            started = trio.Event()
            nursery.start_soon(wait, started)
            await started.wait()
            await trio.to_thread.run_sync(data.set_title, chat_id, "Tea")

    trio.run(main)

    assert [1] == positions


def test_who_leaves_begins_nothing_and_waits_for_nothing(data: ChatAppData) -> None:
    chat_id = data.create()
    data.leave()
    with pytest.raises(Leaving):
        data.send_message(chat_id, "Hello?")
    with pytest.raises(Leaving):
        data.wait_changed(chat_id, 0)


def test_closing_who_answers_stops_what_runs_with_the_reason_shutdown(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with provider.hold_at("headers") as hold:
        asked = data.send_message(chat_id, "Hello?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        trio.run(wrapped.aclose)
    report = data.state(chat_id).run(asked.run_id)

    assert report is not None
    assert ("stopped", "shutdown") == (report.status, report.reason)
    assert () == wrapped.running


def test_two_cannot_answer_in_the_same_chats(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    with pytest.raises(RuntimeError):
        WrapChatAgent(data, ChatAgent(lang_at(provider)))


def test_a_tool_that_runs_is_stopped_with_its_run(data: ChatAppData, provider: FakeProvider) -> None:
    running = threading.Event()

    def wait_long(token: CancelToken) -> str:
        """Wait."""
        running.set()
        token.wait()
        token.check()
        return "waited"

    provider.add(Turn((Call("wait_long", ("{}",)),)))
    chat_id = data.create()
    with WrapChatAgent(data, ChatAgent(lang_at(provider), [wait_long])):
        asked = data.send_message(chat_id, "Wait")
        assert running.wait(PATIENCE_SECONDS)
        data.stop_message(chat_id, asked.run_id)
        data.stop_message(chat_id, asked.run_id)
        report = data.wait_ended(chat_id, asked.run_id).run(asked.run_id)
        answered(data, chat_id, "Never mind")

    assert report is not None
    assert ("stopped", "user", "running_tools") == (report.status, report.reason, report.where)
    assert "Hello from the fake." == said(data, chat_id)[-1]


def test_a_run_that_gets_no_thread_has_failed_and_the_chat_is_free(
    data: ChatAppData, wrapped: WrapChatAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("run "):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    chat_id = data.create()
    asked = data.send_message(chat_id, "Hello?")
    failed = data.wait_ended(chat_id, asked.run_id).run(asked.run_id)
    monkeypatch.undo()
    again = data.retry_message(chat_id, asked.message_id)
    data.wait_ended(chat_id, again.run_id)

    assert failed is not None
    assert ("failed", "internal") == (failed.status, failed.reason)
    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_another_process_stops_follows_and_waits_for_a_run(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with ChatAppData(data.path) as other, provider.hold_at("headers") as hold:
        asked = data.send_message(chat_id, "Hello?")
        assert hold.reached.wait(PATIENCE_SECONDS)
        other.note_crash(chat_id)  # it goes on, so there is none
        with pytest.raises(Running):
            other.set_title(chat_id, "Tea")
        with pytest.raises(Running):
            other.send_message(chat_id, "Me too")
        receipt = other.stop_message(chat_id, asked.run_id)
        report = other.wait_ended(chat_id, asked.run_id).run(asked.run_id)
        other.set_title(chat_id, "Tea")

    assert ("stopping", asked.run_id) == (receipt.state, receipt.running)
    assert report is not None
    assert ("stopped", "user") == (report.status, report.reason)


def test_a_stop_is_remembered_in_whichever_process_the_run_comes_to(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with ChatAppData(data.path) as other:
        told = threading.Event()
        unsubscribe = data.subscribe(lambda changed, number: told.set())
        other.stop_message(chat_id, "one")
        assert told.wait(PATIENCE_SECONDS)
        unsubscribe()
    data.send_message(chat_id, "Hello?", run_id="one")
    report = data.wait_ended(chat_id, "one").run("one")

    assert report is not None
    assert ("stopped", "before_start") == (report.status, report.where)
    assert () == provider.requests


def test_only_so_many_stops_are_remembered(
    data: ChatAppData, wrapped: WrapChatAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiwrapper.chat._holding.KEPT_STOPS", 2)
    chat_id = data.create()
    for run_id in ("one", "two", "three"):
        data.stop_message(chat_id, run_id)
    statuses = []
    for run_id in ("one", "two", "three"):
        data.send_message(chat_id, "Hello?", run_id=run_id)
        report = data.wait_ended(chat_id, run_id).run(run_id)
        assert report is not None
        statuses.append(report.status)

    assert ["completed", "stopped", "stopped"] == statuses


def test_a_chat_that_was_forgotten_is_read_again(
    data: ChatAppData, wrapped: WrapChatAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiwrapper.chat._holding.KEPT_STATES", 1)
    chats = [data.create() for _ in range(3)]
    for chat_id in chats:
        answered(data, chat_id, f"Hello from {chat_id}?")

    assert [[f"Hello from {chat_id}?", "Hello from the fake."] for chat_id in chats] == [
        said(data, chat_id) for chat_id in chats
    ]


def test_what_is_attached_is_a_part_of_a_message(
    data: ChatAppData, wrapped: WrapChatAgent, provider: FakeProvider
) -> None:
    chat_id = data.create()
    kept = data.attach(chat_id, name='a "b"\n.txt', media_type="text/plain", content=b"It flows.")
    again = data.attach(chat_id, name="c.txt", media_type="text/plain", content=b"It flows.")
    asked = data.send_message(chat_id, [kept.part, Text("What is this?")])
    data.wait_ended(chat_id, asked.run_id)
    sent = provider.requests[0].json()["messages"][0]["content"]

    assert kept.hash == again.hash
    assert '<attachment name="a _b__.txt">\nIt flows.\n</attachment>' in sent


def test_who_answers_can_be_a_block_of_a_task(data: ChatAppData, provider: FakeProvider) -> None:
    chat_id = data.create()

    async def main() -> None:
        async with WrapChatAgent(data, ChatAgent(lang_at(provider))):
            asked = await trio.to_thread.run_sync(data.send_message, chat_id, "Hello?")
            state = data.state(chat_id)
            while asked.run_id not in state.log.runs:
                state = await data.wait_changed_async(chat_id, state.position)

    trio.run(main)

    assert ["Hello?", "Hello from the fake."] == said(data, chat_id)


def test_settings_that_no_run_could_have_are_refused(wrapped: WrapChatAgent) -> None:
    wrapped.configurable(Configuration(tools=("look",)))
    with pytest.raises(ValueError, match="model"):
        wrapped.configurable(Configuration(model="nobody"))
    with pytest.raises(ValueError, match="tool"):
        wrapped.configurable(Configuration(tools=("nothing",)))


def test_settings_of_another_application_mean_nothing_here(data: ChatAppData) -> None:
    chat_id = data.create()
    with Store(data.path) as other, other.open(chat_id) as log:
        log.append(Configured('{"model": 7}'))

    assert Configuration() == data.state(chat_id).configuration


def test_running_is_said_well_and_pickles() -> None:
    error = Running("one")
    again = pickle.loads(pickle.dumps(error))

    assert "stop it first" in str(again)
    assert "one" == again.run_id


def test_what_is_asked_for_at_the_moment_of_closing_is_stopped(
    data: ChatAppData, provider: FakeProvider
) -> None:
    wrapped = WrapChatAgent(data, ChatAgent(lang_at(provider)))
    wrapped.close()
    data.answer_with(wrapped._answer)  # whoever asked had it in the hand already
    chat_id = data.create()
    asked = data.send_message(chat_id, "Hello?")
    report = data.state(chat_id).run(asked.run_id)

    assert report is not None
    assert ("stopped", "shutdown") == (report.status, report.reason)
    assert () == wrapped.running
    assert not data.is_answering(chat_id)
