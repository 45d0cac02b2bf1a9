"""Through a PgBouncer that pools transactions: all works that does not listen, and who listens is told what to do."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    App,
    BatchCommand,
    Command,
    CommandBus,
    CommandStatus,
    HandlerContext,
    PermanentCommandError,
    ReplyQueue,
    RetryPolicy,
    TransientCommandError,
    TroubleshootingQueue,
    Worker,
    migrate,
)
from commandbus.auditor import audit
from commandbus.notify import ListenRefusedError
from commandbus.process import ProcessRepository
from tests.integration.pgbouncer import PROGRAM, pooling
from tests.integration.process_kit import OrderProcess, Step
from tests.integration.servers import Server
from tests.integration.worker_kit import eventually, running

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(PROGRAM is None, reason="no pgbouncer here; .ci/run installs Debian's"),
]
SESSIONS = 3  # of the server: fewer than our connections, so that transactions change places all the time
COUNT = 40


@pytest_asyncio.fixture
async def pool(postgres_server: Server) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """Eight connections through the proxy, which prepare no statements."""
    with postgres_server.database("pgbouncer") as dsn, pooling(dsn, SESSIONS) as through:
        migrate(through)
        kwargs = {"prepare_threshold": None}
        async with AsyncConnectionPool(through, kwargs=kwargs, min_size=8, max_size=8) as pool:
            yield pool


def shop() -> App:
    """Handlers that succeed, fail once, fail for good, and write in the settling transaction."""
    app = App(retry_policy=RetryPolicy(max_attempts=2, backoff_schedule=[0]))

    @app.handler("orders", "Once")
    async def once(command: Command, context: HandlerContext) -> dict[str, int]:
        if context.attempt == 1:
            raise TransientCommandError("BUSY", "come again")
        return {"attempt": context.attempt}

    @app.handler("orders", "Never")
    async def never(command: Command, context: HandlerContext) -> None:
        if context.epoch == 1:
            raise PermanentCommandError("BROKEN", "out of order")

    @app.handler("orders", "Inside")
    async def inside(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await conn.execute("INSERT INTO done VALUES (%s)", [command.command_id])
            await context.complete({"written": True})

    for step in Step:

        @app.handler("orders", step)
        async def walk(command: Command, context: HandlerContext) -> dict[str, Any]:
            return {"step": context.step}

    app.add_process(OrderProcess)
    return app


async def test_everything_works_that_does_not_listen(pool: AsyncConnectionPool[Any]) -> None:
    app, bus, manager, replies = shop(), CommandBus(pool), OrderProcess(pool), ReplyQueue(pool, "clerk")
    async with pool.connection() as conn:
        await conn.execute("CREATE TABLE done (command_id uuid PRIMARY KEY)")
    worker = Worker(
        pool,
        domain="orders",
        handler_registry=app.registry,
        processes=[manager],
        retry_policy=app.retry_policy,
        poll_interval=0.05,
        listen=False,
    )
    async with running(worker):
        once = await bus.send(domain="orders", command_type="Once", command_id=uuid4(), data={}, reply_to="clerk")
        never = await bus.send(domain="orders", command_type="Never", command_id=uuid4(), data={})
        inside = [BatchCommand("Inside", uuid4(), {}) for _ in range(COUNT)]
        batch_id = await bus.create_batch("orders", inside)
        batch_of_processes = await bus.create_process_batch("orders", COUNT)
        await manager.start_many(({"order": n} for n in range(COUNT)), batch_of_processes)
        await until(bus, never, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        await TroubleshootingQueue(pool, processes=[manager]).operator_retry(never, operator="ann")
        await until(bus, never, CommandStatus.COMPLETED)
        await until(bus, once, CommandStatus.COMPLETED)
        async with aclosing(replies.listen(poll_interval=0.05, listen=False)) as received:
            received_now = await anext(received)
            assert await replies.acknowledge(received_now) == []
        assert [(reply.command_id, reply.result) for reply in received_now] == [(once, {"attempt": 2})]

        async def ended() -> bool | None:
            of_commands = await bus.get_batch("orders", batch_id)
            of_processes = await bus.get_batch("orders", batch_of_processes)
            return of_commands.completed_count == of_processes.completed_count == COUNT or None

        await eventually(ended, "both batches to be complete")
    processes = await ProcessRepository(pool).of_batch(batch_of_processes)
    assert [p.status for p in processes] == ["COMPLETED"] * COUNT
    async with pool.connection() as conn:
        assert await audit(conn, liveness=True) == []
        assert await (await conn.execute("SELECT count(*) FROM done")).fetchone() == (COUNT,)


async def until(bus: CommandBus, command_id: UUID, status: CommandStatus) -> None:
    async def look() -> bool | None:
        return (await bus.get_command(command_id)).status is status or None

    await eventually(look, f"{command_id} to be {status}")


async def test_who_listens_through_it_is_told_what_to_do(pool: AsyncConnectionPool[Any]) -> None:
    worker = Worker(pool, domain="orders", handler_registry=shop().registry)
    with pytest.raises(ListenRefusedError, match="listen=False"):
        await worker.run()
