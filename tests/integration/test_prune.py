"""Pruning: what ended long ago goes whole, what anybody may still need stays, beside whatever else goes on."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import BatchStatus, BusinessRuleError, CommandStatus
from commandbus.errors import CommandNotFoundError, InvalidNameError
from commandbus.migrate import migrate
from commandbus.process import ProcessStatus
from commandbus.prune import Pruned, prune
from tests.integration.bus_history import Bus, write_history
from tests.integration.process_kit import make_manager, open_hand, process_of
from tests.integration.prune_kit import NOW, TABLES, audited_pool, sizes, stored
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

HOUR = timedelta(hours=1)

# Of the history in which every state occurs: what stays, by why. All the rest goes.
STAYS = {
    "its reply waits for a consumer": ["done", "refused"],
    "it lives": ["waiting", "leased", "scheduled", "released"],
    "an operator is to decide": ["swept", "failing", "parked"],
    "its process is open": [
        *("under way", "under way.one", "under way.two"),
        *("answered", "answered.one", "stuck", "stuck.one", "to cancel", "to cancel.one"),
        *("undoing", "undoing.one", "undoing.two", "undoing.three", "undoing.undo two", "undoing.undo one"),
    ],
    "its batch is open": [
        *("open batch", "open batch 1", "open batch 2"),
        *("cancelled batch", "last member", "last member.one"),
    ],
}


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


@pytest_asyncio.fixture
async def pool(bus: Bus, empty_dsn: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with audited_pool(empty_dsn) as pool:
        yield pool


async def test_of_every_state_only_what_nobody_needs_goes(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    write_history(bus)
    names = {name_id: name for name, name_id in bus.ids.items()}
    assert stored(bus) == set(names)
    await prune(pool, NOW)
    assert {names[kept] for kept in stored(bus)} == {name for kept in STAYS.values() for name in kept}
    told = {row["command_id"] for row in bus.rows("SELECT command_id FROM commandbus.event")}
    assert told <= stored(bus)


async def test_what_is_deleted_is_told_and_again_nothing_is(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    write_history(bus)
    before = sizes(bus)
    expected = await prune(pool, NOW, dry_run=True)
    assert sizes(bus) == before
    assert await prune(pool, NOW) == expected
    after = sizes(bus)
    gone = {table: before[table] - after[table] for table in ("command", "event", "process", "batch")}
    assert (expected.commands, expected.events, expected.processes, expected.batches) == tuple(gone.values())
    assert min(gone.values()) > 0
    assert after["uncompleted"] < before["uncompleted"]
    assert {table for table in TABLES if after[table] == before[table]} == {
        *("reply", "queue", "scheduled", "troubleshooting")
    }
    assert await prune(pool, NOW) == Pruned()
    assert await prune(pool, NOW, dry_run=True) == Pruned()


async def test_what_ended_lately_stays(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    write_history(bus)
    assert await prune(pool, HOUR) == Pruned()


async def test_a_command_is_as_old_as_its_end(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    bus.send("old", "late")
    for name in ("old", "late"):
        bus.settle(bus.claim(name))
    age(bus, bus.ids["old"], created=2, ended=1.5)
    age(bus, bus.ids["late"], created=2, ended=0.5)
    assert (await prune(pool, HOUR)).commands == 1
    assert stored(bus) == {bus.ids["late"]}


def age(bus: Bus, command_id: UUID, *, created: float, ended: float) -> None:
    """Move a completed command's times back, by hours."""
    bus.rows(
        "UPDATE commandbus.command SET created_at = created_at - %(created)s * interval '1 hour',"
        " updated_at = updated_at - %(ended)s * interval '1 hour',"
        " completed_at = completed_at - %(ended)s * interval '1 hour' WHERE command_id = %(id)s",
        id=command_id, created=created, ended=ended,
    )  # fmt: skip
    bus.rows(
        "UPDATE commandbus.event SET ts = ts - (CASE type WHEN 'COMPLETED' THEN %(ended)s ELSE %(created)s END)"
        " * interval '1 hour' WHERE command_id = %(id)s",
        id=command_id, created=created, ended=ended,
    )  # fmt: skip


async def test_a_command_goes_once_its_reply_is_consumed(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    bus.send("asked", reply_to="shop")
    bus.settle(bus.claim("asked"))
    assert await prune(pool, NOW) == Pruned()
    bus.rows("DELETE FROM commandbus.reply")
    assert (await prune(pool, NOW)).commands == 1


async def test_a_batch_stays_until_all_replies_of_its_members_are_consumed(
    bus: Bus, pool: AsyncConnectionPool[Any]
) -> None:
    batch = bus.batch("batch", 2)
    bus.send("silent", batch_id=str(batch))
    bus.send("asked", batch_id=str(batch), reply_to="shop")
    for name in ("silent", "asked"):
        bus.settle(bus.claim(name))
    expected = Pruned(commands=1, events=3)
    assert await prune(pool, NOW, dry_run=True) == expected
    assert await prune(pool, NOW) == expected
    assert stored(bus) == {batch, bus.ids["asked"]}
    bus.rows("DELETE FROM commandbus.reply")
    assert await prune(pool, NOW) == Pruned(batches=1, commands=1, events=3)


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        (
            "UPDATE commandbus.command SET status = 'PENDING' WHERE command_id = %(id)s",
            "UPDATE commandbus.command SET status = 'COMPLETED' WHERE command_id = %(id)s",
        ),
        (
            "INSERT INTO commandbus.reply (reply_to, command_id, outcome, created_at)"  # noqa: ISC004
            " VALUES ('x', %(id)s, 'SUCCESS', commandbus.now())",
            "DELETE FROM commandbus.reply",
        ),
    ],
    ids=["a live command", "a reply that waits"],
)
async def test_an_ended_process_that_does_not_fit_its_commands_is_left_for_the_auditor(
    bus: Bus, pool: AsyncConnectionPool[Any], damage: str, mend: str
) -> None:
    bus.start("process")
    bus.advance("process", "one", status="COMPLETED")
    bus.rows(damage, id=bus.ids["process.one"])
    assert await prune(pool, NOW) == Pruned()
    bus.rows(mend, id=bus.ids["process.one"])
    assert (await prune(pool, NOW)).processes == 1


async def test_members_stay_until_their_batch_has_ended(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    batch = bus.batch("batch", 2, "PROCESS")
    bus.start("first", batch)
    bus.advance("first", "one", status="COMPLETED")
    bus.start("loner")
    bus.advance("loner", "one", status="COMPLETED")
    done = await prune(pool, NOW)
    assert (done.batches, done.processes, done.commands) == (0, 1, 1)
    bus.start("second", batch)
    bus.advance("second", "one", status="FAILED")
    done = await prune(pool, NOW)  # nobody has read the batch since, so that its row does not say yet that it ended
    assert (done.batches, done.processes, done.commands) == (1, 2, 2)
    assert stored(bus) == set()


async def test_a_process_of_a_batch_that_there_never_was_goes_alone(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    bus.start("stray", uuid4())
    bus.advance("stray", "one", status="COMPLETED")
    assert (await prune(pool, NOW)).processes == 1


async def test_a_process_that_never_sent_anything_goes(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    bus.start("failed", sends=False)
    assert (await prune(pool, NOW)).processes == 1


async def test_only_the_domains_that_are_asked_for(bus: Bus, pool: AsyncConnectionPool[Any]) -> None:
    write_history(bus)
    await register_worker(pool, stopped="2 hours")
    assert await prune(pool, NOW, domains=["billing"]) == Pruned()
    assert await prune(pool, NOW, domains=["shipping"]) == Pruned(workers=1, statistics=3)
    assert (await prune(pool, NOW, domains=["billing", "orders"])).commands > 10
    with pytest.raises(InvalidNameError):
        await prune(pool, NOW, domains=["or ders"])


async def test_an_age_below_zero_is_refused(pool: AsyncConnectionPool[Any]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        await prune(pool, timedelta(seconds=-1))


async def register_worker(
    pool: AsyncConnectionPool[Any], *, stopped: str | None = None, last_seen: str = "2 hours"
) -> None:
    """Store a worker, and what it did in three seconds, 40 minutes apart, since it was last seen."""
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, started_at,"
            " heartbeat_at, alive_until, stopped_at) SELECT 'shipping', 'h', 1, '{}', '{}', 1, t - interval '30 days',"
            " t - %(seen)s::interval, t - %(seen)s::interval, t - %(stopped)s::interval"
            " FROM (SELECT clock_timestamp()) AS c (t) RETURNING worker_id, heartbeat_at",
            {"seen": last_seen, "stopped": stopped},
        )
        await conn.execute(
            "INSERT INTO commandbus.worker_statistic SELECT %s::timestamptz - n * interval '40 minutes', %s, 'Pay',"
            " 1, 1, 0, 0, 0, 0, '{}', '{}', 0, '{}', '{}' FROM generate_series(0, 2) AS n",
            list(await cursor.fetchone() or ())[::-1],
        )


@pytest.mark.parametrize(
    ("stopped", "last_seen", "gone", "statistics"),
    [
        ("2 hours", "2 hours", 1, 3),
        ("30 minutes", "30 minutes", 0, 2),
        (None, "25 hours", 1, 3),  # it died
        (None, "2 hours", 0, 3),  # it may have slept, and come back
        (None, "-10 seconds", 0, 1),
    ],
)
async def test_workers_that_are_gone_for_long_are_forgotten(
    pool: AsyncConnectionPool[Any], stopped: str | None, last_seen: str, gone: int, statistics: int
) -> None:
    await register_worker(pool, stopped=stopped, last_seen=last_seen)
    expected = Pruned(workers=gone, statistics=statistics)
    assert await prune(pool, HOUR, dry_run=True) == expected
    assert await prune(pool, HOUR) == expected
    assert await prune(pool, HOUR) == Pruned()


async def test_a_process_that_is_moved_by_hand_keeps_all_it_needs_to_compensate(bench: Bench) -> None:
    manager = make_manager(bench)
    async with open_hand(bench, manager) as hand:
        process_id = await manager.start({"order": 1})
        await hand.turn(step="Reserve")
        await hand.turn(step="Pay")
        assert await prune(bench.pool, NOW, domains=[bench.domain]) == Pruned()
        await hand.turn(BusinessRuleError("OUT_OF_STOCK"), step="Ship")
        await hand.turn(step="Refund")
        assert await prune(bench.pool, NOW, domains=[bench.domain]) == Pruned()
        await hand.turn(step="Return")
        assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED
        done = await prune(bench.pool, NOW, domains=[bench.domain])
        assert (done.processes, done.commands) == (1, 5)


async def test_a_pruned_id_is_free_again(bench: Bench) -> None:
    @bench.handler("Note")
    async def note(command: Any, context: Any) -> None:
        pass

    async with bench.worker():
        command_id = await bench.send("Note")
        await bench.until(command_id)
        assert (await prune(bench.pool, NOW, domains=[bench.domain])).commands == 1
        with pytest.raises(CommandNotFoundError):
            await bench.bus.get_command(command_id)
        await bench.send("Note", command_id=command_id)
        assert (await bench.until(command_id)).status is CommandStatus.COMPLETED


async def test_an_empty_batch_goes_too(bench: Bench) -> None:
    batch = await bench.bus.create_batch(bench.domain, [])
    assert (await bench.bus.get_batch(bench.domain, batch)).status is BatchStatus.COMPLETED
    assert await prune(bench.pool, NOW, domains=[bench.domain]) == Pruned(batches=1)
