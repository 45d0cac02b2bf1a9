"""A connection string of several hosts in the plugin and in the console: both find the server that takes writes."""

import asyncio
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from commandbus import App, migrate
from commandbus.web import create_console
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.worker_kit import PATIENCE, eventually

SUITE = """
import pytest
from commandbus import App

app = App()

@app.handler("orders", "Count")
async def count(command, context):
    return {}

@pytest.fixture
def cb_app():
    return app

async def test_on_the_server_that_takes_writes(cb_command_batch, cb_pool):
    batch = await cb_command_batch("orders", "Count", count=3)
    assert (await batch.complete()).completed_count == 3
    async with cb_pool.connection() as connection:
        row = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
    assert row == (False,)
"""


def standby_first(standby: EmbeddedPostgres, primary: EmbeddedPostgres) -> str:
    parts = [psycopg.conninfo.conninfo_to_dict(server.dsn()) for server in (standby, primary)]
    hosts, ports = (",".join(str(part[key]) for part in parts) for key in ("host", "port"))
    return make_conninfo(primary.dsn(), host=hosts, port=ports, target_session_attrs="read-write")


@pytest.mark.slow
def test_the_plugin_and_the_console_follow_a_promotion(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    with EmbeddedPostgres(crash_safe=True) as primary:
        migrate(primary.dsn())
        with EmbeddedPostgres(crash_safe=True, standby_of=primary) as standby:
            dsn = standby_first(standby, primary)
            options = ("-pno:hypothesispytest", "-pno:schemathesis", f"--cb-postgres={dsn}")
            pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)
            asyncio.run(watch_a_promotion(dsn, primary, standby))
            pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)


async def watch_a_promotion(dsn: str, primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Look at a page before, and until it is there again after."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=4, timeout=2, reconnect_timeout=4) as pool:
        transport: Any = httpx.ASGITransport(create_console(App(name="shop"), pool), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE) as client:
            assert (await client.get("/commands")).status_code == 200
            primary.crash()
            assert (await client.get("/commands")).status_code >= 500
            standby.promote()

            async def answer() -> bool | None:
                return (await client.get("/commands")).status_code == 200 or None

            await eventually(answer, "the page on the promoted server")
