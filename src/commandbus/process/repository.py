"""Reading and storing processes."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.sql import Composed

from commandbus._core.arrays import execute
from commandbus._core.connection import Connection, Pool, one_statement, transaction
from commandbus._core.cursor import check_limit, dump_cursor, load_cursor
from commandbus._core.process_list_sql import ProcessListSQL
from commandbus._core.process_sql import ProcessParams, ProcessParsers, ProcessSQL
from commandbus.errors import InvalidOperationError
from commandbus.models import Page
from commandbus.payload import check_id, check_name
from commandbus.process.models import ProcessAuditEntry, ProcessMetadata, ProcessStatus

_MOST_LOOKED_AT = 10_000  # processes by one call of list_processes
_FEW = 1_000  # processes of a batch that are sorted for each page
_LAST = (1 << 128) - 1


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
        domain: str | None = None,
        newest_first: bool = False,
        conn: Connection | None = None,
    ) -> Page[ProcessMetadata]:
        """Return a page of at most `limit` (1 to 1,000) processes in the order in which they were started.

        All, or with `newest_first` the last one first; or those of one batch, always the first one first.
        No call looks at more than some 10,000 processes: with a filter, or in a large batch that was started together
        with others, a page may be short or empty and still have a next_cursor.
        Raises InvalidCursorError for a cursor that was not a page's, ValueError for a limit out of range, or for
        newest_first with a batch.
        """
        params = {
            "batch_id": None if batch_id is None else check_id(batch_id, "batch_id"),
            "status": None if status is None else str(ProcessStatus(status)),
            "process_type": process_type,
            "domain": None if domain is None else check_name(domain, "domain"),
            "limit": check_limit(limit),
            "few": _FEW,
        }
        if batch_id is not None:
            if newest_first:
                raise ValueError("a batch's processes are listed in the order of their start: leave newest_first out")
            after_time, after = load_cursor(cursor, (datetime, UUID)) or (None, None)
            async with _pinned(self._pool, conn) as own:
                return await _of_batch(own, params | {"after_time": after_time, "after": after})
        (after,) = load_cursor(cursor, (UUID,)) or (UUID(int=_LAST if newest_first else 0),)
        statement = ProcessListSQL.NEWEST if newest_first else ProcessListSQL.OLDEST
        async with _pinned(self._pool, conn) as own:
            rows, most = await _look(own, statement, params | {"after": after})
        return _page(rows, limit, most, lambda _, process_id: (process_id,))

    async def get_audit_trail(self, process_id: UUID, conn: Connection | None = None) -> list[ProcessAuditEntry]:
        """Return what a process has sent and what came back, oldest first."""
        async with one_statement(self._pool, conn) as own:
            cursor = await own.execute(ProcessSQL.AUDIT_TRAIL, {"process_id": check_id(process_id, "process_id")})
            return [ProcessParsers.audit_entry(row) for row in await cursor.fetchall()]

    @staticmethod
    async def start(conn: Connection, params: dict[str, Any]) -> None:
        """Store new processes (ProcessParams.start) with their first commands.

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


@asynccontextmanager
async def _pinned(pool: Pool, conn: Connection | None) -> AsyncIterator[Connection]:
    """Give a connection for reading by indexes only; a caller's transaction has its own settings again afterwards."""
    async with transaction(pool, conn) as own, own.transaction(force_rollback=True):
        await own.execute(ProcessListSQL.PIN)
        yield own


async def _look(conn: Connection, statement: Composed, params: dict[str, Any]) -> tuple[list[tuple[Any, ...]], int]:
    """Look at a few processes, and only if they do not fill the page at many; returns what at most was looked at."""
    limit: int = params["limit"]
    rows: list[tuple[Any, ...]] = []
    most = limit
    for most in (min(limit, _MOST_LOOKED_AT), min(10 * limit, _MOST_LOOKED_AT), _MOST_LOOKED_AT):
        rows = await (await conn.execute(statement, params | {"most": most})).fetchall()
        if (len(rows) == limit and rows[0][3] is not None) or rows[0][2] < most:
            break
    return rows, most


async def _of_batch(conn: Connection, params: dict[str, Any]) -> Page[ProcessMetadata]:
    """A page of a batch: by looking at all of it, or of what has the status, so long as they are few."""
    few = ProcessListSQL.FEW_OF_BATCH if params["status"] is None else ProcessListSQL.FEW_OF_STATUS
    rows = await (await conn.execute(few, params)).fetchall()
    most = _FEW + 1  # of few all were looked at, so that nothing lies beyond the last one
    if rows[0][2] == most:
        rows, most = await _look(conn, ProcessListSQL.OF_BATCH, params)
    return _page(rows, params["limit"], most, lambda created_at, process_id: (created_at, process_id))


def _page(
    rows: Sequence[tuple[Any, ...]], limit: int, most: int, key: Callable[[Any, UUID], Sequence[Any]]
) -> Page[ProcessMetadata]:
    """What a statement of ProcessListSQL found; there may be more when the page is full, or the look ended early."""
    created_at, process_id, looked = rows[0][:3]
    items = [ProcessParsers.from_row(row[3:]) for row in rows if row[3] is not None]
    if len(items) == limit:
        created_at, process_id = items[-1].created_at, items[-1].process_id
    is_more = len(items) == limit or looked == most
    return Page(items, dump_cursor(key(created_at, process_id)) if is_more else None)
