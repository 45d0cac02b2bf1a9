"""A shop's own code: it knows the bus, and nothing of tests or chaos."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from commandbus import App, Command, HandlerContext, RetryPolicy
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse

app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[10, 60, 300]))


class OrderStep(StrEnum):
    """What is done for an order, in this order."""

    RESERVE_STOCK = "ReserveStock"
    CHARGE_CARD = "ChargeCard"
    SHIP_PARCEL = "ShipParcel"


@dataclass
class OrderState:
    """What the process remembers between its steps."""

    order: int
    cents: int = 0


class OrderProcess(BaseProcessManager):
    """Reserve, charge, ship."""

    process_type = "Order"
    domain = "shop"
    state_class = OrderState
    step_class = OrderStep

    def create_initial_state(self, initial_data: dict[str, Any]) -> OrderState:
        return OrderState(order=initial_data["order"])

    def get_first_step(self, state: OrderState) -> OrderStep:
        return OrderStep.RESERVE_STOCK

    def build_command(self, step: OrderStep, state: OrderState) -> ProcessCommand:
        return ProcessCommand(command_type=step.value, data={"order": state.order, "cents": state.cents})

    def update_state(self, state: OrderState, step: OrderStep, response: ProcessResponse) -> None:
        if step is OrderStep.RESERVE_STOCK:
            state.cents = (response.result or {}).get("cents", 0)

    def get_next_step(self, current_step: OrderStep, response: ProcessResponse, state: OrderState) -> OrderStep | None:
        steps = list(OrderStep)
        following = steps.index(current_step) + 1
        return steps[following] if following < len(steps) else None


@app.handler("shop", "ReserveStock")
async def reserve_stock(command: Command, context: HandlerContext) -> dict[str, Any]:
    """Reserve, and say what it costs."""
    return {"cents": 100 + command.data["order"]}


@app.handler("shop", "ChargeCard")
def charge_card(command: Command, context: HandlerContext) -> dict[str, Any]:
    """Charge in blocking code, as many libraries for payments do."""
    return {"charged": command.data["cents"]}


@app.handler("shop", "ShipParcel")
async def ship_parcel(command: Command, context: HandlerContext) -> dict[str, Any]:
    """Ship."""
    return {"parcel": f"P{command.data['order']:06}"}


app.add_process(OrderProcess)
