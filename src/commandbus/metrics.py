"""Prometheus metrics. Needs the extra `prometheus`.

`BusCollector` tells what the database knows of all domains and workers, `commandbus metrics` serves it; a worker does
nothing for it. `Metrics` is a middleware that counts and times in a worker of one's own program.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "commandbus.metrics needs prometheus-client: pip install 'pytest-commandbus[prometheus]'", name=missing.name
    ) from None

import psycopg

from commandbus.handler import Ended, HandlerContext, Middleware, Result
from commandbus.status import BusStatus, status

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_TYPE = ["domain", "command_type"]


class Metrics(Middleware):
    """Counts attempts and outcomes, and times handlers, by domain and command type.

    One object serves any number of workers of a process; a `registry` takes one such object. `buckets` are in seconds.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = SECONDS) -> None:
        self._attempts = Counter("commandbus_attempts", "Attempts that handlers began.", _TYPE, registry=registry)
        self._outcomes = Counter(
            "commandbus_outcomes", "Outcomes that were recorded, by event.", [*_TYPE, "event"], registry=registry
        )
        self._seconds = Histogram(
            "commandbus_handler_seconds", "How long handlers ran.", _TYPE, buckets=buckets, registry=registry
        )

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Count and time one attempt."""
        labels = context.command.domain, context.command.command_type
        self._attempts.labels(*labels).inc()
        began = perf_counter()
        try:
            return await call_next()
        finally:
            self._seconds.labels(*labels).observe(perf_counter() - began)

    async def settled(self, batch: Sequence[Ended]) -> None:
        """Count outcomes."""
        for context, event in batch:
            self._outcomes.labels(context.command.domain, context.command.command_type, event).inc()


class BusCollector(Collector):
    """The whole bus as of each scrape: `REGISTRY.register(BusCollector(dsn))`, in any one process.

    A scrape takes a connection for a moment, however long the backlog; `timeout` is how many seconds it may wait for
    the database before it says `commandbus_up 0`, and nothing else.
    """

    def __init__(self, dsn: str, *, timeout: float = 5.0) -> None:
        self._dsn = dsn
        self._timeout = timeout

    def collect(self) -> Iterator[Metric]:
        """Ask the database, in a thread that has no event loop yet."""
        with ThreadPoolExecutor(1) as threads:
            found = threads.submit(lambda: asyncio.run(self._look())).result()
        yield GaugeMetricFamily("commandbus_up", "Whether the database answered.", value=found is not None)
        if found is not None:
            yield from _families(found)

    def describe(self) -> list[Metric]:
        """Nothing: so a registry does not ask the database when this is registered."""
        return []

    async def _look(self) -> BusStatus | None:
        try:
            async with (
                asyncio.timeout(self._timeout),
                await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn,
            ):
                return await status(conn, window=1)
        except (psycopg.Error, TimeoutError):
            return None


def _families(found: BusStatus) -> Iterator[Metric]:
    commands = GaugeMetricFamily("commandbus_commands", "Live commands, by state.", labels=["domain", "state"])
    oldest = GaugeMetricFamily("commandbus_oldest_due_seconds", "Age of the oldest due command.", labels=["domain"])
    parked = GaugeMetricFamily("commandbus_parked", "Commands in the troubleshooting queue.", labels=_TYPE)
    workers = GaugeMetricFamily("commandbus_workers", "Workers, dead ones for an hour.", labels=["domain", "state"])
    for domain in found.domains:
        for state in ("backlog", "in_flight", "expired_leases", "scheduled"):
            commands.add_metric([domain.domain, state], getattr(domain, state))
        oldest.add_metric([domain.domain], domain.oldest_due or 0.0)
        for command_type, count in domain.parked.items():
            parked.add_metric([domain.domain, command_type], count)
        workers.add_metric([domain.domain, "alive"], domain.live_workers)
        workers.add_metric([domain.domain, "dead"], len(domain.workers) - domain.live_workers)
    yield from (commands, oldest, parked, workers)
    yield GaugeMetricFamily("commandbus_waiting_replies", "Replies that wait for a consumer.", found.waiting_replies)
    yield from _worker_families(found)


def _worker_families(found: BusStatus) -> Iterator[Metric]:
    labels = ["domain", "worker_id", "host"]
    age = GaugeMetricFamily("commandbus_heartbeat_age_seconds", "Since a worker's last heartbeat.", labels=labels)
    claimed = CounterMetricFamily("commandbus_claimed", "Commands that a worker claimed.", labels=labels)
    ended = CounterMetricFamily("commandbus_ended", "What a worker's attempts came to.", labels=[*labels, "outcome"])
    for worker in (worker for domain in found.domains for worker in domain.workers):
        its = [worker.domain, str(worker.worker_id), worker.host]
        age.add_metric(its, max(0.0, (found.taken_at - worker.heartbeat_at).total_seconds()))
        claimed.add_metric(its, worker.claimed)
        for outcome in ("completed", "failed", "retried", "parked", "dropped"):
            ended.add_metric([*its, outcome], getattr(worker, outcome))
    yield from (age, claimed, ended)
