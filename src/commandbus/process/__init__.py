"""Process managers: multi-step processes with compensation.

The names are loaded on first use, so that the statements may import the values without the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commandbus.process.base import BaseProcessManager
    from commandbus.process.decide import BeforeSend
    from commandbus.process.models import (
        ProcessAuditEntry,
        ProcessCommand,
        ProcessMetadata,
        ProcessResponse,
        ProcessState,
        ProcessStatus,
    )
    from commandbus.process.repository import ProcessRepository
    from commandbus.process.router import ProcessReplyRouter

_HOME = {
    "BaseProcessManager": "base",
    "BeforeSend": "decide",
    "ProcessAuditEntry": "models",
    "ProcessCommand": "models",
    "ProcessMetadata": "models",
    "ProcessReplyRouter": "router",
    "ProcessRepository": "repository",
    "ProcessResponse": "models",
    "ProcessState": "models",
    "ProcessStatus": "models",
}

__all__ = [
    "BaseProcessManager",
    "BeforeSend",
    "ProcessAuditEntry",
    "ProcessCommand",
    "ProcessMetadata",
    "ProcessReplyRouter",
    "ProcessRepository",
    "ProcessResponse",
    "ProcessState",
    "ProcessStatus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
