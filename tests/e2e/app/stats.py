"""The figures of load tests, as the bus tells them: none is counted here."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus import BatchNotFoundError, CommandBus, CommandStatus, status
from tests.e2e.app.handlers.testing import DOMAIN

_COMPLETED, _PARKED = CommandStatus.COMPLETED, CommandStatus.IN_TROUBLESHOOTING_QUEUE

# A load test, the newest one if none is named, with how long ago it was sent.
_LOAD_TEST = """
SELECT batch_id, commands, extract(epoch FROM commandbus.now() - sent_at)::float8 FROM app.load_test
 WHERE batch_id = %(batch_id)s OR %(batch_id)s::uuid IS NULL
 ORDER BY number DESC LIMIT 1
"""

# When the last of its commands came to its end, in seconds after it was sent.
_LASTED = """
SELECT extract(epoch FROM max(e.ts) - t.sent_at)::float8
  FROM app.load_test t
  JOIN commandbus.command c USING (batch_id)
  JOIN commandbus.event e USING (command_id)
 WHERE t.batch_id = %(batch_id)s GROUP BY t.sent_at
"""


@dataclass(frozen=True, slots=True)
class Throughput:
    """What all workers did within the window, which ends 3 seconds ago, and what waits now; latencies within 5 %."""

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
        self._ended: tuple[tuple[UUID, dict[CommandStatus, int]], float] | None = None

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

    async def metrics(self, batch_id: UUID | None = None) -> dict[str, Any]:
        """Return what the page of a load test shows: `stats`, `throughput`, and its `batch_id`, None without any."""
        found = await self._find(batch_id)
        stats = await self.load_test(batch_id)
        return {"stats": stats, "throughput": await self.throughput(), "batch_id": found and found[0]}

    async def load_test(self, batch_id: UUID | None = None) -> LoadTestStats:
        """Return how far a load test is, the newest one if none is named. Raises BatchNotFoundError."""
        found = await self._find(batch_id)
        if found is None:
            if batch_id is not None:
                raise BatchNotFoundError(DOMAIN, batch_id)
            return LoadTestStats()
        known, total, age = found
        counts = await self._bus.count_batch_commands(known)
        pending = counts.pop(CommandStatus.PENDING, 0)
        done = total - pending
        elapsed = age if pending else await self._lasted(known, counts)
        completed, parked = (counts.pop(one, 0) for one in (_COMPLETED, _PARKED))
        return LoadTestStats(
            total_commands=total,
            completed=completed,
            failed=sum(counts.values()),
            in_tsq=parked,
            pending=pending,
            progress_percent=round(100 * done / total, 2),
            elapsed_seconds=round(elapsed, 3),
            estimated_remaining_seconds=round(elapsed * pending / done, 1) if done else None,
        )

    async def _find(self, batch_id: UUID | None) -> tuple[UUID, int, float] | None:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_LOAD_TEST, {"batch_id": batch_id})).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    async def _lasted(self, batch_id: UUID, counts: dict[CommandStatus, int]) -> float:
        """Seconds from when it was sent until the last of it was done. Found once, unless an operator changes it."""
        ended = (batch_id, dict(counts))
        if self._ended is None or self._ended[0] != ended:
            async with self._pool.connection() as conn:
                row = await (await conn.execute(_LASTED, {"batch_id": batch_id})).fetchone()
            self._ended = ended, 0.0 if row is None else float(row[0])
        return self._ended[1]


def _ms(seconds: float | None) -> float:
    return 0.0 if seconds is None else round(seconds * 1_000, 3)
