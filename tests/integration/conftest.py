"""One embedded server for the folder's tests, and databases on it."""

import itertools
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from commandbus.migrate import migrate
from pytest_commandbus.behavior import install_e2e
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.worker_kit import Bench, make_clock, open_bench

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def empty_dsn(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database of this test's own, without our schema."""
    name = f"empty_{next(_numbers)}"
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres_server.dsn(name)
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def migrated_dsn(postgres_server: EmbeddedPostgres) -> str:
    """A migrated database that the tests which ask for it share."""
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE shared_migrated")
    dsn = postgres_server.dsn("shared_migrated")
    migrate(dsn)
    return dsn


@pytest.fixture(scope="session")
def e2e_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database with the plugin's schema."""
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE e2e_template")
    migrate(postgres_server.dsn("e2e_template"))
    install_e2e(postgres_server.dsn("e2e_template"))
    return "e2e_template"


@pytest.fixture
def e2e_dsn(postgres_server: EmbeddedPostgres, e2e_template: str) -> Iterator[str]:
    """A migrated database of this test's own, with the plugin's schema."""
    name = f"e2e_{next(_numbers)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(e2e_template))
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as conn:
        conn.execute(create)
        yield postgres_server.dsn(name)
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def clocked_dsn(postgres_server: EmbeddedPostgres) -> str:
    """A migrated database whose clock the tests can move: see worker_kit."""
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE clocked")
    dsn = postgres_server.dsn("clocked")
    migrate(dsn)
    make_clock(dsn)
    return dsn


@pytest_asyncio.fixture
async def bench(clocked_dsn: str) -> AsyncIterator[Bench]:
    """A domain of this test's own; the auditor looks at it when the test has ended."""
    async with open_bench(clocked_dsn) as bench:
        yield bench
