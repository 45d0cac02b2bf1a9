"""A command bus on PostgreSQL: commands, retries, a troubleshooting queue, replies, batches, audit, processes."""

import sys
from pathlib import Path

from commandbus import _foreign

_foreign.check(Path(__file__).parent, sys.path)

from commandbus.app import App  # noqa: E402  only once no other package's modules can mix in
from commandbus.bus import CommandBus  # noqa: E402
from commandbus.errors import (  # noqa: E402
    AttemptEndedError,
    BatchNotFoundError,
    BusinessRuleError,
    CommandBusError,
    CommandNotFoundError,
    DuplicateCommandError,
    HandlerAlreadyRegisteredError,
    HandlerNotFoundError,
    InvalidCursorError,
    InvalidOperationError,
    InvalidPayloadError,
    LeaseLostError,
    PermanentCommandError,
    PoolTooSmallError,
    ProcessNotFoundError,
    ReplyLostError,
    SchemaError,
    TransientCommandError,
)
from commandbus.handler import BlockingContext, Ended, HandlerContext, HandlerRegistry, Middleware, handler  # noqa: E402
from commandbus.migrate import migrate  # noqa: E402
from commandbus.models import (  # noqa: E402
    AuditEvent,
    BatchCancellation,
    BatchCommand,
    BatchMetadata,
    BatchStatus,
    BatchType,
    BulkResult,
    Command,
    CommandMetadata,
    CommandStatus,
    Page,
    ReceivedReply,
    Reply,
    ReplyOutcome,
    SendRequest,
    TroubleshootingFilter,
    TroubleshootingItem,
)
from commandbus.policies import RetryPolicy  # noqa: E402
from commandbus.replies import ReplyQueue  # noqa: E402
from commandbus.status import BusStatus, DomainStatus, status  # noqa: E402
from commandbus.stopping import stop_workers  # noqa: E402
from commandbus.troubleshooting import TroubleshootingQueue  # noqa: E402
from commandbus.worker import Worker  # noqa: E402

__all__ = [
    "App",
    "AttemptEndedError",
    "AuditEvent",
    "BatchCancellation",
    "BatchCommand",
    "BatchMetadata",
    "BatchNotFoundError",
    "BatchStatus",
    "BatchType",
    "BlockingContext",
    "BulkResult",
    "BusStatus",
    "BusinessRuleError",
    "Command",
    "CommandBus",
    "CommandBusError",
    "CommandMetadata",
    "CommandNotFoundError",
    "CommandStatus",
    "DomainStatus",
    "DuplicateCommandError",
    "Ended",
    "HandlerAlreadyRegisteredError",
    "HandlerContext",
    "HandlerNotFoundError",
    "HandlerRegistry",
    "InvalidCursorError",
    "InvalidOperationError",
    "InvalidPayloadError",
    "LeaseLostError",
    "Middleware",
    "Page",
    "PermanentCommandError",
    "PoolTooSmallError",
    "ProcessNotFoundError",
    "ReceivedReply",
    "Reply",
    "ReplyLostError",
    "ReplyOutcome",
    "ReplyQueue",
    "RetryPolicy",
    "SchemaError",
    "SendRequest",
    "TransientCommandError",
    "TroubleshootingFilter",
    "TroubleshootingItem",
    "TroubleshootingQueue",
    "Worker",
    "handler",
    "migrate",
    "status",
    "stop_workers",
]
