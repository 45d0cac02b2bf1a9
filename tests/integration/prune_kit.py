"""What tests of pruning share: a database and what is in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus.auditor import audit, format_violations
from tests.integration.bus_history import Bus

NOW = timedelta(0)
TABLES = ("command", "event", "uncompleted", "reply", "process", "batch", "queue", "scheduled", "troubleshooting")


@asynccontextmanager
async def audited_pool(dsn: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool on a database; the auditor looks at it when the block has ended."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=8, open=False) as pool:
        yield pool
        async with pool.connection() as conn:
            violations = await audit(conn)
        assert not violations, format_violations(violations)


def sizes(bus: Bus) -> dict[str, int]:
    return {table: bus.rows(f"SELECT count(*) AS n FROM commandbus.{table}")[0]["n"] for table in TABLES}  # noqa: S608


def stored(bus: Bus) -> set[UUID]:
    """The ids of all commands, processes and batches."""
    return {
        row["id"]
        for row in bus.rows(
            "SELECT command_id AS id FROM commandbus.command UNION ALL SELECT process_id FROM commandbus.process"
            " UNION ALL SELECT batch_id FROM commandbus.batch"
        )
    }
