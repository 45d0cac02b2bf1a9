"""Cancelling batches: what has not run, in chunks, each a transaction of its own."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID

import orjson

from commandbus._core.cancel_sql import CancelParams, CancelSQL
from commandbus._core.connection import Connection, Pool, transaction
from commandbus.errors import InvalidOperationError
from commandbus.models import BatchCancellation
from commandbus.process.cancelling import cancel_many, cancel_one
from commandbus.process.decide import Manager
from commandbus.process.models import CancelRequest

CHUNK = 1_000
OnProgress = Callable[[int], object]


async def cancel_command_batch(
    pool: Pool, batch_id: UUID, request: CancelRequest, on_progress: OnProgress | None
) -> BatchCancellation:
    """Cancel the commands of a batch that nobody has claimed, each with its reply."""
    canceled = 0
    async for command_ids in _live_commands(pool, batch_id):
        count, missed = await _cancel_commands(pool, command_ids, request, wait=False)
        canceled += count
        for command_id in missed:  # somebody held it: each alone, so that two cannot wait in a circle
            canceled += (await _cancel_commands(pool, [command_id], request, wait=True))[0]
        if on_progress is not None:
            on_progress(canceled)
    return BatchCancellation(canceled, await _count(pool, CancelSQL.COMMANDS_IN_FLIGHT, batch_id))


async def cancel_process_batch(
    pool: Pool,
    batch_id: UUID,
    request: CancelRequest,
    managers: Mapping[str, Manager],
    on_progress: OnProgress | None,
) -> BatchCancellation:
    """Shut the batch, then cancel its open processes. Raises InvalidOperationError for a manager that is not given."""
    await _shut(pool, batch_id, managers)
    canceled = 0
    while process_ids := await _open_processes(pool, batch_id):
        async with transaction(pool, None) as conn:
            count, missed = await cancel_many(conn, managers, process_ids, request)
        canceled += count
        for process_id in missed:
            canceled += await _cancel_missed(pool, process_id, request, managers)
        if on_progress is not None:
            on_progress(canceled)
    return BatchCancellation(canceled, await _count(pool, CancelSQL.PROCESSES_IN_FLIGHT, batch_id))


async def _shut(pool: Pool, batch_id: UUID, managers: Mapping[str, Manager]) -> None:
    params = {"batch_id": batch_id}
    async with transaction(pool, None) as conn:
        await conn.execute(CancelSQL.LOCK_BATCH, params)
        open_types = {row[0] for row in await (await conn.execute(CancelSQL.OPEN_TYPES, params)).fetchall()}
        if missing := sorted(open_types - managers.keys()):
            raise InvalidOperationError(
                f"batch {batch_id} has open processes of type {', '.join(map(repr, missing))}, whose manager was not "
                "given: pass every manager in processes="
            )
        await conn.execute(CancelSQL.CLOSE_BATCH, params)


async def _cancel_missed(pool: Pool, process_id: UUID, request: CancelRequest, managers: Mapping[str, Manager]) -> bool:
    """Cancel one process whose command somebody held, unless it has ended or begun to undo its steps meanwhile."""
    async with transaction(pool, None) as conn:
        row = await (await conn.execute(CancelSQL.STATE, {"process_id": process_id})).fetchone()
        if row is None:
            return False
        try:
            return await cancel_one(conn, managers[row[0]], process_id, request)
        except InvalidOperationError:
            return False


async def _cancel_commands(
    pool: Pool, command_ids: Sequence[UUID], request: CancelRequest, *, wait: bool
) -> tuple[int, list[UUID]]:
    """Cancel those that nobody has claimed; returns how many, and which stand unclaimed all the same."""
    params = {"command_ids": list(command_ids), "wait": wait}
    async with transaction(pool, None) as conn:
        taken = await (await conn.execute(CancelSQL.TAKE_UNCLAIMED, params)).fetchall()
        if taken:
            outcomes = [CancelParams.of_batch(row, request) for row in taken]
            await conn.execute(CancelSQL.RECORD, {"outcomes": orjson.dumps(outcomes).decode()})
        missed = [row[0] for row in await (await conn.execute(CancelSQL.MISSED, params)).fetchall()]
    return len(taken), missed


async def _live_commands(pool: Pool, batch_id: UUID) -> AsyncIterator[list[UUID]]:
    after = -1
    while True:
        params = {"batch_id": batch_id, "after": after, "limit": CHUNK}
        async with transaction(pool, None) as conn:
            rows = await (await conn.execute(CancelSQL.LIVE_COMMANDS, params)).fetchall()
        if not rows:
            return
        after = rows[-1][0]
        yield [command_id for _, command_id in rows]


async def _open_processes(pool: Pool, batch_id: UUID) -> list[UUID]:
    async with transaction(pool, None) as conn:
        cursor = await conn.execute(CancelSQL.OPEN_PROCESSES, {"batch_id": batch_id, "limit": CHUNK})
        return [row[0] for row in await cursor.fetchall()]


async def _count(pool: Pool, statement: str, batch_id: UUID) -> int:
    async with transaction(pool, None) as conn:
        return await _scalar(conn, statement, batch_id)


async def _scalar(conn: Connection, statement: str, batch_id: UUID) -> int:
    row = await (await conn.execute(statement, {"batch_id": batch_id})).fetchone()
    return int(row[0]) if row else 0
