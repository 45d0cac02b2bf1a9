"""A server for the folder's tests, and one prepared database on it."""

from collections.abc import Iterator

import pytest

from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.servers import Server, server_at
from tests.simulator.run import prepare


@pytest.fixture(scope="session")
def prepared_dsn(pytestconfig: pytest.Config) -> Iterator[str]:
    """A database for schedules, on the server that --cb-postgres names, an embedded one without it."""
    option = pytestconfig.getoption("cb_postgres") or "embedded"
    if option == "embedded":
        with EmbeddedPostgres() as embedded:
            prepare(embedded.dsn())
            yield embedded.dsn()
        return
    server: Server = server_at(option)
    try:
        dsn = server.create("simulator")
        prepare(dsn)
        yield dsn
    finally:
        server.close()
