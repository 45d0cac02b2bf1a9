"""A send is one round trip, in autocommit mode for as long as it takes: the pool's connection goes back as it came."""

import asyncio
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandNotFoundError, DuplicateCommandError
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

_WAITS = """
    SELECT true FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE %s"""


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
