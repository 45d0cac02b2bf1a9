"""The shop's application: what its workers do. Start one with `commandbus worker shop:app`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from commandbus import App, BusinessRuleError, Command, HandlerContext, PermanentCommandError
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse

app = App(name="shop")
LIMIT = 1_000_000  # cents that a card is good for


class Step(StrEnum):
    CHARGE = "ChargeCard"
    SHIP = "ShipParcel"
    REFUND = "RefundCard"  # undoes CHARGE


@dataclass
class Order:
    order_id: int
    customer: str
    cents: int


class OrderProcess(BaseProcessManager):
    """Charges the card, then ships."""

    process_type = "Order"
    domain = "shop"
    state_class = Order
    step_class = Step

    def create_initial_state(self, initial_data: dict[str, Any]) -> Order:
        if unknown := initial_data.keys() - {"order_id", "customer", "cents"}:
            raise ValueError(f"an order has no {', '.join(sorted(unknown))}")
        return Order(**initial_data)

    def get_first_step(self, state: Order) -> Step:
        return Step.CHARGE

    def build_command(self, step: Step, state: Order) -> ProcessCommand:
        return ProcessCommand(step, {"order_id": state.order_id, "customer": state.customer, "cents": state.cents})

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: Order) -> Step | None:
        return Step.SHIP if current_step is Step.CHARGE else None

    def get_compensation_step(self, step: Step) -> Step | None:
        return Step.REFUND if step is Step.CHARGE else None


app.add_process(OrderProcess)


@app.handler("shop", "ChargeCard")
def charge(command: Command, context: HandlerContext) -> dict[str, Any]:
    """A plain function: it runs in a thread of the worker."""
    if command.data["cents"] > LIMIT:
        raise BusinessRuleError("CARD_REFUSED", "the card is not good for so much")
    return {"charged": command.data["cents"]}


@app.handler("shop", "ShipParcel")
def ship(command: Command, context: HandlerContext) -> None:
    """Writes the parcel's number once, whatever happens: the write and the completion commit together."""
    if not command.data["customer"] and context.total_failures == 0:
        raise PermanentCommandError("NO_ADDRESS", "a parcel needs a name")
    with context.sync.transaction() as conn:
        parcel = f"P{command.data['order_id']:06}"
        conn.execute("UPDATE orders SET parcel = %s WHERE order_id = %s", (parcel, command.data["order_id"]))
        context.sync.complete({"parcel": parcel})


@app.handler("shop", "RefundCard")
def refund(command: Command, context: HandlerContext) -> None:
    """Nothing to give back in an example."""


@app.handler("shop", "PrintReceipt")
def print_receipt(command: Command, context: HandlerContext) -> dict[str, Any]:
    return {"receipt": f"Dear {command.data['to']}, thank you."}
