"""Reading and storing processes."""

from typing import Any
from uuid import UUID

import psycopg

from commandbus._core.arrays import execute
from commandbus._core.connection import Connection, Pool, one_statement
from commandbus._core.cursor import check_limit, dump_cursor, load_cursor
from commandbus._core.process_sql import ProcessParams, ProcessParsers, ProcessSQL
from commandbus.errors import InvalidOperationError
from commandbus.models import Page
from commandbus.payload import check_id
from commandbus.process.models import ProcessAuditEntry, ProcessMetadata, ProcessStatus

_MOST_LOOKED_AT = 10_000  # processes by one call of list_processes


class ProcessRepository:
    """Processes in the database; each method takes the caller's connection, or one of the pool's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def save(self, process: ProcessMetadata, conn: Connection | None = None) -> None:
        """Store a process as it is, without sending anything."""
        async with one_statement(self._pool, conn) as own:
            await own.execute(ProcessSQL.SAVE, ProcessParams.save(process))

    async def get(self, process_id: UUID, conn: Connection | None = None) -> ProcessMetadata | None:
        """Return one process, None when there is none."""
        async with one_statement(self._pool, conn) as own:
            cursor = await own.execute(ProcessSQL.GET, {"process_id": check_id(process_id, "process_id")})
            row = await cursor.fetchone()
        return None if row is None else ProcessParsers.from_row(row)

    async def of_batch(
        self,
        batch_id: UUID,
        status: ProcessStatus | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        conn: Connection | None = None,
    ) -> list[ProcessMetadata]:
        """Return a batch's processes in the order of their ordinals, all or those of one status."""
        params = {"batch_id": check_id(batch_id, "batch_id"), "status": status, "limit": limit, "offset": offset}
        async with one_statement(self._pool, conn) as own:
            cursor = await own.execute(ProcessSQL.OF_BATCH, params)
            return [ProcessParsers.from_row(row) for row in await cursor.fetchall()]

    async def list_processes(
        self,
        batch_id: UUID | None = None,
        status: ProcessStatus | None = None,
        process_type: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection | None = None,
    ) -> Page[ProcessMetadata]:
        """Return a page of at most `limit` (1 to 1,000) processes, those started first first; all, or of one batch.

        No call looks at more than 10,000 processes: with a `status` or `process_type` a page may be short or empty
        and still have a next_cursor. Of a batch all are sorted for each page: ask for large pages of a large one.
        Raises InvalidCursorError for a cursor that was not a page's, ValueError for a limit out of range.
        """
        (after,) = load_cursor(cursor, (UUID,)) or (UUID(int=0),)
        params = {
            "batch_id": None if batch_id is None else check_id(batch_id, "batch_id"),
            "status": None if status is None else str(ProcessStatus(status)),
            "process_type": process_type,
            "limit": check_limit(limit),
            "after": after,
            "most": _MOST_LOOKED_AT,
        }
        async with one_statement(self._pool, conn) as own:
            statement = ProcessSQL.LIST_ALL if batch_id is None else ProcessSQL.LIST_OF_BATCH
            rows = await (await own.execute(statement, params)).fetchall()
        last, looked = rows[0][:2]
        items = [ProcessParsers.from_row(row[2:]) for row in rows if row[2] is not None]
        if len(items) == limit:
            last = items[-1].process_id
        is_more = len(items) == limit or looked == _MOST_LOOKED_AT
        return Page(items, dump_cursor((last,)) if is_more else None)

    async def get_audit_trail(self, process_id: UUID, conn: Connection | None = None) -> list[ProcessAuditEntry]:
        """Return what a process has sent and what came back, oldest first."""
        async with one_statement(self._pool, conn) as own:
            cursor = await own.execute(ProcessSQL.AUDIT_TRAIL, {"process_id": check_id(process_id, "process_id")})
            return [ProcessParsers.audit_entry(row) for row in await cursor.fetchall()]

    @staticmethod
    async def start(conn: Connection, params: dict[str, Any]) -> None:
        """Store new processes (ProcessParams.start) with their first commands, in the open transaction.

        Raises InvalidOperationError for a batch that was cancelled.
        """
        try:
            await execute(conn, ProcessSQL.START, params)
        except psycopg.DatabaseError as error:
            if error.sqlstate != ProcessSQL.BATCH_CANCELED:
                raise
            raise InvalidOperationError(
                f"batch {params['batch_id']} was cancelled: nothing more is started in it"
            ) from None
