"""What a user's process manager looks like to a strict type checker: `make check` reads this file, nothing runs it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus import App, CommandBus, TroubleshootingQueue, Worker
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessReplyRouter, ProcessResponse


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


async def taken_everywhere(pool: AsyncConnectionPool[Any], bus: CommandBus, batch_id: UUID) -> None:
    manager = ParcelProcess(pool)
    await bus.cancel_batch("parcels", batch_id, processes=[manager])
    TroubleshootingQueue(pool, processes=[manager])
    Worker(pool, domain="parcels", handler_registry=App(name="parcels").registry, processes=[manager])
    ProcessReplyRouter([manager], pool)
    App(name="parcels").add_process(ParcelProcess)
