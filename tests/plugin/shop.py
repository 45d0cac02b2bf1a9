"""A small application on the bus that knows nothing of chaos: an order is reserved, paid and shipped."""

import asyncio
import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from commandbus import App, BusinessRuleError, PermanentCommandError, RetryPolicy, TransientCommandError
from commandbus.process import BaseProcessManager, ProcessCommand

app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[10, 60, 300]), name="shop")


class Step(StrEnum):
    RESERVE = "ReserveStock"
    PAY = "TakePayment"
    SHIP = "ShipParcel"
    RETURN = "ReturnStock"


@dataclass
class OrderState:
    order: int = 0
    slow: float = 0.0
    until: str = ""  # a file that ends the wait of its first step


class OrderProcess(BaseProcessManager):
    process_type = "Order"
    domain = "orders"
    state_class = OrderState
    step_class = Step

    def get_first_step(self, state: OrderState) -> str:
        return Step.RESERVE

    def build_command(self, step: str, state: OrderState) -> ProcessCommand:
        return ProcessCommand(str(step), {"order": state.order, "slow": state.slow, "until": state.until})

    def get_next_step(self, current_step: str, response: Any, state: OrderState) -> str | None:
        return {Step.RESERVE: Step.PAY, Step.PAY: Step.SHIP}.get(Step(current_step))

    def get_compensation_step(self, step: str) -> str | None:
        return Step.RETURN if step == Step.RESERVE else None


class StrangerProcess(OrderProcess):
    """A process that the App does not have."""

    process_type = "Stranger"


app.add_process(OrderProcess)


@app.handler("orders", "ReserveStock")
async def reserve(command: Any, context: Any) -> dict[str, Any]:
    await asyncio.sleep(command.data["slow"])
    while (until := command.data.get("until")) and not Path(until).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return {"reserved": command.data["order"]}


@app.handler("orders", "TakePayment")
async def pay(command: Any, context: Any) -> dict[str, Any]:
    return {"paid": command.data["order"]}


@app.handler("orders", "ShipParcel")
async def ship(command: Any, context: Any) -> None:
    return None


@app.handler("orders", "ReturnStock")
async def give_back(command: Any, context: Any) -> None:
    return None


@app.handler("mail", "SendMail")
async def send_mail(command: Any, context: Any) -> dict[str, Any]:
    to = command.data.get("to")
    if to == "nobody":
        raise PermanentCommandError("NO_SUCH_ADDRESS", f"no mail for {to}")
    if to == "blocked":
        raise BusinessRuleError("BLOCKED", "wants no mail")
    if to == "busy" and context.attempt == 1:
        raise TransientCommandError("BUSY", "the line is busy")
    if to == "crash":
        print("the mail server is on fire", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sent": to}


# the same shop, which tries once more: then the third wait of its schedule is due, too
persistent = App(retry_policy=RetryPolicy(max_attempts=4, backoff_schedule=[10, 60, 300]), name="persistent shop")
persistent.add_process(OrderProcess)
for registered in app.registry:
    persistent.registry.add(registered.domain, registered.command_type, registered.function)
