"""A worker whose server goes away: it goes on when the server is back, and stops when it is told to all the same."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import App, Command, CommandBus, CommandStatus, HandlerContext, Worker, migrate
from commandbus.worker import worker as worker_module
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.worker_kit import PATIENCE, eventually

pytestmark = pytest.mark.asyncio
DOMAIN = "shaky"


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, that may be crashed."""
    with EmbeddedPostgres(crash_safe=True) as server:
        migrate(server.dsn())
        yield server


@pytest_asyncio.fixture
async def pool(server: EmbeddedPostgres) -> AsyncIterator[AsyncConnectionPool]:
    async with AsyncConnectionPool(server.dsn(), min_size=1, max_size=8, reconnect_timeout=PATIENCE) as pool:
        yield pool


async def test_a_worker_goes_on_after_the_server_has_crashed(
    server: EmbeddedPostgres, pool: AsyncConnectionPool
) -> None:
    app, bus = App(), CommandBus(pool)
    crashed = asyncio.Event()

    @app.handler(DOMAIN, "BeforeAndAfter")
    async def before_and_after(command: Command, context: HandlerContext) -> dict[str, int]:
        if command.data["crash"]:
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.restart)
            crashed.set()
        return {"epoch": context.epoch}

    worker = Worker(pool, domain=DOMAIN, handler_registry=app.registry)
    running = asyncio.create_task(worker.run())
    during, after = uuid4(), uuid4()
    await bus.send(domain=DOMAIN, command_type="BeforeAndAfter", command_id=during, data={"crash": True})
    await asyncio.wait_for(crashed.wait(), PATIENCE)
    await eventually_sent(bus, after)
    for command_id in (during, after):  # what had started before the crash is settled after it, under its own claim
        command = await eventually(lambda wanted=command_id: completed(bus, wanted), f"{command_id} completed")
        assert command == {"epoch": 1}
    await worker.stop()
    await running


async def test_a_worker_starts_on_connections_that_the_server_has_ended_meanwhile(
    server: EmbeddedPostgres, pool: AsyncConnectionPool
) -> None:
    app, bus = App(), CommandBus(pool)

    @app.handler(DOMAIN, "BeforeAndAfter")
    async def answer(command: Command, context: HandlerContext) -> dict[str, bool]:
        return {"done": True}

    await pool.wait()
    await asyncio.to_thread(server.restart)
    worker = Worker(pool, domain=DOMAIN, handler_registry=app.registry)
    running = asyncio.create_task(worker.run())
    command_id = uuid4()
    await asyncio.wait_for(worker.ready.wait(), PATIENCE)
    await eventually_sent(bus, command_id)
    assert await eventually(lambda: completed(bus, command_id), f"{command_id} completed") == {"done": True}
    await worker.stop()
    await running


async def test_a_stop_does_not_wait_for_a_server_that_is_gone(
    server: EmbeddedPostgres, pool: AsyncConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LAST_WORDS", 0.2)
    app, bus = App(), CommandBus(pool)
    gone = asyncio.Event()

    @app.handler(DOMAIN, "LastOne")
    async def last_one(command: Command, context: HandlerContext) -> None:
        await asyncio.to_thread(server.crash)
        gone.set()

    worker = Worker(pool, domain=DOMAIN, handler_registry=app.registry)
    running = asyncio.create_task(worker.run())
    await bus.send(domain=DOMAIN, command_type="LastOne", command_id=uuid4(), data={})
    await asyncio.wait_for(gone.wait(), PATIENCE)
    began = monotonic()
    await asyncio.wait_for(worker.stop(), PATIENCE)
    await running
    assert monotonic() - began < PATIENCE / 2


async def completed(bus: CommandBus, command_id: UUID) -> dict[str, object] | None:
    command = await bus.get_command(command_id)
    return command.result if command.status is CommandStatus.COMPLETED else None


async def eventually_sent(bus: CommandBus, command_id: UUID) -> None:
    """Send once the pool has connections again."""

    async def send() -> bool | None:
        try:
            await bus.send(domain=DOMAIN, command_type="BeforeAndAfter", command_id=command_id, data={"crash": False})
        except psycopg.OperationalError:
            return None
        return True

    await eventually(send, "a send that gets through")
