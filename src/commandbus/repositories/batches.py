"""Batches in the database."""

from datetime import datetime
from typing import Any
from uuid import UUID

from commandbus._core.batch_sql import BatchParsers, BatchSQL
from commandbus._core.connection import Connection
from commandbus.models import BatchMetadata


async def create(conn: Connection, values: dict[str, Any]) -> None:
    """Store a new batch; one of 0 members is complete at once."""
    await conn.execute(BatchSQL.CREATE, values)


async def get(conn: Connection, domain: str | None, batch_id: UUID) -> BatchMetadata | None:
    """Recount and return one batch, None when there is none of this id, in the domain or, without one, in any."""
    if domain is None and (domain := await _domain_of(conn, batch_id)) is None:
        return None
    key = {"domain": domain, "batch_id": batch_id}
    await conn.execute(BatchSQL.REFRESH, key)
    row = await (await conn.execute(BatchSQL.GET, key)).fetchone()
    return None if row is None else BatchParsers.from_row(row)


async def find(conn: Connection, query: dict[str, Any]) -> tuple[list[BatchMetadata], tuple[datetime, UUID] | None]:
    """Recount and return a page of batches, and the created_at and batch_id that the next one begins after."""
    rows = await (await conn.execute(BatchSQL.READ, query)).fetchall()
    found = [BatchParsers.from_row(row) for row in rows if row[0] is not None]
    return found, BatchParsers.key(rows[-1]) if len(found) < len(rows) else None


async def _domain_of(conn: Connection, batch_id: UUID) -> str | None:
    row = await (await conn.execute(BatchSQL.DOMAIN_OF, {"batch_id": batch_id})).fetchone()
    return None if row is None else str(row[0])
