"""Two operators at once, and operators against workers: one wins, forced to meet on one row."""

import asyncio
from typing import Any

import pytest

from commandbus import CommandStatus, InvalidOperationError, PermanentCommandError
from tests.integration.process_kit import make_manager, open_hand, operators, process_of, steps_of
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

ACTIONS = ["operator_retry", "operator_cancel", "operator_complete"]
BROKEN = PermanentCommandError("BROKEN", "out of order")
BLOCKED = "SELECT pg_blocking_pids(%s) <> '{}'"
STATE_AFTER = {"operator_retry": "PENDING", "operator_cancel": "CANCELED", "operator_complete": "COMPLETED"}


async def until_blocked(bench: Bench, pid: int) -> None:
    async def look() -> bool | None:
        return (await bench.execute(BLOCKED, pid))[0][0] or None

    await eventually(look, f"session {pid} to wait for a lock")


@pytest.mark.parametrize("second", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
async def test_the_first_of_two_operators_wins(bench: Bench, first: str, second: str) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        command_id = (await hand.turn(BROKEN)).command_id
    async with bench.pool.connection() as one, bench.pool.connection() as two:
        await getattr(tsq, first)(command_id, operator="first", conn=one)
        other = asyncio.create_task(getattr(tsq, second)(command_id, operator="second", conn=two))
        await until_blocked(bench, two.info.backend_pid)
        await one.commit()
        with pytest.raises(InvalidOperationError, match=f"is {STATE_AFTER[first]}; only one in the"):
            await other
    assert (await bench.bus.get_command(command_id)).status == STATE_AFTER[first]
    operated = [e for e in await bench.bus.get_audit_trail(command_id) if e.event_type.startswith("OPERATOR")]
    assert [e.details["operator"] for e in operated] == ["first"]
    assert len(await steps_of(bench, process_id)) == (2 if first == "operator_complete" else 1)


async def test_the_second_wins_when_the_first_rolls_back(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        command_id = (await hand.turn(BROKEN)).command_id
    async with bench.pool.connection() as one, bench.pool.connection() as two:
        await tsq.operator_cancel(command_id, conn=one)
        other = asyncio.create_task(tsq.operator_complete(command_id, {"by": "second"}, conn=two))
        await until_blocked(bench, two.info.backend_pid)
        await one.rollback()
        await other
    assert (await process_of(bench, process_id)).state["results"] == [{"by": "second"}]
    assert "OPERATOR_CANCEL" not in await bench.trail(command_id)


async def test_a_late_operator_does_not_touch_the_commands_next_life(bench: Bench) -> None:
    """While one waits for the row, the other retries it and it is parked again: the row waited for is gone."""
    manager = make_manager(bench)
    await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        command_id = (await hand.turn(BROKEN)).command_id
        async with bench.pool.connection() as one, bench.pool.connection() as two:
            await tsq.operator_retry(command_id, conn=one)
            other = asyncio.create_task(tsq.operator_complete(command_id, {"by": "late"}, conn=two))
            await until_blocked(bench, two.info.backend_pid)
            await one.commit()
            with pytest.raises(InvalidOperationError):
                await other
        await hand.turn(BROKEN)
    command = await bench.bus.get_command(command_id)
    assert (command.status, command.attempts) == (CommandStatus.IN_TROUBLESHOOTING_QUEUE, 1)
    assert await bench.trail(command_id) == [
        "SENT", "RECEIVED", "MOVED_TO_TSQ", "OPERATOR_RETRY", "RECEIVED", "MOVED_TO_TSQ",
    ]  # fmt: skip


async def test_a_zombie_cannot_settle_what_an_operator_completed(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as zombie:
        for _ in range(3):
            (claimed,) = await zombie.claim(lease=30)
            await bench.skip(31)
        await bench.execute("SELECT commandbus.sweep(%s, NULL)", bench.domain)
        await operators(bench, manager).operator_complete(claimed.command_id, {"by": "operator"})
        assert await zombie.settle((claimed, {"by": "zombie"})) == {claimed.seq}
    assert (await process_of(bench, process_id)).state["results"] == [{"by": "operator"}]
    assert (await bench.trail(claimed.command_id))[-2:] == ["OPERATOR_COMPLETE", "LATE_OUTCOME_DROPPED"]


async def test_ten_operators_at_once_make_one_change(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        command_id = (await hand.turn(BROKEN)).command_id
    answers: list[Any] = await asyncio.gather(
        *[tsq.operator_complete(command_id, {"by": n}) for n in range(10)], return_exceptions=True
    )
    winners = [n for n, answer in enumerate(answers) if answer is None]
    assert len(winners) == 1
    assert all(isinstance(a, InvalidOperationError) for n, a in enumerate(answers) if n not in winners)
    assert (await process_of(bench, process_id)).state["results"] == [{"by": winners[0]}]
