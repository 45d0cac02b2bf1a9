"""What a status costs beside a backlog: a bounded number of rows of each table, and an estimate that is near."""

from typing import Any

import psycopg
import pytest

from commandbus.history import history
from commandbus.migrate import migrate
from commandbus.status import COUNTED, DomainStatus, status
from tests.integration.test_plans import WATCH, nodes, parsed, touched

TABLES = ("queue", "scheduled", "troubleshooting", "worker_statistic", "reply")

# Commands of two domains: of each run of 1,000 seqs the first `share` are the one's; the first 500 of all are leased.
FILL = """
    INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at, worker_id, lease_until)
    SELECT CASE WHEN n %% 1000 < %(share)s THEN 'orders' ELSE 'other' END, gen_random_uuid(), 'Order',
           now() - interval '1 minute', CASE WHEN n <= 500 THEN 1 END,
           CASE WHEN n <= 500 THEN now() + interval '1 hour' END
      FROM generate_series(1, %(count)s) n"""
OTHERS = (
    """INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures, lost_leases,
                                         due_at)
       SELECT gen_random_uuid(), 'orders', 'Order', 1, 1, 0, 0, now() + n * interval '1 second'
         FROM generate_series(-99, %(count)s) n""",
    """INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures,
                                               lost_leases, moved_at)
       SELECT gen_random_uuid(), 'orders', CASE WHEN n %% 100 = 0 THEN 'Rare' ELSE 'Order' END, 1, 3, 0, 0, now()
         FROM generate_series(1, %(count)s) n""",
    """INSERT INTO commandbus.reply (reply_to, command_id, outcome, created_at)
       SELECT 'somebody', gen_random_uuid(), 'SUCCESS', now() FROM generate_series(1, %(count)s)""",
    """INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, started_at,
                                      heartbeat_at, alive_until)
       SELECT 'orders', 'here', 1, '{}', '{}', 1, t, t, t + interval '1 hour' FROM clock_timestamp() AS t""",
    """INSERT INTO commandbus.worker_statistic
       SELECT date_trunc('second', now()) - n * interval '1 second', 1, 'Order', 10, 10, 0, 0, 0,
              0.5, '{100,101}', '{5,5}', 0.5, '{90}', '{10}'
         FROM generate_series(-600, 3000) n""",
)
MORE_WORKERS = """
    INSERT INTO commandbus.worker_statistic
    SELECT second, w, command_type, claimed, completed, failed, retried, parked, run_seconds, run_buckets, run_counts,
           wait_seconds, wait_buckets, wait_counts
      FROM commandbus.worker_statistic CROSS JOIN generate_series(2, 3) AS w"""


def filled(dsn: str, count: int, *, share: int, analyzed: bool) -> str:
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET synchronous_commit = off")
        conn.execute(FILL, {"count": count, "share": share})
        for statement in OTHERS:
            conn.execute(statement.encode() if "%(" not in statement else statement, {"count": 2 * COUNTED})
        if analyzed:
            conn.execute("VACUUM ANALYZE")
    return dsn


async def connected(dsn: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


def told(found: DomainStatus, backlog: int) -> None:
    """It says what was filled in, and what of it is not exact."""
    assert found.backlog == pytest.approx(backlog, rel=0.15)  # five times the standard deviation
    assert found.in_flight == 500
    assert found.scheduled == COUNTED
    assert found.parked == {"Order": COUNTED, "Rare": 2 * COUNTED // 100}
    assert (found.estimated, found.at_least) == (("backlog", "in_flight", "expired_leases"), ("scheduled", "parked"))
    assert found.rates.claimed == 10
    assert found.types[0].ran is not None
    assert found.types[0].ran.count == 600


@pytest.mark.asyncio
@pytest.mark.parametrize("analyzed", [True, False])
async def test_a_status_looks_at_a_bounded_number_of_rows(empty_dsn: str, analyzed: bool) -> None:
    count, share = 120_000, 700
    dsn = filled(empty_dsn, count, share=share, analyzed=analyzed)
    plans: list[dict[str, Any]] = []
    async with await connected(dsn) as conn:
        conn.add_notice_handler(lambda diagnostic: plans.extend(parsed(diagnostic.message_primary or "")))
        for statement in WATCH:
            await conn.execute(statement.encode())
        for _ in range(7):  # from the sixth on PostgreSQL may use a generic plan
            found = (await status(conn, "orders")).domain("orders")
            told(found, count * share // 1_000 - 500 + 100)
    scans = [
        (node["Relation Name"], node["Node Type"], touched(node))
        for plan in plans
        for node in nodes(plan["Plan"])
        if node.get("Relation Name") in TABLES
    ]
    assert {table for table, *_ in scans} == set(TABLES)
    assert [scan for scan in scans if scan[1] == "Seq Scan" and scan[0] != "reply"] == []
    assert [scan for scan in scans if scan[2] > 1.1 * COUNTED] == []


@pytest.mark.asyncio
@pytest.mark.parametrize("analyzed", [True, False])
async def test_the_charts_look_at_the_seconds_that_they_show(empty_dsn: str, analyzed: bool) -> None:
    """Of an hour and ten minutes by three workers; the keys of the seconds are sought, whatever is known of them."""
    dsn = filled(empty_dsn, 1, share=1_000, analyzed=False)
    plans: list[dict[str, Any]] = []
    async with await connected(dsn) as conn:
        await conn.execute(MORE_WORKERS)
        if analyzed:
            await conn.execute("ANALYZE commandbus.worker_statistic")
        conn.add_notice_handler(lambda diagnostic: plans.extend(parsed(diagnostic.message_primary or "")))
        for statement in WATCH:
            await conn.execute(statement.encode())
        for seconds in (60, 900):
            plans.clear()
            for _ in range(7):  # from the sixth on PostgreSQL may use a generic plan
                points = await history(conn, seconds=seconds, step=5)
                assert sum(point.ran.count for point in points if point.ran) == 3 * 10 * seconds
            scans = [
                node
                for plan in plans
                for node in nodes(plan["Plan"])
                if node.get("Relation Name") == "worker_statistic"
            ]
            assert len(scans) == 7
            assert [scan["Node Type"] for scan in scans if scan["Node Type"] == "Seq Scan"] == []
            assert max(touched(scan) for scan in scans) <= 3 * seconds


@pytest.mark.asyncio
async def test_a_backlog_in_two_far_runs_is_estimated_too(empty_dsn: str) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for domain, count in (("orders", 30_000), ("other", 50_000), ("orders", 20_000), ("tail", 1)):
            conn.execute(
                "INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)"
                " SELECT %s, gen_random_uuid(), 'Order', now() FROM generate_series(1, %s)",
                (domain, count),
            )
    async with await connected(empty_dsn) as conn:
        found = await status(conn)
    assert [domain.domain for domain in found.domains] == ["orders", "other", "tail"]
    assert [domain.backlog for domain in found.domains] == [
        pytest.approx(50_000, rel=0.03),
        pytest.approx(50_000, rel=0.03),
        1,
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [9_999, 10_000, 10_001, 15_000, 20_000])
async def test_a_backlog_up_to_twice_the_limit_is_exact(empty_dsn: str, count: int) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(FILL, {"count": count, "share": 1_000})
    async with await connected(empty_dsn) as conn:
        found = (await status(conn)).domain("orders")
    assert (found.backlog, found.in_flight, found.estimated) == (count - 500, 500, ())


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_status_beside_a_million_commands_estimates_them(empty_dsn: str) -> None:
    count, share = 1_000_000, 700
    dsn = filled(empty_dsn, count, share=share, analyzed=True)
    async with await connected(dsn) as conn:
        for _ in range(9):
            found = await status(conn, "orders")
            told(found.domain("orders"), count * share // 1_000 - 500 + 100)
