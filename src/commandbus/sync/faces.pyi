"""Made from the async classes by `python -m tests.unit.sync_stubs`; their docstrings say what the methods do."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from commandbus import (
    AuditEvent,
    BatchCommand,
    BatchMetadata,
    BatchStatus,
    BatchType,
    BulkResult,
    CommandMetadata,
    CommandStatus,
    Page,
    ReceivedReply,
    SendRequest,
    TroubleshootingFilter,
    TroubleshootingItem,
)
from commandbus.process import ProcessAuditEntry, ProcessMetadata, ProcessStatus
from commandbus.sync.face import Face

class CommandBusFace(Face):
    def send(
        self,
        *,
        domain: str,
        command_type: str,
        command_id: UUID,
        data: dict[str, Any],
        correlation_id: UUID | None = None,
        reply_to: str | None = None,
        max_attempts: int | None = None,
        conn: Connection[Any] | None = None,
    ) -> UUID: ...
    def send_batch(self, requests: Iterable[SendRequest], *, chunk_size: int = 1000) -> int: ...
    def create_batch(
        self,
        domain: str,
        batch_commands: Sequence[BatchCommand],
        *,
        name: str | None = None,
        custom_data: dict[str, Any] | None = None,
        conn: Connection[Any] | None = None,
    ) -> UUID: ...
    def create_process_batch(
        self,
        domain: str,
        total_count: int,
        *,
        name: str | None = None,
        custom_data: dict[str, Any] | None = None,
        conn: Connection[Any] | None = None,
    ) -> UUID: ...
    def get_command(self, command_id: UUID, *, conn: Connection[Any] | None = None) -> CommandMetadata: ...
    def get_batch(
        self, domain: str | None, batch_id: UUID, *, conn: Connection[Any] | None = None
    ) -> BatchMetadata: ...
    def query_commands(
        self,
        domain: str | None = None,
        status: CommandStatus | None = None,
        command_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection[Any] | None = None,
    ) -> Page[CommandMetadata]: ...
    def list_batches(
        self,
        domain: str | None = None,
        batch_type: BatchType | None = None,
        status: BatchStatus | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection[Any] | None = None,
    ) -> Page[BatchMetadata]: ...
    def list_batch_commands(
        self,
        batch_id: UUID,
        status: CommandStatus | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection[Any] | None = None,
    ) -> Page[CommandMetadata]: ...
    def count_batch_commands(
        self, batch_id: UUID, *, conn: Connection[Any] | None = None
    ) -> dict[CommandStatus, int]: ...
    def get_audit_trail(self, command_id: UUID, *, conn: Connection[Any] | None = None) -> list[AuditEvent]: ...
    def get_audit_trails(
        self, command_ids: Sequence[UUID], *, conn: Connection[Any] | None = None
    ) -> dict[UUID, list[AuditEvent]]: ...
    def is_handled(self, domain: str, command_type: str, *, conn: Connection[Any] | None = None) -> bool: ...
    def now(self, *, conn: Connection[Any] | None = None) -> datetime: ...

class SyncTroubleshootingQueue(Face):
    def list_troubleshooting(
        self,
        domain: str | None = None,
        command_type: str | None = None,
        *,
        where: TroubleshootingFilter | None = None,
        limit: int = 100,
        cursor: str | None = None,
        conn: Connection[Any] | None = None,
    ) -> Page[TroubleshootingItem]: ...
    def get_troubleshooting(self, command_id: UUID, *, conn: Connection[Any] | None = None) -> TroubleshootingItem: ...
    def count_troubleshooting(
        self,
        domain: str | None = None,
        command_type: str | None = None,
        *,
        where: TroubleshootingFilter | None = None,
        conn: Connection[Any] | None = None,
    ) -> int: ...
    def operator_retry(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection[Any] | None = None
    ) -> None: ...
    def operator_cancel(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection[Any] | None = None
    ) -> None: ...
    def operator_complete(
        self,
        command_id: UUID,
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection[Any] | None = None,
    ) -> None: ...
    def operator_retry_many(
        self,
        command_ids: Iterable[UUID],
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection[Any] | None = None,
    ) -> BulkResult: ...
    def operator_cancel_many(
        self,
        command_ids: Iterable[UUID],
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection[Any] | None = None,
    ) -> BulkResult: ...
    def operator_complete_many(
        self,
        command_ids: Iterable[UUID],
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection[Any] | None = None,
    ) -> BulkResult: ...
    def operator_retry_where(
        self,
        where: TroubleshootingFilter,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult: ...
    def operator_cancel_where(
        self,
        where: TroubleshootingFilter,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult: ...
    def operator_complete_where(
        self,
        where: TroubleshootingFilter,
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult: ...

class SyncProcessRepository(Face):
    def save(self, process: ProcessMetadata, conn: Connection[Any] | None = None) -> None: ...
    def get(self, process_id: UUID, conn: Connection[Any] | None = None) -> ProcessMetadata | None: ...
    def of_batch(
        self,
        batch_id: UUID,
        status: ProcessStatus | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        conn: Connection[Any] | None = None,
    ) -> list[ProcessMetadata]: ...
    def list_processes(
        self,
        batch_id: UUID | None = None,
        status: ProcessStatus | None = None,
        process_type: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        domain: str | None = None,
        newest_first: bool = False,
        conn: Connection[Any] | None = None,
    ) -> Page[ProcessMetadata]: ...
    def get_audit_trail(self, process_id: UUID, conn: Connection[Any] | None = None) -> list[ProcessAuditEntry]: ...

class ProcessManagerFace(Face):
    def start(
        self, initial_data: dict[str, Any], batch_id: UUID | None = None, conn: Connection[Any] | None = None
    ) -> UUID: ...
    def start_many(
        self,
        initial_data: Iterable[dict[str, Any]],
        batch_id: UUID | None = None,
        first_ordinal: int = 0,
        on_progress: Callable[[int], object] | None = None,
        *,
        chunk_size: int = 1000,
        conn: Connection[Any] | None = None,
    ) -> int: ...
    def cancel_process(
        self, process_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection[Any] | None = None
    ) -> bool: ...

class ReplyQueueFace(Face):
    def receive(
        self, limit: int = 100, lease: float = 30.0, *, conn: Connection[Any] | None = None
    ) -> list[ReceivedReply]: ...
    def acknowledge(
        self, replies: Iterable[ReceivedReply], *, conn: Connection[Any] | None = None
    ) -> list[ReceivedReply]: ...
    def release(self, replies: Iterable[ReceivedReply], *, conn: Connection[Any] | None = None) -> None: ...
