"""The figures of load tests, as the bus tells them: none is counted here."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus import BatchMetadata, BatchType, CommandBus, status
from tests.e2e.app.handlers.testing import DOMAIN

_AGES = """
SELECT extract(epoch FROM coalesce(b.completed_at, s.settled_at, commandbus.now()) - b.created_at)::float8
  FROM commandbus.batch b
  LEFT JOIN LATERAL (
        SELECT max(e.ts) AS settled_at FROM commandbus.command c JOIN commandbus.event e USING (command_id)
         WHERE %(has_ended)s AND c.batch_id = b.batch_id) s ON true
 WHERE b.batch_id = %(batch_id)s
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What all workers did within the window, which ends 3 seconds ago, and what waits now."""

    window_seconds: int
    commands_processed: int
    throughput_per_second: float
    avg_processing_time_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    active_workers: int
    queue_depth: int


@dataclass(frozen=True, slots=True)
class LoadTestStats:
    """How far a load test is: one batch of test commands, the newest one if none is named; all 0 when there is none.

    What waits for an operator counts as done. failed: ended by a business rule or cancelled.
    """

    total_commands: int = 0
    completed: int = 0
    failed: int = 0
    in_tsq: int = 0
    pending: int = 0
    progress_percent: float = 0.0
    elapsed_seconds: float = 0.0
    estimated_remaining_seconds: float | None = None


class LoadStats:
    """Reads the figures."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._bus = CommandBus(pool)
        self._ended: tuple[BatchMetadata, float] | None = None

    async def throughput(self, window: int = 60) -> Throughput:
        """Return what was done in the last `window` seconds, over all domains. Latencies are within 5 %."""
        found = await status(self._pool, window=window)
        rates = found.rates
        per_second = rates.completed + rates.failed + rates.parked
        ran = found.ran
        return Throughput(
            window_seconds=window,
            commands_processed=round(per_second * window),
            throughput_per_second=round(per_second, 3),
            avg_processing_time_ms=_ms(None if ran is None else ran.mean),
            p50_ms=_ms(None if ran is None else ran.p50),
            p95_ms=_ms(None if ran is None else ran.p95),
            p99_ms=_ms(None if ran is None else ran.p99),
            active_workers=sum(domain.live_workers for domain in found.domains),
            queue_depth=sum(domain.backlog for domain in found.domains),
        )

    async def newest(self) -> UUID | None:
        """Return the newest load test's batch, None when there was none."""
        batches = await self._bus.list_batches(DOMAIN, BatchType.COMMAND, limit=1)
        return batches.items[0].batch_id if batches.items else None

    async def load_test(self, batch_id: UUID | None = None) -> LoadTestStats:
        """Return how far the load test is, or the newest one. Raises BatchNotFoundError."""
        if batch_id is not None:
            return await self._figures(await self._bus.get_batch(DOMAIN, batch_id))
        batches = await self._bus.list_batches(DOMAIN, BatchType.COMMAND, limit=1)
        return await self._figures(batches.items[0]) if batches.items else LoadTestStats()

    async def _figures(self, batch: BatchMetadata) -> LoadTestStats:
        failed = batch.failed_count + batch.canceled_count
        done = batch.completed_count + failed + batch.in_troubleshooting_count
        elapsed = await self._elapsed(batch, done)
        return LoadTestStats(
            total_commands=batch.total_count,
            completed=batch.completed_count,
            failed=failed,
            in_tsq=batch.in_troubleshooting_count,
            pending=batch.total_count - done,
            progress_percent=round(100 * done / batch.total_count, 2) if batch.total_count else 100.0,
            elapsed_seconds=round(elapsed, 3),
            estimated_remaining_seconds=round(elapsed * (batch.total_count - done) / done, 1) if done else None,
        )

    async def _elapsed(self, batch: BatchMetadata, done: int) -> float:
        """Seconds since it was sent, until now or, once nothing of it is left to do, until the last of it was done."""
        if self._ended is not None and self._ended[0] == batch:
            return self._ended[1]
        has_ended = done == batch.total_count
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_AGES, {"batch_id": batch.batch_id, "has_ended": has_ended})).fetchone()
        elapsed = 0.0 if row is None else float(row[0])
        if has_ended:
            self._ended = (batch, elapsed)  # unless an operator changes it, this stays so
        return elapsed


def _ms(seconds: float | None) -> float:
    return 0.0 if seconds is None else round(seconds * 1_000, 3)
