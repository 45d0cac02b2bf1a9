"""How a worker starts, what wakes it, and how it stops."""

import asyncio
import threading
from contextvars import ContextVar
from time import monotonic

import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    Command,
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    PoolTooSmallError,
    RetryPolicy,
    SchemaError,
    Worker,
)
from commandbus.repositories import workers
from tests.integration.worker_kit import NEVER, PATIENCE, Bench, eventually

pytestmark = pytest.mark.asyncio


async def workers_row(bench: Bench, worker: Worker) -> tuple[object, ...]:
    """Whether a worker counts as stopped, and what it has done, as the database knows it."""
    (row,) = await bench.execute(
        "SELECT stopped_at IS NOT NULL, claimed, completed FROM commandbus.worker WHERE worker_id = %s",
        worker.worker_id,
    )
    return tuple(row)


async def test_a_worker_registers_and_says_good_bye(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker() as worker:
        assert (await workers_row(bench, worker))[0] is False
        await bench.until(await bench.send("Ping"))
    assert await workers_row(bench, worker) == (True, 1, 1)


async def test_a_heartbeat_that_waits_behind_the_good_bye_does_not_raise_the_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one heartbeat after the other there is always one that waits for the connection."""
    monkeypatch.setattr(workers, "HEARTBEAT", 0.0)
    for _ in range(3):
        async with bench.worker() as worker:
            await worker.ready.wait()
        assert (await workers_row(bench, worker))[0] is True


async def all_given_back(pool: AsyncConnectionPool) -> bool | None:
    """True once no connection is out; the pool may just be opening one more."""
    stats = pool.get_stats()
    return stats.get("pool_available") == stats.get("pool_size") or None


async def test_an_unmigrated_database_is_refused(empty_dsn: str, bench: Bench) -> None:
    async with AsyncConnectionPool(empty_dsn, open=False, min_size=1, max_size=3) as pool:
        with pytest.raises(SchemaError, match="commandbus migrate"):
            await bench.make_worker(pool).run()
        await eventually(lambda: all_given_back(pool), "the pool to have all of its connections")


async def test_a_pool_that_leaves_handlers_nothing_is_refused(bench: Bench) -> None:
    async with AsyncConnectionPool(bench.dsn, open=False, min_size=1, max_size=2) as pool:
        with pytest.raises(PoolTooSmallError, match=r"max_size=2.*keeps 2.*at least 1 more.*3 or more"):
            await bench.make_worker(pool).run()


async def test_a_pool_that_others_have_used_up_is_told(bench: Bench) -> None:
    async with AsyncConnectionPool(bench.dsn, open=False, min_size=1, max_size=3, timeout=0.3) as pool:
        async with pool.connection(), pool.connection():
            with pytest.raises(PoolTooSmallError, match="raise max_size"):
                await bench.make_worker(pool).run()


async def test_handlers_that_use_the_smallest_pool_make_progress(bench: Bench) -> None:
    @bench.handler("Read")
    async def read(command: Command, context: HandlerContext) -> dict[str, int]:
        async with context.pool.connection() as conn:
            cursor = await conn.execute("SELECT 1")
            await asyncio.sleep(0)
            row = await cursor.fetchone()
        await context.extend_visibility(30)
        return {"n": row[0] if row else 0}

    @bench.handler("Complete")
    async def complete(command: Command, context: HandlerContext) -> None:
        async with context.transaction():
            await asyncio.sleep(0)
            await context.complete()

    async with AsyncConnectionPool(bench.dsn, open=False, min_size=1, max_size=3) as pool:
        async with bench.worker(pool, concurrency=20):
            ids = [await bench.send(command_type) for _ in range(50) for command_type in ("Read", "Complete")]
            for command_id in ids:
                await bench.until(command_id)


async def test_a_stopping_worker_lets_handlers_end_and_releases_what_it_has_not_started(bench: Bench) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Step")
    async def step(command: Command, context: HandlerContext) -> dict[str, bool]:
        if command.data:
            started.set()
            await go_on.wait()
        return {"ended": True}

    worker = bench.make_worker(concurrency=1, poll_interval=NEVER)
    run = asyncio.create_task(worker.run())
    await bench.until(await bench.send("Step"))  # now it knows that these are quick, and claims ahead
    running_id = await bench.send("Step", {"wait": True})
    await started.wait()
    ahead = [await bench.send("Step") for _ in range(3)]
    for command_id in ahead:
        await bench.until_event(command_id, "RECEIVED")
    stop = asyncio.create_task(worker.stop())
    for command_id in ahead:
        await bench.until_event(command_id, "RELEASED")
    late_id = await bench.send("Step")
    go_on.set()
    await stop
    await run
    done = await bench.bus.get_command(running_id)
    assert (done.status, done.result) == (CommandStatus.COMPLETED, {"ended": True})
    for command_id in ahead:
        given_back = await bench.bus.get_command(command_id)
        assert (given_back.status, given_back.attempts, given_back.lost_leases) == (CommandStatus.PENDING, 0, 0)
        assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]
    assert await bench.trail(late_id) == ["SENT"]
    assert (await workers_row(bench, worker))[0] is True
    async with bench.worker():
        for command_id in (*ahead, late_id):
            assert (await bench.until(command_id)).attempts == 1


async def test_a_stop_that_has_waited_long_enough_cancels_and_releases(bench: Bench) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @bench.handler("Endless")
    async def endless(command: Command, context: HandlerContext) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    worker = bench.make_worker()
    run = asyncio.create_task(worker.run())
    command_id = await bench.send("Endless")
    await started.wait()
    await worker.stop(timeout=0.05)
    await run
    assert cancelled.is_set()
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]
    given_back = await bench.bus.get_command(command_id)
    assert (given_back.status, given_back.attempts) == (CommandStatus.PENDING, 0)


async def test_a_stop_with_a_timeout_does_not_wait_for_a_thread(bench: Bench) -> None:
    started, let_go = threading.Event(), threading.Event()

    @bench.handler("Endless")
    def endless(command: Command, context: HandlerContext) -> None:
        started.set()
        let_go.wait(PATIENCE)

    worker = bench.make_worker()
    run = asyncio.create_task(worker.run())
    command_id = await bench.send("Endless")
    await asyncio.to_thread(started.wait)
    try:
        async with asyncio.timeout(5):
            await worker.stop(timeout=0.05)
            await run
        assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]
    finally:
        let_go.set()


async def test_a_stop_does_not_wait_for_a_thread_whose_attempt_has_timed_out(bench: Bench) -> None:
    let_go = threading.Event()

    @bench.handler("Endless")
    def endless(command: Command, context: HandlerContext) -> None:
        let_go.wait(PATIENCE)

    worker = bench.make_worker(visibility_timeout=1, concurrency=1)
    run = asyncio.create_task(worker.run())
    command_id = await bench.send("Endless", max_attempts=1)
    try:
        await bench.until(command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        async with asyncio.timeout(5):
            await worker.stop(timeout=0.05)
            await run
    finally:
        let_go.set()


async def test_a_worker_stopped_before_it_ran_ends_at_once(bench: Bench) -> None:
    worker = bench.make_worker()
    await worker.stop()
    command_id = await bench.send("Ping")
    async with asyncio.timeout(PATIENCE):
        await worker.run()
    assert await bench.trail(command_id) in (["SENT"], ["SENT", "RECEIVED", "RELEASED"])


async def test_a_running_worker_is_not_run_twice(bench: Bench) -> None:
    async with bench.worker() as worker:
        with pytest.raises(InvalidOperationError, match="running already"):
            await worker.run()


async def test_a_cancelled_worker_gives_its_connections_back(bench: Bench) -> None:
    started = asyncio.Event()

    @bench.handler("Endless")
    async def endless(command: Command, context: HandlerContext) -> None:
        started.set()
        await asyncio.Event().wait()

    async with AsyncConnectionPool(bench.dsn, open=False, min_size=3, max_size=3) as pool:
        run = asyncio.create_task(bench.make_worker(pool).run())
        command_id = await bench.send("Endless")
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        async with asyncio.timeout(PATIENCE):
            async with pool.connection() as one, pool.connection() as two, pool.connection() as three:
                for conn in (one, two, three):
                    assert not conn.autocommit
    assert (await bench.trail(command_id))[:2] == ["SENT", "RECEIVED"]


async def test_a_cancelled_worker_starts_nothing_more(bench: Bench) -> None:
    calls: list[int] = []
    blocked = asyncio.Event()

    @bench.handler("Step")
    async def step(command: Command, context: HandlerContext) -> None:
        calls.append(command.data["n"])
        if command.data["n"] == 1:
            blocked.set()
            await asyncio.Event().wait()

    run = asyncio.create_task(bench.make_worker(concurrency=1).run())
    await bench.until(await bench.send("Step", {"n": 0}))
    await bench.send("Step", {"n": 1})
    await blocked.wait()
    for n in (2, 3):
        await bench.until_event(await bench.send("Step", {"n": n}), "RECEIVED")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert calls == [0, 1]


async def test_a_notification_wakes_an_idle_worker(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(poll_interval=NEVER):
        waits = []
        for _ in range(10):
            command_id = await bench.send("Ping")
            await bench.until(command_id)
            sent, received, *_ = await bench.bus.get_audit_trail(command_id)
            waits.append((received.timestamp - sent.timestamp).total_seconds())
    assert sorted(waits)[5] < 0.05


async def test_a_worker_that_does_not_listen_polls(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(listen=False, poll_interval=0.05):
        for _ in range(3):
            await bench.until(await bench.send("Ping"))
        listeners = await bench.execute(
            "SELECT 1 FROM pg_stat_activity WHERE query = 'LISTEN \"' || commandbus.channel(%s) || '\"'", bench.domain
        )
        assert listeners == []


async def test_a_due_retry_needs_no_notification(bench: Bench) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        started.set()
        await go_on.wait()
        if context.attempt < 3:
            raise ValueError

    async def asleep() -> bool | None:
        """Whether the claim loop has looked for what is due next, found nothing, and lain down."""
        rows = await bench.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state = 'idle' AND query LIKE '%%min(due_at)%%' AND query LIKE '%%extract(%%'"
        )
        return bool(rows) or None

    async with bench.worker(poll_interval=NEVER, retry_policy=RetryPolicy(backoff_schedule=[0.3])):
        command_id = await bench.send("Flaky")
        await started.wait()
        await eventually(asleep, "the claim loop to lie down")
        since = monotonic()
        go_on.set()
        await bench.until(command_id)
        assert 0.6 <= monotonic() - since < PATIENCE


_tenant: ContextVar[str] = ContextVar("_tenant", default="nobody")


async def test_a_handler_s_context_variables_do_not_leak_into_the_next(bench: Bench) -> None:
    seen: list[str] = []

    @bench.handler("Set")
    async def set_tenant(command: Command, context: HandlerContext) -> None:
        seen.append(_tenant.get())
        _tenant.set("async")

    @bench.handler("SetInThread")
    def set_in_thread(command: Command, context: HandlerContext) -> None:
        seen.append(_tenant.get())
        _tenant.set("thread")

    async with bench.worker(concurrency=1):
        ids = [await bench.send(t) for t in ("Set", "Set", "SetInThread", "SetInThread", "Set")]
        for command_id in ids:
            await bench.until(command_id)
    assert seen == ["nobody"] * 5


async def test_two_domains_do_not_mix(bench: Bench) -> None:
    other = Bench(bench.dsn, bench.pool)
    seen: dict[str, list[str]] = {bench.domain: [], other.domain: []}

    async def note(command: Command, context: HandlerContext) -> None:
        seen[command.domain].append(context.command.data["for"])

    bench.registry.add(bench.domain, "Note", note)
    bench.registry.add(other.domain, "Note", note)  # one registry knows both
    async with bench.worker():
        mine = await bench.send("Note", {"for": bench.domain})
        theirs = await other.send("Note", {"for": other.domain})
        await bench.until(mine)
        assert await bench.trail(theirs) == ["SENT"]
        async with bench.worker(domain=other.domain):
            await bench.until(theirs)
    assert seen == {domain: [domain] for domain in seen}


async def test_at_most_concurrency_handlers_run_at_a_time(bench: Bench) -> None:
    now, most = 0, 0

    @bench.handler("Count")
    async def count(command: Command, context: HandlerContext) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    ids = [await bench.send("Count") for _ in range(40)]
    async with bench.worker(concurrency=4):
        for command_id in ids:
            await bench.until(command_id)
    assert most == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [("concurrency", 0), ("batch_size", 0), ("visibility_timeout", 0), ("poll_interval", -1), ("domain", "no way")],
)
async def test_options_that_make_no_sense_are_refused(bench: Bench, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        bench.make_worker(**{option: value})
