"""Handlers, middleware and the errors they may raise or meet, as type checkers see them; see api.py."""

from collections.abc import Sequence
from typing import Any, assert_type
from uuid import UUID

from psycopg import Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import commandbus
from commandbus import (
    App,
    AttemptEndedError,
    BatchNotFoundError,
    BlockingContext,
    BusinessRuleError,
    Command,
    CommandBusError,
    CommandNotFoundError,
    DuplicateCommandError,
    Ended,
    HandlerAlreadyRegisteredError,
    HandlerContext,
    HandlerNotFoundError,
    HandlerRegistry,
    InvalidCursorError,
    InvalidOperationError,
    InvalidPayloadError,
    LeaseLostError,
    Middleware,
    PermanentCommandError,
    PoolTooSmallError,
    ProcessNotFoundError,
    ReplyLostError,
    RetryPolicy,
    SchemaError,
    TransientCommandError,
)

registry = HandlerRegistry()


async def wait(command: Command, context: HandlerContext) -> None:
    assert_type(context.pool, AsyncConnectionPool[Any])
    await context.extend_visibility(60)
    raise TransientCommandError("BUSY", "the bank does not answer", {"bank": 7})


def fail(command: Command, context: HandlerContext) -> dict[str, Any]:
    blocking = context.sync
    assert_type(blocking, BlockingContext)
    assert_type(blocking.pool, ConnectionPool[Any])
    blocking.extend_visibility(60)
    with blocking.transaction() as conn:
        assert_type(conn, Connection[Any])
        blocking.complete({"done": True})
    raise BusinessRuleError("NO") if command.data else PermanentCommandError("BROKEN")


class Desk:
    @commandbus.handler(domain="d", command_type="Greet")
    def greet(self, command: Command, context: HandlerContext) -> None: ...


def declare() -> None:
    registry.add("d", "Wait", wait)
    registry.add("d", "Fail", fail, max_concurrency=2)
    registry.register(commandbus.handler(domain="d", command_type="Watch")(wait))
    registry.register_instance(Desk())
    assert_type(registry.domains, frozenset[str])
    assert_type(registry.command_types("d"), list[str])
    assert_type(registry.caps("d"), dict[str, int])
    assert_type(registry.get("d", "Wait").command_type, str)
    assert_type(App(name="a").registry, HandlerRegistry)
    policy = RetryPolicy(max_attempts=3, backoff_schedule=[1])
    assert_type(policy.delay(1), float)
    assert_type(policy.is_exhausted(3), bool)


class Watching(Middleware):
    async def claimed(self, batch: Sequence[HandlerContext]) -> None:
        assert_type(batch[0].command.domain, str)

    async def settling(self, batch: Sequence[Ended]) -> None: ...


def tell(error: CommandBusError) -> object:
    """What one may want to act on is an attribute of the error."""
    match error:
        case TransientCommandError() | PermanentCommandError() | BusinessRuleError():
            assert_type(error.code, str)
            return assert_type(error.details, dict[str, Any])
        case AttemptEndedError() | LeaseLostError() | CommandNotFoundError():
            return assert_type(error.command_id, UUID)
        case DuplicateCommandError():
            return assert_type(error.same_payload, bool | None)
        case BatchNotFoundError():
            assert_type(error.domain, str | None)
            return assert_type(error.batch_id, UUID)
        case ProcessNotFoundError():
            return assert_type(error.process_id, UUID)
        case HandlerNotFoundError() | HandlerAlreadyRegisteredError():
            return assert_type(error.command_type, str)
        case InvalidPayloadError():
            return assert_type(error.path, str)
        case ReplyLostError():
            return assert_type(error.command_ids, tuple[UUID, ...])
        case InvalidCursorError() | InvalidOperationError() | SchemaError() | PoolTooSmallError():
            return assert_type(str(error), str)
        case _:
            return None
