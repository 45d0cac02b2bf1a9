"""A command bus on PostgreSQL: commands, retries, a troubleshooting queue, replies, batches, audit, processes.

Importing it imports nothing else: each public name brings its module when it is first used, so that a program which
needs few of them starts quickly.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from commandbus import _foreign

_foreign.check(Path(__file__).parent, sys.path)

if TYPE_CHECKING:  # the same as _NAMES, for type checkers and editors
    from uuid_utils.compat import uuid7

    from commandbus.app import App
    from commandbus.bus import CommandBus
    from commandbus.errors import (
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
    from commandbus.handler import BlockingContext, Ended, HandlerContext, HandlerRegistry, Middleware, handler
    from commandbus.migrate import migrate
    from commandbus.models import (
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
    from commandbus.policies import RetryPolicy
    from commandbus.replies import ReplyQueue
    from commandbus.status import BusStatus, DomainStatus, status
    from commandbus.stopping import stop_workers
    from commandbus.troubleshooting import TroubleshootingQueue
    from commandbus.worker import Worker

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
    "uuid7",
]

_NAMES = {
    "commandbus.app": ("App",),
    "commandbus.bus": ("CommandBus",),
    "commandbus.errors": (
        "AttemptEndedError",
        "BatchNotFoundError",
        "BusinessRuleError",
        "CommandBusError",
        "CommandNotFoundError",
        "DuplicateCommandError",
        "HandlerAlreadyRegisteredError",
        "HandlerNotFoundError",
        "InvalidCursorError",
        "InvalidOperationError",
        "InvalidPayloadError",
        "LeaseLostError",
        "PermanentCommandError",
        "PoolTooSmallError",
        "ProcessNotFoundError",
        "ReplyLostError",
        "SchemaError",
        "TransientCommandError",
    ),
    "commandbus.handler": ("BlockingContext", "Ended", "HandlerContext", "HandlerRegistry", "Middleware", "handler"),
    "commandbus.migrate": ("migrate",),
    "commandbus.models": (
        "AuditEvent",
        "BatchCancellation",
        "BatchCommand",
        "BatchMetadata",
        "BatchStatus",
        "BatchType",
        "BulkResult",
        "Command",
        "CommandMetadata",
        "CommandStatus",
        "Page",
        "ReceivedReply",
        "Reply",
        "ReplyOutcome",
        "SendRequest",
        "TroubleshootingFilter",
        "TroubleshootingItem",
    ),
    "commandbus.policies": ("RetryPolicy",),
    "commandbus.replies": ("ReplyQueue",),
    "commandbus.status": ("BusStatus", "DomainStatus", "status"),
    "commandbus.stopping": ("stop_workers",),
    "commandbus.troubleshooting": ("TroubleshootingQueue",),
    "commandbus.worker": ("Worker",),
    "uuid_utils.compat": ("uuid7",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if (module := _MODULES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `commandbus.status` the function: the import of a module of that name would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
