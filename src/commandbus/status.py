"""What the bus is doing now: what waits, what runs, who works, how fast.

Cheap enough to be asked every second with millions of commands stored: see the functions of the schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg.rows import class_row, tuple_row
from psycopg_pool import AsyncConnectionPool

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.status_sql import StatusSQL
from commandbus.histogram import Histogram
from commandbus.payload import check_name

COUNTED = 10_000
"""Scheduled, parked and waiting things are counted up to here."""
BEHIND = 3
"""Seconds that rates and latencies lie behind, since workers store a second with their next heartbeat."""
LONGEST_WINDOW = 3_600
"""Seconds for which workers keep what they did."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, in seconds: the mean is exact, percentiles are off by at most 5 %."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened per second, on the mean of the window."""

    claimed: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    retried: float = 0.0
    parked: float = 0.0


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One command type within the window. `ran` is how long its handlers took, `waited` the time from due to claimed.

    Each is None when there was none.
    """

    command_type: str
    rates: Rates
    ran: Latency | None
    waited: Latency | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that runs, or that died (no heartbeat for 20 s) within the last hour; counts are since its start.

    `stop_requested_at` is set once somebody has asked it to stop.
    """

    worker_id: int
    domain: str
    host: str
    pid: int
    version: str
    is_alive: bool
    concurrency: int
    command_types: list[str]
    process_types: list[str]
    started_at: datetime
    heartbeat_at: datetime
    stop_requested_at: datetime | None
    claimed: int
    completed: int
    failed: int
    retried: int
    parked: int
    dropped: int


@dataclass(frozen=True, slots=True)
class DomainStatus:
    """One domain: what waits and what runs in it.

    `backlog` is due now and unclaimed, since `oldest_due` seconds (None: nothing is); `scheduled` waits for a later
    time; `in_flight` is leased; `expired_leases` were leased by workers that have not settled them in time; `parked`
    waits for an operator, by command type. `estimated` and `at_least` name the fields that are not exact: a backlog
    beyond 10,000 is estimated, with what is leased in it; other counts stop at 10,000 (parked: for each type).
    """

    domain: str
    backlog: int
    oldest_due: float | None
    in_flight: int
    expired_leases: int
    scheduled: int
    parked: dict[str, int]
    estimated: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    rates: Rates = field(default_factory=Rates)
    types: tuple[TypeStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()

    @property
    def live_workers(self) -> int:
        """How many workers run."""
        return sum(worker.is_alive for worker in self.workers)


@dataclass(frozen=True, slots=True)
class BusStatus:
    """The bus as of `taken_at` (the database's wall clock), rates and latencies over `window` seconds.

    `waiting_replies` counts the reply rows that no consumer has acknowledged, of all domains and up to 10,000, the
    oldest since `oldest_reply` seconds. `rates`, `ran` and `waited` are those of a TypeStatus, over all that is listed.
    """

    taken_at: datetime
    window: int
    domains: tuple[DomainStatus, ...]
    waiting_replies: int
    oldest_reply: float | None
    rates: Rates = field(default_factory=Rates)
    ran: Latency | None = None
    waited: Latency | None = None

    def domain(self, name: str) -> DomainStatus:
        """Return one domain; nothing waits and nobody works in one that is not listed."""
        found = next((domain for domain in self.domains if domain.domain == name), None)
        return found or DomainStatus(name, 0, None, 0, 0, 0, {})


async def status(conn_or_pool: Connection | Pool, domain: str | None = None, *, window: int = 60) -> BusStatus:
    """Look at every domain that has a live command or a worker, or at one.

    A connection is read from within its own transaction. `window` is in seconds, up to an hour, and ends 3 seconds
    ago. Raises ValueError for another one, InvalidNameError for what is no name of a domain.
    """
    if not 1 <= window <= LONGEST_WINDOW:
        raise ValueError(f"window must be 1 to {LONGEST_WINDOW} seconds, not {window}")
    asked = None if domain is None else check_name(domain, "domain")
    pool, conn = (conn_or_pool, None) if isinstance(conn_or_pool, AsyncConnectionPool) else (None, conn_or_pool)
    async with transaction(pool, conn) as own:
        counts = {row[0]: row[1:] for row in await _rows(own, StatusSQL.DOMAINS, {"domain": asked})}
        types = await _types(own, asked, window)
        workers = await _workers(own, asked)
        ((taken_at, replies, oldest_reply),) = await _rows(own, StatusSQL.REPLIES, {"limit": COUNTED})
    domains = tuple(
        _domain(
            name,
            counts.get(name, _NOTHING),
            [found.status for found in types if found.domain == name],
            [worker for worker in workers if worker.domain == name],
        )
        for name in sorted(counts.keys() | {found.domain for found in types})
    )
    return BusStatus(
        taken_at=taken_at,
        window=window,
        domains=domains,
        waiting_replies=replies,
        oldest_reply=oldest_reply,
        rates=_sum([domain.rates for domain in domains]),
        ran=latency_of(_merged([found.ran for found in types])),
        waited=latency_of(_merged([found.waited for found in types])),
    )


class _Type(NamedTuple):
    """A command type of a domain, with the histograms behind its latencies."""

    domain: str
    status: TypeStatus
    ran: Histogram
    waited: Histogram


_NOTHING: tuple[Any, ...] = (0, None, 0, 0, False, 0, {})


def _domain(
    name: str, counts: tuple[Any, ...], types: Sequence[TypeStatus], workers: Sequence[WorkerStatus]
) -> DomainStatus:
    backlog, oldest_due, in_flight, expired_leases, is_estimated, scheduled, parked = counts
    capped = {"scheduled": scheduled >= COUNTED, "parked": any(count >= COUNTED for count in parked.values())}
    return DomainStatus(
        domain=name,
        backlog=backlog,
        oldest_due=None if oldest_due is None else max(0.0, oldest_due),
        in_flight=in_flight,
        expired_leases=expired_leases,
        scheduled=scheduled,
        parked=parked,
        estimated=("backlog", "in_flight", "expired_leases") if is_estimated else (),
        at_least=tuple(what for what, is_capped in capped.items() if is_capped),
        rates=_sum([t.rates for t in types]),
        types=tuple(types),
        workers=tuple(workers),
    )


def _sum(rates: Sequence[Rates]) -> Rates:
    return Rates(*[sum(getattr(one, f.name) for one in rates) for f in fields(Rates)])


async def _types(conn: Connection, domain: str | None, window: int) -> list[_Type]:
    """What happened to each command type within the window."""
    params = {"domain": domain, "seconds": window, "behind": BEHIND}
    found = []
    for row in await _rows(conn, StatusSQL.ACTIVITY, params):
        rates = Rates(*[float(count) / window for count in row[2:7]])
        ran, waited = Histogram.load(row[8], row[9], row[7]), Histogram.load(row[11], row[12], row[10])
        found.append(_Type(row[0], TypeStatus(row[1], rates, latency_of(ran), latency_of(waited)), ran, waited))
    return found


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    merged = Histogram()
    for one in histograms:
        merged.merge(one)
    return merged


def latency_of(histogram: Histogram) -> Latency | None:
    """Summarise a histogram of seconds; None for an empty one."""
    mean, p50, p95, p99 = histogram.mean, *map(histogram.percentile, (0.5, 0.95, 0.99))
    if mean is None or p50 is None or p95 is None or p99 is None:
        return None
    return Latency(histogram.count, mean, p50, p95, p99)


async def _workers(conn: Connection, domain: str | None) -> list[WorkerStatus]:
    async with conn.cursor(row_factory=class_row(WorkerStatus)) as cursor:
        await cursor.execute(StatusSQL.WORKERS, {"domain": domain})
        return await cursor.fetchall()


async def _rows(conn: Connection, statement: LiteralString, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement, params)
        return await cursor.fetchall()
