"""The plans of cancelling: bounded by the batch or the chunk, whatever else waits in the tables."""

from typing import Any
from uuid import uuid4

import pytest

from commandbus import BatchCommand
from commandbus._core.cancel_sql import CancelSQL
from commandbus.process.cancelling import cancel_many, cancel_one, make_request
from tests.integration.process_kit import Hand
from tests.integration.test_plans import GROUP, ROUNDS, faults, nodes, quiet_dsn, times, watched

pytestmark = pytest.mark.asyncio

__all__ = ["quiet_dsn"]


async def work(hand: Hand) -> None:
    """Cancel in groups and one by one, often enough that PostgreSQL may change to generic plans."""
    bench, conn, request = hand.bench, hand.conn, make_request("ann", "")
    managers = hand.settlement.managers
    (manager,) = managers.values()
    for _ in range(ROUNDS):
        batch_id = await bench.bus.create_process_batch(bench.domain, GROUP)
        await manager.start_many([{} for _ in range(GROUP)], batch_id)
        params: dict[str, Any] = {"batch_id": batch_id, "limit": GROUP, "after": -1}
        for statement in (CancelSQL.OPEN_TYPES, CancelSQL.CLOSE_BATCH, CancelSQL.PROCESSES_IN_FLIGHT):
            await conn.execute(statement, params)
        ids = [row[0] for row in await (await conn.execute(CancelSQL.OPEN_PROCESSES, params)).fetchall()]
        async with conn.transaction():
            assert await cancel_one(conn, manager, ids[0], request)
            assert await cancel_many(conn, managers, ids[1:], request) == (GROUP - 1, [])
        claims = await hand.claim(GROUP)
        async with conn.transaction():
            flying = [claimed.process_id for claimed in claims if claimed.process_id]
            assert await cancel_many(conn, managers, flying, request) == (0, [])
        assert await hand.settle(*[(claimed, {}) for claimed in claims]) == set()

        commands = [BatchCommand("Reserve", uuid4(), {}) for _ in range(GROUP)]
        params["batch_id"] = await bench.bus.create_batch(bench.domain, commands)
        live = await (await conn.execute(CancelSQL.LIVE_COMMANDS, params)).fetchall()
        await conn.execute(CancelSQL.COMMANDS_IN_FLIGHT, params)
        for chunk, wait in ((live[:1], True), (live[1:], False)):
            values = {"command_ids": [command_id for _, command_id in chunk], "wait": wait}
            async with conn.transaction():
                taken = await (await conn.execute(CancelSQL.TAKE_UNCLAIMED, values)).fetchall()
                assert len(taken) == len(chunk)
                assert await (await conn.execute(CancelSQL.MISSED, values)).fetchall() == []


@pytest.mark.parametrize("analyzed", times("never"))
async def test_no_cancel_walks_through_the_backlog(quiet_dsn: str, analyzed: str) -> None:
    async with watched(quiet_dsn, analyzed=analyzed) as (hand, plans):
        await work(hand)
    scanned = {node.get("Relation Name") for plan in plans for node in nodes(plan["Plan"])}
    assert {"queue", "scheduled", "troubleshooting", "reply", "command", "process"} <= scanned
    assert faults(plans) == []
