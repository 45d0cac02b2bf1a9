"""What is stored by one statement is one round trip, in autocommit mode for as long as it takes: the pool's connection
goes back as it came.
"""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandNotFoundError, DuplicateCommandError, SendRequest
from tests.integration.process_kit import OrderProcess
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

_WAITS = """
    SELECT true FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE %s"""
_TELL = "-c log_statement=all -c client_min_messages=log"
_FIVE = [{"n": n} for n in range(5)]


async def _send(bus: CommandBus) -> object:
    return await bus.send(domain="one", command_type="T", command_id=uuid4(), data={})


async def _send_batch(bus: CommandBus) -> object:
    return await bus.send_batch((SendRequest("one", "T", uuid4(), data) for data in _FIVE), chunk_size=2)


@pytest.mark.parametrize(
    ("store", "statements"),
    [
        (lambda pool: _send(CommandBus(pool)), 1),
        (lambda pool: _send_batch(CommandBus(pool)), 3),
        (lambda pool: OrderProcess(pool).start({}), 1),
        (lambda pool: OrderProcess(pool).start_many(_FIVE, chunk_size=2), 3),
    ],
    ids=["send", "send_batch", "start", "start_many"],
)
async def test_each_is_one_round_trip_a_chunk(
    bench: Bench, store: Callable[[AsyncConnectionPool], Awaitable[object]], statements: int
) -> None:
    told: list[str] = []

    async def listen(conn: psycopg.AsyncConnection) -> None:
        conn.add_notice_handler(lambda told_by: told.append(told_by.message_primary or ""))

    kwargs = {"options": _TELL}
    async with AsyncConnectionPool(bench.dsn, kwargs=kwargs, configure=listen, min_size=1, max_size=1) as pool:
        await store(pool)
    assert len(told) == statements, told
    assert all("commandbus." in statement for statement in told)


@pytest.mark.parametrize("autocommit", [False, True])
async def test_the_connection_goes_back_as_it_came(bench: Bench, autocommit: bool) -> None:
    async with AsyncConnectionPool(bench.dsn, kwargs={"autocommit": autocommit}, min_size=1, max_size=1) as pool:
        bus, command_id = CommandBus(pool), uuid4()
        await bus.send(domain="one", command_type="T", command_id=command_id, data={})
        with pytest.raises(DuplicateCommandError):
            await bus.send(domain="one", command_type="T", command_id=command_id, data={})
        with pytest.raises(CommandNotFoundError):
            await bus.get_command(uuid4())
        async with pool.connection() as conn:
            assert conn.autocommit is autocommit


async def test_a_send_that_is_cancelled_in_the_server_stores_nothing_and_leaves_the_pool_whole(bench: Bench) -> None:
    async with (
        AsyncConnectionPool(bench.dsn, min_size=1, max_size=1) as pool,
        await psycopg.AsyncConnection.connect(bench.dsn) as holder,
    ):
        bus, command_id = CommandBus(pool), uuid4()
        await holder.execute("LOCK TABLE commandbus.command IN EXCLUSIVE MODE")
        sending = asyncio.create_task(bus.send(domain="one", command_type="T", command_id=command_id, data={}))

        async def waits() -> bool | None:
            return bool(await bench.execute(_WAITS, "%commandbus.enqueue%")) or None

        await eventually(waits, "the send to wait for the lock")
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await holder.rollback()
        with pytest.raises(CommandNotFoundError):
            await bus.get_command(command_id)
        await bus.send(domain="one", command_type="T", command_id=command_id, data={})
        assert (await bus.get_command(command_id)).command_id == command_id
        async with pool.connection() as conn:
            assert conn.autocommit is False
