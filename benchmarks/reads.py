"""What operators ask, with much stored: pages of commands, parked ones and batches, and the status, in milliseconds.

Run it alone with `python -m benchmarks.reads [COMMANDS]`.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandStatus, TroubleshootingQueue, migrate
from commandbus.status import status
from pytest_commandbus.postgres.server import EmbeddedPostgres

_RUNS = 15

# Commands of two types: of a hundred 70 are done, 25 due, 2 wait for a retry, 2 are parked, 1 has failed.
_FILL: LiteralString = """
    WITH new AS MATERIALIZED (
        SELECT n, gen_random_uuid() AS command_id, CASE n %% 10 WHEN 3 THEN 'Pay' ELSE 'Reserve' END AS command_type,
               now() - (%(count)s - n) * interval '1 ms' AS created_at,
               CASE WHEN n %% 100 < 70 THEN 'COMPLETED' WHEN n %% 100 < 95 THEN 'due' WHEN n %% 100 < 97 THEN 'waiting'
                    WHEN n %% 100 < 99 THEN 'parked' ELSE 'FAILED' END AS place
          FROM generate_series(1, %(count)s) AS n
    ), commands AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, created_at, updated_at,
                                        completed_at)
        SELECT command_id, 'bench', command_type, '{"order": 17}',
               CASE WHEN place IN ('due', 'waiting') THEN 'PENDING'
                    WHEN place = 'parked' THEN 'IN_TROUBLESHOOTING_QUEUE' ELSE place END,
               created_at, created_at, CASE WHEN place IN ('COMPLETED', 'FAILED') THEN created_at END
          FROM new ORDER BY n
    ), uncompleted AS (
        INSERT INTO commandbus.uncompleted
        SELECT 'bench', command_type, 'FAILED', created_at, command_id FROM new WHERE place = 'FAILED'
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)
        SELECT 'bench', command_id, command_type, created_at FROM new WHERE place = 'due' ORDER BY n
    ), waiting AS (
        INSERT INTO commandbus.scheduled
        SELECT command_id, 'bench', command_type, 1, 1, 0, 0, 3, now() + interval '1 day' FROM new
         WHERE place = 'waiting'
    ), parked AS (
        INSERT INTO commandbus.troubleshooting
        SELECT command_id, 'bench', command_type, 1, 3, 0, 0, 3, created_at, 'X', 'x' FROM new WHERE place = 'parked'
    )
    INSERT INTO commandbus.batch (batch_id, domain, batch_type, status, total_count, created_at, completed_at)
    SELECT gen_random_uuid(), 'bench', 'COMMAND', 'COMPLETED', 0, now() - n * interval '1 s', now()
      FROM generate_series(1, 10000) AS n"""


def milliseconds(count: int = 1_000_000) -> dict[str, list[float]]:
    """Milliseconds of each question, with so many commands stored."""
    with EmbeddedPostgres(durable=True) as server:
        dsn = server.dsn()
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(_FILL, {"count": count})
            conn.execute("VACUUM ANALYZE")
            conn.execute("CHECKPOINT")
        return asyncio.run(_milliseconds(dsn))


async def _milliseconds(dsn: str) -> dict[str, list[float]]:
    async with AsyncConnectionPool(dsn, min_size=1, max_size=2) as pool:
        bus, parked = CommandBus(pool), TroubleshootingQueue(pool)
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "batch list": lambda: bus.list_batches("bench"),
            "troubleshooting queue": lambda: parked.list_troubleshooting("bench"),
            "status": lambda: status(pool),
        }
        for state in CommandStatus:
            asked[f"commands {state}"] = lambda state=state: bus.query_commands("bench", state)  # type: ignore[misc]
        return {name: [await _timed(ask) for _ in range(_RUNS)] for name, ask in asked.items()}


async def _timed(ask: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await ask()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    for name, found in milliseconds(count).items():
        print(f"{name}: {statistics.median(found):.1f} ms ({min(found):.1f} to {max(found):.1f})")


if __name__ == "__main__":
    main()
