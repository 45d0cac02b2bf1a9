"""Make batches of processes, however large: in chunks, watched, all or none, and marked when they end early."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus
from commandbus.errors import CommandBusError
from commandbus.process import BaseProcessManager
from pytest_commandbus.behavior import BehaviorRepository
from tests.e2e.app.process.statement_report import DOMAIN, StatementReportProcess

AT_A_TIME = 2
CHUNK = 500  # processes in one statement: their hook takes some milliseconds at a time
LOOK_EVERY = 0.2  # seconds between looks at the client, and notes of how far it is
SILENT = "30 seconds"  # without a note, then whoever makes the batch is gone

_NUMBER = "SELECT nextval('app.batch_number')::integer"
_OPEN = "INSERT INTO app.creation (batch_id, requested) VALUES (%(batch_id)s, %(requested)s)"
_NOTE = """
UPDATE app.creation SET created = %(created)s, state = %(state)s, error = %(error)s, touched_at = clock_timestamp()
 WHERE batch_id = %(batch_id)s
"""
_READ = """
SELECT requested, created, error, touched_at,
       CASE WHEN state = 'CREATING' AND touched_at < clock_timestamp() - %(silent)s::interval
            THEN 'INTERRUPTED' ELSE state END AS state
  FROM app.creation WHERE batch_id = %(batch_id)s
"""


class TooManyError(CommandBusError):
    """As many batches as may be made at a time are being made."""


class ClientGoneError(CommandBusError):
    """Whoever asked for a batch went away before all of it was stored."""


@dataclass(frozen=True, slots=True)
class Creation:
    """How far the making of a batch is. state: CREATING, COMPLETE, ABANDONED or INTERRUPTED."""

    requested: int
    created: int
    state: str
    error: str | None
    touched_at: datetime


async def next_batch_number(conn: AsyncConnection[Any]) -> int:
    """Draw the number of a new batch."""
    row = await (await conn.execute(_NUMBER)).fetchone()
    return 0 if row is None else int(row[0])


class BatchCreator:
    """Makes batches of StatementReports, two at a time at most; the event loop is free meanwhile."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._bus = CommandBus(pool)
        self._manager = StatementReportProcess(pool)
        self._plain = _WithoutBehavior(pool)
        self._making = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, count: int, name: str | None) -> UUID:
        """Store a batch without processes yet, its number and its note; returns its id.

        Raises TooManyError while as many as may be are being made. What follows is `fill` or `fill_later`.
        """
        if self._making >= AT_A_TIME:
            raise TooManyError(f"{AT_A_TIME} batches are being made already: try again when one is complete")
        self._making += 1
        try:
            async with self._pool.connection() as conn, conn.transaction():
                batch_id = await self._bus.create_process_batch(DOMAIN, count, name=name, conn=conn)
                await BehaviorRepository().number_batch(batch_id, await next_batch_number(conn), conn=conn)
                await conn.execute(_OPEN, {"batch_id": batch_id, "requested": count})
        except BaseException:
            self._making -= 1
            raise
        return batch_id

    async def fill(
        self, batch_id: UUID, count: int, data: dict[str, Any], is_gone: Callable[[], Awaitable[bool]]
    ) -> None:
        """Start the batch's processes; returns once all are stored. Workers see them then, all or none.

        Raises ClientGoneError when `is_gone` says so meanwhile: the batch is then cancelled, without processes, and
        marked. Whatever else ends it early marks the batch too.
        """
        told = _Told()
        starting = asyncio.create_task(self._start(batch_id, count, data, told))
        try:
            while not (await asyncio.wait([starting], timeout=LOOK_EVERY))[0]:
                await self._note(batch_id, told.created, "CREATING")
                if await is_gone():
                    raise ClientGoneError(f"the client went away when {told.created:,} of {count:,} were written")
            await starting
            await self._note(batch_id, count, "COMPLETE")
        except ClientGoneError as gone:
            await _ended(starting)
            await self._note(batch_id, 0, "ABANDONED", str(gone))
            await self._bus.cancel_batch(DOMAIN, batch_id, operator="application", reason=str(gone))
            raise
        except BaseException as error:
            await _ended(starting)
            why = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "the server was ended"
            with suppress(Exception):  # the database may be what failed: then the note grows old
                await asyncio.shield(self._note(batch_id, 0, "INTERRUPTED", why))
            raise
        finally:
            self._making -= 1

    async def _start(self, batch_id: UUID, count: int, data: dict[str, Any], told: "_Told") -> None:
        """Store all processes in one transaction: workers that began with the first would slow down the rest."""
        manager = self._plain if data.get("behavior") is None else self._manager
        async with self._pool.connection() as conn, conn.transaction():
            await manager.start_many(repeat(data, count), batch_id, on_progress=told.hear, chunk_size=CHUNK, conn=conn)

    def fill_later(self, batch_id: UUID, count: int, data: dict[str, Any]) -> None:
        """Fill in the background, whoever goes away."""

        async def stays() -> bool:
            return False

        task = asyncio.create_task(self.fill(batch_id, count, data, stays), name=f"make batch {batch_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is made in the background; its batches are marked."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self, batch_id: UUID) -> Creation | None:
        """Return how far a batch is, None for one that was not made here."""
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(Creation)) as cursor:
            await cursor.execute(_READ, {"batch_id": batch_id, "silent": SILENT})
            return await cursor.fetchone()

    async def _note(self, batch_id: UUID, created: int, state: str, error: str | None = None) -> None:
        async with self._pool.connection() as conn:
            await conn.execute(_NOTE, {"batch_id": batch_id, "created": created, "state": state, "error": error})


class _WithoutBehavior(StatementReportProcess):
    """Starts processes without behavior: there is nothing to store before their commands."""

    before_send_commands = BaseProcessManager.before_send_commands


class _Told:
    """How many processes the bus says are written."""

    def __init__(self) -> None:
        self.created = 0

    def hear(self, created: int) -> None:
        self.created = created


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel and wait: what was written is undone."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
