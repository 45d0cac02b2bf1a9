"""What each fixture of function scope gives, made of a runtime: how an example of @given has them anew."""

from collections.abc import Callable, Mapping
from typing import Any

from .audit import Audit
from .chaos_handle import ChaosHandle
from .factories import CommandBatchFactory, ProcessBatchFactory, WorkerPoolFactory
from .runtime import Runtime
from .sent import BusHandle

HANDLES: Mapping[str, Callable[[Runtime], Any]] = {
    "cb_app": lambda runtime: runtime.require_app("cb_app"),
    "cb_audit": lambda runtime: runtime.present(Audit(runtime)),
    "cb_bus": lambda runtime: runtime.present(BusHandle(runtime)),
    "cb_chaos": ChaosHandle,
    "cb_clock": lambda runtime: runtime.present(runtime.clock),
    "cb_command_batch": lambda runtime: runtime.present(CommandBatchFactory(runtime)),
    "cb_database": lambda runtime: runtime.database,
    "cb_pool": lambda runtime: runtime.present(runtime.pool),
    "cb_process_batch": lambda runtime: runtime.present(ProcessBatchFactory(runtime)),
    "cb_tsq": lambda runtime: runtime.present(runtime.troubleshooting_queue()),
    "cb_worker_pool": lambda runtime: runtime.present(WorkerPoolFactory(runtime)),
}
