"""Leases that run out, are prolonged, or are lost to another worker."""

import asyncio
import contextlib
import threading
from datetime import timedelta

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import Command, CommandStatus, HandlerContext, LeaseLostError, RetryPolicy
from commandbus.repositories.queue import claim
from tests.integration.worker_kit import PATIENCE, Bench, eventually

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
LEASE = 30.0


class Gate:
    """A handler that waits: `entered` counts its calls, `open()` lets one of them go on."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[HandlerContext] = asyncio.Queue()
        self._doors: dict[int, asyncio.Event] = {}

    async def __call__(self, command: Command, context: HandlerContext) -> dict[str, int]:
        door = self._doors.setdefault(context.epoch, asyncio.Event())
        self.entered.put_nowait(context)
        await door.wait()
        return {"epoch": context.epoch}

    def open(self, context: HandlerContext) -> None:
        self._doors[context.epoch].set()


async def claims_have_ended(bench: Bench) -> None:
    """Wait until a worker that leaves has made its last claim."""

    async def look() -> bool | None:
        return None if f"commandbus claim {bench.domain}" in {task.get_name() for task in asyncio.all_tasks()} else True

    await eventually(look, "the end of claiming")


async def test_a_zombie_cannot_settle_what_another_worker_claimed_since(bench: Bench) -> None:
    gate = Gate()
    bench.registry.add(bench.domain, "Gated", gate)
    async with bench.worker() as first:
        command_id = await bench.send("Gated")
        zombie = await gate.entered.get()
        other = Bench(bench.dsn, bench.pool, bench.domain, bench.registry)
        await first_claims_nothing_more(first, bench)
        async with other.worker() as second:
            await bench.skip(LEASE)
            heir = await gate.entered.get()
            assert (zombie.worker_id, heir.worker_id) == (first.worker_id, second.worker_id)
            assert (zombie.epoch, heir.epoch, heir.attempt) == (1, 2, 1)
            before = await bench.bus.get_command(command_id)
            gate.open(zombie)
            dropped = await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
            assert (dropped.epoch, dropped.worker_id) == (1, first.worker_id)
            assert dropped.details["outcome"] == "COMPLETED"
            assert await bench.bus.get_command(command_id) == before
            gate.open(heir)
            done = await bench.until(command_id)
    assert (done.result, done.attempts) == ({"epoch": 2}, 1)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RECEIVED", "LATE_OUTCOME_DROPPED", "COMPLETED"]
    assert first.counts.dropped == 1


async def first_claims_nothing_more(worker: object, bench: Bench) -> None:
    """Fill every slot of a worker of concurrency 10, so that only another one can claim."""
    blocked = asyncio.Event()
    entered = asyncio.Semaphore(0)

    @bench.handler("Fill")
    async def fill(command: Command, context: HandlerContext) -> None:
        entered.release()
        await context.extend_visibility(10_000)
        await blocked.wait()

    for _ in range(9):
        await bench.send("Fill")
    for _ in range(9):
        await entered.acquire()


async def test_lost_leases_use_up_no_attempt_and_are_parked_in_the_end(bench: Bench) -> None:
    gate = Gate()
    bench.registry.add(bench.domain, "Gated", gate)
    async with bench.worker(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0])):
        command_id = await bench.send("Gated")
        for lost in range(3):
            context = await gate.entered.get()
            assert (context.epoch, context.attempt, context.total_failures) == (lost + 1, 1, 0)
            command = await bench.bus.get_command(command_id)
            assert (command.status, command.attempts, command.lost_leases) == (CommandStatus.IN_PROGRESS, 1, lost)
            await bench.skip(LEASE)
        parked = await bench.until(command_id, PARKED)
        assert (parked.error_code, parked.attempts, parked.lost_leases) == ("LEASE_LOST", 0, 3)
        gate.open(context)
        await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
        assert (await bench.bus.get_command(command_id)).status is PARKED
    assert (await bench.trail(command_id))[:5] == ["SENT", *["RECEIVED"] * 3, "MOVED_TO_TSQ"]
    parking = next(e for e in await bench.bus.get_audit_trail(command_id) if e.event_type == "MOVED_TO_TSQ")
    assert (parking.worker_id, parking.details["code"]) == (None, "LEASE_LOST")


async def test_lost_leases_and_failures_are_counted_apart(bench: Bench) -> None:
    gate = Gate()

    @bench.handler("Mixed")
    async def mixed(command: Command, context: HandlerContext) -> None:
        if context.epoch in (1, 2):
            await gate(command, context)
        raise ValueError(f"attempt {context.attempt}")

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0])):
        command_id = await bench.send("Mixed")
        for _ in range(2):
            await gate.entered.get()
            await bench.skip(LEASE)
        parked = await bench.until(command_id, PARKED)
    assert (parked.attempts, parked.lost_leases, parked.error_message) == (3, 2, "ValueError: attempt 3")


async def test_an_async_handler_is_cancelled_just_before_its_lease_ends(bench: Bench) -> None:
    cancelled = asyncio.Event()

    @bench.handler("Endless")
    async def endless(command: Command, context: HandlerContext) -> None:
        if context.attempt > 1:
            return
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with bench.worker(visibility_timeout=1, concurrency=1):
        command_id = await bench.send("Endless")
        done = await bench.until(command_id)
    assert cancelled.is_set()
    assert (done.attempts, done.lost_leases) == (2, 0)
    trail = await bench.bus.get_audit_trail(command_id)
    assert [e.event_type for e in trail] == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "RECEIVED", "COMPLETED"]
    received, timed_out = trail[1:3]
    assert timed_out.details["code"] == "TIMEOUT"
    assert received.lease_until is not None
    assert timedelta(seconds=0.5) < timed_out.timestamp - received.timestamp < timedelta(seconds=1)


async def test_a_handler_that_swallows_its_cancellation_has_timed_out_all_the_same(bench: Bench) -> None:
    @bench.handler("Stubborn")
    async def stubborn(command: Command, context: HandlerContext) -> dict[str, bool]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"stubborn": True}

    @bench.handler("Next")
    async def next_one(command: Command, context: HandlerContext) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))

    async with bench.worker(visibility_timeout=1, concurrency=1, retry_policy=RetryPolicy(max_attempts=1)):
        parked = await bench.until(await bench.send("Stubborn"), PARKED)
        assert (parked.error_code, parked.result) == ("TIMEOUT", None)
        await bench.until(await bench.send("Next"))


async def test_a_plain_handler_s_thread_keeps_its_slot_and_its_result_is_dropped(bench: Bench) -> None:
    let_go, calls = threading.Event(), []

    @bench.handler("Endless")
    def endless(command: Command, context: HandlerContext) -> dict[str, int]:
        let_go.wait(20)
        calls.append("Endless")
        return {"late": 1}

    @bench.handler("Quick")
    async def quick(command: Command, context: HandlerContext) -> None:
        calls.append("Quick")

    try:
        policy = RetryPolicy(max_attempts=1)
        async with bench.worker(visibility_timeout=1, concurrency=1, retry_policy=policy):
            command_id = await bench.send("Endless")
            parked = await bench.until(command_id, PARKED)
            assert (parked.error_code, parked.lost_leases) == ("TIMEOUT", 0)
            quick_id = await bench.send("Quick")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await bench.until(quick_id)
            let_go.set()
            await bench.until(quick_id)
    finally:
        let_go.set()
    assert calls == ["Endless", "Quick"]
    assert (await bench.bus.get_command(command_id)).result is None
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]


async def test_extend_visibility_prolongs_the_lease_and_the_time_to_run(bench: Bench) -> None:
    @bench.handler("Long")
    async def long(command: Command, context: HandlerContext) -> dict[str, bool]:
        await context.extend_visibility(60)
        await asyncio.sleep(1.2)  # longer than the lease it was claimed with
        return {"ended": True}

    async with bench.worker(visibility_timeout=1, concurrency=1):
        done = await bench.until(await bench.send("Long"))
    assert (done.result, done.attempts, done.lost_leases) == ({"ended": True}, 1, 0)
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "LEASE_EXTENDED", "COMPLETED"]
    received, extended = (await bench.bus.get_audit_trail(done.command_id))[1:3]
    assert extended.lease_until is not None
    assert received.lease_until is not None
    assert extended.lease_until - extended.timestamp == timedelta(seconds=60)
    assert (extended.epoch, extended.worker_id) == (received.epoch, received.worker_id)


async def test_a_lease_can_be_shortened_too(bench: Bench) -> None:
    @bench.handler("Short")
    async def short(command: Command, context: HandlerContext) -> None:
        await context.extend_visibility(0.5)
        await asyncio.Event().wait()

    async with bench.worker(visibility_timeout=2_000, retry_policy=RetryPolicy(max_attempts=1)):
        parked = await bench.until(await bench.send("Short"), PARKED)
    assert (parked.error_code, parked.lost_leases) == ("TIMEOUT", 0)


async def test_extend_visibility_tells_when_the_lease_is_lost(bench: Bench) -> None:
    gate, errors = Gate(), []

    @bench.handler("Late")
    async def late(command: Command, context: HandlerContext) -> None:
        if context.epoch > 1:
            gate.entered.put_nowait(context)
            return
        await gate(command, context)
        try:
            await context.extend_visibility(60)
        except LeaseLostError as error:
            errors.append(error)
            raise

    async with bench.worker(concurrency=2):
        command_id = await bench.send("Late")
        zombie = await gate.entered.get()
        await bench.skip(LEASE)
        await bench.until(command_id)
        gate.open(zombie)
        dropped = await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
    assert [e.command_id for e in errors] == [command_id]
    assert dropped.details["outcome"] == "RETRY_SCHEDULED"
    assert (await bench.bus.get_command(command_id)).status is CommandStatus.COMPLETED


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_extend_visibility_refuses_what_is_no_time(bench: Bench, seconds: float) -> None:
    @bench.handler("Odd")
    async def odd(command: Command, context: HandlerContext) -> None:
        with pytest.raises(ValueError, match="above 0"):
            await context.extend_visibility(seconds)

    async with bench.worker():
        await bench.until(await bench.send("Odd"))


async def test_an_expired_lease_that_nobody_claimed_can_still_be_settled(bench: Bench) -> None:
    gate = Gate()
    bench.registry.add(bench.domain, "Gated", gate)
    async with bench.worker(concurrency=1) as worker:
        command_id = await bench.send("Gated")
        context = await gate.entered.get()
        await bench.skip(LEASE + 1)
        assert (await bench.bus.get_command(command_id)).status is CommandStatus.IN_PROGRESS
        leaving = asyncio.create_task(worker.stop(timeout=PATIENCE))
        await claims_have_ended(bench)  # else its free slot may claim the command again before the outcome is stored
        gate.open(context)
        await leaving
    assert (await bench.bus.get_command(command_id)).attempts == 1
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_worker_that_lost_its_connections_goes_on(bench: Bench) -> None:
    gate = Gate()
    bench.registry.add(bench.domain, "Gated", gate)
    async with bench.worker() as worker:
        command_id = await bench.send("Gated")
        context = await gate.entered.get()
        await bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        gate.open(context)
        async with await psycopg.AsyncConnection.connect(bench.dsn) as conn:
            async with asyncio.timeout(20):
                while (await bench.bus.get_command(command_id, conn=conn)).status is not CommandStatus.COMPLETED:
                    await conn.rollback()
                    await asyncio.sleep(0.01)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert worker.counts.completed == 1


async def test_what_a_claim_leased_whose_answer_was_lost_is_given_back_at_once(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    name = f"lost answers {bench.domain}"
    options = {"visibility_timeout": 3_600, "poll_interval": 0.05, "listen": False}
    async with (
        AsyncConnectionPool(bench.dsn, kwargs={"application_name": name}, min_size=1, max_size=3, open=False) as pool,
        bench.worker(pool, **options) as worker,
    ):
        async with await psycopg.AsyncConnection.connect(bench.dsn) as conn:
            await conn.execute("LOCK TABLE commandbus.queue IN ACCESS EXCLUSIVE MODE")
            command_id = await bench.send("Ping", conn=conn)
            # as a claim of the worker's does whose answer it never sees
            await claim(
                conn, bench.domain, worker.worker_id or 0, limit=1, lease=3_600, max_attempts=3, after=0, only="Ping"
            )

            async def cut() -> bool | None:
                """Whatever waits for the lock is cut off; a claim, in the end."""
                waiting = await bench.execute(
                    "SELECT pid, query LIKE '%%commandbus.claim(%%' FROM pg_stat_activity"
                    " WHERE application_name = %s AND wait_event_type = 'Lock'",
                    name,
                )
                for pid, _ in waiting:
                    await bench.execute("SELECT pg_terminate_backend(%s)", pid)
                return any(is_claim for _, is_claim in waiting) or None

            await eventually(cut, "a claim that waits for the lock")
        await bench.until(command_id)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED", "RECEIVED", "COMPLETED"]
