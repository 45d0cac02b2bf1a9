"""What tests of the troubleshooting queue share: how commands come into it, and who waits for whom."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from commandbus import BulkResult, PermanentCommandError, TroubleshootingItem, TroubleshootingQueue
from tests.integration.process_kit import Hand
from tests.integration.worker_kit import Bench, eventually

BROKEN = PermanentCommandError("BROKEN", "out of order")
ACTIONS = ["retry", "cancel", "complete"]
STATE_AFTER = {"retry": "PENDING", "cancel": "CANCELED", "complete": "COMPLETED"}
_BLOCKED = "SELECT pg_blocking_pids(%s) <> '{}'"
_WAITING = """
    WITH RECURSIVE waiting AS (
        SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))
        UNION SELECT a.pid FROM waiting w JOIN pg_stat_activity a ON w.pid = ANY(pg_blocking_pids(a.pid)))
    SELECT count(*) FROM waiting"""


async def park(
    bench: Bench, hand: Hand, count: int = 1, command_type: str = "Reserve", error: Exception = BROKEN
) -> list[UUID]:
    """Send plain commands and have them parked, all in one settle."""
    command_ids = [await bench.send(command_type, {"n": n}) for n in range(count)]
    await hand.settle(*[(claimed, error) for claimed in await hand.claim(count)])
    return command_ids


async def park_processes(bench: Bench, hand: Hand, manager: Any, count: int, step: str = "Reserve") -> list[UUID]:
    """Start processes and have the command of this step parked, those before completed."""
    process_ids = [await manager.start({"order": n}) for n in range(count)]
    while True:
        claims = await hand.claim(count)
        assert len(claims) == count
        is_there = claims[0].step == step
        await hand.settle(*[(claimed, BROKEN if is_there else {"done": claimed.step}) for claimed in claims])
        if is_there:
            return process_ids


async def parked_of(bench: Bench, process_ids: Sequence[UUID]) -> list[UUID]:
    """The commands that these processes wait for."""
    statement = "SELECT command_id FROM commandbus.process WHERE process_id = ANY(%s)"
    return [row[0] for row in await bench.execute(statement, process_ids)]


async def act(tsq: TroubleshootingQueue, action: str, how: str, what: Any, **options: Any) -> BulkResult:
    """Call the bulk form `how` (many, where) of an action."""
    method = getattr(tsq, f"operator_{action}_{how}")
    arguments = [{"by": "ann"}] if action == "complete" else []
    result: BulkResult = await method(what, *arguments, **({"operator": "ann", "reason": "all of them"} | options))
    return result


async def items(tsq: TroubleshootingQueue, bench: Bench, **options: Any) -> list[TroubleshootingItem]:
    """All pages of the test's domain."""
    found: list[TroubleshootingItem] = []
    cursor = None
    while True:
        page = await tsq.list_troubleshooting(bench.domain, cursor=cursor, **options)
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def operated(bench: Bench, command_id: UUID) -> list[tuple[str, str]]:
    """What operators did with a command, and who: event type, operator."""
    trail = await bench.bus.get_audit_trail(command_id)
    return [(e.event_type, e.details["operator"]) for e in trail if e.event_type.startswith("OPERATOR")]


async def until_blocked(bench: Bench, pid: int) -> None:
    """Wait until this session of the server waits for a lock."""

    async def look() -> bool | None:
        return (await bench.execute(_BLOCKED, pid))[0][0] or None

    await eventually(look, f"session {pid} to wait for a lock")


async def until_blocking(bench: Bench, pid: int, count: int = 1) -> None:
    """Wait until this session of the server keeps so many others waiting, one behind the other or not."""

    async def look() -> bool | None:
        return (await bench.execute(_WAITING, pid))[0][0] >= count or None

    await eventually(look, f"{count} sessions to wait for session {pid}")
