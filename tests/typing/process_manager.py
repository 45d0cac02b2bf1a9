"""What a user's process manager looks like to a strict type checker: `make check` reads this file, nothing runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_type
from uuid import UUID

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus import App, CommandBus, TroubleshootingQueue, Worker
from commandbus.process import (
    BaseProcessManager,
    BeforeSend,
    ProcessCommand,
    ProcessMetadata,
    ProcessReplyRouter,
    ProcessResponse,
)


class Step(StrEnum):
    PACK = "Pack"
    UNPACK = "Unpack"


@dataclass
class Parcel:
    weight: int
    packed: bool = False


class ParcelProcess(BaseProcessManager):
    """Steps are the author's own StrEnum, the state is the author's own class: no cast, no ignore."""

    process_type = "Parcel"
    domain = "parcels"
    state_class = Parcel
    step_class = Step

    def get_first_step(self, state: Parcel) -> Step:
        return Step.PACK

    def build_command(self, step: Step, state: Parcel) -> ProcessCommand:
        return ProcessCommand(step, {"weight": state.weight})

    def update_state(self, state: Parcel, step: Step, response: ProcessResponse) -> Parcel | None:
        state.packed = step is Step.PACK
        return None

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: Parcel) -> Step | None:
        return None

    def get_compensation_step(self, step: Step) -> Step | None:
        return Step.UNPACK if step is Step.PACK else None


class HookedProcess(ParcelProcess):
    def create_initial_state(self, initial_data: dict[str, Any]) -> Parcel:
        return Parcel(initial_data["weight"])

    async def before_send_commands(self, items: Sequence[BeforeSend], conn: AsyncConnection[Any]) -> None:
        assert_type(items[0].process, ProcessMetadata)
        assert_type(items[0].payload, dict[str, Any])

    async def before_send_command(
        self,
        process: ProcessMetadata,
        step: str,
        command_id: UUID,
        payload: dict[str, Any],
        conn: AsyncConnection[Any],
    ) -> None: ...


async def taken_everywhere(pool: AsyncConnectionPool[Any], bus: CommandBus, batch_id: UUID) -> None:
    manager = ParcelProcess(pool)
    await bus.cancel_batch("parcels", batch_id, processes=[manager])
    TroubleshootingQueue(pool, processes=[manager])
    Worker(pool, domain="parcels", handler_registry=App(name="parcels").registry, processes=[manager])
    ProcessReplyRouter([manager], pool)
    App(name="parcels").add_process(ParcelProcess)
