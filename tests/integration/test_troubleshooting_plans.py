"""100,000 parked commands: what is listed, counted and taken is found by an index, whatever the planner knows."""

import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from commandbus import BulkResult, TroubleshootingFilter, TroubleshootingQueue, migrate
from commandbus._core.cursor import dump_cursor
from commandbus.auditor import audit
from commandbus.troubleshooting.queue import CHUNK
from tests.integration.servers import Server

pytestmark = pytest.mark.asyncio

MANY = 100_000
PAGE = 100
# One in a thousand is of the domain `few`, two are of the type `Few`.
FILL = """
    WITH new AS MATERIALIZED (
        SELECT n, gen_random_uuid() AS command_id, gen_random_uuid() AS process_id,
               CASE WHEN n %% 1000 = 1 THEN 'few' ELSE 'many' END AS domain,
               CASE WHEN n %% 1000 IN (1, 2) THEN 'Few' ELSE 'Many' END AS command_type,
               pg_catalog.now() - interval '1 day' + n * interval '1 millisecond' AS sent
          FROM generate_series(1, %(count)s) AS n
    ), processes AS (
        INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id,
                                        ordinal, visits, created_at, updated_at)
        SELECT process_id, domain, 'Order', 'WAITING_FOR_TSQ', 'Reserve', '{}', command_id, n, '{"Reserve": 1}', sent,
               sent
          FROM new
    ), commands AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, attempts, max_attempts,
                                        process_id, step, visit, error_code, error_message, created_at, updated_at)
        SELECT command_id, domain, command_type, '{}', 'IN_TROUBLESHOOTING_QUEUE', 1, 3, process_id, 'Reserve', 1,
               'BROKEN', 'BROKEN', sent, sent
          FROM new
    ), parked AS (
        INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures,
                                                lost_leases, max_attempts, moved_at, error_code, error_message)
        SELECT command_id, domain, command_type, 1, 1, 0, 0, 3, sent, 'BROKEN', 'BROKEN' FROM new
    )
    INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until, details)
    SELECT new.command_id, e.type, new.sent, e.epoch, e.epoch, e.epoch, CASE WHEN e.n = 2 THEN 3 END,
           CASE WHEN e.n = 2 THEN new.sent + interval '30 seconds' END,
           CASE WHEN e.n = 3 THEN '{"code": "BROKEN"}'::json END
      FROM new, (VALUES (1, 'SENT', NULL::integer), (2, 'RECEIVED', 1), (3, 'MOVED_TO_TSQ', 1)) AS e (n, type, epoch)
     ORDER BY new.n, e.n"""
STILL: tuple[LiteralString, ...] = ("command", "process", "event", "queue", "troubleshooting")
WATCH: tuple[LiteralString, ...] = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_nested_statements = on",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_timing = off",
    "SET auto_explain.log_format = json",
    "SET auto_explain.log_level = notice",
)
FILTERS = [
    {},
    {"domain": "many"},
    {"domain": "few"},
    {"domain": "none"},
    {"command_type": "Many"},
    {"command_type": "Few"},
    {"command_type": "None"},
    {"domain": "many", "command_type": "Many"},
    {"domain": "many", "command_type": "Few"},
    {"domain": "few", "command_type": "Many"},
    {"domain": "none", "command_type": "Many"},
]


@pytest.fixture(
    scope="module",
    params=[
        "never",
        pytest.param("while empty", marks=pytest.mark.slow),
        pytest.param("after it was filled", marks=pytest.mark.slow),
    ],
)
def filled(postgres_server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database with 100,000 parked commands, analyzed at this time."""
    name = f"parked_{request.param_index}"
    with postgres_server.database(name) as dsn:
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            for table in STILL:
                off = SQL("ALTER TABLE commandbus.{} SET (autovacuum_enabled = off)")
                conn.execute(off.format(Identifier(table)))
            if request.param == "while empty":
                conn.execute("ANALYZE")
            conn.execute(FILL, {"count": MANY})
            if request.param == "after it was filled":
                conn.execute("ANALYZE")
        yield name


@pytest.fixture
def filled_dsn(postgres_server: Server, filled: str) -> str:
    """That database, for tests that only read."""
    return postgres_server.dsn(filled)


@pytest.fixture
def own_dsn(postgres_server: Server, filled: str) -> Iterator[str]:
    """A copy of that database, of the test's own."""
    with postgres_server.database(f"{filled}_copy", filled) as dsn:
        yield dsn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def touched(node: dict[str, Any]) -> float:
    """Rows that a scan looked at in all its loops."""
    removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def faults(plans: list[dict[str, Any]], most_rows: int) -> list[str]:
    """The scans in these plans that go through a table, or touch more rows than they may."""
    return [
        f"{node['Node Type']} of {node['Relation Name']} touched {touched(node):,.0f} rows"
        for plan in plans
        for node in nodes(plan["Plan"])
        if "Scan" in node["Node Type"] and node.get("Relation Name") in STILL
        if node["Node Type"] == "Seq Scan" or touched(node) > most_rows
    ]


@asynccontextmanager
async def watched(dsn: str) -> AsyncIterator[tuple[TroubleshootingQueue, list[dict[str, Any]]]]:
    """A troubleshooting queue on one connection, and the list into which the plans of its statements come."""
    plans: list[dict[str, Any]] = []

    def keep(diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if "plan:" in text:
            plans.append(json.loads(text[text.index("{") :]))

    async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
        async with pool.connection() as conn:
            conn.add_notice_handler(keep)
            for statement in WATCH:
                await conn.execute(statement)
        yield TroubleshootingQueue(pool), plans


async def middle_of(dsn: str) -> str:
    """The cursor to the middle of all that is parked."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        statement = "SELECT moved_at, command_id FROM commandbus.troubleshooting ORDER BY moved_at OFFSET %s LIMIT 1"
        row = await (await conn.execute(statement, [MANY // 2])).fetchone()
    assert row is not None
    return dump_cursor(row)


@pytest.mark.parametrize("where", FILTERS, ids=str)
async def test_pages_and_counts_touch_what_they_give_and_no_more(filled_dsn: str, where: dict[str, str]) -> None:
    async with watched(filled_dsn) as (tsq, plans):
        for cursor in (None, await middle_of(filled_dsn)):
            for _ in range(8):  # from the sixth on PostgreSQL may use a generic plan
                page = await tsq.list_troubleshooting(**where, limit=PAGE, cursor=cursor)
            assert len(page.items) == PAGE or page.next_cursor is None
        assert any("parked_matching" in plan["Query Text"] for plan in plans)
        assert faults(plans, 2 * PAGE) == []
        plans.clear()
        for _ in range(8):
            count = await tsq.count_troubleshooting(**where)
        if count < MANY / 2:  # else going through the table is the best that can be done
            assert faults(plans, 2 * count + PAGE) == []


async def test_an_action_by_filter_goes_through_the_queue_once(own_dsn: str) -> None:
    """Also when no index finds what it is to act on, and what it acts on does not vanish from the index at once."""
    async with await psycopg.AsyncConnection.connect(own_dsn, autocommit=True) as conn:
        odd = "UPDATE commandbus.troubleshooting SET error_code = 'ODD' WHERE command_id < %s"
        await conn.execute(odd, [UUID(int=2**128 // 50)])
    async with watched(own_dsn) as (tsq, plans):
        count = await tsq.count_troubleshooting(where=TroubleshootingFilter(error_code="ODD"))
        plans.clear()
        result = await tsq.operator_cancel_where(TroubleshootingFilter(error_code="ODD"))
    assert result == BulkResult(count)
    assert count > 3 * CHUNK
    assert {"commandbus.take_parked", "commandbus.find_parked", "commandbus.record_outcomes"} <= verbs(plans)
    searches = [plan for plan in plans if "parked_matching(p_domain" in plan["Query Text"]]
    looked_at = sum(touched(node) for plan in searches for node in nodes(plan["Plan"]) if "Relation Name" in node)
    assert looked_at <= 1.1 * MANY
    assert faults([plan for plan in plans if plan not in searches], CHUNK) == []


def verbs(plans: list[dict[str, Any]]) -> set[str]:
    """The functions of the bus that were called."""
    return set(re.findall(r"commandbus\.\w+(?=\()", " ".join(plan["Query Text"] for plan in plans)))


async def test_the_guard_sees_what_happens_without_the_index(own_dsn: str) -> None:
    """Without this, a guard that looks at nothing would pass as well."""
    async with watched(own_dsn) as (tsq, plans):
        for index in ("ix_troubleshooting_domain_type", "ix_troubleshooting_type"):
            with psycopg.connect(own_dsn) as conn:
                conn.execute(SQL("DROP INDEX commandbus.{}").format(Identifier(index)))
            plans.clear()
            await tsq.list_troubleshooting("many", "Few", limit=PAGE)
        assert any("of troubleshooting touched" in fault for fault in faults(plans, PAGE + 1)), plans


async def test_a_chunk_is_taken_and_requeued_by_its_ids(own_dsn: str) -> None:
    async with watched(own_dsn) as (tsq, plans):
        for turn in range(8):
            page = await tsq.list_troubleshooting("many", limit=CHUNK)
            action = tsq.operator_cancel_many if turn % 2 else tsq.operator_retry_many
            assert await action([item.command_id for item in page.items]) == BulkResult(CHUNK)
    assert {"commandbus.take_parked", "commandbus.requeue", "commandbus.record_outcomes"} <= verbs(plans)
    assert faults(plans, 2 * CHUNK) == []


@pytest.mark.slow
@pytest.mark.parametrize("filled", ["never"], indirect=True)
async def test_100_000_parked_commands_are_retried_in_bounded_memory(own_dsn: str) -> None:
    told: list[int] = []
    async with AsyncConnectionPool(own_dsn, min_size=1, max_size=1, open=False) as pool:
        tsq = TroubleshootingQueue(pool)
        await tsq.operator_retry_where(TroubleshootingFilter(domain="few"))  # what is loaded once is loaded now
        tracemalloc.start()
        try:
            result = await tsq.operator_retry_where(TroubleshootingFilter(), operator="ann", on_progress=told.append)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert result == BulkResult(MANY - MANY // 1_000)
        assert (len(told), told[-1]) == (200, result.done)
        assert peak < 8_000_000
        assert await tsq.count_troubleshooting() == 0
        async with pool.connection() as conn:
            assert await audit(conn) == []
