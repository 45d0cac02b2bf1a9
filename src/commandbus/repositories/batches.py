"""Batches in the database."""

from typing import Any
from uuid import UUID

from commandbus._core.batch_sql import BatchParsers, BatchSQL
from commandbus._core.connection import Connection
from commandbus.models import BatchMetadata


async def create(conn: Connection, values: dict[str, Any]) -> None:
    """Store a new batch; one of 0 members is complete at once."""
    await conn.execute(BatchSQL.CREATE, values)


async def get(conn: Connection, domain: str, batch_id: UUID) -> BatchMetadata | None:
    """Recount and return one batch, None when the domain has none of this id."""
    key = {"domain": domain, "batch_id": batch_id}
    await conn.execute(BatchSQL.REFRESH, key)
    row = await (await conn.execute(BatchSQL.GET, key)).fetchone()
    return None if row is None else BatchParsers.from_row(row)
