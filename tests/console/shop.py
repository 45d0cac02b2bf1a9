"""A shop whose orders can fail: what the tests of the console's pages look at.

The bus is filled by real workers: `played` runs one for each domain until nothing is left to do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from commandbus import (
    App,
    BatchCommand,
    BusinessRuleError,
    CommandBus,
    PermanentCommandError,
    RetryPolicy,
    TransientCommandError,
    Worker,
)
from commandbus.process import ProcessCommand, ProcessRepository
from tests import order_process
from tests.order_process import Step

PATIENCE = 60.0
Pool = AsyncConnectionPool[Any]
_Done = TypeVar("_Done")


@dataclass
class OrderState(order_process.OrderState):
    trouble: str = ""


class OrderProcess(order_process.OrderProcess):
    """`trouble` is what the payment meets."""

    state_class = OrderState

    def build_command(self, step: Step, state: OrderState) -> ProcessCommand:
        return ProcessCommand(step, {"order": state.order, "trouble": state.trouble})


def make_shop() -> App:
    """The application: orders, and mail."""
    app = App(name="shop", retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))

    @app.handler("orders", "Reserve")
    @app.handler("orders", "Ship")
    @app.handler("orders", "Return")
    async def work(command: Any, context: Any) -> dict[str, Any]:
        return {"done": command.command_type}

    @app.handler("orders", "Pay")
    @app.handler("mail", "SendMail")
    async def pay(command: Any, context: Any) -> dict[str, Any]:
        match command.data.get("trouble"):
            case "transient":
                raise TransientCommandError("BANK_TIMEOUT", "the bank did not answer within 5 s")
            case "once" if context.attempt == 1:
                raise TransientCommandError("BANK_TIMEOUT", "the bank did not answer within 5 s")
            case "permanent":
                raise PermanentCommandError("CARD_EXPIRED", "the card expired in 04/2026", {"card": "…4711"})
            case "refused":
                raise BusinessRuleError("NO_CREDIT", "the customer has no credit")
            case "crash":
                raise RuntimeError("an unexpected state of the cart")
        return {"receipt": f"R-{command.data.get('order', 0)}"}

    app.add_process(OrderProcess)
    return app


@dataclass
class Played:
    """What was sent, by its trouble: commands of the batch, and processes of theirs."""

    command_batch: UUID
    process_batch: UUID
    commands: dict[str, UUID] = field(default_factory=dict)
    processes: dict[str, UUID] = field(default_factory=dict)


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Pool]:
    async with AsyncConnectionPool(dsn, min_size=1, max_size=8, open=False) as pool:
        yield pool


async def fill(
    app: App, pool: Pool, troubles: Iterable[str] = ("", "once", "transient", "permanent", "refused")
) -> Played:
    """Send one command and one process of each trouble, and work until they have ended or are parked."""
    troubles = list(troubles)
    bus, (manager,) = CommandBus(pool), app.processes(pool)
    commands = {trouble: uuid7() for trouble in troubles}
    mails = [BatchCommand("SendMail", command_id, {"trouble": trouble}) for trouble, command_id in commands.items()]
    command_batch = await bus.create_batch("mail", mails, name="Newsletter", custom_data={"month": "2026-05"})
    process_batch = await bus.create_process_batch("orders", len(troubles), name="Orders of May")
    await manager.start_many([{"order": n, "trouble": t} for n, t in enumerate(troubles)], process_batch)
    await work(app, pool)
    started = await ProcessRepository(pool).of_batch(process_batch)
    processes = {process.state["trouble"]: process.process_id for process in started}
    return Played(command_batch, process_batch, commands, processes)


async def work(app: App, pool: Pool) -> None:
    """Run a worker of each domain, one after the other, until nothing is due in it."""
    for domain in sorted(app.domains(pool)):
        worker = Worker(
            pool,
            domain=domain,
            handler_registry=app.registry,
            processes=app.processes(pool),
            retry_policy=app.retry_policy,
        )
        running = asyncio.create_task(worker.run())
        try:
            await _until_quiet(pool, domain, running)
        finally:
            await worker.stop()
            await running


async def _until_quiet(pool: Pool, domain: str, running: asyncio.Task[None]) -> None:
    deadline = monotonic() + PATIENCE
    statement = """
        SELECT NOT EXISTS (SELECT FROM commandbus.queue WHERE domain = %(domain)s)
           AND NOT EXISTS (SELECT FROM commandbus.scheduled WHERE domain = %(domain)s)"""
    while True:
        if running.done():
            running.result()
        async with pool.connection() as conn:
            row = await (await conn.execute(statement, {"domain": domain})).fetchone()
        if row == (True,):
            return
        assert monotonic() < deadline, f"domain {domain} has not come to rest"
        await asyncio.sleep(0.02)


def in_thread(dsn: str, do: Callable[[Pool], Awaitable[_Done]]) -> _Done:
    """Do something with a pool, in a thread of its own: the one of a browser's test has its event loop already."""

    async def run() -> _Done:
        async with opened(dsn) as pool:
            return await do(pool)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, run()).result()
