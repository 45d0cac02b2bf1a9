"""What is done for an order, and what undoes it. It only decides; the handlers do."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse

DOMAIN = "orders"


class Step(StrEnum):
    RESERVE_STOCK = "ReserveStock"
    CHARGE_CARD = "ChargeCard"
    SHIP_PARCEL = "ShipParcel"
    REFUND_CARD = "RefundCard"
    RELEASE_STOCK = "ReleaseStock"


NEXT = {Step.RESERVE_STOCK: Step.CHARGE_CARD, Step.CHARGE_CARD: Step.SHIP_PARCEL}
UNDO = {Step.RESERVE_STOCK: Step.RELEASE_STOCK, Step.CHARGE_CARD: Step.REFUND_CARD}


@dataclass
class Order:
    """One order: so many pieces of one article, paid by one card. `parcel` is known once it is shipped."""

    order_id: int
    sku: str
    quantity: int
    cents: int
    card: str
    country: str = "AT"
    parcel: str = ""


class OrderProcess(BaseProcessManager):
    """Reserve, charge, ship. What can hardly be taken back comes last."""

    process_type = "Order"
    domain = DOMAIN
    state_class = Order
    step_class = Step

    def get_first_step(self, state: Order) -> Step:
        return Step.RESERVE_STOCK

    def build_command(self, step: Step, state: Order) -> ProcessCommand:
        # an undo must not give up as soon as the rest
        return ProcessCommand(step, asdict(state), max_attempts=10 if step in UNDO.values() else None)

    def update_state(self, state: Order, step: Step, response: ProcessResponse) -> None:
        if step is Step.SHIP_PARCEL:
            state.parcel = (response.result or {})["parcel"]

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: Order) -> Step | None:
        return NEXT.get(current_step)

    def get_compensation_step(self, step: Step) -> Step | None:
        return UNDO.get(step)
