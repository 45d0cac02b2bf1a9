"""The status of a bus with real commands and real workers, also while a test's clock is skipped."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio

from commandbus import BusinessRuleError, PermanentCommandError, RetryPolicy, TransientCommandError
from commandbus.errors import InvalidNameError
from commandbus.histogram import RELATIVE_ERROR, SHORTEST
from commandbus.repositories import workers
from commandbus.status import BEHIND, DomainStatus, status
from tests.integration.worker_kit import Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def conn(bench: Bench) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of a role by hand."""
    async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as conn:
        yield conn


async def of(bench: Bench, **options: Any) -> DomainStatus:
    return (await status(bench.pool, bench.domain, **options)).domain(bench.domain)


async def registered(bench: Bench, conn: psycopg.AsyncConnection[Any]) -> int:
    return await workers.register(conn, bench.domain, ["A"], [], 1)


async def told_time(conn: psycopg.AsyncConnection[Any], worker_id: int) -> workers.WorkerCounts:
    """The counts of a worker that has had its first heartbeat."""
    counts = workers.WorkerCounts()
    await workers.heartbeat(conn, worker_id, counts)
    return counts


_APART = 1_000_000.0  # seconds


async def aged(bench: Bench, seconds: float = BEHIND + 2) -> None:
    """Let the statistics of the test's workers be that much older; a worker's second is a second off at the most."""
    for shift in (-_APART, _APART - seconds):  # by way of a time at which no row stands: each is checked by itself
        await bench.execute(
            "UPDATE commandbus.worker_statistic s SET second = second + %s * interval '1 second'"
            "  FROM commandbus.worker w WHERE w.worker_id = s.worker_id AND w.domain = %s",
            shift,
            bench.domain,
        )


async def test_a_bus_at_rest_has_nothing_to_tell(bench: Bench) -> None:
    found = await status(bench.pool, bench.domain)
    assert found.domain(bench.domain) == DomainStatus(bench.domain, 0, None, 0, 0, 0, {})
    assert found.domain("never-heard-of") == DomainStatus("never-heard-of", 0, None, 0, 0, 0, {})


@pytest.mark.parametrize("skipped", [0, 7_200])
async def test_every_place_of_a_live_command_is_counted(bench: Bench, skipped: int) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Held")
    async def held(command: Any, context: Any) -> None:
        started.set()
        await go_on.wait()

    @bench.handler("Again")
    async def again(command: Any, context: Any) -> None:
        raise TransientCommandError("BUSY")

    @bench.handler("Broken")
    async def broken(command: Any, context: Any) -> None:
        raise PermanentCommandError("BROKEN")

    if skipped:
        await bench.skip(skipped)
    policy = RetryPolicy(max_attempts=3, backoff_schedule=[10_000])
    async with bench.worker(concurrency=1, retry_policy=policy, visibility_timeout=60) as worker:
        for _ in range(3):
            await bench.until_event(await bench.send("Broken"), "MOVED_TO_TSQ")
        for _ in range(2):
            await bench.until_event(await bench.send("Again"), "RETRY_SCHEDULED")
        await bench.send("Held")
        await started.wait()
        waiting = [await bench.send("Held") for _ in range(4)]
        found = await of(bench)
        assert (found.in_flight, found.backlog) == (1, 4)
        assert found.oldest_due is not None
        assert 0 <= found.oldest_due < 60
        assert (found.scheduled, found.parked, found.expired_leases) == (2, {"Broken": 3}, 0)
        assert (found.estimated, found.at_least) == ((), ())
        (alive,) = found.workers
        assert (alive.worker_id, alive.is_alive, alive.concurrency) == (worker.worker_id, True, 1)
        assert alive.command_types == ["Again", "Broken", "Held"]
        assert alive.version
        go_on.set()
        await bench.until(waiting[-1])
    ended = await of(bench)
    assert (ended.in_flight, ended.backlog, ended.oldest_due, ended.workers) == (0, 0, None, ())


async def test_a_retry_that_is_due_is_backlog_and_its_age_goes_by_the_bus_clock(bench: Bench) -> None:
    @bench.handler("Again")
    async def again(command: Any, context: Any) -> None:
        raise TransientCommandError("BUSY")

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[100])):
        await bench.until_event(await bench.send("Again"), "RETRY_SCHEDULED")
    assert ((await of(bench)).scheduled, (await of(bench)).backlog) == (1, 0)
    before = await bench.bus.now()
    await bench.skip(150)
    assert (await bench.bus.now() - before).total_seconds() >= 150
    found = await of(bench)
    assert (found.scheduled, found.backlog) == (0, 1)
    assert found.oldest_due == pytest.approx(50, abs=15)


async def test_a_lease_that_ran_out_and_a_worker_that_died_are_told(
    bench: Bench, conn: psycopg.AsyncConnection[Any]
) -> None:
    worker_id = await registered(bench, conn)
    assert await bench.bus.is_handled(bench.domain, "A")
    assert not await bench.bus.is_handled(bench.domain, "B")
    command_id = await bench.send("A")
    await conn.execute(
        "SELECT commandbus.claim(%s, %s, 10, interval '30 s', 3, 0)",
        (bench.domain, worker_id),
    )
    await conn.execute(
        "UPDATE commandbus.worker SET alive_until = clock_timestamp() - interval '1 minute' WHERE worker_id = %s",
        (worker_id,),
    )
    await bench.skip(60)
    found = await of(bench)
    assert (found.in_flight, found.expired_leases, found.backlog) == (0, 1, 0)
    assert [(w.worker_id, w.is_alive) for w in found.workers] == [(worker_id, False)]
    assert found.live_workers == 0
    await conn.execute(
        "UPDATE commandbus.worker SET alive_until = clock_timestamp() - interval '2 hours' WHERE worker_id = %s",
        (worker_id,),
    )
    assert (await of(bench)).workers == ()
    assert not await bench.bus.is_handled(bench.domain, "A")
    async with bench.worker(visibility_timeout=5):
        bench.handler("A")(lambda command, context: None)
        await bench.until(command_id)


async def test_rates_and_latencies_are_those_of_the_handlers(bench: Bench) -> None:
    @bench.handler("Mixed")
    async def mixed(command: Any, context: Any) -> None:
        await asyncio.sleep(0.05)
        match command.data["end"]:
            case "retry" if context.attempt == 1:
                raise TransientCommandError("BUSY")
            case "park":
                raise PermanentCommandError("BROKEN")
            case "refuse":
                raise BusinessRuleError("NO")

    ends = ["done"] * 6 + ["retry"] * 2 + ["park", "refuse"]
    async with bench.worker(concurrency=20) as worker:
        for end in ends:
            await bench.send("Mixed", {"end": end})

        async def look() -> bool | None:
            done = worker.counts
            return True if done.completed + done.parked + done.failed == len(ends) else None

        await eventually(look, "the end of every command")
    await aged(bench)
    found = await of(bench, window=30)
    (mixed_status,) = found.types
    per_second = (found.rates.claimed, found.rates.completed, found.rates.failed, found.rates.retried)
    assert per_second == pytest.approx((12 / 30, 8 / 30, 1 / 30, 2 / 30))
    assert found.rates.parked == pytest.approx(1 / 30)
    assert mixed_status.rates == found.rates
    ran, waited = mixed_status.ran, mixed_status.waited
    assert ran is not None
    assert waited is not None
    assert (ran.count, waited.count) == (12, 12)
    assert 0.05 * (1 - RELATIVE_ERROR) <= ran.p50 <= ran.p95 <= ran.p99 < 5
    assert 0.05 <= ran.mean < 5
    assert 0 <= waited.p50 <= waited.p99 < 5


async def test_what_a_handler_completes_in_its_own_transaction_counts_once(bench: Bench) -> None:
    @bench.handler("Own")
    async def own(command: Any, context: Any) -> None:
        async with context.transaction():
            await context.complete()

    async with bench.worker() as worker:
        await bench.until(await bench.send("Own"))
    assert worker.counts.completed == 1
    await aged(bench)
    (found,) = (await of(bench)).types
    assert found.ran is not None
    assert found.ran.count == 1


async def test_a_worker_that_ends_before_its_first_heartbeat_tells_what_it_did(bench: Bench) -> None:
    counts = workers.WorkerCounts()
    async with bench.pool.connection() as conn:
        worker_id = await workers.register(conn, bench.domain, ["A"], [], 1, counts)
        counts.add_outcomes([("A", "COMPLETED", 0.1)])
        await workers.heartbeat(conn, worker_id, counts, stopped=True)
    await aged(bench)
    (found,) = (await of(bench)).types
    assert found.rates.completed > 0


async def test_percentiles_of_workers_and_seconds_add_up_to_those_of_all(
    bench: Bench, conn: psycopg.AsyncConnection[Any]
) -> None:
    """PostgreSQL's own percentiles over the raw durations are the oracle."""
    draw = random.Random(3)
    raw = [draw.lognormvariate(-3, 1.5) for _ in range(4_000)]
    await conn.execute("CREATE TEMPORARY TABLE raw (seconds double precision)")
    async with conn.cursor() as cursor, cursor.copy("COPY raw FROM STDIN") as copy:
        for seconds in raw:
            await copy.write_row((seconds,))
    for part in (raw[:1_000], raw[1_000:]):
        worker_id = await registered(bench, conn)
        counts = await told_time(conn, worker_id)
        counts.add_outcomes([("A", "COMPLETED", seconds) for seconds in part[:500]])
        await workers.heartbeat(conn, worker_id, counts, stopped=True)
        await aged(bench, 5)
        counts.add_outcomes([("A", "COMPLETED", seconds) for seconds in part[500:]])
        await workers.heartbeat(conn, worker_id, counts, stopped=True)
    await aged(bench)
    (found,) = (await of(bench)).types
    assert found.ran is not None
    assert found.ran.count == len(raw)
    assert found.ran.mean == pytest.approx(sum(raw) / len(raw))
    cursor = await conn.execute(
        "SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) FROM raw"
    )
    row = await cursor.fetchone()
    assert row is not None
    for ours, theirs in zip((found.ran.p50, found.ran.p95, found.ran.p99), row[0], strict=True):
        assert ours == pytest.approx(theirs, rel=RELATIVE_ERROR + 0.01, abs=SHORTEST)
    counts = await told_time(conn, await registered(bench, conn))
    counts.add_outcomes([("B", "COMPLETED", 1e4)] * len(raw))
    await workers.heartbeat(conn, worker_id, counts, stopped=True)
    await aged(bench)
    both = await status(bench.pool, bench.domain)
    assert both.ran is not None
    assert (both.ran.count, both.ran.p99) == (2 * len(raw), pytest.approx(1e4, rel=RELATIVE_ERROR))
    assert both.rates.completed == pytest.approx(2 * len(raw) / both.window)


async def test_a_heartbeat_whose_answer_was_lost_stores_nothing_twice(
    bench: Bench, conn: psycopg.AsyncConnection[Any]
) -> None:
    worker_id = await registered(bench, conn)
    counts = await told_time(conn, worker_id)
    counts.add_claims([("A", 0.1)])
    counts.add_outcomes([("A", "COMPLETED", 0.1)])
    rows = counts.by_second.rows(all_of_them=True)
    await workers.heartbeat(conn, worker_id, counts, stopped=True)
    again = workers.WorkerCounts()
    again.by_second.rows = lambda *, all_of_them=False: rows  # type: ignore[method-assign]  # as if unanswered
    await workers.heartbeat(conn, worker_id, again, stopped=True)
    stored = await bench.execute(
        "SELECT claimed, completed FROM commandbus.worker_statistic WHERE worker_id = %s", worker_id
    )
    assert stored == [(1, 1)]


async def test_old_statistics_are_dropped_those_of_dead_workers_too(
    bench: Bench, conn: psycopg.AsyncConnection[Any]
) -> None:
    dead, alive = await registered(bench, conn), await registered(bench, conn)
    for worker_id in (dead, alive):
        counts = await told_time(conn, worker_id)
        counts.add_outcomes([("A", "COMPLETED", 0.1)])
        await workers.heartbeat(conn, worker_id, counts, stopped=True)
    await bench.execute(
        "UPDATE commandbus.worker_statistic SET second = second - interval '61 minutes' WHERE worker_id = %s", dead
    )
    async with bench.worker():

        async def look() -> bool | None:
            left = await bench.execute(
                "SELECT worker_id FROM commandbus.worker_statistic WHERE worker_id = ANY (%s)", [dead, alive]
            )
            return True if left == [(alive,)] else None

        await eventually(look, "a worker to drop what is old")


async def test_replies_that_nobody_took_are_counted(bench: Bench) -> None:
    before = await status(bench.pool)
    bench.handler("Asked")(lambda command, context: None)
    async with bench.worker():
        await bench.until(await bench.send("Asked", reply_to="somebody", correlation_id=uuid4()))
    after = await status(bench.pool)
    assert after.waiting_replies == before.waiting_replies + 1
    assert after.oldest_reply is not None
    assert after.oldest_reply >= 0


async def test_all_domains_are_listed_once(bench: Bench) -> None:
    async with open_bench(bench.dsn) as other, other.worker():
        bench.handler("A")(lambda command, context: None)
        command_id = await bench.send("A")
        found = await status(bench.pool)
        names = [domain.domain for domain in found.domains]
        assert names == sorted(set(names))
        assert {bench.domain, other.domain} <= set(names)
        assert found.domain(bench.domain).backlog == 1
        assert found.domain(other.domain).live_workers == 1
        async with bench.worker():
            await bench.until(command_id)


async def test_status_reads_within_the_callers_transaction(bench: Bench) -> None:
    async with bench.pool.connection() as conn:
        await bench.bus.send(domain=bench.domain, command_type="A", command_id=uuid4(), data={}, conn=conn)
        assert (await status(conn, bench.domain)).domain(bench.domain).backlog == 1
        assert (await of(bench)).backlog == 0
        await conn.rollback()


@pytest.mark.parametrize("window", [0, -1, 3_601])
async def test_a_window_that_nobody_keeps_is_refused(bench: Bench, window: int) -> None:
    with pytest.raises(ValueError, match="1 to 3600 seconds"):
        await status(bench.pool, window=window)


async def test_what_is_no_domain_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidNameError):
        await status(bench.pool, "x; DROP TABLE t")
