"""Command types with a cap of their own, and those that only other workers handle."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from commandbus import Command, CommandStatus, HandlerContext, Middleware, SendRequest
from tests.integration.worker_kit import NEVER, Bench, eventually

pytestmark = pytest.mark.asyncio


class Gate:
    """A handler that waits until it is let go, and counts how many are inside."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.free = asyncio.Event()

    async def __call__(self, command: Command, context: HandlerContext) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.free.wait()
        finally:
            self.inside -= 1


async def send_many(bench: Bench, command_type: str, count: int) -> list[UUID]:
    requests = [SendRequest(bench.domain, command_type, uuid4(), {}) for _ in range(count)]
    await bench.bus.send_batch(requests)
    return [request.command_id for request in requests]


async def all_are(bench: Bench, ids: list[UUID], status: CommandStatus) -> bool | None:
    (row,) = await bench.execute(
        "SELECT count(*) FROM commandbus.command_state WHERE command_id = ANY(%s) AND status = %s", ids, str(status)
    )
    return row[0] == len(ids) or None


async def test_a_capped_type_keeps_its_cap_and_delays_no_other(bench: Bench) -> None:
    slow = Gate()
    bench.registry.handler(bench.domain, "Slow", max_concurrency=2)(slow)

    @bench.handler("Fast")
    async def fast(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(concurrency=3) as worker:
        slow.free.set()
        await bench.until(await bench.send("Slow"))  # its duration is known now: more of them are claimed than may run
        slow.free.clear()
        slow_ids = await send_many(bench, "Slow", 300)  # all of them stand before the fast ones
        fast_ids = await send_many(bench, "Fast", 300)
        await eventually(lambda: all_are(bench, fast_ids, CommandStatus.COMPLETED), "the fast ones")
        assert (slow.inside, slow.most) == (2, 2)
        slow.free.set()
        await eventually(lambda: all_are(bench, slow_ids, CommandStatus.COMPLETED), "the slow ones")
    assert slow.most == 2
    assert worker.counts.completed == 601


async def test_a_cap_above_the_concurrency_is_no_more_than_that(bench: Bench) -> None:
    slow = Gate()
    bench.registry.handler(bench.domain, "Slow", max_concurrency=50)(slow)
    ids = await send_many(bench, "Slow", 20)
    async with bench.worker(concurrency=3):
        await eventually(lambda: _is(slow.inside == 3), "three handlers")
        slow.free.set()
        await eventually(lambda: all_are(bench, ids, CommandStatus.COMPLETED), "all")
    assert slow.most == 3


async def test_the_slots_that_a_capped_type_leaves_free_wake_for_the_next_send(bench: Bench) -> None:
    """The lane of the others is drained and sleeps while the capped one is full: a send must reach it."""
    slow = Gate()
    bench.registry.handler(bench.domain, "Slow", max_concurrency=1)(slow)

    @bench.handler("Fast")
    async def fast(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(poll_interval=NEVER):
        slow_ids = await send_many(bench, "Slow", 5)
        await eventually(lambda: _is(slow.inside == 1), "the slow one to run")
        for _ in range(3):
            await bench.until(await bench.send("Fast"))
        slow.free.set()
        await eventually(lambda: all_are(bench, slow_ids, CommandStatus.COMPLETED), "the slow ones")
    assert slow.most == 1


async def test_a_capped_handler_in_a_thread_keeps_its_place_until_it_returns(bench: Bench) -> None:
    """A plain handler cannot be cancelled: its command times out, but no second one may begin beside its thread."""
    import threading

    inside: Counter[str] = Counter()
    most = 0
    free = threading.Event()

    @bench.registry.handler(bench.domain, "Plain", max_concurrency=1)
    def plain(command: Command, context: HandlerContext) -> None:
        nonlocal most
        inside["now"] += 1
        most = max(most, inside["now"])
        free.wait(20)
        inside["now"] -= 1

    try:
        async with bench.worker(visibility_timeout=0.4):
            first, second = [await bench.send("Plain", max_attempts=9) for _ in range(2)]
            timed_out = await bench.until_event(first, "RETRY_SCHEDULED")
            assert timed_out.details["code"] == "TIMEOUT"
            free.set()
            await bench.until(first)
            await bench.until(second)
    finally:
        free.set()
    assert most == 1


async def test_what_a_capped_lane_holds_too_long_is_given_back_alone(bench: Bench) -> None:
    """Half a lease unstarted: the capped type's commands go back to others, the attempt not counted."""
    slow = Gate()
    bench.registry.handler(bench.domain, "Slow", max_concurrency=1)(slow)
    async with bench.worker(visibility_timeout=2.0):
        warm_up = await bench.send("Slow")
        slow.free.set()
        await bench.until(warm_up)  # its duration is known now: the worker takes more than it can start at once
        slow.free.clear()
        ids = await send_many(bench, "Slow", 6)

        async def given_back() -> bool | None:
            (row,) = await bench.execute(
                "SELECT count(*) FROM commandbus.event WHERE command_id = ANY(%s) AND type = 'RELEASED'", ids
            )
            return row[0] > 0 or None

        await eventually(given_back, "a command to be given back")
        slow.free.set()
        await eventually(lambda: all_are(bench, ids, CommandStatus.COMPLETED), "all")


async def test_a_worker_leaves_alone_what_only_others_handle(bench: Bench) -> None:
    @bench.handler("Known")
    async def known(command: Command, context: HandlerContext) -> None: ...

    other = Bench(bench.dsn, bench.pool, bench.domain)
    special = Gate()
    other.registry.handler(bench.domain, "Special")(special)
    async with other.worker(concurrency=1) as busy:
        first = await bench.send("Special")
        await eventually(lambda: _is(special.inside == 1), "the other worker to be busy")
        async with bench.worker():
            waiting = await bench.send("Special")
            await bench.until(await bench.send("Known"))  # sent after it, and taken before it
            assert await bench.trail(waiting) == ["SENT"]
            special.free.set()
            await bench.until(first)
            done = await bench.until(waiting)
            assert (await bench.until_event(waiting, "COMPLETED")).worker_id == busy.worker_id
    assert done.attempts == 1


async def test_what_another_worker_handles_since_a_moment_is_given_back_to_it_once(bench: Bench) -> None:
    """A worker learns with its heartbeat what others handle; until then it claims it, and gives it back.

    Each command once, also when they are more than the worker may start of a type that it never ran.
    """

    @bench.handler("Known")
    async def known(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(concurrency=2) as stranger:
        for attempt in range(10):  # between two heartbeats at the latest the second time
            name = f"Special{attempt}"
            await bench.execute(
                "INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency,"
                " started_at, heartbeat_at, alive_until) VALUES (%s, 'elsewhere', 1, ARRAY[%s], '{}', 1,"
                " clock_timestamp(), clock_timestamp(), clock_timestamp() + interval '1 hour')",
                bench.domain,
                name,
            )
            ids = await send_many(bench, name, 20)
            await bench.until(await bench.send("Known"))
            if await bench.trail(ids[0]) != ["SENT"]:
                break
        for command_id in ids:
            released = await bench.until_event(command_id, "RELEASED")
            assert released.worker_id == stranger.worker_id
            waiting = await bench.bus.get_command(command_id)
            assert waiting.due_at is not None
            assert (waiting.due_at - released.timestamp).total_seconds() >= 1
            assert waiting.attempts == 0
            assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]
    await bench.execute("UPDATE commandbus.worker SET stopped_at = clock_timestamp() WHERE host = 'elsewhere'")


async def test_a_command_that_committed_late_is_found_behind_a_backlog_of_a_full_lane(bench: Bench) -> None:
    """Its place in the queue is before what the worker has claimed since; the capped commands before it stay."""
    slow = Gate()
    bench.registry.handler(bench.domain, "Slow", max_concurrency=1)(slow)

    @bench.handler("Fast")
    async def fast(command: Command, context: HandlerContext) -> None: ...

    slow_ids = await send_many(bench, "Slow", 2_000)
    async with bench.worker(poll_interval=NEVER):
        late = uuid4()
        async with bench.pool.connection() as conn, conn.transaction():
            await bench.bus.send(domain=bench.domain, command_type="Fast", command_id=late, data={}, conn=conn)
            await bench.until(await bench.send("Fast"))  # a later place, claimed while the first is not committed
        await bench.until(late)
        assert slow.inside == 1
        slow.free.set()
        await eventually(lambda: all_are(bench, slow_ids, CommandStatus.COMPLETED), "the slow ones")


async def test_what_a_middleware_takes_does_not_put_off_a_look_at_the_whole_queue(bench: Bench) -> None:
    """Only the claim's own time counts: else a slow preparation, or a server that was away, blinds the worker."""

    class Slow(Middleware):
        async def claimed(self, batch: Sequence[HandlerContext]) -> None:
            if any(context.command.data.get("is_slow") for context in batch):
                await asyncio.sleep(1.5)  # twenty times as long is more than a test waits

    @bench.handler("Fast")
    async def fast(command: Command, context: HandlerContext) -> None: ...

    first = await bench.send("Fast", {"is_slow": True})  # found by the look with which a worker begins
    async with bench.worker(middleware=[Slow()], poll_interval=NEVER):
        await bench.until(first)
        late = uuid4()
        async with bench.pool.connection() as conn, conn.transaction():
            await bench.bus.send(domain=bench.domain, command_type="Fast", command_id=late, data={}, conn=conn)
            await bench.until(await bench.send("Fast"))  # a later place, claimed while the first is not committed
        await bench.until(late)


async def _is(condition: bool) -> bool | None:
    return condition or None


async def test_what_was_given_back_of_a_new_type_is_claimed_as_soon_as_there_is_room(bench: Bench) -> None:
    """Without another notification: that of its own release finds a worker without room."""
    gate = Gate()
    bench.handler("New")(gate)

    @bench.handler("Known")
    async def nothing(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(concurrency=5, poll_interval=NEVER):
        await bench.until(await bench.send("Known"), CommandStatus.COMPLETED)  # from now on it claims more than it runs
        ids = await send_many(bench, "New", 10)

        async def released() -> bool | None:
            (row,) = await bench.execute(
                "SELECT count(*) FROM commandbus.event WHERE command_id = ANY(%s) AND type = 'RELEASED'", ids
            )
            return row[0] == 5 or None

        await eventually(released, "five of the ten to be given back")
        gate.free.set()
        await eventually(lambda: all_are(bench, ids, CommandStatus.COMPLETED), "all ten to be completed")
