"""What users of agents write, for the type checker alone: nothing here is ever run."""

from contextlib import aclosing, closing
from typing import assert_type

from aiwrapper import (
    AsyncChatAgent,
    AsyncLang,
    AsyncRunHandle,
    CancelReason,
    CancelToken,
    ChatAgent,
    Entry,
    Lang,
    ObjectResult,
    RunHandle,
    RunResult,
    StopMode,
    StopReceipt,
    StopReport,
    TextDelta,
    Tool,
    tool,
)


@tool
def read_page(url: str, *, token: CancelToken) -> str:
    raise NotImplementedError


@tool(name="look_up", description="Looks things up.")
async def look_up(word: str) -> int:
    raise NotImplementedError


def plain(a: int) -> int:
    raise NotImplementedError


def makes(lang: Lang, async_lang: AsyncLang) -> None:
    assert_type(Lang.openai(model="m", api_key="k"), Lang)
    assert_type(AsyncLang.openai(model="m", api_key="k", temperature=0.5), AsyncLang)
    Lang.openai(model="m")  # type: ignore[call-arg]  # it needs a key
    Lang.ollama(model="m", temprature=0.5)  # type: ignore[call-arg]  # no such setting
    ChatAgent(lang, [read_page, plain])
    ChatAgent(async_lang)  # either kind of model does
    AsyncChatAgent(lang, tools=(read_page, look_up, plain))
    ChatAgent("gpt")  # type: ignore[arg-type]  # a name is no model


def blocks(agent: ChatAgent, token: CancelToken) -> None:
    result = agent.run("Hi", token=token)
    assert_type(result, RunResult)
    assert_type(result.stop, StopReport | None)
    assert_type(result.error, Exception | None)
    assert_type(agent.continue_(), RunResult)
    with closing(agent.stream("Hi")) as entries:
        for entry in entries:
            if isinstance(entry, TextDelta):
                assert_type(entry.text, str)
    with agent.start("Hi") as run:
        assert_type(run, RunHandle)
        for watched in run:
            takes_an_entry(watched)
        assert_type(run.wait(token=token), RunResult)
    agent.run("Hi", tokn=token)  # type: ignore[call-arg]  # no such argument
    agent.run("Hi", token)  # type: ignore[call-arg]  # by name


def stops(run: RunHandle | AsyncRunHandle) -> None:
    assert_type(run.stop(), StopReceipt)
    assert_type(run.stop("enough", mode="after_step"), StopReceipt)
    assert_type(run.stop(CancelReason("shutdown", "the program ends")), StopReceipt)
    assert_type(run.stop_mode, StopMode | None)
    assert_type(run.ended, bool)
    run.stop(mode="soon")  # type: ignore[arg-type]  # no such mode


async def awaits(agent: AsyncChatAgent, token: CancelToken) -> None:
    assert_type(await agent.run("Hi", token=token), RunResult)
    assert_type(await agent.continue_(), RunResult)
    async with aclosing(agent.stream("Hi", token=token)) as entries:
        async for entry in entries:
            takes_an_entry(entry)
    async with agent.start("Hi") as run:
        assert_type(run, AsyncRunHandle)
        async for watched in run:
            takes_an_entry(watched)
        assert_type(await run.wait(), RunResult)


def offers(inner: ChatAgent, async_inner: AsyncChatAgent, lang: Lang) -> None:
    def started(run: RunHandle) -> None: ...
    def async_started(run: AsyncRunHandle) -> None: ...

    assert_type(inner.as_tool("research", "Looks things up.", started=started), Tool[..., str])
    ChatAgent(lang, [inner.as_tool("research", "Looks things up.")])
    AsyncChatAgent(lang, [async_inner.as_tool("research", "Looks things up.", started=async_started)])
    async_inner.as_tool("r", "", started=started)  # type: ignore[arg-type]  # it is told of another handle


async def asks(lang: Lang, async_lang: AsyncLang) -> None:
    assert_type(lang.ask("Hi"), RunResult)
    assert_type(lang.ask_for_object("Two numbers", list[int]), ObjectResult[list[int]])
    assert_type(await async_lang.ask("Hi"), RunResult)
    found = await async_lang.ask_for_object("Two numbers", list[int])
    assert_type(found.value, list[int] | None)


def takes_an_entry(entry: Entry) -> None: ...
