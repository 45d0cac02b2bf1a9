"""The StatementReport process: query the ledger, aggregate what it gave, render the statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus.process import BaseProcessManager, BeforeSend, ProcessCommand, ProcessResponse
from pytest_commandbus.behavior import StoredBehavior
from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app.models import ProcessStepBehavior, TestCommandRepository
from tests.e2e.app.rendering import OutputType

DOMAIN = "reporting"


class StatementReportStep(StrEnum):
    """What is done for a statement, in this order; the values are the command types."""

    QUERY = "StatementQuery"
    AGGREGATE = "StatementDataAggregation"
    RENDER = "StatementRender"


_NEXT = dict(zip(StatementReportStep, list(StatementReportStep)[1:], strict=False))
# The field of ProcessStepBehavior that is a step's.
_BEHAVIOR = {
    StatementReportStep.QUERY: "query",
    StatementReportStep.AGGREGATE: "aggregation",
    StatementReportStep.RENDER: "render",
}


@dataclass(slots=True)
class StatementReportState:
    """What a process remembers: what was asked for, and the files that its steps have left.

    Both days are included. Paths are absolute.
    """

    from_date: date
    to_date: date
    account_list: list[str]
    output_type: OutputType
    query_result_path: str | None = None
    aggregated_data_path: str | None = None
    rendered_file_path: str | None = None
    behavior: ProcessStepBehavior | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON knows it; days as ISO dates."""
        return {
            "from_date": self.from_date.isoformat(),
            "to_date": self.to_date.isoformat(),
            "account_list": self.account_list,
            "output_type": self.output_type.value,
            "query_result_path": self.query_result_path,
            "aggregated_data_path": self.aggregated_data_path,
            "rendered_file_path": self.rendered_file_path,
            "behavior": None if self.behavior is None else self.behavior.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "StatementReportState":
        """Return the state that `to_dict` gave, or that a request asks for.

        Raises ValueError for a day, an output type or a behavior that is none, and for a span or a list that is empty.
        """
        behavior = data.get("behavior")
        state = cls(
            from_date=_day(data["from_date"]),
            to_date=_day(data["to_date"]),
            account_list=list(data["account_list"]),
            output_type=OutputType(data["output_type"]),
            query_result_path=data.get("query_result_path"),
            aggregated_data_path=data.get("aggregated_data_path"),
            rendered_file_path=data.get("rendered_file_path"),
            behavior=None if behavior is None else ProcessStepBehavior.model_validate(behavior),
        )
        if state.from_date > state.to_date:
            raise ValueError(f"from_date {state.from_date} is after to_date {state.to_date}: exchange them")
        if not state.account_list:
            raise ValueError("account_list is empty: name at least one account")
        return state


def _day(value: date | str) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)


class StatementReportProcess(BaseProcessManager):
    """Query, aggregate, render. The behavior of a step, if the state has one, is stored for the step's command."""

    process_type = "StatementReport"
    domain = DOMAIN
    state_class = StatementReportState
    step_class = StatementReportStep

    def __init__(self, pool: AsyncConnectionPool[Any], behaviors: TestCommandRepository | None = None) -> None:
        super().__init__(pool)
        self._behaviors = behaviors or TestCommandRepository()

    def create_initial_state(self, initial_data: dict[str, Any]) -> StatementReportState:
        """Return the state of a new process. Raises ValueError for what cannot be reported on."""
        return StatementReportState.from_dict(initial_data)

    def get_first_step(self, state: StatementReportState) -> StatementReportStep:
        """Return the query."""
        return StatementReportStep.QUERY

    def build_command(self, step: str, state: StatementReportState) -> ProcessCommand:
        """Return the command of a step: what was asked for, or the file that the step before has left."""
        match StatementReportStep(step):
            case StatementReportStep.QUERY:
                data: dict[str, Any] = {
                    "from_date": state.from_date.isoformat(),
                    "to_date": state.to_date.isoformat(),
                    "account_list": state.account_list,
                }
            case StatementReportStep.AGGREGATE:
                data = {"query_result_path": state.query_result_path}
            case StatementReportStep.RENDER:
                data = {
                    "aggregated_data_path": state.aggregated_data_path,
                    "output_type": state.output_type.value,
                    "from_date": state.from_date.isoformat(),
                    "to_date": state.to_date.isoformat(),
                }
        if state.behavior is not None and getattr(state.behavior, _BEHAVIOR[StatementReportStep(step)]) is not None:
            data["has_behavior"] = True  # so that only these commands have their behavior looked up
        return ProcessCommand(command_type=step, data=data)

    def update_state(self, state: StatementReportState, step: str, response: ProcessResponse) -> None:
        """Take in the path of the file that the step has left."""
        result = response.result or {}
        match StatementReportStep(step):
            case StatementReportStep.QUERY:
                state.query_result_path = result.get("query_result_path")
            case StatementReportStep.AGGREGATE:
                state.aggregated_data_path = result.get("aggregated_data_path")
            case StatementReportStep.RENDER:
                state.rendered_file_path = result.get("rendered_file_path")

    def get_next_step(
        self, current_step: str, response: ProcessResponse, state: StatementReportState
    ) -> StatementReportStep | None:
        """Return the step after, None after the last."""
        return _NEXT.get(StatementReportStep(current_step))

    async def before_send_commands(self, items: Sequence[BeforeSend], conn: AsyncConnection[Any]) -> None:
        """Store the behavior of the commands that have one, all by one statement in the sending transaction."""
        rows = [row for item in items if (row := _behavior_row(item)) is not None]
        if rows:
            await self._behaviors.create_many(rows, conn=conn)


def _behavior_row(item: BeforeSend) -> StoredBehavior | None:
    """Return what is to be stored for a command about to be sent, None for one without behavior."""
    if not item.payload.get("has_behavior"):
        return None
    behavior = item.process.state["behavior"][_BEHAVIOR[StatementReportStep(item.step)]]
    payload = item.payload | {"process_id": item.process.process_id, "process_step": item.step}
    return StoredBehavior(item.command_id, _read_behavior(orjson.dumps(behavior)), payload)


@lru_cache(maxsize=256)
def _read_behavior(written: bytes) -> CommandBehavior:
    """Read a behavior once for all the processes of a batch."""
    return CommandBehavior.model_validate_json(written)
