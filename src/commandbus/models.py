"""The values of the bus: what goes in, what comes out, and the states between. No SQL here."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

_Item = TypeVar("_Item")


class CommandStatus(StrEnum):
    """Where a command stands. IN_PROGRESS means that it is leased, PENDING covers a retry that waits."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    IN_TROUBLESHOOTING_QUEUE = "IN_TROUBLESHOOTING_QUEUE"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change it any more."""
        return self in (CommandStatus.COMPLETED, CommandStatus.FAILED, CommandStatus.CANCELED)


class ReplyOutcome(StrEnum):
    """What a reply says of its command."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class BatchType(StrEnum):
    """What a batch counts."""

    COMMAND = "COMMAND"
    PROCESS = "PROCESS"


class BatchStatus(StrEnum):
    """Where a batch stands: the two COMPLETED ones are final."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_FAILURES = "COMPLETED_WITH_FAILURES"

    @property
    def is_final(self) -> bool:
        """Whether every member has ended."""
        return self in (BatchStatus.COMPLETED, BatchStatus.COMPLETED_WITH_FAILURES)


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One command for `CommandBus.send_batch`; the fields are those of `CommandBus.send`."""

    domain: str
    command_type: str
    command_id: UUID
    data: dict[str, Any]
    correlation_id: UUID | None = None
    reply_to: str | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class BatchCommand:
    """One command of `CommandBus.create_batch`, whose domain is the batch's."""

    command_type: str
    command_id: UUID
    data: dict[str, Any]
    correlation_id: UUID | None = None
    reply_to: str | None = None
    max_attempts: int | None = None


@dataclass(slots=True)  # a frozen one takes five times as long to make, and each attempt makes one
class Command:
    """A command as its handler sees it."""

    command_id: UUID
    domain: str
    command_type: str
    data: dict[str, Any]
    correlation_id: UUID | None
    reply_to: str | None
    created_at: datetime
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class CommandMetadata:
    """A command as its operators see it.

    `attempts` counts those of this life, the running one included; `lost_leases` is counted apart.
    `due_at` is set while a retry waits, `lease_until` (database clock) while a worker has it.
    """

    command_id: UUID
    domain: str
    command_type: str
    status: CommandStatus
    data: dict[str, Any]
    attempts: int
    max_attempts: int | None
    lost_leases: int
    correlation_id: UUID | None
    reply_to: str | None
    batch_id: UUID | None
    process_id: UUID | None
    step: str | None
    result: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    worker_id: int | None
    lease_until: datetime | None
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command leaves for whoever asked: exactly one, once it is terminal."""

    command_id: UUID
    correlation_id: UUID | None
    outcome: ReplyOutcome
    result: dict[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedReply(Reply):
    """A reply that a consumer holds, until it acknowledges it or `lease_until` (database clock).

    `epoch` counts how many times it was received: above 1, an earlier consumer may have done with it already.
    `headers` are those that the command's handler left.
    """

    reply_id: int
    epoch: int
    lease_until: datetime
    created_at: datetime
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchMetadata:
    """A batch and its counts as of the moment when it was read.

    For a PROCESS batch `canceled_count` holds failed and cancelled processes, and `in_troubleshooting_count`
    those that wait for an operator.
    """

    domain: str
    batch_id: UUID
    batch_type: BatchType
    name: str | None
    custom_data: dict[str, Any] | None
    status: BatchStatus
    total_count: int
    completed_count: int
    failed_count: int
    canceled_count: int
    in_troubleshooting_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class BatchCancellation:
    """What `CommandBus.cancel_batch` did.

    `canceled` members were cancelled at once; `in_flight` ones (as of now) end first. What had ended, waits for an
    operator (commands) or undoes its steps already (processes) is in neither.
    """

    canceled: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of a command's audit trail. `attempt` counts those of this life."""

    event_id: int
    command_id: UUID
    event_type: str
    timestamp: datetime
    epoch: int | None = None
    worker_id: int | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    lease_until: datetime | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TroubleshootingItem:
    """A parked command as its operators see it.

    `attempts` counts the failed attempts of this life, `total_attempts` those of all lives; `lost_leases` is counted
    apart, for this life. `batch_id` is its own batch, or that of its process.
    """

    command_id: UUID
    domain: str
    command_type: str
    data: dict[str, Any]
    error_code: str | None
    error_message: str | None
    attempts: int
    total_attempts: int
    max_attempts: int | None
    lost_leases: int
    correlation_id: UUID | None
    process_id: UUID | None
    step: str | None
    batch_id: UUID | None
    created_at: datetime
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class TroubleshootingFilter:
    """Which parked commands: those to which all of this applies, every one when nothing is said.

    Parked at `moved_after` or later, and before `moved_before` (aware times, on the bus's clock). `batch_id` finds the
    commands of a batch of commands, and those of the processes of a batch of processes.
    """

    domain: str | None = None
    command_type: str | None = None
    error_code: str | None = None
    batch_id: UUID | None = None
    moved_after: datetime | None = None
    moved_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a bulk action did: how many commands it changed, and, of those that were named, which it could not.

    `wrong_state` has the status of each that was not parked (any more).
    """

    done: int
    not_found: list[UUID] = field(default_factory=list)
    wrong_state: dict[UUID, CommandStatus] = field(default_factory=dict)


@dataclass(frozen=True)
class Page(Generic[_Item]):
    """Some items of a listing, in its order. `next_cursor` is what the next page is asked with, None at the end."""

    items: list[_Item]
    next_cursor: str | None
