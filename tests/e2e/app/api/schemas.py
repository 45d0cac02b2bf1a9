"""What the API takes and gives, as its OpenAPI document shows it."""

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from commandbus import BatchStatus, CommandStatus
from commandbus.process import ProcessStatus
from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app.bulk import Distribution
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.rendering import OutputType

MOST = 100_000
LONGEST_DELAY_MS = 60_000


def _countable(value: int) -> int:
    """Refuse more than one request may ask for, with what to do instead."""
    if value > MOST:
        raise PydanticCustomError(
            "too_many", "at most {most} at a time: send several requests for more", {"most": f"{MOST:,}"}
        )
    return value


def _no_number(value: object) -> object:
    """Refuse what would be taken for a number, and is none in JSON."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("number", "a number is needed")
    return value


def _is_day(value: object) -> object:
    """Refuse numbers, which would be seconds since 1970."""
    if isinstance(value, int | float):
        raise PydanticCustomError("day", "a day is needed, as in 2026-05-31")
    return value


def _distinct(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise PydanticCustomError("repeated", "an account is named twice")
    return value


_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
Count = Annotated[
    int,
    Field(ge=1, json_schema_extra={"maximum": MOST}, description="1 to 100,000"),
    BeforeValidator(_no_number),
    AfterValidator(_countable),
]
Day = Annotated[date, BeforeValidator(_is_day)]
AccountNumber = Annotated[str, Field(min_length=1, max_length=40, pattern=_NO_CONTROLS)]
Accounts = Annotated[
    list[AccountNumber],
    Field(min_length=1, max_length=200, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]
BatchName = Annotated[str, Field(min_length=1, max_length=200, pattern=_NO_CONTROLS)]


class Given(BaseModel):
    """What a client sends: what is not known is refused, and told."""

    model_config = ConfigDict(extra="forbid")


class ProcessBatchCreateRequest(Given):
    """A batch of StatementReports, all alike. Both days are included."""

    count: Count
    from_date: Day
    to_date: Day
    account_list: Accounts
    output_type: OutputType = OutputType.PDF
    behavior: ProcessStepBehavior | None = None
    name: BatchName | None = None

    @field_validator("to_date")
    @classmethod
    def _is_ordered(cls, value: date, info: ValidationInfo) -> date:
        if (begin := info.data.get("from_date")) is not None and value < begin:
            raise PydanticCustomError("order", "to_date is before from_date: exchange them")
        return value

    def initial_data(self) -> dict[str, Any]:
        """What a process is started with; the behavior as it was read, so that no process reads it anew."""
        return self.model_dump(mode="json", include={"from_date", "to_date", "account_list", "output_type"}) | {
            "behavior": None if self.behavior is None or not self.behavior.to_dict() else self.behavior
        }


class ProcessSummary(BaseModel):
    """One process in a list."""

    process_id: UUID
    ordinal: int | None
    process_type: str
    status: ProcessStatus
    current_step: str | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


class ProcessPage(BaseModel):
    """Some processes of a batch; `next_cursor` asks for the next ones, None at the end. A page may be short."""

    processes: list[ProcessSummary]
    next_cursor: str | None


class CreationState(BaseModel):
    """How far the making of a batch is. state: CREATING, COMPLETE, ABANDONED (by its client), INTERRUPTED."""

    requested: int
    created: int
    state: str
    error: str | None


class BatchStats(BaseModel):
    """A batch, counted anew. For processes `canceled_count` has those that failed or were cancelled."""

    batch_id: UUID
    batch_type: str
    name: str | None
    batch_status: BatchStatus
    total_count: int
    completed_count: int
    failed_count: int
    canceled_count: int
    in_troubleshooting_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    creation: CreationState | None = None


class ProcessBatchCreateResponse(BaseModel):
    """A batch whose processes are all stored: the first 100 of them, and a link to all."""

    batch_id: UUID
    batch_status: BatchStatus
    total_count: int
    completed_count: int
    processes: list[ProcessSummary]
    processes_url: str


class TimelineEntry(BaseModel):
    """One command of a process: when it was sent, begun first and ended, and what it was told to do wrong."""

    command_id: UUID
    step: str | None
    command_type: str
    status: CommandStatus
    attempts: int
    sent_at: datetime
    received_at: datetime | None
    completed_at: datetime | None
    error_code: str | None
    error_message: str | None
    result: dict[str, Any] | None
    behavior: CommandBehavior | None


class ProcessDetail(ProcessSummary):
    """A process with all that it did."""

    batch_id: UUID | None
    state: dict[str, Any]
    behavior: ProcessStepBehavior | None
    timeline: list[TimelineEntry]


Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_no_number)]


class BehaviorDistribution(Given):
    """Which part of the commands ends how, in percent that add to 100."""

    success: Percent = 0
    fail_transient_then_succeed: Percent = 0
    fail_permanent: Percent = 0

    @model_validator(mode="after")
    def _is_whole(self) -> "BehaviorDistribution":
        total = self.success + self.fail_transient_then_succeed + self.fail_permanent
        if abs(total - 100) > 1e-6:
            raise PydanticCustomError(
                "not_100", "the parts add to {total}, not to 100: they are percentages", {"total": f"{total:g}"}
            )
        return self

    def parts(self) -> Distribution:
        """The same for the bulk."""
        return Distribution(self.success, self.fail_transient_then_succeed, self.fail_permanent)


class BulkRequest(Given):
    """A load test: many test commands, each as one success takes `delay_ms`."""

    count: Count
    behavior_distribution: BehaviorDistribution = BehaviorDistribution(success=100)
    delay_ms: Annotated[int, Field(ge=0, le=LONGEST_DELAY_MS), BeforeValidator(_no_number)] = 0


class BulkResponse(BaseModel):
    """What was sent; the times are of making the commands, and of storing them."""

    created: int
    generation_time_ms: float
    queue_time_ms: float
    batch_id: UUID


class StopRequest(Given):
    """Which workers: those with these ids, those of a domain, or all."""

    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,63}$")] | None = None
    worker_ids: (
        Annotated[list[Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_no_number)]], Field(max_length=1_000)]
        | None
    ) = None


class StopResponse(BaseModel):
    """The workers that were asked: each ends what it has begun, and stops."""

    stopping: list[int]


class ExpectedStep(BaseModel):
    """What is expected of one step, in numbers of processes."""

    step: str
    begun: float
    completed: float
    in_troubleshooting: float
    failed_by_business_rule: float
    attempts: float


class Preview(BaseModel):
    """How a batch with a behavior may end, on the mean of all seeds, retries included."""

    count: int
    completed: float
    in_troubleshooting: float
    canceled: float
    retries: float
    steps: list[ExpectedStep]


class PreviewRequest(Given):
    """Whose outcomes to foresee."""

    count: Count
    behavior: ProcessStepBehavior = ProcessStepBehavior()


ProfileName = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[a-z0-9][a-z0-9-]*$")]


class ChaosProfile(BaseModel):
    """A named set of behaviors, for the form."""

    name: str
    behavior: ProcessStepBehavior


class Problem(BaseModel):
    """Why something was refused."""

    detail: str
