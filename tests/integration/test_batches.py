"""Batches: how they are counted, when they end, and what migration V005 made for them."""

from collections import Counter
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commandbus import (
    BatchCommand,
    BatchNotFoundError,
    BatchStatus,
    BusinessRuleError,
    CommandStatus,
    PermanentCommandError,
)
from commandbus.models import BatchType
from commandbus.process import ProcessRepository, ProcessStatus
from tests.integration.process_kit import make_manager, open_hand, operators
from tests.integration.worker_kit import Bench

BROKEN = PermanentCommandError("BROKEN", "out of order")
REFUSED = BusinessRuleError("NO", "no")
COUNTS = ("completed_count", "failed_count", "canceled_count", "in_troubleshooting_count")


def counts(batch: Any) -> tuple[int, ...]:
    return tuple(getattr(batch, name) for name in COUNTS)


@pytest.mark.asyncio
async def test_a_process_batch_from_creation_to_its_end(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = await bench.bus.create_process_batch(bench.domain, 4, name="orders", custom_data={"π": [1]})
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.batch_type, batch.name, batch.custom_data) == (BatchType.PROCESS, "orders", {"π": [1]})
    assert (batch.status, batch.total_count, counts(batch)) == (BatchStatus.PENDING, 4, (0, 0, 0, 0))
    assert (batch.started_at, batch.completed_at) == (None, None)

    await manager.start_many([{"order": n, "path": ["Reserve", "Pay"]} for n in range(4)], batch_id)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    members = await ProcessRepository(bench.pool).of_batch(batch_id)
    assert (batch.status, batch.started_at) == (BatchStatus.IN_PROGRESS, members[0].created_at)

    async with open_hand(bench, manager) as hand:
        # 0 completes, 1 is refused at once, 2 is parked and later cancelled, 3 is parked and later completed
        await hand.settle(*zip(await hand.claim(4), [{}, REFUSED, {}, {}], strict=True))
        await hand.settle(*zip(await hand.claim(3), [{}, BROKEN, BROKEN], strict=True))
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.status, counts(batch), batch.completed_at) == (BatchStatus.IN_PROGRESS, (1, 0, 1, 2), None)
        parked = await ProcessRepository(bench.pool).of_batch(batch_id, ProcessStatus.WAITING_FOR_TSQ)
        assert [p.ordinal for p in parked] == [2, 3]
        commands = [(await ProcessRepository(bench.pool).get_audit_trail(p.process_id))[-1].command_id for p in parked]
        tsq = operators(bench, manager)
        await tsq.operator_cancel(commands[0])
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert counts(batch) == (1, 0, 1, 1)  # 2 compensates: in progress, no longer parked
        await hand.turn({}, step="Return")
        await tsq.operator_complete(commands[1])
    ends = [p.completed_at for p in await ProcessRepository(bench.pool).of_batch(batch_id)]
    await bench.skip(3_600)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, counts(batch)) == (BatchStatus.COMPLETED_WITH_FAILURES, (3, 0, 1, 0))
    assert batch.completed_at == max(end for end in ends if end)  # when the last ended, not when it was read
    await bench.skip(3_600)
    assert await bench.bus.get_batch(bench.domain, batch_id) == batch


@pytest.mark.asyncio
async def test_a_command_batch_counts_each_kind_of_end(bench: Bench) -> None:
    ids = [uuid4() for _ in range(5)]
    batch_id = await bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", i, {}) for i in ids])
    assert (await bench.bus.get_batch(bench.domain, batch_id)).status is BatchStatus.PENDING
    async with open_hand(bench) as hand:
        claims = await hand.claim(5)
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.status, counts(batch)) == (BatchStatus.IN_PROGRESS, (0, 0, 0, 0))
        assert batch.started_at is not None
        assert [claimed.ordinal for claimed in claims] == [0, 1, 2, 3, 4]
        assert await bench.bus.count_batch_commands(batch_id) == {CommandStatus.PENDING: 5}
        await hand.settle(*zip(claims, [{}, REFUSED, BROKEN, BROKEN, {}], strict=True))
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.status, counts(batch), batch.completed_at) == (BatchStatus.IN_PROGRESS, (2, 1, 0, 2), None)
        await operators(bench).operator_cancel(ids[2])
        await operators(bench).operator_retry(ids[3])
        assert counts(await bench.bus.get_batch(bench.domain, batch_id)) == (2, 1, 1, 0)
        assert await bench.bus.count_batch_commands(batch_id) == {
            CommandStatus.PENDING: 1,
            CommandStatus.COMPLETED: 2,
            CommandStatus.FAILED: 1,
            CommandStatus.CANCELED: 1,
        }
        await hand.turn({})
    last = (await bench.bus.get_command(ids[3])).completed_at
    await bench.skip(3_600)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, counts(batch)) == (BatchStatus.COMPLETED_WITH_FAILURES, (3, 1, 1, 0))
    assert batch.completed_at == last


@pytest.mark.asyncio
async def test_a_batch_whose_members_all_succeed_is_completed(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = await bench.bus.create_process_batch(bench.domain, 2)
    async with open_hand(bench, manager) as hand:
        await manager.start({"path": ["Reserve"]}, batch_id=batch_id)
        await hand.turn({})
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.status, counts(batch)) == (BatchStatus.IN_PROGRESS, (1, 0, 0, 0))  # one is still to be started
        await manager.start({"path": ["Reserve"]}, batch_id=batch_id)
        await hand.turn({})
    assert (await bench.bus.get_batch(bench.domain, batch_id)).status is BatchStatus.COMPLETED


@pytest.mark.asyncio
async def test_batches_side_by_side_do_not_mix(bench: Bench) -> None:
    manager = make_manager(bench)
    batches = [await bench.bus.create_process_batch(bench.domain, 2) for _ in range(3)]
    for batch_id in batches:
        await manager.start_many([{"path": ["Reserve"]}] * 2, batch_id)
    async with open_hand(bench, manager) as hand:
        await hand.settle(*zip(await hand.claim(6), [{}, {}, {}, REFUSED, BROKEN, {}], strict=True))
    found = [await bench.bus.get_batch(bench.domain, batch_id) for batch_id in batches]
    assert [b.status for b in found] == ["COMPLETED", "COMPLETED_WITH_FAILURES", "IN_PROGRESS"]
    assert [counts(b) for b in found] == [(2, 0, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]


@pytest.mark.asyncio
async def test_a_batch_of_0_is_completed_at_once(bench: Bench) -> None:
    for batch_id in (
        await bench.bus.create_process_batch(bench.domain, 0),
        await bench.bus.create_batch(bench.domain, []),
    ):
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.status, batch.total_count, counts(batch)) == (BatchStatus.COMPLETED, 0, (0, 0, 0, 0))
        assert batch.completed_at == batch.created_at


@pytest.mark.asyncio
async def test_a_batch_of_another_domain_or_of_none_is_not_found(bench: Bench) -> None:
    batch_id = await bench.bus.create_process_batch(bench.domain, 1)
    for domain, sought in (("elsewhere", batch_id), (bench.domain, uuid4())):
        with pytest.raises(BatchNotFoundError, match=f"domain '{domain}' has the id {sought}"):
            await bench.bus.get_batch(domain, sought)
    assert (await bench.bus.get_batch(None, batch_id)).domain == bench.domain
    with pytest.raises(BatchNotFoundError, match=r"^no batch has the id"):
        await bench.bus.get_batch(None, uuid4())
    with pytest.raises(ValueError, match="at least 0"):
        await bench.bus.create_process_batch(bench.domain, -1)


statuses = st.lists(st.sampled_from([str(status) for status in ProcessStatus]), max_size=9)


@given(statuses, st.integers(0, 3))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_mixture_is_counted_by_its_rule(migrated_dsn: str, members: list[str], missing: int) -> None:
    """Rows of every status, without the commands that they would have: rolled back, so that no audit meets them."""
    batch_id, total = uuid4(), len(members) + missing
    with psycopg.connect(migrated_dsn) as conn:
        conn.execute(
            "INSERT INTO commandbus.batch (batch_id, domain, batch_type, status, total_count, created_at)"
            " VALUES (%s, 'mixed', 'PROCESS', 'PENDING', %s, commandbus.now())",
            (batch_id, total),
        )
        for place, status in enumerate(members):
            insert_member(conn, batch_id, place, status)
        conn.execute("SELECT commandbus.sp_refresh_batch_stats('mixed', %s)", (batch_id,))
        row = conn.execute(
            "SELECT status, completed_count, failed_count, canceled_count, in_troubleshooting_count, completed_at"
            " FROM commandbus.batch WHERE batch_id = %s",
            (batch_id,),
        ).fetchone()
        ended = conn.execute(
            "SELECT max(completed_at) FROM commandbus.process WHERE batch_id = %s", (batch_id,)
        ).fetchone()
        conn.rollback()
    assert row is not None
    assert ended is not None
    assert row[:5] == (expected_status(members, total), *expected_counts(members))
    assert row[5] == (ended[0] if row[0].startswith("COMPLETED") else None)


def insert_member(conn: psycopg.Connection[Any], batch_id: UUID, place: int, status: str) -> None:
    ended = ProcessStatus(status).is_terminal
    conn.execute(
        "INSERT INTO commandbus.process (process_id, domain, process_type, status, state, batch_id, ordinal,"
        " created_at, updated_at, completed_at) VALUES (%(id)s, 'mixed', 'Mixed', %(status)s, '{}', %(batch)s,"
        " %(place)s, %(day)s, %(day)s, CASE WHEN %(ended)s THEN %(day)s::timestamptz END)",
        {
            "id": uuid4(),
            "status": status,
            "batch": batch_id,
            "place": place,
            "ended": ended,
            "day": datetime.fromisoformat(f"2026-01-{place + 1:02}T00:00:00+00:00"),
        },
    )


def expected_counts(members: list[str]) -> tuple[int, int, int, int]:
    by = Counter(members)
    return by["COMPLETED"] + by["COMPENSATED"], 0, by["FAILED"] + by["CANCELED"], by["WAITING_FOR_TSQ"]


def expected_status(members: list[str], total: int) -> str:
    completed, _, canceled, _ = expected_counts(members)
    if completed + canceled == total:
        return "COMPLETED_WITH_FAILURES" if canceled else "COMPLETED"
    return "IN_PROGRESS" if members else "PENDING"


COLUMN = """
    SELECT upper(data_type), is_nullable, column_default FROM information_schema.columns
     WHERE table_schema = 'commandbus' AND table_name = %s AND column_name = %s"""
INDEX = """
    SELECT array_agg(a.attname::text ORDER BY k.place), pg_get_expr(i.indpred, i.indrelid), i.indisunique
      FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indexrelid = %s::regclass AND i.indrelid = 'commandbus.process'::regclass
     GROUP BY i.indexrelid"""


def test_migration_v005_made_its_columns_and_indexes(migrated_dsn: str) -> None:
    with psycopg.connect(migrated_dsn) as conn:
        batch_type = conn.execute(COLUMN, ("batch", "batch_type")).fetchone()
        batch_id = conn.execute(COLUMN, ("process", "batch_id")).fetchone()
        by_batch = conn.execute(INDEX, ("commandbus.ix_process_batch_id",)).fetchone()
        by_status = conn.execute(INDEX, ("commandbus.ix_process_batch_status",)).fetchone()
    assert batch_type == ("TEXT", "NO", "'COMMAND'::text")
    assert batch_id == ("UUID", "YES", None)
    assert by_batch == (["batch_id"], "(batch_id IS NOT NULL)", False)
    assert by_status == (["batch_id", "status"], "(batch_id IS NOT NULL)", False)
