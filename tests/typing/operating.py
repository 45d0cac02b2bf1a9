"""Reading, replies, operators, processes and the blocking face, as type checkers see them; see api.py."""

from contextlib import AbstractContextManager
from typing import Any, Self, assert_type
from uuid import UUID, uuid4

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    App,
    AuditEvent,
    BatchMetadata,
    BatchStatus,
    BatchType,
    BulkResult,
    CommandBus,
    CommandMetadata,
    Page,
    ReceivedReply,
    Reply,
    ReplyOutcome,
    ReplyQueue,
    TroubleshootingFilter,
    TroubleshootingItem,
    TroubleshootingQueue,
    Worker,
)
from commandbus.process import (
    BaseProcessManager,
    ProcessAuditEntry,
    ProcessMetadata,
    ProcessReplyRouter,
    ProcessRepository,
    ProcessState,
    ProcessStatus,
)
from commandbus.sync import (
    Portal,
    SyncCommandBus,
    SyncProcessManager,
    SyncProcessRepository,
    SyncProxy,
    SyncReplyQueue,
    SyncTroubleshootingQueue,
)


class Basket:
    """A state of the author's own, as ProcessState asks for."""

    def to_dict(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls()


STATE: ProcessState = Basket()


async def read(bus: CommandBus, conn: AsyncConnection[Any], one: UUID) -> None:
    assert_type(await bus.create_process_batch("d", 3, custom_data={"truck": 4}, conn=conn), UUID)
    assert_type(await bus.list_batches("d", BatchType.PROCESS, BatchStatus.COMPLETED), Page[BatchMetadata])
    page = await bus.list_batch_commands(one, limit=10)
    assert_type(page.items, list[CommandMetadata])
    assert_type(page.next_cursor, str | None)
    assert_type(await bus.get_audit_trails([one]), dict[UUID, list[AuditEvent]])
    assert_type((await bus.get_batch(None, one)).status, BatchStatus)
    assert_type((await bus.get_batch(None, one)).batch_type, BatchType)


async def receive(queue: ReplyQueue, conn: AsyncConnection[Any]) -> None:
    replies = await queue.receive(limit=10, lease=30)
    reply: Reply = replies[0]
    assert_type(reply.outcome, ReplyOutcome)
    assert_type(await queue.acknowledge(replies, conn=conn), list[ReceivedReply])
    await queue.release(replies)


async def operate(tsq: TroubleshootingQueue, where: TroubleshootingFilter, one: UUID) -> None:
    assert_type(await tsq.get_troubleshooting(one), TroubleshootingItem)
    assert_type(await tsq.count_troubleshooting("d"), int)
    await tsq.operator_retry(one, operator="ann")
    await tsq.operator_cancel(one, reason="twice")
    await tsq.operator_complete(one, {"by": "hand"})
    assert_type(await tsq.operator_retry_many([one]), BulkResult)
    assert_type(await tsq.operator_cancel_many([one]), BulkResult)
    assert_type(await tsq.operator_cancel_where(where), BulkResult)
    assert_type(await tsq.operator_complete_where(where, {}), BulkResult)


async def run(
    manager: BaseProcessManager, repository: ProcessRepository, conn: AsyncConnection[Any], one: UUID
) -> None:
    assert_type(await manager.start({"weight": 3}, conn=conn), UUID)
    assert_type(await manager.start_many({"weight": n} for n in range(3)), int)
    assert_type(await manager.cancel_process(one, operator="ann"), bool)
    process = await repository.get(one)
    assert_type(process, ProcessMetadata | None)
    assert_type(await repository.of_batch(one, ProcessStatus.FAILED), list[ProcessMetadata])
    assert_type(await repository.list_processes(one), Page[ProcessMetadata])
    assert_type(await repository.get_audit_trail(one), list[ProcessAuditEntry])
    if process is not None:
        await repository.save(process)
    assert_type(await ProcessReplyRouter([manager]).route(conn), int)


async def end(pool: AsyncConnectionPool[Any], app: App, worker: Worker) -> None:
    await worker.stop(timeout=10)
    assert_type(app.processes(pool), tuple[BaseProcessManager, ...])
    await CommandBus(pool).cancel_batch("d", uuid4(), processes=app.processes(pool))


def block(bus: SyncCommandBus, manager: type[BaseProcessManager], one: UUID) -> None:
    assert_type(bus.open(), SyncCommandBus)
    bus.close()
    assert_type(bus.transaction(), AbstractContextManager[Connection[Any]])
    assert_type(bus.troubleshooting, SyncTroubleshootingQueue)
    assert_type(bus.troubleshooting.operator_retry_many([one]), BulkResult)
    assert_type(bus.processes, SyncProcessRepository)
    assert_type(bus.processes.get(one), ProcessMetadata | None)
    assert_type(bus.process(manager), SyncProcessManager)
    assert_type(bus.process(manager).start({}), UUID)
    queue = bus.replies("shop")
    assert_type(queue, SyncReplyQueue)
    for replies in queue.listen():
        assert_type(replies, list[ReceivedReply])
        queue.stop()
    with Portal() as portal:
        SyncProxy(object(), portal)
