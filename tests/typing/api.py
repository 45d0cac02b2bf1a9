"""The public face as type checkers see it: `make check` reads this with mypy --strict and pyright; nothing runs it.

`assert_type` holds what each call gives; a line with an ignore must be an error, or the ignore itself is one.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, assert_type
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    App,
    AuditEvent,
    BatchCancellation,
    BatchCommand,
    BatchMetadata,
    BulkResult,
    BusStatus,
    Command,
    CommandBus,
    CommandMetadata,
    CommandStatus,
    DomainStatus,
    Ended,
    HandlerContext,
    HandlerRegistry,
    Middleware,
    Page,
    ReceivedReply,
    ReplyQueue,
    RetryPolicy,
    SendRequest,
    TroubleshootingFilter,
    TroubleshootingItem,
    TroubleshootingQueue,
    Worker,
    handler,
    migrate,
    status,
    stop_workers,
    uuid7,
)
from commandbus.metrics import BusCollector, Metrics
from commandbus.sync import SyncCommandBus, connect
from commandbus.tracing import Tracing

app = App(retry_policy=RetryPolicy(max_attempts=5, backoff_schedule=[1, 10]))
Result = dict[str, Any] | None


@app.handler("orders", "Ship", max_concurrency=3)
async def ship(command: Command, context: HandlerContext) -> dict[str, Any]:
    assert_type(command.command_id, UUID)
    assert_type(command.correlation_id, UUID | None)
    assert_type(context.attempt, int)
    assert_type(context.headers, dict[str, str])
    async with context.transaction() as conn:
        assert_type(conn, AsyncConnection[Any])
        await context.complete({"parcel": 1})
    return {}


@handler(domain="orders", command_type="Bill")
def bill(command: Command, context: HandlerContext) -> None:
    with context.sync.transaction() as conn:
        conn.execute("SELECT 1")


class Timing(Middleware):
    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        return await call_next()

    async def settled(self, batch: Sequence[Ended]) -> None:
        for ended in batch:
            assert_type(ended.context.command, Command)
            assert_type(ended.event, str)


async def send(pool: AsyncConnectionPool[Any], conn: AsyncConnection[Any], one: UUID) -> None:
    tracing = Tracing()
    bus = CommandBus(pool, headers=tracing.headers)
    assert_type(await bus.send(domain="d", command_type="Ship", command_id=one, data={}, conn=conn), UUID)
    assert_type(uuid7(), UUID)
    assert_type(await bus.send_batch(SendRequest("d", "Ship", uuid7(), {}) for _ in range(2)), int)
    assert_type(await bus.create_batch("d", [BatchCommand("Ship", one, {})], name="may"), UUID)
    assert_type(await bus.get_command(one), CommandMetadata)
    assert_type((await bus.get_command(one)).status, CommandStatus)
    assert_type(await bus.get_batch("d", one), BatchMetadata)
    assert_type(await bus.get_batch(None, one), BatchMetadata)
    assert_type(await bus.is_handled("d", "Ship"), bool)
    assert_type(await bus.now(), datetime)
    assert_type(await bus.query_commands(status=CommandStatus.FAILED), Page[CommandMetadata])
    assert_type(await bus.get_audit_trail(one), list[AuditEvent])
    assert_type(await bus.count_batch_commands(one), dict[CommandStatus, int])
    assert_type(await bus.cancel_batch("d", one, operator="ann"), BatchCancellation)
    await bus.send("d", "Ship", one, {})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    async for replies in ReplyQueue(pool, "shop").listen():
        assert_type(replies, list[ReceivedReply])
        with tracing.reply(replies[0]):
            assert_type(replies[0].headers, dict[str, str])


async def operate(pool: AsyncConnectionPool[Any], one: UUID) -> None:
    tsq = TroubleshootingQueue(pool)
    assert_type(await tsq.operator_complete_many([one], {}), BulkResult)
    assert_type(await tsq.operator_retry_where(TroubleshootingFilter(domain="d")), BulkResult)
    page = await tsq.list_troubleshooting()
    assert_type(page, Page[TroubleshootingItem])
    found = await status(pool, window=60)
    assert_type(found, BusStatus)
    assert_type(found.domain("d"), DomainStatus)
    await stop_workers(pool)
    await Worker(pool, domain="d", handler_registry=HandlerRegistry(), middleware=[Timing(), Metrics()]).run()


def block(dsn: str, one: UUID) -> None:
    assert_type(migrate(dsn), list[str])
    BusCollector(dsn, timeout=5)
    with connect(dsn, app=app) as bus:
        assert_type(bus, SyncCommandBus)
        assert_type(bus.send(domain="d", command_type="Ship", command_id=one, data={}), UUID)
        assert_type(bus.get_command(one), CommandMetadata)
        assert_type(bus.replies("shop").receive(), list[ReceivedReply])


@pytest.mark.chaos(ship={"fail_permanent_pct": 100})
async def test_of_a_user(cb_process_batch: Any) -> None: ...
