"""What the simulated application is made of: two process managers, and handlers that end as the seed says."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from commandbus import BusinessRuleError, Command, HandlerRegistry, PermanentCommandError, TransientCommandError
from commandbus.handler import HandlerContext
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse
from commandbus.process.decide import BeforeSend

if TYPE_CHECKING:
    from .stage import Stage

DOMAIN = "sim"
PLAIN = "Plain"
ANSWERS = "sim.answers"

# How handlers end, and how often in a schedule of no particular mood.
ENDS = {"ok": 8, "transaction": 5, "rolled back": 2, "busy": 4, "broken": 2, "refused": 2, "extend": 2}


class Step(StrEnum):
    BOOK = "Book"
    PAY = "Pay"
    SHIP = "Ship"
    UNBOOK = "Unbook"
    REFUND = "Refund"


PATH = (Step.BOOK, Step.PAY, Step.SHIP)
UNDO = {Step.BOOK: Step.UNBOOK, Step.PAY: Step.REFUND}


@dataclass
class TripState:
    number: int = 0
    length: int = 2
    results: int = 0


class TripProcess(BaseProcessManager):
    """Goes `length` steps of the path; all but the last can be undone."""

    process_type = "Trip"
    domain = DOMAIN
    state_class = TripState
    step_class = Step

    def get_first_step(self, state: TripState) -> str:
        return PATH[0]

    def build_command(self, step: Step, state: TripState) -> ProcessCommand:
        return ProcessCommand(step, {"number": state.number})

    def update_state(self, state: TripState, step: Step, response: ProcessResponse) -> None:
        state.results += 1

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: TripState) -> str | None:
        return PATH[state.results] if state.results < state.length else None

    def get_compensation_step(self, step: Step) -> str | None:
        return UNDO.get(step)


class HookedTripProcess(TripProcess):
    """The same, with a hook that writes a row beside each command."""

    process_type = "HookedTrip"

    async def before_send_commands(self, items: Sequence[BeforeSend], conn: Any) -> None:
        rows = [(item.command_id,) for item in items]
        async with conn.cursor() as cursor:
            for row in rows:
                await cursor.execute("INSERT INTO public.prepared (command_id) VALUES (%s)", row)


def make_registry(stage: "Stage") -> HandlerRegistry:
    """Handlers for all that is sent, each of which ends as `stage.draw_end` says."""

    async def handle(command: Command, context: HandlerContext) -> dict[str, Any] | None:
        stage.ledger.ran(command.command_id, context.epoch)
        end = stage.draw_end(command.command_type)
        stage.log(f"handles {stage.name_of(command.command_id)}: {end}")
        await context.pool.gate.pause()  # type: ignore[attr-defined]
        if end == "busy":
            raise TransientCommandError("BUSY", "try again")
        if end == "broken":
            raise PermanentCommandError("BROKEN", "out of order")
        if end == "refused":
            raise BusinessRuleError("REFUSED", "the business says no")
        if end == "extend":
            await context.extend_visibility(60)
        if end in ("transaction", "rolled back"):
            async with context.transaction() as conn:
                await conn.execute(
                    "INSERT INTO public.effect (command_id, epoch) VALUES (%s, %s)", (command.command_id, context.epoch)
                )
                await context.complete({"in": "transaction"})
                if end == "rolled back":
                    raise TransientCommandError("UNDECIDED", "thought better of it")
        return {"done": True}

    registry = HandlerRegistry()
    for command_type in (PLAIN, *Step):
        registry.add(DOMAIN, command_type, handle)
    return registry
