"""Cancelling processes: take back what nobody has claimed, mark what is in flight, undo what was done."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import orjson
from psycopg.rows import class_row

from commandbus._core.cancel_sql import CancelParams, CancelSQL, Taken
from commandbus._core.connection import Connection
from commandbus.errors import CommandBusError, InvalidOperationError, ProcessNotFoundError
from commandbus.payload import load_payload, sanitise_text
from commandbus.process import advance
from commandbus.process.decide import Manager, Process, may_decide
from commandbus.process.models import CancelRequest, ProcessStatus

_LOOKS = 100  # at a process whose command has just moved on each time
_NOBODY = UUID(int=0)  # the command of a process that has none


def make_request(operator: str, reason: str) -> CancelRequest:
    """Give a request that can be stored, whatever was typed."""
    return CancelRequest(sanitise_text(operator, limit=200), sanitise_text(reason, limit=1_700))


async def cancel_one(conn: Connection, manager: Manager, process_id: UUID, request: CancelRequest) -> bool:
    """Cancel one process in the open transaction; whoever holds its command just now is waited for.

    Returns whether it was done at once, False when the command in flight ends first. Raises ProcessNotFoundError, or
    InvalidOperationError for one that has ended, undoes its steps, is to be cancelled already or is of another type.
    CommandBusError says that the process waits for what is not there.
    """
    for _ in range(_LOOKS):
        await _check(conn, manager, process_id)
        if taken := await _take(conn, [process_id], request, wait=True):
            await _undo(conn, {manager.process_type: manager}, taken, request)
            return not taken[0].is_ended_first
    raise CommandBusError(f"process {process_id} waits for a command that is not live; run `commandbus audit`")


async def cancel_many(
    conn: Connection, managers: Mapping[str, Manager], process_ids: Sequence[UUID], request: CancelRequest
) -> tuple[int, list[UUID]]:
    """Cancel those of the processes whose command nobody holds just now, in the open transaction.

    Returns how many were cancelled at once, and which processes were not there to be taken.
    """
    taken = await _take(conn, process_ids, request, wait=False)
    await _undo(conn, managers, taken, request)
    found = {t.process_id for t in taken}
    return sum(not t.is_ended_first for t in taken), [i for i in process_ids if i not in found]


async def _take(conn: Connection, process_ids: Sequence[UUID], request: CancelRequest, *, wait: bool) -> list[Taken]:
    params = {"process_ids": list(process_ids), "request": CancelParams.details(request), "wait": wait}
    async with conn.cursor(row_factory=class_row(Taken)) as cursor:
        await cursor.execute(CancelSQL.PROCESSES, params)
        return await cursor.fetchall()


async def _undo(
    conn: Connection, managers: Mapping[str, Manager], taken: Sequence[Taken], request: CancelRequest
) -> None:
    """Record the commands that were taken back, and let their processes undo their completed steps."""
    outcomes = [CancelParams.of_process(t, request) for t in taken if t.command_id is not None]
    if outcomes:
        await conn.execute(CancelSQL.RECORD, {"outcomes": orjson.dumps(outcomes).decode()})
    replies = [
        (managers[t.process_type or ""], _process(t), request.response(t.command_id or _NOBODY))
        for t in taken
        if not t.is_ended_first
    ]
    for manager, process, response in replies:
        if not may_decide(manager, process, response):
            raise InvalidOperationError(
                f"process {process.process_id} has been at steps that {type(manager).__name__} does not declare here "
                f"({', '.join(process.visits)}): cancel it with the version that does"
            )
    await advance.apply(conn, replies)


def _process(taken: Taken) -> Process:
    return Process(
        process_id=taken.process_id,
        process_type=taken.process_type or "",
        domain=taken.process_domain or "",
        state=taken.state or "{}",
        command_id=taken.command_id or _NOBODY,
        step=taken.current_step or "",
        batch_id=taken.batch_id,
        ordinal=taken.ordinal,
        visits=load_payload(taken.visits or "{}"),
    )


async def _check(conn: Connection, manager: Manager, process_id: UUID) -> None:
    """Raise for a process that cannot be cancelled."""
    row = await (await conn.execute(CancelSQL.STATE, {"process_id": process_id})).fetchone()
    if row is None:
        raise ProcessNotFoundError(process_id)
    process_type, status, step, is_undoing, requested_by = row
    if process_type != manager.process_type:
        raise InvalidOperationError(
            f"process {process_id} is of type {process_type!r}, not {manager.process_type!r}: ask its own manager"
        )
    if ProcessStatus(status).is_terminal:
        raise InvalidOperationError(f"process {process_id} is {status}; only one that has not ended can be cancelled")
    if is_undoing and status == ProcessStatus.WAITING_FOR_TSQ:
        raise InvalidOperationError(
            f"process {process_id} undoes its steps already, and its step {step!r} waits for an operator: "
            "retry, complete or cancel that command"
        )
    if is_undoing:
        raise InvalidOperationError(f"process {process_id} is {status}: it undoes its steps already")
    if requested_by is not None and status != ProcessStatus.WAITING_FOR_TSQ:
        raise InvalidOperationError(
            f"process {process_id} is to be cancelled already, by {requested_by}: its command in flight ends first"
        )
