"""What brings batches to their end, whoever started them: one web process at a time does it, another takes over.

All of it is decided from what the database says, so that nothing is lost with a process.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus import (
    BatchMetadata,
    CommandBus,
    CommandBusError,
    CommandMetadata,
    CommandStatus,
    TroubleshootingFilter,
    TroubleshootingItem,
    TroubleshootingQueue,
)

from . import sql
from .batches import Batches
from .metrics import Metrics
from .notices import raise_alerts, tell_end
from .process import DOMAIN, PRINTING, LeadReportProcess
from .rows import Connection, Row, fetch, first
from .settings import Settings

EVERY = 0.5  # seconds
SAMPLE_EVERY = 1.0
PRUNE_EVERY = 600.0
_RESTED = 2.0  # after an error
_ERRORS = (psycopg.Error, PoolTimeout, CommandBusError, OSError)
_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after the open batches."""

    def __init__(
        self, pool: AsyncConnectionPool[Any], dsn: str, batches: Batches, settings: Settings, metrics: Metrics
    ) -> None:
        self._pool = pool
        self._dsn = dsn
        self._batches = batches
        self._settings = settings
        self._metrics = metrics
        self._bus = CommandBus(pool)
        self._tsq = TroubleshootingQueue(pool, processes=[LeadReportProcess(pool)])
        self._pruned_at = -PRUNE_EVERY

    async def run(self) -> None:
        """Go on for ever; lead whenever no other process does. An error is logged, and it goes on."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, application_name="report upkeep"
                ) as leading:
                    await self._lead(leading)
            except _ERRORS as error:
                self._metrics.upkeep_errors.inc()
                _log.warning("upkeep: %s: %s", type(error).__name__, error)
                await asyncio.sleep(_RESTED)

    async def _lead(self, leading: Connection) -> None:
        leads = False
        while True:
            if leads:
                await leading.execute("SELECT 1")  # the lock is held only as long as its session lives
                await self.round()
            else:
                leads = (await first(leading, sql.LEAD_UPKEEP) or {})["leads"]
            await asyncio.sleep(EVERY)

    async def round(self) -> None:
        """Look after each open batch once; one that cannot be is left for the next round."""
        async with self._pool.connection() as conn:
            found = await fetch(conn, sql.OPEN_BATCHES, limit=self._settings.time_limit)
        for batch in found:
            try:
                await self._look_after(batch)
            except _ERRORS as error:
                self._metrics.upkeep_errors.inc()
                _log.warning("batch %s: %s: %s", batch["batch_id"], type(error).__name__, error)
        if time.monotonic() - self._pruned_at >= PRUNE_EVERY:
            self._pruned_at = time.monotonic()
            await self.prune()

    async def prune(self) -> int:
        """Remove what ended long ago, with its reports and its progress; returns how many batches that were."""
        async with self._pool.connection() as conn:
            gone = await fetch(conn, sql.PRUNE, days=self._settings.retain_days)
        for row in gone:
            folder = self._settings.data / "reports" / str(row["batch_id"])
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return len(gone)

    async def _look_after(self, batch: Row) -> None:
        batch_id: UUID = batch["batch_id"]
        if batch["is_overdue"] and batch["ending"] is None:
            async with self._pool.connection() as conn:
                await fetch(conn, sql.ASK_ENDING, batch_id=batch_id, ending="time limit")
            batch["ending"] = "time limit"
        if batch["ending"] is not None:
            await self._batches.stop_leads(batch_id, "batch-report-runner", batch["ending"])
        elif batch["status"] == "PENDING":
            if batch["is_orphaned"] and await self._batches.launch(batch_id):
                _log.warning("batch %s was left by whoever started it: started now", batch_id)
            return
        on_bus = await self._bus.get_batch(DOMAIN, batch_id)
        if on_bus.in_troubleshooting_count:
            await self._give_up_parked(batch_id)
        await self._record_failures(batch, on_bus)
        async with self._pool.connection() as conn:
            await fetch(conn, sql.SAMPLE, batch_id=batch_id, apart=SAMPLE_EVERY)
        if on_bus.status.is_final:
            await self.finish(batch_id)

    async def _give_up_parked(self, batch_id: UUID) -> None:
        """A lead of which nobody knows what its worker did has failed: nobody is asked here."""
        where = TroubleshootingFilter(batch_id=batch_id)
        page = await self._tsq.list_troubleshooting(where=where)
        await self._end_leads(batch_id, page.items, "FAILED")
        ids = [item.command_id for item in page.items]
        await self._tsq.operator_cancel_many(ids, operator="batch-report-runner", reason="failed for good")

    async def _record_failures(self, batch: Row, on_bus: BatchMetadata) -> None:
        """Take over from the bus what failed or was cancelled; what succeeded its handler has told itself."""
        batch_id = batch["batch_id"]
        async with self._pool.connection() as conn:
            known = await first(conn, sql.COUNTS, batch_id=batch_id) or {}
        if on_bus.canceled_count <= known["failed"] + known["cancelled"]:
            return
        for status, own in ((CommandStatus.FAILED, "FAILED"), (CommandStatus.CANCELED, "CANCELLED")):
            for domain in (DOMAIN, PRINTING):
                await self._record(batch, domain, status, own)

    async def _record(self, batch: Row, domain: str, status: CommandStatus, own: str) -> None:
        cursor: str | None = None
        while True:
            page = await self._bus.query_commands(
                domain, status, created_after=batch["created_at"], limit=1000, cursor=cursor
            )
            ours = [command for command in page.items if command.data["batch_id"] == str(batch["batch_id"])]
            await self._end_leads(batch["batch_id"], ours, own)
            if (cursor := page.next_cursor) is None:
                return

    async def _end_leads(
        self, batch_id: UUID, commands: list[CommandMetadata] | list[TroubleshootingItem], status: str
    ) -> None:
        async with self._pool.connection() as conn:
            await fetch(
                conn,
                sql.END_LEADS,
                batch_id=batch_id,
                lead_ids=[command.data["lead_id"] for command in commands],
                statuses=[status for _ in commands],
                attempts=[command.attempts for command in commands],
                codes=[command.error_code for command in commands],
                messages=[command.error_message for command in commands],
            )

    async def finish(self, batch_id: UUID) -> str | None:
        """Give a batch its final status, and tell; None when it has one already."""
        async with self._pool.connection() as conn:
            batch = await first(conn, sql.LOCK_OPEN, batch_id=batch_id)
            if batch is None:
                return None
            rest = {"status": "FAILED", "code": "NOT_RUN", "message": "its process failed"}
            if batch["ending"]:
                rest = {"status": "CANCELLED", "code": "CANCELED", "message": "it was not run"}
            await fetch(conn, sql.END_REST, batch_id=batch_id, **rest)
            await fetch(conn, sql.SAMPLE, batch_id=batch_id, apart=0)
            counts = await first(conn, sql.COUNTS, batch_id=batch_id) or {}
            status, error = final_status(batch["ending"], counts)
            ended = await first(conn, sql.END_BATCH, batch_id=batch_id, status=status, error=error) or {}
            await tell_end(conn, self._bus, batch, status, counts | ended, self._settings.public_url)
            spent = await first(conn, sql.SPENT) or {}
            await raise_alerts(conn, self._bus, spent["spent"], self._settings.daily_budget, self._metrics)
        self._metrics.ended.labels(status).inc()
        for name in ("succeeded", "failed", "cancelled"):
            self._metrics.leads.labels(name).inc(counts[name])
        _log.info("batch %s is %s: %s", batch_id, status, counts)
        return status


def final_status(ending: str | None, counts: Row) -> tuple[str, str | None]:
    """What a batch of ended leads is, and why; one that ended before it was stopped has not been stopped."""
    if counts["cancelled"] and ending == "time limit":
        return "FAILED", "it took longer than its time limit; what was done is kept"
    if counts["cancelled"]:
        return "CANCELLED", None if ending == "cancelled" else "ended by an operator"
    return ("COMPLETED_WITH_ERRORS", None) if counts["failed"] else ("COMPLETED", None)


@contextlib.asynccontextmanager
async def kept_up(upkeep: Upkeep) -> Any:
    """Run the upkeep while the block runs."""
    task = asyncio.create_task(upkeep.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
