"""Looking at parked commands: what is told of each, pages, counts."""

from typing import Any
from uuid import uuid4

import pytest

from commandbus import (
    CommandNotFoundError,
    InvalidCursorError,
    InvalidOperationError,
    PermanentCommandError,
    TransientCommandError,
    TroubleshootingItem,
)
from tests.integration.process_kit import make_manager, open_hand, operators
from tests.integration.tsq_kit import items, park
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio


async def test_an_item_tells_payload_last_error_attempts_and_process(bench: Bench) -> None:
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    batch_id = await bench.bus.create_process_batch(bench.domain, 1)
    process_id = await manager.start({"order": 7}, batch_id=batch_id)
    async with open_hand(bench, manager) as hand:
        for _ in range(3):
            command_id = (await hand.turn(TransientCommandError("BUSY", "later"))).command_id
        await tsq.operator_retry(command_id)
        await hand.turn(TransientCommandError("BUSY", "later"))
        await hand.claim()
        await bench.skip(31)
        await hand.turn(PermanentCommandError("BROKEN", "out of order"))
    (item,) = await items(tsq, bench)
    assert item == TroubleshootingItem(
        command_id=command_id,
        domain=bench.domain,
        command_type="Reserve",
        data={"order": 7, "results": 0},
        error_code="BROKEN",
        error_message="out of order",
        attempts=2,
        total_attempts=5,
        max_attempts=3,
        lost_leases=1,
        correlation_id=process_id,
        process_id=process_id,
        step="Reserve",
        batch_id=batch_id,
        created_at=(await bench.bus.get_command(command_id)).created_at,
        moved_at=(await bench.bus.get_audit_trail(command_id))[-1].timestamp,
    )
    assert await tsq.get_troubleshooting(command_id) == item


async def test_only_a_parked_command_can_be_looked_at(bench: Bench) -> None:
    tsq = operators(bench)
    waiting, unknown = await bench.send("Reserve"), uuid4()
    with pytest.raises(InvalidOperationError, match=f"{waiting} is PENDING; only one in the troubleshooting queue"):
        await tsq.get_troubleshooting(waiting)
    with pytest.raises(CommandNotFoundError, match=str(unknown)):
        await tsq.get_troubleshooting(unknown)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
async def test_pages_hold_each_command_once_the_oldest_first(bench: Bench, limit: int) -> None:
    """Those that were parked in one settle have one time, and are told apart by their ids."""
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        first, second = await park(bench, hand, 4), await park(bench, hand, 2)
    found = [item.command_id for item in await items(tsq, bench, limit=limit)]
    assert found == sorted(first) + sorted(second)


async def test_a_page_at_the_end_has_no_cursor(bench: Bench) -> None:
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        await park(bench, hand, 4)
    first = await tsq.list_troubleshooting(bench.domain, limit=2)
    assert first.next_cursor is not None
    second = await tsq.list_troubleshooting(bench.domain, limit=2, cursor=first.next_cursor)
    assert (len(second.items), second.next_cursor) == (2, None)


async def test_what_comes_and_goes_between_pages_moves_nothing_else(bench: Bench) -> None:
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        early = sorted(await park(bench, hand, 4))
        page = await tsq.list_troubleshooting(bench.domain, limit=2)
        assert [item.command_id for item in page.items] == early[:2]
        await tsq.operator_cancel(early[0])
        await tsq.operator_cancel(early[2])
        (late,) = await park(bench, hand)
    page = await tsq.list_troubleshooting(bench.domain, limit=2, cursor=page.next_cursor)
    assert ([item.command_id for item in page.items], page.next_cursor) == ([early[3], late], None)


async def test_lists_and_counts_by_domain_and_by_command_type(bench: Bench) -> None:
    """Command types of this test's own, since the database has other domains."""
    tsq = operators(bench)
    ours, pay = f"Ours-{uuid4().hex[:8]}", f"Pay-{uuid4().hex[:8]}"
    elsewhere = Bench(bench.dsn, bench.pool)
    async with open_hand(bench) as hand, open_hand(elsewhere) as other_hand:
        here = await park(bench, hand, 3, ours)
        there = await park(elsewhere, other_hand, 2, ours)
        paying = await park(bench, hand, 1, pay)

    async def found(*where: Any) -> list[Any]:
        page = await tsq.list_troubleshooting(*where)
        ids = [item.command_id for item in page.items]
        assert await tsq.count_troubleshooting(*where) == len(ids)
        return ids

    assert await found(bench.domain) == [*sorted(here), *paying]
    assert await found(elsewhere.domain) == sorted(there)
    assert await found(None, ours) == [*sorted(here), *sorted(there)]
    assert await found(bench.domain, ours) == sorted(here)
    assert await found(elsewhere.domain, pay) == []
    assert await tsq.count_troubleshooting() >= 6
    seen: set[Any] = set()
    cursor = None
    while not seen or cursor is not None:
        page = await tsq.list_troubleshooting(limit=1_000, cursor=cursor)
        seen |= {item.command_id for item in page.items}
        cursor = page.next_cursor
    assert seen >= {*here, *there, *paying}
    await tsq.operator_cancel_many(there)


async def test_what_is_no_page_is_refused(bench: Bench) -> None:
    tsq = operators(bench)
    for limit in (0, 1_001, True):
        with pytest.raises(ValueError, match="limit must be 1 to 1,000"):
            await tsq.list_troubleshooting(limit=limit)
    with pytest.raises(InvalidCursorError, match="next_cursor"):
        await tsq.list_troubleshooting(cursor="page 2")
