"""The values of processes. No SQL here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, Self, runtime_checkable
from uuid import UUID

from commandbus.models import CommandStatus, ReplyOutcome

CANCELED = "CANCELED"  # error code of what an operator cancelled


class ProcessStatus(StrEnum):
    """Where a process stands."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    WAITING_FOR_REPLY = "WAITING_FOR_REPLY"
    WAITING_FOR_TSQ = "WAITING_FOR_TSQ"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change it any more."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {ProcessStatus.COMPLETED, ProcessStatus.COMPENSATED, ProcessStatus.FAILED, ProcessStatus.CANCELED}
)


@runtime_checkable
class ProcessState(Protocol):
    """A process's own data between its steps. A dataclass, a pydantic model or a dict will do as well."""

    def to_dict(self) -> dict[str, Any]:
        """Give the state as a JSON object."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make a state of what to_dict gave."""


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """The command that carries out a step. `domain` is the manager's own when None."""

    command_type: str
    data: Mapping[str, Any]
    domain: str | None = None
    max_attempts: int | None = None


@dataclass(slots=True)  # a frozen one takes five times as long to make, and each decision has one
class ProcessResponse:
    """What became of a step's command."""

    command_id: UUID
    outcome: ReplyOutcome
    result: dict[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Who asked for a process to be cancelled, and why."""

    operator: str
    reason: str

    @property
    def message(self) -> str:
        """The error message of what was cancelled."""
        return f"cancelled by {self.operator}" + (f": {self.reason}" if self.reason else "")

    def response(self, command_id: UUID) -> ProcessResponse:
        """What a process is told of its cancelled command."""
        return ProcessResponse(command_id, ReplyOutcome.CANCELED, None, CANCELED, self.message)


@dataclass(slots=True)
class ProcessMetadata:
    """A process as it is stored. `ordinal` is its place in its batch, from 0."""

    process_id: UUID
    domain: str
    process_type: str
    status: ProcessStatus = ProcessStatus.PENDING
    current_step: str | None = None
    state: dict[str, Any] = field(default_factory=dict)
    batch_id: UUID | None = None
    ordinal: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProcessAuditEntry:
    """One command of a process: what was sent, what came back, and when (database clock)."""

    process_id: UUID
    step: str
    command_id: UUID
    command_type: str
    visit: int
    compensates: UUID | None
    status: CommandStatus
    attempts: int
    data: dict[str, Any]
    result: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    sent_at: datetime
    received_at: datetime | None
    completed_at: datetime | None
