"""Certificates and peers for the tests of the hooks; how many cases the exhaustive tests have tried."""

import gc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import trustme

from cancel_token.httpx import stoppable
from tests.cancel_token.cases import COUNTS
from tests.cancel_token.httpx_clients import LIBRARIES, new_client
from tests.cancel_token.stalling import StallingServer


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1", "localhost")


@pytest.fixture(scope="session")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def server() -> Iterator[StallingServer]:
    with StallingServer() as server:
        yield server


@pytest.fixture(params=LIBRARIES)
def client(request: pytest.FixtureRequest) -> Iterator[httpx2.Client]:
    """A stoppable client of each library of this kind that is installed."""
    with stoppable(new_client(request.param)) as client:
        yield client


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Keep the garbage collector from tidying up what the code should have closed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, cases in sorted(config.stash.get(COUNTS, {}).items()):
        terminalreporter.write_line(f"{what}: {cases:,} cases")
