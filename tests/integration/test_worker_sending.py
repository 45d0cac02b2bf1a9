"""What a send leaves behind, in a transaction of its own or the caller's; and what a batch counts."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCommand,
    BatchNotFoundError,
    BatchStatus,
    BusinessRuleError,
    Command,
    CommandNotFoundError,
    CommandStatus,
    DuplicateCommandError,
    HandlerContext,
    InvalidPayloadError,
    PermanentCommandError,
    SendRequest,
)
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio


async def stored(bench: Bench) -> int:
    """How many rows the test's domain has, in all tables that a send writes."""
    (row,) = await bench.execute(
        "SELECT (SELECT count(*) FROM commandbus.command WHERE domain = %s)"
        " + (SELECT count(*) FROM commandbus.queue WHERE domain = %s)"
        " + (SELECT count(*) FROM commandbus.batch WHERE domain = %s)",
        *[bench.domain] * 3,
    )
    return int(row[0])


async def test_a_send_in_a_transaction_that_is_rolled_back_leaves_nothing(bench: Bench) -> None:
    async with bench.pool.connection() as conn:
        command_id = await bench.send("Ping", conn=conn)
        assert (await bench.bus.get_command(command_id, conn=conn)).status is CommandStatus.PENDING
        await conn.rollback()
    with pytest.raises(CommandNotFoundError, match=str(command_id)):
        await bench.bus.get_command(command_id)
    assert await bench.trail(command_id) == []
    assert await stored(bench) == 0


async def test_a_send_is_seen_by_workers_once_its_transaction_commits(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker():
        async with bench.pool.connection() as conn:
            command_id = await bench.send("Ping", conn=conn)
            await bench.until(await bench.send("Ping"))  # a later one overtakes it
            assert await bench.trail(command_id) == []
            await conn.commit()
        await bench.until(command_id)


@pytest.mark.parametrize(("again", "same"), [({"a": 1, "b": [1.5, None]}, True), ({"a": 2}, False)])
async def test_a_duplicate_leaves_the_caller_s_transaction_usable(
    bench: Bench, again: dict[str, Any], same: bool
) -> None:
    command_id = await bench.send("Ping", {"b": [1.5, None], "a": 1})
    before = await bench.bus.get_command(command_id)
    async with bench.pool.connection() as conn, conn.transaction():
        first = await bench.send("Ping", conn=conn)
        with pytest.raises(DuplicateCommandError) as caught:
            await bench.send("Pong", again, command_id=command_id, conn=conn)
        second = await bench.send("Ping", conn=conn)
    assert (caught.value.command_id, caught.value.same_payload) == (command_id, same)
    assert await bench.bus.get_command(command_id) == before
    assert await bench.trail(command_id) == ["SENT"]
    for other in (first, second):
        assert await bench.trail(other) == ["SENT"]


async def test_a_duplicate_of_a_finished_command_is_refused_too(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker():
        command_id = await bench.send("Ping")
        await bench.until(command_id)
        with pytest.raises(DuplicateCommandError):
            await bench.send("Ping", command_id=command_id)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_duplicate_within_one_send_batch_is_told(bench: Bench) -> None:
    twice = uuid4()
    requests = [SendRequest(bench.domain, "Ping", i, {}) for i in (uuid4(), twice, twice)]
    with pytest.raises(DuplicateCommandError) as caught:
        await bench.bus.send_batch(requests)
    assert caught.value.command_id == twice
    assert await stored(bench) == 0


async def test_a_send_batch_in_chunks_of_nothing_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        await bench.bus.send_batch([SendRequest(bench.domain, "Ok", uuid4(), {})], chunk_size=0)


async def test_send_batch_commits_chunk_by_chunk(bench: Bench) -> None:
    known = await bench.send("Ping")
    ids = [*(uuid4() for _ in range(5)), known]
    requests = (SendRequest(bench.domain, "Ping", i, {"n": n}) for n, i in enumerate(ids))
    with pytest.raises(DuplicateCommandError) as caught:
        await bench.bus.send_batch(requests, chunk_size=2)
    assert caught.value.command_id == known
    sent = [bool(await bench.trail(i)) for i in ids[:5]]
    assert sent == [True, True, True, True, False]


async def test_create_batch_is_all_or_nothing(bench: Bench) -> None:
    known = await bench.send("Ping")
    before = await stored(bench)
    good = [BatchCommand("Ping", uuid4(), {}) for _ in range(1_500)]  # more than one chunk
    with pytest.raises(DuplicateCommandError):
        await bench.bus.create_batch(bench.domain, [*good, BatchCommand("Ping", known, {})])
    assert await stored(bench) == before
    with pytest.raises(InvalidPayloadError):
        await bench.bus.create_batch(bench.domain, [*good, BatchCommand("Ping", uuid4(), {"x": float("nan")})])
    assert await stored(bench) == before


async def test_a_batch_counts_its_commands(bench: Bench) -> None:
    @bench.handler("Ok")
    async def ok(command: Command, context: HandlerContext) -> dict[str, int]:
        return {"ordinal": context.ordinal if context.ordinal is not None else -1}

    @bench.handler("Refused")
    async def refused(command: Command, context: HandlerContext) -> None:
        raise BusinessRuleError("NO")

    @bench.handler("Broken")
    async def broken(command: Command, context: HandlerContext) -> None:
        raise PermanentCommandError("BROKEN")

    commands = [BatchCommand(t, uuid4(), {}) for t in ("Ok", "Ok", "Refused", "Ok", "Broken")]
    batch_id = await bench.bus.create_batch(bench.domain, commands, name="mixed", custom_data={"by": "me"})
    fresh = await bench.bus.get_batch(bench.domain, batch_id)
    assert (fresh.status, fresh.total_count, fresh.completed_count) == (BatchStatus.PENDING, 5, 0)
    assert (fresh.name, fresh.custom_data, fresh.started_at) == ("mixed", {"by": "me"}, None)
    async with bench.worker():
        await bench.until(commands[4].command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        for n in (0, 1, 3):
            assert (await bench.until(commands[n].command_id)).result == {"ordinal": n}
        await bench.until(commands[2].command_id, CommandStatus.FAILED)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    counts = (batch.completed_count, batch.failed_count, batch.canceled_count, batch.in_troubleshooting_count)
    assert counts == (3, 1, 0, 1)
    assert (batch.status, batch.completed_at) == (BatchStatus.IN_PROGRESS, None)  # it waits for an operator
    assert batch.started_at is not None


async def test_a_batch_ends_with_its_last_command_whenever_it_is_read(bench: Bench) -> None:
    @bench.handler("Ok")
    async def ok(command: Command, context: HandlerContext) -> None: ...

    commands = [BatchCommand("Ok", uuid4(), {}) for _ in range(3)]
    batch_id = await bench.bus.create_batch(bench.domain, commands)
    async with bench.worker():
        ends = [(await bench.until(command.command_id)).completed_at for command in commands]
    await bench.skip(100)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    assert (batch.status, batch.completed_count) == (BatchStatus.COMPLETED, 3)
    assert batch.completed_at == max(end for end in ends if end is not None)


async def test_an_empty_batch_is_completed_at_once(bench: Bench) -> None:
    batch_id = await bench.bus.create_batch(bench.domain, [])
    assert (await bench.bus.get_batch(bench.domain, batch_id)).status is BatchStatus.COMPLETED


async def test_a_batch_of_another_domain_is_not_found(bench: Bench) -> None:
    batch_id = await bench.bus.create_batch(bench.domain, [])
    for domain, asked in (("elsewhere", batch_id), (bench.domain, UUID(int=0))):
        with pytest.raises(BatchNotFoundError, match=str(asked)):
            await bench.bus.get_batch(domain, asked)
