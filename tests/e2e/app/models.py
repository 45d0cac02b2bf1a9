"""The behavior of a process's steps, and the table that keeps it for each command."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict

from pytest_commandbus.behavior import BehaviorRepository, StoredBehavior
from pytest_commandbus.chaos import CommandBehavior


class ProcessStepBehavior(BaseModel):
    """The behavior of each step of a StatementReport; a step without one runs untouched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: CommandBehavior | None = None
    aggregation: CommandBehavior | None = None
    render: CommandBehavior | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what was set, as JSON knows it; the same dict each time, not to be changed."""
        return self._dumped

    @cached_property
    def _dumped(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)  # once for the 100,000 processes of a batch


class TestCommandRepository:
    """The table e2e.test_command: what a behavior is to make of single commands.

    It is written in the transaction that sends the commands, so that both are there or none.
    """

    __test__ = False  # pytest collects what is called Test…

    def __init__(self) -> None:
        self._behaviors = BehaviorRepository()

    async def create(
        self, command_id: UUID, behavior: CommandBehavior, payload: Mapping[str, Any], *, conn: AsyncConnection[Any]
    ) -> None:
        """Store the behavior of one command, with the payload that is shown beside it."""
        await self.create_many([StoredBehavior(command_id, behavior, payload)], conn=conn)

    async def create_many(self, commands: Sequence[StoredBehavior], *, conn: AsyncConnection[Any]) -> None:
        """Store the behaviors of many commands by one statement; none for none."""
        await self._behaviors.add(commands, conn=conn)
