"""What the workers did over the last hour, step by step, from what their heartbeats stored: the lines of charts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.status_sql import StatusSQL
from commandbus.histogram import Histogram
from commandbus.status import BEHIND, LONGEST_WINDOW, Latency, Rates, latency_of


@dataclass(frozen=True, slots=True)
class Point:
    """One step: when it began (wall time), what happened per second in it, how long handlers ran and commands waited.

    `ran` and `waited` are None when nothing did.
    """

    at: datetime
    rates: Rates
    ran: Latency | None
    waited: Latency | None


async def history(conn_or_pool: Connection | Pool, *, seconds: int = 900, step: int = 5) -> tuple[Point, ...]:
    """Return the last `seconds` in steps of `step` seconds, oldest first, of all domains together.

    Only whole steps, which end at least 3 seconds ago. Raises ValueError for a step below 1 s, for `seconds` that are
    no multiple of it, or beyond an hour, for which workers keep what they did.
    """
    if step < 1 or not step <= seconds <= LONGEST_WINDOW or seconds % step:
        raise ValueError(f"seconds must be a multiple of step up to {LONGEST_WINDOW}, not {seconds} in steps of {step}")
    pool, conn = (conn_or_pool, None) if isinstance(conn_or_pool, AsyncConnectionPool) else (None, conn_or_pool)
    params = {"seconds": seconds, "step": step, "behind": BEHIND}
    async with transaction(pool, conn) as own, own.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(StatusSQL.HISTORY, params)
        return tuple(_point(row, step) for row in await cursor.fetchall())


def _point(row: tuple[Any, ...], step: int) -> Point:
    return Point(
        at=row[0],
        rates=Rates(*[float(count) / step for count in row[1:6]]),
        ran=latency_of(Histogram.load(row[7] or (), row[8] or (), row[6])),
        waited=latency_of(Histogram.load(row[10] or (), row[11] or (), row[9])),
    )
