"""The values of processes. No SQL here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
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
        return self in (
            ProcessStatus.COMPLETED,
            ProcessStatus.COMPENSATED,
            ProcessStatus.FAILED,
            ProcessStatus.CANCELED,
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


@dataclass(frozen=True, slots=True)
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


@lru_cache(maxsize=1_024)
def _field_names(state_class: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(state_class))


def _plain(value: Any) -> Any:
    """A field's value as JSON: nested dataclasses as dicts, also inside lists and dicts."""
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return value


def dump_state(state: Any) -> dict[str, Any]:
    """Give a state of any of the kinds above as a dict."""
    return _dumper(type(state))(state)  # type: ignore[arg-type]  # every class is hashable


@lru_cache(maxsize=1_024)
def _dumper(state_class: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """Look once at what kind of state a class is."""
    if issubclass(state_class, dict):
        return lambda state: state
    if hasattr(state_class, "to_dict"):
        return lambda state: dict(state.to_dict())
    if hasattr(state_class, "model_dump"):
        return lambda state: dict(state.model_dump(mode="json"))
    if is_dataclass(state_class):
        names = _field_names(state_class)
        return lambda state: {name: _plain(getattr(state, name)) for name in names}
    raise TypeError(
        f"a process state of type {state_class.__name__} has no to_dict(); "
        "give it to_dict and from_dict, or make it a dataclass, a pydantic model or a dict"
    )


def keep_unknown(state_class: type[Any], stored: dict[str, Any], dumped: dict[str, Any]) -> dict[str, Any]:
    """Give a dumped state with those fields of the stored one that its class does not know: another version's.

    A state with to_dict and from_dict keeps what those keep.
    """
    known = _known_fields(state_class)  # type: ignore[arg-type]  # every class is hashable
    if known is None or stored.keys() <= known:
        return dumped
    return {name: value for name, value in stored.items() if name not in known} | dumped


@lru_cache(maxsize=1_024)
def _known_fields(state_class: type[Any]) -> frozenset[str] | None:
    """The fields of a dataclass or pydantic model; None for a class that decides by itself what it keeps."""
    if issubclass(state_class, dict) or hasattr(state_class, "to_dict") or hasattr(state_class, "from_dict"):
        return None
    if hasattr(state_class, "model_fields"):
        return frozenset(state_class.model_fields)
    return frozenset(_field_names(state_class)) if is_dataclass(state_class) else None


def load_state(state_class: type[Any], data: dict[str, Any]) -> Any:
    """Make a state of `state_class` of what dump_state gave."""
    return _loader(state_class)(data)  # type: ignore[arg-type]  # every class is hashable


@lru_cache(maxsize=1_024)
def _loader(state_class: type[Any]) -> Callable[[dict[str, Any]], Any]:
    if hasattr(state_class, "from_dict"):
        return state_class.from_dict  # type: ignore[no-any-return]
    if hasattr(state_class, "model_validate"):
        return state_class.model_validate  # type: ignore[no-any-return]
    if not is_dataclass(state_class):
        return state_class
    known = frozenset(_field_names(state_class))

    def load(data: dict[str, Any]) -> Any:
        """Leave out what the class does not know (any more)."""
        return state_class(**(data if data.keys() <= known else {k: v for k, v in data.items() if k in known}))

    return load
