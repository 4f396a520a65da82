"""Agents of both kinds answer in chats; what a chat is for is in `test_data.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import anyio
import pytest

from aiwrapper import AsyncChatAgent
from aiwrapper.chat import ChatAppData, WrapChatAgent
from aiwrapper.testing import Call, FakeProvider, Say, Turn
from cancel_token.aio import run_sync
from tests.aiwrapper.running import lang_at

Runtime = Literal["trio", "asyncio"]


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai_chat") as fake:
        yield fake


@pytest.fixture
def data(tmp_path: Path) -> Iterator[ChatAppData]:
    with ChatAppData(tmp_path / "chats.db") as chats:
        yield chats


async def double(number: int) -> int:
    """Twice the number."""
    await anyio.sleep(0)
    return 2 * number


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_the_tools_of_an_async_agent_run_in_the_loop_of_the_application(
    data: ChatAppData, provider: FakeProvider, runtime: Runtime
) -> None:
    provider.add(Turn((Call("double", ('{"number": 21}',)),)), Turn((Say(("It is 42.",)),)))

    async def main() -> str:
        chat_id = data.create()
        async with WrapChatAgent(data, AsyncChatAgent(lang_at(provider), [double])):
            asked = await run_sync(data.send_message, chat_id, "Twice 21?")
            await run_sync(data.wait_ended, chat_id, asked.run_id)
        return chat_id

    chat_id = anyio.run(main, backend=runtime)

    (run,) = data.state(chat_id).log.runs
    assert ("completed", ["returned"]) == (run.status, [report.outcome for report in run.calls])


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
def test_a_task_of_a_tool_is_stopped_with_its_run(
    data: ChatAppData, provider: FakeProvider, runtime: Runtime
) -> None:
    provider.add(Turn((Call("wait_long", ("{}",)),)))

    async def main() -> str:
        running = anyio.Event()

        async def wait_long() -> str:
            """Wait."""
            running.set()
            await anyio.sleep_forever()
            return "waited"

        chat_id = data.create()
        async with WrapChatAgent(data, AsyncChatAgent(lang_at(provider), [wait_long])):
            asked = await run_sync(data.send_message, chat_id, "Wait")
            await running.wait()
            data.stop_message_nowait(chat_id, asked.run_id)
            await run_sync(data.wait_ended, chat_id, asked.run_id)
        return chat_id

    chat_id = anyio.run(main, backend=runtime)

    (run,) = data.state(chat_id).log.runs
    assert ("stopped", "user", ["interrupted_running"]) == (
        run.status,
        run.reason,
        [report.outcome for report in run.calls],
    )


def test_without_a_loop_a_run_with_such_tools_fails_and_says_what_to_do(
    data: ChatAppData, provider: FakeProvider
) -> None:
    chat_id = data.create()
    with WrapChatAgent(data, AsyncChatAgent(lang_at(provider), [double])):
        asked = data.send_message(chat_id, "Twice 21?")
        state = data.wait_ended(chat_id, asked.run_id)

    run = state.run(asked.run_id)
    assert run is not None
    assert ("failed", "internal") == (run.status, run.reason)
    assert "async with" in run.message
