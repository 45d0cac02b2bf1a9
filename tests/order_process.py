"""The process of an order: what several tests run. Each adds what its own orders remember, meet or undo."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse


class Step(StrEnum):
    """What is done for an order; RETURN undoes RESERVE."""

    RESERVE = "Reserve"
    PAY = "Pay"
    SHIP = "Ship"
    RETURN = "Return"


@dataclass
class OrderState:
    """The number of the order."""

    order: int = 0


class OrderProcess(BaseProcessManager):
    """Goes along `path`; a completed step in `undo` is undone by the one that it names."""

    process_type = "Order"
    domain = "orders"
    state_class = OrderState
    step_class = Step
    path: ClassVar[tuple[Step, ...]] = (Step.RESERVE, Step.PAY, Step.SHIP)
    undo: ClassVar[dict[Step, Step]] = {Step.RESERVE: Step.RETURN}

    def get_first_step(self, state: Any) -> Step:
        """Return the first one of the path."""
        return self.path[0]

    def build_command(self, step: Step, state: Any) -> ProcessCommand:
        """Send the number."""
        return ProcessCommand(step, {"order": state.order})

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: Any) -> Step | None:
        """Return the next one of the path."""
        return dict(zip(self.path, self.path[1:], strict=False)).get(current_step)

    def get_compensation_step(self, step: Step) -> Step | None:
        """Return what undoes it."""
        return self.undo.get(step)
