"""From replies to rows: decide for many processes at once, run their hooks, and give what the bus stores.

The settlement, the reply router and the operators' actions advance processes through here, each in a transaction in
which it holds the live row of the process.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import psycopg
from psycopg.pq import TransactionStatus
from uuid_utils.compat import uuid7

from commandbus._core.command_sql import CommandParams
from commandbus._core.connection import Connection
from commandbus._core.process_sql import ProcessParams, ProcessSQL
from commandbus.errors import InvalidOperationError
from commandbus.logging import about, in_one_line, log_error
from commandbus.payload import load_payload
from commandbus.process.decide import BeforeSend, Decision, Manager, Process, Undo, decide, hook_failed, needs_history
from commandbus.process.models import CancelRequest, ProcessMetadata, ProcessResponse
from commandbus.repositories import commands

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Advance:
    """One process with its reply, and what was decided."""

    manager: Manager
    process: Process
    response: ProcessResponse
    decision: Decision


async def plan(conn: Connection, replies: Sequence[tuple[Manager, Process, ProcessResponse]]) -> list[Advance]:
    """Decide what each process does after its reply; reads the history of those that begin to compensate."""
    beginning = [p.process_id for _, p, response in replies if needs_history(p, response)]
    history = await _completed_steps(conn, beginning) if beginning else {}
    advances = []
    command_id = uuid7()  # one that is not used is the next one's
    for manager, process, response in replies:
        completed = history.get(process.process_id, ()) if history else ()  # a UUID's hash takes its time
        decision = decide(manager, process, response, command_id, completed)
        advances.append(Advance(manager, process, response, decision))
        if decision.send is not None:
            command_id = uuid7()
    return advances


async def run_hooks(conn: Connection, advances: Sequence[Advance]) -> None:
    """Run before_send_commands for what is about to be sent; a process whose hook raises becomes FAILED."""
    by_manager: dict[int, list[Advance]] = {}
    for advance in advances:
        if advance.decision.send is not None and advance.manager.is_hooked:
            by_manager.setdefault(id(advance.manager), []).append(advance)
    for group in by_manager.values():
        items = [_item(advance) for advance in group]
        errors = await call_hook(group[0].manager, items, conn)
        for advance, item in zip(group, items, strict=True):
            if (error := errors.get(item.command_id)) is not None:
                advance.decision = hook_failed(advance.decision, error)


async def call_hook(manager: Manager, items: Sequence[BeforeSend], conn: Connection) -> dict[UUID, BaseException]:
    """Call the bulk hook under a savepoint; if it raises, once for each item. Returns the errors by command id."""
    try:
        async with conn.transaction():
            await manager.before_send_commands(items, conn)
            if conn.info.transaction_status is TransactionStatus.INERROR:
                raise InvalidOperationError(
                    "a statement of before_send_commands failed, and the hook went on: "
                    "put what may fail into `async with conn.transaction()`, or let the error out"
                )
    except (Exception, SystemExit) as error:
        if _is_infrastructure(conn, error):
            raise  # the connection or the server, not the hook: the whole transaction is tried again
        if len(items) == 1:
            return {items[0].command_id: error}
        errors: dict[UUID, BaseException] = {}
        for item in items:
            errors.update(await call_hook(manager, [item], conn))
        return errors
    return {}


def _is_infrastructure(conn: Connection, error: BaseException) -> bool:
    """Whether to try again: ours is broken, or a server said so. A hook's other resources are the hook's affair."""
    return conn.closed or (isinstance(error, psycopg.OperationalError) and error.sqlstate is not None)


async def apply(conn: Connection, replies: Sequence[tuple[Manager, Process, ProcessResponse]]) -> None:
    """Advance the processes: decide, run the hooks, store, send what comes next."""
    requests = await cancel_requests(conn, [p.process_id for _, p, _ in replies if p.compensates is None])
    for _, process, _ in replies:
        process.cancel = requests.get(process.process_id)
    advances = await plan(conn, replies)
    await run_hooks(conn, advances)
    advanced, sends = rows(advances)
    if advanced:
        await conn.execute(ProcessSQL.ADVANCE, {"advances": orjson.dumps(advanced).decode()})
    if sends:
        await commands.enqueue_planned(conn, sends)


def rows(advances: Sequence[Advance]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give the rows for advance_processes and for enqueue; tells failures as below."""
    tell_failures(advances)
    return (
        [ProcessParams.advance(a.process.process_id, a.decision) for a in advances],
        [CommandParams.planned(a.process, a.decision.send) for a in advances if a.decision.send],
    )


def tell_failures(advances: Sequence[Advance]) -> None:
    """Log the processes that failed by their manager's own code."""
    for advance in advances:
        if advance.decision.error is not None:
            _tell(advance)


def _tell(advance: Advance) -> None:
    process, decision = advance.process, advance.decision
    error, decision.error = decision.error, None  # told once
    extra = about(
        domain=process.domain,
        process_id=process.process_id,
        process_type=process.process_type,
        step=process.step,
        batch_id=process.batch_id,
        command_id=process.command_id,
        error_code=decision.error_code,
    )
    name, why = f"{process.process_id} ({process.process_type})", in_one_line(decision.error_message)
    log_error(_log, logging.ERROR, "process %s failed: %s", name, why, error=error, extra=extra)


async def cancel_requests(conn: Connection, process_ids: list[UUID]) -> dict[UUID, CancelRequest]:
    """Which of these processes were cancelled while a command of theirs was in flight, and by whom."""
    if not process_ids:
        return {}
    cursor = await conn.execute(ProcessSQL.CANCEL_REQUESTS, {"process_ids": process_ids})
    return {process_id: CancelRequest(operator, reason) for process_id, operator, reason in await cursor.fetchall()}


async def _completed_steps(conn: Connection, process_ids: list[UUID]) -> dict[UUID, list[Undo]]:
    cursor = await conn.execute(ProcessSQL.COMPLETED_STEPS, {"process_ids": process_ids})
    history: dict[UUID, list[Undo]] = {}
    for process_id, command_id, step in await cursor.fetchall():
        history.setdefault(process_id, []).append(Undo(step, command_id))
    return history


def _item(advance: Advance) -> BeforeSend:
    process, decision, send = advance.process, advance.decision, advance.decision.send
    if send is None:
        raise ValueError("nothing is about to be sent")
    return BeforeSend(
        ProcessMetadata(
            process_id=process.process_id,
            domain=process.domain,
            process_type=process.process_type,
            status=decision.status,
            current_step=decision.current_step,
            state=load_payload(decision.state),
            batch_id=process.batch_id,
            ordinal=process.ordinal,
        ),
        send.step,
        send.command_id,
        send.data,
    )
