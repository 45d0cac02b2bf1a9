"""Plain handlers use their lease, their transaction and the pool from their thread, and are told when time is up."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from commandbus import (
    AttemptEndedError,
    Command,
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    LeaseLostError,
    RetryPolicy,
    TransientCommandError,
)
from commandbus.sync import SyncCommandBus
from tests.integration.worker_kit import PATIENCE, Bench

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
ONCE = RetryPolicy(max_attempts=1)
LEASE = 30.0


@pytest_asyncio.fixture(autouse=True)
async def _table(bench: Bench) -> AsyncIterator[None]:
    await bench.execute("CREATE TABLE IF NOT EXISTS public.debit (command_id uuid, epoch integer)")
    yield


def debit(context: HandlerContext, conn: psycopg.Connection[Any]) -> None:
    """What an application wrote for psycopg, before it heard of any loop."""
    conn.execute(
        "INSERT INTO public.debit (command_id, epoch) VALUES (%s, %s)", (context.command.command_id, context.epoch)
    )


async def debits(bench: Bench, command_id: UUID) -> list[int]:
    """The epochs under which a command's debit was committed."""
    return [e for (e,) in await bench.execute("SELECT epoch FROM public.debit WHERE command_id = %s", command_id)]


async def passed(event: threading.Event) -> None:
    """Wait, without holding the loop, for what a handler's thread tells."""
    assert await asyncio.to_thread(event.wait, PATIENCE)


async def test_its_writes_and_the_completion_commit_together(bench: Bench) -> None:
    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> dict[str, bool]:
        with context.sync.transaction() as conn:
            debit(context, conn)
            context.sync.complete({"done": True})
        return {"ignored": True}

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert done.result == {"done": True}
    assert await debits(bench, done.command_id) == [1]
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_an_error_after_the_completion_rolls_both_back(bench: Bench) -> None:
    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> None:
        with context.sync.transaction() as conn:
            debit(context, conn)
            context.sync.complete()
            if context.attempt == 1:
                raise TransientCommandError("LATE")

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert await debits(bench, done.command_id) == [2]
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "RECEIVED", "COMPLETED"]


async def test_it_reads_and_writes_by_the_pool_as_by_a_connection_of_psycopg(bench: Bench) -> None:
    @bench.handler("Count")
    def handle(command: Command, context: HandlerContext) -> dict[str, Any]:
        with context.sync.pool.connection() as conn:
            with conn.transaction():
                debit(context, conn)
            with contextlib.suppress(ZeroDivisionError), conn.transaction():
                debit(context, conn)
                raise ZeroDivisionError
            with conn.cursor() as cursor:
                cursor.execute("SELECT epoch FROM public.debit WHERE command_id = %s", (command.command_id,))
                one, description = cursor.fetchone(), cursor.description
            series = [n for (n,) in conn.execute("SELECT generate_series(1, 2500)")]
            with conn.cursor() as cursor, cursor.copy("COPY (SELECT 1, 2) TO STDOUT") as copy:
                copied = list(copy.rows())
        return {"one": one, "name": description[0].name, "sum": sum(series), "copied": copied}

    async with bench.worker():
        done = await bench.until(await bench.send("Count"))
    assert done.result == {"one": [1], "name": "epoch", "sum": 3_126_250, "copied": [["1", "2"]]}
    assert await debits(bench, done.command_id) == [1]


async def test_what_it_sends_by_the_blocking_bus_commits_with_the_completion(bench: Bench) -> None:
    """Two loops take part, the worker's and the bus's, and the thread between them."""
    bus = SyncCommandBus(bench.dsn)
    sent: list[UUID] = []

    @bench.handler("Parent")
    def parent(command: Command, context: HandlerContext) -> None:
        with context.sync.transaction() as conn:
            sent.append(uuid4())
            bus.send(domain=bench.domain, command_type="Child", command_id=sent[-1], data={}, conn=conn)
            context.sync.complete()
            if context.attempt == 1:
                raise TransientCommandError("LATE")

    @bench.handler("Child")
    def child(command: Command, context: HandlerContext) -> None: ...

    try:
        async with bench.worker():
            await bench.until(await bench.send("Parent"))
            await bench.until(sent[1])
    finally:
        await asyncio.to_thread(bus.close)
    assert await bench.trail(sent[0]) == []
    assert len(sent) == 2


async def test_it_prolongs_its_lease(bench: Bench) -> None:
    prolonged, go_on = threading.Event(), threading.Event()

    @bench.handler("Long")
    def handle(command: Command, context: HandlerContext) -> dict[str, int]:
        context.sync.extend_visibility(600)
        prolonged.set()
        go_on.wait(PATIENCE)
        return {"epoch": context.epoch}

    async with bench.worker():
        command_id = await bench.send("Long")
        await passed(prolonged)
        event = await bench.until_event(command_id, "LEASE_EXTENDED")
        await bench.skip(LEASE * 2)
        go_on.set()
        done = await bench.until(command_id)
    assert done.result == {"epoch": 1}
    assert event.lease_until is not None


async def test_a_handler_that_lost_its_lease_commits_nothing(bench: Bench) -> None:
    waiting, go_on = threading.Event(), threading.Event()
    errors: list[Exception] = []

    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> dict[str, str]:
        try:
            with context.sync.transaction() as conn:
                debit(context, conn)
                if context.epoch == 1:
                    waiting.set()
                    go_on.wait(PATIENCE)
                context.sync.complete({"epoch": context.epoch})
        except LeaseLostError as error:
            errors.append(error)
            raise
        return {}

    async with bench.worker(concurrency=2):
        command_id = await bench.send("Debit")
        await passed(waiting)
        await bench.skip(LEASE)
        done = await bench.until(command_id)
        go_on.set()
        await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
    assert [type(error) for error in errors] == [LeaseLostError]
    assert done.result == {"epoch": 2}
    assert await debits(bench, command_id) == [2]


@pytest.mark.parametrize("held", ["a thread's pause", "a statement"])
async def test_what_is_open_when_its_time_is_up_is_rolled_back_before_the_timeout_is_settled(
    bench: Bench, held: str
) -> None:
    """The completion holds the row that the settle needs: only the rollback lets that go on."""
    settled, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> dict[str, bool]:
        try:
            with context.sync.transaction() as conn:
                debit(context, conn)
                context.sync.complete()
                if held == "a statement":
                    conn.execute("SELECT pg_sleep(60)")
                settled.wait(PATIENCE)
        except BaseException as error:
            errors.append(error)
        for late in (
            lambda: context.sync.extend_visibility(60),
            context.sync.complete,
            lambda: context.sync.pool.connection().__enter__(),
            lambda: context.sync.transaction().__enter__(),
        ):
            with pytest.raises(AttemptEndedError, match="has ended before its handler"):
                late()
        ended.set()
        return {"late": True}

    async with bench.worker(visibility_timeout=1, retry_policy=ONCE):
        parked = await bench.until(await bench.send("Debit"), PARKED)
        settled.set()
        await passed(ended)
    assert parked.error_code == "TIMEOUT"
    assert [type(error) for error in errors] == [AttemptEndedError]
    assert await debits(bench, parked.command_id) == []
    assert await bench.trail(parked.command_id) == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]


async def test_a_worker_that_stops_rolls_back_what_is_open_and_releases_the_command(bench: Bench) -> None:
    waiting, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[Exception] = []

    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> None:
        try:
            with context.sync.transaction() as conn:
                debit(context, conn)
                context.sync.complete()
                waiting.set()
                go_on.wait(PATIENCE)
                conn.execute("SELECT 1")
        except AttemptEndedError as error:
            errors.append(error)
        ended.set()

    async with bench.worker() as worker:
        command_id = await bench.send("Debit")
        await passed(waiting)
        await worker.stop(timeout=0)
    go_on.set()
    await passed(ended)
    assert len(errors) == 1
    assert await debits(bench, command_id) == []
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]


async def test_many_threads_call_at_once(bench: Bench) -> None:
    together = threading.Barrier(8, timeout=PATIENCE)

    @bench.handler("Debit")
    def handle(command: Command, context: HandlerContext) -> None:
        together.wait()
        for _ in range(5):
            context.sync.extend_visibility(LEASE)
        with context.sync.transaction() as conn:
            debit(context, conn)
            context.sync.complete()

    async with bench.worker(concurrency=8):
        sent = [await bench.send("Debit") for _ in range(16)]
        for command_id in sent:
            await bench.until(command_id)
            assert await debits(bench, command_id) == [1]


async def test_misuse_is_told(bench: Bench) -> None:
    @bench.handler("Async")
    async def from_the_loop(command: Command, context: HandlerContext) -> None:
        with pytest.raises(InvalidOperationError, match="this one is async: await the methods of ctx"):
            context.sync.extend_visibility(10)

    @bench.handler("Outside")
    def outside(command: Command, context: HandlerContext) -> None:
        with pytest.raises(InvalidOperationError, match=r"`with ctx\.sync\.transaction\(\)`"):
            context.sync.complete()

    @bench.handler("Nested")
    def nested(command: Command, context: HandlerContext) -> None:
        with context.sync.transaction():
            with pytest.raises(InvalidOperationError, match="one at a time"), context.sync.transaction():
                pass

    @bench.handler("LoopOfItsOwn")
    def loop_of_its_own(command: Command, context: HandlerContext) -> None:
        async def extend() -> None:
            context.sync.extend_visibility(10)

        with pytest.raises(InvalidOperationError, match=r"await HandlerContext\.extend_visibility of the async API"):
            asyncio.run(extend())

    async with bench.worker():
        for command_type in ("Async", "Outside", "Nested", "LoopOfItsOwn"):
            done = await bench.until(await bench.send(command_type, command_id=uuid4()))
            assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]
