"""The plans of prune's statements: each is bounded by its page or chunk, whatever else the tables hold."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus._core.prune_sql import PruneSQL
from commandbus.prune import Pruned, prune
from tests.integration.test_plans import BACKLOG, WATCH, analyze, fill, nodes, parsed, quiet_dsn, touched

__all__ = ["quiet_dsn"]
pytestmark = pytest.mark.asyncio

PAGE = 100
OLD = 300
MOST_ROWS = 10 * PAGE  # that one scan may touch; the backlog is twenty times that
TABLES = ("command", "process", "event", "reply", "uncompleted", "batch")

# Of each kind that prune looks for: lone commands, members of one batch, processes, each that many.
FILL_OLD = """
    WITH old AS (
        SELECT n, gen_random_uuid() AS command_id, gen_random_uuid() AS process_id,
               now() - interval '2 days' AS at, kind
          FROM generate_series(1, %(count)s) AS n CROSS JOIN (VALUES ('lone'), ('batch'), ('process')) AS k (kind)
    ), batches AS (
        INSERT INTO commandbus.batch (batch_id, domain, total_count, status, completed_count, created_at, started_at,
                                      completed_at)
        SELECT %(batch)s, 'orders', %(count)s, 'COMPLETED', %(count)s, at, at, at FROM old LIMIT 1
    ), processes AS (
        INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, created_at,
                                        updated_at, completed_at)
        SELECT process_id, 'orders', 'Order', 'COMPLETED', 'one', '{}', at, at, at FROM old WHERE kind = 'process'
    ), commands AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, batch_id, ordinal,
                                        process_id, step, visit, created_at, updated_at, completed_at)
        SELECT command_id, 'orders', 'Note', '{}', 'COMPLETED', CASE kind WHEN 'batch' THEN %(batch)s END, n,
               CASE kind WHEN 'process' THEN process_id END, 'one', 1, at, at, at FROM old
    )
    INSERT INTO commandbus.event (command_id, type, ts)
    SELECT command_id, t, at FROM old CROSS JOIN (VALUES ('SENT'), ('RECEIVED'), ('COMPLETED')) AS e (t)"""


async def pruned(dsn: str, analyzed: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Pruned, list[dict[str, Any]]]:
    """Prune old work beside a backlog, in small pages; returns what it did and the plans of its statements."""
    if analyzed == "while small":
        fill(dsn, "orders", "Order", 200)
        analyze(dsn)
    for domain in ("orders", "billing"):
        fill(dsn, domain, "Order", BACKLOG)
    with psycopg.connect(dsn) as conn:
        conn.execute(FILL_OLD, {"count": OLD, "batch": uuid4()})
    if analyzed == "after it was filled":
        analyze(dsn)
    monkeypatch.setattr("commandbus.prune._PAGE", PAGE)
    plans: list[dict[str, Any]] = []

    async def watch(conn: AsyncConnection[Any]) -> None:
        conn.add_notice_handler(lambda diagnostic: plans.extend(parsed(diagnostic.message_primary or "")))
        for statement in WATCH:
            await conn.execute(statement.encode())
        await conn.commit()

    async with AsyncConnectionPool(dsn, min_size=1, max_size=1, configure=watch, open=False) as pool:
        return await prune(pool, timedelta(days=1)), plans


def faults(plans: list[dict[str, Any]]) -> list[str]:
    """Which scans touched more than a statement may."""
    return [
        f"{node['Node Type']} touched {touched(node):,.0f} rows of {node['Relation Name']} in:"
        f" {' '.join(plan['Query Text'].split())[:120]}"
        for plan in plans
        for node in nodes(plan["Plan"])
        if node.get("Relation Name") in TABLES and "Scan" in node["Node Type"] and touched(node) > MOST_ROWS
    ]


@pytest.mark.parametrize("analyzed", ["never", "while small", "after it was filled"])
async def test_no_statement_walks_through_what_stays(
    quiet_dsn: str, analyzed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, plans = await pruned(quiet_dsn, analyzed, monkeypatch)
    assert done == Pruned(batches=1, processes=OLD, commands=3 * OLD, events=9 * OLD)
    assert len(plans) > 30
    assert faults(plans) == []


async def test_the_guard_sees_what_happens_without_the_pins(quiet_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a guard that looks at nothing would pass as well."""
    monkeypatch.setattr(PruneSQL, "DELETING", "SELECT set_config('enable_indexscan', 'off', true)")
    monkeypatch.setattr(PruneSQL, "WALKING", "SELECT set_config('enable_indexscan', 'off', true)")
    _, plans = await pruned(quiet_dsn, "while small", monkeypatch)
    assert any("Seq Scan touched" in fault for fault in faults(plans)), faults(plans)
