"""What tests of the blocking bus share: an application, its worker in the background, and a database of their own."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus import App, Command, HandlerContext, PermanentCommandError, RetryPolicy, Worker
from commandbus._core.connection import Connection
from commandbus.auditor import Violation, audit
from commandbus.process import BeforeSend, ProcessResponse
from commandbus.sync import Portal, SyncCommandBus
from tests import order_process
from tests.integration.worker_kit import PATIENCE, running
from tests.order_process import Step

_Found = TypeVar("_Found")

ONE = {"domain": "orders", "command_type": "Ship"}
TABLE = "CREATE TABLE public.orders (n integer PRIMARY KEY)"


@dataclass
class OrderState(order_process.OrderState):
    parcel: str = ""


class OrderProcess(order_process.OrderProcess):
    state_class = OrderState
    path = (Step.RESERVE, Step.SHIP)
    undo: ClassVar[dict[Step, Step]] = {}

    def update_state(self, state: OrderState, step: Step, response: ProcessResponse) -> None:
        state.parcel = (response.result or {}).get("parcel", state.parcel)


class HookedProcess(OrderProcess):
    """Notes in the transaction what it sends, by more than one statement, and fails those above 100."""

    process_type = "Hooked"

    async def before_send_commands(self, items: Any, conn: Connection) -> None:
        async with conn.cursor() as cursor:
            for item in items:
                await self._note(item, cursor)

    async def _note(self, item: BeforeSend, cursor: Any) -> None:
        await cursor.execute("INSERT INTO public.orders VALUES (%s) RETURNING n", (item.payload["order"],))
        row = await cursor.fetchone()
        if row[0] > 100:
            raise ValueError("too large an order")


def make_app() -> App:
    """An application whose Ship parks every order that is divisible by 13."""
    app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))

    @app.handler("orders", "Reserve")
    def reserve(command: Command, context: HandlerContext) -> dict[str, Any]:
        return {}

    @app.handler("orders", "Ship")
    def ship(command: Command, context: HandlerContext) -> dict[str, Any]:
        if command.data["order"] % 13 == 0:
            raise PermanentCommandError("BROKEN_BELT", "the belt is broken")
        return {"parcel": f"P{command.data['order']}"}

    app.add_process(OrderProcess)
    app.add_process(HookedProcess)
    return app


@contextmanager
def working(dsn: str, app: App) -> Iterator[None]:
    """Run a worker for the app's orders while the block runs."""
    with Portal() as portal:
        pool = portal.call(AsyncConnectionPool, dsn, min_size=1, max_size=10, open=False)
        with portal.enter(pool):
            worker = portal.call(
                Worker,
                pool,
                domain="orders",
                handler_registry=app.registry,
                processes=app.processes(pool),
                retry_policy=app.retry_policy,
            )
            with portal.enter(running(worker)):
                yield


def until(look: Callable[[], _Found | None], what: str) -> _Found:
    """Poll until `look` finds something."""
    deadline = monotonic() + PATIENCE
    while not (found := look()):
        assert monotonic() < deadline, f"waited in vain for {what}"
        sleep(0.01)
    return found


def count(dsn: str, table: str) -> int:
    """How many rows a table has, for anyone."""
    query = {
        "command": "SELECT count(*) FROM commandbus.command",
        "process": "SELECT count(*) FROM commandbus.process",
        "queue": "SELECT count(*) FROM commandbus.queue",
        "event": "SELECT count(*) FROM commandbus.event",
        "orders": "SELECT count(*) FROM public.orders",
    }[table]
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query).fetchone()  # type: ignore[call-overload]
    return 0 if row is None else int(row[0])


@contextmanager
def audited(dsn: str) -> Iterator[str]:
    """Give a database a table of the application's; the auditor looks at it afterwards."""
    with psycopg.connect(dsn) as conn:
        conn.execute(TABLE)
    yield dsn

    async def look() -> list[Violation]:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            return await audit(conn)

    assert asyncio.run(look()) == []


def send(bus: SyncCommandBus, order: int = 1, **options: Any) -> UUID:
    """Send a command of one kind; return its id."""
    return bus.send(**ONE, command_id=uuid4(), data={"order": order}, **options)
