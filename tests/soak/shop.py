"""The application of the campaign, and a worker process of it. Handlers end as the command's data say.

Every run of a handler is written to a file first: what happened outside of the database, which no crash of it undoes.
"""

import asyncio
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus import (
    App,
    BusinessRuleError,
    Command,
    HandlerContext,
    Middleware,
    PermanentCommandError,
    RetryPolicy,
    TransientCommandError,
    Worker,
)
from commandbus.errors import PoolTooSmallError
from commandbus.process import BaseProcessManager, ProcessCommand
from tests.soak.hostile import odd_end

DOMAIN = "campaign"
PLAIN, ODD = "Plain", "Odd"
ANSWERS = "campaign.answers"
LEASE = 2.5  # seconds; real ones, as all of the campaign's time
AWAY = 3  # exit code of a worker that found no server: it is started again
CONCURRENCY = 40

EFFECT: LiteralString = "INSERT INTO public.effect (command_id, epoch) VALUES (%s, %s)"
PREPARED: LiteralString = "INSERT INTO public.prepared (command_id) SELECT unnest(%s::uuid[])"

app = App(retry_policy=RetryPolicy(max_attempts=4, backoff_schedule=[0.05, 0.2]), name="campaign")


class Step(StrEnum):
    RESERVE = "Reserve"
    PAY = "Pay"
    SHIP = "Ship"
    RETURN = "Return"
    REFUND = "Refund"


PATH = (Step.RESERVE, Step.PAY, Step.SHIP)


@dataclass
class OrderState:
    ends: dict[str, str] = field(default_factory=dict)  # how a step's command ends; the others end well
    expect: str = "COMPLETED"


class OrderProcess(BaseProcessManager):
    """Reserves, pays and ships; the first two can be undone."""

    process_type = "Order"
    domain = DOMAIN
    state_class = OrderState
    step_class = Step

    def get_first_step(self, state: OrderState) -> str:
        return Step.RESERVE

    def build_command(self, step: Step, state: OrderState) -> ProcessCommand:
        return ProcessCommand(str(step), {"end": state.ends.get(str(step), "ok")})

    def get_next_step(self, current_step: Step, response: Any, state: OrderState) -> str | None:
        return {Step.RESERVE: Step.PAY, Step.PAY: Step.SHIP}.get(Step(current_step))

    def get_compensation_step(self, step: Step) -> str | None:
        return {Step.RESERVE: Step.RETURN, Step.PAY: Step.REFUND}.get(Step(step))


class HookedOrderProcess(OrderProcess):
    """The same, with a hook that writes a row beside each command, in the transaction of its sending."""

    process_type = "HookedOrder"

    async def before_send_commands(self, items: Sequence[Any], conn: Any) -> None:
        await conn.execute(PREPARED, ([item.command_id for item in items],))


app.add_process(OrderProcess)
app.add_process(HookedOrderProcess)


class Account(Middleware):
    """The file in which handlers that run are written down."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        """Write one down, which is done whoever is killed then."""
        os.write(self._file, f"{context.command.command_id} {context.epoch}\n".encode())
        return await call_next()


async def handle(command: Command, context: HandlerContext) -> Any:
    """End as the data say."""
    end = command.data["end"]
    if end == "slow":
        await asyncio.sleep(command.data["seconds"])
    elif end == "busy" and context.attempt <= command.data["times"]:
        raise TransientCommandError("BUSY", "come again")
    elif end == "never":
        raise TransientCommandError("NEVER", "come again")
    elif end == "broken":
        raise PermanentCommandError("BROKEN", "out of order")
    elif end == "refused":
        raise BusinessRuleError("REFUSED", "the business says no")
    elif end == "effect":
        async with context.transaction() as conn:
            await conn.execute(EFFECT, (command.command_id, context.epoch))
            await context.complete({"in": "transaction"})
    elif end == "odd":
        return odd_end(random.Random(command.data["seed"]))
    return {"done": True}


for command_type in (PLAIN, ODD, *Step):
    app.registry.add(DOMAIN, command_type, handle)


def work(dsn: str, path: str, parent: Connection) -> None:
    """Be a worker process, until SIGTERM, or until the process that holds the other end of `parent` is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    for name in ("commandbus", "psycopg", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(_work(dsn, Account(path))))


def _end_with(parent: Connection) -> None:
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


async def _work(dsn: str, account: Account) -> int:
    try:
        async with AsyncConnectionPool(dsn, min_size=2, max_size=8, timeout=20, reconnect_timeout=60) as pool:
            worker = Worker(
                pool,
                domain=DOMAIN,
                handler_registry=app.registry,
                processes=app.processes(pool),
                concurrency=CONCURRENCY,
                visibility_timeout=LEASE,
                retry_policy=app.retry_policy,
                poll_interval=0.25,
                batch_size=100,
                middleware=[account],
            )
            stopping: list[asyncio.Task[None]] = []
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: stopping.append(loop.create_task(worker.stop())))
            await worker.run()
            await asyncio.gather(*stopping)
    except (psycopg.OperationalError, PoolTimeout, PoolTooSmallError):
        return AWAY
    return 0
