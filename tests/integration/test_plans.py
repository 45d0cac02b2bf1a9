"""The plans inside the bus's functions: whatever the planner knows of the tables, no statement walks through a backlog.

PostgreSQL itself shows each plan as it is run (auto_explain, nested statements too), with the rows that it touched.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from commandbus import PermanentCommandError, TransientCommandError, TroubleshootingQueue
from commandbus._core.queue_sql import Claimed
from commandbus.migrate import migrate
from commandbus.repositories import queue
from tests.integration.process_kit import Hand, make_manager, open_hand
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

BACKLOG = 20_000
GROUP = 20
ROUNDS = 8  # from the sixth on PostgreSQL may use a generic plan
MOST_ROWS = 10 * GROUP  # that one statement may touch in one table: bounded by its group, never by the backlog
TABLES = ("command", "queue", "scheduled", "process", "event", "reply")
ALWAYS = frozenset({"claim", "renew", "release", "settle", "lock_claims", "record_outcomes"})

# Of one domain: what is due now, or (waiting) retries that are not due yet.
FILL = """
    WITH new AS (
        SELECT n, gen_random_uuid() AS process_id, gen_random_uuid() AS command_id
          FROM generate_series(1, %(count)s) AS n
    ), processes AS (
        INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id,
                                        ordinal, visits, created_at, updated_at)
        SELECT process_id, %(domain)s, %(type)s, 'WAITING_FOR_REPLY', 'Reserve',
               '{"order": 1, "path": ["Reserve", "Pay", "Ship"], "results": []}', command_id, n, '{"Reserve": 1}',
               now(), now()
          FROM new
    ), commands AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, process_id, step, visit,
                                        created_at, updated_at)
        SELECT command_id, %(domain)s, 'Reserve', '{}', process_id, 'Reserve', 1, now(), now() FROM new
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)
        SELECT %(domain)s, command_id, 'Reserve', now() FROM new WHERE NOT %(waiting)s
    ), scheduled AS (
        INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures,
                                          lost_leases, max_attempts, due_at)
        SELECT command_id, %(domain)s, 'Reserve', 1, 1, 0, 0, 3, now() + interval '1 day' FROM new WHERE %(waiting)s
    )
    INSERT INTO commandbus.event (command_id, type, ts) SELECT command_id, 'SENT', now() FROM new"""

WATCH = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_nested_statements = on",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_timing = off",
    "SET auto_explain.log_format = json",
    "SET auto_explain.log_level = notice",
)


@pytest.fixture
def quiet_dsn(empty_dsn: str) -> str:
    """A migrated database in which nothing is analyzed but by the test."""
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        for table in TABLES:
            off = sql.SQL("ALTER TABLE commandbus.{} SET (autovacuum_enabled = off)")
            conn.execute(off.format(sql.Identifier(table)))
    return empty_dsn


def analyze(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("ANALYZE")


@asynccontextmanager
async def watched(dsn: str, *, analyzed: str) -> AsyncIterator[tuple[Hand, list[dict[str, Any]]]]:
    """A worker by hand on a backlog, and the list into which the plans of its statements come."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
        bench = Bench(dsn, pool)

        async def hook(self: Any, items: Any, conn: Any) -> None:
            """Only so that its settles lock their claims first."""

        manager = make_manager(bench, before_send_commands=hook)
        async with open_hand(bench, manager) as hand:
            if analyzed in SESSIONS:  # and its session has its plans from that time
                count, use = SESSIONS[analyzed]
                fill(dsn, bench.domain, manager.process_type, count)
                analyze(dsn)
                await use(hand)
            for domain, waiting in (("other", False), (bench.domain, False), (bench.domain, True), ("other", True)):
                fill(dsn, domain, manager.process_type, BACKLOG, waiting=waiting)
            if analyzed == "after it was filled":
                analyze(dsn)
            plans: list[dict[str, Any]] = []
            hand.conn.add_notice_handler(lambda diagnostic: plans.extend(parsed(diagnostic.message_primary or "")))
            for statement in WATCH:
                await hand.conn.execute(statement.encode())
            yield hand, plans


def fill(dsn: str, domain: str, process_type: str, count: int, *, waiting: bool = False) -> None:
    """Add a backlog to a domain: due now, or `waiting` for a retry."""
    with psycopg.connect(dsn) as conn:
        conn.execute(FILL, {"count": count, "domain": domain, "type": process_type, "waiting": waiting})


def parsed(notice: str) -> Iterator[dict[str, Any]]:
    if "plan:" in notice:
        yield json.loads(notice[notice.index("{") :])


async def work(hand: Hand) -> None:
    """Use every verb in groups, often enough that PostgreSQL may change to generic plans."""
    bench, domain = hand.bench, hand.bench.domain
    tsq = TroubleshootingQueue(bench.pool)
    busy, broken = TransientCommandError("BUSY"), PermanentCommandError("BROKEN")
    highest = 0
    for _ in range(ROUNDS):
        released = await hand.claim(GROUP)
        await queue.release(hand.conn, domain, hand.worker_id, released)
        claims: list[Claimed] = await hand.claim(GROUP)
        highest = max(highest, *[claimed.seq for claimed in claims])
        assert len(claims) == GROUP
        assert len(await queue.renew(hand.conn, hand.worker_id, claims, 30, audited=True)) == GROUP
        ends = [{}, {}, {}, busy] * (GROUP // 4 - 1) + [{}, {}, busy, broken]
        assert await hand.settle(*zip(claims, ends, strict=True)) == set()
        await tsq.operator_retry(claims[-1].command_id, conn=hand.conn)
        await queue.sweep(hand.conn, domain, highest)
        await queue.next_due(hand.conn, domain)


async def idle(hand: Hand) -> None:
    """Do what a worker does with little or nothing to do, often enough for generic plans."""
    for _ in range(ROUNDS):
        claims = await hand.claim(GROUP)
        await queue.renew(hand.conn, hand.worker_id, claims, 30, audited=True)
        if claims:
            assert await hand.settle(*[(claimed, {}) for claimed in claims]) == set()
        await queue.sweep(hand.conn, hand.bench.domain, 0)
        await queue.next_due(hand.conn, hand.bench.domain)


# How many processes there are when the tables are analyzed, and what the session does then, before the backlog comes.
SESSIONS = {"while empty": (0, idle), "with one": (1, idle), "while small": (10 * GROUP, work)}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def touched(node: dict[str, Any]) -> float:
    """Rows that a scan looked at in all its loops."""
    removed = sum(v for k, v in node.items() if k.startswith("Rows Removed by"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def faults(plans: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the scans of the bus's tables in these plans."""
    found = []
    for plan in plans:
        for node in nodes(plan["Plan"]):
            kind, table = node["Node Type"], node.get("Relation Name")
            if table not in TABLES or "Scan" not in kind:
                continue
            problem = None
            if kind == "Seq Scan":
                problem = "sequential scan"
            elif kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node:
                problem = f"whole index {node['Index Name']}"
            elif touched(node) > MOST_ROWS:
                problem = f"{kind} touched {touched(node):,.0f} rows"
            if problem is not None:
                found.append(f"{problem} of {table} in: {' '.join(plan['Query Text'].split())[:120]}")
    return found


def names(plans: list[dict[str, Any]]) -> set[str]:
    """The functions of the bus that were seen to run."""
    text = " ".join(plan["Query Text"] for plan in plans)
    return {name for name in ALWAYS if f"commandbus.{name}(" in text}


def times(first: str) -> list[Any]:
    """When the tables were analyzed, as parameters of a test; all but the first are for the slow tests."""
    others = [time for time in ("never", *SESSIONS, "after it was filled") if time != first]
    return [first, *(pytest.param(time, marks=pytest.mark.slow) for time in others)]


@pytest.mark.parametrize("analyzed", times("while empty"))
async def test_no_statement_walks_through_the_backlog(quiet_dsn: str, analyzed: str) -> None:
    async with watched(quiet_dsn, analyzed=analyzed) as (hand, plans):
        async with asyncio.timeout(60):
            await work(hand)
    assert names(plans) == ALWAYS
    scanned = {node.get("Relation Name") for plan in plans for node in nodes(plan["Plan"])}
    assert {"queue", "command", "process", "scheduled"} <= scanned
    assert faults(plans) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        (["enable_seqscan"], "sequential scan of scheduled"),
        (["enable_seqscan", "enable_hashjoin"], "sequential scan of command"),
    ],
)
async def test_the_guard_sees_what_happens_without_the_pins(quiet_dsn: str, pins: list[str], expected: str) -> None:
    """Without this, a guard that looks at nothing would pass as well."""
    with psycopg.connect(quiet_dsn) as conn:
        functions = conn.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'commandbus'::regnamespace"
            " AND p.proconfig IS NOT NULL"
        ).fetchall()
        for (function,) in functions:
            for pin in pins:
                unpin = sql.SQL("ALTER FUNCTION {} RESET {}").format(sql.SQL(function), sql.Identifier(pin))
                conn.execute(unpin)
    async with watched(quiet_dsn, analyzed="while small") as (hand, plans):
        async with asyncio.timeout(60):
            await work(hand)
    assert any(expected in fault for fault in faults(plans)), faults(plans)
