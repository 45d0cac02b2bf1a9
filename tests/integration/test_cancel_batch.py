"""Cancelling a batch: what has not run is cancelled, the rest ends by itself, and the batch with it."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCancellation,
    BatchCommand,
    BatchNotFoundError,
    BatchStatus,
    CommandStatus,
    InvalidOperationError,
    PermanentCommandError,
    TransientCommandError,
    cancelling,
)
from commandbus.process import ProcessMetadata, ProcessRepository, ProcessStatus
from tests.integration.process_kit import make_manager, open_hand, operators, process_of
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

BROKEN = PermanentCommandError("BROKEN", "out of order")
BUSY = TransientCommandError("BUSY", "try again")
WHO = {"operator": "ann", "reason": "enough"}
REPLIES = """
    SELECT c.ordinal, r.outcome, r.error_code, r.error_message
      FROM commandbus.reply r JOIN commandbus.command c ON c.command_id = r.command_id
     WHERE c.batch_id = %s ORDER BY c.ordinal"""

# Processes that a cancel has passed over.
STILL_OPEN = """
    SELECT count(*) FROM commandbus.process
     WHERE batch_id = %s AND status IN ('WAITING_FOR_REPLY', 'WAITING_FOR_TSQ') AND undone_status IS NULL
       AND cancel_request IS NULL"""


async def command_batch(bench: Bench, count: int, **options: Any) -> tuple[UUID, list[UUID]]:
    ids = [uuid4() for _ in range(count)]
    batch_id = await bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", i, {}, **options) for i in ids])
    return batch_id, ids


async def until_awaited(bench: Bench, conn: Any) -> None:
    """Wait until another session waits for what this connection holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"

    async def look() -> bool | None:
        return (await bench.execute(waiting, conn.info.backend_pid))[0][0] > 0 or None

    await eventually(look, "somebody to wait for the open transaction")


async def statuses(bench: Bench, ids: list[UUID]) -> list[str]:
    return [str((await bench.bus.get_command(i)).status) for i in ids]


# Batches of commands.


async def test_what_nobody_claimed_is_canceled_and_the_rest_ends_by_itself(bench: Bench) -> None:
    batch_id, ids = await command_batch(bench, 6, reply_to="me")
    async with open_hand(bench) as hand:
        await hand.turn({})
        await hand.turn(BROKEN)
        await hand.turn(BUSY)
        (flying,) = await hand.claim()
        assert flying.command_id == ids[2] or flying.command_id == ids[3]
        assert await bench.bus.cancel_batch(bench.domain, batch_id, **WHO) == BatchCancellation(3, 1)
        await hand.settle((flying, {}))
        assert await hand.claim() == []
    found = await statuses(bench, ids)
    assert found[:2] == ["COMPLETED", "IN_TROUBLESHOOTING_QUEUE"]
    assert sorted(found[2:]) == ["CANCELED", "CANCELED", "CANCELED", "COMPLETED"]
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.completed_count, batch.canceled_count) == (BatchStatus.IN_PROGRESS, 2, 3)
    await operators(bench).operator_cancel(ids[1])
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count) == (BatchStatus.COMPLETED_WITH_FAILURES, 6)
    canceled = [row for row in await bench.execute(REPLIES, batch_id) if row[1] == "CANCELED" and row[0] != 1]
    assert [row[1:] for row in canceled] == [("CANCELED", "CANCELED", "cancelled by ann: enough")] * 3


async def test_each_canceled_command_says_who_and_why(bench: Bench) -> None:
    batch_id, (command_id,) = await command_batch(bench, 1)
    await bench.bus.cancel_batch(bench.domain, batch_id, **WHO)
    command = await bench.bus.get_command(command_id)
    assert (command.status, command.error_code) == (CommandStatus.CANCELED, "CANCELED")
    assert command.completed_at is not None
    events = await bench.bus.get_audit_trail(command_id)
    assert [(e.event_type, e.details) for e in events] == [("SENT", {}), ("CANCELED", WHO)]
    assert await bench.execute(REPLIES, batch_id) == []


async def test_many_are_cancelled_in_chunks_and_told_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 10)
    batch_id, ids = await command_batch(bench, 35)
    other, others = await command_batch(bench, 5)
    told: list[int] = []
    done = await bench.bus.cancel_batch(bench.domain, batch_id, on_progress=told.append)
    assert (done, told) == (BatchCancellation(35, 0), [10, 20, 30, 35])
    assert set(await statuses(bench, ids)) == {"CANCELED"}
    assert set(await statuses(bench, others)) == {"PENDING"}
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.canceled_count) == (BatchStatus.COMPLETED_WITH_FAILURES, 35)
    await bench.bus.cancel_batch(bench.domain, other)


async def test_a_call_that_broke_off_is_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 10)
    batch_id, ids = await command_batch(bench, 25)

    def stop(canceled: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await bench.bus.cancel_batch(bench.domain, batch_id, on_progress=stop)
    assert sorted(await statuses(bench, ids)) == ["CANCELED"] * 10 + ["PENDING"] * 15
    assert await bench.bus.cancel_batch(bench.domain, batch_id) == BatchCancellation(15, 0)
    with pytest.raises(InvalidOperationError, match="is COMPLETED_WITH_FAILURES; only one that has not ended"):
        await bench.bus.cancel_batch(bench.domain, batch_id)


async def test_a_batch_that_nobody_knows(bench: Bench) -> None:
    batch_id, _ = await command_batch(bench, 1)
    with pytest.raises(BatchNotFoundError):
        await bench.bus.cancel_batch(bench.domain, uuid4())
    with pytest.raises(BatchNotFoundError):
        await bench.bus.cancel_batch("another", batch_id)
    await bench.bus.cancel_batch(bench.domain, batch_id)


async def test_an_empty_batch_has_ended(bench: Bench) -> None:
    batch_id, _ = await command_batch(bench, 0)
    with pytest.raises(InvalidOperationError, match="is COMPLETED;"):
        await bench.bus.cancel_batch(bench.domain, batch_id)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_command_that_is_just_being_claimed_is_waited_for(bench: Bench, commit: bool) -> None:
    batch_id, ids = await command_batch(bench, 3)
    async with open_hand(bench) as hand, bench.pool.connection() as conn:
        claiming = type(hand)(bench, conn, hand.worker_id, [])
        (claimed,) = await claiming.claim()
        cancel = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id))

        async def others_canceled() -> bool | None:
            return (await statuses(bench, ids)).count("CANCELED") == 2 or None

        await eventually(others_canceled, "the others to be canceled")
        assert not cancel.done()
        await (conn.commit() if commit else conn.rollback())
        assert await cancel == (BatchCancellation(2, 1) if commit else BatchCancellation(3, 0))
        if commit:
            await hand.settle((claimed, {}))


async def test_a_retry_that_becomes_due_meanwhile_is_canceled_in_the_queue(bench: Bench) -> None:
    batch_id, (command_id,) = await command_batch(bench, 1)
    async with open_hand(bench) as hand, bench.pool.connection() as conn:
        await hand.turn(BUSY)
        assert await type(hand)(bench, conn, hand.worker_id, []).claim(0) == []
        cancel = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id))

        await until_awaited(bench, conn)
        await conn.commit()
        assert await cancel == BatchCancellation(1, 0)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "CANCELED"]


async def test_a_batch_is_cancelled_while_workers_run(bench: Bench) -> None:
    @bench.handler("Reserve")
    async def handle(command: Any, context: Any) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        if command.command_id.int % 5 == 0:
            raise BUSY
        return {}

    batch_id, ids = await command_batch(bench, 500, reply_to="me")
    async with bench.worker(concurrency=5, batch_size=20), bench.worker(concurrency=5, batch_size=20):
        first = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id))
        second = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id))
        done = await asyncio.gather(first, second)

        async def all_ended() -> bool | None:
            batch = await bench.bus.get_batch(bench.domain, batch_id)
            ended = batch.completed_count + batch.canceled_count + batch.in_troubleshooting_count
            return ended == 500 or None

        await eventually(all_ended, "all members to end")
    found = await statuses(bench, ids)
    assert found.count("CANCELED") == sum(d.canceled for d in done) > 0
    assert len(await bench.execute(REPLIES, batch_id)) == 500 - found.count("IN_TROUBLESHOOTING_QUEUE")


# Batches of processes.


async def process_batch(bench: Bench, manager: Any, total: int, started: int | None = None) -> tuple[UUID, list[UUID]]:
    batch_id = await bench.bus.create_process_batch(bench.domain, total)
    await manager.start_many([{"order": n} for n in range(total if started is None else started)], batch_id)
    return batch_id, [p.process_id for p in await ProcessRepository(bench.pool).of_batch(batch_id)]


async def test_every_open_process_is_cancelled(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, ids = await process_batch(bench, manager, 7)
    ends: list[Any] = [{}, {}, BROKEN, BUSY, {}]
    async with open_hand(bench, manager) as hand:
        await hand.settle(*zip(await hand.claim(5), ends, strict=True))  # 0, 1 and 4 go on to Pay
        at_five, at_six, retry, paying, *_ = await hand.claim(4)
        in_flight = [at_five, at_six, retry, paying]
        done = await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager], **WHO)
        assert done == BatchCancellation(3, 4)
        await hand.settle(*[(claimed, {}) for claimed in in_flight])
        while claims := await hand.claim(10):
            assert {c.step for c in claims} <= {"Return", "Refund"}
            await hand.settle(*[(claimed, {}) for claimed in claims])
    for process_id in ids:
        process = await process_of(bench, process_id)
        assert process.status in (ProcessStatus.COMPENSATED, ProcessStatus.CANCELED)
        assert (process.error_code, process.error_message) == ("CANCELED", "cancelled by ann: enough")
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count) == (BatchStatus.COMPLETED_WITH_FAILURES, 7)


async def test_what_was_never_started_is_taken_off_the_total(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, ids = await process_batch(bench, manager, 10, started=3)
    assert await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]) == BatchCancellation(3, 0)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count, batch.canceled_count) == (BatchStatus.COMPLETED_WITH_FAILURES, 3, 3)
    ended = [(await process_of(bench, i)).completed_at for i in ids]
    assert batch.completed_at == max(e for e in ended if e is not None)


async def test_a_batch_in_which_nothing_was_started_ends(bench: Bench) -> None:
    batch_id = await bench.bus.create_process_batch(bench.domain, 10)
    assert await bench.bus.cancel_batch(bench.domain, batch_id) == BatchCancellation(0, 0)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count) == (BatchStatus.COMPLETED, 0)
    assert batch.completed_at is not None


async def test_nothing_more_is_started_in_a_cancelled_batch(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, _ = await process_batch(bench, manager, 10, started=2)
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(2)
        await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager])
        for again in (manager.start({}, batch_id), manager.start_many([{}, {}], batch_id, first_ordinal=2)):
            with pytest.raises(InvalidOperationError, match="was cancelled: nothing more is started in it"):
                await again
        await hand.settle(*[(claimed, {}) for claimed in claims])
    assert len(await ProcessRepository(bench.pool).of_batch(batch_id)) == 2
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count) == (BatchStatus.IN_PROGRESS, 2)
    assert await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]) == BatchCancellation(0, 0)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_start_under_way_is_waited_for_and_cancelled_too(bench: Bench, commit: bool) -> None:
    manager = make_manager(bench)
    batch_id, _ = await process_batch(bench, manager, 10, started=1)
    async with bench.pool.connection() as conn:
        await manager.start({}, batch_id, conn)
        cancel = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]))

        await until_awaited(bench, conn)
        await (conn.commit() if commit else conn.rollback())
        assert await cancel == BatchCancellation(2 if commit else 1, 0)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.total_count) == (BatchStatus.COMPLETED_WITH_FAILURES, 2 if commit else 1)


async def test_a_manager_that_is_not_given_is_named_before_anything_changes(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, ids = await process_batch(bench, manager, 3, started=2)
    with pytest.raises(InvalidOperationError, match=f"processes of type '{manager.process_type}'.*processes="):
        await bench.bus.cancel_batch(bench.domain, batch_id)
    assert {(await process_of(bench, i)).status for i in ids} == {ProcessStatus.WAITING_FOR_REPLY}
    assert (await bench.bus.get_batch(bench.domain, batch_id)).total_count == 3
    await manager.start({}, batch_id)
    await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager])


async def test_a_process_whose_command_is_held_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks, so that the next one meets what the one before has left."""
    monkeypatch.setattr(cancelling, "CHUNK", 2)
    manager = make_manager(bench)
    batch_id, ids = await process_batch(bench, manager, 5)
    async with open_hand(bench, manager) as hand, bench.pool.connection() as conn:
        settling = type(hand)(bench, conn, hand.worker_id, [manager])
        (claimed,) = await hand.claim()
        await settling.settle((claimed, {}))
        cancel = asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]))

        await until_awaited(bench, conn)
        await conn.commit()
        assert await cancel == BatchCancellation(5, 0)
        await hand.turn(step="Return")
    found = sorted([str((await process_of(bench, i)).status) for i in ids])
    assert found == ["CANCELED"] * 4 + ["COMPENSATED"]


async def test_processes_that_undo_their_steps_are_left_to_it(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, (undoing, parked) = await process_batch(bench, manager, 2)
    async with open_hand(bench, manager) as hand:
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(2)])
        await manager.cancel_process(undoing, operator="bob")
        await manager.cancel_process(parked, operator="bob")
        one, two = await hand.claim(2)
        await hand.settle((two, BROKEN))
        assert await bench.bus.cancel_batch(bench.domain, batch_id) == BatchCancellation(0, 0)
        await hand.settle((one, {}))
    assert {str((await process_of(bench, i)).status) for i in (undoing, parked)} == {"COMPENSATED", "WAITING_FOR_TSQ"}


async def test_a_process_without_a_command_is_cancelled_too(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = await bench.bus.create_process_batch(bench.domain, 1)
    kept = ProcessMetadata(uuid4(), bench.domain, manager.process_type, batch_id=batch_id)
    await ProcessRepository(bench.pool).save(kept)
    assert await bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]) == BatchCancellation(1, 0)
    assert (await process_of(bench, kept.process_id)).status is ProcessStatus.CANCELED


async def test_a_batch_of_processes_is_cancelled_while_workers_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 50)
    manager = make_manager(bench)

    async def handle(command: Any, context: Any) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        if command.command_id.int % 7 == 0 and context.attempt < 3:
            raise BUSY
        return {}

    for step in ("Reserve", "Pay", "Ship", "Return", "Refund"):
        bench.handler(step)(handle)
    batch_id, _ = await process_batch(bench, manager, 300)
    async with bench.worker(processes=[manager]), bench.worker():  # the second leaves its replies to the first
        cancels = [bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager]) for _ in range(2)]
        await asyncio.gather(*cancels)
        assert await bench.execute(STILL_OPEN, batch_id) == [(0,)]

        async def is_final() -> bool | None:
            return (await bench.bus.get_batch(bench.domain, batch_id)).status.is_final or None

        await eventually(is_final, "the batch to end")
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    found = [p.status for p in await ProcessRepository(bench.pool).of_batch(batch_id)]
    assert batch.canceled_count == found.count(ProcessStatus.CANCELED)
    assert set(found) <= {ProcessStatus.COMPLETED, ProcessStatus.COMPENSATED, ProcessStatus.CANCELED}
    assert found.count(ProcessStatus.CANCELED) > 0


async def test_two_cancels_meet_on_one_batch(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id, _ = await process_batch(bench, manager, 2)
    async with bench.pool.connection() as conn:
        await conn.execute("SELECT FROM commandbus.batch WHERE batch_id = %s FOR UPDATE", (batch_id,))
        both = [
            asyncio.create_task(bench.bus.cancel_batch(bench.domain, batch_id, processes=[manager])) for _ in range(2)
        ]
        await until_awaited(bench, conn)
        await conn.rollback()
        done = await asyncio.gather(*both)
    assert sum(d.canceled for d in done) == 2
