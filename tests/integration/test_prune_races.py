"""Pruning beside whatever else goes on: workers, late outcomes, other prunes, and an end at any moment."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import BatchCommand
from commandbus.auditor import audit
from commandbus.errors import BatchNotFoundError
from commandbus.migrate import migrate
from commandbus.prune import Pruned, prune
from tests.integration.bus_history import Bus
from tests.integration.process_kit import make_manager
from tests.integration.prune_kit import NOW, audited_pool, sizes, stored
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


@pytest_asyncio.fixture
async def pool(bus: Bus, empty_dsn: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with audited_pool(empty_dsn) as pool:
        yield pool


async def test_an_interrupted_prune_leaves_a_sound_batch_and_the_next_one_ends_it(
    bus: Bus, pool: AsyncConnectionPool[Any]
) -> None:
    batch = ended_batch(bus, 2_500)

    def interrupt(counts: Pruned) -> None:
        if counts.commands >= 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await prune(pool, NOW, on_progress=interrupt)
    left = sizes(bus)
    assert (left["batch"], left["command"]) == (1, 1_500)
    async with pool.connection() as conn:
        assert await audit(conn) == []
    bus.refresh("batch")
    row = bus.rows("SELECT status, completed_count FROM commandbus.batch WHERE batch_id = %(id)s", id=batch)[0]
    assert row == {"status": "COMPLETED", "completed_count": 2_500}
    done = await prune(pool, NOW)
    assert (done.batches, done.commands, done.events) == (1, 1_500, 1_500 * 3)
    assert stored(bus) == set()


def ended_batch(bus: Bus, count: int) -> UUID:
    """A batch of so many completed commands."""
    batch = bus.batch("batch", count)
    bus.send(*(f"member {n}" for n in range(count)), batch_id=str(batch))
    claims = bus.rows("SELECT * FROM commandbus.claim('orders', 1, %(count)s, '1 hour', 3, 0)", count=count)
    bus.rows(
        "SELECT commandbus.settle('orders', 1, %(ids)s::uuid[], %(epochs)s::integer[])",
        ids=[c["command_id"] for c in claims], epochs=[c["epoch"] for c in claims],
    )  # fmt: skip
    return batch


async def test_two_at_once_delete_everything_once(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    ended_batch(bus, 1_500)
    for n in range(300):
        bus.start(f"p{n}")
        bus.advance(f"p{n}", "one", status="COMPLETED")
    before = sizes(bus)
    both = await asyncio.gather(prune(pool, NOW), prune(pool, NOW), prune(pool, NOW))
    last = await prune(pool, NOW)
    assert sum(p.commands for p in (*both, last)) == before["command"]
    assert sum(p.events for p in (*both, last)) == before["event"]
    assert sum(p.processes for p in (*both, last)) == before["process"]
    assert sum(p.batches for p in (*both, last)) == 1
    assert stored(bus) == set()


async def test_an_outcome_that_comes_after_the_prune_leaves_nothing(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    bus.send("a")
    zombie = bus.claim("a", lease="0")
    bus.settle(bus.claim("a", worker=2))
    assert (await prune(pool, NOW)).commands == 1
    assert bus.settle(zombie) == [zombie["command_id"]]
    assert sizes(bus)["event"] == 0


async def test_an_outcome_that_is_being_dropped_keeps_the_command_until_it_is(
    bus: Bus, pool: AsyncConnectionPool[Any]
) -> None:
    bus.send("a")
    zombie = bus.claim("a", lease="0")
    bus.settle(bus.claim("a", worker=2))
    with bus.conn.transaction():
        bus.settle(zombie)
        assert await prune(pool, NOW) == Pruned()
    assert await prune(pool, NOW) == Pruned(commands=1, events=5)
    assert sizes(bus)["event"] == 0


@pytest.mark.parametrize("listen", [True, False])
async def test_beside_a_worker_everything_is_done_once_and_then_gone(bench: Bench, listen: bool) -> None:
    handled: Counter[UUID] = Counter()

    @bench.handler("Note")
    async def note(command: Any, context: Any) -> None:
        handled[command.command_id] += 1

    for step in ("Reserve", "Pay", "Ship"):

        @bench.handler(step)
        async def go(command: Any, context: Any) -> None:
            handled[command.command_id] += 1

    manager = make_manager(bench)
    async with bench.worker(processes=[manager], listen=listen, poll_interval=0.02):
        batch = await bench.bus.create_batch(bench.domain, [BatchCommand("Note", uuid4(), {}) for _ in range(300)])
        process_batch = await bench.bus.create_process_batch(bench.domain, 60)
        sending = asyncio.create_task(send_all(bench, manager, process_batch))
        gone = Pruned()
        while (gone.commands, gone.processes, gone.batches) != (300 + 100 + 3 * 100, 100, 2):
            async with asyncio.timeout(60):
                done = await prune(bench.pool, NOW, domains=[bench.domain])
            gone = Pruned(*(getattr(gone, n) + getattr(done, n) for n in Pruned.__slots__))
            await asyncio.sleep(0.02)
        await sending
    assert (len(handled), max(handled.values())) == (700, 1)
    for batch_id in (batch, process_batch):
        with pytest.raises(BatchNotFoundError):
            await bench.bus.get_batch(bench.domain, batch_id)


async def send_all(bench: Bench, manager: Any, process_batch: UUID) -> None:
    for n in range(100):
        await bench.send("Note")
        await manager.start({"order": n}, batch_id=process_batch if n < 60 else None)
