"""Reading and storing commands."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import orjson

from commandbus._core.arrays import execute
from commandbus._core.command_sql import CommandParsers, CommandSQL
from commandbus._core.connection import Connection
from commandbus.models import AuditEvent, CommandMetadata, CommandStatus

_COUNTED = (
    CommandStatus.PENDING,
    CommandStatus.COMPLETED,
    CommandStatus.FAILED,
    CommandStatus.CANCELED,
    CommandStatus.IN_TROUBLESHOOTING_QUEUE,
)  # as COUNT_OF_BATCH tells them


async def enqueue(conn: Connection, params: dict[str, Any]) -> None:
    """Store new commands (CommandParams.new) in the connection's transaction, one NOTIFY a domain."""
    await execute(conn, CommandSQL.ENQUEUE, params)


async def enqueue_planned(conn: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store the next commands of processes (rows of CommandParams.planned), likewise."""
    await conn.execute(CommandSQL.ENQUEUE_PLANNED, {"commands": orjson.dumps(rows).decode()})


async def stored_payloads(conn: Connection, command_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Which of these commands exist, each with its data as JSON text."""
    cursor = await conn.execute(CommandSQL.STORED, {"command_ids": list(command_ids)})
    return dict(await cursor.fetchall())


async def now(conn: Connection) -> datetime:
    """Return the bus's clock."""
    ((time,),) = await (await conn.execute(CommandSQL.NOW)).fetchall()
    return cast("datetime", time)


async def get(conn: Connection, command_id: UUID) -> CommandMetadata | None:
    """Return one command, None when there is none."""
    cursor = await conn.execute(CommandSQL.GET, {"command_id": command_id})
    row = await cursor.fetchone()
    return None if row is None else CommandParsers.metadata(row)


async def find(conn: Connection, query: dict[str, Any]) -> tuple[list[CommandMetadata], tuple[Any, Any, Any]]:
    """Return a page of commands, and what the next one begins after: created_at and command_id, or seq, else Nones."""
    rows = await (await conn.execute(CommandSQL.FIND, query)).fetchall()
    return [CommandParsers.metadata(row[3:]) for row in rows if row[3] is not None], rows[0][:3]


async def of_batch(conn: Connection, query: dict[str, Any]) -> tuple[list[CommandMetadata], int | None]:
    """Return a page of a batch's commands, and the ordinal that the next one begins after, None at the end."""
    rows = await (await conn.execute(CommandSQL.OF_BATCH, query)).fetchall()
    return [CommandParsers.metadata(row[1:]) for row in rows if row[1] is not None], rows[0][0]


async def audit_trail(conn: Connection, command_id: UUID) -> list[AuditEvent]:
    """Return a command's events, oldest first."""
    cursor = await conn.execute(CommandSQL.AUDIT_TRAIL, {"command_id": command_id})
    return [CommandParsers.event(row) for row in await cursor.fetchall()]


async def audit_trails(conn: Connection, command_ids: Sequence[UUID]) -> dict[UUID, list[AuditEvent]]:
    """Return the events of several commands, each command's oldest first."""
    cursor = await conn.execute(CommandSQL.AUDIT_TRAILS, {"command_ids": list(command_ids)})
    found: dict[UUID, list[AuditEvent]] = {}
    for row in await cursor.fetchall():
        event = CommandParsers.event(row)
        found.setdefault(event.command_id, []).append(event)
    return found


async def count_of_batch(conn: Connection, batch_id: UUID) -> dict[CommandStatus, int]:
    """Count a batch's commands by the status that is stored; none that no command has."""
    cursor = await conn.execute(CommandSQL.COUNT_OF_BATCH, {"batch_id": batch_id})
    ((total, *counts),) = await cursor.fetchall()
    counted = dict(zip(_COUNTED, (total - sum(counts), *counts), strict=True))
    return {status: count for status, count in counted.items() if count}
