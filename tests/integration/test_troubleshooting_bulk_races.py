"""Bulk actions at once with others, forced to meet: each parked command is done once, and nobody waits in a circle."""

import asyncio
from typing import Any

import psycopg
import pytest

from commandbus import BulkResult, CommandStatus, TroubleshootingFilter
from commandbus.troubleshooting import actions
from commandbus.troubleshooting import queue as bulk
from tests.integration.process_kit import Hand, make_manager, open_hand, operators, process_of
from tests.integration.tsq_kit import (
    ACTIONS,
    BROKEN,
    STATE_AFTER,
    act,
    items,
    operated,
    park,
    park_processes,
    parked_of,
    until_blocked,
    until_blocking,
)
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
HOLD = "SELECT FROM commandbus.troubleshooting WHERE command_id = %s FOR UPDATE"


async def lose_last_lease(bench: Bench, hand: Hand, count: int) -> list[Any]:
    """Send commands and let their leases run out until the next sweep parks them."""
    for _ in range(count):
        await bench.send("Reserve")
    for _ in range(3):
        claims = await hand.claim(count)
        await bench.skip(31)
    return [claimed.command_id for claimed in claims]


@pytest.mark.parametrize("second", ACTIONS)
@pytest.mark.parametrize("first", ACTIONS)
async def test_of_two_operators_with_the_same_ids_the_later_one_is_told(bench: Bench, first: str, second: str) -> None:
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        parked = await parked_of(bench, await park_processes(bench, hand, manager, 4))
    async with bench.pool.connection() as one, bench.pool.connection() as two:
        assert await act(tsq, first, "many", parked[1:3], operator="first", conn=one) == BulkResult(2)
        other = asyncio.create_task(act(tsq, second, "many", parked, operator="second", conn=two))
        await until_blocked(bench, two.info.backend_pid)
        await one.commit()
        state = CommandStatus(STATE_AFTER[first])
        assert await other == BulkResult(2, [], dict.fromkeys(sorted(parked[1:3]), state))
    names = ["first" if command_id in parked[1:3] else "second" for command_id in parked]
    assert [[name for _, name in await operated(bench, command_id)] for command_id in parked] == [
        [name] for name in names
    ]


async def test_operators_with_the_same_ids_in_another_order_do_not_wait_in_a_circle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third one holds a command in the middle until both have begun; chunks of one transaction, too."""
    monkeypatch.setattr(bulk, "CHUNK", 2)
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        parked = sorted(await park(bench, hand, 9))
    async with bench.pool.connection() as holder, bench.pool.connection() as one, bench.pool.connection() as two:
        await holder.execute(HOLD, [parked[4]])
        tasks = [
            asyncio.create_task(tsq.operator_retry_many(ids, conn=conn))
            for ids, conn in ((parked, one), (parked[::-1], two))
        ]
        await until_blocked(bench, one.info.backend_pid)
        await until_blocked(bench, two.info.backend_pid)
        await holder.rollback()
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().done for task in done} == {9}
        await (one if tasks[0] in done else two).commit()
        (late,) = [await task for task in waiting]
    assert late == BulkResult(0, [], dict.fromkeys(parked, CommandStatus.PENDING))
    assert {len(await operated(bench, command_id)) for command_id in parked} == {1}


@pytest.mark.parametrize("second", ACTIONS)
async def test_two_operators_by_filter_at_once_do_each_command_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 3)
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    where = TroubleshootingFilter(domain=bench.domain)
    async with open_hand(bench, manager) as hand:
        parked = await parked_of(bench, await park_processes(bench, hand, manager, 20))
    async with bench.pool.connection() as holder:
        await holder.execute(HOLD, [sorted(parked)[10]])
        tasks = [
            asyncio.create_task(act(tsq, action, "where", where, operator=action)) for action in ("complete", second)
        ]
        await until_blocking(bench, holder.info.backend_pid, 2)
        await holder.rollback()
        results = await asyncio.gather(*tasks)
    assert sum(result.done for result in results) == 20
    assert [len(await operated(bench, command_id)) for command_id in parked] == [1] * 20
    assert await items(tsq, bench) == []


async def test_the_second_operator_takes_what_the_first_rolls_back(bench: Bench) -> None:
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        parked = await park(bench, hand, 4)
    async with bench.pool.connection() as one:
        await tsq.operator_cancel_many(parked[:2], operator="first", conn=one)
        other = asyncio.create_task(
            tsq.operator_retry_where(TroubleshootingFilter(domain=bench.domain), operator="second")
        )
        await until_blocking(bench, one.info.backend_pid)
        await one.rollback()
        assert await other == BulkResult(4)
    assert {name for command_id in parked for name in await operated(bench, command_id)} == {
        ("OPERATOR_RETRY", "second")
    }


@pytest.mark.parametrize("action", ACTIONS)
async def test_what_is_parked_again_meanwhile_is_left_for_the_next_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """While the action waits at its second chunk, what its first one did is parked again."""
    monkeypatch.setattr(bulk, "CHUNK", 2)
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        parked = sorted(await parked_of(bench, await park_processes(bench, hand, manager, 6, step="Pay")))
        async with bench.pool.connection() as holder:
            await holder.execute(HOLD, [parked[2]])
            task = asyncio.create_task(act(tsq, action, "where", TroubleshootingFilter(domain=bench.domain)))
            await until_blocking(bench, holder.info.backend_pid)
            again = await hand.claim(2)
            await hand.settle(*[(claimed, BROKEN) for claimed in again])
            await holder.rollback()
            assert await task == BulkResult(6)
    assert [item.command_id for item in await items(tsq, bench)] == sorted(claimed.command_id for claimed in again)
    assert {len(await operated(bench, command_id)) for command_id in parked} == {1}


async def test_a_chunk_takes_nothing_that_was_parked_after_the_start(bench: Bench) -> None:
    """Between finding a command and taking it, another operator's retry failed: that is another parking."""
    async with open_hand(bench) as hand:
        first, again = await park(bench, hand, 2)
        (found,) = [item for item in await items(operators(bench), bench) if item.command_id == again]
        await operators(bench).operator_retry(again)
        await hand.turn(BROKEN)
    async with bench.pool.connection() as conn:
        taken = await actions.take(conn, [first, again], until=found.moved_at)
        assert [each.command_id for each in taken] == [first]
        await conn.rollback()


@pytest.mark.parametrize("how", ["one", "many"])
async def test_an_operator_who_waited_is_told_that_it_was_parked_again(bench: Bench, how: str) -> None:
    """While one waits for the row, the other retries it and it fails again, all in one commit: another parking."""
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        (command_id,) = await park(bench, hand)
        async with await psycopg.AsyncConnection.connect(bench.dsn) as one, bench.pool.connection() as two:
            await tsq.operator_retry(command_id, operator="first", conn=one)
            call = tsq.operator_cancel_many([command_id], conn=two) if how == "many" else None
            other = asyncio.create_task(call or tsq.operator_cancel(command_id, conn=two))
            await until_blocked(bench, two.info.backend_pid)
            hand.conn, own = one, hand.conn
            await hand.turn(BROKEN)
            await one.commit()
            hand.conn = own
            if how == "many":
                assert await other == BulkResult(0, [], {command_id: PARKED})
            else:
                with pytest.raises(bulk.InvalidOperationError, match="was parked only now; look at it, and ask again"):
                    await other
    assert await operated(bench, command_id) == [("OPERATOR_RETRY", "first")]


@pytest.mark.parametrize("action", ACTIONS)
async def test_an_operator_does_not_touch_what_a_sweep_has_not_parked_yet(bench: Bench, action: str) -> None:
    tsq = operators(bench)
    everything = TroubleshootingFilter(domain=bench.domain)
    async with open_hand(bench) as hand:
        lost = await lose_last_lease(bench, hand, 3)
        async with bench.pool.connection() as sweeper:
            await sweeper.execute("SELECT commandbus.sweep(%s, NULL)", [bench.domain])
            by_ids = await act(tsq, action, "many", lost)
            assert by_ids == BulkResult(0, [], dict.fromkeys(sorted(lost), CommandStatus.IN_PROGRESS))
            assert await act(tsq, action, "where", everything) == BulkResult(0)
            await sweeper.commit()
        assert {(await bench.bus.get_command(command_id)).status for command_id in lost} == {PARKED}
        assert await act(tsq, action, "where", everything) == BulkResult(3)
    assert {len(await operated(bench, command_id)) for command_id in lost} == {1}


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_process_that_is_cancelled_meanwhile_is_left_alone(bench: Bench, action: str) -> None:
    """Cancelling a process takes its parked command: the bulk action waits, then does the rest."""
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 3)
    (command_id,) = await parked_of(bench, process_ids[:1])
    async with bench.pool.connection() as canceler:
        await manager.cancel_process(process_ids[0], operator="carl", conn=canceler)
        task = asyncio.create_task(act(tsq, action, "where", TroubleshootingFilter(domain=bench.domain)))
        await until_blocking(bench, canceler.info.backend_pid)
        await canceler.commit()
        assert await task == BulkResult(2)
    assert await operated(bench, command_id) == [("OPERATOR_CANCEL", "carl")]
    assert (await process_of(bench, process_ids[0])).status == "CANCELED"


async def test_sweeps_claims_and_operators_at_once_leave_a_sound_history(bench: Bench) -> None:
    """Leases are lost, swept and retried by three operators at once; the auditor looks at the end."""
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    process_ids = [await manager.start({"order": n}) for n in range(30)]
    async with open_hand(bench, manager) as hand:

        async def sweep_and_act(action: str, times: int) -> int:
            done = 0
            for _ in range(times):
                await bench.execute("SELECT commandbus.sweep(%s, NULL)", bench.domain)
                done += (await act(tsq, action, "where", TroubleshootingFilter(domain=bench.domain))).done
            return done

        for _ in range(3):
            for _ in range(3):
                claims = await hand.claim(30)
                await bench.skip(31)
            acted = await asyncio.gather(*[sweep_and_act(action, 3) for action in ("retry", "complete", "retry")])
            assert sum(acted) == len(claims)
    for process_id in process_ids:
        assert (await process_of(bench, process_id)).status in ("WAITING_FOR_REPLY", "COMPLETED")
