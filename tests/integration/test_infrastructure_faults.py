"""Troubles of sessions, clocks and clients: each costs time, and never an attempt, a command or half of a write."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from commandbus import BatchCommand, Command, CommandStatus, HandlerContext, RetryPolicy, SendRequest
from commandbus.auditor import audit
from commandbus.migrate import migrate
from commandbus.worker import claiming
from commandbus.worker.reserved import ReservedConnection
from tests.integration.process_kit import make_manager, open_hand, operators
from tests.integration.tsq_kit import park
from tests.integration.worker_kit import Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio

# The first `troubles` times that an event of a type is written, the statement fails as told; a sequence knows how often
# it was, since what was counted by a row would be rolled back.
TROUBLE = """
    CREATE SEQUENCE public.troubles MINVALUE 0;
    CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('public.troubles') < 2 THEN RAISE EXCEPTION 'simulated' USING ERRCODE = TG_ARGV[0]; END IF;
        RETURN NEW;
    END $$"""
WHEN = """
    CREATE OR REPLACE TRIGGER trouble BEFORE INSERT ON commandbus.event FOR EACH ROW WHEN (NEW.type = {type})
    EXECUTE FUNCTION public.trouble({code})"""
INFRASTRUCTURE = {"deadlock": "40P01", "serialization failure": "40001", "timeout": "57014", "lock timeout": "55P03"}


@pytest_asyncio.fixture
async def own(empty_dsn: str) -> AsyncIterator[Bench]:
    """A bench on a database of the test's own."""
    await asyncio.to_thread(migrate, empty_dsn)
    async with open_bench(empty_dsn) as bench:
        yield bench


@pytest.mark.parametrize("event", ["RECEIVED", "COMPLETED"])
async def test_a_deadlock_or_a_timeout_of_the_bus_itself_burns_no_attempt(own: Bench, event: str) -> None:
    @own.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> dict[str, int]:
        return {"attempt": context.attempt}

    await own.execute(TROUBLE)
    async with own.worker(poll_interval=0.05):
        for code in INFRASTRUCTURE.values():
            statement = psycopg.sql.SQL(WHEN).format(type=psycopg.sql.Literal(event), code=psycopg.sql.Literal(code))
            async with own.pool.connection() as conn:
                await conn.execute(statement)
                await conn.execute("SELECT setval('public.troubles', 0, false)")
            done = await own.until(await own.send("Ping"))
            assert (done.result, done.attempts) == ({"attempt": 1}, 1)
            assert await own.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]
            ((count,),) = await own.execute("SELECT last_value FROM public.troubles")
            assert count >= 2, f"{code} never came"


async def test_a_worker_that_stops_inside_a_transaction_holds_its_locks_for_half_a_minute_at_most(bench: Bench) -> None:
    limits: list[str] = []
    sessions: asyncio.Queue[int] = asyncio.Queue()
    gone = asyncio.Event()

    @bench.handler("Stops")
    async def stops(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            limits.append(await limit_of(conn))
            await context.complete({"attempt": context.attempt})
            if context.attempt == 1:  # its half a minute has passed
                await conn.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
                sessions.put_nowait(conn.info.backend_pid)
                await gone.wait()

    reserved = ReservedConnection(bench.pool)
    await reserved.open()
    async with reserved.use() as conn:
        limits.append(await limit_of(conn))
    await reserved.close()
    async with bench.worker():
        command_id = await bench.send("Stops")
        pid = await sessions.get()

        async def look() -> bool | None:
            return not await bench.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) or None

        await eventually(look, "the end of the session that stopped")
        async with await psycopg.AsyncConnection.connect(bench.dsn) as conn:  # nothing is locked any more
            await conn.execute("SELECT FROM commandbus.queue WHERE command_id = %s FOR UPDATE NOWAIT", (command_id,))
        gone.set()
        done = await bench.until(command_id)
    assert done.result == {"attempt": 2}
    assert limits == ["30s"] * 3


async def limit_of(conn: psycopg.AsyncConnection[Any]) -> str:
    row = await (await conn.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
    return "" if row is None else str(row[0])


# cancellation

HALVES = """
    SELECT b.batch_id FROM commandbus.batch b
     WHERE b.domain = %s AND NOT EXISTS (SELECT FROM commandbus.command c WHERE c.batch_id = b.batch_id)"""


class CancelledAt:
    """Awaits something, and has the task cancelled as it waits for the n-th time; `was` tells whether it came to it."""

    def __init__(self, n: int, work: Awaitable[Any]) -> None:
        self.was = False
        self._n = n
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        answer: Any = None
        waits = 0
        while True:
            try:
                waited_for = steps.send(answer) if not isinstance(answer, BaseException) else steps.throw(answer)
            except StopIteration as end:
                return end.value
            waits += 1
            task = asyncio.current_task()
            if waits == self._n and task is not None:
                self.was = True
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                answer = yield waited_for
            except BaseException as error:
                answer = error


async def at_each_await(verb: Callable[[], Awaitable[Any]], look: Callable[[], Awaitable[Any]]) -> int:
    """Cancel a verb at its first await, its second, … until it gets through; `look` after each. Returns how many."""
    for n in range(1, 500):
        cancelled = CancelledAt(n, verb())

        async def run(work: CancelledAt = cancelled) -> None:
            await work

        await asyncio.wait([task := asyncio.create_task(run())])
        if not task.cancelled():
            task.result()
        await look()
        if not cancelled.was:
            return n
    raise AssertionError("it never got through")


@pytest.mark.parametrize("verb", ["send", "create_batch", "start", "retry", "settle"])
async def test_a_verb_that_is_cancelled_at_any_await_is_done_or_not_at_all(bench: Bench, verb: str) -> None:
    """The bench's auditor looks for halves at the end; here it is looked after each."""
    manager = make_manager(bench)
    async with open_hand(bench, manager) as hand:
        verbs = {
            "send": lambda: bench.send("Reserve"),
            "create_batch": lambda: bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", uuid4(), {})]),
            "start": lambda: manager.start({"order": 1}),
        }
        if verb == "retry":
            (parked,) = await park(bench, hand)
            verbs[verb] = lambda: retried(parked)
        if verb == "settle":
            await manager.start({"order": 1})
            (claimed,) = await hand.claim()
            verbs[verb] = lambda: hand.settle((claimed, {}))

        async def retried(command_id: UUID) -> None:
            command = await bench.bus.get_command(command_id)
            if command.status is CommandStatus.IN_TROUBLESHOOTING_QUEUE:
                await operators(bench).operator_retry(command_id)

        async def look() -> None:
            async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as conn:
                assert await audit(conn, domains=[bench.domain]) == []
                assert await (await conn.execute(HALVES, (bench.domain,))).fetchall() == []
            if hand.conn.broken or hand.conn.closed:
                hand.conn = await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True)

        assert await at_each_await(verbs[verb], look) > 1


# old snapshots

READ_BY_CLAIMS = """
    SELECT idx_tup_read FROM pg_stat_user_indexes
     WHERE schemaname = 'commandbus' AND indexrelname = 'queue_pkey'"""


async def test_an_old_snapshot_makes_no_claim_read_what_the_claims_before_have_settled(
    own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is held nothing can be vacuumed, and each settled command leaves a dead entry in the queue's index."""
    count = 1_000

    @own.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async def gone() -> bool | None:
        return not await own.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'old'") or None

    async def read() -> int:
        ((entries,),) = await own.execute(READ_BY_CLAIMS)
        return int(entries)

    monkeypatch.setattr(claiming, "_FULL_SCAN", 3_600.0)  # but for the first, which is due at once
    await own.bus.send_batch([SendRequest(own.domain, "Ping", uuid4(), {}) for _ in range(count)])
    before = await read()
    async with await psycopg.AsyncConnection.connect(own.dsn) as holder:
        await holder.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await holder.execute("SELECT FROM commandbus.queue LIMIT 1")
        dsn = make_conninfo(own.dsn, application_name="old")
        async with AsyncConnectionPool(dsn, min_size=1, max_size=8, open=False) as pool:
            async with own.worker(pool, batch_size=20, concurrency=20):

                async def settled() -> bool | None:
                    return not await own.execute("SELECT 1 FROM commandbus.queue LIMIT 1") or None

                await eventually(settled, "the end of all commands", patience=60)
        await eventually(gone, "the end of the worker's sessions, which tell then what they read", patience=60)
        assert await read() - before < 10 * count  # 3 times; claims that all begin at the first entry read 28 times


# clocks


async def test_a_client_whose_clock_and_time_zone_are_off_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> dict[str, int]:
        if context.attempt == 1:
            raise ValueError("not yet")
        return {"attempt": context.attempt}

    clock, clock_ns = time.time, time.time_ns
    for hours, zone in ((1, "Pacific/Kiritimati"), (-1, "America/St_Johns")):
        monkeypatch.setattr(time, "time", lambda hours=hours: clock() + 3_600 * hours)
        monkeypatch.setattr(time, "time_ns", lambda hours=hours: clock_ns() + 3_600 * 10**9 * hours)
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        dsn = make_conninfo(bench.dsn, options=f"-c TimeZone={zone}")
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
            ((began,),) = await bench.execute("SELECT commandbus.now()")
            async with bench.worker(pool, retry_policy=RetryPolicy(2, [0.01])):
                done = await bench.until(await Bench(dsn, pool, bench.domain, bench.registry).send("Ping"))
            ((ended,),) = await bench.execute("SELECT commandbus.now()")
        times = [e.timestamp for e in await bench.bus.get_audit_trail(done.command_id)]
        assert times == sorted(times)
        assert began <= times[0] <= times[-1] <= ended
        assert done.result == {"attempt": 2}
    monkeypatch.undo()
    time.tzset()


# bulk creation

KILLED = """
import asyncio, itertools, sys, uuid
from psycopg_pool import AsyncConnectionPool
from commandbus import BatchCommand, CommandBus, SendRequest
from tests.integration.process_kit import make_manager
from tests.integration.worker_kit import Bench

what, dsn, domain, batch = sys.argv[1:]

def endless(make):
    for n in itertools.count():
        if n == 45:
            print("here", flush=True)
            sys.stdin.read()
        yield make(n)

class Endless(list):
    def __iter__(self):
        return endless(lambda n: BatchCommand("Ship", uuid.uuid4(), {}))

async def main():
    async with AsyncConnectionPool(dsn, min_size=1) as pool:
        bus = CommandBus(pool)
        if what == "send_batch":
            await bus.send_batch(endless(lambda n: SendRequest(domain, "Ship", uuid.uuid4(), {})), chunk_size=10)
        elif what == "create_batch":
            await bus.create_batch(domain, Endless([BatchCommand("Ship", uuid.uuid4(), {})] * 60))
        else:
            manager = make_manager(Bench(dsn, pool, domain))
            await manager.start_many(endless(lambda n: {"order": n}), uuid.UUID(batch), chunk_size=10)

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["send_batch", "create_batch", "start_many"])
async def test_a_sigkill_amid_bulk_creation_leaves_whole_chunks_or_nothing(bench: Bench, what: str) -> None:
    batch_id = await bench.bus.create_process_batch(bench.domain, 60)
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", KILLED, what, make_conninfo(bench.dsn, application_name=bench.domain)],
        *[bench.domain, str(batch_id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},  # noqa: PTH109
    )
    if process.stdout is None:
        raise TypeError
    assert await process.stdout.readline() == b"here\n"
    process.kill()
    await process.wait()

    async def stored() -> int:
        ((count,),) = await bench.execute(
            "SELECT count(*) FROM commandbus.command WHERE domain = %s AND command_type IN ('Ship', 'Reserve')",
            bench.domain,
        )
        return int(count)

    async def gone() -> bool | None:
        """Until the server has noticed, a chunk may still be stored."""
        return (
            not await bench.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", bench.domain) or None
        )

    await eventually(gone, "the end of its sessions")
    count = await stored()
    assert count in ([0] if what == "create_batch" else [30, 40])  # the chunk before the last may have been under way
    assert len(await bench.execute("SELECT 1 FROM commandbus.batch WHERE domain = %s", bench.domain)) == 1
    if what == "start_many":  # is resumed behind the last whole chunk
        rest = [{"order": n} for n in range(count, 60)]
        assert await make_manager(bench).start_many(rest, batch_id, count) == len(rest)
        batch = await bench.bus.get_batch(bench.domain, batch_id)
        assert (batch.total_count, await stored()) == (60, 60)
