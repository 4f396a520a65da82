"""A browser and a server for each module, a provider and a browser's profile for each test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from aiwrapper.testing import FakeProvider
from tests.aiwrapper.chat.browsing import ChatServer, Visitor, chromium, visit


# For a module and not for all: while a browser lives, its thread has a running event loop, and other tests run theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatServer]:
    server = ChatServer(tmp_path_factory.mktemp("served"))
    yield server
    assert 0 == server.terminate()


@pytest.fixture
def provider(server: ChatServer) -> Iterator[FakeProvider]:
    with FakeProvider("anthropic") as provider:
        server.ask(provider.base_url)
        yield provider


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def visitor(server: ChatServer, provider: FakeProvider, context: BrowserContext) -> Iterator[Visitor]:
    visitor = visit(context, server.url)
    yield visitor
    assert [] == visitor.errors
