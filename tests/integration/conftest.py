"""One server for the folder's tests, and databases on it."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
import pytest_asyncio

from commandbus.migrate import migrate
from pytest_commandbus.behavior import install_e2e
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.servers import Server, server_at
from tests.integration.worker_kit import Bench, make_clock, open_bench

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The server that --cb-postgres names, an embedded one of this process's own without it."""
    option = pytestconfig.getoption("cb_postgres") or "embedded"
    with ExitStack() as stack:
        server = Server(stack.enter_context(EmbeddedPostgres()).dsn) if option == "embedded" else server_at(option)
        stack.callback(server.close)
        yield server


@pytest.fixture
def empty_dsn(postgres_server: Server) -> Iterator[str]:
    """A database of this test's own, without our schema."""
    with postgres_server.database(f"empty_{next(_numbers)}") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def migrated_dsn(postgres_server: Server) -> str:
    """A migrated database that the tests which ask for it share."""
    dsn = postgres_server.create("shared_migrated")
    migrate(dsn)
    return dsn


@pytest.fixture(scope="session")
def e2e_template(postgres_server: Server) -> str:
    """The name of a migrated database with the plugin's schema."""
    dsn = postgres_server.create("e2e_template")
    migrate(dsn)
    install_e2e(dsn)
    return "e2e_template"


@pytest.fixture
def e2e_dsn(postgres_server: Server, e2e_template: str) -> Iterator[str]:
    """A migrated database of this test's own, with the plugin's schema."""
    with postgres_server.database(f"e2e_{next(_numbers)}", e2e_template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def clocked_dsn(postgres_server: Server) -> str:
    """A migrated database whose clock the tests can move: see worker_kit."""
    dsn = postgres_server.create("clocked")
    migrate(dsn)
    make_clock(dsn)
    return dsn


@pytest_asyncio.fixture
async def bench(clocked_dsn: str) -> AsyncIterator[Bench]:
    """A domain of this test's own; the auditor looks at it when the test has ended."""
    async with open_bench(clocked_dsn) as bench:
        yield bench
