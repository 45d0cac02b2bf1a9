"""Listings of commands and batches: complete, in their order, page by page, whatever happens between the pages."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from commandbus import (
    BatchCommand,
    BatchStatus,
    BatchType,
    BusinessRuleError,
    CommandMetadata,
    CommandStatus,
    InvalidCursorError,
    Page,
    PermanentCommandError,
    SendRequest,
    TransientCommandError,
)
from commandbus.errors import InvalidNameError
from commandbus.migrate import migrate
from commandbus.policies import RetryPolicy
from tests.integration import process_kit
from tests.integration.process_kit import Hand, make_manager, open_hand, operators
from tests.integration.worker_kit import Bench, make_clock, open_bench

pytestmark = pytest.mark.asyncio

REFUSED, BROKEN, BUSY = BusinessRuleError("NO"), PermanentCommandError("BROKEN"), TransientCommandError("BUSY")
LATER = RetryPolicy(max_attempts=3, backoff_schedule=[3_600])
TYPES = ("Reserve", "Pay", "Ship")

# How many rows one call looks at: small here, so that few commands are many.
FUNCTIONS = """
    SELECT pg_get_functiondef(oid) FROM pg_proc
     WHERE pronamespace = 'commandbus'::regnamespace AND prosrc LIKE '%c_most%'"""


@pytest.fixture(scope="module")
def narrow_dsn(postgres_server: Any) -> str:
    """A database whose listings look at 20 rows a call, where the true ones look at 6,000 or 10,000."""
    dsn = postgres_server.create("narrow")
    migrate(dsn)
    make_clock(dsn)
    with psycopg.connect(dsn) as conn:
        for (definition,) in conn.execute(FUNCTIONS).fetchall():
            narrow, changed = re.subn(r":= (10000|6000);", ":= 20;", definition)
            assert changed == 1
            conn.execute(narrow.replace(":= 100000;", ":= 30;").encode())
    return dsn


@pytest.fixture(params=["wide", "narrow"])
def reach(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def bench(reach: str, clocked_dsn: str, narrow_dsn: str) -> AsyncIterator[Bench]:
    async with open_bench({"wide": clocked_dsn, "narrow": narrow_dsn}[reach]) as bench:
        yield bench


async def send(bench: Bench, count: int, **fields: Any) -> list[UUID]:
    """Send commands of each type in turn, some of them at one time; returns their ids."""
    ids = [uuid4() for _ in range(count)]
    requests = [SendRequest(bench.domain, TYPES[n % 3], i, {"n": n}, **fields) for n, i in enumerate(ids)]
    await bench.bus.send_batch(requests, chunk_size=7)
    return ids


async def mix(bench: Bench, hand: Hand) -> None:
    """Leave ten commands in each state, one of each in turn, and thirty new ones behind them."""
    ends: list[Any] = [{}, REFUSED, BROKEN, BUSY, None, BROKEN]
    await send(bench, 60)
    claims = await hand.claim(60, lease=7_200)
    done = [(claimed, ends[n % 6]) for n, claimed in enumerate(claims) if n % 6 != 4]
    assert await hand.settle(*done) == set()
    for claimed in claims[5::6]:
        await operators(bench).operator_cancel(claimed.command_id)
    await send(bench, 30)


@pytest.fixture(autouse=True)
def retries_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_kit, "AT_ONCE", LATER)


async def pages(ask: Callable[[str | None], Awaitable[Page[Any]]], limit: int) -> list[Any]:
    """All items of a listing, in their order."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(500):
        page = await ask(cursor)
        assert len(page.items) <= limit
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found
    raise AssertionError("a listing without an end")


async def listed(bench: Bench, limit: int = 100, **filters: Any) -> list[CommandMetadata]:
    filters = {"domain": bench.domain} | filters
    return await pages(lambda cursor: bench.bus.query_commands(limit=limit, cursor=cursor, **filters), limit)


async def listed_batches(bench: Bench, limit: int = 100, **filters: Any) -> list[Any]:
    filters = {"domain": bench.domain} | filters
    return await pages(lambda cursor: bench.bus.list_batches(limit=limit, cursor=cursor, **filters), limit)


def moment(command: CommandMetadata) -> tuple[datetime, UUID]:
    return command.created_at, command.command_id


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_a_listing_is_complete_and_newest_first(bench: Bench, reach: str, limit: int) -> None:
    async with open_hand(bench) as hand:
        await mix(bench, hand)
        everything = await listed(bench, limit)
        assert len(everything) == 90
        assert everything == sorted(everything, key=moment, reverse=True)
        for command in everything[:: limit + 3]:
            assert await bench.bus.get_command(command.command_id) == command
        for status in CommandStatus:
            found = await listed(bench, limit, status=status)
            expected = [command for command in everything if command.status is status]
            assert len(expected) == (40 if status is CommandStatus.PENDING else 10)
            if (
                status is CommandStatus.IN_PROGRESS and reach == "narrow"
            ):  # behind a backlog, as they stand in the queue
                assert [c.data["n"] for c in found] == sorted(c.data["n"] for c in expected)
            else:
                assert found == expected


async def test_filters_go_together(bench: Bench) -> None:
    async with open_hand(bench) as hand:
        await mix(bench, hand)
        everything = await listed(bench)
        times = sorted({command.created_at for command in everything})
        windows = [(None, None), (times[4], None), (None, times[5]), (times[3], times[11]), (times[-1], times[0])]
        for after, before in windows:
            for command_type in (None, "Pay", "Unknown"):
                for status in (None, *CommandStatus):
                    found = await listed(
                        bench, 4, status=status, command_type=command_type, created_after=after, created_before=before
                    )
                    expected = {
                        c.command_id
                        for c in everything
                        if (after is None or c.created_at >= after)
                        and (before is None or c.created_at < before)
                        and command_type in (None, c.command_type)
                        and status in (None, c.status)
                    }
                    assert {c.command_id for c in found} == expected
                    assert len(found) == len(expected)


async def test_all_domains_are_listed_when_none_is_named(empty_dsn: str) -> None:
    migrate(empty_dsn)
    make_clock(empty_dsn)
    async with open_bench(empty_dsn) as one, open_bench(empty_dsn) as two:
        assert await one.bus.query_commands() == Page([], None)
        async with open_hand(one) as first, open_hand(two) as second:
            await mix(one, first)
            await mix(two, second)
        for status in (None, *CommandStatus):
            mine = [*await listed(one, status=status), *await listed(two, status=status)]
            both = await listed(one, 7, domain=None, status=status)
            assert both == sorted(mine, key=moment, reverse=True)
            paid = await listed(one, 7, domain=None, status=status, command_type="Pay")
            assert paid == [command for command in both if command.command_type == "Pay"]


async def test_what_is_sent_between_two_pages_comes_in_no_later_one(bench: Bench) -> None:
    early = await send(bench, 30)
    first = await bench.bus.query_commands(bench.domain, limit=10)
    await send(bench, 30)
    rest = await pages(
        lambda cursor: bench.bus.query_commands(bench.domain, limit=10, cursor=cursor or first.next_cursor), 10
    )
    assert sorted(c.command_id for c in first.items + rest) == sorted(early)


async def test_paging_while_commands_move_on_lists_none_twice_and_misses_none_that_stayed(bench: Bench) -> None:
    await send(bench, 90)
    async with open_hand(bench) as hand:
        found: list[CommandMetadata] = []
        cursor: str | None = None
        while True:
            page = await bench.bus.query_commands(bench.domain, CommandStatus.PENDING, limit=5, cursor=cursor)
            found += page.items
            if (cursor := page.next_cursor) is None:
                break
            await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
        stayed = await listed(bench, status=CommandStatus.PENDING)
    assert len({c.command_id for c in found}) == len(found)
    assert {c.command_id for c in stayed} <= {c.command_id for c in found}


async def test_a_page_shows_each_command_as_it_matched(bench: Bench) -> None:
    """A listing of one status never shows another, though its commands are claimed and settled meanwhile."""
    await send(bench, 60)
    statuses: dict[CommandStatus, int] = dict.fromkeys(CommandStatus, 0)
    async with open_hand(bench) as hand:

        async def work() -> None:
            while claims := await hand.claim(2):
                await hand.settle(*[(claimed, {}) for claimed in claims])

        working = asyncio.create_task(work())
        while not working.done():
            for status in CommandStatus:
                for command in await listed(bench, 50, status=status):
                    assert command.status is status
                    statuses[status] += 1
        await working
    assert statuses[CommandStatus.PENDING] > 0
    assert len(await listed(bench, status=CommandStatus.COMPLETED)) == 60


async def test_a_page_may_be_short_where_few_of_many_match(narrow_dsn: str) -> None:
    """Completed ones behind a backlog of newer ones: each call looks at 20, and says where to go on."""
    async with open_bench(narrow_dsn) as bench:
        done = await bench.send("Reserve")
        async with open_hand(bench) as hand:
            await hand.turn({})
        await send(bench, 100)
        sizes: list[int] = []
        cursor: str | None = None
        while not sizes or cursor is not None:
            page = await bench.bus.query_commands(bench.domain, CommandStatus.COMPLETED, limit=2, cursor=cursor)
            sizes.append(len(page.items))
            cursor = page.next_cursor
        assert 5 <= len(sizes) <= 8
        assert (sizes[0], sum(sizes)) == (0, 1)
        assert [c.command_id for c in await listed(bench, status=CommandStatus.COMPLETED)] == [done]


async def test_a_query_on_the_callers_connection_sees_its_open_transaction(bench: Bench) -> None:
    async with bench.pool.connection() as conn:
        batch_id = await bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", uuid4(), {})], conn=conn)
        assert len((await bench.bus.query_commands(bench.domain, conn=conn)).items) == 1
        assert len((await bench.bus.list_batches(bench.domain, conn=conn)).items) == 1
        assert len((await bench.bus.list_batch_commands(batch_id, conn=conn)).items) == 1
        assert await listed(bench) == []
        await conn.rollback()


async def test_what_no_page_gave_is_no_cursor(bench: Bench) -> None:
    await send(bench, 40)
    async with open_hand(bench) as hand:
        await hand.claim(5, lease=7_200)
        in_queue = await bench.bus.query_commands(bench.domain, CommandStatus.IN_PROGRESS, limit=2)
        assert in_queue.next_cursor is not None
        ordinal = InvalidCursorError, "pass what a page of the same listing gave"
        for ask in (bench.bus.query_commands, bench.bus.list_batches):
            for cursor in ("nonsense", "", "WzFd"):  # the last one is [1]
                with pytest.raises(ordinal[0], match=ordinal[1]):
                    await ask(bench.domain, cursor=cursor)
        with pytest.raises(InvalidCursorError):
            await bench.bus.list_batch_commands(uuid4(), cursor="nonsense")


async def test_senseless_filters_are_refused(bench: Bench) -> None:
    bus = bench.bus
    for ask in (bus.query_commands, bus.list_batches):
        with pytest.raises(ValueError, match="limit must be 1 to 1,000, not 0"):
            await ask(limit=0)
        with pytest.raises(ValueError, match="limit must be 1 to 1,000, not 1001"):
            await ask(limit=1_001)
        with pytest.raises(InvalidNameError, match="domain"):
            await ask("no domain")
        with pytest.raises(ValueError, match="'DONE' is not a valid"):
            await ask(status="DONE")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must be"):
        await bus.list_batch_commands(uuid4(), limit=0)
    with pytest.raises(InvalidNameError, match="command type"):
        await bus.query_commands(command_type="a\0")
    for name in ("created_after", "created_before"):
        with pytest.raises(ValueError, match=f"{name} needs a time zone"):
            await bus.query_commands(**{name: datetime(2026, 5, 1)})  # type: ignore[arg-type]  # noqa: DTZ001
    elsewhere = datetime.now(UTC) + timedelta(days=1)
    assert await bus.query_commands(bench.domain, created_after=elsewhere) == Page([], None)


async def make_batches(bench: Bench, hand: Hand) -> dict[str, UUID]:
    """Batches of both types in each state, named, oldest first."""
    bus = bench.bus

    async def commands(name: str, count: int) -> UUID:
        return await bus.create_batch(
            bench.domain, [BatchCommand("Reserve", uuid4(), {}) for _ in range(count)], name=name
        )

    made = {"ended": await commands("ended", 2)}
    await hand.settle(*[(claimed, {}) for claimed in await hand.claim(2)])
    made["failed"] = await commands("failed", 2)
    await hand.settle(*zip(await hand.claim(2), [{}, REFUSED], strict=True))
    made["begun"] = await commands("begun", 12)
    await hand.settle(*zip(await hand.claim(3), [{}, REFUSED, BROKEN], strict=True))
    made["processes"] = await bus.create_process_batch(bench.domain, 12, name="processes")
    await make_manager(bench).start_many([{"order": n} for n in range(3)], made["processes"])
    made["empty"] = await commands("empty", 0)
    made["new"] = await commands("new", 12)
    made["more"] = await commands("more", 12)
    return made


async def test_batches_are_listed_newest_first_and_counted_as_of_now(bench: Bench) -> None:
    async with open_hand(bench) as hand:
        made = await make_batches(bench, hand)
    expected = [await bench.bus.get_batch(bench.domain, batch_id) for batch_id in reversed(made.values())]
    for left, right in pairwise(expected):
        assert left.created_at >= right.created_at
    # as nobody has read them since: the listing recounts by itself
    await bench.execute(
        "UPDATE commandbus.batch SET status = 'PENDING', completed_count = 0, failed_count = 0, completed_at = NULL,"
        " started_at = NULL, in_troubleshooting_count = 0 WHERE domain = %s AND total_count > 0",
        bench.domain,
    )
    for limit in (1, 2, 100):
        assert await listed_batches(bench, limit) == expected
    for batch_type in BatchType:
        for status in (None, *BatchStatus):
            found = await listed_batches(bench, 2, batch_type=batch_type, status=status)
            assert found == [b for b in expected if b.batch_type is batch_type and status in (None, b.status)]
    statuses = {name: (await bench.bus.get_batch(bench.domain, batch_id)).status for name, batch_id in made.items()}
    assert statuses == {
        "ended": "COMPLETED", "failed": "COMPLETED_WITH_FAILURES", "begun": "IN_PROGRESS", "processes": "IN_PROGRESS",
        "empty": "COMPLETED", "new": "PENDING", "more": "PENDING",
    }  # fmt: skip


async def test_batches_of_other_domains_are_listed_when_none_is_named(empty_dsn: str) -> None:
    migrate(empty_dsn)
    make_clock(empty_dsn)
    async with open_bench(empty_dsn) as one, open_bench(empty_dsn) as two:
        made = [await bench.bus.create_process_batch(bench.domain, 1) for bench in (one, two, one, two)]
        assert [b.batch_id for b in (await one.bus.list_batches()).items] == made[::-1]
        assert [b.batch_id for b in (await one.bus.list_batches(two.domain)).items] == [made[3], made[1]]


async def test_a_page_of_batches_ends_once_many_members_were_recounted(narrow_dsn: str) -> None:
    """Of open batches with twelve members each three are more than the thirty that one call recounts here."""
    async with open_bench(narrow_dsn) as bench:
        made = [await bench.bus.create_process_batch(bench.domain, 12) for _ in range(8)]
        sizes: list[int] = []
        cursor: str | None = None
        while not sizes or cursor is not None:
            page = await bench.bus.list_batches(bench.domain, cursor=cursor)
            sizes.append(len(page.items))
            cursor = page.next_cursor
        assert sizes == [3, 3, 2]
        assert [b.batch_id for b in await listed_batches(bench)] == made[::-1]


@pytest.mark.parametrize("limit", [1, 4, 100])
async def test_a_batchs_commands_are_listed_in_its_order(bench: Bench, limit: int) -> None:
    made = [BatchCommand(TYPES[n % 3], uuid4(), {"n": n}) for n in range(60)]
    batch_id = await bench.bus.create_batch(bench.domain, made)
    other = await bench.bus.create_batch(bench.domain, [BatchCommand("Pay", uuid4(), {})])
    async with open_hand(bench) as hand:
        claims = await hand.claim(60, lease=7_200)
        ends: list[Any] = [{}, REFUSED, BROKEN, BUSY]
        await hand.settle(*[(claimed, ends[n % 5]) for n, claimed in enumerate(claims) if n % 5 < 4])

        async def of_batch(status: CommandStatus | None = None) -> list[CommandMetadata]:
            return await pages(lambda cursor: bench.bus.list_batch_commands(batch_id, status, limit, cursor), limit)

        everything = await of_batch()
        assert [c.command_id for c in everything] == [c.command_id for c in made]
        for status in CommandStatus:
            expected = [c for c in everything if c.status is status]
            assert len(expected) == (0 if status is CommandStatus.CANCELED else 12)
            assert await of_batch(status) == expected
    assert len((await bench.bus.list_batch_commands(other)).items) == 1
    assert await bench.bus.list_batch_commands(uuid4()) == Page([], None)
